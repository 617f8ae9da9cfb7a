"""Sweeps: every run is that of `fnn.fit` alone, whatever runs beside it."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import fnn
from fnn import optim, train
from tests.tolerance import rounding
from tests.xla import in_haste

sweep = importlib.import_module("fnn.train.sweep.sweep")
ROWS = np.random.default_rng(0).normal(size=(23, 4)).astype("float32")
LABELS = (ROWS[:, 0] > 0).astype("int32")
OPTIONS = {"epochs": 2, "batch_size": 8, "metrics": {"accuracy": fnn.accuracy}}
LOST = 1e30


def build(learning_rate, noise=0.1, width=6):
    model = fnn.serial(
        fnn.dense(width), fnn.batch_norm(), fnn.relu(), fnn.dropout(0.3), fnn.dense(2)
    )
    noisy = optim.gradient_noise(noise, key=jax.random.key(7))
    optimizer = optim.chain(noisy, optim.sgd(learning_rate, 0.9))
    return model, fnn.losses.cross_entropy(), optimizer


def alone(point, data=(ROWS, LABELS), validation=(ROWS, LABELS)):
    """The run of a point by `fnn.fit`."""
    settings = {name: value for name, value in point.items() if name not in ("seed", "fold")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fnn.fit(
            *build(**settings), data, key=jax.random.key(point["seed"]), validation=validation,
            **OPTIONS,
        )  # fmt: skip


def numbers(train_state):
    """All numbers of a train state, the words of its keys too."""

    def plain(leaf):
        typed = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if typed else leaf)

    return [plain(leaf) for leaf in jax.tree.leaves(train_state)]


def assert_same(run, history, expected):
    """A run of a sweep is one of `fit` to the last bit."""
    train_state, known = expected
    for one, other in zip(numbers(run), numbers(train_state), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(history.loss, known.loss)
    np.testing.assert_array_equal(history.epoch_loss, known.epoch_loss)
    assert history.validation.keys() == known.validation.keys()
    for name, values in known.validation.items():
        np.testing.assert_array_equal(history.validation[name], values)
    assert history.stopped == known.stopped


POINTS = {"learning_rate": [0.03, LOST], "noise": [0.1], "seed": [0, 3]}
HOWS = ("map", "turn", "vmap")


@pytest.fixture(scope="module")
def swept():
    def run(how):
        options = OPTIONS | {"validation": (ROWS, LABELS), "how": how, "members": 3}
        return fnn.sweep(build, POINTS, (ROWS, LABELS), **options)

    return {how: run(how) for how in HOWS}


@pytest.fixture(scope="module")
def known(swept):
    return [alone(point) for point in swept["map"].points]


@pytest.mark.parametrize("how", ["map", "turn"])
def test_every_run_is_that_of_fit_alone_to_the_last_bit_also_one_that_is_lost(swept, known, how):
    result = swept[how]
    for run, history, expected in zip(result.train_states, result.histories, known, strict=True):
        assert_same(run, history, expected)
    assert [bool(one.stopped) for one in result.histories] == [False, False, True, True]


def test_side_by_side_runs_are_those_of_fit_to_rounding(swept, known):
    result = swept["vmap"]
    for run, history, (train_state, expected) in zip(
        result.train_states[:2], result.histories[:2], known[:2], strict=True
    ):
        # A few steps of float32; a run with another seed differs in the first digit.
        np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-5)
        for one, other in zip(numbers(run), numbers(train_state), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert abs(known[0][1].loss - known[1][1].loss).max() > 1e-2


def test_a_run_goes_on_by_fit(swept):
    point, start = swept["map"].points[0], swept["map"].train_states[0]
    model, loss, optimizer = build(point["learning_rate"], point["noise"])
    more, _ = fnn.fit(model, loss, optimizer, (ROWS, LABELS), epochs=1, batch_size=8, start=start)
    assert int(more.step) == 9


def test_numbers_share_a_program_and_shapes_have_their_own():
    points = {"learning_rate": [0.1, 0.2], "width": [3, 6], "seed": range(2)}
    result = fnn.sweep(build, points, (ROWS, LABELS), epochs=1, batch_size=8)
    assert result.programs == 2
    widths = [state.params[0]["bias"].shape for state in result.train_states]
    assert widths == [(point["width"],) for point in result.points]


def test_a_fold_trains_on_the_others_and_is_validated_on():
    result = fnn.sweep(
        build, {"learning_rate": [0.1], "seed": [1]}, (ROWS, LABELS), folds=3, **OPTIONS
    )
    assert [point["fold"] for point in result.points] == [0, 1, 2]
    point, held = result.points[1], np.arange(7, 14)
    rest = np.setdiff1d(np.arange(23), held)
    expected = alone(point, (ROWS[rest], LABELS[rest]), (ROWS[held], LABELS[held]))
    assert_same(result.train_states[1], result.histories[1], expected)


def test_halving_ends_the_half_that_is_behind_and_leaves_the_others_as_they_are():
    points = {"learning_rate": [1e-4, 0.1], "seed": range(2)}
    options = {"validation": (ROWS, LABELS), **OPTIONS}
    whole = fnn.sweep(build, points, (ROWS, LABELS), **options)
    halved = fnn.sweep(build, points, (ROWS, LABELS), halving=(1,), **options)
    first = [one.validation["loss"][0] for one in whole.histories]
    ahead = sorted(np.argsort(first)[:2].tolist())
    assert [i for i, one in enumerate(halved.histories) if not one.stopped] == ahead
    assert {len(one.loss) for one in halved.histories if one.stopped} == {3}
    for i in ahead:
        np.testing.assert_array_equal(halved.histories[i].loss, whole.histories[i].loss)
    assert halved.best() in ahead


def test_the_summary_is_mean_and_standard_error_over_seeds_of_runs_that_came_to_their_end(swept):
    result = swept["map"]
    one, lost = result.summary("validation loss")
    values = [history.validation["loss"][-1] for history in result.histories[:2]]
    assert one["validation loss"] == pytest.approx(np.mean(values))
    assert one["standard error"] == pytest.approx(abs(values[0] - values[1]) / 2)
    assert (one["learning_rate"], one["runs"], one["stopped"]) == (0.03, 2, 0)
    assert np.isnan(lost["validation loss"])
    assert (lost["learning_rate"], lost["stopped"]) == (LOST, 2)
    assert result.best() == int(np.argmin(values))
    words = [line.split() for line in str(result).splitlines()]
    assert words[0][:3] == ["learning_rate", "noise", "loss"]
    assert [line[0] for line in words[1:]] == ["0.03", f"{LOST:g}"]
    columns = result.table()
    assert {len(column) for column in columns.values()} == {4}
    assert columns["steps"][:2] == [6, 6]


def mesh_of(*shape):
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, ("runs", "data", "model")[: len(shape)], devices=devices)


SPLIT = {"0/weight": PartitionSpec(None, "model"), "4/weight": PartitionSpec("model")}
SHARING = {
    "batches": {"shape": (2, 2)},
    "parameters": {"shape": (2, 1, 2), "sharding": SPLIT},
    "batches and parameters, side by side": {"shape": (2, 2), "sharding": "full", "how": "vmap"},
}


def swept_on(shape, **options):
    options = OPTIONS | {"validation": (ROWS, LABELS), "mesh": mesh_of(*shape)} | options
    return fnn.sweep(build, POINTS, (ROWS, LABELS), **options)


def shared():
    """Say that 4 devices change no run, those of a mesh of several axes but in rounding."""
    assert jax.device_count() == 4
    texts = programs()
    # A fourth run has two that rest beside it.
    expected = swept_on((3,))
    for i, point in enumerate(expected.points):
        assert_same(expected.train_states[i], expected.histories[i], alone(point))
    for options in SHARING.values():
        result = swept_on(**options)
        assert_close(result, expected)
        check_sent(texts[-1])
    swapped = [*expected.train_states[1::-1], *expected.train_states[2:]]
    assert is_seen(lambda: assert_close(expected._replace(train_states=swapped), expected))
    assert is_seen(lambda: check_sent(texts[0]))
    print("the same")


def is_seen(fault):
    try:
        fault()
    except AssertionError:
        return True
    return False


def programs():
    """The programs of the steps, as they are run from here on."""
    members = importlib.import_module("fnn.train.sweep._members")
    together, compiled, texts = members._together, {}, []

    def noted(*args):
        # How, devices, step and transform make the program, with the shapes of the rest.
        program = *args[:4], args[6].shape
        if program not in compiled:
            compiled[program] = together.lower(*args).compile()
            texts.append(compiled[program].as_text())
        return compiled[program](*args[4:])

    members._together = noted
    return texts


def check_sent(text):
    """Raise unless the devices of a run send each other something, and no other device does."""
    groups = set(re.findall(r"replica_groups=(\S+?),? ", text))
    assert groups
    assert groups <= {"{{0,1},{2,3}}", "[2,2]<=[4]"}


def assert_close(result, expected):
    for run, history, other, known in zip(
        result.train_states, result.histories, expected.train_states, expected.histories,
        strict=True,
    ):  # fmt: skip
        assert history.stopped == known.stopped
        if known.stopped:
            continue
        np.testing.assert_allclose(history.loss, known.loss, rtol=ROUNDED)
        for name, values in known.validation.items():
            np.testing.assert_allclose(history.validation[name], values, rtol=ROUNDED)
        for one, two in zip(numbers(run), numbers(other), strict=True):
            np.testing.assert_allclose(one, two, rtol=ROUNDED, atol=ROUNDED)


# Sums over a batch and a width, in each of the six steps.
ROUNDED = rounding("float32", 6 * 8 * 6)


@pytest.mark.once
def test_devices_share_the_runs_and_those_of_a_mesh_batches_and_parameters_and_change_none():
    flags = in_haste("--xla_force_host_platform_device_count=4") | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", "import tests.train.test_sweep as t; t.shared()"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, env=os.environ | flags,
    )  # fmt: skip
    assert done.stdout == "the same\n", done.stderr


POINT = {"learning_rate": [0.1], "seed": [0]}
REFUSED = {
    "no seed": ((build, {"learning_rate": [0.1]}, (ROWS, LABELS)), {}, "a seed in every point"),
    "no points": ((build, [], (ROWS, LABELS)), {}, "expected points, got"),
    "a value twice": ((build, {"seed": [0, 0]}, (ROWS, LABELS)), {}, "different values of seed"),
    "a negative seed": ((build, {"seed": [-1]}, (ROWS, LABELS)), {}, "seed"),
    "batches": ((build, POINT, [(ROWS, LABELS)]), {}, "batch"),
    "no build": ((None, POINT, (ROWS, LABELS)), {}, "build"),
    "a build of two": ((lambda learning_rate: (1, 2), POINT, (ROWS, LABELS)), {}, "of build"),
    "another way": ((build, POINT, (ROWS, LABELS)), {"how": "pmap"}, "'map', 'vmap', 'turn'"),
    "one fold": ((build, POINT, (ROWS, LABELS)), {"folds": 1}, "folds"),
    "more folds than examples": ((build, POINT, (ROWS, LABELS)), {"folds": 24}, "folds at most"),
    "folds and validation": (
        (build, POINT, (ROWS, LABELS)),
        {"folds": 2, "validation": (ROWS, LABELS)},
        "validation data or folds",
    ),
    "halving at the end": ((build, POINT, (ROWS, LABELS)), {"halving": (2,)}, "growing epochs"),
    "labels of one kind too many": ((build, POINT, (ROWS, LABELS + 1)), {}, "label"),
    "no mesh": ((build, POINT, (ROWS, LABELS)), {"mesh": 2}, "a jax.sharding.Mesh"),
    "a sharding alone": ((build, POINT, (ROWS, LABELS)), {"sharding": "full"}, "sharding.Mesh"),
    "a sharding over no axis": (
        (build, POINT, (ROWS, LABELS)),
        {"sharding": "full", "mesh": mesh_of(1)},
        "two axes",
    ),
    "a split over the runs": (
        (build, POINT, (ROWS, LABELS)),
        {"sharding": {"0/weight": PartitionSpec("runs")}, "mesh": mesh_of(1, 1)},
        "the axes 'data' of the mesh in the sharding of '0/weight'",
    ),
    "in turn on a mesh": (
        (build, POINT, (ROWS, LABELS)),
        {"how": "turn", "mesh": mesh_of(1)},
        "how='map' or 'vmap'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_swept_is_refused_in_words(name):
    arguments, options, words = REFUSED[name]
    given = {"epochs": 2, "batch_size": 8} | options
    with pytest.raises(fnn.InputError, match=words):
        fnn.sweep(*arguments, **given)


AXES = {"rate": train.between(1e-3, 1.0, log=True), "width": [3, 6], "seed": range(4)}


@pytest.mark.parametrize("drawn", [train.random_points, train.sobol_points])
def test_drawn_points_stand_on_their_axes_and_repeat_by_key(drawn):
    one, again, other = (drawn(AXES, 16, key=jax.random.key(i)) for i in (0, 0, 1))
    assert one == again != other
    assert all(1e-3 <= point["rate"] <= 1.0 for point in one)
    # As many below the middle of the logarithm as above, but for chance.
    assert 3 <= sum(point["rate"] < 1e-3**0.5 for point in one) <= 13
    assert {point["width"] for point in one} == {3, 6}
    assert {point["seed"] for point in one} <= set(range(4))


@pytest.mark.parametrize("count", [1, 5, 8])
def test_there_are_as_many_sobol_points_as_asked_for(count):
    points = train.sobol_points({"x": train.between(0, 1)}, count, key=jax.random.key(2))
    assert len({point["x"] for point in points}) == count


def test_sobol_points_have_one_in_each_share_of_an_axis():
    points = train.sobol_points({"x": train.between(0, 1)}, 8, key=jax.random.key(2))
    assert sorted(int(8 * point["x"]) for point in points) == list(range(8))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: train.between(1, 1), "high"),
        (lambda: train.between(0, 1, log=True), "low"),
        (lambda: train.grid({}), "by their names"),
        (lambda: train.grid({"rate": []}), "values of rate"),
        (lambda: train.grid({"rate": "abc"}), "values of rate"),
        (lambda: train.grid({"rate": 0.1}), "values of rate"),
        (lambda: train.random_points({"rate": 0.1}, 3, key=jax.random.key(0)), "a range or a list"),
        (lambda: train.sobol_points(AXES, 0, key=jax.random.key(0)), "count"),
        (lambda: train.random_points(AXES, 3, key=None), "key"),
    ],
)
def test_what_are_no_axes_is_refused_in_words(make, words):
    with pytest.raises(fnn.InputError, match=words):
        make()


class PowerCut(BaseException):
    """It ends a process, and nothing is called."""


def cut_after(monkeypatch, chunks):
    """Let a sweep be killed before it trains more than so many programs of runs."""
    trained = []

    def train_some(plan, chunk, begin, end):
        if len(trained) == chunks:
            raise PowerCut
        trained.append([one.number for one in chunk])
        real(plan, chunk, begin, end)

    real = sweep._train
    monkeypatch.setattr(sweep, "_train", train_some)
    return trained


FOLDED = {
    "validation": {"validation": (ROWS, LABELS)},
    "folds": {"folds": 2},
    "halving": {"validation": (ROWS, LABELS), "halving": (1,)},
    "side by side": {"validation": (ROWS, LABELS), "how": "vmap"},
}


@pytest.mark.parametrize("name", FOLDED)
def test_a_sweep_that_was_killed_goes_on_to_the_same_bits(name, tmp_path, monkeypatch):
    options = OPTIONS | {"members": 2} | FOLDED[name]
    points = {"learning_rate": [0.03, LOST], "noise": [0.1], "seed": [0, 3]}
    whole = fnn.sweep(build, points, (ROWS, LABELS), **options)
    first = cut_after(monkeypatch, 1)
    with pytest.raises(PowerCut):
        fnn.sweep(build, points, (ROWS, LABELS), folder=tmp_path, **options)
    monkeypatch.undo()
    rest = cut_after(monkeypatch, 9)
    again = fnn.sweep(build, points, (ROWS, LABELS), folder=tmp_path, **options)
    monkeypatch.undo()
    assert first == [[0, 1]]
    assert rest[0] == [2, 3]
    cut_after(monkeypatch, 0)
    read = fnn.sweep(build, points, (ROWS, LABELS), folder=tmp_path, **options)
    for result in (again, read):
        pairs = zip(result.train_states, result.histories, whole.train_states, whole.histories,
                    strict=True)  # fmt: skip
        for run, history, state, known in pairs:
            assert_same(run, history, (state, known))
            assert jax.tree.structure(run) == jax.tree.structure(state)


def other_build(learning_rate, noise=0.1, width=6):
    model, loss, _ = build(learning_rate, noise, width)
    return model, loss, optim.adam(learning_rate)


def wider(learning_rate):
    return build(learning_rate, width=5)


class Drawn:
    """A constructor of one's own, of which two print alike and draw others."""

    def __init__(self, value):
        self.value = value

    def __call__(self, learning_rate):
        @fnn.constructor
        def shifted():
            return fnn.stateless(
                lambda key, x: np.float32(self.value),
                lambda p, x: (x + p, ()),
                lambda p, r, dy: (dy.sum(), dy),
            )

        return fnn.serial(shifted(), fnn.dense(2)), fnn.losses.cross_entropy(), optim.sgd(0.1)


OTHERS = {
    "a setting": ({"points": {"learning_rate": [0.2], "seed": [0]}}, "learning_rate of run 0"),
    "one more run": ({"points": {"learning_rate": [0.1], "seed": [0, 1]}}, "2 runs, .*got 4"),
    "another optimizer": ({"build": other_build}, "optimizer of run 0 chain"),
    "another model": ({"build": wider}, "model of run 0"),
    "a model that draws others": ({"build": Drawn(2)}, "train state at the start of run 0"),
    "other data": ({"data": (ROWS + 1, LABELS)}, "data \\w+, as the sweep in"),
    "more epochs": ({"epochs": 3}, "epochs 1"),
    "more folds": ({"folds": 3}, "folds 2"),
    "another way": ({"how": "turn"}, "how map"),
}  # fmt: skip


@pytest.fixture(scope="module")
def swept_in(tmp_path_factory):
    def at(build):
        given = {"build": build, "points": POINT, "data": (ROWS, LABELS), "epochs": 1}
        given |= {"batch_size": 8, "folds": 2, "folder": tmp_path_factory.mktemp("sweep")}
        fnn.sweep(**given)
        return given

    return {"build": at(build), "drawn": at(Drawn(1))}


@pytest.mark.parametrize("name", OTHERS)
def test_another_sweep_in_a_folder_is_refused_with_what_differs_first(name, swept_in):
    other, words = OTHERS[name]
    given = swept_in["drawn" if isinstance(other.get("build"), Drawn) else "build"]
    with pytest.raises(fnn.InputError, match=rf"^fnn\.sweep: expected .*{words}"):
        fnn.sweep(**(given | other))


def test_a_damaged_part_of_a_sweep_is_told_and_not_run_again(tmp_path, swept_in):
    shutil.copytree(swept_in["build"]["folder"], tmp_path / "copy")
    file = next((tmp_path / "copy").glob("epoch-*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(fnn.InputError, match="is damaged"):
        fnn.sweep(**(swept_in["build"] | {"folder": tmp_path / "copy"}))
    (tmp_path / "copy/sweep.json").write_text("[]")
    with pytest.raises(fnn.InputError, match="the folder of a sweep"):
        fnn.sweep(**(swept_in["build"] | {"folder": tmp_path / "copy"}))
