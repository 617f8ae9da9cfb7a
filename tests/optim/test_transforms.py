"""What stands around rules: averages, groups, guards, accumulation, and steps in training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import optim
from fnn.optim.optimizers.muon import orthogonal
from tests.optim.test_laws import STEPS, assert_close, flat, tree
from tests.tolerance import rounding

KEY = jax.random.key(3)
LR, MOMENTUM, BETA1, BETA2, EPSILON = 0.07, 0.8, 0.7, 0.95, 1e-3


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def walk(optimizer, params=None, steps=STEPS):
    """Take steps by given gradients; return the parameters after each, and the last state."""
    params = tree(0) if params is None else params
    state, seen = optimizer.init(params), []
    for t in range(steps):
        updates, state = optimizer.update(tree(t + 1), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        seen.append(params)
    return seen, state


def test_the_moving_average_is_the_weighted_mean_of_all_parameters(float64):
    seen, state = walk(optim.chain(optim.sgd(LR), optim.ema(0.6)))
    weights = 0.6 ** np.arange(STEPS)[::-1]
    expected = weights @ np.stack([flat(p) for p in seen]) / weights.sum()
    assert_close(flat(optim.eval_params(state, seen[-1])), expected)


def test_the_moving_average_is_that_of_optax(float64):
    seen, state = walk(optim.chain(optim.sgd(LR), optim.ema(0.6)))
    theirs = optax.ema(0.6)
    their_state = theirs.init(seen[0])
    with jax.numpy_dtype_promotion("standard"):
        for params in seen:
            average, their_state = theirs.update(params, their_state)
    assert_close(flat(optim.eval_params(state, seen[-1])), flat(average))


def test_lookahead_is_that_of_optax(float64):
    seen, state = walk(optim.chain(optim.sgd(LR, MOMENTUM), optim.lookahead(3, 0.4)))
    theirs = optax.lookahead(optax.sgd(LR, MOMENTUM), 3, 0.4)
    params = optax.LookaheadParams.init_synced(tree(0))
    their_state = theirs.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for t in range(STEPS):
            updates, their_state = theirs.update(tree(t + 1), their_state, params)
            params = optax.apply_updates(params, updates)
    assert_close(flat(seen[-1]), flat(params.fast))
    assert_close(flat(optim.eval_params(state, seen[-1])), flat(params.slow))


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.schedule_free_sgd(LR, MOMENTUM),
        lambda: optim.schedule_free_adamw(LR, MOMENTUM, BETA2, EPSILON),
    ],
)
def test_schedule_free_rules_evaluate_at_the_mean_of_their_base(make, float64):
    params, state, optimizer, bases = tree(0), make().init(tree(0)), make(), []
    for t in range(STEPS):
        updates, state = optimizer.update(tree(t + 1), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        bases.append(flat(state.base))
    assert_close(flat(optim.eval_params(state, params)), np.mean(bases, axis=0))


def test_an_average_is_found_inside_of_any_rule_and_for_a_part_of_the_parameters(float64):
    inner = optim.chain(optim.sgd(LR), optim.ema(0.6))
    whole, state = walk(inner)
    expected = optim.eval_params(state, whole[-1])
    for optimizer in (optim.skip_nonfinite(inner), optax.chain(optax.identity(), inner)):
        seen, state = walk(optimizer)
        assert_close(flat(optim.eval_params(state, seen[-1])), flat(expected))
    seen, state = walk(optim.by_path({"b/*": inner}, optim.sgd(LR)))
    average = optim.eval_params(state, seen[-1])
    assert_close(flat(average["b"]), flat(expected["b"]))
    assert_close(flat(average["a"]), flat(seen[-1]["a"]))
    free = optim.by_path({"b/*": optim.schedule_free_sgd(LR)}, optim.sgd(LR))
    seen, state = walk(free)
    assert_close(flat(optim.eval_params(state, seen[-1])["a"]), flat(seen[-1]["a"]))


def test_without_an_average_the_parameters_are_evaluated():
    params, optimizer = tree(0, "float32"), optim.adam(LR)
    assert optim.eval_params(optimizer.init(params), params) is params


def spoiled(gradient, value, leaf=1):
    leaves, structure = jax.tree.flatten(gradient)
    leaves[leaf] = leaves[leaf].at[..., 0].set(value)
    return jax.tree.unflatten(structure, leaves)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_guard_skips_a_bad_step_counts_it_and_names_the_array(value, float64):
    guarded, bare = optim.skip_nonfinite(optim.adam(LR)), optim.adam(LR)
    params, state = tree(0), guarded.init(tree(0))
    assert optim.nonfinite_leaf(params, state) is None
    kept, kept_state = tree(0), bare.init(tree(0))
    for t in range(4):
        gradient = spoiled(tree(t + 1), value) if t in (1, 2) else tree(t + 1)
        updates, state = guarded.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        if t not in (1, 2):
            updates, kept_state = bare.update(gradient, kept_state, kept)
            kept = jax.tree.map(jnp.add, kept, updates)
    np.testing.assert_array_equal(flat(params), flat(kept))
    jax.tree.map(np.testing.assert_array_equal, state.inner, kept_state)
    assert int(state.skipped) == 2
    assert optim.nonfinite_leaf(params, state) == "b/0"
    assert optim.nonfinite_leaf(params, (state, ())) == "b/0"


def test_a_guard_compiles_to_no_more_for_every_array_where_there_are_more_of_them():
    optimizer = optim.skip_nonfinite(optim.sgd(LR))

    def size(arrays):
        params = [jnp.ones(2)] * arrays
        return len(
            jax.jit(optimizer.update)
            .lower(params, optimizer.init(params), params)
            .compile()
            .as_text()
        )

    assert size(20) < 2.2 * size(10)


def test_the_guard_keeps_the_key_of_the_noise_inside():
    optimizer = optim.skip_nonfinite(optim.gradient_noise(0.1, key=KEY))
    params = tree(0, "float32")
    state = optimizer.init(params)
    updates, skipped = optimizer.update(spoiled(params, np.nan), state, params)
    assert not flat(updates).any()
    assert (jax.random.key_data(skipped.inner.key) == jax.random.key_data(KEY)).all()
    assert int(skipped.inner.step) == 0


def test_every_group_goes_by_its_own_rule_and_the_first_pattern_wins(float64):
    optimizer = optim.by_path({"b/1": optim.sgd(0.0), "b/*": optim.sgd(LR)}, optim.sgd(1.0))
    updates, _ = optimizer.update(tree(1), optimizer.init(tree(0)), tree(0))
    expected = {"a": -tree(1)["a"], "b": (-LR * tree(1)["b"][0], 0 * tree(1)["b"][1])}
    assert_close(flat(updates), flat(expected))


def test_optimizers_keep_no_state_for_what_is_not_theirs():
    params = tree(0, "float32")
    state = optim.freeze(optim.adam(LR), "a").init(params)
    shapes = [a.shape for a in jax.tree.leaves(state) if a.ndim]
    assert shapes == [(4,), (4,)]


def test_a_mask_may_be_a_prefix_of_the_tree(float64):
    optimizer = optim.masked(optim.sgd(LR), {"a": False, "b": True})
    updates, _ = optimizer.update(tree(1), optimizer.init(tree(0)), tree(0))
    assert_close(flat(updates["a"]), flat(tree(1)["a"]))
    assert_close(flat(updates["b"]), -LR * flat(tree(1)["b"]))


def test_the_plateau_waits_rests_and_stops_at_the_least():
    losses = [5.0, 4.0, 3.9, 3.9, 3.9, 3.9, 3.9, 3.9, 3.0, 3.0, 3.0, 3.0]
    optimizer = optim.reduce_on_plateau(0.5, 2, tolerance=0.1, cooldown=2, least=0.2)
    params, scales = jnp.ones(1), []
    state = optimizer.init(params)
    for loss in losses:

        def gradient_at(p, loss=loss):
            return ((jnp.float32(loss), ()), p)

        _, updates, state = optim.take_step(optimizer, gradient_at, params, state)
        scales.append(float(updates[0]))
    assert scales == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, pytest.approx(0.2)]


def network():
    return fnn.serial(fnn.dense(6), fnn.batch_norm(), fnn.tanh(), fnn.dropout(0.3), fnn.dense(2))


def batch(examples=8):
    random = np.random.default_rng(0)
    x = random.normal(size=(examples, 4)).astype("float32")
    return x, random.normal(size=(examples, 2)).astype("float32")


@pytest.mark.parametrize("gradient", ["manual", "auto"])
def test_a_sharpness_aware_step_is_two_gradients_with_the_same_chance(gradient):
    model, loss = network(), fnn.losses.squared_error()
    optimizer = optim.chain(optim.sam(0.3), optim.sgd(LR))
    start = fnn.init_train_state(model, optimizer, batch()[0], key=KEY)
    end, metrics = jax.jit(fnn.train_step(model, loss, optimizer, gradient))(start, batch())

    of = jax.jit(fnn.value_and_grad(model, loss))
    key = jax.random.fold_in(start.key, 0)
    (value, state), grads = of(start.params, start.state, batch(), key=key)
    uphill = jax.tree.map(
        lambda p, g: p + 0.3 * g / np.linalg.norm(flat(grads)).astype("float32"),
        *(start.params, grads),
    )
    _, grads = of(uphill, start.state, batch(), key=key)
    bound = rounding("float32", 1000)
    np.testing.assert_allclose(metrics["loss"], value, rtol=bound)
    np.testing.assert_allclose(flat(end.state), flat(state), atol=bound)
    np.testing.assert_allclose(
        flat(end.params), flat(start.params) - LR * flat(grads), atol=bound * abs(flat(grads)).max()
    )


def test_accumulated_parts_of_a_batch_are_the_batch(float64):
    model, loss = fnn.serial(fnn.dense(3), fnn.tanh(), fnn.dense(2)), fnn.losses.squared_error()
    x, y = (a.astype("float64") for a in batch())
    whole = optim.adam(LR)
    parts = optim.accumulate(whole, 4)
    start = fnn.init_train_state(model, whole, x, key=KEY)
    expected, _ = fnn.train_step(model, loss, whole)(start, (x, y))
    step = jax.jit(fnn.train_step(model, loss, parts))
    again = fnn.init_train_state(model, parts, x, key=KEY)
    train_state = again._replace(params=start.params, key=start.key)
    for i in range(0, 8, 2):
        train_state, _ = step(train_state, (x[i : i + 2], y[i : i + 2]))
    bound = rounding("float64", 1000)
    np.testing.assert_allclose(flat(train_state.params), flat(expected.params), atol=bound)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.chain(optim.sam(0.05), optim.sgd(LR)),
        lambda: optim.backtracking(optim.lbfgs()),
        lambda: optim.sophia(LR, key=KEY),
        lambda: optim.chain(optim.sgd(LR), optim.reduce_on_plateau()),
        lambda: optim.schedule_free_sgd(LR),
        lambda: optim.muon(LR),
    ],
)
def test_fit_trains_by_rules_of_all_kinds(make):
    model, loss = fnn.serial(fnn.dense(6), fnn.tanh(), fnn.dense(2)), fnn.losses.squared_error()
    x, _ = batch(32)
    _, history = fnn.fit(
        model, loss, make(), (x, x[:, :2] - x[:, 2:]), epochs=20, batch_size=32, key=KEY
    )
    assert history.loss[-1] < 0.8 * history.loss[0]


def test_fit_validates_the_average():
    model, loss = fnn.dense(2), fnn.losses.squared_error()
    optimizer = optim.chain(optim.sgd(LR), optim.ema(0.9))
    train_state, history = fnn.fit(
        model, loss, optimizer, batch(), epochs=3, batch_size=4, key=KEY, validation=batch()
    )
    average = optim.eval_params(train_state.opt_state, train_state.params)
    values = [
        float(loss.apply(model.apply(p, (), batch()[0])[0], batch()[1]).mean())
        for p in (average, train_state.params)
    ]
    np.testing.assert_allclose(
        history.validation["loss"][-1], values[0], rtol=rounding("float32", 100)
    )
    assert abs(values[0] - values[1]) > 100 * rounding("float32", 100) * values[0]


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.sam(0.1),
        optim.chain(optim.sgd(LR), optim.reduce_on_plateau()),
        optax.chain(optim.sam(0.1), optax.sgd(LR)),
    ],
    ids=["alone", "in a chain", "in a chain of optax"],
)
def test_a_rule_that_needs_more_than_the_gradient_says_so(optimizer):
    params = tree(0, "float32")
    with pytest.raises(fnn.InputError, match="expected to be handed the gradient as a function"):
        optimizer.update(params, optimizer.init(params), params)


def test_lbfgs_with_positive_curvature_is_that_of_optax(float64):
    scale = jnp.linspace(0.5, 3.0, 6)
    params = start = jnp.linspace(-1.0, 2.0, 6)
    ours, theirs = optim.lbfgs(0.5, 3), optax.chain(optax.scale_by_lbfgs(3), optax.scale(-0.5))
    state, their_state, their_params = ours.init(start), theirs.init(start), start
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(STEPS):
            updates, state = ours.update(scale * params + params**3, state, params)
            params = params + updates
            updates, their_state = theirs.update(
                scale * their_params + their_params**3, their_state, their_params
            )
            their_params = their_params + updates
    np.testing.assert_allclose(params, their_params, atol=rounding("float64", 1000))


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_muon_iterates_to_singular_values_near_one_and_keeps_the_vectors(shape, float64):
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    u, values, v = np.linalg.svd(orthogonal(matrix, 5), full_matrices=False)
    assert (abs(values - 1) < 0.35).all()
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    polar = left @ right
    np.testing.assert_allclose(u @ np.diag(values) @ v, polar, atol=0.35)
    np.testing.assert_allclose(
        orthogonal(matrix.T, 5), orthogonal(matrix, 5).T, atol=rounding("float64", 100)
    )


def test_half_precision_is_averaged_in_single():
    # Steps of 1/1024 of the mean square: in bfloat16 they would be rounded away.
    optimizer = optim.rmsprop(LR, decay=1 - 2**-10)
    params = jnp.ones(1, "bfloat16")
    state = optimizer.init(params)._replace(square=jnp.ones(1))
    _, state = optimizer.update(2 * params, state, params)
    np.testing.assert_allclose(state.square, 1 + 3 * 2**-10, rtol=rounding("float32", 1))
