"""A run read back answers for inputs as its file has them, and refuses what is none."""

import csv
import io
import json

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import fnn
from fnn.cli import predict, run as one_run
from fnn.cli.data import problem
from fnn.cli.main import app
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


# As a process: ``python -m fnn predict``.


def command(*words):
    words = ["--no-cache", "predict", *map(str, words)]
    return CliRunner().invoke(app, words, prog_name="python -m fnn")


def written(folder, x):
    """New inputs as a user writes them: rows as CSV, anything else as an array."""
    if x.ndim == 2:
        (folder / "new.csv").write_text("\n".join(",".join(map(str, row)) for row in x))
        return folder / "new.csv"
    np.savez(folder / "new.npz", x=x)
    return folder / "new.npz"


def rows(text):
    head, *below = csv.reader(io.StringIO(text))
    return head, below


def test_the_command_predicts_what_the_run_read_back_does(trained, tmp_path):
    _, x, _, folder = trained
    run, new = fnn.load_run(folder), x[:5]
    found = command(folder, written(tmp_path, new))
    assert found.exit_code == 0, found.output
    head, below = rows(found.stdout)
    outputs = np.asarray(run.predict(new))
    if run.classes:
        assert head == ["class", *(f"score of {one}" for one in run.classes)]
        assert [row.pop(0) for row in below] == [run.classes[i] for i in outputs.argmax(-1)]
    else:
        assert head == ["value"]
    np.testing.assert_array_equal(np.array(below, "float32"), outputs)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A run of named columns and of two classes, and an empty folder."""
    folder = tmp_path_factory.mktemp("of_words")
    settings = Settings(
        str(table(folder, lambda a: "tall" if a > 50 else "short")), hidden=(), epochs=1,
        batch_size=32, compare=False, output=folder / "run",
    )  # fmt: skip
    one_run.run(problem(settings.data, None, 0), settings)
    return folder / "run"


def test_named_columns_are_taken_by_their_names_and_the_others_left_alone(words, tmp_path):
    plain = written(tmp_path, ROWS[:4])
    named = tmp_path / "named.csv"
    named.write_text(
        "\n".join(["target, weight ,id,height", *(f"tall,{b},x,{a}" for a, b in ROWS[:4])])
    )
    assert command(words, named).stdout == command(words, plain).stdout != ""


def test_a_file_of_predictions_is_written_whole_or_not_at_all(words, tmp_path, monkeypatch):
    file, out = written(tmp_path, ROWS[:3]), tmp_path / "out.csv"
    found = command(words, file, "--out", out)
    assert found.stdout == f"predictions for 3 rows written to {out}\n"
    assert out.read_text() == command(words, file).stdout
    out.write_text("as it was")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predict.Path, "write_text", full)
    assert command(words, file, "--out", out).exit_code == 1
    assert out.read_text() == "as it was"
    assert {one.name for one in tmp_path.iterdir()} == {"new.csv", "out.csv"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a row or more, got none"),
        ("height,weight\n", "expected a row or more, got none"),
        ("1,2\n3\n", "expected rows of 2 numbers, got 1 columns in row 2"),
        ("1,2\n3,tall\n", "expected rows of 2 numbers, got 'tall' in row 2"),
        ("1,2,3\n", "expected x of shape (n, 2), got (1, 3); pass rows as the file"),
        ("height,mass\n1,2\n", "expected a column 'weight', as the run has, got 0 of that name"),
        ("height,weight,height\n1,2,3\n", "got 2 of that name in"),
        ("height,weight\n1,2\n3\n", "expected rows of 2 columns, got 1 columns in row 2"),
        ("1,nan\n", "expected finite numbers, got others in"),
        ("\xff", "expected data in"),
    ],
)
def test_rows_that_do_not_fit_are_refused_in_a_line(words, tmp_path, content, message):
    file = tmp_path / "new.csv"
    file.write_bytes(content.encode("latin-1"))
    found = command(words, file)
    assert found.exit_code == 2
    assert found.stderr.startswith("Error: python -m fnn: expected")
    assert message in found.stderr
    assert found.stdout == ""


def test_files_and_folders_that_are_none_are_refused_in_a_line(words, tmp_path):
    file = written(tmp_path, ROWS[:2])
    np.savez(tmp_path / "other.npz", y=np.ones(3))
    for wrong, message in {
        (words, tmp_path / "nowhere.csv"): "a file that cannot be read (No such file",
        (words, tmp_path / "new.txt"): "expected rows in FILE.csv or FILE.npz",
        (words, tmp_path / "other.npz"): "expected an array x, got y",
        (tmp_path, file): "expected the run.json of a run",
        (words, file, "--out", file): "expected another file to write to",
        (words, file, "--out", tmp_path / "no" / "out.csv"): "whose folder is missing",
    }.items():
        found = command(*wrong)
        assert found.exit_code == 2
        assert found.stderr.startswith("Error: python -m fnn: expected")
        assert message in found.stderr


def test_outputs_that_are_no_numbers_predict_nothing(words, tmp_path, monkeypatch):
    lost = fnn.load_run(words)
    lost = lost._replace(params=jax.tree.map(lambda a: a + np.nan, lost.params))
    monkeypatch.setattr(predict, "load_run", lambda folder: lost)
    found = command(words, written(tmp_path, ROWS[:2]))
    assert (found.exit_code, found.stdout) == (2, "")
    assert "expected outputs that are numbers, got others in row 1" in found.stderr


def test_the_help_of_predictions_fits_80_columns():
    lines = command("--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert {"FOLDER", "FILE", "--out"} <= set(" ".join(lines).split())
