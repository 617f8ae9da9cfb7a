"""Noise against its formula and its statistics, and what holds for optimizers of all kinds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from fnn import optim
from fnn.optim import schedule
from tests.tolerance import rounding

BETA1, BETA2, EPSILON = 0.7, 0.95, 1e-3
LR, MOMENTUM, DECAY, LIMIT, ETA, GAMMA, STEPS = 0.07, 0.8, 0.05, 2.5, 0.3, 0.4, 10
KEY = jax.random.key(11)
# Chance moves an estimate by more than K standard errors once in 1.7 million comparisons.
K = 5
DRAWS = 100_000


class OptimizerCase(NamedTuple):
    """An optimizer to be made afresh, its docstring in numpy, and the same thing from optax.

    `formula` maps step, gradient, parameters and memory (None at first), all flat, to update and
    memory. `precision` is the dtype in which the optimizer computes its hyper-parameter.
    """

    name: str
    make: Callable[[], Any]
    formula: Callable[[int, Any, Any, Any], tuple[Any, Any]]
    optax: Callable[[], Any] | None = None
    precision: str = "float64"


def descend(momentum=0.0, nesterov=False, rate=lambda t: LR):
    def update(t, g, p, v):
        v = g + (0 if v is None else momentum * v)
        return -rate(t) * (g + momentum * v if nesterov else v), v

    return update


def clip(t, g, p, memory):
    return g * min(1, LIMIT / np.sqrt((g**2).sum())), None


def annealed(t, g, p, memory):
    """Standard noise from the same key, scaled by the docstring's deviation."""
    standard = optim.gradient_noise(1.0, 0.0, key=KEY)
    zeros = jax.tree.map(jnp.zeros_like, tree(0))
    n, _ = standard.update(zeros, standard.init(zeros)._replace(step=jnp.int32(t)), zeros)
    return g + np.sqrt(ETA / (1 + t) ** GAMMA) * flat(n), None


def one_after_the_other(*formulas):
    def update(t, g, p, memory):
        states = []
        for formula, state in zip(formulas, memory or [None] * len(formulas), strict=True):
            g, state = formula(t, g, p, state)
            states.append(state)
        return g, states

    return update


OPTIMIZERS = [
    OptimizerCase(
        "gradient_noise",
        lambda: optim.gradient_noise(ETA, GAMMA, key=KEY),
        annealed,
        precision="float32",
    ),
    OptimizerCase(
        "chain-with-noise",
        lambda: optim.chain(
            optim.clip_by_global_norm(LIMIT),
            optim.gradient_noise(ETA, GAMMA, key=KEY),
            optim.sgd(LR),
        ),
        one_after_the_other(clip, annealed, descend()),
        precision="float32",
    ),
]
all_optimizers = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)
# Optimizers of one hyper-parameter, and a value for it.
HYPERS = {
    "gradient_noise": (functools.partial(optim.gradient_noise, decay_power=GAMMA, key=KEY), ETA),
}
all_hypers = pytest.mark.parametrize("name", HYPERS)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def tree(seed, dtype="float64"):
    random = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape), dtype)

    return {"a": draw(3, 2), "b": (draw(4), draw())}


def flat(values):
    return np.asarray(ravel_pytree(values)[0], np.float64)


def run(optimizer, dtype="float64", steps=STEPS):
    """Update parameters by given gradients; return the updates of every step, flat, and the end."""
    params = tree(0, dtype)
    state, updates = optimizer.init(params), []
    for t in range(steps):
        update, state = optimizer.update(tree(t + 1, dtype), state, params)
        params = jax.tree.map(jnp.add, params, update)
        updates.append(flat(update))
    return np.stack(updates), params, state


def assert_close(one, other, dtype):
    """Equal within the rounding of ten steps on eleven numbers, relative to the largest."""
    bound = rounding(dtype, 11 * STEPS) * np.abs(other).max()
    np.testing.assert_allclose(one, other, rtol=0, atol=bound)


def coarser(dtype, precision):
    return "float32" if "float32" in (dtype, precision) else dtype


def specs(values):
    return jax.tree.map(lambda a: (a.shape, a.dtype), values)


@all_optimizers
def test_ten_steps_in_float64_are_those_of_the_formula(case):
    with jax.enable_x64(True):
        updates, _, _ = run(case.make())
        p, memory, expected = flat(tree(0)), None, []
        for t in range(STEPS):
            update, memory = case.formula(t, flat(tree(t + 1)), p, memory)
            p = p + update
            expected.append(update)
    assert_close(updates, np.stack(expected), case.precision)


def test_the_gradients_of_these_tests_are_clipped_at_some_steps_and_not_at_others():
    with jax.enable_x64(True):
        norms = [np.linalg.norm(flat(tree(t + 1))) for t in range(STEPS)]
    assert min(norms) < LIMIT < max(norms)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@all_optimizers
def test_updates_look_like_gradients_and_the_state_keeps_its_looks(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        optimizer, params = case.make(), tree(0, dtype)
        before = optimizer.init(params)
        updates, after = optimizer.update(tree(1, dtype), before, params)
        assert specs(updates) == specs(params)
        assert specs(after) == specs(before)


def scanned(optimizer, dtype):
    """What `run` does, as a scan; the updates are still arrays of JAX."""
    gradients = jax.tree.map(lambda *a: jnp.stack(a), *(tree(t + 1, dtype) for t in range(STEPS)))

    def step(carry, g):
        params, state = carry
        update, state = optimizer.update(g, state, params)
        return (jax.tree.map(jnp.add, params, update), state), ravel_pytree(update)[0]

    start = tree(0, dtype)
    (params, state), updates = jax.lax.scan(step, (start, optimizer.init(start)), gradients)
    return updates, params, state


@all_optimizers
def test_jit_and_scan_take_the_same_ten_steps(case, dtype):
    updates, params, state = jax.jit(lambda: scanned(case.make(), dtype))()
    expected, end, end_state = run(case.make(), dtype)
    assert_close(updates, expected, coarser(dtype, case.precision))
    assert_close(flat(params), flat(end), coarser(dtype, case.precision))
    assert specs(state) == specs(end_state)


@all_optimizers
def test_an_equal_optimizer_and_a_later_step_need_no_second_compilation(case):
    params = tree(0, "float32")
    update = jax.jit(lambda optimizer, g, s, p: optimizer.update(g, s, p), static_argnums=0)
    state = case.make().init(params)
    for _ in range(3):
        _, state = update(case.make(), params, state, params)
    assert update._cache_size() == 1


@all_hypers
def test_numbers_schedules_and_traced_values_give_the_same_steps(name, dtype):
    make, value = HYPERS[name]
    expected = run(make(value), dtype)[0]
    traced = jax.jit(lambda v: scanned(make(v), dtype)[0])
    for same in (
        run(make(schedule.constant(value)), dtype)[0],
        run(make(lambda step: value), dtype)[0],
        run(make(jnp.asarray(value, dtype)), dtype)[0],
        traced(jnp.asarray(value, dtype)),
    ):
        assert_close(same, expected, "float32" if name == "gradient_noise" else dtype)


@all_hypers
def test_vmap_maps_over_hyper_parameters(name, dtype):
    make, value = HYPERS[name]
    values = [value / 2, value, 3 * value]
    mapped = jax.vmap(lambda v: scanned(make(v), dtype)[0])(jnp.asarray(values, dtype))
    for row, v in zip(np.asarray(mapped), values, strict=True):
        assert_close(row, run(make(v), dtype)[0], "float32" if name == "gradient_noise" else dtype)


def test_noisy_descent_on_a_quadratic_settles_at_the_predicted_mean_and_variance():
    # p' = (1 - lr) p - lr n settles at mean 0, variance lr^2 eta / (1 - (1 - lr)^2); within K
    # standard errors of DRAWS independent parameters.
    optimizer = optim.chain(optim.gradient_noise(ETA, 0.0, key=KEY), optim.sgd(LR))
    start = jnp.ones(DRAWS)

    def step(_, carry):
        p, state = carry
        update, state = optimizer.update(p, state, p)
        return p + update, state

    p = np.asarray(jax.lax.fori_loop(0, 300, step, (start, optimizer.init(start)))[0], np.float64)
    variance = LR**2 * ETA / (1 - (1 - LR) ** 2)
    assert abs(p.mean()) <= K * np.sqrt(variance / DRAWS)
    assert abs(p.var() - variance) <= K * variance * np.sqrt(2 / DRAWS)


def noise(t=0, key=KEY, eta=ETA, gamma=GAMMA, dtype="float32"):
    optimizer, zeros = optim.gradient_noise(eta, gamma, key=key), jnp.zeros(DRAWS, dtype)
    zeros = {"a": zeros, "b": zeros}
    drawn, _ = optimizer.update(zeros, optimizer.init(zeros)._replace(step=jnp.int32(t)), zeros)
    return jax.tree.map(lambda a: np.asarray(a, np.float64), drawn)


@pytest.mark.parametrize("t", [0, 1, 9, 999])
def test_noise_is_gaussian_with_mean_0_and_the_annealed_variance(t, dtype):
    n, variance = noise(t, dtype=dtype)["a"], ETA / (1 + t) ** GAMMA
    assert abs(n.mean()) <= K * np.sqrt(variance / DRAWS)
    assert abs(n.var() - variance) <= K * variance * np.sqrt(2 / DRAWS)
    fourth = (n**4).mean() / variance**2
    assert abs(fourth - 3) <= K * np.sqrt(96 / DRAWS)  # Var(n^4) = 105 - 9


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: noise()["a"], lambda: noise()["b"]),
        (lambda: noise(4)["a"], lambda: noise(5)["a"]),
        (lambda: noise(4)["a"], lambda: noise(5)["b"]),
        (lambda: noise(key=jax.random.key(0))["a"], lambda: noise(key=jax.random.key(1))["a"]),
        (lambda: noise(1, jax.random.key(0))["a"], lambda: noise(0, jax.random.key(1))["a"]),
    ],
    ids=["leaves", "steps", "steps-and-leaves", "adjacent-keys", "adjacent-keys-and-steps"],
)
def test_noise_is_uncorrelated_between(one, other):
    correlation = np.corrcoef(one(), other())[0, 1]
    assert abs(correlation) <= K / np.sqrt(DRAWS)


def test_the_same_key_gives_the_same_bits_and_another_key_others():
    np.testing.assert_array_equal(noise(3)["a"], noise(3)["a"])
    assert (noise(3)["a"] != noise(3, jax.random.key(12))["a"]).any()


def test_making_and_using_noise_leaves_the_callers_key_usable():
    key = jax.random.key(3)
    optimizer = optim.gradient_noise(ETA, key=key)
    state = optimizer.init(())
    jax.jit(lambda s: jax.tree.map(lambda a: a, s), donate_argnums=0)(state)
    assert jax.random.key_data(key).tolist() == [0, 3]


def test_noise_of_eta_0_changes_no_bit(dtype):
    plain, noisy = (
        run(optimizer, dtype)[0]
        for optimizer in (
            optim.sgd(LR, MOMENTUM),
            optim.chain(optim.gradient_noise(0.0, GAMMA, key=KEY), optim.sgd(LR, MOMENTUM)),
        )
    )
    np.testing.assert_array_equal(noisy, plain)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (lambda noise, sgd: (noise, sgd), lambda g, n: -LR * (g + n)),
        (lambda noise, sgd: (sgd, noise), lambda g, n: -LR * g + n),
    ],
    ids=["noise-first-is-scaled", "noise-last-is-not"],
)
def test_chain_applies_its_optimizers_from_left_to_right(order, expected):
    with jax.enable_x64(True):
        optimizer = optim.chain(*order(optim.gradient_noise(ETA, GAMMA, key=KEY), optim.sgd(LR)))
        g, zeros = tree(1), jax.tree.map(jnp.zeros_like, tree(1))
        alone = optim.gradient_noise(ETA, GAMMA, key=KEY)
        n = flat(alone.update(zeros, alone.init(zeros), zeros)[0])
        update = flat(optimizer.update(g, optimizer.init(g), g)[0])
        assert_close(update, expected(flat(g), n), "float64")


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: optim.chain(optax.clip_by_global_norm(LIMIT), optim.sgd(LR, MOMENTUM)),
        lambda: optim.chain(optim.clip_by_global_norm(LIMIT), optax.sgd(LR, MOMENTUM)),
        lambda: optax.chain(optim.clip_by_global_norm(LIMIT), optax.sgd(LR, MOMENTUM)),
        lambda: optax.chain(optax.clip_by_global_norm(LIMIT), optim.sgd(LR, MOMENTUM)),
    ],
    ids=["optax-first-in-fnn", "optax-last-in-fnn", "fnn-first-in-optax", "fnn-last-in-optax"],
)
def test_optimizers_of_fnn_and_optax_mix(mixed, dtype):
    own = optim.chain(optim.clip_by_global_norm(LIMIT), optim.sgd(LR, MOMENTUM))
    assert_close(run(mixed(), dtype)[0], run(own, dtype)[0], dtype)


def test_fit_trains_with_an_optimizer_of_optax():
    x = jnp.linspace(-1, 1, 8)[:, None]
    data, optimizer = (x, 2 * x + 1), optim.chain(optax.scale_by_adam(), optim.sgd(0.1))
    with jax.numpy_dtype_promotion("standard"):  # adam promotes its step count
        _, history = fnn.fit(
            fnn.dense(1),
            fnn.losses.squared_error(),
            optimizer,
            data,
            epochs=100,
            batch_size=8,
            key=KEY,
        )
    assert history.loss[-1] < history.loss[0] / 100


def test_clipping_leaves_a_zero_gradient_zero_and_a_short_one_as_it_is(dtype):
    optimizer = optim.clip_by_global_norm(LIMIT)
    short = {"a": jnp.asarray([0.0, 0.1, -0.2], dtype), "b": jnp.asarray(0.3, dtype)}
    for gradient in (jax.tree.map(jnp.zeros_like, short), short):
        update, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
        np.testing.assert_array_equal(flat(update), flat(gradient))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_the_global_norm_is_that_of_all_numbers_in_float32_or_better(dtype):
    with jax.enable_x64(dtype == "float64"):
        values = tree(2, dtype)
        norm = optim.global_norm(values)
        wide = "float64" if dtype == "float64" else "float32"
        assert norm.dtype == wide
        assert abs(float(norm) - np.linalg.norm(flat(values))) <= rounding(wide, 11) * float(norm)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_the_momentum_of_half_precision_is_kept_in_single(half):
    """Ten steps of a gradient that half precision could not add to its sum, within one rounding."""
    optimizer, params = optim.sgd(1.0, momentum=0.999), jnp.ones(3, half)
    state, expected = optimizer.init(params), 0.0
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.velocity)} == {"float32"}
    for gradient in [1.0] + 9 * [2.0**-13]:
        updates, state = optimizer.update(jnp.full(3, gradient, half), state, params)
        expected = 0.999 * expected + gradient
    assert updates.dtype.name == half
    np.testing.assert_allclose(state.velocity, expected, rtol=rounding("float32", 10))
