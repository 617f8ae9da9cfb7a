"""Texts: read as they are written, and decoded only from what stands in the alphabet."""

import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.datasets import Text

TEXT = Text.of("banana")


@pytest.mark.parametrize("content", ["hi", "é𝄞\n\t", "a" * 1000])
def test_a_text_comes_back(tmp_path, content):
    (tmp_path / "text").write_text(content, "utf-8")
    text = fnn.datasets.text(tmp_path / "text")
    assert text.decode(text.ids) == content
    assert text.alphabet == "".join(sorted(set(content)))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "text").write_bytes("\ufeffhi".encode())
    assert fnn.datasets.text(str(tmp_path / "text")).alphabet == "hi"


@pytest.mark.parametrize(
    "content", [b"", b"\xef\xbb\xbf", b"\xff\xfe", b"ab\x80"], ids=["empty", "mark", "16", "latin"]
)
def test_a_file_without_text_is_refused(tmp_path, content):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(fnn.InputError):
        fnn.datasets.text(tmp_path / "text")


@pytest.mark.parametrize("place", ["missing", "."])
def test_a_place_without_a_text_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fnn.InputError, match=r"a text file in UTF-8"):
        fnn.datasets.text(place)


@pytest.mark.parametrize("characters", [0, -1, 2.0, "all", True])
def test_a_number_of_characters_below_1_is_refused(characters):
    with pytest.raises(fnn.InputError, match="characters of 1 or more"):
        fnn.datasets.text(characters=characters)


@pytest.mark.parametrize("of", ["", None, b"abc", 3, ["a"]])
def test_what_is_no_text_is_refused(of):
    with pytest.raises(fnn.InputError, match="a string of characters"):
        Text.of(of)
    if of != "":
        with pytest.raises(fnn.InputError, match="a string of characters"):
            TEXT.encode(of)


@pytest.mark.parametrize("ids", [[], [0, 2], np.array([1], "uint8"), jnp.array([2, 1])], ids=str)
def test_ids_are_decoded_in_any_integers(ids):
    assert TEXT.decode(ids) == "".join("abn"[int(i)] for i in ids)


@pytest.mark.parametrize(
    "ids", [[-1], [3], [0, 9], np.array([255], "uint8"), [1.0], [[1]], 1, "a", None], ids=str
)
def test_ids_outside_of_the_alphabet_are_refused(ids):
    with pytest.raises(fnn.InputError, match="ids"):
        TEXT.decode(ids)


@pytest.mark.parametrize("length", [0, 6, -1, 2.0, True, None])
def test_windows_that_do_not_fit_are_refused(length):
    with pytest.raises(fnn.InputError, match="a length from 1 to 5"):
        TEXT.windows(length)
