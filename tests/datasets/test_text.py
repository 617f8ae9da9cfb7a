"""Texts: read as they are written, and decoded only from what stands in the alphabet."""

import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.datasets import BytePairText, Text

TEXT = Text.of("banana")
PAIRS = BytePairText.of("low lower lowest é " * 3, 265)


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


def test_a_file_is_read_as_byte_pairs_of_the_vocabulary_that_is_asked_for(tmp_path):
    file = tmp_path / "text"
    file.write_text("low lower lowest é " * 3, "utf-8")
    read = fnn.datasets.byte_pairs(file, vocabulary=265)
    assert (read.vocabulary, read.ids.tolist()) == (265, PAIRS.ids.tolist())


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_windows_are_the_text_and_the_text_one_character_on(length):
    x, target = TEXT.windows(length)
    assert x.shape == target.shape == (5 // length, length)
    assert "banana".startswith(TEXT.decode(x.ravel()))
    assert "anana".startswith(TEXT.decode(target.ravel()))


@pytest.mark.parametrize("length", [0, 6, -1, 2.0, True, None])
def test_windows_that_do_not_fit_are_refused(length):
    with pytest.raises(fnn.InputError, match="a length from 1 to 5"):
        TEXT.windows(length)


# Byte pairs.


@pytest.mark.parametrize("content", ["lowest", "é𝄞\n\t x  y", "new <unk> words", ""])
def test_any_text_comes_back_from_byte_pairs(content):
    assert PAIRS.decode(PAIRS.encode(content)) == content


def test_pairs_that_occur_often_become_one_token():
    assert len(PAIRS.ids) < len("low lower lowest é " * 3) / 2
    assert PAIRS.vocabulary == 265 == len({*range(265), *PAIRS.ids.tolist()})


def test_no_more_tokens_are_learned_than_pairs_occur():
    assert BytePairText.of("abc", 1000).vocabulary == 256


def test_the_same_text_makes_the_same_tokens():
    again = BytePairText.of("low lower lowest é " * 3, 265)
    assert again.tokenizer.to_str() == PAIRS.tokenizer.to_str()


def test_windows_of_tokens_are_one_token_on():
    x, target = PAIRS.windows(3)
    np.testing.assert_array_equal(x.ravel()[1:], target.ravel()[:-1])
    assert x.dtype == PAIRS.ids.dtype == "int32"


def test_a_tokenizer_is_read_from_its_file(tmp_path):
    PAIRS.tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text").write_text("slower é", "utf-8")
    for tokenizer in (PAIRS.tokenizer, tmp_path / "tokenizer.json"):
        read = fnn.datasets.byte_pairs(tmp_path / "text", 6, tokenizer=tokenizer)
        assert read.decode(read.ids) == "slower"
        np.testing.assert_array_equal(read.ids, PAIRS.encode("slower"))


REFUSED_PAIRS = {
    "no-text": (lambda path: BytePairText.of(3), "a string of characters, got 3"),
    "empty": (lambda path: BytePairText.of(""), "a string of characters, got ''"),
    "vocabulary": (lambda path: BytePairText.of("a", 255), "vocabulary of 256 or more, got 255"),
    "ids": (lambda path: PAIRS.decode([265]), r"ids in 0\.\.264, got 265"),
    "negative": (lambda path: PAIRS.decode([-1]), r"ids in 0\.\.264, got -1"),
    "length": (lambda path: PAIRS.windows(0), "a length from 1"),
    "file": (
        lambda path: fnn.datasets.byte_pairs(tokenizer=path / "none"),
        "a file of a tokenizer",
    ),
    "kind": (lambda path: fnn.datasets.byte_pairs(tokenizer=3), "a tokenizer, got 3"),
}


@pytest.mark.parametrize("name", REFUSED_PAIRS)
def test_bad_input_of_byte_pairs_is_refused_in_words(name, tmp_path):
    call, expected = REFUSED_PAIRS[name]
    with pytest.raises(fnn.InputError, match=expected):
        call(tmp_path)
