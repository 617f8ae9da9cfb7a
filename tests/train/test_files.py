"""Weights in files: read back bit for bit, or refused."""

from __future__ import annotations

import hashlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.train.files import _safetensors

KEY = jax.random.key(3)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


MODELS = {
    "plain": lambda: fnn.dense(3),
    "positional": lambda: fnn.serial(
        fnn.dense(4), fnn.batch_norm(momentum=0.7), fnn.tanh(), fnn.dense(2)
    ),
    "named": lambda: fnn.serial(
        hidden=fnn.serial(fnn.dense(4), fnn.batch_norm(momentum=0.7)), out=fnn.dense(2, bias=False)
    ),
    "branches": lambda: fnn.serial(
        fnn.parallel(a=fnn.dense(4), b=fnn.residual(fnn.dense(5))), fnn.concatenate()
    ),
    "repeated": lambda: fnn.repeat(fnn.serial(fnn.dense(5), fnn.batch_norm()), 3),
    "nothing": fnn.relu,
}


@pytest.mark.parametrize("shapes_only", [False, True], ids=["arrays", "shapes"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_weights_come_back_bit_for_bit(tmp_path, name, dtype, shapes_only):
    with jax.enable_x64(dtype == "float64"):
        model, x = MODELS[name](), jax.ShapeDtypeStruct((2, 5), dtype)
        saved, file = model.init(KEY, x), tmp_path / "model.safetensors"
        fnn.save_weights(file, *saved)

        def init():
            return model.init(jax.random.key(4), x)

        loaded = fnn.load_weights(file, like=jax.eval_shape(init) if shapes_only else init())
        assert jax.tree.structure(loaded) == jax.tree.structure(saved)
        for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(saved), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert names(tmp_path) == ["model.safetensors"]


ARRAYS = {
    "transposed": np.arange(6, dtype="float32").reshape(2, 3).T,
    "strided": np.arange(12, dtype="float32")[::2],
    "scalar": np.float32(1.5).reshape(()),
    "empty": np.zeros((0, 3), "float32"),
    "special": np.array([np.nan, -0.0, np.inf, 1e-45], "float32"),
    "int32": np.arange(3, dtype="int32"),
    "bool": np.array([True, False]),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_any_array_comes_back_bit_for_bit(tmp_path, array):
    file = tmp_path / "one.safetensors"
    fnn.save_weights(file, {"a": array})
    loaded = fnn.load_weights(file, like=({"a": array}, ()))[0]["a"]
    assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
    assert np.asarray(loaded).tobytes() == array.tobytes()


def test_the_names_in_the_file_are_the_paths_of_the_layers(tmp_path):
    from safetensors.numpy import load_file

    fnn.save_weights(tmp_path / "m", *MODELS["named"]().init(KEY, jnp.ones((2, 5))))
    assert sorted(load_file(tmp_path / "m")) == [
        "params/hidden/0/bias",
        "params/hidden/0/weight",
        "params/hidden/1/scale",
        "params/hidden/1/shift",
        "params/out/weight",
        "state/hidden/1/mean",
        "state/hidden/1/var",
    ]


def test_saving_again_replaces_the_file(tmp_path):
    file = tmp_path / "model.safetensors"
    for value in (1.0, 2.0):
        fnn.save_weights(file, {"a": jnp.full(3, value)})
    loaded, _ = fnn.load_weights(file, like=({"a": jnp.zeros(3)}, ()))
    assert loaded["a"].tolist() == [2.0, 2.0, 2.0]
    assert names(tmp_path) == ["model.safetensors"]


def test_a_failure_while_saving_leaves_the_old_weights(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    fnn.save_weights(file, {"a": jnp.ones(3)})
    before = file.read_bytes()

    def fail(written, *_):
        written.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(_safetensors, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        fnn.save_weights(file, {"a": jnp.zeros(3)})
    assert (names(tmp_path), file.read_bytes()) == (["model.safetensors"], before)


# What another tool reads and writes.


def test_another_reader_finds_the_same_arrays_and_the_checksum(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    file = tmp_path / "m.safetensors"
    fnn.save_weights(file, ARRAYS)
    for name, array in load_file(file).items():
        np.testing.assert_array_equal(array, ARRAYS[name.removeprefix("params/")])
    with safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    content = file.read_bytes()
    head = content[: 8 + int.from_bytes(content[:8], "little")]
    head = head.replace(metadata["sha256"].encode(), b"0" * 64)
    assert metadata["sha256"] == hashlib.sha256(head).hexdigest()
    assert json.loads(metadata["arrays"]) == {
        f"params/{name}": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        for name, array in ARRAYS.items()
    }
    assert (metadata["written_by"], metadata["version"], metadata["kind"]) == (
        "fnn",
        "1",
        "weights",
    )


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=["bare", "metadata"])
def test_a_file_of_another_writer_is_read_without_a_checksum(tmp_path, metadata):
    from safetensors.numpy import save_file

    file = tmp_path / "m.safetensors"
    arrays = {name: np.ascontiguousarray(array) for name, array in ARRAYS.items()}
    save_file({f"params/{name}": a for name, a in arrays.items()}, file, metadata)
    loaded, _ = fnn.load_weights(file, (arrays, ()))
    for name, array in arrays.items():
        assert np.asarray(loaded[name]).tobytes() == array.tobytes()


# What arrays are like.


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float16", "bfloat16"])
def test_short_floats_come_back_bit_for_bit(tmp_path, dtype):
    params = {"w": jnp.array([0.5, -1.75, 3.0], dtype)}
    fnn.save_weights(tmp_path / "m", params)
    loaded = fnn.load_weights(tmp_path / "m", (params, ()))[0]["w"]
    assert loaded.dtype == dtype
    assert np.asarray(loaded).tobytes() == np.asarray(params["w"]).tobytes()


def test_big_endian_arrays_come_back_with_their_values(tmp_path):
    params = {"w": np.arange(3, dtype=">f4"), "i": np.arange(3, dtype=">i2")}
    fnn.save_weights(tmp_path / "m", params)
    loaded, _ = fnn.load_weights(tmp_path / "m", (params, ()))
    assert loaded["w"].tolist() == [0.0, 1.0, 2.0]
    assert loaded["i"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("array", [np.array([2**40]), np.array([0.1])], ids=["int64", "float64"])
def test_numbers_that_jax_would_narrow_are_refused_unless_it_holds_64_bits(tmp_path, array):
    fnn.save_weights(tmp_path / "m", {"a": array})
    with pytest.raises(fnn.InputError, match="params/a of a dtype that JAX holds here"):
        fnn.load_weights(tmp_path / "m", ({"a": array}, ()))
    with jax.enable_x64(True):
        loaded = fnn.load_weights(tmp_path / "m", ({"a": array}, ()))[0]["a"]
    assert np.asarray(loaded).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        "text",
        object(),
        np.array([None]),
        np.array(["a"]),
        np.ma.masked_array([1.0, 2.0], [True, False]),
        np.zeros(2, "complex128"),
        np.zeros(2, "datetime64[s]"),
    ],
    ids=["text", "object", "objects", "strings", "masked", "complex128", "dates"],
)
def test_what_the_format_does_not_hold_is_refused_by_name(tmp_path, array):
    with pytest.raises(fnn.InputError, match=r"^fnn\.save_weights: expected params/a "):
        fnn.save_weights(tmp_path / "m", {"a": array})
    assert names(tmp_path) == []


def test_traced_weights_are_refused(tmp_path):
    with pytest.raises(fnn.InputError, match="params to have values, got a traced array"):
        jax.jit(lambda p: fnn.save_weights(tmp_path / "m", p))(jnp.ones(1))


@pytest.mark.parametrize(
    "key",
    [jax.random.key(1), jax.random.key(1, impl="rbg"), jax.random.PRNGKey(1)],
    ids=["threefry", "rbg", "old"],
)
@pytest.mark.parametrize("shapes_only", [False, True], ids=["arrays", "shapes"])
def test_a_whole_train_state_comes_back_and_goes_on_bit_for_bit(tmp_path, key, shapes_only):
    model, optimizer = fnn.serial(fnn.dense(3), fnn.dropout(0.5)), fnn.optim.adam(0.1)
    batch = jnp.ones((4, 2)), jnp.ones((4, 3))
    step = jax.jit(fnn.train_step(model, fnn.losses.squared_error(), optimizer))
    state, _ = step(fnn.init_train_state(model, optimizer, batch[0], key=key), batch)
    fnn.save_weights(tmp_path / "m", state)
    like = jax.eval_shape(lambda: state) if shapes_only else state
    loaded, _ = fnn.load_weights(tmp_path / "m", (like, ()))
    assert type(loaded) is fnn.TrainState
    for one, other in zip(*(jax.tree.leaves(step(s, batch)) for s in (state, loaded)), strict=True):
        assert one.dtype == other.dtype
        assert (one == other).all()


def test_a_key_of_another_generator_is_refused(tmp_path):
    fnn.save_weights(tmp_path / "m", {"k": jax.random.key(0)})
    with pytest.raises(fnn.InputError, match="params/k to be uint32 of shape"):
        fnn.load_weights(tmp_path / "m", ({"k": jax.random.key(0, impl="rbg")}, ()))


@pytest.mark.parametrize("like", [{"a": jnp.ones(1)}, jnp.ones(2), None, (1, 2, 3), "ab"])
def test_like_that_is_no_pair_is_refused(tmp_path, like):
    fnn.save_weights(tmp_path / "m", {"a": jnp.ones(1)})
    with pytest.raises(fnn.InputError, match=r"expected like to be \(params, state\)"):
        fnn.load_weights(tmp_path / "m", like)


# A part of a file, and other names.


def two_models():
    x = jax.ShapeDtypeStruct((2, 3), "float32")
    old = fnn.serial(body=fnn.serial(fnn.dense(4), fnn.batch_norm()), head=fnn.dense(2))
    new = fnn.serial(encoder=fnn.serial(fnn.dense(4), fnn.batch_norm()), out=fnn.dense(5))
    return old.init(KEY, x), new.init(jax.random.key(9), x)


def test_a_part_is_read_under_another_name_and_the_rest_stays(tmp_path):
    saved, like = two_models()
    fnn.save_weights(tmp_path / "m", *saved)
    params, state = fnn.load_weights(
        tmp_path / "m", like, only="encoder/*", rename={"body/*": "encoder/*"}
    )
    for got, expected in (
        (params["encoder"], saved[0]["body"]),
        (state["encoder"], saved[1]["body"]),
        (params["out"], like[0]["out"]),
    ):
        assert jax.tree.structure(got) == jax.tree.structure(expected)
        jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("only", ["*/weight", ["0/weight", "1/weight"], ("?/weight",)])
def test_patterns_say_which_arrays_are_read(tmp_path, only):
    saved = ({"weight": jnp.ones(2), "bias": jnp.ones(2)}, {"weight": jnp.ones(3)})
    like = ({"weight": jnp.zeros(2), "bias": jnp.zeros(2)}, {"weight": jnp.zeros(3)})
    fnn.save_weights(tmp_path / "m", saved)
    loaded = fnn.load_weights(tmp_path / "m", (like, ()), only=only)[0]
    assert [leaf.tolist() for leaf in jax.tree.leaves(loaded)] == [[0, 0], [1, 1], [1, 1, 1]]


def test_names_of_another_tool_are_renamed_as_a_whole(tmp_path):
    from safetensors.numpy import save_file

    save_file({"net.w": np.ones(2, "float32"), "b": np.zeros(1, "float32")}, tmp_path / "m")
    like = {"weight": jnp.zeros(2), "bias": jnp.ones(1)}
    rename = {"net.w": "params/weight", "*": "params/bias"}
    loaded = fnn.load_weights(tmp_path / "m", (like, ()), rename=rename)[0]
    assert (loaded["weight"].tolist(), loaded["bias"].tolist()) == ([1, 1], [0])


PARTS = {
    "nothing-meant": ({"only": "decoder/*"}, "a pattern that matches an array of the model"),
    "no-pattern": ({"only": 3}, "expected only to be patterns"),
    "no-patterns": ({"only": [3]}, "expected only to be patterns"),
    "missing": ({"only": "encoder/*"}, "got nothing at params/encoder/0/bias"),
    "other-shape": (
        {"rename": {"body/*": "encoder/*", "head/*": "out/*"}},
        "expected params/out/bias to be float32 of shape (5,), got float32 of shape (2,)",
    ),
    "more": ({"only": ["encoder/*", "head/*"]}, "a pattern that matches an array of the model"),
    "nothing-renamed": ({"rename": {"tail/*": "out/*"}}, "matches an array of the file"),
    "one-name": ({"rename": {"body/*": "a"}}, "expected names that stay apart, got 4 arrays"),
    "two-stars": ({"rename": {"*/*": "a/*"}}, "patterns with one * at most"),
    "no-mapping": ({"rename": [("a", "b")]}, "patterns with one * at most"),
    "no-text": ({"rename": {"body/*": 3}}, "patterns with one * at most"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_not_there_is_refused(tmp_path, name):
    saved, like = two_models()
    fnn.save_weights(tmp_path / "m", *saved)
    options, message = PARTS[name]
    with pytest.raises(fnn.InputError, match=rf"^fnn\.load_weights: .*{re.escape(message)}"):
        fnn.load_weights(tmp_path / "m", like, **options)


def test_what_stays_needs_values(tmp_path):
    like = two_models()[1]
    fnn.save_weights(tmp_path / "m", *like)
    with pytest.raises(fnn.InputError, match="expected values of params/out/bias in like"):
        fnn.load_weights(tmp_path / "m", jax.eval_shape(lambda: like), only="encoder/*")


# Damage.


def rewritten(file, change):
    """Write a file again with another header; its checksum is left out."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    del header["__metadata__"]
    text = change(header)
    text = (text if isinstance(text, str) else json.dumps(header)).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])


def entry(**changes):
    return lambda header: header["params/a"].update(changes)


HEADERS = {
    "dtype": (entry(dtype="F33"), "unknown variant `F33`"),
    "dtype-list": (entry(dtype=[]), "invalid type: sequence"),
    "shape": (entry(shape=[4]), "invalid shape, data type, or offset"),
    "shape-negative": (entry(shape=[-1, -3]), "integer `-1`"),
    "shape-float": (entry(shape=[3.0]), "floating point `3.0`"),
    "shape-true": (entry(shape=[3, True]), "boolean `true`"),
    "shape-none": (entry(shape=None), "invalid type: null"),
    "shape-huge": (entry(shape=[2**62, 2**62]), "overflow"),
    "shape-deep": (entry(shape=[3] + [1] * 40), "of 41 axes"),
    "offset": (entry(data_offsets=[4, 16]), "invalid offset for tensor"),
    "offset-beyond": (entry(shape=[300], data_offsets=[0, 1200]), "not fully covered"),
    "offset-reversed": (entry(data_offsets=[12, 0]), "invalid offset"),
    "offset-one": (entry(data_offsets=[0]), "invalid length 1"),
    "bytes-over": (entry(shape=[2], data_offsets=[0, 8]), "not fully covered"),
    "more": (entry(more=1), "more than dtype, shape and place"),
    "empty": (lambda header: "{}", "not fully covered"),
    "list": (lambda header: "[]", "invalid type: sequence"),
    "deep": (lambda header: "[" * 100_000, "invalid JSON"),
    "twice": (lambda h: json.dumps(h)[:-1] + "," + json.dumps(h)[1:], "a name stands twice"),
    "text": (lambda header: "params", "invalid JSON"),
    "metadata": (lambda h: json.dumps({**h, "__metadata__": [1]}), "expected a map"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_not_right_is_refused(tmp_path, name):
    change, why = HEADERS[name]
    params = {"a": np.ones(3, "float32")}
    fnn.save_weights(tmp_path / "m", params)
    rewritten(tmp_path / "m", lambda header: None)
    fnn.load_weights(tmp_path / "m", (params, ()))
    fnn.save_weights(tmp_path / "m", params)
    rewritten(tmp_path / "m", change)
    with pytest.raises(fnn.InputError, match=rf"a whole file in the safetensors .*{why}"):
        fnn.load_weights(tmp_path / "m", (params, ()))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, 2000])
def test_a_huge_header_is_refused_before_it_is_read(tmp_path, length):
    fnn.save_weights(tmp_path / "m", {"a": np.ones(3, "float32")})
    content = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(length.to_bytes(8, "little") + content[8:])
    with pytest.raises(fnn.InputError, match=r"header too large|invalid header length"):
        fnn.load_weights(tmp_path / "m", ({"a": np.ones(3, "float32")}, ()))


def test_a_bit_that_is_changed_in_any_byte_is_seen(tmp_path):
    file, params = tmp_path / "m", {"a": np.ones(3, "float32"), "b": np.array([True, False])}
    fnn.save_weights(file, params)
    content = file.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(fnn.InputError):
            fnn.load_weights(file, (params, ()))


def test_every_truncation_and_any_tail_is_seen(tmp_path):
    file, params = tmp_path / "m", {"a": np.ones(3, "float32")}
    fnn.save_weights(file, params)
    content = file.read_bytes()
    for changed in (*(content[:n] for n in range(len(content))), content + b"x", content * 2):
        file.write_bytes(changed)
        with pytest.raises(fnn.InputError):
            fnn.load_weights(file, (params, ()))


@pytest.mark.parametrize("place", ["missing", "", "a\0b", 3, None, "."])
def test_a_place_without_weights_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fnn.InputError, match=r"^fnn\.load_weights: "):
        fnn.load_weights(place, ((), ()))


@pytest.mark.parametrize("size", [2**20, 2**40, 2**62])
def test_the_words_of_a_file_whose_header_is_longer_than_the_file_are_refused(tmp_path, size):
    file = tmp_path / "run.safetensors"
    file.write_bytes(size.to_bytes(8, "little") + b"{}")
    with pytest.raises(fnn.InputError, match="whole file in the safetensors format"):
        fnn.train.checkpoint_info(file)
