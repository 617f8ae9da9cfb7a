"""Tuning: a choice by measurements, that reaches every layer and changes no gradient."""

import jax
import numpy as np
import pytest

import fnn
from fnn.lab import _remembered, cost, tune as tuning_module
from fnn.lab._measure import Measurement, Way, choose, machine, measure
from fnn.lab.check import normal_like
from tests.cases.compound import wave
from tests.layers.test_laws import assert_close

X = np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32)
LABELS = np.arange(8) % 3
LOSS = fnn.losses.cross_entropy()
KEY = jax.random.key(1)


def ways(manual, auto, manual_bytes=(0, 0), auto_bytes=(0, 0)):
    return Measurement(
        Way(tuple(manual), 1.0, *manual_bytes, 0.0), Way(tuple(auto), 1.0, *auto_bytes, 0.0)
    )


@pytest.mark.parametrize(
    ("manual", "auto", "chosen"),
    [
        ([2.0] * 8, [1.0] * 8, "auto"),
        ([1.0] * 8, [2.0] * 8, "manual"),
        ([1.0] * 8, [1.0] * 8, "manual"),
        # A gain of less than 5 percent.
        ([1.04] * 8, [1.0] * 8, "manual"),
        # A gain in five rounds of eight, a loss in three: within the spread.
        ([1.2] * 5 + [0.8] * 3, [1.0] * 8, "manual"),
        # Slow moments of the machine, in which both are slow.
        ([1.2, 12.0, 1.2, 2.4], [1.0, 10.0, 1.0, 2.0], "auto"),
    ],
)
def test_auto_is_chosen_by_time_where_it_wins_by_more_than_the_spread(manual, auto, chosen):
    assert choose(ways(manual, auto), "time") == chosen


@pytest.mark.parametrize(
    ("manual", "auto", "chosen"),
    [((9, 0), (8, 5), "auto"), ((8, 5), (9, 0), "manual"), ((8, 5), (8, 4), "auto"),
     ((8, 4), (8, 4), "manual")],
)  # fmt: skip
def test_auto_is_chosen_by_bytes_where_it_takes_less(manual, auto, chosen):
    # Whatever the time.
    assert choose(ways([9.0], [1.0], manual, auto), "bytes") == chosen


def hidden():
    return fnn.serial(fnn.dense(6), fnn.batch_norm(), fnn.gelu(), fnn.dropout(0.5))


def deep():
    return fnn.serial(
        enter=fnn.dense(6),
        deep=fnn.repeat(fnn.remat(fnn.residual(hidden())), 2),
        both=fnn.serial(fnn.parallel(fnn.tanh(), fnn.use_manual(fnn.tanh())), fnn.add()),
        back=fnn.reversible(fnn.dense(3), fnn.tanh(), 2),
        wave=wave(),
        leave=fnn.dense(3),
    )


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The folder in which measurements are kept, empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fnn/tune"


@pytest.fixture
def measured(monkeypatch):
    """Replace the measurement by one that lets autodiff win for all but dense layers."""
    seen = []

    def fake(layer, x, *, key):
        seen.append(layer)
        better = layer.call.make is not fnn.dense
        return ways([2.0 if better else 1.0], [1.0])

    def fake_whole(functions, args, kept, rounds):
        return {name: Way((1.0,), 1.0, 0, kept[name], 0.0) for name in functions}

    monkeypatch.setattr(cost, "measure", fake)
    monkeypatch.setattr(tuning_module, "both_ways", fake_whole)
    return seen


def test_tuning_reaches_every_layer_and_measures_equal_ones_once(measured):
    tuned, tuning = fnn.tune(deep(), LOSS, (X, LABELS), key=KEY)
    auto = fnn.use_auto
    normal = fnn.serial(
        fnn.dense(6), auto(fnn.batch_norm()), auto(fnn.gelu()), auto(fnn.dropout(0.5))
    )
    expected = fnn.serial(
        enter=fnn.dense(6),
        deep=fnn.repeat(fnn.remat(fnn.residual(normal)), 2),
        both=fnn.serial(
            fnn.parallel(auto(fnn.tanh()), fnn.use_manual(auto(fnn.tanh()))), auto(fnn.add())
        ),
        back=fnn.reversible(fnn.dense(3), auto(fnn.tanh()), 2),
        wave=wave(),
        leave=fnn.dense(3),
    )
    assert str(tuned) == str(expected)
    assert len(tuning.costs) == 12
    # Two dense(6) of (8, 6) and two tanh of it are one each.
    assert len(measured) == 10
    assert sum(row.endswith(" auto") for row in str(tuning).splitlines()) == tuning.chosen.count(
        "auto"
    )
    kept = {name: way.kept_bytes for name, way in tuning.whole.items()}
    assert set(kept) == {"manual", "auto", "tuned"}
    # How much more autodiff keeps, if anything, is up to the release of JAX.
    assert 0 < kept["manual"] <= kept["tuned"]


def test_the_tuned_model_has_the_same_parameters_and_gradient(measured):
    model = deep()
    tuned, _ = fnn.tune(model, LOSS, (X, LABELS), key=KEY)
    with jax.enable_x64(True):
        x = X.astype(np.float64)
        params, state = model.init(KEY, x)
        params = normal_like(jax.random.key(2), params)
        assert jax.tree.structure(tuned.init(KEY, x)) == jax.tree.structure((params, state))
        results = [
            jax.jit(fnn.value_and_grad(net, LOSS, way))(params, state, (x, LABELS), key=KEY)
            for net, way in ((model, "auto"), (tuned, "manual"))
        ]
    assert_close(results[1], results[0], np.float64, X.size)


def test_a_tuned_model_tuned_again_may_go_back_to_the_manual_gradient(measured, monkeypatch):
    model = fnn.serial(fnn.tanh(), fnn.use_auto(fnn.dense(3)))
    tuned, _ = fnn.tune(model, LOSS, (X, LABELS), key=KEY)
    assert tuned == fnn.serial(fnn.use_auto(fnn.tanh()), fnn.dense(3))
    monkeypatch.setattr(cost, "measure", lambda layer, x, *, key: ways([1.0], [1.0]))
    tuned, tuning = fnn.tune(tuned, LOSS, (X, LABELS), key=KEY, remember=False)
    assert tuned == fnn.serial(fnn.tanh(), fnn.dense(3))
    assert tuning.chosen == ("manual", "manual")


def test_a_manual_gradient_that_keeps_too_much_loses_by_bytes():
    """Measured in earnest: a layer that computes, keeps and reads ten copies of its input."""
    right = fnn.tanh()

    def forward(params, state, x, **options):
        y, state, residuals = right.forward(params, state, x, **options)
        return y, state, (residuals, [jax.numpy.sort(x + i, 0) for i in range(10)])

    def backward(params, residuals, dy):
        dparams, dx = right.backward(params, residuals[0], dy)
        return dparams, dx + 0 * sum(copy[::-1] for copy in residuals[1])

    large = fnn.Layer(right.init, right.apply, forward, backward)
    model = fnn.serial(large, fnn.batch_norm())
    tuned, tuning = fnn.tune(model, fnn.losses.squared_error(), (X, X), key=KEY, by="bytes")
    assert tuning.chosen == ("auto", "manual")
    assert tuned.call.args[0] == fnn.use_auto(large)
    assert tuning.costs[0].ways.manual.kept_bytes == 11 * X.nbytes
    assert max(map(len, str(tuning).splitlines())) <= 80
    assert "tuned" in str(tuning)


def test_a_layer_with_an_integer_state_is_measured():
    def apply(params, state, x, *, key=None, train=False):
        return x * 2, {"count": state["count"] + 1}

    counting = fnn.autodiff(lambda key, x: ((), {"count": jax.numpy.int32(0)}), apply)
    found = measure(counting, jax.ShapeDtypeStruct((2, 3), "float32"), key=KEY, rounds=2)
    assert len(found.manual.seconds) == len(found.auto.seconds) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((fnn.dense, LOSS, (X, LABELS)), "expected a layer"),
        ((fnn.dense(3), fnn.losses.cross_entropy, (X, LABELS)), "expected a Loss"),
        ((fnn.dense(3), LOSS, X), "expected .x, target."),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(fnn.InputError, match=message):
        fnn.tune(*arguments, key=KEY)


def test_another_measure_than_time_or_bytes_is_refused():
    with pytest.raises(fnn.InputError, match="tune: expected by of 'time', 'bytes', got 'flops'"):
        fnn.tune(fnn.dense(3), LOSS, (X, LABELS), key=KEY, by="flops")


BLOCKS = fnn.serial(fnn.attention(2, key_value_heads=None), fnn.attention(2, key_value_heads=None))


def tuning_of(model, **options):
    return fnn.tune(model, LOSS, (X[None], LABELS[None]), key=KEY, **options)[1]


def blocks():
    return fnn.serial(BLOCKS, fnn.dense(3))


def test_what_was_measured_is_remembered_and_forgotten_when_asked(measured, kept):
    first = tuning_of(blocks())
    # Two blocks are one, though None is among their arguments.
    assert (len(first.costs), len(measured)) == (3, 2)
    again = tuning_of(blocks())
    assert len(measured) == 2
    assert again[:-1] == first[:-1]
    assert (first.notes, len(again.notes)) == ((), 1)
    assert again.notes[0].startswith("3 of 3 measurements were made before")
    assert tuning_of(blocks(), remember=False).notes == ()
    assert len(measured) == 4
    assert len(list(kept.iterdir())) == 1


def test_another_shape_or_layer_or_release_is_measured(measured, kept, monkeypatch):
    tuning_of(blocks())
    for model, x, count in ((fnn.dense(4), X, 3), (fnn.dense(4), X[:4], 4)):
        fnn.tune(model, LOSS, (x, LABELS[: len(x)]), key=KEY)
        assert len(measured) == count
    monkeypatch.setattr(_remembered, "_release", lambda: "a later one")
    assert tuning_of(blocks()).notes == ()
    assert len(measured) == 6


@fnn.constructor
def own(width: int) -> fnn.Layer:
    """Own layer: what it does its module may change."""
    return fnn.dense(width)


def test_a_layer_of_a_constructor_of_ones_own_is_always_measured(measured):
    for count in (1, 2):
        tuning_of(own(3))
        assert len(measured) == count


def test_a_model_that_was_tuned_on_another_machine_is_measured_and_told_of(measured, monkeypatch):
    tuning_of(blocks())
    monkeypatch.setattr(_remembered, "machine", lambda: "another processor, 64 cores")
    tuning = tuning_of(blocks())
    assert len(measured) == 4
    assert tuning.machine == "another processor, 64 cores"
    assert tuning.notes == (f"Tuned before on {machine()}: measured anew on this machine.",)
    assert "Tuned before on" in str(tuning)
    assert max(map(len, str(tuning).splitlines())) <= 80


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_a_damaged_file_is_told_of_and_not_used(measured, kept, damage):
    tuning_of(blocks())
    file = next(kept.iterdir())
    text = file.read_text()
    file.write_text(
        {"cut": text[:-9], "changed": text.replace("2.0", "0.5", 1), "other": "[]"}[damage]
    )
    tuning = tuning_of(blocks())
    assert len(measured) == 4
    assert [f"{file} is damaged" in note for note in tuning.notes] == [True]
    # What was measured anew has taken its place.
    assert tuning_of(blocks()).notes[0].startswith("3 of 3")


def test_where_nothing_can_be_kept_the_table_says_so(measured, kept):
    kept.parent.parent.mkdir(exist_ok=True)
    kept.parent.write_text("a file in the place of the folder")
    assert "could not be kept" in tuning_of(blocks()).notes[0]


def test_a_user_without_a_home_tunes_and_nothing_is_kept(measured, monkeypatch):
    def nowhere():
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(_remembered.Path, "home", nowhere)
    assert "could not be kept" in tuning_of(fnn.dense(3)).notes[0]


def test_a_tuning_prints_as_a_table_among_what_is_returned_too(measured):
    found = fnn.tune(fnn.tanh(), fnn.losses.squared_error(), (X, X), key=KEY)
    assert "Way(" not in repr(found)
    assert str(found[1]) in repr(found)
