"""Autoregressive sampling: a window that moves on, draws of the softmax, and what is refused."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn

KEY = jax.random.key(5)
PROMPT = np.array([[0, 1], [2, 3]])
SCORES = np.array([0.0, 1.0, -1.0, 2.0])


def cycle(classes=4):
    """The next integer is the one after the last."""
    return fnn.positionwise(fnn.from_function(lambda x: jax.nn.one_hot((x + 1) % classes, classes)))


def constant(scores=SCORES, dtype="float32"):
    """The same scores whatever came before."""
    return fnn.positionwise(
        fnn.from_function(lambda x: jnp.tile(jnp.asarray(scores, dtype), (*x.shape, 1)))
    )


def generate(model=None, prompt=PROMPT, count=3, **options):
    options = {"key": KEY} | options
    return fnn.generate(model or cycle(), (), (), prompt, count, **options)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32"])
def test_the_likeliest_follows_at_temperature_0_in_the_dtype_of_the_prompt(dtype):
    drawn = generate(prompt=PROMPT.astype(dtype), count=5, temperature=0)
    assert drawn.dtype == dtype
    assert drawn.tolist() == [[2, 3, 0, 1, 2], [0, 1, 2, 3, 0]]


def test_without_a_cache_the_model_sees_a_window_as_long_as_the_prompt():
    seen = fnn.from_function(lambda x: jax.nn.one_hot(jnp.roll(x, -1, 1), 4))
    # The last score is that of the first integer of the window: what left it comes back.
    drawn = generate(seen, count=6, temperature=0, cache=False)
    assert drawn.tolist() == [[0, 1] * 3, [2, 3] * 3]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_draws_have_the_frequencies_of_the_softmax(temperature, dtype):
    count = 4000
    drawn = generate(constant(dtype=dtype), PROMPT[:1], count, temperature=temperature)
    share = np.bincount(np.asarray(drawn)[0], minlength=4) / count
    expected = np.exp(SCORES / temperature) / np.exp(SCORES / temperature).sum()
    # Five standard errors of a frequency.
    assert (abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / count)).all()


@pytest.mark.parametrize("temperature", [1e-30, 1e-38, 1e-50, jnp.float32(0), np.float16(0)])
def test_a_temperature_next_to_0_takes_the_likeliest(temperature):
    assert (generate(constant(), temperature=temperature) == 3).all()


def test_what_scores_minus_infinity_is_never_drawn():
    drawn = generate(constant([0.0, -np.inf, 0.0, -np.inf]), count=300)
    assert set(np.unique(drawn)) == {0, 2}


@pytest.mark.parametrize(
    "temperature", [0.8, np.float64(0.8), np.float32(0.8), jnp.float32(0.8)], ids=repr
)
def test_temperatures_of_any_kind_give_the_same_draws(temperature):
    expected = generate(constant(), count=20, temperature=0.8)
    assert (generate(constant(), count=20, temperature=temperature) == expected).all()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_traced_temperature_gives_the_same_draws(temperature):
    expected = generate(constant(), count=20, temperature=temperature)
    traced = jax.jit(lambda t: generate(constant(), count=20, temperature=t))(temperature)
    assert (traced == expected).all()


SHARES = {
    "top-2": ({"top_k": 2}, [0, 1, 0, 1]),
    "top-1": ({"top_k": 1}, [0, 0, 0, 1]),
    "all": ({"top_k": 4, "top_p": 1.0}, [1, 1, 1, 1]),
    # The softmax is 0.09, 0.23, 0.03 and 0.64: the two likeliest add up to 0.87.
    "nucleus": ({"top_p": 0.87}, [0, 1, 0, 1]),
    "nucleus-of-one": ({"top_p": 0.5}, [0, 0, 0, 1]),
    "nucleus-of-3": ({"top_p": 0.9}, [1, 1, 0, 1]),
    "both": ({"top_k": 3, "top_p": 0.95}, [1, 1, 0, 1]),
    "hot": ({"top_k": 2, "temperature": 4.0}, [0, 1, 0, 1]),
}


@pytest.mark.parametrize("name", SHARES)
def test_draws_are_of_the_likeliest_that_were_asked_for(name):
    options, kept = SHARES[name]
    count = 2000
    drawn = generate(constant(), PROMPT[:1], count, **options)
    share = np.bincount(np.asarray(drawn)[0], minlength=4) / count
    expected = np.exp(SCORES / options.get("temperature", 1)) * kept
    expected /= expected.sum()
    # Five standard errors of a frequency.
    assert (abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / count)).all()


PENALIZED = {
    # After 0 and 1 the scores 1, 1.2, -1, -1.3 are 0.5, 0.6, -1, -1.3.
    "above-0": (2.0, 0, 2, [1, 1, 1]),
    # After 0 and 1, -1, -0.8, -3, -3.3 are -5, -4, -3, -3.3; and 2 and 3 then -15 and -16.5.
    "below-0": (5.0, 2, 2, [2, 3, 1]),
    # After 0 alone, what is padding did not occur.
    "padded": (5.0, 2, 1, [1, 2, 3]),
}


@pytest.mark.parametrize("name", PENALIZED)
def test_what_occurs_is_divided_by_the_penalty_or_multiplied_below_0(name):
    penalty, down, length, expected = PENALIZED[name]
    model = constant(np.array([1.0, 1.2, -1.0, -1.3]) - down)
    prompt = fnn.Sequence(PROMPT[:1], np.array([length]))
    drawn = generate(model, prompt, 3, temperature=0, repetition_penalty=penalty)
    assert drawn.tolist() == [expected]


def test_a_row_that_stops_is_filled_with_the_stop():
    drawn = generate(count=5, temperature=0, stop=3)
    assert drawn.tolist() == [[2, 3, 3, 3, 3], [0, 1, 2, 3, 3]]


def test_scores_behind_the_stop_may_be_anything():
    model = fnn.positionwise(
        fnn.from_function(lambda x: jnp.where((x == 3)[..., None], jnp.nan, cycle()(x)))
    )
    assert generate(model, PROMPT[:1], 5, temperature=0, stop=3).tolist() == [[2, 3, 3, 3, 3]]


def test_other_numbers_and_keys_compile_nothing(caplog):
    model = fnn.serial(fnn.embedding(4, 4), fnn.gru(3), fnn.dense(4))
    params, state = model.init(KEY, PROMPT)

    def compiled(seed, temperature, top_p, penalty, stop):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            fnn.generate(
                model, params, state, PROMPT, 3, key=jax.random.key(seed), temperature=temperature,
                top_p=top_p, repetition_penalty=penalty, stop=stop,
            )  # fmt: skip
        return [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]

    assert any("write" in message for message in compiled(1, 0.5, 0.9, 1.2, 1))
    assert compiled(2, 0.7, 0.8, 1.3, 2) == []


def test_draws_come_from_the_key():
    one, again = (generate(constant(), count=20) for _ in range(2))
    assert (one == again).all()
    assert (one != generate(constant(), count=20, key=jax.random.key(6))).any()


def test_no_draws_are_an_empty_array():
    assert generate(count=0).shape == (2, 0)


REFUSED = {
    "negative": ({"temperature": -0.1}, "temperature of 0 or more, got -0.1"),
    "nan": ({"temperature": np.nan}, "temperature of 0 or more, got nan"),
    "infinite": ({"temperature": jnp.inf}, "temperature of 0 or more, got inf"),
    "too-large": ({"temperature": 1e300}, "temperature of 0 or more"),
    "complex": ({"temperature": 1j}, "temperature of 0 or more"),
    "text": ({"temperature": "hot"}, "temperature of 0 or more"),
    "flag": ({"temperature": True}, "temperature of 0 or more"),
    "several": ({"temperature": np.ones(2)}, "temperature of 0 or more"),
    "count": ({"count": -1}, "count of 0 or more, got -1"),
    "count-float": ({"count": 2.0}, "count of 0 or more"),
    "key-int": ({"key": 3}, "a key, got 3"),
    "key-none": ({"key": None}, "a key, got None"),
    "keys": ({"key": jax.random.split(KEY)}, "one key, got 2 keys"),
    "top-k": ({"top_k": 0}, "top_k of 1 or more, got 0"),
    "top-k-above": ({"top_k": 5}, "top_k in 1..4, got 5; there are no more scores"),
    "top-k-float": ({"top_k": 2.0}, "top_k of 1 or more, got 2.0"),
    "top-p": ({"top_p": 0.0}, "top_p in (0, 1], got 0.0"),
    "top-p-above": ({"top_p": 1.5}, "top_p in (0, 1], got 1.5"),
    "penalty": ({"repetition_penalty": 0.0}, "repetition_penalty above 0, got 0.0"),
    "stop": ({"stop": -1}, "stop of 0 or more, got -1"),
    "stop-above": ({"stop": 4}, "stop in 0..3, got 4"),
    "window": ({"window": 0}, "window of 1 or more, got 0"),
    "prompt-above": (
        {"window": 1},
        "a prompt of 1 steps at most, got 2; pass the last of it, as in prompt[:, -1:]",
    ),
    "cache": ({"cache": None}, "cache of True or False, got None"),
    "window-uncached": ({"window": 2, "cache": False}, "no window without a cache, got 2"),
    "unequal-uncached": (
        {"prompt": fnn.Sequence(PROMPT, np.array([1, 2])), "cache": False},
        "prompts of one length without a cache",
    ),
    "lengths": ({"prompt": fnn.Sequence(PROMPT, np.array([0, 2]))}, "lengths in 1..2, got 0"),
    "lengths-mask": (
        {"prompt": fnn.Sequence(PROMPT, PROMPT > 0)},
        "lengths of shape (2,) of integers, got bool",
    ),
    "carry": ({"prompt": fnn.Sequence(PROMPT, None, PROMPT)}, "a prompt without carry"),
    "one-axis": ({"prompt": [0, 1]}, "a prompt (B, T) of integers"),
    "ragged": ({"prompt": [[0, 1], [2]]}, "a prompt (B, T) of integers"),
    "empty": ({"prompt": PROMPT[:0]}, "a prompt (B, T) of integers"),
    "no-time": ({"prompt": PROMPT[:, :0]}, "a prompt (B, T) of integers"),
    "floats": ({"prompt": PROMPT * 1.0}, "a prompt (B, T) of integers"),
    "flags": ({"prompt": PROMPT > 0}, "a prompt (B, T) of integers"),
    "words": ({"prompt": [["a"]]}, "a prompt (B, T) of integers"),
    "prompt-of-text": (
        {"prompt": "the c"},
        "a prompt (B, T) of integers, got <U5 of shape (); encode it by the text that was learned: "
        "text.encode(prompt)[None]",
    ),
    "below-0": ({"prompt": -PROMPT}, "a prompt of 0 or more, got -1 at prompt[0, 1]"),
    "no-layer": ({"model": fnn.relu}, "a layer"),
    "no-scores": ({"model": fnn.identity()}, "a model that gives scores (2, 2, K)"),
    "too-many": (
        {"model": constant(np.zeros(300)), "prompt": PROMPT.astype("uint8")},
        "a prompt whose dtype holds 0..299, got uint8",
    ),
    "nan-scores": ({"model": constant([0, np.nan])}, "scores that are numbers, got NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_words(name):
    options, expected = REFUSED[name]
    with pytest.raises(fnn.InputError) as raised:
        generate(**options)
    assert str(raised.value).startswith(f"fnn.generate: expected {expected}")


def recurrent(**options):
    return fnn.serial(fnn.embedding(4, 4), fnn.gru(2, **options), fnn.dense(4))


WITHOUT_CACHE = {
    "function": (
        lambda: fnn.serial(fnn.embedding(4, 4), fnn.from_function(jnp.sin)),
        "fnn.from_function: expected a layer that generates from a cache, got one without; wrap it "
        "in fnn.positionwise if it looks at every time step by itself, give it prefill and decode, "
        "or pass cache=False to fnn.generate, which then reads all again (at layer '1')",
    ),
    "future": (
        lambda: fnn.serial(fnn.embedding(4, 4), fnn.attention(2)),
        "fnn.attention: expected causal attention, to generate from a cache, got attention that "
        "sees what comes after; pass causal=True to the layer, put an encoder in fnn.over_memory, "
        "or pass cache=False to fnn.generate (at layer '1')",
    ),
    "both-ways": (
        lambda: recurrent(bidirectional=True),
        "fnn.gru: expected one direction, to generate from a cache, got bidirectional=True; leave "
        "it out: the backward direction begins with what is not drawn yet (at layer '1')",
    ),
    "positions": (
        lambda: fnn.serial(fnn.embedding(4, 4), fnn.positional("learned", 3)),
        "fnn.positional: expected a window of 3 positions at most, got 4, for all that is to be "
        "read and drawn; pass window=3, which moves on when it is full, or learn more positions "
        "(at layer '1')",
    ),
}


@pytest.mark.parametrize("name", WITHOUT_CACHE)
def test_a_model_that_cannot_use_a_cache_says_which_layer_it_is(name):
    make, expected = WITHOUT_CACHE[name]
    model = make()
    params, state = model.init(KEY, PROMPT)
    with pytest.raises(fnn.InputError) as raised:
        fnn.generate(model, params, state, PROMPT, 3, key=KEY)
    assert str(raised.value) == expected


def test_a_model_without_a_cache_reads_all_again():
    model = recurrent(bidirectional=True)
    params, state = model.init(KEY, PROMPT)
    drawn = fnn.generate(model, params, state, PROMPT, 3, key=KEY, temperature=0, cache=False)
    window = PROMPT
    for column in np.asarray(drawn).T:
        y, _ = model.apply(params, state, window)
        assert (y[:, -1].argmax(-1) == column).all()
        window = np.concatenate([window[:, 1:], column[:, None]], 1)


OWN = {
    "prefill-alone": ({"prefill": len}, "prefill and decode, or positionwise=True, or none of"),
    "both": (
        {"prefill": len, "decode": len, "positionwise": True},
        "prefill and decode, or positionwise=True, or none of",
    ),
    "flag": ({"positionwise": 1}, "positionwise of True or False, got 1"),
}


@pytest.mark.parametrize("name", OWN)
def test_a_layer_of_ones_own_says_how_it_generates_or_is_refused(name):
    options, expected = OWN[name]
    functions = (lambda key, x: ((), ()), lambda *_, **__: None, lambda *_: None)
    with pytest.raises(fnn.InputError, match=expected):
        fnn.stateful(*functions, **options)
