"""Half precision: a sum of thousands of terms is as good as its last rounding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses
from fnn._core.precision import wide_dtype
from fnn.lab.check import moved_place
from tests.layers.test_laws import widen
from tests.tolerance import rounding

N = 4096
halves = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])

# Layers, and shapes of x that make one of their sums N terms long.
LAYERS = {
    "dense-of-many-inputs": (fnn.dense(2), (2, N)),
    "dense-of-many-examples": (fnn.dense(2), (N, 2)),
    "layer_norm": (fnn.layer_norm(), (2, N)),
    "layer_norm-of-many-examples": (fnn.layer_norm(), (N, 4)),
    "rms_norm": (fnn.rms_norm(), (2, N)),
    "group_norm": (fnn.group_norm(2), (2, N // 2, 4)),
    "instance_norm": (fnn.instance_norm(), (2, 64, 64, 2)),
    "batch_norm": (fnn.batch_norm(), (N, 2)),
    "batch_norm-images": (fnn.batch_norm(), (4, 32, 32, 2)),
    "softmax": (fnn.softmax(), (2, N)),
    "log_softmax": (fnn.log_softmax(), (2, N)),
    "prelu": (fnn.prelu(), (N, 2)),
    "swiglu": (fnn.swiglu(2), (2, N)),
    "geglu-of-many-examples": (fnn.geglu(2), (N, 2)),
    "positional-of-many-examples": (fnn.positional("learned", 2), (N, 2, 2)),
    "attention": (fnn.attention(1, bias=False, block=N), (1, N // 4, 2)),
    "attention-blocks": (fnn.attention(1, bias=False, causal=True), (1, N // 4, 2)),
    "conv": (fnn.conv(2, 3), (4, 32, 32, 2)),
    "conv-of-many-channels": (fnn.conv(2, 1), (2, 3, N)),
    "depthwise_conv": (fnn.depthwise_conv(3), (4, 32, 32, 2)),
    "conv_transpose": (fnn.conv_transpose(2, 2, stride=2, padding="VALID"), (4, 32, 32, 2)),
    "average_pool": (fnn.average_pool(64), (2, 64, 64, 2)),
    "global_average_pool": (fnn.global_average_pool(), (2, 64, 64, 2)),
    "adaptive_average_pool": (fnn.adaptive_average_pool(1), (2, N, 2)),
    "rnn-of-many-inputs": (fnn.rnn(2, activation="relu"), (2, 2, N)),
    "rnn-of-many-steps": (fnn.rnn(2), (1, N, 2)),
    "lstm-of-many-examples": (fnn.lstm(2), (N, 2, 2)),
    "gru-of-many-examples": (fnn.gru(2), (N, 2, 2)),
}
random = np.random.default_rng(7)
NUMBERS = random.normal(size=(2, N)) + 3
SHARES = random.dirichlet(np.full(N, 1000.0), size=2)
LOSSES = {
    "squared_error": (losses.squared_error(), NUMBERS),
    "absolute_error": (losses.absolute_error(), NUMBERS),
    "huber": (losses.huber(), NUMBERS),
    "logistic": (losses.logistic(), np.sign(NUMBERS - 3).astype("int32")),
    "hinge": (losses.hinge(), np.sign(NUMBERS - 3).astype("int32")),
    "binary_cross_entropy": (losses.binary_cross_entropy(), np.abs(SHARES)),
    "nll": (losses.nll(), SHARES),
    "cross_entropy": (losses.cross_entropy(), np.array([5, 7])),
    "cross_entropy-smooth": (losses.cross_entropy(0.5), SHARES),
}


def assert_precise(one, other, dtype, terms=1):
    """Equal but for the rounding of a few operations, every array on its own scale."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == dtype
        left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(left - right).max() <= rounding(dtype, terms) * np.abs(right).max()


def positive(key, shape, dtype):
    """Numbers of one sign, whose sum grows from term to term."""
    return jnp.abs(jax.random.normal(jax.random.key(key), shape, "float32")).astype(dtype)


def there_and_back(layer, place, x):
    y, state, residuals = layer.forward(*place, x, train=True)
    # Rounded to what all dtypes hold, and but once.
    dy = positive(1, y.shape, "bfloat16").astype(y.dtype)
    return y, state, layer.backward(place[0], residuals, dy)


def assert_layer_precise(layer, shape, dtype):
    x = positive(3, shape, dtype)
    place = jax.jit(lambda x: moved_place(layer, x, jax.random.key(5)))(x)
    half = jax.jit(lambda *a: there_and_back(layer, *a))(place, x)
    with jax.enable_x64(True):
        wide = jax.jit(lambda *a: there_and_back(layer, *a))(widen(place), widen(x))
    (y, state, grads), (wide_y, wide_state, wide_grads) = half, wide
    assert_precise((y, grads), (wide_y, wide_grads), dtype)
    # Running state is kept as wide as it was summed, and not rounded to half precision.
    assert_precise(state, wide_state, wide_dtype(dtype), N)


@halves
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_long_sums_of_layers_are_those_of_float64_but_for_the_last_rounding(layer, shape, dtype):
    assert_layer_precise(layer, shape, dtype)


@halves
@pytest.mark.parametrize(("loss", "target"), LOSSES.values(), ids=LOSSES)
def test_long_sums_of_losses_are_those_of_float64_but_for_the_last_rounding(loss, target, dtype):
    y = positive(3, (2, N), dtype)
    if np.issubdtype(target.dtype, np.floating):
        target = jnp.asarray(target, dtype)
    dvalues = jnp.array([0.5, 2.0], dtype)

    @jax.jit
    def both(y, target, dvalues):
        values, residuals = loss.forward(y, target)
        return values, loss.backward(residuals, dvalues)

    half = both(y, target, dvalues)
    with jax.enable_x64(True):
        wide = both(widen(y), widen(target), widen(dvalues))
    # Values too are as wide as their sums.
    assert_precise(half[0], wide[0], wide_dtype(dtype), N)
    assert_precise(half[1], wide[1], dtype)


def sum_in_float32(x):
    wide = "float64" if x.dtype == "float64" else "float32"
    return x.sum(-1, keepdims=True, dtype=wide).astype(x.dtype)


def sum_in_half(x):
    """Sum along the last axis, and round after every term."""
    if x.dtype == "float64":
        return x.sum(-1, keepdims=True)
    zero, terms = jnp.zeros(x.shape[:-1], x.dtype), jnp.moveaxis(x, -1, 0)
    return jax.lax.scan(lambda total, a: (total + a, None), zero, terms)[0][..., None]


def centered_by(total):
    return fnn.from_function(lambda x: x - total(x) / x.shape[-1], lambda x, dy: dy)


def softmax_by(total):
    def softmax(x):
        e = jnp.exp(x - x.max(-1, keepdims=True))
        return e / total(e)

    return fnn.from_function(softmax, lambda x, dy: dy)


@halves
@pytest.mark.parametrize("make", [centered_by, softmax_by])
def test_a_sum_kept_in_half_precision_is_seen(make, dtype):
    assert_layer_precise(make(sum_in_float32), (2, N), dtype)
    with pytest.raises(AssertionError):
        assert_layer_precise(make(sum_in_half), (2, N), dtype)


@pytest.mark.parametrize("make", [fnn.layer_norm, fnn.rms_norm, fnn.instance_norm, fnn.batch_norm])
def test_float16_numbers_whose_squares_overflow_are_normalized(make):
    shape = (4, 8, 3)
    x = 1000 * jax.random.normal(jax.random.key(3), shape, "float16")
    assert not np.isfinite(np.asarray(x * x)).all()
    layer = make()
    y, _ = layer.apply(*layer.init(jax.random.key(0), x), x, train=True)
    with jax.enable_x64(True):
        place = layer.init(jax.random.key(0), widen(x))
        wide, _ = layer.apply(*place, widen(x), train=True)
    assert_precise(y, wide, "float16")
