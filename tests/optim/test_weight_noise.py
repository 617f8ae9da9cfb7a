"""Noise in the weights before the gradient: where it is taken, and that it moves nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses, optim
from fnn.optim.noise._base import noise as noise_of
from tests.core.test_errors import Bad, assert_complains
from tests.tolerance import rounding

KEY = jax.random.key(11)
RATE, SCALE = 0.1, 0.3


def cubic(p):
    return sum((a**3).sum() / 3 for a in jax.tree.leaves(p))


def gradient_at(p):
    value, slope = jax.value_and_grad(cubic)(p)
    return (value, ()), slope


@pytest.mark.parametrize("distribution", ["gaussian", "uniform", "sphere"])
def test_the_gradient_is_that_at_the_place_nearby_and_the_parameters_move_from_theirs(distribution):
    optimizer = optim.chain(
        optim.weight_noise(SCALE, distribution=distribution, key=KEY), optim.sgd(RATE)
    )
    p = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
    state, source = (
        optimizer.init(p),
        noise_of("", SCALE, KEY, distribution, "counter", "weight_noise"),
    )
    noise_state = source.init(p)
    for _ in range(3):
        n = source.draw(noise_state, p)
        noise_state = noise_state.following()
        nearby = jax.tree.unflatten(
            jax.tree.structure(p), [a + b for a, b in zip(jax.tree.leaves(p), n, strict=True)]
        )
        (value, _), updates, state = optim.take_step(optimizer, gradient_at, p, state)
        np.testing.assert_allclose(value, cubic(nearby), rtol=rounding("float32", 3))
        jax.tree.map(
            lambda u, q: np.testing.assert_allclose(u, -RATE * q**2, rtol=rounding("float32", 3)),
            updates, nearby,
        )  # fmt: skip
        p = jax.tree.map(jnp.add, p, updates)


def test_the_gradient_is_smoothed_on_average():
    # E (p + n)^2 = p^2 + scale^2, within K = 5 standard errors of sqrt(4 p^2 s^2 + 2 s^4): once in
    # 1.7 million seeds, and the seed is fixed.
    count, p = 100_000, jnp.float32(0.7)
    optimizer = optim.weight_noise(SCALE, key=KEY)
    many = jnp.full(count, p)
    slope = np.asarray(
        optim.take_step(optimizer, gradient_at, many, optimizer.init(many))[1], np.float64
    )
    error = (4 * p**2 * SCALE**2 + 2 * SCALE**4) ** 0.5 / count**0.5
    assert abs(slope.mean() - (p**2 + SCALE**2)) <= 5 * error


def trained(optimizer, gradient="manual"):
    x = jnp.linspace(-1, 1, 16)[:, None]
    model = fnn.serial(fnn.dense(4), fnn.tanh(), fnn.dense(1))
    return fnn.fit(
        model, losses.squared_error(), optimizer, (x, 2 * x + 1), epochs=30, batch_size=8, key=KEY,
        gradient=gradient,
    )  # fmt: skip


def test_without_noise_it_is_the_plain_one_to_the_bit_and_with_it_training_repeats_and_learns():
    plain, _ = trained(optim.sgd(RATE))
    none, _ = trained(optim.chain(optim.weight_noise(0.0, key=KEY), optim.sgd(RATE)))
    jax.tree.map(np.testing.assert_array_equal, plain.params, none.params)
    noisy = optim.chain(optim.weight_noise({"*/weight": 0.05}, key=KEY), optim.sgd(RATE))
    (one, history), (two, _) = trained(noisy), trained(noisy)
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    assert history.loss[-8:].mean() < history.loss[:8].mean() / 2


def test_weight_noise_refuses():
    where, params = "optim.weight_noise", {"weight": jnp.zeros(2)}

    def by_path():
        optim.weight_noise({"*/scale": 0.1}, key=KEY).init(params)

    def bare():
        optimizer = optim.weight_noise(0.1, key=KEY)
        optimizer.update(params, optimizer.init(params), params)

    for bad in (
        Bad("", lambda: optim.weight_noise(-1.0, key=KEY), where, "std of 0 or more", r"-1\.0"),
        Bad("", lambda: optim.weight_noise(1.0, key=None), where, "a key", "None"),
        Bad("", by_path, where, "a pattern that matches a parameter", r"'\*/scale'"),
        Bad("", bare, where, "to be handed the gradient as a function", ".+"),
    ):
        assert_complains(bad, bad.call)
