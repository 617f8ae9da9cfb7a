"""Files to learn from: what they hold is what is learned, and what is wrong with one is said."""

import numpy as np
import pytest

import fnn
from fnn.cli.data import problem

COLORS = ["red", "green", "blue"]


def table(target, rows=30, header="height,width,target\n"):
    random = np.random.default_rng(0)
    x = random.normal(5, 2, (rows, 2)).round(3)
    lines = [f"{a},{b},{target(i)}" for i, (a, b) in enumerate(x)]
    return x, header + "\n".join(lines) + "\n"


@pytest.fixture
def write(tmp_path):
    def made(text):
        file = tmp_path / "data.csv"
        file.write_text(text, "utf-8")
        return str(file)

    return made


def test_the_columns_of_a_csv_file_are_scaled_and_a_fifth_is_held_out(write):
    x, text = table(lambda i: COLORS[i % 3])
    made = problem(write(text), None, seed=1)
    assert made.classes == ("blue", "green", "red")
    assert (len(made.train[0]), len(made.test[0])) == (24, 6)
    np.testing.assert_allclose(made.train[0].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(made.train[0].std(0), 1, rtol=1e-5)
    # Every row is there once, with its own target.
    everything = np.concatenate([made.train[0], made.test[0]])
    labels = np.concatenate([made.train[1], made.test[1]])
    order = np.argsort(everything[:, 0])
    expected = np.array([made.classes.index(COLORS[i % 3]) for i in range(30)])
    assert np.array_equal(labels[order], expected[np.argsort(x[:, 0])])


def test_a_column_that_is_constant_is_nothing_to_learn_from(write):
    # The mean of some hundred times 0.1 is not 0.1.
    lines = [f"0.1,{i}.5,{i % 2}" for i in range(300)]
    made = problem(write("\n".join(lines)), None, seed=0)
    assert abs(made.train[0][:, 0]).max() < 1e-6
    np.testing.assert_allclose(made.train[0][:, 1].std(), 1, rtol=1e-5)


@pytest.mark.parametrize("header", ["", "a,b,c\n", "\ufeffa,b,c\n"])
def test_a_row_of_names_is_left_out_where_there_is_one(write, header):
    _, text = table(lambda i: i % 2, header=header)
    made = problem(write(text), None, seed=0)
    assert len(made.train[0]) + len(made.test[0]) == 30
    assert made.classes == ("0", "1")


def test_integers_are_classes_in_their_order_and_decimals_are_values(write):
    _, text = table(lambda i: (2, 10, -1)[i % 3])
    assert problem(write(text), None, 0).classes == ("-1", "2", "10")
    _, text = table(lambda i: i / 4)
    made = problem(write(text), None, 0)
    assert made.classes == ()
    assert made.train[1].shape == (24, 1)
    assert set(np.concatenate([made.train[1], made.test[1]])[:, 0]) == {i / 4 for i in range(30)}


@pytest.mark.parametrize("parts", [2, 4])
def test_the_arrays_of_an_npz_file_are_learned(tmp_path, parts):
    random = np.random.default_rng(0)
    arrays = {"x": random.integers(0, 256, (20, 5, 4), dtype=np.uint8), "y": np.arange(20) % 4}
    if parts == 4:
        arrays |= {"test_x": arrays["x"][:3], "test_y": arrays["y"][:3]}
    np.savez(tmp_path / "data.npz", **arrays)
    made = problem(str(tmp_path / "data.npz"), None, 0)
    assert made.has_images
    assert len(made.train[0]) == (20 if parts == 4 else 16)
    assert made.classes == ("0", "1", "2", "3")
    if parts == 4:
        np.testing.assert_allclose(made.train[0], arrays["x"] / np.float32(255), rtol=1e-6)
        assert np.array_equal(made.test[1], arrays["test_y"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected as many targets as examples, 2 or more, got 0 of x and 0 of y"),
        ("1,2,0\n1,x,1\n", "got 'x' in row 2 below the names"),
        ("1,2,0\n1,1\n", "got 2 columns in row 2 below the names"),
        ("1\n2\n", "expected rows of 2 columns"),
        ("1,2,0\n3,nan,1\n4,5,0\n", "expected finite numbers"),
        ("1,2,0\n3,1e300,1\n4,5,0\n", "expected finite numbers"),
        ("1,2,0\n3,4,1\n5,6,2\n7,8,3\n", "expected a few classes, got 4 of them in 3 examples"),
        ("1,2,0.5\n3,4,inf\n5,6,1.5\n", "expected finite targets"),
    ],
)
def test_a_file_that_cannot_be_learned_is_refused_in_words(write, text, message):
    with pytest.raises(fnn.InputError) as caught:
        problem(write(text), None, 0)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((3, 2))}, "expected arrays x and y, with test_x and test_y or without"),
        ({"x": np.ones((3, 2)), "y": np.ones(3), "test_x": np.ones((1, 2))}, "got x, y, test_x of"),
        ({"x": np.ones((4, 2)), "y": np.ones(3)}, "got 4 of x and 3 of y"),
        ({"x": np.ones(4), "y": np.ones(4)}, "expected points (n, D) or images (n, H, W)"),
        ({"x": np.array([["a"], ["b"]]), "y": np.ones(2)}, "expected finite numbers"),
        ({"x": np.array([[{}], [1]], object), "y": np.ones(2)}, "cannot be read"),
    ],
)
def test_arrays_that_cannot_be_learned_are_refused_in_words(tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(fnn.InputError) as caught:
        problem(str(tmp_path / "data.npz"), None, 0)
    assert message in str(caught.value)


def test_a_file_that_is_no_archive_is_refused_in_words(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(fnn.InputError, match="a file that cannot be read"):
        problem(str(tmp_path / "data.npz"), None, 0)
