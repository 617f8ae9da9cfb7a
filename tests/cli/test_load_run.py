"""A run read back answers for inputs as its file has them, and refuses what is none."""

import json

import numpy as np
import pytest

import fnn
from fnn.cli import run as one_run
from fnn.cli.data import problem
from fnn.cli.settings import Settings

RNG = np.random.default_rng(0)
# The second column is one of times, whose differences float32 does not hold.
ROWS = RNG.normal([50.0, 1.7e9], [2.0, 30.0], (40, 2)).round(3)
IMAGES = RNG.integers(0, 256, (40, 4, 4), dtype=np.uint8)


def table(folder, target):
    lines = ["height,weight,target"]
    lines += [f"{a},{b},{target(a)}" for a, b in ROWS]
    (folder / "data.csv").write_text("\n".join(lines))
    return folder / "data.csv"


def arrays(folder, x):
    np.savez(folder / "data.npz", x=x, y=np.arange(len(x)) % 4)
    return folder / "data.npz"


FILES = {
    "words": (ROWS, lambda folder: table(folder, lambda a: "tall" if a > 50 else "short")),
    "values": (ROWS, lambda folder: table(folder, lambda a: a / 7)),
    "bytes": (IMAGES, lambda folder: arrays(folder, IMAGES)),
    "images": (IMAGES - 7.5, lambda folder: arrays(folder, IMAGES - 7.5)),
}
CLASSES = {"words": ("short", "tall"), "values": ()}


@pytest.fixture(scope="module", params=FILES)
def trained(request, tmp_path_factory):
    """What a run learned from: its inputs as they were, itself, and what it was given."""
    x, write = FILES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    learned = problem(str(write(folder)), None, 1)
    settings = Settings(
        str(folder / "data"), hidden=(4,), epochs=1, batch_size=32, compare=False, seed=1,
        batch_norm=False, output=folder / "run",
    )  # fmt: skip
    one_run.run(learned, settings)
    return request.param, x, learned, folder / "run"


def test_new_inputs_are_scaled_as_those_of_the_run_were(trained):
    name, x, learned, folder = trained
    run = fnn.load_run(folder)
    held_out = x[np.random.default_rng(1).permutation(len(x))[: len(x) // 5]]
    expected = fnn.predict(run.model, run.params, run.state, learned.test[0])
    np.testing.assert_array_equal(run.predict(held_out), expected)
    # Inputs that were not scaled are other ones.
    assert abs(learned.test[0] - held_out).max() > 1
    assert run.classes == CLASSES.get(name, ("0", "1", "2", "3"))
    assert run.columns == (("height", "weight") if name in CLASSES else ())
    assert run.predict(held_out).shape == (len(held_out), len(run.classes) or 1)


def test_inputs_of_another_shape_or_not_finite_are_refused(trained):
    run = fnn.load_run(trained[3])
    x = np.zeros((2, *run.example))
    with pytest.raises(fnn.InputError, match=r"^fnn.Run: expected x of shape \(n, "):
        run.predict(x[:, :1])
    with pytest.raises(fnn.InputError, match="finite data"):
        run.predict(x + np.nan)


@pytest.mark.parametrize("part", ["mean", "classes", "example"])
def test_a_record_without_the_data_is_refused(trained, tmp_path, part):
    record = json.loads((trained[3] / "run.json").read_text())
    del record["data"][part]
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(fnn.InputError, match=f"the data of a run of this version, got .*{part}"):
        fnn.load_run(tmp_path)
