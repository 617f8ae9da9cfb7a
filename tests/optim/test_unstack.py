"""Optimizers that see the copies of a repeat apart: against separate arrays, copy by copy."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import losses, optim
from tests.cases.optimizers import LR, OPTIMIZERS
from tests.optim.test_laws import at, flat
from tests.optim.test_noise import CASES as NOISES
from tests.tolerance import rounding

KEY, COPIES, STEPS = jax.random.key(5), 3, 2
MAKES = {case.name: functools.partial(case.make, case.value) for case in OPTIMIZERS}
MAKES |= {case.name: case.make for case in NOISES} | {
    "noise-of-a-copy": lambda: optim.gradient_noise({"b/2": 0.3, "b/*": 0.1}, key=KEY),
    "weight_noise": lambda: optim.weight_noise({"b/0": 0.3}, key=KEY),
    "perturbed": lambda: optim.perturbed(optim.sgd(LR), 0.2, key=KEY),
    "project": lambda: optim.project({"b/1": jnp.abs}),
    "optax": lambda: optax.sgd(LR, 0.9),
    "optax-line-search": lambda: optax.chain(
        optax.sgd(LR), optax.scale_by_backtracking_linesearch(3)
    ),
}
# One of each kind: by array, by matrix, by the norm of all, by path, by mask, with an average, with
# a gradient elsewhere, with the value, with memory, with noise in each of its places.
KINDS = (
    "adam",
    "lamb",
    "muon",
    "clip_by_norm",
    "by_path",
    "masked",
    "ema",
    "chain-with-steps",
    "reduce_on_plateau",
    "sgld",
    "noise-of-a-copy",
    "weight_noise",
    "perturbed",
    "project",
    "optax-line-search",
)


def apart(seed, copies=COPIES):
    """Return parameters of which "b" has copies, as separate arrays."""
    random = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape), "float32")

    return {"a": draw(2, 3), "b": tuple(draw(4) for _ in range(copies))}


def stacked(params):
    return {"a": params["a"], "b": jnp.stack(params["b"])}


def walk(optimizer, params, slopes):
    """Take steps by given slopes; return all updates, the parameters and their averages."""
    state, seen = optimizer.init(params), []
    for slope in slopes:
        _, updates, state = optim.take_step(optimizer, at(slope), params, state)
        params = jax.tree.map(jnp.add, params, updates)
        seen.append(updates)
    return [*seen, params, optim.eval_params(state, params)]


def assert_close(one, other):
    """Equal within the rounding of the steps on all numbers, by the largest."""
    expected = flat(other)
    bound = rounding("float32", expected.size * STEPS) * np.abs(expected).max()
    np.testing.assert_allclose(flat(one), expected, rtol=0, atol=bound)


def given(copies=lambda params: params):
    return copies(apart(0)), [copies(apart(t + 1)) for t in range(STEPS)]


@pytest.mark.parametrize("name", KINDS)
def test_copies_are_trained_as_separate_arrays_are(name):
    make = MAKES[name]
    expected = jax.jit(functools.partial(walk, make()))(*given())
    got = jax.jit(functools.partial(walk, optim.unstack(make(), "b")))(*given(stacked))
    for one, other in zip(got, expected, strict=True):
        assert_close(one, stacked(other))


@pytest.mark.parametrize("name", MAKES)
def test_every_optimizer_and_noise_takes_copies_and_keeps_the_looks_of_its_state(name):
    optimizer, (params, slopes) = optim.unstack(MAKES[name](), "b"), given(stacked)

    def step(params, state):
        _, updates, after = optim.take_step(optimizer, at(slopes[0]), params, state)
        return updates, after

    state = jax.eval_shape(optimizer.init, params)
    updates, after = jax.eval_shape(step, params, state)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.parametrize("name", ["adam", "clip_by_norm", "muon", "sgld"])
def test_a_frozen_copy_keeps_its_bits_and_the_others_are_trained_as_if_alone(name):
    frozen = optim.unstack(optim.freeze(MAKES[name](), "b/1"), "b")
    *_, got, _ = jax.jit(functools.partial(walk, frozen))(*given(stacked))

    def without(params):
        return params | {"b": params["b"][::2]}

    *_, expected, _ = jax.jit(functools.partial(walk, MAKES[name]()))(*given(without))
    np.testing.assert_array_equal(got["b"][1], apart(0)["b"][1])
    assert not (got["b"][::2] == stacked(apart(0))["b"][::2]).any()
    others = got | {"b": got["b"][::2]}
    assert_close(others, stacked(expected))


def test_a_copy_has_a_learning_rate_of_its_own():
    params, (slope, _) = given(stacked)
    optimizer = optim.unstack(optim.by_path({"b/1": optim.sgd(0.5)}, optim.sgd(0.25)), "b")
    updates, _ = optimizer.update(slope, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["b"], -jnp.array([[0.25], [0.5], [0.25]]) * slope["b"])


def test_a_repeat_in_a_repeat_and_a_whole_model_are_taken_apart():
    params = {"weight": jnp.ones((2, 3, 4)), "inner": {"bias": jnp.ones((2, 5, 4))}}
    optimizer = optim.unstack(optim.freeze(optim.sgd(1.0), "1/inner/3/*"), "", "1/inner")
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["weight"], -params["weight"])
    expected = -params["inner"]["bias"].at[1, 3].set(0)
    np.testing.assert_array_equal(updates["inner"]["bias"], expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: optim.unstack(1.0, "b"), "expected an optimizer, got 1.0"),
        (lambda: optim.unstack(optim.sgd(LR)), "paths, got ()"),
        (lambda: optim.unstack(optim.sgd(LR), 0), "paths, got (0,)"),
        (
            lambda: optim.unstack(optim.sgd(LR), "c").init(given(stacked)[0]),
            "arrays at 'c' with one leading axis in common, that of copies, got none, but 'a', 'b'",
        ),
        (
            lambda: optim.unstack(optim.sgd(LR), "").init(given(stacked)[0]),
            "arrays at '' with one leading axis in common, that of copies, got shapes (2, 3), (3, ",
        ),
        (lambda: optim.unstack(optim.sgd(LR), "b").init({"b": jnp.ones(())}), "got shapes ()"),
        (lambda: optim.unstack(optim.sgd(LR), "b").init({"b": jnp.ones(0)}), "got shapes (0,)"),
    ],
)
def test_what_is_no_stack_of_copies_is_refused_by_path(call, words):
    with pytest.raises(fnn.InputError) as raised:
        call()
    assert words in str(raised.value)


@pytest.mark.parametrize("gradient", ["manual", "auto"])
def test_fit_trains_all_blocks_of_a_repeat_but_the_frozen_one_and_reads_it_back(gradient, tmp_path):
    model = fnn.serial(blocks=fnn.repeat(fnn.residual(fnn.dense(4)), 3), head=fnn.dense(2))
    x = jax.random.normal(KEY, (8, 4))
    inside = optim.chain(optim.freeze(optim.adam(0.1), "blocks/1/*"), optim.ema(0.5))
    optimizer = optim.unstack(inside, "blocks")
    begin = fnn.init_train_state(model, optimizer, x, key=KEY)
    plan = {"epochs": 2, "batch_size": 4, "gradient": gradient}
    data, loss = (x, x[:, :2]), losses.squared_error()
    state, _ = fnn.fit(model, loss, optimizer, data, start=begin, validation=data, **plan)
    moved = jax.tree.map(
        lambda a, b: (a != b).any((1, 2)) if a.ndim == 3 else (a != b).any(1),
        state.params["blocks"],
        begin.params["blocks"],
    )
    for leaf in jax.tree.leaves(moved):
        np.testing.assert_array_equal(leaf, [True, False, True])
    fnn.save_train_state(tmp_path / "run", state)
    again = fnn.load_train_state(tmp_path / "run", like=begin)
    jax.tree.map(
        np.testing.assert_array_equal,
        optim.eval_params(again.opt_state, again.params),
        optim.eval_params(state.opt_state, state.params),
    )
