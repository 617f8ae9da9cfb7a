"""Train states in files: read back bit for bit, or refused by the name of what differs."""

from __future__ import annotations

import json
import re
import resource
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import optim
from fnn.train import Checkpoints, best_checkpoint, checkpoint_info, latest_checkpoint
from fnn.train.files import _safetensors
from fnn.train.files.checkpoint_folder import checkpoint_files
from tests.cases.optimizers import OPTIMIZERS

KEY = jax.random.key(5)
SHAPES = {"a": {"weight": jnp.ones((3, 2)), "bias": jnp.ones(3)}, "b": (jnp.ones(4),)}

NOISES = {
    "gradient_noise": lambda: optim.gradient_noise(0.1, key=KEY),
    "anticorrelated_noise": lambda: optim.anticorrelated_noise(0.1, key=KEY),
    "sghmc": lambda: optim.sghmc(0.1, key=KEY),
    "baoab": lambda: optim.baoab(0.1, key=KEY),
    "psgld": lambda: optim.psgld(0.1, key=KEY),
    "old-key": lambda: optim.sgld(0.1, key=jax.random.PRNGKey(3)),
    "empty": lambda: optim.chain(),
    "scheduled": lambda: optim.adam(optim.schedule.cosine(0.1, 9)),
}
MAKERS = {case.name: lambda case=case: case.make(case.value) for case in OPTIMIZERS} | NOISES


def bits(tree):
    """Everything a tree holds, down to the last bit."""
    leaves = []
    for leaf in jax.tree.leaves(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        leaves.append(
            (str(leaf.dtype), leaf.shape, getattr(leaf, "weak_type", False), data.tobytes())
        )
    return jax.tree.structure(tree), leaves


def filled(tree):
    """A tree of random values in the place of another's: states start as zeros."""
    random = np.random.default_rng(3)

    def fill(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.number) or leaf.weak_type:
            return leaf
        return jnp.asarray(random.integers(0, 100, leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(fill, tree)


def train_state(optimizer=None, params=SHAPES, key=KEY, step=7):
    optimizer = optimizer or optim.adam(0.1)
    _, numbers = fnn.train.step.split(optimizer=optimizer)
    numbers = {path: jnp.asarray(value) for path, value in numbers.items()}
    opt_state = filled(optimizer.init(params))
    return fnn.TrainState(params, (), opt_state, key, jnp.int32(step), numbers)


def there_and_back(file, saved):
    fnn.save_train_state(file, saved)
    return fnn.load_train_state(file, like=saved)


@pytest.mark.parametrize("name", MAKERS)
def test_the_state_of_every_optimizer_comes_back_bit_for_bit(tmp_path, name):
    saved = train_state(MAKERS[name]())
    assert bits(there_and_back(tmp_path / "m", saved)) == bits(saved)


LEAVES = {
    "bfloat16": jnp.array([0.5, -1.75, jnp.nan], "bfloat16"),
    "float16": jnp.array([0.5, -0.0, jnp.inf], "float16"),
    "integers": jnp.array([-3, 2**31 - 1], "int32"),
    "booleans": jnp.array([True, False]),
    "empty": jnp.zeros((0, 3)),
    "scalar": jnp.float32(0.1),
    "weak": jnp.asarray(0.1),
    "key": jax.random.key(1),
    "keys": jax.random.split(jax.random.key(1), 3),
    "rbg": jax.random.key(1, impl="rbg"),
    "old-key": jax.random.PRNGKey(1),
    "nothing": (),
    "none": {"a": None, "b": ()},
}


@pytest.mark.parametrize("shapes_only", [False, True], ids=["arrays", "shapes"])
@pytest.mark.parametrize("name", LEAVES)
def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path, name, shapes_only):
    saved = fnn.TrainState((), (), {"a": LEAVES[name], "b": jnp.ones(2)}, KEY, jnp.int32(1), {})
    fnn.save_train_state(tmp_path / "m", saved)
    like = jax.eval_shape(lambda: saved) if shapes_only else saved
    assert bits(fnn.load_train_state(tmp_path / "m", like)) == bits(saved)


def run(epochs, **options):
    random = np.random.default_rng(0)
    data = random.normal(size=(8, 3)).astype("float32"), random.integers(0, 2, 8)
    model = fnn.serial(fnn.batch_norm(), fnn.dropout(0.3), fnn.dense(2))
    optimizer = optim.chain(
        optim.anticorrelated_noise(0.01, key=KEY), optim.sgd(0.1, 0.9), optim.ema(0.9)
    )
    options = options if "start" in options else {"key": KEY}
    loss = fnn.losses.cross_entropy()
    return fnn.fit(model, loss, optimizer, data, epochs=epochs, batch_size=4, **options)


def test_training_goes_on_from_a_file_bit_for_bit(tmp_path):
    (half, first), (whole, history) = run(2), run(3)
    start = there_and_back(tmp_path / "m", half)
    end, rest = run(1, start=start)
    assert bits(end) == bits(whole)
    np.testing.assert_array_equal(np.concatenate([first.loss, rest.loss]), history.loss)


# What a file says of itself.


def test_a_file_says_what_it_holds(tmp_path):
    model, loss, optimizer = fnn.dense(2), fnn.losses.squared_error(), optim.adam(0.25)
    position = {"row": 2**40, "shards": ["a", None, True, 0.5], "reader": b"\x00\xff"}
    fnn.save_train_state(
        tmp_path / "m", train_state(optimizer), model=model, loss=loss, optimizer=optimizer,
        data_state=position,
    )  # fmt: skip
    info = checkpoint_info(tmp_path / "m")
    assert (info.step, info.model, info.loss) == (7, "dense(2)", "squared_error()")
    assert (info.optimizer, info.score) == ("adam(0.25)", None)
    assert info.hyperparameters["optimizer/learning_rate"] == 0.25
    assert info.data_state == position
    assert info.versions["jax"] == jax.__version__


def test_a_data_state_of_many_bytes_stands_among_the_arrays_and_comes_back(tmp_path):
    position, like = np.random.default_rng(0).bytes(2**16 + 1), train_state()
    fnn.save_train_state(tmp_path / "m", like, data_state=position)
    assert checkpoint_info(tmp_path / "m").data_state == position
    assert bits(fnn.load_train_state(tmp_path / "m", like)) == bits(like)
    content = bytearray((tmp_path / "m").read_bytes())
    at = content.index(position[100:120])
    content[at] ^= 1
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(fnn.InputError, match="data_state is damaged: its checksum differs"):
        checkpoint_info(tmp_path / "m")


@pytest.mark.parametrize("data_state", [object(), {"a": {1}}, float("nan"), np.ones(2)])
def test_a_data_state_that_json_does_not_hold_is_refused(tmp_path, data_state):
    with pytest.raises(fnn.InputError, match=r"^fnn\.save_train_state: expected data_state"):
        fnn.save_train_state(tmp_path / "m", train_state(), data_state=data_state)
    assert list(tmp_path.iterdir()) == []


# Files of something else.

OTHERS = {
    "smaller": (train_state(params={"a": SHAPES["a"]}),
                "got float32 of shape (4,) at params/b/0, where nothing should be"),
    "larger": (train_state(params=SHAPES | {"c": jnp.ones(1)}),
               "got nothing at params/c, where float32 of shape (1,) should be"),
    "wider": (train_state(params=SHAPES | {"b": (jnp.ones(5),)}),
              "expected params/b/0 to be float32 of shape (5,), got float32 of shape (4,)"),
    "half": (train_state(params=SHAPES | {"b": (jnp.ones(4, "bfloat16"),)}),
             "expected params/b/0 to be bfloat16 of shape (4,)"),
    "optimizer": (train_state(optim.sgd(0.1, 0.9)),
                  "got nothing at opt_state/velocity/a/bias, where float32 of shape (3,)"),
    "key-old": (train_state(key=jax.random.PRNGKey(1)),
                "expected key to be uint32 of shape (2,), got a key of threefry2x32"),
    "key-rbg": (train_state(key=jax.random.key(1, impl="rbg")),
                "expected key to be uint32 of shape (4,), the words of a key"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_or_optimizer_is_refused_by_the_first_leaf_that_differs(tmp_path, name):
    fnn.save_train_state(tmp_path / "m", train_state(), model=fnn.dense(3))
    like, message = OTHERS[name]
    with pytest.raises(fnn.InputError, match=re.escape(message)) as caught:
        fnn.load_train_state(tmp_path / "m", like)
    assert "saved: dense(3)" in str(caught.value)


def test_a_generator_of_words_alike_is_another_one(tmp_path):
    fnn.save_train_state(tmp_path / "m", train_state(key=jax.random.key(1, impl="rbg")))
    like = train_state(key=jax.random.key(1, impl="unsafe_rbg"))
    with pytest.raises(fnn.InputError, match="key to be a key of unsafe_rbg, got one of rbg"):
        fnn.load_train_state(tmp_path / "m", like)


def test_weights_and_train_states_are_not_read_as_each_other(tmp_path):
    from safetensors.numpy import save_file

    saved = train_state()
    fnn.save_train_state(tmp_path / "state", saved)
    fnn.save_weights(tmp_path / "weights", saved.params)
    save_file({"key": np.ones(1)}, tmp_path / "other")
    with pytest.raises(fnn.InputError, match=r"a file of weights, .* read it with fnn\.load_train"):
        fnn.load_weights(tmp_path / "state", (saved.params, ()))
    with pytest.raises(fnn.InputError, match=r"a file of a train state, .* fnn\.load_weights"):
        fnn.load_train_state(tmp_path / "weights", saved)
    with pytest.raises(fnn.InputError, match="another tool's arrays"):
        fnn.load_train_state(tmp_path / "other", saved)
    with pytest.raises(fnn.InputError, match="a file of a train state"):
        checkpoint_info(tmp_path / "weights")
    with pytest.raises(fnn.InputError, match="without the marks of fnn"):
        checkpoint_info(tmp_path / "other")


@pytest.mark.parametrize("value", [None, SHAPES, (), 3])
def test_what_is_no_train_state_is_refused(tmp_path, value):
    with pytest.raises(fnn.InputError, match=r"^fnn\.save_train_state: expected a TrainState"):
        fnn.save_train_state(tmp_path / "m", value)
    fnn.save_train_state(tmp_path / "m", train_state())
    with pytest.raises(fnn.InputError, match="expected like to be a TrainState"):
        fnn.load_train_state(tmp_path / "m", value)


WITHOUT_PACKAGE = {
    "save_weights": lambda file: fnn.save_weights(file, SHAPES),
    "load_weights": lambda file: fnn.load_weights(file, like=(SHAPES, ())),
    "save_train_state": lambda file: fnn.save_train_state(file, train_state()),
    "load_train_state": lambda file: fnn.load_train_state(file, like=train_state()),
}


@pytest.mark.parametrize("name", WITHOUT_PACKAGE)
def test_without_safetensors_the_function_that_was_called_is_named(tmp_path, monkeypatch, name):
    for module in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"^fnn.{name}: expected the package safetensors, got"):
        WITHOUT_PACKAGE[name](tmp_path / "run.safetensors")


@pytest.mark.parametrize("version", ["0", "2"])
def test_another_version_of_the_format_is_refused_in_words(tmp_path, monkeypatch, version):
    with monkeypatch.context() as patched:
        patched.setattr(_safetensors, "VERSION", version)
        fnn.save_train_state(tmp_path / "m", train_state())
    for read in (lambda file: fnn.load_train_state(file, train_state()), checkpoint_info):
        with pytest.raises(fnn.InputError, match=f"version 1 of the format, .*version '{version}'"):
            read(tmp_path / "m")


# Damage.


def places(content):
    """Where the bytes of every array are, by its name."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    offsets = {n: one["data_offsets"] for n, one in header.items() if n != "__metadata__"}
    return {n: (start + a, start + b) for n, (a, b) in offsets.items()}


@pytest.fixture
def damaged(tmp_path):
    """A function that changes a file of a train state, and returns what is said of it."""
    file, saved = tmp_path / "m", train_state()
    fnn.save_train_state(file, saved)
    whole = file.read_bytes()

    def read(change):
        content = bytearray(whole)
        change(content, places(whole))
        assert content != whole
        file.write_bytes(content)
        with pytest.raises(fnn.InputError) as caught:
            fnn.load_train_state(file, saved)
        return str(caught.value)

    read.names = places(whole)
    return read


def test_damage_in_an_array_is_known_by_its_name(damaged):
    for name in damaged.names:

        def flip(content, where, name=name):
            content[where[name][1] - 1] ^= 16

        def truncate(content, where, name=name):
            del content[where[name][1] - 1 :]

        assert f"{name} is damaged" in damaged(flip)
        assert f"it ends within {name}" in damaged(truncate)


def test_arrays_that_were_swapped_are_known_by_name(damaged):
    def swap(content, where):
        (a, b), (c, d) = (
            where[name] for name in where if re.fullmatch("opt_state/.*/weight", name)
        )
        content[a:b], content[c:d] = content[c:d], content[a:b]

    assert re.search(r"opt_state/\w+/a/weight is damaged", damaged(swap))


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"params/a/bias", b"params/a/biaz"), (b'"F32"', b'"I32"'), (b'"step":"7"', b'"step":"9"'),
     (b"[3,2]", b"[2,3]"), (b'"kind":"train_state"', b'"kind":"train_stat3"')],
)  # fmt: skip
def test_damage_in_the_header_is_seen(damaged, old, new):
    def change(content, where):
        content[:] = content.replace(old, new)

    assert re.search("header is (damaged|spoiled)", damaged(change))


def test_what_stands_behind_the_arrays_is_seen(damaged):
    assert "3 bytes stand behind" in damaged(lambda content, where: content.extend(b"abc"))


def test_damage_in_the_words_is_seen_without_reading_the_arrays(tmp_path):
    fnn.save_train_state(tmp_path / "m", train_state())
    content = (tmp_path / "m").read_bytes()
    for changed in (content.replace(b'"step":"7"', b'"step":"8"'), content[:-1], content[:100]):
        (tmp_path / "m").write_bytes(changed)
        with pytest.raises(fnn.InputError):
            checkpoint_info(tmp_path / "m")


# A folder.


def steps(folder):
    return [checkpoint_info(file).step for file in checkpoint_files(folder)]


def saved_scores(folder, scores, **options):
    with Checkpoints(folder, **options) as checkpoints:
        for step, score in enumerate(scores):
            checkpoints.save(train_state(step=step), score=score)


@pytest.mark.parametrize(
    ("keep", "best", "scores", "left", "first"),
    [
        (2, "lowest", [3, 1, 2, 4, 5], [1, 3, 4], 1),
        (2, "highest", [3, 1, 2, 4, 1], [3, 4], 3),
        (1, "lowest", [1, 1, 1], [0, 2], 0),
        (1, "lowest", [np.nan, 2, np.nan], [1, 2], 1),
        (1, "highest", [np.nan, np.nan], [0, 1], 0),
        (3, None, [None] * 5, [2, 3, 4], None),
    ],
)
def test_the_last_ones_and_the_best_stay(tmp_path, keep, best, scores, left, first):
    saved_scores(tmp_path, scores, keep=keep, best=best)
    assert steps(tmp_path) == left
    assert checkpoint_info(latest_checkpoint(tmp_path)).step == len(scores) - 1
    found = best_checkpoint(tmp_path, best or "lowest")
    assert (None if found is None else checkpoint_info(found).step) == first


def test_a_run_that_goes_on_keeps_the_best_of_before(tmp_path):
    saved_scores(tmp_path, [3, 1, 2], keep=1, best="lowest")
    with Checkpoints(tmp_path, keep=1, best="lowest") as checkpoints:
        checkpoints.ready(train_state(step=2))
        for step in (2, 3, 4):
            checkpoints.save(train_state(step=step), score=2)
    assert steps(tmp_path) == [1, 4]


def test_checkpoints_of_later_steps_are_not_overrun(tmp_path):
    saved_scores(tmp_path, [None] * 5)
    with Checkpoints(tmp_path) as checkpoints:
        for call in (checkpoints.ready, checkpoints.save):
            with pytest.raises(
                fnn.InputError, match=r"checkpoints end at step 3, got one of step 4"
            ):
                call(train_state(step=3))
    assert steps(tmp_path) == [2, 3, 4]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    gate, write = threading.Event(), _safetensors.write

    def slow(*args):
        assert gate.wait(30)
        write(*args)

    monkeypatch.setattr(_safetensors, "write", slow)
    saved = train_state()
    expected = bits(saved)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved)
        assert latest_checkpoint(tmp_path) is None
        # What a dispatch does with the buffers that it is given.
        moved = jax.jit(lambda s: jax.tree.map(jnp.zeros_like, s), donate_argnums=0)(saved.params)
        jax.block_until_ready(moved)
        gate.set()
    assert bits(fnn.load_train_state(latest_checkpoint(tmp_path), train_state())) == expected


def test_a_disk_that_is_full_leaves_what_was_there_and_is_told_at_the_next_call(tmp_path):
    large = train_state(params={"a": jnp.ones(100_000)})
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(train_state(step=1))
        checkpoints.wait()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            checkpoints.save(large._replace(step=jnp.int32(2)))
            with pytest.raises(OSError, match="File too large"):
                checkpoints.save(train_state(step=3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            ".fnn-lock", "step-000000000001.safetensors",
        ]  # fmt: skip
        checkpoints.save(train_state(step=3))
    assert steps(tmp_path) == [3]


def test_a_disk_without_room_is_an_error_before_training(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with (
        Checkpoints(tmp_path, keep=2) as checkpoints,
        pytest.raises(fnn.InputError, match=r"room for 3 checkpoints of .* got 100 bytes"),
    ):
        checkpoints.ready(train_state())


def test_an_error_of_the_last_write_is_raised_at_the_end(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_safetensors, "write", fail)
    with pytest.raises(OSError, match="No space left"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(train_state())
    # The folder is free again.
    Checkpoints(tmp_path).close()


def test_two_runs_into_one_folder_are_refused(tmp_path):
    with (
        Checkpoints(tmp_path),
        pytest.raises(fnn.InputError, match="a folder that no other run writes to"),
    ):
        Checkpoints(tmp_path)
    Checkpoints(tmp_path).close()


def test_a_folder_that_cannot_be_written_to_is_an_error_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(fnn.InputError, match="a folder to write to"):
        Checkpoints(tmp_path / "file")

    def fail(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with pytest.raises(fnn.InputError, match=r"a folder to write to, .*Read-only file system"):
        Checkpoints(tmp_path / "folder")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep of 1 or more"),
        ({"keep": 1.5}, "keep of 1 or more"),
        ({"best": "least"}, "best of 'lowest', 'highest'"),
        ({"folder": 3}, "folder to be a path"),
    ],
)
def test_bad_settings_of_a_folder_are_refused(tmp_path, options, message):
    with pytest.raises(fnn.InputError, match=message):
        Checkpoints(**{"folder": tmp_path} | options)


def test_a_score_goes_with_best_and_a_closed_folder_takes_nothing(tmp_path):
    message = "a score with best=, and none without"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(fnn.InputError, match=message):
        checkpoints.save(train_state(), score=1.0)
    with pytest.raises(fnn.InputError, match="Checkpoints that are open"):
        checkpoints.save(train_state())
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", 3):
        with pytest.raises(fnn.InputError, match=r"^fnn\.train\.latest_checkpoint: expected"):
            latest_checkpoint(place)
