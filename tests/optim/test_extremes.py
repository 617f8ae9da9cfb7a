"""Optimizers beyond the range of squares, in half precision, and on kernels and stacks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import InputError, optim
from fnn.optim._moving_average import grown
from fnn.optim._norms import global_norm, norm_along, norm_of, power_of_two, scaled_to, shortened
from tests.papers import optimizers as papers
from tests.tolerance import rounding

KEY = jax.random.key(3)
STEPS = 6
# The square of a float32 is infinite above 1.8e19, and 0 below 2.6e-23.
SCALES = [1e20, 1e30, 1e-25, 1e-30]
BETA1, BETA2, RATE = 0.7, 0.95, 0.07
# Optimizers whose update does not grow with the gradient, of the epsilon, and their papers. The
# epsilon grows with the gradient, so that it does something.
FREE_OF_SCALE = {
    "adagrad": (
        lambda e: optim.adagrad(RATE, epsilon=e),
        lambda e: papers.adagrad(RATE, e, 0.0),
    ),
    "rmsprop": (
        lambda e: optim.rmsprop(RATE, 0.8, epsilon=e),
        lambda e: papers.rmsprop(RATE, 0.8, e),
    ),
    "adam": (
        lambda e: optim.adam(RATE, BETA1, BETA2, epsilon=e),
        lambda e: papers.adam(RATE, BETA1, BETA2, e),
    ),
    "adamw": (
        lambda e: optim.adamw(RATE, BETA1, BETA2, 0.05, epsilon=e),
        lambda e: papers.adam(RATE, BETA1, BETA2, e, 0.05),
    ),
    "nadam": (
        lambda e: optim.nadam(RATE, BETA1, BETA2, epsilon=e),
        lambda e: papers.nadam(RATE, BETA1, BETA2, e),
    ),
    "amsgrad": (
        lambda e: optim.amsgrad(RATE, BETA1, BETA2, epsilon=e),
        lambda e: papers.amsgrad(RATE, BETA1, BETA2, e),
    ),
    "adamax": (
        lambda e: optim.adamax(RATE, BETA1, BETA2, epsilon=e),
        lambda e: papers.adamax(RATE, BETA1, BETA2, e),
    ),
    "lamb": (
        lambda e: optim.lamb(RATE, BETA1, BETA2, epsilon=e),
        lambda e: papers.lamb(RATE, BETA1, BETA2, e, 0.0),
    ),
    "lars": (lambda e: optim.lars(RATE, 0.8, trust=0.3), lambda e: papers.lars(RATE, 0.8, 0, 0.3)),
    "adafactor": (
        lambda e: optim.adafactor(RATE, 0.7, 0.6, 2),
        lambda e: papers.adafactor(RATE, 0.7, 0.6, 0.0, 1e-3),
    ),
    "muon": (
        lambda e: optim.muon(RATE, 0.8, epsilon=e, otherwise=optim.adam(RATE, epsilon=e)),
        lambda e: papers.muon(RATE, 0.8, True, 0.0, 5, e, papers.adam(RATE, 0.9, 0.999, e)),
    ),
    "schedule_free_adamw": (
        lambda e: optim.schedule_free_adamw(RATE, BETA1, BETA2, epsilon=e),
        lambda e: papers.schedule_free(RATE, BETA1, 0.0, BETA2, e),
    ),
}


def gradients(scale):
    random = np.random.default_rng(5)
    return [
        [(scale * random.normal(size=shape)).astype("float32") for shape in ((2, 3), (4,))]
        for _ in range(STEPS)
    ]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", FREE_OF_SCALE)
def test_gradients_beyond_the_range_of_squares_move_as_those_of_the_paper(name, scale):
    if name == "adafactor" and scale < 1:
        return  # its first epsilon, 1e-30, is what decides there
    make, paper = FREE_OF_SCALE[name]
    optimizer, formula = make(1e-3 * scale), paper(1e-3 * scale)
    params, plain = [jnp.ones((2, 3)), jnp.ones(4)], [np.ones((2, 3)), np.ones(4)]
    state, memory = jax.jit(optimizer.init)(params), None
    update = jax.jit(optimizer.update)
    for t, grads in enumerate(gradients(scale)):
        updates, state = update(grads, state, params)
        wide = [g.astype("float64") for g in grads]
        expected, memory = formula(t, lambda _, g=wide: (0.0, g), plain, memory)
        params = [p + u for p, u in zip(params, updates, strict=True)]
        plain = [p + u for p, u in zip(plain, expected, strict=True)]
        for one, other in zip(updates, expected, strict=True):
            bound = rounding("float32", 10 * STEPS) * abs(other).max()
            np.testing.assert_allclose(one, other, rtol=0, atol=bound)


def test_adam_moves_again_after_one_huge_gradient():
    optimizer, params = optim.adam(0.1), jnp.ones(1)
    values = np.array([1.0, 1e20, *[1.0] * 2000], "float32")

    def step(carry, g):
        params, state = carry
        updates, state = optimizer.update(g[None], state, params)
        return (params + updates, state), updates[0]

    _, updates = jax.lax.scan(step, (params, optimizer.init(params)), jnp.asarray(values))
    formula, memory, expected = papers.adam(0.1, 0.9, 0.999, 1e-8), None, []
    for t, g in enumerate(values.astype("float64")):
        (update,), memory = formula(t, lambda _, g=g: (0.0, [np.array([g])]), [np.ones(1)], memory)
        expected.append(update[0])
    # The rounding of beta2 alone changes the root of beta2^2000 by so much.
    assert -1e-18 < updates[-1] < 0
    np.testing.assert_allclose(updates[-1], expected[-1], rtol=2000 * rounding("float32", 1))


def test_adadelta_takes_its_first_step_whatever_the_size_of_the_gradient():
    optimizer = optim.adadelta(decay=0.75, epsilon=1e-6)
    for size in (1e10, 1e20, 1e30, 1e38):
        update, _ = optimizer.update(jnp.full(2, size), optimizer.init(jnp.ones(2)), jnp.ones(2))
        np.testing.assert_allclose(update, -2e-3, rtol=rounding("float32", 1))


def at(slope):
    """Return the gradient of ``slope (p^2 - p) / 2`` as a function."""
    return lambda p: ((slope * ((p**2 - p) / 2).sum(), ()), slope * (p - 0.5))


@pytest.mark.parametrize("scale", [1e20, 1e30, 1e-25, 1e-30])
def test_sam_looks_at_the_neighbor_whatever_the_size_of_the_gradient(scale):
    params, grads = jnp.array([3.0, 4.0]), jnp.array([2.5, 3.5])
    optimizer = optim.sam(0.5)
    _, update, _ = optim.take_step(optimizer, at(scale), params, optimizer.init(params))
    expected = grads + 0.5 * grads / jnp.linalg.norm(grads)
    np.testing.assert_allclose(update / scale, expected, rtol=rounding("float32", 2))


@pytest.mark.parametrize("scale", [2.0**70, 2.0**-70])
def test_lbfgs_takes_the_same_steps_on_an_objective_times_a_number(scale):
    def moves(slope):
        optimizer, p = optim.lbfgs(memory=2), jnp.array([3.0, -4.0])
        state, found = optimizer.init(p), []
        for t in range(5):
            # The first step is as long as the gradient, or 1: both are given the same one.
            grads = slope * jnp.array([1.0, 9.0]) * (p + 0.1 * p**3)
            updates, state = optimizer.update(grads, state, p)
            p = p + (updates if t else jnp.array([-0.25, 0.5]))
            found.append(updates)
        return jnp.stack(found[1:])

    np.testing.assert_allclose(moves(scale), moves(1.0), rtol=rounding("float32", 20))


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float16", [3e4, 4e4]),
        ("float16", [3e-7, 4e-7]),
        ("bfloat16", [3e38, 2e30]),
        ("float32", [3e30, 4e30]),
        ("float32", [3e-30, 4e-30]),
        ("float64", [3e300, 4e300]),
        ("float64", [3e-300, 4e-300]),
    ],
)
def test_norms_neither_overflow_nor_vanish(dtype, values):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(values, dtype)
        wide = "float64" if dtype == "float64" else "float32"
        known = np.asarray(x, "float64")
        expected, bound = np.hypot(*known), rounding(wide, 2)
        for norm in (
            global_norm({"a": x[:1], "b": x[1]}),
            optim.global_norm(x),
            norm_along(x, None).value()[0],
        ):
            assert norm.dtype == wide
            np.testing.assert_allclose(norm, expected, rtol=bound)
        short = scaled_to(x, norm_of(x), 0.5)
        np.testing.assert_allclose(short, known / expected / 2, rtol=bound, atol=1e-9)
        clipped = shortened(x, norm_of(x), 2 * global_norm(x))
        np.testing.assert_array_equal(clipped, x)


def test_the_norm_of_nothing_and_of_zeros_is_0_and_that_of_nan_is_nan():
    assert global_norm(()) == global_norm(jnp.zeros(3)) == global_norm(jnp.zeros((0, 2))) == 0
    assert jnp.isnan(global_norm(jnp.array([1.0, jnp.nan])))
    assert jnp.isinf(global_norm(jnp.array([1.0, jnp.inf])))
    np.testing.assert_array_equal(scaled_to(jnp.zeros(2), norm_of(jnp.zeros(2)), 3.0), 0)
    with pytest.raises(InputError, match="floating"):
        optim.global_norm(jnp.arange(3))


def test_a_unit_is_a_power_of_two_and_so_is_its_inverse():
    sizes = jnp.array([1e-38, 0.3, 1.0, 1.4, 7.0, 1e30, 3e38])
    units = np.asarray(power_of_two(sizes), "float64")
    np.testing.assert_array_equal(np.frexp(units)[0], 0.5)
    assert np.isfinite(np.float32(1) / units.astype("float32")).all()


@pytest.mark.parametrize("make", [optim.sgd, optim.momentum, optim.nesterov])
def test_a_small_learning_rate_is_not_rounded_away_in_half_precision(make):
    optimizer, params = make(1e-8), jnp.ones(2, "float16")
    grads = jnp.full(2, 6e4, "float16")
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    times = 1.9 if make is optim.nesterov else 1.0
    assert updates.dtype == "float16"
    # Numbers so small are multiples of 2^-24.
    np.testing.assert_allclose(updates, -6e-4 * times, atol=2.0**-24, rtol=2.0**-11)


def test_a_velocity_beyond_float16_gives_its_update():
    optimizer, params = optim.sgd(1e-4, 0.9), jnp.ones(1, "float16")
    state = optimizer.init(params)
    for velocity in (6e4, 6e4 * 1.9, 6e4 * 2.71):
        updates, state = optimizer.update(jnp.full(1, 6e4, "float16"), state, params)
        np.testing.assert_allclose(updates, -1e-4 * velocity, rtol=2.0**-10)


def test_muon_reads_a_kernel_as_the_matrix_of_its_outputs():
    kernel = jax.random.normal(KEY, (3, 3, 4, 8))
    matrix = kernel.reshape(-1, 8)
    optimizer = optim.muon(0.1)
    update, _ = optimizer.update(kernel, optimizer.init(kernel), kernel)
    expected, _ = optimizer.update(matrix, optimizer.init(matrix), matrix)
    np.testing.assert_array_equal(update.reshape(-1, 8), expected)
    values = np.linalg.svd(expected)[1]
    assert (abs(values / 0.1 - 1) < 0.35).all()


def test_muon_takes_what_is_stacked_one_by_one():
    params = {
        "blocks": {"weight": jax.random.normal(KEY, (3, 4, 5)), "bias": jnp.ones((3, 5))},
        "out": jax.random.normal(KEY, (4, 5)),
    }
    optimizer, alone = optim.muon(0.1, stacked="blocks/*"), optim.muon(0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    for one, weight in zip(updates["blocks"]["weight"], params["blocks"]["weight"], strict=True):
        expected, _ = alone.update(weight, alone.init(weight), weight)
        np.testing.assert_allclose(one, expected, atol=rounding("float32", 100) * 0.1)
    adam = optim.adam(0.1)
    bias = params["blocks"]["bias"]
    np.testing.assert_array_equal(
        updates["blocks"]["bias"], adam.update(bias, adam.init(bias), bias)[0]
    )
    with pytest.raises(InputError, match="a pattern that matches"):
        optim.muon(0.1, stacked="layers/*").init(params)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.lbfgs(),
        lambda: optim.chain(optim.clip_by_global_norm(1e3), optax.lbfgs()),
        lambda: optim.chain(optim.chain(optax.lbfgs())),
    ],
    ids=["alone", "chained", "chained-twice"],
)
def test_fit_hands_on_what_the_line_search_of_optax_asks_for(make):
    x = jax.random.normal(KEY, (16, 3))
    target = x @ jnp.array([[1.0], [2.0], [-1.0]]) + 0.5
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        _, history = fnn.fit(
            fnn.dense(1), fnn.losses.squared_error(), make(), (x, target),
            epochs=8, batch_size=16, key=KEY,
        )  # fmt: skip
    assert history.loss[-1] < 1e-6 * history.loss[0]


def test_an_optimizer_of_optax_is_given_the_objective_and_its_gradient_by_hand():
    given = {}

    def update(grads, state, params, *, value, grad, value_fn, grad_fn):
        given.update(value=value, grad=grad, value_fn=value_fn, grad_fn=grad_fn)
        return grads, state

    foreign = optax.GradientTransformationExtraArgs(lambda params: (), update)
    p = jnp.array([1.0, 2.0])
    optimizer = optim.chain(optim.sam(0.5), optim.sgd(0.1), foreign)
    # A gradient that is not that of the value tells which of the two is used.
    (value, _), updates, _ = optim.take_step(
        optimizer, lambda p: ((p.sum(), ()), 7 * p), p, optimizer.init(p)
    )
    assert value == given["value"] == given["value_fn"](p) == 3
    for grads in (given["grad"], given["grad_fn"](p, 0), jax.grad(given["value_fn"])(p)):
        np.testing.assert_array_equal(grads, 7 * p)
    assert (updates != -0.7 * p).all()


@pytest.mark.parametrize("nesterov", ["False", 0, 1.0, None])
def test_flags_are_flags(nesterov):
    with pytest.raises(InputError, match="nesterov of True or False"):
        optim.sgd(0.1, 0.9, nesterov)
    with pytest.raises(InputError, match="nesterov of True or False"):
        optim.muon(0.1, nesterov=nesterov)


def test_nesterov_without_momentum_is_an_error():
    with pytest.raises(InputError, match="momentum above 0 for nesterov"):
        optim.sgd(0.1, nesterov=True)


@pytest.mark.parametrize("wrong", [optim.sgd, None, "adam", 0.1])
def test_what_is_no_optimizer_is_refused_in_words(wrong):
    for use in (
        lambda: optim.chain(wrong),
        lambda: optim.backtracking(wrong),
        lambda: optim.muon(0.1, otherwise=wrong) if wrong is not None else optim.chain(None),
        lambda: optim.take_step(wrong, at(1.0), jnp.ones(2), ()),
        lambda: optim.Optimizer(wrong, 3),
    ):
        with pytest.raises(InputError):
            use()


@pytest.mark.parametrize(
    ("name", "wrong", "takes"),
    [
        ("init", lambda: (), "params"),
        ("update", lambda grads, state: (grads, state), "grads, state, params"),
        ("step", lambda params, state: None, "gradient_at, params, state"),
    ],
    ids=["init", "update", "step"],
)
def test_a_function_of_other_arguments_makes_no_optimizer(name, wrong, takes):
    right = {"init": lambda params: (), "update": lambda grads, state, params: (grads, state)}
    with pytest.raises(InputError, match=rf"{name} to be a function of \({takes}\), got one of"):
        optim.Optimizer(**right | {name: wrong})


def test_the_weights_of_a_running_mean_grow_alike_for_a_plain_and_a_traced_decay():
    steps = jnp.array([1, 3, 1000])
    # Of decays that float32 holds.
    for beta in (0.5, 0.875, 1 - 2.0**-13):
        expected = 1 - beta ** np.asarray(steps, float)
        for found in (grown(beta, steps), jax.jit(grown)(beta, steps)):
            np.testing.assert_allclose(found, expected, rtol=rounding("float32", 8))


# A share of the norm or size of the gradient, and what it is clipped to in plain numbers.
LIMIT = 0.3
CLIPS = {
    "clip_by_value": (optim.clip_by_value, lambda g, s: np.clip(g, -LIMIT * s, LIMIT * s)),
    "clip_by_norm": (
        optim.clip_by_norm, lambda g, s: g * np.minimum(1, LIMIT * s / np.sqrt((g**2).sum()))
    ),
    "clip_by_global_norm": (
        optim.clip_by_global_norm, lambda g, s: g * np.minimum(1, LIMIT * s / np.sqrt((g**2).sum()))
    ),
    # The weights have the norms of ones, at 0.3 of the size of the gradient.
    "clip_by_unit_norm": (
        lambda limit: optim.clip_by_unit_norm(1.0, limit),
        lambda g, s: g * np.minimum(1, LIMIT * s / np.sqrt((g**2).sum(0))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", CLIPS)
def test_gradients_beyond_the_range_of_squares_are_clipped_as_in_float64(name, scale):
    make, formula = CLIPS[name]
    grads, params = gradients(scale)[0][0], jnp.zeros((2, 3))
    optimizer = make(LIMIT * scale)
    update, _ = optimizer.update(jnp.asarray(grads), optimizer.init(params), params)
    expected = formula(grads.astype("float64"), scale)
    assert abs(expected - grads).max() > 0.1 * abs(grads).max()
    np.testing.assert_allclose(update, expected, rtol=rounding("float32", 10))


@pytest.mark.parametrize("scale", SCALES)
def test_a_perturbed_optimizer_knows_a_small_gradient_from_a_large_one_at_every_size(scale):
    grads, params = jnp.asarray(gradients(scale)[0][0]), jnp.zeros((2, 3))
    norm = np.sqrt((np.asarray(grads, "float64") ** 2).sum())
    inside = optim.sgd(1 / scale)
    for share, pushed in ((0.99, False), (1.01, True)):
        optimizer = optim.perturbed(inside, 0.5, float(share * norm), key=KEY)
        update, _ = optimizer.update(grads, optimizer.init(params), params)
        push = np.asarray(update, "float64") + np.asarray(grads, "float64") / scale
        assert np.isfinite(push).all()
        assert (abs(push).max() > 1e-3) == pushed
        assert np.sqrt((push**2).sum()) <= 0.5 + 1e-5
