"""Generation by encoder-decoders: a source is read once, and its padding never."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.layers.attention import attention
from tests.train.test_generate_cache import bound, check_draws

KEY = jax.random.key(5)
WIDTH, CLASSES, WINDOW, STEPS = 8, 7, 9, 5
PROMPT = np.array([[3, 1, 4, 1], [5, 0, 2, 6]])
LENGTHS = np.array([2, 1])
TOKENS = np.array([[1, 6, 2, 5, 3], [4, 4, 1, 0, 0]])
RANDOM = np.random.default_rng(3)
VALUES = RANDOM.normal(size=(2, STEPS, 3)).astype("float32")
SOURCE_LENGTHS = np.array([5, 3])
PADDING = np.arange(STEPS) >= SOURCE_LENGTHS[:, None]


def read(layer):
    """A layer over a source of tokens."""
    return fnn.serial(embed=fnn.over_sequence(fnn.embedding(CLASSES, WIDTH)), read=layer)


def encoder_decoder(encoder, embed, decoder, head=None):
    return fnn.serial(
        encoder=fnn.over_memory(encoder),
        embed=fnn.over_query(embed),
        decoder=decoder,
        query=fnn.take_query(),
        head=fnn.dense(CLASSES) if head is None else head,
    )


def transformer():
    """Learned positions, and blocks compiled once."""
    return encoder_decoder(
        read(
            fnn.serial(fnn.over_sequence(fnn.positional()), fnn.repeat(fnn.transformer_block(2), 2))
        ),
        fnn.serial(fnn.embedding(CLASSES, WIDTH), fnn.positional("learned", WINDOW)),
        fnn.repeat(fnn.transformer_block(2, causal=True, cross=True), 2),
        fnn.serial(fnn.layer_norm(), fnn.dense(CLASSES)),
    )


def rotary():
    """Norms behind, fewer heads of keys, and a source that is no text."""
    block = functools.partial(
        fnn.transformer_block, 4, key_value_heads=2, rotary=True, norm="rms_norm",
        activation="swiglu", norm_first=False,
    )  # fmt: skip
    return encoder_decoder(
        fnn.serial(fnn.over_sequence(fnn.dense(WIDTH)), block()),
        fnn.embedding(CLASSES, WIDTH),
        fnn.remat(block(causal=True, cross=True)),
    )


def recurrent():
    """An encoder that reads both ways, and a decoder that looks at it from its hidden state."""
    return encoder_decoder(
        read(fnn.lstm(5, bidirectional=True)),
        fnn.serial(fnn.embedding(CLASSES, WIDTH), fnn.lstm(WIDTH)),
        fnn.residual_cross(fnn.attention(2)),
    )


def tied():
    """One set of vectors for source, target and scores."""
    model = encoder_decoder(
        read(fnn.transformer_block(2)),
        fnn.embedding(CLASSES, WIDTH),
        fnn.transformer_block(2, causal=True, cross=True),
        fnn.unembedding(CLASSES),
    )
    return fnn.shared(model, {"head": "embed", "encoder/embed": "embed"})


def monotone():
    """A source of two parts, of which a step sees no more than it has behind itself."""
    looking = fnn.attention(
        2, causal=True, rotary=True, score_bias=lambda t, s: -abs(t - s) / 4, block=1
    )
    return encoder_decoder(
        fnn.serial(fnn.over_parts(near=fnn.dense(WIDTH), far=fnn.dense(WIDTH)), fnn.concatenate(1)),
        fnn.serial(fnn.embedding(CLASSES, WIDTH), fnn.attention(2, causal=True)),
        fnn.residual_cross(looking),
    )


TEXT, PICTURE = (fnn.Sequence(a, SOURCE_LENGTHS) for a in (TOKENS, VALUES))
MODELS = {
    "transformer": (transformer, TEXT),
    "rotary": (rotary, PICTURE),
    "recurrent": (recurrent, TEXT),
    "tied": (tied, TEXT),
    "monotone": (monotone, {"near": VALUES[:, :2], "far": VALUES[:, 2:]}),
}
IN_HALF = [(name, "bfloat16") for name in ("transformer", "recurrent")]
EACH = pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in MODELS), *IN_HALF]
)


@functools.cache
def initialized(name):
    make, source = MODELS[name]
    model = make()
    return model, *jax.jit(model.init)(KEY, (PROMPT, source))


def made(name, dtype="float32"):
    model, params, state = initialized(name)
    # Larger than they are drawn: for scores that are far apart.
    params = jax.tree.map(lambda a: (2 * a).astype(dtype), params)
    return model, params, state, narrow(MODELS[name][1], dtype)


def narrow(source, dtype):
    return jax.tree.map(lambda a: a.astype(dtype) if a.dtype == "float32" else a, source)


@functools.cache
def run(name, dtype):
    """The program of scores from the cache, and of those of reading all again."""
    model, _, state, _ = made(name, dtype)

    @jax.jit
    def both_ways(params, again, source):
        rows, found = jnp.arange(2), []
        lengths = jnp.asarray(LENGTHS)
        _, cache = model.prefill(params, state, (PROMPT, source), window=WINDOW, lengths=lengths)
        for step in range(2):
            newest = jnp.asarray(PROMPT)[rows, lengths + step][:, None]
            y, cache = model.decode(again, state, cache, (newest, None), lengths + step)
            found.append(y)
        return jnp.concatenate(found, 1), model.apply(params, state, (PROMPT, source))[0]

    return both_ways


def check_scores(found, whole, dtype):
    found, whole = (np.asarray(y, np.float64) for y in (found, whole))
    wanted = np.stack([row[n : n + 2] for row, n in zip(whole, LENGTHS, strict=True)])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound(dtype, whole))


@EACH
def test_scores_from_the_cache_are_those_of_reading_all_again(name, dtype):
    """With prompts and sources of unequal length."""
    _, params, _, source = made(name, dtype)
    check_scores(*run(name, dtype)(params, params, source), dtype)


@EACH
def test_an_encoder_is_not_asked_again(name, dtype):
    """Its parameters may be anything by then."""
    _, params, _, source = made(name, dtype)
    again = params | {"encoder": jax.tree.map(lambda a: a * jnp.nan, params["encoder"])}
    found, _ = run(name, dtype)(params, again, source)
    expected, _ = run(name, dtype)(params, params, source)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "monotone"])
def test_padding_of_a_source_changes_nothing(name):
    """Not even if it is NaN, or no index of the vocabulary."""
    _, params, _, source = made(name)
    wrong = np.nan if np.issubdtype(source.values.dtype, np.floating) else 99
    there = ~PADDING.reshape(2, STEPS, *(1,) * (source.values.ndim - 2))
    spoiled = source._replace(
        values=np.where(there, source.values, wrong).astype(source.values.dtype)
    )
    for found, expected in zip(
        run(name, "float32")(params, params, spoiled),
        run(name, "float32")(params, params, source),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
        assert np.isfinite(found).all()


def test_a_cache_that_forgets_what_is_padding_is_seen(monkeypatch):
    original = attention.attend_cached

    def careless(q, k, v, present, *rest):
        return original(q, k, v, None, *rest)

    monkeypatch.setattr(attention, "attend_cached", careless)
    _, params, _, source = made("recurrent")
    outputs = run.__wrapped__("recurrent", "float32")(params, params, source)
    with pytest.raises(AssertionError):
        check_scores(*outputs, "float32")


@pytest.mark.parametrize("name", ["transformer", "recurrent"])
def test_draws_are_those_of_reading_all_again(name):
    model, params, state, source = made(name)
    options = {"key": KEY, "temperature": 0, "source": source}
    drawn = fnn.generate(model, params, state, PROMPT, 5, **options)
    whole, _ = jax.jit(model.apply)(params, state, (np.concatenate([PROMPT, drawn], 1), source))
    whole = np.asarray(whole, np.float64)
    check_draws(np.asarray(drawn), whole[:, PROMPT.shape[1] - 1 : -1], "float32")


def test_a_row_of_a_batch_is_drawn_as_it_is_alone():
    """With a window that moves on: then the source is read again as well."""
    model, params, state, source = made("recurrent")
    options = {"key": KEY, "temperature": 0, "window": 5}
    prompt = fnn.Sequence(PROMPT, LENGTHS)
    drawn = fnn.generate(model, params, state, prompt, 6, source=source, **options)
    alone = fnn.generate(
        model, params, state, PROMPT[1:, : LENGTHS[1]], 6, **options,
        source=source.values[1:, : SOURCE_LENGTHS[1]],
    )  # fmt: skip
    np.testing.assert_array_equal(alone[0], drawn[1])


def test_a_stream_brings_the_same_bits():
    model, params, state, source = made("recurrent")
    arguments, options = (model, params, state, PROMPT, 4), {"key": KEY, "source": source}
    stream = list(fnn.generate_stream(*arguments, **options))
    np.testing.assert_array_equal(np.stack(stream, 1), fnn.generate(*arguments, **options))


def test_another_source_compiles_nothing(caplog):
    model, params, state, source = made("recurrent")
    fnn.generate(model, params, state, PROMPT, 4, key=KEY, source=source)
    other = fnn.Sequence(source.values[::-1].copy(), source.lengths[::-1].copy())
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        fnn.generate(model, params, state, PROMPT, 4, key=KEY, source=other)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


def shift():
    """The next integer is the last and that of the source."""
    return fnn.from_function(lambda x: jax.nn.one_hot((x[0] + x[1]) % 4, 4))


def test_without_a_cache_all_is_read_again_beside_the_source():
    drawn = fnn.generate(
        shift(), (), (), [[0], [0]], 4, key=KEY, temperature=0, cache=False, source=[[1], [3]]
    )
    assert drawn.tolist() == [[1, 2, 3, 0], [3, 2, 1, 0]]


REFUSED = {
    "number": (3, "source of arrays, got 3"),
    "text": ("x", "source of arrays, got 'x'"),
    "words": (np.array([["a"], ["b"]]), "source of numbers, got <U1 of shape (2, 1)"),
    "complex": (TOKENS * 1j, "source of real numbers, got complex128 of shape (2, 5)"),
    "nothing": ({}, "source of arrays, got {}"),
    "ragged": ([[1], [2, 3]], "source of one shape, got list of rows that differ; pad the rows"),
    "batch": (TOKENS[:1], "source of shape (2, ...), got int64 of shape (1, 5)"),
    "part": ({"a": TOKENS, "b": TOKENS[0]}, "source of shape (2, ...), got int64 of shape (5,)"),
    "lengths": (fnn.Sequence(TOKENS, np.array([6, 1])), "lengths in 0..5, got 6 at lengths[0]"),
    "lengths-float": (
        fnn.Sequence(TOKENS, np.ones(2)),
        "lengths of shape (2,) of integers, or (2, 5) of booleans, got float32 of shape (2,)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_source_is_refused_in_words(name):
    source, expected = REFUSED[name]
    with pytest.raises(fnn.InputError) as raised:
        fnn.generate(shift(), (), (), PROMPT, 2, key=KEY, cache=False, source=source)
    assert str(raised.value).startswith(f"fnn.generate: expected {expected}")


def test_a_model_says_whether_it_takes_a_source():
    model, params, state, _ = made("recurrent")
    with pytest.raises(fnn.InputError, match=r"a pair \(x, memory\).*to fnn.generate as source="):
        fnn.generate(model, params, state, PROMPT, 2, key=KEY)
    plain = fnn.serial(fnn.embedding(CLASSES, WIDTH), fnn.dense(CLASSES))
    params, state = plain.init(KEY, PROMPT)
    with pytest.raises(fnn.InputError, match="x of integers, got a tuple"):
        fnn.generate(plain, params, state, PROMPT, 2, key=KEY, source=TOKENS)
