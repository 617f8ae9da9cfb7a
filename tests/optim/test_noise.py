"""Optimizers with noise: each against its formula, its noise against the distribution asked for.

Order and zero are pinned.

Chance moves an estimate by more than K standard errors once in 1.7 million comparisons; the seeds
are fixed, and the file makes some two hundred comparisons.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from fnn import optim
from fnn.optim import schedule
from fnn.optim.noise._base import noise as noise_of, separate
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.tolerance import rounding
from tests.xla import AS_USERS

K, DRAWS, STEPS = 5, 100_000, 6
KEY = jax.random.key(11)
RATE, N, T, SCALE, FRICTION, DECAY, EPSILON = 0.07, 3.0, 0.6, 0.4, 0.3, 0.8, 1e-2


class NoiseCase(NamedTuple):
    """An optimizer of a key and a strength, its docstring in numpy, and where its noise can be had.

    `formula` maps step, gradient, noise and memory (None at first), all flat, to update and memory;
    `n(t)` is the standard noise of a step. `plain` is the same optimizer without noise.
    """

    name: str
    make: Callable[..., Any]
    strength: float
    formula: Callable[..., tuple[Any, Any]]
    plain: Callable[[], Any] | None
    distribution: str = "gaussian"


def identity():
    return optim.Optimizer(lambda params: (), lambda grads, state, params: (grads, state))


def annealed(t, g, n, memory):
    return g + math.sqrt(SCALE / (1 + t) ** 0.4) * n(t), None


def on_sphere(t, g, n, memory):
    return g + SCALE * n(t), None


def back_again(t, g, n, memory):
    return g + SCALE * (n(t + 1) - n(t)), None


def langevin(t, g, n, memory):
    return -RATE * N * g + math.sqrt(2 * RATE * T) * n(t), None


def preconditioned(t, g, n, v):
    v = DECAY * (0 if v is None else v) + (1 - DECAY) * g**2
    step = 1 / (EPSILON + np.sqrt(v))
    return -RATE * step * N * g + np.sqrt(2 * RATE * T * step) * n(t), v


def hamiltonian(t, g, n, v):
    v = (1 - FRICTION) * (0 if v is None else v) - RATE * N * g
    v = v + math.sqrt(2 * FRICTION * RATE * T) * n(t)
    return v, v


def split(t, g, n, v):
    v = (0 if v is None else v) - RATE * N * g / (2 if t == 0 else 1)
    c = math.exp(-FRICTION * RATE)
    w = c * v + math.sqrt(T * (1 - c**2)) * n(t)
    return RATE / 2 * (v + w), w


CASES = [
    NoiseCase(
        "gradient_noise",
        lambda s=SCALE, key=KEY, **o: optim.gradient_noise(s, 0.4, key=key, **o),
        SCALE, annealed, identity,
    ),
    NoiseCase(
        "sphere_noise",
        lambda s=SCALE, key=KEY, **o: optim.sphere_noise(s, key=key, **o),
        SCALE, on_sphere, identity, "sphere",
    ),
    NoiseCase(
        "anticorrelated_noise",
        lambda s=SCALE, key=KEY, **o: optim.anticorrelated_noise(s, key=key, **o),
        SCALE, back_again, identity,
    ),
    NoiseCase(
        "sgld",
        lambda s=T, key=KEY, **o: optim.sgld(RATE, N, s, key=key, **o),
        T, langevin, lambda: optim.sgd(RATE * N),
    ),
    NoiseCase(
        "psgld",
        lambda s=T, key=KEY, **o: optim.psgld(RATE, N, s, DECAY, epsilon=EPSILON, key=key, **o),
        T, preconditioned, None,
    ),
    NoiseCase(
        "sghmc",
        lambda s=T, key=KEY, **o: optim.sghmc(RATE, N, s, FRICTION, key=key, **o),
        T, hamiltonian, None,
    ),
    NoiseCase(
        "baoab",
        lambda s=T, key=KEY, **o: optim.baoab(RATE, N, s, FRICTION, key=key, **o),
        T, split, None,
    ),
]  # fmt: skip
all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def tree(seed, dtype="float64"):
    random = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape), dtype)

    return {"a": draw(3, 2), "b": (draw(4), draw())}


def flat(values):
    return np.asarray(ravel_pytree(values)[0], np.float64)


def run(optimizer, dtype="float64", steps=STEPS, state=None, first=0):
    """Update by given gradients; return the updates of every step, flat, and the last state."""
    # As users do: which products and sums are one instruction is part of the last bit.
    params, take = tree(0, dtype), jax.jit(optimizer.update, compiler_options=AS_USERS)
    state, updates = optimizer.init(params) if state is None else state, []
    for t in range(first, first + steps):
        update, state = take(tree(t + 1, dtype), state, params)
        updates.append(flat(update))
    return np.stack(updates), state


def assert_close(one, other, dtype="float32"):
    bound = rounding(dtype, 11 * STEPS) * np.abs(other).max()
    np.testing.assert_allclose(one, other, rtol=0, atol=bound)


@all_cases
def test_steps_in_float64_are_those_of_the_formula(case):
    with jax.enable_x64(True):
        source = noise_of("", 1.0, KEY, case.distribution, "counter", case.name)
        start = source.init(tree(0))

        def standard(t):
            state = start._replace(step=jnp.int32(t))
            return np.concatenate([flat(n) for n in source.draw(state, tree(0))])

        memory, expected = None, []
        for t in range(STEPS):
            update, memory = case.formula(t, flat(tree(t + 1)), standard, memory)
            expected.append(update)
        # The strength meets the noise in float32; what is exact is exact without it.
        assert_close(run(case.make())[0], np.stack(expected))


@all_cases
def test_without_noise_a_step_is_the_plain_one_to_the_bit(case):
    for dtype in ("float32", "bfloat16"):
        updates, _ = run(case.make(0.0), dtype)
        if case.plain is not None:
            np.testing.assert_array_equal(updates, run(case.plain(), dtype)[0])
        # A schedule that is 0 throughout adds zeros.
        np.testing.assert_array_equal(
            run(case.make(lambda step: jnp.float32(0)), dtype)[0], updates
        )


def specs(values):
    return jax.tree.map(lambda a: (a.shape, a.dtype), values)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@all_cases
def test_updates_look_like_gradients_and_the_state_keeps_its_looks(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        optimizer, params = case.make(), tree(0, dtype)
        before = optimizer.init(params)
        updates, after = optimizer.update(tree(1, dtype), before, params)
        assert specs(updates) == specs(params)
        assert specs(after) == specs(before)


def scanned(optimizer, dtype="float32", steps=STEPS):
    gradients = jax.tree.map(lambda *a: jnp.stack(a), *(tree(t + 1, dtype) for t in range(steps)))

    def step(state, g):
        update, state = optimizer.update(g, state, tree(0, dtype))
        return state, ravel_pytree(update)[0]

    return jax.lax.scan(step, optimizer.init(tree(0, dtype)), gradients)[1]


@all_cases
def test_jit_scan_and_vmap_over_strengths_and_keys_give_the_same_noise(case):
    keys, strengths = jax.random.split(KEY, 2), jnp.array([case.strength, 2 * case.strength])
    mapped = jax.jit(jax.vmap(lambda s, key: scanned(case.make(s, key))))(strengths, keys)
    for row, s, key in zip(mapped, strengths, keys, strict=True):
        assert_close(row, run(case.make(float(s), key), "float32")[0])
        assert_close(row, run(case.make(schedule.constant(float(s)), key), "float32")[0])
    assert np.abs(mapped[0] - mapped[1]).min() > 0


@all_cases
def test_an_equal_optimizer_needs_no_second_compilation(case):
    params = tree(0, "float32")
    update = jax.jit(lambda optimizer, g, s, p: optimizer.update(g, s, p), static_argnums=0)
    state = case.make().init(params)
    for _ in range(2):
        _, state = update(case.make(), params, state, params)
    assert update._cache_size() == 1


@all_cases
def test_noise_is_resumed_from_a_saved_state_to_the_bit(case):
    optimizer = case.make()
    whole, _ = run(optimizer, "float32")
    first, state = run(optimizer, "float32", 2)
    key, *rest = jax.tree.leaves(state)
    saved = [np.asarray(jax.random.key_data(key)), *map(np.asarray, rest)]
    loaded = [jax.random.wrap_key_data(saved[0]), *map(jnp.asarray, saved[1:])]
    state = jax.tree.unflatten(jax.tree.structure(state), loaded)
    rest, _ = run(case.make(), "float32", STEPS - 2, state, first=2)
    np.testing.assert_array_equal(np.concatenate([first, rest]), whole)


def kicks(case, t=0, key=KEY, **options):
    """The update of a step for a zero gradient: two leaves of noise and nothing else."""
    optimizer, zeros = case.make(key=key, **options), {"a": jnp.zeros(DRAWS), "b": jnp.zeros(DRAWS)}
    state = optimizer.init(zeros)
    for _ in range(t + 1):
        updates, state = optimizer.update(zeros, state, zeros)
    return {name: np.asarray(a, np.float64) for name, a in updates.items()}


def first_variance(case):
    return {
        "gradient_noise": SCALE,
        "sphere_noise": SCALE**2 / (2 * DRAWS),
        "anticorrelated_noise": 2 * SCALE**2,
        "sgld": 2 * RATE * T,
        "psgld": 2 * RATE * T / EPSILON,
        "sghmc": 2 * FRICTION * RATE * T,
        "baoab": (RATE / 2) ** 2 * T * (1 - math.exp(-2 * FRICTION * RATE)),
    }[case.name]


@pytest.mark.parametrize("generator", ["counter", "threefry"])
@all_cases
def test_noise_has_mean_0_its_variance_and_its_kurtosis(case, generator):
    n, variance = kicks(case, generator=generator)["a"], first_variance(case)
    assert abs(n.mean()) <= K * math.sqrt(variance / DRAWS)
    assert abs(n.var() / variance - 1) <= K * math.sqrt(2 / DRAWS)
    assert abs((n**4).mean() / variance**2 - 3) <= K * math.sqrt(96 / DRAWS)


@all_cases
def test_noise_is_uncorrelated_between_leaves_steps_and_adjacent_keys(case):
    zero, one = jax.random.key(0), jax.random.key(1)
    noises = {
        (t, seed, leaf): n
        for t in (0, 2)
        for seed, key in enumerate((zero, one))
        for leaf, n in kicks(case, t, key).items()
    }
    names = list(noises)
    r = np.corrcoef([noises[name] for name in names])
    for i, j in zip(*np.triu_indices(len(names), 1), strict=True):
        remembers = case.name in ("sghmc", "baoab") and names[i][1:] == names[j][1:]
        assert remembers or abs(r[i, j]) <= K / math.sqrt(DRAWS), (names[i], names[j])


DISTRIBUTIONS = ["gaussian", "uniform", "rademacher", "laplace", "student"]


def assert_uncorrelated(noises):
    """Neither the numbers nor their sizes go together; `noises` (n, DRAWS)."""
    for rows in (noises, np.abs(noises)):
        # Sizes that do not vary, as those of signs, go with nothing.
        rows = rows[rows.std(1) > 1e-6]
        r = np.atleast_2d(np.corrcoef(rows))
        assert np.abs(r - np.eye(len(r))).max(initial=0) <= K / math.sqrt(DRAWS)


@pytest.mark.parametrize("generator", ["counter", "threefry"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_neighboring_leaves_share_no_word(distribution, generator):
    # A number of Student's takes two words: of neighbors the last one and the first, were the
    # leaves counted one by one.
    zeros = [jnp.zeros(DRAWS)] * 3
    optimizer = optim.gradient_noise(
        1.0, 0.0, distribution=distribution, generator=generator, key=KEY
    )
    assert_uncorrelated(np.stack(optimizer.update(zeros, optimizer.init(zeros), zeros)[0]))


def around(name, key=KEY):
    """Every noise of a key, and of its first step the numbers on a leaf of zeros."""
    zeros = jnp.zeros(DRAWS)
    if name == "weight_noise":
        optimizer = optim.weight_noise(SCALE, key=key)
        taken = optim.take_step(optimizer, lambda p: ((0.0, ()), p), zeros, optimizer.init(zeros))
        return np.asarray(taken[1], np.float64)
    optimizer = optim.perturbed(identity(), SCALE, key=key)
    return np.asarray(optimizer.update(zeros, optimizer.init(zeros), zeros)[0], np.float64)


def test_noises_of_different_kinds_and_of_one_key_have_nothing_in_common():
    # One scale and one leaf of one shape: but for their kinds these would draw the same words.
    noises = [kicks(case)["a"] for case in CASES]
    noises += [around(name) for name in ("weight_noise", "perturbed")]
    assert len({case.name for case in CASES}) + 2 == len(noises)
    assert_uncorrelated(np.stack(noises))


def test_places_in_the_state_of_an_optimizer_separate_noises_of_one_kind_and_key():
    zeros, one = jnp.zeros(DRAWS), optim.gradient_noise(1.0, 0.0, key=KEY)
    states = separate((one.init(zeros), {"inside": (one.init(zeros), one.init(zeros))}))
    flat_states = [states[0], *states[1]["inside"]]
    noises = [one.update(zeros, state, zeros)[0] for state in flat_states]
    assert_uncorrelated(np.stack(noises))
    # The first keeps its stream: it is that of the noise alone.
    np.testing.assert_array_equal(noises[0], one.update(zeros, one.init(zeros), zeros)[0])


def test_perturbations_inside_of_perturbations_are_pushes_of_their_own():
    params = jnp.zeros(DRAWS)
    inner = optim.perturbed(identity(), 1.0, key=KEY)
    both = optim.perturbed(inner, 1.0, key=KEY)
    pushes = [
        np.asarray(o.update(params, o.init(params), params)[0], np.float64) for o in (inner, both)
    ]
    # The outer push is what the two have in common with one alone, the inner one is new.
    assert abs(np.corrcoef(*pushes)[0, 1] - math.sqrt(0.5)) < K / math.sqrt(DRAWS)


def test_the_same_kind_and_key_in_two_optimizers_is_the_same_noise():
    for case in CASES:
        np.testing.assert_array_equal(kicks(case)["a"], kicks(copy.copy(case))["a"])


@pytest.mark.parametrize("distribution", ["sphere", "ball"])
def test_numbers_that_are_all_zero_have_no_direction_and_stay_finite(distribution):
    norm = optim.distributions.distribution_of(distribution).norm
    nothing = optim.distributions.Distribution(
        1, lambda word: jnp.zeros(word.shape, "float32"), norm
    )
    optimizer, params = optim.gradient_noise(1.0, distribution=nothing, key=KEY), jnp.ones(())
    assert float(optimizer.update(params, optimizer.init(params), params)[0]) == 1


def test_preconditioned_dynamics_survive_a_gradient_whose_square_is_infinite():
    # v_t = 0.5^t 1e40 then: the root of it, and the step, by hand.
    optimizer = optim.psgld(1.0, 1, 0.0, 0.5, epsilon=1e-3, key=KEY)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    for t, g in enumerate((1e20, 1.0, 1.0)):
        update, state = optimizer.update(jnp.full(2, g), state, params)
        root = math.sqrt(0.5 ** (t + 1) * 1e40)
        np.testing.assert_allclose(state.memory, root, rtol=rounding("float32", 10))
        np.testing.assert_allclose(update, -g / (1e-3 + root), rtol=rounding("float32", 10))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_push_finds_small_gradients_by_their_norm_and_not_by_its_square(dtype):
    # The norm of 400 entries is 20 times one of them; its square is out of the range of the dtype.
    for entry, threshold, pushed in ((1e-5, 1e-3, True), (1e-3, 1e-3, False), (3e4, 5e5, False)):
        optimizer = optim.perturbed(identity(), 1.0, threshold, key=KEY)
        params = jnp.full(400, entry, dtype)
        update, _ = optimizer.update(params, optimizer.init(params), params)
        assert bool((update != params).any()) == pushed
    if dtype == "float32":
        for entry, threshold in ((1e-30, 1e-29), (1e30, 1e31)):
            optimizer = optim.perturbed(identity(), 10 * entry, threshold, key=KEY)
            params = jnp.full(400, entry)
            update, _ = optimizer.update(params, optimizer.init(params), params)
            np.testing.assert_array_equal(update, params)


@pytest.mark.parametrize("distribution", ["uniform", "rademacher", "laplace", "student"])
def test_the_distribution_is_the_one_asked_for(distribution):
    zeros = jnp.zeros(1000)
    for case in (CASES[0], CASES[2]):
        optimizer = case.make(distribution=distribution)
        n = optimizer.update(zeros, optimizer.init(zeros), zeros)[0]
        source = noise_of("", SCALE, KEY, distribution, "counter", case.name)
        state = source.init(zeros)
        if case.name == "gradient_noise":
            expected = source.draw(state, zeros)[0] / SCALE**0.5
        else:
            expected = source.draw(state.following(), zeros)[0] - source.draw(state, zeros)[0]
        assert_close(n, np.asarray(expected))


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (lambda noise, sgd: (noise, sgd), lambda g, n: -RATE * (g + n)),
        (lambda noise, sgd: (sgd, noise), lambda g, n: -RATE * g + n),
    ],
    ids=["noise-first-is-scaled", "noise-last-is-not"],
)
@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)
def test_the_learning_rate_scales_the_noise_before_it_and_not_after(case, order, expected):
    with jax.enable_x64(True):
        optimizer = optim.chain(*order(case.make(), optim.sgd(RATE)))
        g, zeros = tree(1), jax.tree.map(jnp.zeros_like, tree(1))
        n = flat(case.make().update(zeros, case.make().init(zeros), zeros)[0])
        update = flat(optimizer.update(g, optimizer.init(g), g)[0])
        assert_close(update, expected(flat(g), n), "float64")


def test_scales_by_path_reach_the_first_match_and_leave_the_rest_alone():
    params = {"in": {"weight": jnp.zeros(DRAWS), "bias": jnp.zeros(DRAWS)}, "out": jnp.zeros(4)}
    scale = {"*/bias": 0.5, "in/*": schedule.constant(2.0)}
    optimizer = optim.gradient_noise(scale, 0.0, key=KEY)
    noise, _ = optimizer.update(params, optimizer.init(params), params)
    bound = K * math.sqrt(2 / DRAWS)
    assert abs(float(noise["in"]["bias"].var()) / 0.5 - 1) <= bound
    assert abs(float(noise["in"]["weight"].var()) / 2 - 1) <= bound
    np.testing.assert_array_equal(noise["out"], 0)
    # The others stay what they are when one more leaf is left out.
    fewer = optim.gradient_noise({"*/bias": 0.5}, 0.0, key=KEY)
    again, _ = fewer.update(params, fewer.init(params), params)
    np.testing.assert_array_equal(again["in"]["bias"], noise["in"]["bias"])
    np.testing.assert_array_equal(again["in"]["weight"], 0)


def test_anticorrelated_steps_have_correlation_minus_a_half_and_a_bounded_sum():
    case = next(c for c in CASES if c.name == "anticorrelated_noise")
    steps = [kicks(case, t)["a"] for t in range(4)]
    # The estimate's variance for neighbors of a moving average of order 1: Bartlett's formula.
    for lag, expected in ((1, -0.5), (2, 0.0), (3, 0.0)):
        r = np.corrcoef(steps[0], steps[lag])[0, 1]
        assert abs(r - expected) <= K / math.sqrt(DRAWS)
    optimizer, zeros = case.make(), jnp.zeros(DRAWS)

    def body(carry, _):
        state, total = carry
        update, state = optimizer.update(zeros, state, zeros)
        return (state, total + update), (total + update).var()

    variances = jax.lax.scan(body, (optimizer.init(zeros), zeros), length=100)[1]
    assert np.abs(variances[jnp.array([0, 9, 99])] / (2 * SCALE**2) - 1).max() <= K * math.sqrt(
        2 / DRAWS
    )


def test_the_sphere_is_hit_at_its_radius_and_evenly():
    # Directions of 3 numbers in two leaves: each square has mean 1/3 and variance 4/45.
    count = 4000
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}

    @jax.vmap
    def draw(key):
        optimizer = optim.sphere_noise(SCALE, key=key)
        return ravel_pytree(optimizer.update(params, optimizer.init(params), params)[0])[0]

    n = np.asarray(jax.jit(draw)(jax.random.split(KEY, count)), np.float64) / SCALE
    np.testing.assert_allclose((n**2).sum(1), 1, atol=1e-6)
    assert np.abs(n.mean(0)).max() <= K * math.sqrt(1 / 3 / count)
    assert np.abs((n**2).mean(0) - 1 / 3).max() <= K * math.sqrt(4 / 45 / count)


def quadratic_variance(optimizer, a, steps, chains=20_000):
    """The variance that many chains on U = a p^2 / 2 settle at."""

    def step(_, carry):
        p, state = carry
        update, state = optimizer.update(a * p, state, p)
        return p + update, state

    start = jnp.zeros(chains)
    p = jax.jit(lambda: jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))[0])()
    p = np.asarray(p, np.float64)
    assert abs(p.mean()) <= K * math.sqrt(p.var() / chains)
    return p.var(), K * math.sqrt(2 / chains)


SETTINGS = [(0.1, 0.5, 1.0), (0.4, 2.0, 3.0), (0.02, 1.5, 20.0), (1.5, 0.7, 0.5)]


@pytest.mark.parametrize(("e", "t", "a"), SETTINGS)
def test_sgld_has_its_exact_variance_on_a_quadratic(e, t, a):
    variance, error = quadratic_variance(optim.sgld(e, 1, t, key=KEY), a, 150)
    assert abs(variance / (2 * t / (a * (2 - e * a))) - 1) <= error


def test_sgld_multiplies_a_mean_gradient_by_the_examples():
    # U = N a p^2 / 2 from the gradient a p of the mean.
    e, t, a, n = 0.05, 0.8, 1.5, 6
    variance, error = quadratic_variance(optim.sgld(e, n, t, key=KEY), a, 150)
    assert abs(variance / (2 * t / (n * a * (2 - e * n * a))) - 1) <= error


def settled(matrix, noise):
    """Solve S = M S M' + noise noise' for the variance of the first number, by repetition."""
    s = np.zeros((2, 2))
    for _ in range(5000):
        s = matrix @ s @ matrix.T + np.outer(noise, noise)
    return s[0, 0]


@pytest.mark.parametrize(("e", "t", "a", "friction"), [(0.1, 0.5, 1.5, 0.3), (0.02, 2.0, 4.0, 0.1)])
def test_sghmc_has_its_exact_variance_and_nearly_the_temperature(e, t, a, friction):
    # (p, v) after a step: v' = (1 - f) v - e a p + s n, p' = p + v'.
    matrix = np.array([[1 - e * a, 1 - friction], [-e * a, 1 - friction]])
    exact = settled(matrix, math.sqrt(2 * friction * e * t) * np.ones(2))
    variance, error = quadratic_variance(optim.sghmc(e, 1, t, friction, key=KEY), a, 300)
    assert abs(variance / exact - 1) <= error
    # The closed form of the docstring: the temperature, but for a share of the order of the step.
    assert abs(exact / (t / a / (1 - e * a / (4 - 2 * friction))) - 1) < 1e-9


@pytest.mark.parametrize(("h", "t", "a"), [(0.3, 0.5, 1.5), (1.0, 2.0, 1.5), (1.8, 0.7, 1.0)])
def test_baoab_has_the_exact_temperature_at_any_step(h, t, a):
    variance, error = quadratic_variance(optim.baoab(h, 1, t, 1.3, key=KEY), a, 150)
    assert abs(variance / (t / a) - 1) <= error


def test_psgld_samples_each_number_with_a_step_of_its_own():
    # With epsilon far above the root of the mean square, G is 1 / epsilon: SGLD at e / epsilon.
    e, t, a, epsilon = 100.0, 0.5, 2.0, 1e3
    optimizer = optim.psgld(e, 1, t, 0.9, epsilon=epsilon, key=KEY)
    variance, error = quadratic_variance(optimizer, a, 150)
    exact = 2 * t / (a * (2 - e / epsilon * a))
    assert abs(variance / exact - 1) <= error + 4 * math.sqrt(exact) * a / epsilon


def test_the_temperature_follows_its_schedule():
    # Annealing: descent by then, at rest by the end.
    cooling = schedule.exponential(1.0, 0.1, steps=10)
    optimizer = optim.sgld(0.1, 1, lambda t: jnp.where(t < 100, cooling(t), 0), key=KEY)
    variance, _ = quadratic_variance(optimizer, 1.0, 150)
    assert variance < 0.9**100 / 10
    hot, error = quadratic_variance(optim.sgld(0.1, 1, lambda t: 4.0, key=KEY), 1.0, 150)
    assert abs(hot / (2 * 4 / 1.9) - 1) <= error


# Perturbed descent.


def pushes(norms, **options):
    """Say at which steps an optimizer with gradients of these norms is pushed."""
    optimizer = optim.perturbed(identity(), 1.0, 0.5, key=KEY, **options)
    take, state, pushed = jax.jit(optimizer.update), optimizer.init(jnp.zeros(2)), []
    for t, norm in enumerate(norms):
        g = jnp.array([0.6, 0.8]) * norm
        update, state = take(g, state, g)
        if (update != g).any():
            pushed.append(t)
    return pushed


def test_a_push_needs_a_small_gradient_and_a_window_since_the_last():
    assert pushes([0.6] * 5, window=0) == []
    assert pushes([0.1] * 4, window=0) == [0, 1, 2, 3]
    assert pushes([0.1] * 9, window=3) == [0, 4, 8]
    assert pushes([0.6, 0.1, 0.1, 0.6, 0.6, 0.1, 0.1], window=2) == [1, 5]


def test_a_push_is_uniform_in_the_ball():
    # In d = 3 dimensions the radius cubed is uniform, and the direction even.
    count, params = 4000, {"a": jnp.zeros(2), "b": jnp.zeros(())}

    @jax.vmap
    def draw(key):
        optimizer = optim.perturbed(identity(), 0.7, key=key)
        return ravel_pytree(optimizer.update(params, optimizer.init(params), params)[0])[0]

    n = np.asarray(jax.jit(draw)(jax.random.split(KEY, count)), np.float64) / 0.7
    volume = (n**2).sum(1) ** 1.5
    assert volume.max() <= 1 + 1e-5
    assert abs(volume.mean() - 0.5) <= K * math.sqrt(1 / 12 / count)
    assert abs(volume.var() - 1 / 12) <= K * math.sqrt(1 / 180 / count)
    assert np.abs(n.mean(0)).max() <= K * math.sqrt(1 / 5 / count)


def test_an_optimizer_that_is_never_pushed_takes_its_plain_steps():
    plain, _ = run(optim.sgd(RATE, 0.8), "float32")
    for radius, threshold in ((0.5, 0.0), (0.0, 1e9)):
        optimizer = optim.perturbed(optim.sgd(RATE, 0.8), radius, threshold, key=KEY)
        np.testing.assert_array_equal(run(optimizer, "float32")[0], plain)


def test_a_push_keeps_looks_jits_maps_and_resumes():
    optimizer = optim.perturbed(optim.sgd(RATE, 0.8), 0.5, 9.0, window=1, key=KEY)
    for dtype in ("bfloat16", "float32"):
        params = tree(0, dtype)
        updates, state = optimizer.update(params, optimizer.init(params), params)
        assert specs(updates) == specs(params)
        assert specs(state) == specs(optimizer.init(params))
    whole, _ = run(optimizer, "float32")
    assert_close(jax.jit(lambda: scanned(optimizer))(), whole)
    _, state = run(optimizer, "float32", 2)
    np.testing.assert_array_equal(run(optimizer, "float32", STEPS - 2, state, 2)[0], whole[2:])


def test_training_with_noise_is_the_same_from_the_same_key_and_learns():
    x = jnp.linspace(-1, 1, 16)[:, None]
    for optimizer in (
        optim.chain(optim.gradient_noise({"weight": 0.01}, key=KEY), optim.sgd(0.1)),
        optim.sgld(0.005, 16, 1e-4, key=KEY),
        optim.perturbed(optim.sgd(0.1), 1e-3, key=KEY),
    ):
        ends = [
            fnn.fit(
                fnn.dense(1), fnn.losses.squared_error(), optimizer, (x, 2 * x + 1),
                epochs=60, batch_size=8, key=KEY,
            )[0].params["weight"]
            for _ in range(2)
        ]  # fmt: skip
        np.testing.assert_array_equal(*ends)
        assert abs(float(ends[0][0, 0]) - 2) < 0.2


# Bad input.


def calls(name):
    """The optimizer of a name with one option replaced."""
    return {
        "gradient_noise": lambda s=1.0, **o: optim.gradient_noise(s, **{"key": KEY} | o),
        "sphere_noise": lambda s=1.0, **o: optim.sphere_noise(s, **{"key": KEY} | o),
        "anticorrelated_noise": lambda s=1.0, **o: optim.anticorrelated_noise(
            s, **{"key": KEY} | o
        ),
        "perturbed": lambda s=1.0, **o: optim.perturbed(optim.sgd(0.1), s, **{"key": KEY} | o),
        "sgld": lambda s=1.0, **o: optim.sgld(0.1, 1, s, **{"key": KEY} | o),
        "psgld": lambda s=1.0, **o: optim.psgld(0.1, 1, s, **{"key": KEY} | o),
        "sghmc": lambda s=1.0, **o: optim.sghmc(0.1, 1, s, **{"key": KEY} | o),
        "baoab": lambda s=1.0, **o: optim.baoab(0.1, 1, s, **{"key": KEY} | o),
    }[name]


STRENGTHS = {
    "gradient_noise": "variance",
    "sphere_noise": "radius",
    "anticorrelated_noise": "std",
    "perturbed": "radius",
    **dict.fromkeys(["sgld", "psgld", "sghmc", "baoab"], "temperature"),
}


# What is no number of 0 or more, and how it is called.
WRONG_SIZES = [
    (np.float32(-1), r"-1\.0"),
    (jnp.array(np.nan), "nan"),
    (math.inf, "inf"),
    (1j, "1j"),
    ("x", "'x'"),
    (True, "True"),
    (jnp.ones(2), r"float32 of shape \(2,\)"),
    (lambda step: -1.0, "-1.0 at step 0"),
]


@pytest.mark.parametrize("name", STRENGTHS)
def test_every_noise_refuses_a_negative_strength_no_key_and_what_it_does_not_know(name):
    where, strength, make = f"optim.{name}", STRENGTHS[name], calls(name)
    params = {"out": {"weight": jnp.zeros(2)}}
    pattern = "a pattern that matches a parameter"

    def by_path():
        make({"*/scale": 0.1}).init(params)

    generator = "a generator of 'counter', 'threefry'"
    for bad in (
        Bad("negative", lambda: make(-0.5), where, f"{strength} of 0 or more", r"-0\.5"),
        *(
            Bad("by value", lambda v=value: make(v), where, f"{strength} of 0 or more", got)
            for value, got in WRONG_SIZES
        ),
        *(
            Bad("by value", lambda v=value: make({"*": v}), where, rf"{strength} for '\*' .+", got)
            for value, got in WRONG_SIZES
        ),
        Bad("nan", lambda: make(math.nan), where, f"{strength} of 0 or more", "nan"),
        Bad(
            "path", lambda: make({"*": -0.5}), where, rf"{strength} for '\*' of 0 or more", r"-0\.5"
        ),
        Bad("key", lambda: make(key=None), where, "a key", "None"),
        Bad("seed", lambda: make(key=3), where, "a key", "3"),
        Bad("keys", lambda: make(key=jax.random.split(KEY)), where, "one key", "2 keys, .+"),
        Bad("words", lambda: make(key=jnp.zeros(3, "uint32")), where, "a key", "uint32 of .+"),
        Bad("generator", lambda: make(generator="mt"), where, generator, "'mt'"),
        Bad("nothing", by_path, where, pattern, r"'\*/scale'"),
    ):
        assert_complains(bad, bad.call)


@parametrize(
    [
        Bad(
            "distribution",
            lambda: calls("gradient_noise")(distribution="normal"),
            "optim.gradient_noise",
            "a distribution of .*'gaussian'.*",
            "'normal'",
        ),
        *(
            Bad(
                f"decay_power-{value}",
                lambda value=value: optim.gradient_noise(1.0, value, key=KEY),
                "optim.gradient_noise",
                "decay_power of 0 or more",
                got,
            )
            for value, got in (
                (math.nan, "nan"),
                (-1, "-1"),
                (np.float32(-1), r"-1\.0"),
                ("x", "'x'"),
            )
        ),
        Bad(
            "epsilon-inf",
            lambda: optim.psgld(0.1, epsilon=math.inf, key=KEY),
            "optim.psgld",
            "epsilon above 0",
            "inf",
        ),
        Bad(
            "decay-jax",
            lambda: optim.psgld(0.1, decay=jnp.array(1.0), key=KEY),
            "optim.psgld",
            r"decay in \[0, 1\)",
            "1",
        ),
        Bad(
            "friction-numpy",
            lambda: optim.sghmc(0.1, friction=np.float64(1.5), key=KEY),
            "optim.sghmc",
            r"friction in \(0, 1\]",
            r"1\.5",
        ),
        Bad(
            "rate-inf",
            lambda: optim.sgld(math.inf, key=KEY),
            "optim.sgld",
            "learning_rate of 0 or more",
            "inf",
        ),
        Bad(
            "window-float",
            lambda: calls("perturbed")(window=1.0),
            "optim.perturbed",
            "window of 0 or more",
            r"1\.0",
        ),
        Bad(
            "plain",
            lambda: optim.perturbed(optim.sam(0.1), key=KEY),
            "optim.perturbed",
            "an optimizer that the gradient suffices",
            r"sam\(0\.1\)",
        ),
        Bad(
            "window",
            lambda: calls("perturbed")(window=-1),
            "optim.perturbed",
            "a window of 0 or more",
            "-1",
        ),
        Bad(
            "threshold",
            lambda: calls("perturbed")(threshold=-1),
            "optim.perturbed",
            "threshold of 0 or more",
            "-1",
        ),
        Bad(
            "optimizer",
            lambda: optim.perturbed(0.1, key=KEY),
            "optim.perturbed",
            "an optimizer",
            r"0\.1",
        ),
        Bad(
            "rate",
            lambda: optim.sgld(-0.1, key=KEY),
            "optim.sgld",
            "learning_rate of 0 or more",
            r"-0\.1",
        ),
        Bad(
            "time",
            lambda: optim.baoab(-0.1, key=KEY),
            "optim.baoab",
            "time_step of 0 or more",
            r"-0\.1",
        ),
        Bad(
            "examples",
            lambda: optim.sgld(0.1, 0, key=KEY),
            "optim.sgld",
            "examples of 1 or more",
            "0",
        ),
        Bad(
            "friction",
            lambda: optim.sghmc(0.1, friction=1.5, key=KEY),
            "optim.sghmc",
            r"a friction in \(0, 1\]",
            r"1\.5",
        ),
        Bad(
            "friction-0",
            lambda: optim.baoab(0.1, friction=0.0, key=KEY),
            "optim.baoab",
            "a friction above 0",
            r"0\.0",
        ),
        Bad(
            "decay",
            lambda: optim.psgld(0.1, decay=1.0, key=KEY),
            "optim.psgld",
            r"a decay in \[0, 1\)",
            r"1\.0",
        ),
        Bad(
            "epsilon",
            lambda: optim.psgld(0.1, epsilon=0.0, key=KEY),
            "optim.psgld",
            "an epsilon above 0",
            r"0\.0",
        ),
    ]
)
def test_optimizers_with_noise_refuse_options(bad):
    assert_complains(bad, bad.call)


def test_noises_of_one_kind_and_key_in_a_chain_have_nothing_in_common():
    # Independent ones of variance 1 add up to 2; the same one twice would be of 4.
    one = optim.gradient_noise(1.0, 0.0, key=KEY)
    zeros = jnp.zeros(DRAWS)
    for optimizer in (
        optim.chain(one, one),
        optim.chain(optim.chain(one), optim.clip_by_value(1e9), optim.chain(one)),
        optim.chain(optim.skip_nonfinite(one), one),
    ):
        n = np.asarray(optimizer.update(zeros, optimizer.init(zeros), zeros)[0], np.float64)
        assert abs(n.var() / 2 - 1) <= K * math.sqrt(2 / DRAWS)
