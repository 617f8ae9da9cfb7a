"""What stands around optimizers: averages, clips, groups, guards, accumulation; and training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import optim
from fnn.optim import schedule
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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_averages_of_half_precision_are_kept_in_single(dtype):
    # Steps of one unit in the last place, of which the average takes a thousandth each.
    params = jnp.ones(1, dtype)
    unit = float(jnp.finfo(dtype).eps)
    for optimizer in (optim.ema(0.999), optim.lookahead(1, 0.001)):
        state, p = optimizer.init(params), params
        assert optim.eval_params(state, p).dtype == p.dtype
        kept = [np.ones(1)]
        for t in range(1, 6):
            _, state = optimizer.update(jnp.full(1, unit, dtype), state, params)
            average = state.average if hasattr(state, "average") else state.slow
            assert average.dtype == "float32"
            moved = 1 + unit
            if hasattr(state, "average"):
                expected = [moved]
            else:
                expected = kept[-1] + 0.001 * (moved - kept[-1])
            np.testing.assert_allclose(average, expected, rtol=rounding("float32", 3 * t))
            kept.append(np.asarray(expected))
        assert optim.eval_params(state, p).dtype == dtype
        assert optim.eval_params(state, p)[0] == jnp.asarray(kept[-1], dtype).ravel()[0]


def test_a_decay_that_grows_with_the_steps_averages_all_parameters_alike(float64):
    def equal(t):
        return t.astype("float64") / (t.astype("float64") + 1)

    seen, state = walk(optim.chain(optim.sgd(LR), optim.ema(equal)))
    expected = np.mean([flat(p) for p in seen], axis=0)
    assert_close(flat(optim.eval_params(state, seen[-1])), expected)


def test_averages_before_the_first_step_are_the_parameters():
    params = tree(0, "float32")
    for optimizer in (optim.ema(0.9), optim.lookahead(2)):
        average = optim.eval_params(optimizer.init(params), params)
        jax.tree.map(np.testing.assert_array_equal, average, params)


CLIPS = {
    "clip_by_norm": optim.clip_by_norm,
    "clip_by_global_norm": optim.clip_by_global_norm,
    # The weights have norm 1.
    "clip_by_unit_norm": optim.clip_by_unit_norm,
}


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize(
    ("entry", "limit"),
    [(1e20, 1.0), (1e30, 1e-9), (1e38, 1.0), (1e-30, 1e-31), (1e-30, 1e-29), (1e-19, 1e-20)],
)
def test_clipping_knows_norms_whose_squares_are_infinite_or_zero(name, entry, limit):
    optimizer = CLIPS[name](limit)
    params, grads = jnp.array([0.6, 0.8]), jnp.array([0.6 * entry, 0.8 * entry])
    clipped, _ = optimizer.update(grads, optimizer.init(params), params)
    expected = np.array([0.6, 0.8]) * min(entry, limit)
    np.testing.assert_allclose(clipped, expected, rtol=rounding("float32", 20), atol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CLIPS)
def test_clipping_of_half_precision_has_factors_beyond_its_range(name, dtype):
    # 10^4 entries of 6e4: the norm is 6e6, and the factor 1e-3 / 6e6, which is 0 in float16.
    size = 10_000
    params, grads = jnp.full(size, 0.01, dtype), jnp.full(size, 6e4, dtype)
    optimizer = CLIPS[name](1e-3)
    clipped, _ = optimizer.update(grads, optimizer.init(params), params)
    assert clipped.dtype == dtype
    # 1e-5 is subnormal in float16: what is left is a multiple of its smallest number.
    smallest = float(jnp.finfo(dtype).smallest_subnormal)
    error = 2 * rounding(dtype, 3) * 1e-5 + smallest
    np.testing.assert_allclose(np.asarray(clipped, np.float64), 1e-5, rtol=0, atol=error)


def test_a_zero_gradient_stays_zero_and_nan_stays_nan():
    params = jnp.ones(2)
    for make in (*CLIPS.values(), optim.clip_by_value):
        optimizer = make(1.0)
        zero, _ = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
        np.testing.assert_array_equal(zero, 0)
        nan, _ = optimizer.update(jnp.array([np.nan, 0.5]), optimizer.init(params), params)
        assert np.isnan(nan[0])


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
def test_schedule_free_optimizers_evaluate_at_the_mean_of_their_base(make, float64):
    params, state, optimizer, bases = tree(0), make().init(tree(0)), make(), []
    for t in range(STEPS):
        updates, state = optimizer.update(tree(t + 1), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        bases.append(flat(state.base))
    assert_close(flat(optim.eval_params(state, params)), np.mean(bases, axis=0))


def test_an_average_is_found_inside_of_any_optimizer_and_for_a_part_of_the_parameters(float64):
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
    take, take_bare = jax.jit(guarded.update), jax.jit(bare.update)
    params, state = tree(0), guarded.init(tree(0))
    assert optim.nonfinite_leaf(params, state) is None
    kept, kept_state = tree(0), bare.init(tree(0))
    for t in range(4):
        gradient = spoiled(tree(t + 1), value) if t in (1, 2) else tree(t + 1)
        updates, state = take(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        if t not in (1, 2):
            updates, kept_state = take_bare(gradient, kept_state, kept)
            kept = jax.tree.map(jnp.add, kept, updates)
    np.testing.assert_array_equal(flat(params), flat(kept))
    jax.tree.map(np.testing.assert_array_equal, state.inner, kept_state)
    assert int(state.skipped) == 2
    assert optim.nonfinite_leaf(params, state) == "b/0"
    assert optim.nonfinite_leaf(params, (state, ())) == "b/0"


def test_a_guard_names_the_first_array_and_refuses_to_name_one_of_fewer():
    optimizer, params = optim.skip_nonfinite(optim.sgd(0.1)), {"a": jnp.ones(1), "b": jnp.ones(1)}
    bad = {"a": jnp.ones(1), "b": jnp.full(1, jnp.nan)}
    _, state = optimizer.update(bad, optimizer.init(params), params)
    assert optim.nonfinite_leaf(params, state) == "b"
    first = optimizer.update({**bad, "a": jnp.full(1, jnp.inf)}, state, params)[1]
    assert optim.nonfinite_leaf(params, first) == "a"
    with pytest.raises(fnn.InputError, match="parameters of 2 arrays or more"):
        optim.nonfinite_leaf({"a": params["a"]}, state)


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
    keys = [jax.random.key_data(one.inner.key) for one in (state, skipped)]
    np.testing.assert_array_equal(*keys)
    assert int(skipped.inner.step) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_skipped_step_skips_moments_averages_schedules_noise_and_what_is_gathered(value):
    inner = optim.chain(
        optim.gradient_noise(0.1, key=KEY),
        optim.adam(schedule.cosine(LR, 9)),
        optim.accumulate(optim.momentum(LR), 2),
        optim.lookahead(2),
        optim.ema(0.9),
    )
    optimizer, params = optim.skip_nonfinite(inner), tree(0, "float32")
    state = optimizer.init(params)
    for t in range(3):
        updates, state = optimizer.update(tree(t + 1, "float32"), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    still, skipped = optimizer.update(spoiled(tree(5, "float32"), value), state, params)
    np.testing.assert_array_equal(flat(still), 0)
    data = [
        [jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a
         for a in jax.tree.leaves(one.inner)]
        for one in (state, skipped)
    ]  # fmt: skip
    assert len(data[0]) > 10
    jax.tree.map(np.testing.assert_array_equal, *data)
    assert int(skipped.skipped) == 1


def test_a_skipped_step_skips_the_running_statistics_of_layers():
    x, y = np.random.default_rng(0).normal(size=(8, 3)).astype("float32"), np.arange(8) % 2
    bad = x.copy()
    bad[3] = 3e38  # Finite, but not behind a dense layer and a square.
    model = fnn.serial(fnn.dense(4), fnn.batch_norm(), fnn.relu(), fnn.dense(2))
    optimizer = optim.skip_nonfinite(optim.sgd(0.1))
    start = fnn.init_train_state(model, optimizer, x, key=KEY)
    step = jax.jit(fnn.train_step(model, fnn.losses.cross_entropy(), optimizer))
    one, _ = step(start, (x, y))
    two, _ = step(one, (bad, y))
    assert int(two.opt_state.skipped) == 1
    assert (flat(one.state) != flat(start.state)).any()
    for before, after in ((one.state, two.state), (one.params, two.params)):
        jax.tree.map(np.testing.assert_array_equal, before, after)


def test_a_guard_in_or_around_accumulation_leaves_out_one_gradient_or_the_sum():
    params, gradients = jnp.zeros(1), (1.0, np.nan, 3.0, 5.0)
    ends = {}
    for name, optimizer in (
        ("around", optim.skip_nonfinite(optim.accumulate(optim.sgd(1.0), 2))),
        ("in", optim.accumulate(optim.skip_nonfinite(optim.sgd(1.0)), 2)),
    ):
        state, moved = optimizer.init(params), []
        for g in gradients:
            updates, state = optimizer.update(jnp.array([g]), state, params)
            moved.append(float(updates[0]))
        ends[name] = moved
    assert ends == {"around": [0, 0, -2, 0], "in": [0, 0, 0, -4]}


def test_gradients_of_half_precision_are_gathered_in_single():
    # Their sum is beyond float16, and their mean is not.
    optimizer, params = optim.accumulate(optim.sgd(1.0), 3), jnp.zeros(1, "float16")
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(jnp.full(1, 4e4, "float16"), state, params)
    assert updates[0] == -4e4


def test_wrappers_hand_on_what_optax_asks_for_more():
    def gradient_at(p):
        value, slope = jax.value_and_grad(lambda p: ((p - 3) ** 2).sum())(p)
        return (value, ()), slope

    params = jnp.zeros(2)
    with jax.numpy_dtype_promotion("standard"):
        for optimizer in (
            optim.skip_nonfinite(optax.lbfgs()),
            optim.accumulate(optax.lbfgs(), 1),
            optim.perturbed(optax.lbfgs(), 0.0, key=KEY),
        ):
            state, p = optimizer.init(params), params
            for _ in range(3):
                _, updates, state = optim.take_step(optimizer, gradient_at, p, state)
                p = p + updates
            np.testing.assert_allclose(p, 3, rtol=1e-5)
        plateau = optim.masked(optax.contrib.reduce_on_plateau(), [True, False])
        state = plateau.init([params, params])
        take = optim.take_step(
            plateau, lambda p: ((jnp.float32(1), ()), p), [params, params], state
        )
        assert jax.tree.structure(take[1]) == jax.tree.structure([params, params])


def test_masks_may_be_of_numpy():
    params = [jnp.ones(1), jnp.ones(1)]
    optimizer = optim.masked(optim.sgd(LR), list(np.array([True, False])))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(flat(updates), [-LR, 1], rtol=rounding("float32", 1))


def refused(call):
    with pytest.raises(fnn.InputError) as raised:
        call()
    return str(raised.value)


def test_patterns_that_match_nothing_are_named_before_the_first_step():
    params = {"out": {"weight": jnp.ones(2)}}
    for optimizer in (
        optim.by_path({"*/scale": optim.sgd(LR)}, optim.sgd(LR)),
        optim.freeze(optim.sgd(LR), "*/scale"),
        optim.project({"*/scale": jnp.abs}),
        optim.gradient_noise({"*/scale": 1.0}, key=KEY),
        optim.weight_noise({"*/scale": 1.0}, key=KEY),
        optim.sgld(LR, temperature={"*/scale": 1.0}, key=KEY),
        optim.perturbed(optim.sgd(LR), {"*/scale": 1.0}, key=KEY),
    ):
        assert "got '*/scale'; the parameters are out/weight" in refused(
            lambda optimizer=optimizer: optimizer.init(params)
        )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: optim.by_path([optim.sgd(LR)]), "optimizers by pattern"),
        (lambda: optim.by_path({}).init([jnp.ones(1)]), "a pattern or more, got an empty mapping"),
        (lambda: optim.ema(np.float32(1)), "decay in [0, 1), got 1"),
        (lambda: optim.ema(1 - 1e-12), "decay in [0, 1)"),
        (lambda: optim.ema(lambda t: jnp.float32(1)), "[0, 1), got 1 at step 0"),
        (lambda: optim.ema("0.9"), "decay in [0, 1), got '0.9'"),
        (lambda: optim.lookahead(5, jnp.array(1.5)), "share in [0, 1], got 1.5"),
        (lambda: optim.lookahead(2.0), "every of 1 or more, got 2.0"),
        (lambda: optim.clip_by_global_norm(np.float32(-1)), "max_norm of 0 or more, got -1"),
        (lambda: optim.clip_by_norm(np.inf), "max_norm of 0 or more, got inf"),
        (lambda: optim.clip_by_value(1j), "max_value of 0 or more, got 1j"),
        (lambda: optim.clip_by_unit_norm(0.1, jnp.array(0.0)), "least above 0, got 0"),
        (lambda: optim.accumulate(optim.sgd(LR), True), "steps of 1 or more, got True"),
        (lambda: optim.reduce_on_plateau(jnp.array(np.nan)), "factor in [0, 1), got nan"),
        (lambda: optim.reduce_on_plateau(tolerance=np.int64(1)), "tolerance in [0, 1), got 1"),
        (lambda: optim.reduce_on_plateau(cooldown=1.5), "cooldown of 0 or more, got 1.5"),
        (lambda: optim.reduce_on_plateau(least=-0.1), "least of 0 or more, got -0.1"),
        (lambda: optim.nonfinite_leaf([], optim.sgd(LR).init([])), "an optimizer with a guard"),
        (
            lambda: jax.jit(
                lambda state: optim.nonfinite_leaf([], state) or 0
            )(optim.skip_nonfinite(optim.sgd(LR)).init([])),
            "the state of one optimizer, its values known",
        ),
    ],
)  # fmt: skip
def test_what_stands_around_optimizers_refuses_by_value(call, words):
    assert words in refused(call)


def test_every_group_goes_by_its_own_optimizer_and_the_first_pattern_wins(float64):
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
def test_fit_trains_by_optimizers_of_all_kinds(make):
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
def test_an_optimizer_that_needs_more_than_the_gradient_says_so(optimizer):
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
    state = optimizer.init(params)._replace(root=jnp.ones(1))
    _, state = optimizer.update(2 * params, state, params)
    np.testing.assert_allclose(state.root**2, 1 + 3 * 2**-10, rtol=rounding("float32", 3))
