"""A mesh changes where a run is computed, and not what: seen on 8 simulated devices."""

from __future__ import annotations

import functools
import importlib
import pickle
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import fnn
from fnn import optim, train
from fnn.lab.plan import collectives
from fnn.optim._paths import leaf_paths
from fnn.train.sharding import _start_on, layout_of, planned_on
from tests.sharding.process import found_by
from tests.tolerance import rounding

BATCH, STEPS, WIDTH = 12, 4, 64
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(BATCH * STEPS, 16)).astype("float32")
LABELS = (ROWS[:, 0] > 0).astype("int32")
IMAGES = ROWS.reshape(-1, 4, 4, 1)
TOKENS = RNG.integers(0, 16, size=(len(ROWS), 5))
LOSS, HEAD = fnn.losses.cross_entropy(), fnn.losses.linear_cross_entropy()
COPY = 3, 32


def problems():
    mlp = fnn.serial(fnn.dense(WIDTH), fnn.batch_norm(), fnn.relu(), fnn.dropout(0.3), fnn.dense(2))
    # A scan over time, one over copies that are split among themselves, one over copies in parts.
    many = fnn.repeat(fnn.remat(fnn.residual(fnn.dense(8))), 16)
    wide = fnn.repeat(fnn.residual(fnn.dense(COPY[1])), COPY[0])
    deep = fnn.serial(
        fnn.conv(8, 3), fnn.max_pool((2, 1)), fnn.reshape(2, 32), fnn.lstm(8), many,
        fnn.last_step(), fnn.dense(COPY[1]), wide, fnn.dense(2),
    )  # fmt: skip
    tied = fnn.serial(tokens=fnn.embedding(16, 64), act=fnn.tanh(), head=fnn.unembedding(16))
    block = fnn.repeat(fnn.transformer_block(4, causal=True), 2)
    transformer = fnn.serial(fnn.embedding(16, 16), block, fnn.linear_head(16))
    pairs = TOKENS[:, :-1], TOKENS[:, 1:]
    ragged = tuple(half[:-5] for half in pairs)
    return {
        "mlp": (mlp, LOSS, optim.sgd(0.1, 0.9), (ROWS, LABELS)),
        "deep": (deep, LOSS, optim.adamw(0.01), (IMAGES, LABELS)),
        "tied": (fnn.shared(tied, {"head": "tokens"}), LOSS, optim.sgd(0.1), ragged),
        "transformer": (transformer, HEAD, optim.sgd(0.1), pairs),
    }


def fitted(name, **options):
    options = {"steps": STEPS, "batch_size": BATCH, "key": jax.random.key(0)} | options
    model, loss, optimizer, data = problems()[name]
    return fnn.fit(model, loss, optimizer, options.pop("data", data), **options)


def mesh_of(*shape):
    """A mesh as `jax.make_mesh` gives it: of the explicit kind, where that is its way."""
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, ("data", "model")[: len(shape)], devices=devices)


# 12 examples a step, which 8 devices do not divide; of the tied ones 7 in the last.
GATHERING = {
    "deep full 4": ("deep", (4,), "full"),
    "deep full 4, by autodiff": ("deep", (4,), "full", {"gradient": "auto"}),
}
LAYOUTS = GATHERING | {
    "mlp data 8": ("mlp", (8,), "data"),
    "mlp full 8": ("mlp", (8,), "full"),
    "tied full 4": ("tied", (4,), "full"),
    "transformer data 2 x model 4": ("transformer", (2, 4), "tensor"),
}


def run_layout(name, shape, sharding, options=None):
    if sharding == "tensor":
        # The head is split over both axes: over that of the batch it is gathered.
        head = {"2/w*": PartitionSpec("data", "model")}
        sharding = head | train.tensor_parallel(problems()[name][0])
    return fitted(name, mesh=mesh_of(*shape), sharding=sharding, **(options or {}))


def plain(tree):
    return jax.tree.map(np.asarray, tree)


def curves():
    """The runs on every layout, and those on one device."""
    found = {}
    for case in LAYOUTS.keys() - GATHERING.keys():
        state, history = run_layout(*LAYOUTS[case])
        found[case] = history.loss, plain(state.params)
    for name in problems().keys() - {"deep"}:
        state, history = fitted(name)
        found[name] = history.loss, plain(state.params)
    return found


def programs():
    """The programs of the fully sharded runs and of one device, each run as it is seen."""
    loop, found = importlib.import_module("fnn.train.loop._loop"), {}
    run = loop.run

    def seen(*args):
        if case not in compiled:
            compiled[case] = run.lower(*args).compile()
        return compiled[case](*args[2:-1])

    loop.run, compiled = seen, {}
    for case in GATHERING:
        found[case] = run_layout(*LAYOUTS[case])
    case = "deep"
    found[case] = fitted(case)
    program = importlib.import_module("fnn.train.loop._program")
    program.gathering, kept = (lambda layout, model, params: model), program.gathering
    case = "left to XLA"
    found[case] = run_layout("deep", (2,), "full")
    program.gathering, loop.run = kept, run
    texts = {case: one.as_text() for case, one in compiled.items()}
    return texts, {case: (h.loss, plain(state.params)) for case, (state, h) in found.items()}


def resumed(folder):
    """A run that goes on from a file on another layout, and whole."""
    file = folder / "run.safetensors"
    begun, _ = run_layout("mlp", (8,), "full", {"steps": 3})
    model, _, optimizer, _ = problems()["mlp"]
    fnn.save_train_state(file, begun)
    shapes = fnn.init_train_state(model, optimizer, ROWS[:1], key=jax.random.key(0))
    start = fnn.load_train_state(file, shapes)
    other, _ = run_layout("mlp", (8,), "data", {"steps": 0, "start": start, "key": None})
    on = {"steps": 1, "start": start, "key": None}
    return {
        "kept": (plain(begun.params), plain(start.params), plain(other.params)),
        "place": [str(a.sharding.spec) for a in jax.tree.leaves((begun.params, other.params))],
        "on 8": plain(run_layout("mlp", (8,), "data", on)[0].params),
        "on 1": plain(fitted("mlp", **on)[0].params),
        "from the mesh": plain(
            fitted("mlp", **on | {"start": begun, "mesh": mesh_of(8)})[0].params
        ),
    }


def sources(folder):
    """The same batches from a file and one by one, on 8 devices, and what they should give."""
    np.save(folder / "rows.npy", ROWS)
    mapped = np.load(folder / "rows.npy", mmap_mode="r")
    order = [ROWS[i : i + BATCH] for i in range(0, len(ROWS), BATCH)]
    batches = [(rows, (rows[:, 0] > 0).astype("int32")) for rows in order]
    one_by_one = functools.partial(fitted, "mlp", data=batches, batch_size=None)
    found = {
        "file": (fitted("mlp", data=(mapped, LABELS), mesh=mesh_of(8)), fitted("mlp")),
        "batches": (one_by_one(mesh=mesh_of(8)), one_by_one()),
    }
    return {name: [history.loss for _, history in runs] for name, runs in found.items()}


def compiled(function):
    """The names of the programs that are compiled meanwhile."""
    names = []

    def note(event, seconds, **details):
        del seconds
        if event.endswith("backend_compile_duration"):
            names.append(details.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(note)
    function()
    jax.monitoring.unregister_event_duration_listener(note)
    return names


def random_bits():
    """Dropout and noise of one key, on one device and split over 8 along either axis."""
    layout = layout_of(None, "full")
    x, key = jnp.ones((16, WIDTH)), jax.random.key(3)
    drop, noise = fnn.dropout(0.3), optim.gradient_noise(0.1, key=key)

    def draw(x):
        dropped, _ = drop.apply((), (), x, key=key, train=True)
        return dropped, noise.update(x, noise.init(x), x)[0]

    found = []
    for spec in (PartitionSpec(layout.axis), PartitionSpec(None, layout.axis)):
        split = jax.sharding.NamedSharding(layout.mesh, spec)
        compiled = jax.jit(draw, out_shardings=split).lower(jax.device_put(x, split)).compile()
        many = compiled(jax.device_put(x, split))
        found.append((plain(many), collectives(compiled.as_text())))
    return plain(jax.jit(draw)(x)), found


def start_text(sharding):
    """The program that draws the parameters."""
    model, _, optimizer, _ = problems()["mlp"]
    layout = layout_of(None, sharding)
    seen = []

    def note(*args):
        seen.append(_start_on.lower(*args).compile().as_text())
        return _start_on(*args)

    train_sharding = sys.modules["fnn.train.sharding"]
    train_sharding._start_on = note
    x = jax.ShapeDtypeStruct((BATCH, 16), "float32")
    train_sharding.start_on(layout, model, optimizer, x, jax.random.key(0), "manual", None)
    train_sharding._start_on = _start_on
    return seen[0]


def main(file):
    assert jax.device_count() == 8
    texts, seen = programs()
    found = {
        "curves": seen | curves(),
        "programs": texts,
        "sources": sources(file.parent),
    }
    found |= {"again": compiled(lambda: run_layout(*LAYOUTS["mlp full 8"]))}
    found |= {"bits": random_bits(), "resumed": resumed(file.parent)}
    found |= {"start": {name: start_text(name) for name in ("full", "data")}}
    file.write_bytes(pickle.dumps(found))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return found_by(__name__, tmp_path_factory.mktemp("devices"))


TOLERANCE = rounding("float32", BATCH * WIDTH * STEPS)


def assert_close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("case", LAYOUTS)
def test_the_curve_on_a_mesh_is_that_of_one_device(found, case):
    name = LAYOUTS[case][0]
    assert_close(found["curves"][case], found["curves"][name])
    assert np.ptp(found["curves"][name][0]) > 100 * TOLERANCE


def test_a_curve_that_is_off_by_a_thousandth_is_seen():
    with pytest.raises(AssertionError):
        assert_close(np.full(STEPS, 1.001), np.ones(STEPS))


@pytest.mark.parametrize("name", ["file", "batches"])
def test_data_that_are_read_in_portions_give_the_curve_of_one_device(found, name):
    assert_close(*found["sources"][name])


def test_dropout_and_noise_draw_the_same_bits_on_8_devices_which_send_none(found):
    one, split = found["bits"]
    for many, sent in split:
        for a, b in zip(one, many, strict=True):
            np.testing.assert_array_equal(a, b)
        assert not sent


def test_a_second_run_on_the_mesh_compiles_nothing(found):
    assert found["again"] == []


def test_parameters_in_a_file_are_those_of_the_mesh_to_the_last_bit_on_another_layout(found):
    for other in found["resumed"]["kept"][1:]:
        for a, b in zip(*map(jax.tree.leaves, (found["resumed"]["kept"][0], other)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(set(found["resumed"]["place"])) > 1


@pytest.mark.parametrize("where", ["on 8", "on 1", "from the mesh"])
def test_a_run_goes_on_with_another_number_of_devices(found, where):
    assert_close(found["resumed"][where], found["curves"]["mlp"][1])


def has_whole_weight(text):
    return bool(re.search(rf"f32\[16,{WIDTH}\]", text))


def test_no_device_ever_holds_a_whole_weight_that_is_sharded(found):
    assert not has_whole_weight(found["start"]["full"])
    assert has_whole_weight(found["start"]["data"])


def sent(text, kind):
    return collectives(text)[kind].bytes


def check_gathered(text, params):
    assert collectives(text).keys() == {"all-gather", "all-reduce"}
    split = [leaf.nbytes for leaf in jax.tree.leaves(params) if leaf.size >= 1024]
    assert 0 < sent(text, "all-gather") <= 2 * sum(split)


@pytest.mark.parametrize("case", GATHERING)
def test_a_fully_sharded_step_gathers_every_weight_twice_at_most_and_sends_nothing_else(
    found, case
):
    check_gathered(found["programs"][case], found["curves"][case][1])


def test_a_step_of_which_xla_decides_what_is_sent_is_seen(found):
    with pytest.raises(AssertionError):
        check_gathered(found["programs"]["left to XLA"], found["curves"]["left to XLA"][1])


def test_a_fully_sharded_step_by_hand_sums_the_gradient_once(found):
    case = "deep full 4"
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(found["curves"][case][1]))
    # Beside it: the loss, and whether numbers are finite.
    assert total <= sent(found["programs"][case], "all-reduce") <= total + 16


@pytest.mark.parametrize("case", GATHERING)
def test_no_copy_of_a_gathered_weight_is_kept_for_the_way_back(found, case):
    copies = "f32[{},{},{}]".format(*COPY, COPY[1])
    assert copies not in found["programs"][case]
    assert copies in found["programs"]["deep"]


def test_a_mesh_of_one_device_gives_the_bits_of_none():
    model, optimizer = fnn.serial(fnn.dense(8), fnn.dropout(0.5), fnn.dense(2)), optim.sgd(0.1)
    (_, history), (_, expected) = (
        fnn.fit(
            model, LOSS, optimizer, (ROWS, LABELS), steps=2, batch_size=BATCH,
            key=jax.random.key(0), mesh=mesh,
        )
        for mesh in (mesh_of(1), None)
    )  # fmt: skip
    np.testing.assert_array_equal(history.loss, expected.loss)


TENSOR = {
    "attention": (fnn.attention(2), {"query/weight": (None, "model"), "output/weight": ("model",)}),
    "no bias": (fnn.mlp(activation="swiglu"), {"up/weight": (None, "model")}),
    "copies": (fnn.repeat(fnn.mlp(), 3), {"up/weight": (None, None, "model")}),
    "embedding": (fnn.embedding(8, 4), {"weight": ("model",)}),
    "head": (fnn.linear_head(8), {"bias": ("model",), "weight": (None, "model")}),
}


@pytest.mark.parametrize("case", TENSOR)
def test_matrices_inside_of_a_layer_are_split_where_nothing_is_sent_in_between(case):
    model, expected = TENSOR[case]
    found = train.tensor_parallel(model)
    paths = {path.removesuffix("*"): tuple(spec) for path, spec in found.items()}
    assert expected.items() <= paths.items()
    assert ("up/bias" in paths) == (case == "copies")


ALL = {"0/*": "data"}
PATH = {"1/up/weight": PartitionSpec("data")}
SIDES = {
    "in front": lambda tensor: PATH | ALL | tensor,
    "behind": lambda tensor: ALL | tensor | PATH,
}


@pytest.mark.parametrize("side", SIDES)
def test_the_path_of_a_parameter_counts_on_either_side_of_the_patterns(side):
    model = fnn.serial(fnn.mlp(), fnn.mlp())
    params = jax.eval_shape(model.init, jax.random.key(0), ROWS)[0]
    devices = jax.sharding.AbstractMesh((2, 2), ("data", "model"))
    tensor = train.tensor_parallel(model)

    def places(rules):
        specs = planned_on(devices, rules).params_specs(params)
        return dict(zip(leaf_paths(params), specs, strict=True))

    found, expected = places(SIDES[side](tensor)), places(tensor)
    none = {path: PartitionSpec() for path in found if path.startswith("0/")}
    assert found == expected | none | PATH
    assert expected["1/up/weight"] != PATH["1/up/weight"]


def on_one(sharding="data", mesh=None):
    return lambda: fitted("mlp", steps=0, sharding=sharding, mesh=mesh or mesh_of(1))


REFUSED = {
    "no mesh": (on_one(mesh=3), "a jax.sharding.Mesh"),
    "another word": (on_one("fsdp"), "sharding of 'data', 'full'"),
    "another word by path": (on_one({"0/weight": "model"}), "the sharding of '0/weight'"),
    "no pattern": (on_one({}), "a pattern or more"),
    "a pattern of nothing": (on_one({"9/*": "full"}), "a pattern that matches a parameter"),
    "a pattern that is no text": (on_one({0: "full"}), "patterns over paths"),
    "another axis": (on_one({"0/weight": PartitionSpec("model")}), "the axes 'data' of the mesh"),
    "too many axes": (on_one({"0/bias": PartitionSpec(None, "data")}), "at most 1 axes"),
    "no layer of those": (lambda: train.tensor_parallel(fnn.dense(3)), "a model with attention"),
    "no name": (lambda: train.tensor_parallel(fnn.mlp(), ""), "an axis of the mesh"),
    "a mesh for shard": (lambda: train.shard({}, None), "a jax.sharding.Mesh"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_fits_neither_mesh_nor_parameters_is_refused_in_words(case):
    call, words = REFUSED[case]
    with pytest.raises(fnn.InputError, match=re.escape(words)):
        call()


def test_an_axis_that_the_devices_do_not_divide_is_refused_in_words():
    layout = layout_of(mesh_of(1), {"weight": PartitionSpec("data")})
    odd = jax.sharding.AbstractMesh((4,), ("data",))
    layout = type(layout)(odd, layout.rules)
    with pytest.raises(fnn.InputError, match=r"axis 0 of 'weight' to be divisible by 4"):
        layout.params_specs({"weight": jnp.ones((6, 2))})
