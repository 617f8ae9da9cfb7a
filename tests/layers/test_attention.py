"""Attention and the transformer: what the table of layers cannot say."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st

import fnn
from fnn._core.tree import inexact_leaves
from fnn.lab.check import moved_place
from fnn.layers.attention import _blockwise, _kernel
from fnn.layers.attention._blocks import Blocks
from fnn.layers.attention._blockwise import Again, Scoring, attend, attend_backward
from tests.core.test_errors import Bad, assert_complains, initialized, ones, parametrize
from tests.layers.test_laws import assert_close

KEY = jax.random.key(5)
# One block, and many.
BLOCKS = pytest.mark.parametrize("block", [128, 2], ids=["whole", "blocks"])


@functools.partial(jax.jit, static_argnums=0)
def there_and_back(layer, x, weights=None):
    """Output and gradient of a layer, away from where it starts; some outputs may not count."""
    params, state = moved_place(layer, x, KEY)
    y, _, residuals = layer.forward(params, state, x)
    dy = jax.tree.map(jnp.cos, inexact_leaves(y))
    if weights is not None:
        dy = jax.tree.map(lambda d: d * weights[..., None].astype(d.dtype), dy)
    return y, layer.backward(params, residuals, dy)


def normal(*shape, dtype="float32"):
    return jax.random.normal(jax.random.key(3), shape, dtype)


@BLOCKS
def test_causal_attention_sees_no_step_of_the_future(block):
    layer, x = fnn.attention(2, causal=True, block=block), normal(2, 7, 4)
    y, _ = there_and_back(layer, x, jnp.ones((2, 7)))
    for t in range(7):
        past = jnp.broadcast_to(jnp.arange(7) <= t, (2, 7))
        other, (_, dx) = there_and_back(layer, jnp.where(past[..., None], x, x + 9), past)
        np.testing.assert_array_equal(other[:, : t + 1], y[:, : t + 1])
        np.testing.assert_array_equal(dx[:, t + 1 :], 0)
        assert dx[:, : t + 1].all()


@BLOCKS
def test_what_is_in_the_padding_does_not_matter(block):
    layer, lengths = fnn.attention(2, block=block), jnp.array([7, 3, 0])
    there = jnp.arange(7)[None] < lengths[:, None]

    def run(padding):
        x = jnp.where(there[..., None], normal(3, 7, 4), padding)
        y, (dparams, dx) = there_and_back(layer, fnn.Sequence(x, lengths), there)
        return y.values[there], dparams, dx.values

    results = run(0.0)
    for padding in (1e4, jnp.nan):
        jax.tree.map(np.testing.assert_array_equal, run(padding), results)
    assert not results[2][~there].any()
    assert results[2][:2][there[:2]].all()


@BLOCKS
@pytest.mark.parametrize("pair", [False, True], ids=["self", "cross"])
def test_nan_in_padding_reaches_nothing_that_is_there(pair, block):
    """Neither of a mask, nor of a memory, nor out of the cotangent of what is padded."""
    layer = fnn.attention(2, block=block, causal=not pair)
    mask = np.array([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)

    def spoil(values, padding):
        return fnn.Sequence(jnp.where(mask[..., None], values, padding), mask)

    def run(padding):
        x = spoil(normal(3, 5, 4), padding)
        x = (x, spoil(normal(3, 5, 6), padding)) if pair else x
        params, state = moved_place(layer, x, KEY)
        y, _, residuals = layer.forward(params, state, x)
        dy = spoil(jnp.cos(y.values), padding)._replace(lengths=None)
        return y, layer.apply(params, state, x)[0], layer.backward(params, residuals, dy)

    # One program for both: what XLA knows of the padding may change the order of a sum.
    compiled = jax.jit(run)
    clean, spoiled = compiled(0.0), compiled(np.nan)
    jax.tree.map(np.testing.assert_array_equal, spoiled, clean)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    assert not clean[0].values[~mask].any()


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("norm_first", [True, False])
def test_nan_in_padding_reaches_nothing_of_a_transformer_that_is_there(norm_first, cross):
    layer = fnn.transformer_block(2, norm_first=norm_first, cross=cross, activation="relu")
    lengths = np.array([3, 1])
    there = (np.arange(3) < lengths[:, None])[..., None]

    def run(padding):
        x = fnn.Sequence(jnp.where(there, normal(2, 3, 4), padding), lengths)
        x = (x, x) if cross else x
        params, state = moved_place(layer, x, KEY)
        y, _, residuals = layer.forward(params, state, x)
        dy = jax.tree.map(lambda a: jnp.where(there, jnp.cos(a), 0), inexact_leaves(y))
        dparams, dx = layer.backward(params, residuals, dy)
        return [jnp.where(there, a, 0) for a in jax.tree.leaves((inexact_leaves(y), dx))], dparams

    jax.tree.map(np.testing.assert_array_equal, run(np.nan), run(0.0))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
def test_lengths_of_small_integers_do_not_overflow(dtype):
    layer, x = fnn.attention(1), normal(2, 300, 2)
    params, state = layer.init(KEY, x)
    lengths = np.array([100, 3], dtype)
    small, plain = (
        layer.apply(params, state, fnn.Sequence(x, n))[0].values
        for n in (lengths, lengths.astype("int32"))
    )
    np.testing.assert_array_equal(small, plain)
    assert plain[0, :100].all()
    assert not plain[0, 100:].any()


@BLOCKS
@pytest.mark.parametrize("size", [1e15, -1e15])
def test_huge_scores_pick_one_key_and_none_is_nan(size, block):
    """Scores of 1e30: softmax is the choice of the largest, and its slope is 0."""
    layer = fnn.attention(1, bias=False, block=block)
    x = normal(1, 5, 4)
    eye = {name: {"weight": jnp.eye(4)} for name in ("query", "key", "value", "output")}
    huge = {**eye, "query": {"weight": size * jnp.eye(4)}, "key": {"weight": 1e15 * jnp.eye(4)}}
    y, _, residuals = layer.forward(huge, (), x)
    dparams, dx = layer.backward(huge, residuals, jnp.cos(y))
    picked = jnp.take_along_axis(x, (np.sign(size) * x @ x.mT).argmax(-1)[..., None], 1)
    np.testing.assert_array_equal(y, picked)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((dparams, dx)))


@BLOCKS
def test_a_bias_of_the_lowest_number_hides_a_key_and_alike_all_of_them(block):
    """As in many scripts: where a row hides all keys alike, it sees all alike."""
    lowest = float(np.finfo("float32").min)
    x = normal(1, 5, 4)

    def y(score_bias, x=x):
        layer = fnn.attention(2, score_bias=score_bias, block=block)
        return there_and_back(layer, x)

    future = y(lambda t, s: jnp.where(s > t, lowest, 0))
    assert_close(future, there_and_back(fnn.attention(2, causal=True), x), "float32", x.size)
    # A query of 0 scores all keys alike.
    none = fnn.attention(2, score_bias=lambda t, s: jnp.full_like(t - s, lowest), block=block)
    params, state = moved_place(none, x, KEY)
    params["query"] = jax.tree.map(jnp.zeros_like, params["query"])
    plain = fnn.attention(2).apply(params, state, x)[0]
    for face in (none.apply, none.forward):
        assert_close(face(params, state, x)[0], plain, "float32", x.size)


@BLOCKS
def test_an_empty_batch_goes_there_and_back(block):
    layer = fnn.transformer_block(2, block=block)
    y, (dparams, dx) = there_and_back(layer, jnp.zeros((0, 5, 4)))
    assert y.shape == dx.shape == (0, 5, 4)
    assert not any(leaf.any() for leaf in jax.tree.leaves(dparams))


def test_lengths_of_all_steps_and_a_mask_are_what_no_lengths_are():
    layer, x = fnn.attention(2, block=2), normal(2, 5, 4)
    y, gradient = there_and_back(layer, x)
    for lengths in (jnp.array([5, 5]), jnp.ones((2, 5), bool)):
        padded, (dparams, dx) = there_and_back(layer, fnn.Sequence(x, lengths))
        assert_close((padded.values, dparams, dx.values), (y, *gradient), "float32", x.size)


@BLOCKS
def test_a_step_that_sees_nothing_gives_the_bias_of_the_output(block):
    layer = fnn.attention(2, block=block)
    x = normal(1, 5, 4), fnn.Sequence(normal(1, 5, 4), jnp.array([0]))
    params, state = moved_place(layer, x, KEY)
    y, _, residuals = layer.forward(params, state, x)
    expected = jnp.broadcast_to(params["output"]["bias"], (1, 5, 4))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(layer.apply(params, state, x)[0], expected)
    _, (dx, dmemory) = layer.backward(params, residuals, y)
    assert not dx.any()
    assert not dmemory.values.any()


def test_without_positions_a_permutation_of_steps_is_one_of_outputs():
    layer, x, order = fnn.attention(2, block=2), normal(1, 5, 4), jnp.array([3, 0, 4, 1, 2])
    y, (dparams, dx) = there_and_back(layer, x)
    permuted, (same, moved) = there_and_back(layer, x[:, order])
    assert_close(permuted, y[:, order], "float32", x.size)
    assert_close((same, moved), (dparams, dx[:, order]), "float32", x.size)


def test_attending_to_oneself_as_a_memory_is_self_attention():
    layer, x = fnn.attention(2, causal=True), normal(2, 5, 4)
    y, (dparams, dx) = there_and_back(layer, x)
    pair, (same, both) = there_and_back(layer, (x, x))
    assert_close((pair, same, both[0] + both[1]), (y, dparams, dx), "float32", x.size)


def test_shared_keys_are_keys_repeated_for_every_head():
    x = normal(2, 5, 8)
    shared = fnn.attention(4, key_value_heads=2)
    params, state = moved_place(shared, x, KEY)

    def repeated(a):
        return jnp.repeat(a.reshape(*a.shape[:-1], 2, 2), 2, -2).reshape(*a.shape[:-1], 8)

    every = params | {name: jax.tree.map(repeated, params[name]) for name in ("key", "value")}
    y = fnn.attention(4).apply(every, state, x)[0]
    assert_close(shared.apply(params, state, x)[0], y, "float32", x.size)


def test_rotary_scores_depend_on_the_distance_only():
    with jax.enable_x64(True):
        q, k = (jnp.broadcast_to(a, (8, 1, 6)) for a in normal(2, 1, 1, 6, dtype="float64"))
        q, k = (np.asarray(fnn.rotary(30.0).apply((), (), a)[0][:, 0]) for a in (q, k))
    scores = q @ k.T
    for distance in range(-7, 8):
        along = np.diagonal(scores, distance)
        assert np.abs(along - along[0]).max() < 1e-12
    assert np.ptp(scores[0]) > 0.1


def test_rotary_attention_turns_as_the_layer_does():
    x = normal(1, 4, 6)
    layer, turn = fnn.attention(1, rotary=30.0), fnn.rotary(30.0)
    params, state = moved_place(layer, x, KEY)
    q, k, v = (fnn.dense(6).apply(params[n], (), x)[0] for n in ("query", "key", "value"))
    q, k = (turn.apply((), (), a[:, :, None])[0][:, :, 0] for a in (q, k))
    p = jax.nn.softmax(q @ k.mT / 6**0.5)
    y = fnn.dense(6).apply(params["output"], (), p @ v)[0]
    assert_close(layer.apply(params, state, x)[0], y, "float32", x.size)


@BLOCKS
def test_dropout_drops_probabilities_in_training_and_keeps_their_mean(block):
    rate, steps = 0.25, 8
    dropping, plain = fnn.attention(1, dropout=rate, block=block), fnn.attention(1, block=block)
    x = normal(64, steps, steps)
    params, _ = plain.init(KEY, x)
    # Every step has a channel of its own as its value, and y is p itself.
    p_itself = {name: {"weight": jnp.eye(steps), "bias": jnp.zeros(steps)} for name in params}
    memory = jnp.broadcast_to(jnp.eye(steps), x.shape)
    p = plain.apply(p_itself, (), (x, memory))[0]
    run = jax.jit(dropping.apply, static_argnames="train")
    y, again, other = (
        run(p_itself, (), (x, memory), key=jax.random.key(seed), train=True)[0]
        for seed in (1, 1, 2)
    )
    kept = y != 0
    assert_close(y, jnp.where(kept, p / (1 - rate), 0), "float32", y.size)
    assert abs(kept.mean() - (1 - rate)) < 4 * (rate * (1 - rate) / y.size) ** 0.5
    np.testing.assert_array_equal(again, y)
    assert (other != y).any()
    np.testing.assert_array_equal(dropping.apply(p_itself, (), (x, memory))[0], p)
    # No two examples and no two pairs of blocks are dropped alike.
    assert len(np.unique(kept.reshape(64, -1), axis=0)) == 64
    pairs = kept.reshape(64, 4, 2, 4, 2).transpose(1, 3, 0, 2, 4).reshape(16, -1)
    assert len(np.unique(pairs, axis=0)) == 16
    by_hand, _, residuals = dropping.forward(
        p_itself, (), (x, memory), key=jax.random.key(1), train=True
    )
    assert_close(by_hand, y, "float32", y.size)
    assert not any(leaf.dtype == bool for leaf in jax.tree.leaves(residuals))


@settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    steps=st.integers(1, 9),
    keys=st.integers(1, 9),
    groups=st.integers(1, 2),
    causal=st.booleans(),
    masked=st.booleans(),
    biased=st.booleans(),
    block=st.integers(1, 4),
)
def test_the_size_of_blocks_changes_nothing(steps, keys, groups, causal, masked, biased, block):
    with jax.enable_x64(True):
        q = normal(2, 1, groups, steps, 3, dtype="float64")
        k, v = normal(2, 2, 1, keys, 3, dtype="float64")
        present = normal(2, keys) > 0 if masked else None
        scoring = Scoring(causal, (lambda t, s: 3 * jnp.sin(t + 2 * s)) if biased else None)

        @functools.partial(jax.jit, static_argnums=0)
        def run(block, q, k, v):
            o, saved = attend(q, k, v, present, scoring, block)
            do = jnp.cos(o)
            return o, attend_backward(q, k, v, present, o, saved, do, scoring, block)

        assert_close(run(block, q, k, v), run(9, q, k, v), "float64", 100)


@BLOCKS
@pytest.mark.parametrize("masked", [False, True])
def test_the_batch_in_parts_is_the_batch_as_a_whole(monkeypatch, masked, block):
    q, do = normal(2, 6, 2, 2, 5, 3)
    k, v = normal(2, 6, 2, 5, 3)
    present = normal(6, 5) > 0 if masked else None

    def run(*arrays):
        *arrays, do = arrays
        o, saved = attend(*arrays, present, Scoring(True, None), block)
        return o, attend_backward(*arrays, present, o, saved, do, Scoring(True, None), block)

    whole = run(q, k, v, do)
    rows = Blocks.of(q, k, block).rows
    monkeypatch.setattr(_blockwise, "_BYTES", 2 * (4 * rows**2) * 4)
    program = jax.make_jaxpr(lambda *arrays: run(*arrays))(q, k, v, do).jaxpr
    loops = [e.params["length"] for e in program.eqns if e.primitive.name == "scan"]
    assert loops == [3, 3]
    assert_close(run(q, k, v, do), whole, "float32", 10)


def inside(equation):
    """The programs that an equation runs: the body of a loop, a function under jit, one choice."""
    for value in equation.params.values():
        value = value[0] if isinstance(value, tuple) and value else value
        program = getattr(value, "jaxpr", value)
        if hasattr(program, "eqns"):
            yield program


def largest(program):
    """The size of the largest array that a program computes, programs within it included."""
    own = [math.prod(variable.aval.shape) for e in program.eqns for variable in e.outvars]
    return max(own + [largest(inner) for e in program.eqns for inner in inside(e)], default=0)


def work(program):
    """The matrix products that a program runs, those of a loop as often as it goes around."""
    count = 0
    for equation in program.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        count += equation.primitive.name == "dot_general"
        count += sum(times * work(inner) for inner in inside(equation))
    return count


def program(layer, gradient, x):
    params, state = layer.init(KEY, x)
    target = jnp.zeros(x.shape)
    step = fnn.value_and_grad(layer, fnn.losses.squared_error(), gradient)
    return jax.make_jaxpr(step)(params, state, (x, target)).jaxpr


def test_by_hand_no_array_holds_all_scores():
    x = normal(1, 64, 4)
    assert largest(program(fnn.attention(2, block=8), "manual", x)) < 64 * 64 / 4
    assert largest(program(fnn.attention(2, block=8), "auto", x)) >= 2 * 64 * 64


def test_causal_attention_skips_the_blocks_of_the_future():
    x = normal(1, 64, 4)
    # 7 products of each pair of blocks, and 3 of each of the 4 dense layers.
    dense = 12
    assert work(program(fnn.attention(2, block=8), "manual", x)) == 7 * 64 + dense
    assert work(program(fnn.attention(2, block=8, causal=True), "manual", x)) == 7 * 36 + dense


def test_a_large_bias_does_not_overflow_where_the_last_block_is_filled_up():
    # A bias that all keys share is none; that of the step which there is not is past exp.
    layer = fnn.attention(1, score_bias=lambda t, s: 200 * t, block=2)
    with jax.enable_x64(True):
        x = normal(1, 5, 4, dtype="float64")
        plain = there_and_back(fnn.attention(1, block=2), x)
        assert_close(there_and_back(layer, x), plain, "float64", 1000)


def test_a_transformer_block_takes_arrays_and_sequences_alike():
    layer = fnn.transformer_block(2, causal=True)
    x = normal(2, 5, 4)
    y, gradient = there_and_back(layer, x)
    padded, (dparams, dx) = there_and_back(layer, fnn.Sequence(x, jnp.array([5, 5])))
    assert_close((padded.values, (dparams, dx.values)), (y, gradient), "float32", x.size)
    short, _ = there_and_back(layer, fnn.Sequence(x, jnp.array([5, 3])))
    assert_close(short.values[1, :3], y[1, :3], "float32", x.size)


def test_a_transformer_block_drops_what_it_adds_and_only_in_training():
    layer, x = fnn.transformer_block(2, dropout=0.4), normal(1, 3, 4)
    fnn.check_layer(layer, x, numeric=False)
    params, state = moved_place(layer, x, KEY)
    run = jax.jit(layer.apply, static_argnames="train")
    y, noisy = (run(params, state, x, key=KEY, train=train)[0] for train in (False, True))
    assert (noisy != y).any()
    plain = fnn.transformer_block(2)
    parts = {name: {"norm": part["norm"], "layer": part["layer"]} for name, part in params.items()}
    _, state = jax.eval_shape(plain.init, KEY, x)
    assert_close(plain.apply(parts, state, x)[0], y, "float32", x.size)


def test_the_halves_of_a_transformer_block_can_be_reversible():
    attend = fnn.serial(norm=fnn.layer_norm(), layer=fnn.attention(2))
    feed = fnn.serial(norm=fnn.layer_norm(), layer=fnn.mlp())
    fnn.check_layer(fnn.reversible(attend, feed), normal(1, 3, 8), numeric=False)


def test_a_transformer_block_names_its_parameters_by_what_they_do():
    layer = fnn.transformer_block(2, dropout=0.1)
    params, _ = layer.init(KEY, normal(1, 3, 4))
    dense = {"weight", "bias"}
    assert set(params["attention"]["layer"]) == {"query", "key", "value", "output"}
    assert set(params["attention"]["layer"]["query"]) == dense
    assert set(params["attention"]["norm"]) == {"scale", "shift"}
    assert params["mlp"]["layer"]["up"]["weight"].shape == (4, 16)
    assert "attention/layer" in str(fnn.summary(layer, normal(1, 3, 4)))


@pytest.mark.parametrize("bias", [None, True, False])
def test_without_bias_no_layer_of_a_transformer_block_adds_one(bias):
    """As in `torch.nn.TransformerEncoderLayer`, whose layer norms have none either."""
    params, _ = fnn.transformer_block(2, bias=bias).init(KEY, normal(1, 3, 4))
    names = [path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    added = [name for name in names if name in ("bias", "shift")]
    assert len(added) == (0 if bias is False else 4 + 2 + 2)
    assert len(names) - len(added) == 4 + 2 + 2


def test_rotary_takes_flags_of_numpy_and_scalars_of_jax():
    x = normal(1, 3, 4)
    y, _ = there_and_back(fnn.attention(2, rotary=True), x)
    for rotary in (np.True_, 10_000.0, jnp.float32(10_000)):
        np.testing.assert_array_equal(there_and_back(fnn.attention(2, rotary=rotary), x)[0], y)
    plain, _ = there_and_back(fnn.attention(2), x)
    np.testing.assert_array_equal(there_and_back(fnn.attention(2, rotary=np.False_), x)[0], plain)


def test_a_gate_is_as_large_as_a_layer_without():
    x = normal(1, 6)
    plain, gated = (
        fnn.mlp(activation=name, bias=False).init(KEY, x)[0] for name in ("relu", "geglu")
    )
    sizes = [sum(a.size for a in jax.tree.leaves(p)) for p in (plain, gated)]
    assert sizes == [2 * 6 * 24, 3 * 6 * 16]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", ["gelu", "relu", "silu"])
def test_an_mlp_is_dense_activation_dense(name):
    x = normal(3, 4)
    layer = fnn.mlp(5, activation=name)
    params, _ = moved_place(layer, x, KEY)
    other = fnn.serial(up=fnn.dense(5), activation=getattr(fnn, name)(), down=fnn.dense(4))
    state = {"up": (), "activation": (), "down": ()}
    np.testing.assert_array_equal(
        layer.apply(params, state, x)[0], other.apply(params, state, x)[0]
    )


def test_weights_of_an_encoder_in_pytorch_are_found_by_their_names():
    random = np.random.default_rng(3)
    weights = {
        "embed.weight": random.normal(size=(5, 4)),
        "layer.self_attn.in_proj_weight": random.normal(size=(12, 4)),
        "layer.self_attn.in_proj_bias": random.normal(size=12),
        "layer.self_attn.out_proj.weight": random.normal(size=(4, 4)),
        "layer.self_attn.out_proj.bias": random.normal(size=4),
    }
    model = fnn.serial(fnn.embedding(5, 4), fnn.residual(fnn.attention(2)))
    (embedding, attention), _ = fnn.from_torch(model, weights, jnp.zeros((1, 3), "int32"))
    np.testing.assert_allclose(embedding["weight"], weights["embed.weight"], 1e-6)
    stacked = weights["layer.self_attn.in_proj_weight"]
    np.testing.assert_allclose(attention["key"]["weight"], stacked[4:8].T, 1e-6)
    np.testing.assert_allclose(
        attention["value"]["bias"], weights["layer.self_attn.in_proj_bias"][8:], 1e-6
    )
    np.testing.assert_allclose(
        attention["output"]["weight"], weights["layer.self_attn.out_proj.weight"].T, 1e-6
    )


def bad(name, call, expected, got):
    return Bad(name, call, "attention", expected, got)


@parametrize(
    [
        bad("heads", lambda: fnn.attention(0), "heads of 1 or more", "0"),
        bad("heads-float", lambda: fnn.attention(2.0), "heads of 1 or more", r"2\.0"),
        bad(
            "key_value_heads",
            lambda: fnn.attention(2, key_value_heads=0),
            "key_value_heads of 1 or more",
            "0",
        ),
        bad(
            "key_value_heads-divide",
            lambda: fnn.attention(4, key_value_heads=3),
            "key_value_heads that divide the 4 heads",
            "3",
        ),
        bad("width", lambda: fnn.attention(2, head_width=0), "head_width of 1 or more", "0"),
        bad("block", lambda: fnn.attention(2, block=0), "block of 1 or more", "0"),
        bad("causal", lambda: fnn.attention(2, causal="no"), "causal of True or False", "'no'"),
        bad("bias", lambda: fnn.attention(2, bias="False"), "bias of True or False", "'False'"),
        bad("base", lambda: fnn.attention(2, rotary=0), "a base above 0", "0"),
        bad("no-base", lambda: fnn.attention(2, rotary=None), "a base above 0", "None"),
        bad("base-string", lambda: fnn.attention(2, rotary="yes"), "a base above 0", "'yes'"),
        bad(
            "score_bias",
            lambda: fnn.attention(2, score_bias=jnp.ones(())),
            "score_bias to be a function",
            r"float32 of shape \(\)",
        ),
        bad("rate", lambda: fnn.attention(2, dropout=1.0), r"dropout in \[0, 1\)", r"1\.0"),
        bad("base-inf", lambda: fnn.attention(2, rotary=np.inf), "a base above 0", "inf"),
        bad(
            "initializer",
            lambda: fnn.attention(2, initializer="normal"),
            "initializer to be a function",
            "'normal'",
        ),
        bad("rate-complex", lambda: fnn.attention(2, dropout=0.1j), r"dropout in \[0, 1\)", "0.1j"),
        Bad("mlp-bias", lambda: fnn.mlp(bias=1), "mlp", "bias of True or False", "1"),
        Bad(
            "mlp-gate-bias",
            lambda: fnn.mlp(activation="swiglu", bias=True),
            "mlp",
            "no bias for 'swiglu'",
            "True",
        ),
        Bad(
            "block-bias",
            lambda: fnn.transformer_block(2, bias="no"),
            "transformer_block",
            "bias of True or False",
            "'no'",
        ),
        Bad(
            "block-gate-bias",
            lambda: fnn.transformer_block(2, bias=True, activation="geglu"),
            "mlp",
            "no bias for 'geglu'",
            "True",
        ),
        Bad("mlp", lambda: fnn.mlp(0), "mlp", "a hidden of 1 or more", "0"),
        Bad(
            "activation",
            lambda: fnn.mlp(activation="sin"),
            "mlp",
            "activation of 'gelu', .*",
            "'sin'",
        ),
        Bad(
            "norm",
            lambda: fnn.transformer_block(2, norm="batch_norm"),
            "transformer_block",
            "norm of 'layer_norm', 'rms_norm'",
            "'batch_norm'",
        ),
        Bad(
            "norm_first",
            lambda: fnn.transformer_block(2, norm_first="no"),
            "transformer_block",
            "norm_first of True or False",
            "'no'",
        ),
        Bad(
            "cross",
            lambda: fnn.transformer_block(2, cross=1),
            "transformer_block",
            "cross of True or False",
            "1",
        ),
        Bad(
            "attention_dropout",
            lambda: fnn.transformer_block(2, attention_dropout=-0.1),
            "transformer_block",
            r"attention_dropout in \[0, 1\)",
            r"-0\.1",
        ),
        Bad(
            "dropout",
            lambda: fnn.transformer_block(2, dropout=1.0),
            "transformer_block",
            r"dropout in \[0, 1\)",
            r"1\.0",
        ),
        Bad(
            "dropout-flag",
            lambda: fnn.transformer_block(2, dropout=False),
            "transformer_block",
            r"dropout in \[0, 1\)",
            "False",
        ),
    ]
)
def test_options_are_refused(bad):
    assert_complains(bad, bad.call)


def applied(layer, like):
    """Initialize a layer for one input, and apply it to another."""

    def call(x):
        params, state = layer.init(KEY, like)
        return layer.apply(params, state, x)

    return call


def sequence(*lengths, dtype="int32"):
    return fnn.Sequence(ones(2, 3, 4), jnp.array(lengths, dtype))


CROSS = (ones(2, 3, 4), ones(2, 5, 6))


@pytest.mark.parametrize(
    ("x", "bad"),
    [
        pytest.param(x, bad(name, call, expected, got), id=name)
        for name, call, x, expected, got in (
            (
                "divide",
                initialized(fnn.attention(3)),
                ones(2, 3, 4),
                "channels in 3 equal heads",
                "4 channels",
            ),
            (
                "odd-rotary",
                initialized(fnn.attention(2, rotary=True)),
                ones(2, 3, 6),
                "an even head_width for rotary",
                "3",
            ),
            (
                "rank",
                initialized(fnn.attention(2)),
                ones(3, 4),
                r"x of shape \(B, T, C\)",
                r"\(3, 4\)",
            ),
            (
                "no-steps",
                initialized(fnn.attention(2)),
                ones(2, 0, 4),
                r"x of shape \(B, T, C\)",
                r"\(2, 0, 4\)",
            ),
            (
                "integers",
                initialized(fnn.attention(2)),
                ones(2, 3, 4, dtype="int32"),
                "x of a floating dtype",
                "int32 of shape .*",
            ),
            (
                "channels",
                applied(fnn.attention(2), ones(2, 3, 4)),
                ones(2, 3, 6),
                r"x of shape \(B, T, 4\)",
                r"\(2, 3, 6\)",
            ),
            (
                "memory-channels",
                applied(fnn.attention(2), CROSS),
                (CROSS[0], ones(2, 5, 7)),
                r"memory of shape \(B, T, 6\)",
                r"\(2, 5, 7\)",
            ),
            (
                "memory-rank",
                initialized(fnn.attention(2)),
                (CROSS[0], ones(5, 6)),
                r"memory of shape \(B, T, C\)",
                r"\(5, 6\)",
            ),
            (
                "memory-batch",
                applied(fnn.attention(2), CROSS),
                (CROSS[0], ones(1, 5, 6)),
                "a memory of batch 2",
                "1",
            ),
            (
                "three",
                initialized(fnn.attention(2)),
                (*CROSS, CROSS[1]),
                r"x or \(x, memory\)",
                "a tuple of 3",
            ),
            (
                "lengths-shape",
                initialized(fnn.attention(2)),
                sequence(1, 2, 3),
                r"lengths of shape \(2,\) .*",
                r"int32 of shape \(3,\)",
            ),
            (
                "lengths-float",
                applied(fnn.attention(2), ones(2, 3, 4)),
                (CROSS[0], sequence(1, 2, dtype="float32")),
                r"lengths of shape \(2,\) .*",
                r"float32 of shape \(2,\)",
            ),
            (
                "score_bias-class",
                applied(fnn.attention(2, score_bias=int), ones(2, 3, 4)),
                ones(2, 3, 4),
                r"a score_bias of shape \(3, 3\) or \(2, 3, 3\)",
                r"\w*Error",
            ),
            (
                "score_bias-shape",
                applied(
                    fnn.attention(2, score_bias=lambda t, s: jnp.zeros((3, 3, 3))), ones(2, 3, 4)
                ),
                ones(2, 3, 4),
                r"a score_bias of shape \(3, 3\) or \(2, 3, 3\)",
                r"\(3, 3, 3\)",
            ),
        )
    ],
)
def test_arrays_are_refused(x, bad):
    assert_complains(bad, bad.call, x)
    assert_complains(bad, jax.jit(bad.call), x)


def test_dropout_in_training_without_a_key_is_refused():
    layer, x = fnn.attention(2, dropout=0.5), ones(2, 3, 4)
    params, state = layer.init(KEY, x)
    for call in (layer.apply, layer.forward):
        wrong = bad("no-key", call, "a key in training", "None")
        assert_complains(wrong, functools.partial(call, train=True), params, state, x)


def test_lengths_beyond_the_steps_are_refused_where_they_are_known():
    call = applied(fnn.attention(2), ones(2, 3, 4))
    wrong = bad("lengths", call, r"lengths in 0\.\.3", r"4 at lengths\[1\]")
    assert_complains(wrong, call, sequence(3, 4))


def test_an_mlp_refuses_arrays():
    for x, expected, got in (
        (ones(), r"x of shape \(\.\.\., C\)", r"\(\)"),
        (ones(2, 3, dtype="int32"), "x of a floating dtype", "int32 of .*"),
    ):
        assert_complains(Bad("mlp", None, "mlp", expected, got), initialized(fnn.mlp()), x)
    wrong = Bad("mlp", None, "dense", r"x of shape \(\.\.\., 4\)", r"\(2, 3\)", layer="up")
    assert_complains(wrong, applied(fnn.mlp(), ones(2, 4)), ones(2, 3))


@pytest.mark.parametrize(("backend", "steps"), [("cpu", 128), ("gpu", 512)])
def test_blocks_are_longer_where_starting_a_kernel_costs_more(monkeypatch, backend, steps):
    """There is one block of up to twice the steps; what is saved grows with them alone."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    layer = fnn.attention(1)

    for length in (2 * steps, 2 * steps + 1):
        x = jax.ShapeDtypeStruct((1, length, 2), jnp.float32)
        place = jax.eval_shape(layer.init, KEY, x)
        scores = largest(jax.make_jaxpr(layer.forward)(*place, x).jaxpr)
        assert scores == length**2 if length == 2 * steps else scores <= steps**2
        residuals = jax.eval_shape(layer.forward, *place, x)[2]
        assert max(leaf.size for leaf in jax.tree.leaves(residuals)) == 2 * length


# What is attended to in the shapes of `_blockwise`: heads of queries to each of keys, and steps.
KERNELS = pytest.mark.parametrize(
    ("causal", "groups", "steps", "others"),
    [(True, 1, 6, 6), (True, 3, 6, 6), (False, 1, 6, 9)],
    ids=["causal", "grouped", "cross"],
)


def attended(groups, steps, others, dtype="float32", width=8):
    """Queries (B, M, G, T, D), keys and values (B, M, S, D), and a cotangent of the output."""
    keys = jax.random.split(KEY, 4)
    shapes = (2, 2, groups, steps, width), (2, 2, others, width)
    q, k, v, do = (
        jax.random.normal(key, shapes[i], dtype) for key, i in zip(keys, (0, 1, 1, 0), strict=True)
    )
    return q, k, v, do


@KERNELS
def test_a_kernel_is_given_what_the_blocks_are(causal, groups, steps, others):
    """That of cuDNN runs on its GPUs alone; JAX has the same function for all devices."""
    scoring = Scoring(causal, None)
    kernel = functools.partial(_kernel.fused, causal=causal, implementation="xla")

    @jax.jit
    def both(arrays, do):
        o, saved = attend(*arrays, None, scoring, 2)
        other, back = jax.vjp(kernel, *arrays)
        grads = attend_backward(*arrays, None, o, saved, do, scoring, 2)
        return (o, grads), (other, back(do))

    *arrays, do = attended(groups, steps, others)
    for blocks, kernels in zip(*both(arrays, do), strict=True):
        assert_close(kernels, blocks, "float32", others * 8)


@pytest.fixture
def kernel_traced(monkeypatch):
    """A process that finds cuDNN, whose kernel it traces, and computes on the CPU."""
    monkeypatch.setattr(_kernel, "there", lambda: True)
    as_there = functools.partial(_kernel.fused, implementation="xla")
    monkeypatch.setattr(_kernel, "fused", as_there)


@KERNELS
@pytest.mark.usefixtures("kernel_traced")
def test_the_blocks_compute_where_the_kernel_is_not(causal, groups, steps, others):
    *arrays, do = attended(groups, steps, others, "bfloat16")
    scoring = Scoring(causal, None)

    @jax.jit
    def run(arrays, do):
        o, saved = attend(*arrays, None, scoring, 2)
        assert isinstance(saved, Again)
        return o, attend_backward(*arrays, None, o, saved, do, scoring, 2)

    @jax.jit
    def blocks(arrays, do):
        present = jnp.ones((arrays[1].shape[0], arrays[1].shape[2]), bool)
        o, saved = attend(*arrays, present, scoring, 2)
        return o, attend_backward(*arrays, present, o, saved, do, scoring, 2)

    jax.tree.map(np.testing.assert_array_equal, run(arrays, do), blocks(arrays, do))


@pytest.mark.parametrize(
    ("arrays", "scoring", "taken"),
    [
        ({}, {}, True),
        ({"dtype": "float16"}, {}, True),
        ({"dtype": "float32"}, {}, False),
        ({"width": 12}, {}, False),
        ({"width": 136}, {}, False),
        ({"others": 9}, {}, False),
        ({}, {"bias": lambda t, s: s - t}, False),
    ],
    ids=["bfloat16", "float16", "float32", "width 12", "width 136", "causal across", "bias"],
)
@pytest.mark.usefixtures("kernel_traced")
def test_a_kernel_takes_16_bits_and_plain_scores(arrays, scoring, taken):
    q, k, v, _ = attended(**{"groups": 1, "steps": 6, "others": 6, "dtype": "bfloat16"} | arrays)
    _, saved = jax.eval_shape(
        lambda: attend(q, k, v, None, Scoring(True, None)._replace(**scoring), 2)
    )
    assert isinstance(saved, Again) is taken


def test_no_kernel_is_looked_for_without_a_gpu_of_nvidia(monkeypatch):
    """A GPU of AMD says what it is capable of in a word, one before Ampere by a smaller number."""
    for capability, found in (("9.0", True), ("10.3", True), ("7.5", False), ("gfx942", False)):
        device = type("Device", (), {"compute_capability": capability})
        monkeypatch.setattr(jax, "devices", lambda device=device: [device])
        assert _kernel.there.__wrapped__() is found
    monkeypatch.setattr(jax, "devices", lambda: [object()])
    assert not _kernel.there.__wrapped__()
