"""Generation from caches: what is drawn is what reading all again would draw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from tests import cases
from tests.tolerance import rounding
from tests.xla import in_haste

KEY = jax.random.key(5)
WIDTH, CLASSES, WINDOW = 8, 7, 9
PROMPT = np.array([[3, 1, 4, 1], [5, 0, 2, 6]])
LENGTHS = np.array([4, 2])


def language_model(*layers):
    return fnn.serial(fnn.embedding(CLASSES, WIDTH), *layers, fnn.dense(CLASSES))


def running_sum(shift=0):
    """A layer of one's own that looks back: the sum of all steps so far."""

    def prefill(params, state, x, *, window, lengths=None):
        y = jnp.cumsum(x, 1)
        last = x.shape[1] - 1 if lengths is None else lengths - 1
        rows = jnp.arange(x.shape[0])
        return y, y[rows, jnp.broadcast_to(last, rows.shape)]

    def decode(params, state, cache, x, position):
        y = cache + x[:, 0] + shift
        return y[:, None], y

    return fnn.autodiff(
        lambda key, x: ((), ()),
        lambda params, state, x, *, key=None, train=False: (jnp.cumsum(x, 1), state),
        prefill=prefill,
        decode=decode,
    )


def gpt(length=WINDOW):
    block = fnn.transformer_block(2, causal=True)
    return language_model(fnn.positional("learned", length), fnn.repeat(block, 2), fnn.layer_norm())


MODELS = {
    "learned-repeat": gpt,
    "sinusoidal": lambda: language_model(
        fnn.positional(), fnn.transformer_block(2, causal=True, dropout=0.2, norm_first=False)
    ),
    "rotary-grouped": lambda: language_model(
        fnn.remat(
            fnn.transformer_block(
                4, key_value_heads=2, causal=True, rotary=True, norm="rms_norm",
                activation="swiglu",
            )
        )
    ),
    "score-bias-blocks": lambda: language_model(
        fnn.attention(2, causal=True, score_bias=lambda t, s: -abs(t - s) / 4, block=1)
    ),
    "lstm-projected-stack": lambda: language_model(fnn.lstm(6, projection=5, layers=2)),
    "gru": lambda: language_model(fnn.use_auto(fnn.gru(6))),
    "rnn": lambda: language_model(fnn.residual(fnn.rnn(WIDTH, truncate=2))),
    "reversible": lambda: language_model(
        fnn.reversible(fnn.gru(4), fnn.use_manual(fnn.attention(2, causal=True)), 2)
    ),
    "parallel-own": lambda: language_model(
        fnn.parallel(fnn.over_sequence(fnn.gru(4)), running_sum()), fnn.concatenate()
    ),
    "linear-head": lambda: fnn.serial(
        fnn.embedding(CLASSES, WIDTH), fnn.gru(6), fnn.linear_head(CLASSES)
    ),
    "tied": lambda: fnn.shared(
        fnn.serial(
            embed=fnn.embedding(CLASSES, WIDTH),
            look=fnn.attention(2, causal=True),
            head=fnn.unembedding(CLASSES),
        ),
        {"head": "embed"},
    ),
}  # fmt: skip


@functools.cache
def initialized(name):
    model = MODELS[name]()
    return model, *jax.jit(model.init)(KEY, PROMPT)


def made(name, dtype="float32"):
    model, params, state = initialized(name)
    # Larger than they are drawn: for scores that are far apart.
    return model, jax.tree.map(lambda a: (2 * a).astype(dtype), params), state


def scores(model, params, state, tokens):
    y, _ = jax.jit(model.apply)(params, state, tokens)
    return np.asarray(y.logits if isinstance(y, fnn.LinearHead) else y, np.float64)


def bound(dtype, size):
    """Relative to the largest score: sums are as wide as float32, what is stored between is not."""
    return rounding(dtype, 4) * abs(size).max()


def check_draws(drawn, expected, dtype):
    """Each draw has the highest score, where rounding leaves no doubt which that is."""
    above = np.sort(expected, -1)
    certain = above[..., -1] - above[..., -2] > bound(dtype, expected)
    assert certain.any()
    np.testing.assert_array_equal(drawn[certain], expected.argmax(-1)[certain])


IN_HALF = [(name, "bfloat16") for name in ("learned-repeat", "rotary-grouped", "gru")]


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in MODELS), *IN_HALF])
def test_draws_are_those_of_reading_all_again(name, dtype):
    model, params, state = made(name, dtype)
    drawn = fnn.generate(model, params, state, PROMPT, 5, key=KEY, temperature=0)
    whole = scores(model, params, state, np.concatenate([PROMPT, drawn], 1))
    check_draws(np.asarray(drawn), whole[:, PROMPT.shape[1] - 1 : -1], dtype)


def test_a_cache_that_forgets_draws_something_else():
    model, params, state = made("parallel-own")
    wrong = language_model(fnn.parallel(fnn.gru(4), running_sum(shift=3)), fnn.concatenate())
    drawn = fnn.generate(wrong, params, state, PROMPT, 5, key=KEY, temperature=0)
    whole = scores(model, params, state, np.concatenate([PROMPT, drawn], 1))
    with pytest.raises(AssertionError):
        check_draws(np.asarray(drawn), whole[:, PROMPT.shape[1] - 1 : -1], "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("linear-head", "tied")])
def test_scores_from_the_cache_are_those_of_reading_all_again(name, dtype):
    """With prompts of unequal length: every row stands at a position of its own."""
    model, params, state = made(name, dtype)
    lengths = np.array([2, 1])

    @jax.jit
    def both_ways(params, lengths):
        rows, found = jnp.arange(2), []
        _, cache = model.prefill(params, state, PROMPT, window=WINDOW, lengths=lengths)
        for step in range(2):
            newest = jnp.asarray(PROMPT)[rows, lengths + step][:, None]
            y, cache = model.decode(params, state, cache, newest, lengths + step)
            found.append(y)
        return jnp.concatenate(found, 1), model.apply(params, state, PROMPT)[0]

    found, whole = (np.asarray(y, np.float64) for y in both_ways(params, jnp.asarray(lengths)))
    wanted = np.stack([row[n : n + 2] for row, n in zip(whole, lengths, strict=True)])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound(dtype, whole))


@pytest.mark.parametrize(("name", "window"), [("learned-repeat", 5), ("gru", None)])
def test_a_row_of_a_batch_is_drawn_as_it_is_alone(name, window):
    model, params, state = made(name)
    options = {"key": KEY, "temperature": 0, "window": window}
    batch = fnn.Sequence(PROMPT, LENGTHS)
    drawn = fnn.generate(model, params, state, batch, 6, **options)
    for row, prompt, n in zip(drawn, PROMPT, LENGTHS, strict=True):
        alone = fnn.generate(model, params, state, prompt[None, :n], 6, **options)
        np.testing.assert_array_equal(alone[0], row)


def test_a_full_window_moves_on_by_half():
    """Of a window of 5 that is full the newest 2 are read again, and there is room for 3 more."""
    model, params, state = made("learned-repeat")
    drawn = np.asarray(
        fnn.generate(model, params, state, PROMPT, 9, key=KEY, temperature=0, window=5)
    )
    whole = np.concatenate([PROMPT, drawn], 1)
    windows = np.stack([whole[:, begins : begins + 5] for begins in (0, 4, 8)])
    found = scores(model, params, state, windows.reshape(6, 5)).reshape(3, 2, 5, CLASSES)
    likeliest = found.argmax(-1)
    expected = [likeliest[0, :, 3:], likeliest[1, :, 1:], likeliest[2, :, 1:4]]
    np.testing.assert_array_equal(drawn, np.concatenate(expected, 1))


STREAMS = {
    "moving": {"window": 5, "temperature": 0.8, "repetition_penalty": 1.5, "top_p": 0.8},
    "stopping": {"stop": 2, "top_k": 3},
    "recomputing": {"cache": False},
}


@pytest.mark.parametrize("options", STREAMS.values(), ids=STREAMS)
def test_a_stream_brings_the_same_bits(options):
    arguments = (*made("gru"), PROMPT, 8)
    drawn = np.asarray(fnn.generate(*arguments, key=KEY, **options))
    stream = list(fnn.generate_stream(*arguments, key=KEY, **options))
    np.testing.assert_array_equal(np.stack(stream, 1), drawn[:, : len(stream)])
    assert len(stream) == 8 or (drawn[:, len(stream) - 1 :] == options["stop"]).all()


def test_no_draws_are_an_empty_stream():
    assert list(fnn.generate_stream(*made("gru"), PROMPT, 0, key=KEY)) == []


def test_a_model_on_several_devices_draws_the_same(tmp_path):
    """In a process of its own, since devices are counted once."""
    import os
    import subprocess
    import sys
    from pathlib import Path

    script = tmp_path / "sharded.py"
    script.write_text(
        """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import fnn
mesh = Mesh(np.array(jax.devices()), "data")
model = fnn.serial(fnn.embedding(7, 8), fnn.attention(2, causal=True), fnn.dense(7))
prompt = np.arange(12).reshape(4, 3) % 7
params, state = model.init(jax.random.key(0), prompt)
options = {"key": jax.random.key(1), "temperature": 0}
expected = fnn.generate(model, params, state, prompt, 4, **options)
split = jax.device_put(prompt, NamedSharding(mesh, P("data")))
params = jax.device_put(params, NamedSharding(mesh, P()))
drawn = fnn.generate(model, params, state, split, 4, **options)
assert len(drawn.sharding.device_set) == 2, drawn.sharding
np.testing.assert_array_equal(drawn, expected)

model = fnn.serial(
    fnn.over_memory(fnn.over_sequence(fnn.embedding(7, 8))),
    fnn.over_query(fnn.embedding(7, 8)),
    fnn.residual_cross(fnn.attention(2)),
    fnn.take_query(),
    fnn.dense(7),
)
source = fnn.Sequence(prompt[:, ::-1].copy(), np.array([1, 2, 3, 3]))
params, state = model.init(jax.random.key(0), (prompt, source))
expected = fnn.generate(model, params, state, prompt, 4, source=source, **options)
source = jax.device_put(source, NamedSharding(mesh, P("data")))
params = jax.device_put(params, NamedSharding(mesh, P()))
drawn = fnn.generate(model, params, state, split, 4, source=source, **options)
assert len(drawn.sharding.device_set) == 2, drawn.sharding
np.testing.assert_array_equal(drawn, expected)
""",
        "utf-8",
    )
    flags = in_haste("--xla_force_host_platform_device_count=2")
    place = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment = os.environ | flags | place
    subprocess.run([sys.executable, script], env=environment, check=True, timeout=120)


# Layers that say that they look at every step by themselves.


def positionwise_cases():
    for case in cases.LAYERS:
        shape = next((s for s in case.shapes.values() if len(s) >= 3 and min(s) > 0), None)
        if shape is None:
            continue
        x = case.draw(np.random.default_rng(3), shape)
        if not isinstance(x, np.ndarray | jax.Array):
            continue
        floats = np.issubdtype(x.dtype, np.floating)
        yield case.name, case.make(), jnp.asarray(x, "float32" if floats else "int32")


def says_so(layer, x):
    """Say whether a layer says that it looks at every step by itself: it has an empty cache."""
    like = jax.eval_shape(layer.init, KEY, x)
    try:
        _, cache = jax.eval_shape(functools.partial(layer.prefill, window=9), *like, x)
    except fnn.InputError:
        return False
    return not jax.tree.leaves(cache)


def check_positionwise(layers):
    """Hold layers that say so to it, all in one program, by their names with an input for each."""

    def ways(layer, x):
        params, state = layer.init(KEY, x)
        y, cache = layer.prefill(params, state, x, window=9)
        one, _ = layer.decode(params, state, cache, x[:, -1:], jnp.int32(x.shape[1] - 1))
        return y, one, layer.apply(params, state, x)[0]

    inputs = {name: x for name, (_, x) in layers.items()}
    run = jax.jit(lambda inputs: {name: ways(layers[name][0], x) for name, x in inputs.items()})
    for name, (y, one, expected) in run(inputs).items():
        for way, found, wanted in (("prefill", y, expected), ("decode", one, expected[:, -1:])):
            np.testing.assert_allclose(
                np.asarray(found, np.float64),
                np.asarray(wanted, np.float64),
                rtol=0,
                atol=rounding("float32", inputs[name].shape[-1]) * max(1, np.abs(wanted).max()),
                err_msg=f"{way} of {name}",
            )


def test_layers_that_say_so_look_at_every_step_by_themselves():
    layers = {
        name: (layer, x)
        for name, layer, x in positionwise_cases()
        # What comes out of a head is no array: see the models above.
        if says_so(layer, x) and "chunked" not in name and "linear_head" not in name
    }
    check_positionwise(layers)
    assert {"dense", "layer_norm", "rms_norm", "gelu", "swiglu", "softmax"} <= set(layers)
    assert not {"conv", "attention", "lstm", "group_norm", "batch_norm-untracked"} & set(layers)


def test_a_layer_that_says_so_wrongly_is_found():
    wrong = fnn.positionwise(fnn.from_function(lambda x: jnp.cumsum(x, 1)))
    with pytest.raises(AssertionError, match="decode of wrong"):
        check_positionwise({"wrong": (wrong, jnp.ones((2, 3, 4)))})
