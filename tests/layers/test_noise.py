"""Layers of noise: their statistics."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fnn
from tests.cases.noise import DEVIATION, RATE
from tests.core.test_errors import Applied, Bad, assert_complains, ones, parametrize


def test_dropout_drops_its_rate_and_keeps_the_mean():
    # k = 5 standard errors: a false alarm once in 1.7 million seeds, and the seed is fixed.
    n = 40_000
    y, _ = fnn.dropout(RATE).apply((), (), jnp.ones(n), key=jax.random.key(5), train=True)
    error = 5 * (RATE * (1 - RATE) / n) ** 0.5
    assert abs(float((y == 0).mean()) - RATE) < error
    assert abs(float(y.mean()) - 1) < error / (1 - RATE)


def test_dropout_drops_every_element_by_itself():
    # Two elements share a random word: no pair of columns may go together. k = 5 standard errors
    # of a correlation, of 28 pairs.
    n, columns = 20_000, 8
    kept = fnn.dropout(RATE).apply(
        (), (), jnp.ones((n, columns)), key=jax.random.key(5), train=True
    )[0]
    correlations = np.corrcoef(np.asarray(kept != 0).T)
    assert abs(correlations - np.eye(columns)).max() < 5 / n**0.5


def test_spatial_dropout_drops_whole_channels_at_its_rate():
    # k = 5 standard errors, as above; the channels are what is counted.
    examples, channels = 200, 200
    x = jnp.ones((examples, 2, 3, channels))
    layer = fnn.spatial_dropout(RATE)
    y, _, residuals = layer.forward((), (), x, key=jax.random.key(5), train=True)
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1, :1], y.shape))
    error = 5 * (RATE * (1 - RATE) / (examples * channels)) ** 0.5
    assert abs(float((y == 0).mean()) - RATE) < error
    assert abs(float(y.mean()) - 1) < error / (1 - RATE)
    assert [(r.shape, r.dtype) for r in jax.tree.leaves(residuals)] == [((200, 1, 1, 200), bool)]


def test_gaussian_noise_has_mean_zero_and_its_deviation():
    # The variance of the mean is d^2 / n, that of the variance 2 d^4 / n.
    n = 40_000
    noise = fnn.gaussian_noise(DEVIATION).apply(
        (), (), jnp.zeros(n), key=jax.random.key(5), train=True
    )[0]
    assert abs(float(noise.mean())) < 5 * DEVIATION / n**0.5
    assert abs(float(noise.var()) - DEVIATION**2) < 5 * DEVIATION**2 * (2 / n) ** 0.5


NOISY = {
    "dropout": fnn.dropout(RATE),
    "spatial_dropout": fnn.spatial_dropout(RATE),
    "gaussian_noise": fnn.gaussian_noise(DEVIATION),
}
noisy = pytest.mark.parametrize("layer", NOISY.values(), ids=NOISY)


@noisy
def test_a_key_gives_the_same_noise_in_every_dtype(layer):
    def run(dtype):
        y, _ = layer.apply((), (), jnp.ones((4, 2, 5), dtype), key=jax.random.key(5), train=True)
        return np.asarray(y, np.float64)

    with jax.enable_x64(True):
        for dtype in ("float32", "bfloat16"):
            np.testing.assert_allclose(run(dtype), run("float64"), rtol=0.02, atol=0)


@noisy
def test_out_of_training_noise_is_nothing_and_needs_no_key(layer):
    x = jax.random.normal(jax.random.key(3), (4, 5))
    y, _, residuals = layer.forward((), (), x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(layer.backward((), residuals, 2 * x)[1], 2 * x)
    assert not jax.tree.leaves(residuals)


@pytest.mark.parametrize("make", [fnn.dropout, fnn.spatial_dropout, fnn.gaussian_noise])
def test_noise_of_strength_0_is_nothing_in_training_too(make):
    x = jax.random.normal(jax.random.key(3), (4, 5))
    np.testing.assert_array_equal(make(0.0).apply((), (), x, train=True)[0], x)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    rate=st.floats(0, 0.9),
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=4),
)
def test_spatial_dropout_has_the_gradient_of_autodiff_at_any_shape(rate, shape):
    layer = fnn.spatial_dropout(rate)
    fnn.check_layer(layer, np.random.default_rng(3).normal(size=shape), numeric=False)


@pytest.mark.parametrize("make", [fnn.dropout, fnn.spatial_dropout])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_kept_in_half_precision_is_scaled_by_the_rate_and_rounded_once(make, dtype):
    x = jnp.linspace(1, 2, 128, dtype="float32").astype(dtype).reshape(2, 64)
    # The share 0.7 rounded to bfloat16 would be 0.699: all that is kept would be too large.
    y, _, residuals = make(RATE).forward((), (), x, key=jax.random.key(5), train=True)
    _, dx = make(RATE).backward((), residuals, x)
    steps = 2**16
    wanted = (x.astype("float32") / (round((1 - RATE) * steps) / steps)).astype(dtype)
    assert 0 < int((y != 0).sum()) < y.size
    np.testing.assert_array_equal(y, jnp.where(y != 0, wanted, 0))
    np.testing.assert_array_equal(dx, y)


DEVICES = """
import jax, jax.numpy as jnp, numpy as np, fnn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

batch = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), PartitionSpec("d"))
key, x = jax.random.key(0), jax.device_put(jnp.ones((8, 64)), batch)

def program(function):
    return jax.jit(function, out_shardings=batch).lower(x).compile().as_text()

def flat(x):
    words = jax.random.bits(key, (x.size // 2,), jnp.uint32)
    kept = jnp.concatenate([words >> 16, words % 65536]).reshape(x.shape) < 40000
    return jnp.where(kept, x, 0)

for layer in fnn.dropout(0.2), fnn.spatial_dropout(0.2), fnn.gaussian_noise(0.2):
    text = program(lambda x: layer.apply((), (), x, key=key, train=True)[0])
    assert "all-gather(" not in text, layer
assert "all-gather(" in program(flat)
print(len(jax.devices()))
"""


def test_no_device_gathers_the_noise_of_the_others():
    """Of a batch that is spread over devices; a mask drawn along one axis of all is gathered."""
    flags = "--xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", DEVICES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4"]


rate = r"a rate in \[0, 1\)"
deviation = "std of 0 or more"


@parametrize(
    [
        Bad("rate-1", lambda: fnn.spatial_dropout(1.0), "spatial_dropout", rate, r"1\.0"),
        Bad("rate-negative", lambda: fnn.spatial_dropout(-0.1), "spatial_dropout", rate, r"-0\.1"),
        Bad("rate-nan", lambda: fnn.spatial_dropout(np.nan), "spatial_dropout", rate, "nan"),
        Bad("negative", lambda: fnn.gaussian_noise(-0.1), "gaussian_noise", deviation, r"-0\.1"),
        Bad("infinite", lambda: fnn.gaussian_noise(np.inf), "gaussian_noise", deviation, "inf"),
        Bad("nan", lambda: fnn.gaussian_noise(np.nan), "gaussian_noise", deviation, "nan"),
    ]
)
def test_noise_refuses_options(bad):
    assert_complains(bad, bad.call)


@pytest.mark.parametrize("name", NOISY)
def test_noise_refuses_training_without_a_key_and_integers(name):
    call = Applied(NOISY[name], train=True)
    missing = Bad("no-key", call, name, "a key in training", "None")
    assert_complains(missing, missing.call, ones(2, 5))
    integers = Bad("integers", call, name, "x of a floating dtype", r"uint8 of shape \(2, 5\)")
    assert_complains(integers, integers.call, ones(2, 5, dtype="uint8"))


def test_spatial_dropout_refuses_an_array_without_a_batch():
    call = Applied(fnn.spatial_dropout(RATE), train=True)
    bad = Bad("axes", call, "spatial_dropout", r"x of shape \(B, \.\.\., C\)", r"\(5,\)")
    assert_complains(bad, bad.call, ones(5))
