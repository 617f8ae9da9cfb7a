"""Autoregressive sampling: a window that moves on, draws of the softmax, and what is refused."""

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
    "one-axis": ({"prompt": [0, 1]}, "a prompt (B, T) of integers"),
    "ragged": ({"prompt": [[0, 1], [2]]}, "a prompt (B, T) of integers"),
    "empty": ({"prompt": PROMPT[:0]}, "a prompt (B, T) of integers"),
    "no-time": ({"prompt": PROMPT[:, :0]}, "a prompt (B, T) of integers"),
    "floats": ({"prompt": PROMPT * 1.0}, "a prompt (B, T) of integers"),
    "flags": ({"prompt": PROMPT > 0}, "a prompt (B, T) of integers"),
    "words": ({"prompt": [["a"]]}, "a prompt (B, T) of integers"),
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
