"""Recurrence: what the table of layers cannot say."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st

import fnn
from fnn._core.tree import inexact_leaves
from fnn.lab.check import moved_place, normal_like
from tests.core.test_errors import Bad, assert_complains, ones, parametrize
from tests.layers.test_laws import assert_close

B, T, INPUTS, H = 3, 5, 2, 3
LENGTHS = np.array([5, 2, 3], "int32")
MASK = np.arange(T) < LENGTHS[:, None]
MAKERS = {"rnn": fnn.rnn, "lstm": fnn.lstm, "gru": fnn.gru}
CELLS = {"rnn": fnn.rnn_cell, "lstm": fnn.lstm_cell, "gru": fnn.gru_cell}
kinds = pytest.mark.parametrize("kind", MAKERS)
# For what all kinds have from one place: a carry of two arrays, and slopes of two.
telling = pytest.mark.parametrize("kind", ["lstm", "gru"])


@pytest.fixture(autouse=True)
def wide():
    """All of these laws are exact but for rounding, which float64 makes small."""
    with jax.enable_x64(True):
        yield


def drawn(layer, *shape):
    """An x, and parameters away from where they start."""
    x = jax.random.normal(jax.random.key(3), shape or (B, T, INPUTS), "float64")
    return x, moved_place(layer, x, jax.random.key(5))[0]


def zeros(kind, batch=B):
    h = jnp.zeros((batch, H))
    return (h, h) if kind == "lstm" else h


@functools.partial(jax.jit, static_argnums=0)
def there_and_back(layer, params, x, dy=None):
    """Run forward and backward, for a random cotangent or a given one."""
    y, _, residuals = layer.forward(params, (), x)
    dy = normal_like(jax.random.key(7), inexact_leaves(y)) if dy is None else dy
    return y, layer.backward(params, residuals, dy)


def added(one, other):
    return jax.tree.map(jnp.add, one, other)


@telling
def test_what_padding_holds_changes_nothing_not_even_nan(kind):
    layer = MAKERS[kind](H, bidirectional=True)
    x, params = drawn(layer)
    plain, spoiled = (
        there_and_back(layer, params, fnn.Sequence(values, LENGTHS))
        for values in (x, jnp.where(MASK[:, :, None], x, jnp.nan))
    )
    jax.tree.map(np.testing.assert_array_equal, plain, spoiled)
    y, (_, dx) = spoiled
    assert not np.where(MASK[:, :, None], 0, y.values).any()
    assert not np.where(MASK[:, :, None], 0, dx.values).any()


@kinds
def test_nan_in_the_cotangent_of_padding_reaches_nothing_that_is_there(kind):
    layer = MAKERS[kind](H, layers=2, truncate=2)
    x, params = drawn(layer)
    x, dy = fnn.Sequence(x, LENGTHS), jax.random.normal(jax.random.key(7), (B, T, H))
    clean, spoiled = (
        there_and_back(layer, params, x, fnn.Sequence(jnp.where(MASK[:, :, None], dy, padding)))
        for padding in (0, jnp.nan)
    )
    jax.tree.map(np.testing.assert_array_equal, spoiled, clean)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
def test_lengths_of_small_integers_do_not_overflow(dtype):
    lengths, steps = np.array([100, 3, 0], dtype), 300
    layer = fnn.serial(fnn.rnn(H), fnn.last_step())
    x, params = drawn(layer, B, steps, INPUTS)
    y, _ = layer.apply(params, ((), ()), fnn.Sequence(x, lengths))
    wide, _ = layer.apply(params, ((), ()), fnn.Sequence(x, lengths.astype("int32")))
    np.testing.assert_array_equal(y, wide)
    alone = fnn.rnn(H).apply(params[0], (), x[:1, :100])[0][:, -1]
    assert_close(y[:1], alone, "float64", x.size)


@kinds
def test_an_empty_batch_and_no_steps_go_there_and_back(kind):
    layer = MAKERS[kind](H)
    for shape in ((0, T, INPUTS), (B, 0, INPUTS)):
        x, params = drawn(layer, *shape)
        y, (dparams, dx) = there_and_back(layer, params, x)
        assert (y.shape, dx.shape) == ((*shape[:2], H), shape)
        assert not any(leaf.any() for leaf in jax.tree.leaves(dparams))


@kinds
def test_the_manual_gradient_is_exported_with_a_symbolic_batch(kind):
    layer = MAKERS[kind](H)
    batch = jax.export.symbolic_shape("b")[0]
    x, params = drawn(layer)

    def both(params, x):
        dy = jnp.sin(x[..., :1] * jnp.ones((1, 1, H)))
        return there_and_back.__wrapped__(layer, params, x, dy)

    run = jax.jit(both)
    exported = jax.export.export(run)(params, jax.ShapeDtypeStruct((batch, T, INPUTS), x.dtype))
    assert_close(exported.call(params, x), run(params, x), "float64", x.size)


@pytest.mark.parametrize(("kind", "truncate"), [("lstm", 2), ("gru", None)])
def test_a_padded_batch_is_each_sequence_alone(kind, truncate):
    layer = MAKERS[kind](H, bidirectional=True, truncate=truncate)
    x, params = drawn(layer)
    start = normal_like(jax.random.key(9), dict.fromkeys(("forward", "backward"), zeros(kind)))
    padded = fnn.Sequence(x, LENGTHS, start)
    y, (dparams, dx) = there_and_back(layer, params, padded)
    # Random, so that steps which are not there have a cotangent too.
    dy = normal_like(jax.random.key(7), inexact_leaves(y))
    total = jax.tree.map(jnp.zeros_like, dparams)
    for b, n in enumerate(LENGTHS.tolist()):

        def part(tree, b=b, n=n):
            carry = jax.tree.map(lambda a: a[b : b + 1], tree.carry)
            return fnn.Sequence(tree.values[b : b + 1, :n], None, carry)

        alone, (d, dx_alone) = there_and_back(layer, params, part(padded), part(dy))
        assert_close(part(y), alone, "float64", x.size)
        assert_close(part(dx), dx_alone, "float64", x.size)
        total = added(total, d)
    assert_close(dparams, total, "float64", x.size)


@telling
def test_a_way_around_a_layer_goes_around_its_values_and_not_its_carry(kind):
    layer = MAKERS[kind](INPUTS)
    x, params = drawn(layer)
    carry = jax.tree.map(lambda _: jax.random.normal(jax.random.key(9), (B, INPUTS)), zeros(kind))
    padded = fnn.Sequence(x, LENGTHS, carry)
    y, (dparams, dx) = there_and_back(layer, params, padded)
    dy = normal_like(jax.random.key(7), inexact_leaves(y))
    around = there_and_back(fnn.residual(layer), params, padded, dy)
    assert_close(around[0], y._replace(values=x + y.values), "float64", x.size)
    moved = dx._replace(values=dx.values + dy.values)
    assert_close(around[1], (dparams, moved), "float64", x.size)


@telling
def test_a_bidirectional_layer_is_two_layers(kind):
    both, one = MAKERS[kind](H, bidirectional=True), MAKERS[kind](H)
    x, params = drawn(both)
    y = both.apply(params, (), x)[0]
    there, _ = one.apply(params["forward"], (), x)
    back, _ = one.apply(params["backward"], (), x[:, ::-1])
    assert_close(y, jnp.concatenate([there, back[:, ::-1]], -1), "float64", x.size)


@kinds
def test_a_layer_is_its_cell_in_a_scan_and_shares_its_parameters(kind):
    layer, cell = MAKERS[kind](H), CELLS[kind](H)
    x, params = drawn(layer)
    own, _ = cell.init(jax.random.key(2), (zeros(kind), x[:, 0]))
    same, _ = layer.init(jax.random.key(2), x)
    jax.tree.map(np.testing.assert_array_equal, own, same)

    def body(carry, x):
        return cell.apply(params, (), (carry, x))[0]

    carry, ys = jax.lax.scan(body, zeros(kind), jnp.swapaxes(x, 0, 1))
    y, _ = layer.apply(params, (), fnn.Sequence(x, None, zeros(kind)))
    assert_close((y.values, y.carry), (jnp.swapaxes(ys, 0, 1), carry), "float64", x.size)


@telling
def test_two_halves_from_carry_to_carry_are_the_whole(kind):
    layer = MAKERS[kind](H, layers=2)
    x, params = drawn(layer)
    whole = fnn.Sequence(x, None, (zeros(kind), zeros(kind)))
    y, (dparams, dx) = there_and_back(layer, params, whole)
    dy = normal_like(jax.random.key(7), inexact_leaves(y))

    def half(tree, steps, carry):
        return fnn.Sequence(tree.values[:, steps], None, carry)

    early, late = slice(0, 2), slice(2, T)
    first = half(whole, early, whole.carry)
    middle = layer.apply(params, (), first)[0].carry
    y2, (d2, dx2) = there_and_back(
        layer, params, half(whole, late, middle), half(dy, late, dy.carry)
    )
    y1, (d1, dx1) = there_and_back(layer, params, first, half(dy, early, dx2.carry))
    values = jnp.concatenate([y1.values, y2.values], 1)
    dvalues = jnp.concatenate([dx1.values, dx2.values], 1)
    assert_close((values, y2.carry), (y.values, y.carry), "float64", x.size)
    joined = fnn.Sequence(dvalues, None, dx1.carry)
    assert_close((added(d1, d2), joined), (dparams, dx), "float64", x.size)


@telling
def test_a_long_sequence_goes_piece_by_piece_to_the_same_end(kind, monkeypatch):
    layer = MAKERS[kind](H, bidirectional=True, truncate=4)
    x, params = drawn(layer, B, 6, INPUTS)
    start = normal_like(jax.random.key(9), dict.fromkeys(("forward", "backward"), zeros(kind)))
    padded = fnn.Sequence(x, np.array([6, 3, 5], "int32"), start)
    run = there_and_back.__wrapped__
    whole = run(layer, params, padded)
    # Pieces of two steps.
    monkeypatch.setattr("fnn.layers.recurrent._scan._ROWS", 2 * B)
    assert_close(run(layer, params, padded), whole, "float64", x.size)


@telling
def test_chunks_longer_than_the_sequence_truncate_nothing(kind):
    layer, cut = MAKERS[kind](H), MAKERS[kind](H, truncate=T)
    x, params = drawn(layer)
    jax.tree.map(
        np.testing.assert_array_equal,
        there_and_back(layer, params, x),
        there_and_back(cut, params, x),
    )


@kinds
def test_a_chunk_gets_no_gradient_from_later_ones_and_the_last_one_all_of_its_own(kind):
    layer = MAKERS[kind](H, truncate=2)
    x, params = drawn(layer)
    dy = jnp.zeros((B, T, H)).at[:, 3].set(1.0)
    y, (_, dx) = there_and_back(layer, params, x, dy)
    assert not dx[:, :2].any()
    assert dx[:, 2:4].all()
    assert not dx[:, 4:].any()
    np.testing.assert_array_equal(y, MAKERS[kind](H).forward(params, (), x)[0])


def test_the_carry_of_a_sequence_without_one_stays_away_from_the_next_layer():
    stack = fnn.serial(fnn.gru(H), fnn.gru(H))
    x, params = drawn(stack)
    padded, _ = stack.apply(params, ((), ()), fnn.Sequence(x, MASK | True))
    assert padded.carry is None
    plain, _ = stack.apply(params, ((), ()), x)
    assert_close(padded.values, plain, "float64", x.size)


def test_a_lstm_starts_by_remembering():
    x = jnp.ones((1, 1, INPUTS))
    params, _ = fnn.lstm(2, forget_bias=0.75).init(jax.random.key(0), x)
    np.testing.assert_array_equal(params["bias"], [0, 0, 0.75, 0.75, 0, 0, 0, 0])


@kinds
def test_every_gate_has_an_orthogonal_matrix(kind):
    params, _ = MAKERS[kind](H).init(jax.random.key(0), jnp.ones((1, 1, INPUTS)))
    for gate in jnp.split(params["recurrent_weight"], params["bias"].size // H, 1):
        assert_close(gate.T @ gate, jnp.eye(H), "float64", H)


def test_a_projection_is_a_matrix_behind_every_time_step():
    """And one of the identity changes nothing."""
    layer, plain = fnn.lstm(H, projection=H), fnn.lstm(H)
    x, params = drawn(plain)
    y, (dparams, dx) = there_and_back(plain, params, x)
    same = params | {"projection_weight": jnp.eye(H)}
    projected, (more, dx_projected) = there_and_back(layer, same, x)
    more.pop("projection_weight")
    assert_close((projected, more, dx_projected), (y, dparams, dx), "float64", x.size)


def test_a_projection_draws_the_other_weights_as_they_are_without():
    x = jnp.ones((1, 1, INPUTS))
    plain, _ = fnn.lstm(H).init(jax.random.key(0), x)
    params, _ = fnn.lstm(H, projection=2).init(jax.random.key(0), x)
    np.testing.assert_array_equal(params["input_weight"], plain["input_weight"])
    assert params["projection_weight"].shape == (H, 2)
    assert params["recurrent_weight"].shape == (2, 4 * H)


def test_backward_needs_no_more_arrays_than_the_docstring_says(monkeypatch):
    x = jnp.ones((B, 6, INPUTS))
    # Pieces of two steps: the carries before each, and what every step saves.
    monkeypatch.setattr("fnn.layers.recurrent._scan._ROWS", 2 * B)
    expected = {"rnn": ([H], [H]), "lstm": ([H, H], [4 * H]), "gru": ([H], [H, 3 * H])}
    for kind, (carries, saved) in expected.items():
        layer = MAKERS[kind](H)
        _, _, residuals = layer.forward(layer.init(jax.random.key(0), x)[0], (), x)
        shapes = sorted(leaf.shape for leaf in jax.tree.leaves(residuals))
        kept = [(3, B, width) for width in carries] + [(B, 6, width) for width in saved]
        assert shapes == sorted([x.shape, *kept])


sizes = st.integers(1, 4)


@settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    kind=st.sampled_from(["rnn", "lstm", "gru"]),
    batch=sizes,
    time=st.integers(0, 4),
    inputs=sizes,
    width=sizes,
    data=st.data(),
)
def test_gradients_are_those_of_autodiff_at_any_shape(kind, batch, time, inputs, width, data):
    options = {
        "layers": data.draw(st.integers(1, 2)),
        "bidirectional": data.draw(st.booleans()),
        "bias": data.draw(st.booleans()),
        "truncate": data.draw(st.none() | sizes),
        "unroll": data.draw(sizes),
    }
    there = data.draw(st.lists(st.booleans(), min_size=batch * time, max_size=batch * time))
    mask = data.draw(st.none() | st.just(np.array(there, bool).reshape(batch, time)))
    layer = MAKERS[kind](width, **options)
    x = fnn.Sequence(jax.random.normal(jax.random.key(3), (batch, time, inputs)), mask)
    fnn.check_layer(layer, x, numeric=False)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    y = jax.eval_shape(lambda p, s: layer.apply(p, s, x)[0], params, state)
    assert y.values.shape == (batch, time, width * (1 + options["bidirectional"]))


def test_the_last_step_of_no_steps_is_zero_and_padding_may_be_nan():
    x = fnn.Sequence(jnp.full((2, 3, 1), jnp.nan).at[1, 0].set(4.0), jnp.array([0, 1]))
    y, (_, dx) = there_and_back(fnn.last_step(), (), x, jnp.ones((2, 1)))
    np.testing.assert_array_equal(y, [[0], [4]])
    np.testing.assert_array_equal(dx.values[:, :, 0], [[0, 0, 0], [1, 0, 0]])


@parametrize(
    [
        *(
            Bad(f"{name}-width", lambda make=make: make(0), name, "a width of 1 or more", "0")
            for name, make in (
                *MAKERS.items(),
                *((f"{kind}_cell", make) for kind, make in CELLS.items()),
            )
        ),
        *(
            Bad(
                f"{kind}-{name}-{value}",
                lambda make=make, name=name, value=value: make(2, **{name: value}),
                kind,
                f"{name} of 1 or more",
                str(value),
            )
            for kind, make in MAKERS.items()
            for name, value in (("layers", 0), ("truncate", 0), ("unroll", True))
        ),
        *(
            Bad(
                f"{name}-{option}",
                lambda make=make, option=option: make(2, **{option: "False"}),
                name,
                f"{option} of True or False",
                "'False'",
            )
            for name, make, option in (
                *((kind, make, "bidirectional") for kind, make in MAKERS.items()),
                *((kind, make, "bias") for kind, make in MAKERS.items()),
                *((f"{kind}_cell", make, "bias") for kind, make in CELLS.items()),
            )
        ),
        *(
            bad
            for name, make in (("lstm", fnn.lstm), ("lstm_cell", fnn.lstm_cell))
            for bad in (
                Bad(
                    f"{name}-projection",
                    lambda make=make: make(2, projection=0),
                    name,
                    "projection of 1 or more",
                    "0",
                ),
                Bad(
                    f"{name}-forget_bias",
                    lambda make=make: make(2, forget_bias=np.nan),
                    name,
                    "forget_bias of one finite number",
                    "nan",
                ),
                Bad(
                    f"{name}-forget_bias-without-bias",
                    lambda make=make: make(2, forget_bias=1.0, bias=False),
                    name,
                    "no forget_bias without a bias",
                    r"1\.0",
                ),
            )
        ),
        Bad(
            "initializer",
            lambda: fnn.gru(2, initializer="normal"),
            "gru",
            "initializer to be a function",
            "'normal'",
        ),
        Bad(
            "recurrent_initializer",
            lambda: fnn.rnn_cell(2, recurrent_initializer=None),
            "rnn_cell",
            "recurrent_initializer to be a function",
            "None",
        ),
        Bad(
            "activation",
            lambda: fnn.rnn(2, activation="gelu"),
            "rnn",
            "an activation of 'tanh', 'relu'",
            "'gelu'",
        ),
        Bad(
            "cell-activation",
            lambda: fnn.rnn_cell(2, activation=jnp.tanh),
            "rnn_cell",
            "an activation of 'tanh', 'relu'",
            ".*tanh.*",
        ),
    ]
)
def test_recurrent_layers_refuse_options(bad):
    assert_complains(bad, bad.call)


def applied(layer, x):
    """Initialize a layer for one x, and return it as a function of another."""
    params, state = layer.init(jax.random.key(0), x)
    return lambda x: layer.apply(params, state, x)


X = np.ones((2, 3, 4), "float32")
h = np.ones((2, 5), "float32")
CARRIES = {
    "gru-shape": (fnn.gru(5), h[:1], r"float32 of shapes \(2, 5\)", r"float32 of shapes \(1, 5\)"),
    "gru-pair": (
        fnn.gru(5),
        (h, h),
        r"float32 of shapes \(2, 5\)",
        r"float32 of shapes \(\(2, 5\), \(2, 5\)\)",
    ),
    "lstm-h": (fnn.lstm(5), h, r"float32 of shapes \(\(2, 5\), \(2, 5\)\)", ".*"),
    "gru-dtype": (fnn.gru(5), h.astype("float16"), r"float32 of shapes \(2, 5\)", "float16 of .*"),
    "rnn-stack": (
        fnn.rnn(5, layers=2, bidirectional=True),
        (h, h),
        r"float32 of shapes \(\{'backward': \(2, 5\), 'forward': .*\}, \{.*\}\)",
        ".*",
    ),
}


@pytest.mark.parametrize("name", CARRIES)
def test_recurrent_layers_refuse_a_carry(name):
    layer, carry, expected, got = CARRIES[name]
    bad = Bad(name, None, name.partition("-")[0], f"a carry {expected}", got)
    call, x = applied(layer, X), fnn.Sequence(X, None, carry)
    assert_complains(bad, call, x)
    assert_complains(bad, jax.jit(call), x)


ARRAYS = {
    "inputs": (X[:, :, :3], r"x of shape \(B, T, 4\)", r"\(2, 3, 3\)"),
    "rank": (X[0], r"x of shape \(B, T, 4\)", r"\(3, 4\)"),
    "integers": (X.astype("int32"), "x of a floating dtype", "int32 of .*"),
    "lengths": (
        fnn.Sequence(X, np.array([1, 2, 3])),
        r"lengths of shape \(2,\) of integers, or \(2, 3\) of booleans",
        r"int64 of shape \(3,\)",
    ),
}


@kinds
@pytest.mark.parametrize("name", ARRAYS)
def test_recurrent_layers_refuse_arrays(kind, name):
    x, expected, got = ARRAYS[name]
    call = applied(MAKERS[kind](5, layers=2, bidirectional=True), X)
    assert_complains(Bad(name, None, kind, expected, got), call, x)
    assert_complains(Bad(name, None, kind, expected, got), jax.jit(call), x)


@kinds
def test_recurrent_layers_refuse_to_be_initialized_for_another_rank(kind):
    bad = Bad(kind, None, kind, r"x of shape \(B, T, I\)", r"\(2, 4\)")
    assert_complains(bad, MAKERS[kind](5).init, jax.random.key(0), X[:, 0])


def test_a_length_beyond_the_end_is_refused_where_it_is_known():
    call, x = applied(fnn.lstm(5), X), fnn.Sequence(X, np.array([3, 4]))
    bad = Bad("", None, "lstm", r"lengths in 0\.\.3", r"4 at lengths\[1\]")
    assert_complains(bad, call, x)


PAIRS = {
    "no-pair": (fnn.lstm_cell(5), X[:, 0], r"a pair \(\(h, c\), x\)", r"shapes \(2, 4\)"),
    "no-carry": (fnn.gru_cell(5), (h, h, X[:, 0]), r"a pair \(h, x\)", r"shapes \(.*\)"),
    "inputs": (fnn.gru_cell(5), (h, X[:, 0, :3]), r"x of shape \(B, 4\)", r"\(2, 3\)"),
    "rank": (fnn.gru_cell(5), (h, X), r"x of shape \(B, 4\)", r"\(2, 3, 4\)"),
    "integers": (fnn.gru_cell(5), (h, X[:, 0].astype(int)), "x of a floating dtype", "int64 .*"),
    "carry": (fnn.lstm_cell(5), (h, X[:, 0]), "a carry float32 of shapes .*", ".*"),
    "width": (fnn.rnn_cell(5), (h[:, :4], X[:, 0]), "a carry .*5.*", r".*\(2, 4\)"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_cells_refuse_pairs(name):
    layer, x, expected, got = PAIRS[name]
    start = (h, h) if layer == fnn.lstm_cell(5) else h
    call = applied(layer, (start, X[:, 0]))
    where = repr(layer).partition("(")[0]
    assert_complains(Bad(name, None, where, expected, got), call, x)
    assert_complains(Bad(name, None, where, expected, got), jax.jit(call), x)


@pytest.mark.parametrize(
    ("x", "expected", "got"),
    [
        (ones(2, 3), r"x of shape \(B, T, H\) with a step or more", r"\(2, 3\)"),
        (ones(2, 0, 3), r"x of shape \(B, T, H\) with a step or more", r"\(2, 0, 3\)"),
        (ones(2, 1, 3, dtype="int32"), "x of a floating dtype", "int32 of .*"),
        (fnn.Sequence(ones(2, 1, 3), np.array([1, 2])), r"lengths in 0\.\.1", r"2 at .*"),
    ],
    ids=["rank", "no-steps", "integers", "lengths"],
)
def test_last_step_refuses(x, expected, got):
    bad = Bad("", None, "last_step", expected, got)
    assert_complains(bad, fnn.last_step().apply, (), (), x)
