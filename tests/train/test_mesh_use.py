"""Trained parameters in use on a mesh: what is sent and held, and that the results are the same."""

from __future__ import annotations

import importlib
import pickle

import jax
import numpy as np
import pytest

import fnn
from fnn import train
from fnn._core.description import split
from fnn.gradient.objective import as_batch
from fnn.lab.plan import collectives
from fnn.train.sharding import layout_in_use, layout_of
from tests.sharding.process import found_by
from tests.tolerance import rounding
from tests.xla import AS_USERS

WIDTH, COPIES, BATCH, COUNT, WINDOW = 64, 2, 8, 5, 6
TOKENS = np.random.default_rng(0).integers(0, 32, size=(20, 4))
LENGTHS = np.array([4, 1, 3, 2, 4, 1, 2, 3])
PROMPTS = fnn.Sequence(TOKENS[:BATCH], LENGTHS)
LOSSES = {
    "transformer": fnn.losses.linear_cross_entropy(),
    "tied": fnn.losses.cross_entropy(),
}
KEY = {"key": jax.random.key(1)}


def model_of(name):
    if name == "tied":
        model = fnn.serial(tokens=fnn.embedding(32, WIDTH), head=fnn.unembedding(32))
        return fnn.shared(model, {"head": "tokens"})
    block = fnn.transformer_block(2, causal=True)
    return fnn.serial(fnn.embedding(32, WIDTH), fnn.repeat(block, COPIES), fnn.linear_head(32))


def placed(name):
    model = model_of(name)
    return model, *jax.jit(model.init)(jax.random.key(0), TOKENS[:1])


def mesh_of(*shape):
    return jax.make_mesh(shape, ("data", "model")[: len(shape)])


def uses(name, model, params, state, **where):
    """What parameters are used for: numbers, and what is drawn."""
    given, data = (model, params, state), (TOKENS, np.roll(TOKENS, -1, 1))
    drawn = [fnn.generate(*given, PROMPTS, COUNT, window=WINDOW, **KEY, **where)]
    if name == "tied":
        stream = fnn.generate_stream(*given, PROMPTS, COUNT, window=WINDOW, **KEY, **where)
        drawn += [np.stack(list(stream), 1)]
        drawn += [fnn.generate(*given, TOKENS[:3], COUNT, cache=False, **KEY, **where)]
    score = fnn.evaluate(model, LOSSES[name], params, state, data, batch_size=BATCH, **where)
    outputs = fnn.predict(*given, TOKENS, batch_size=BATCH, **where)
    return jax.tree.map(np.asarray, ((score, outputs), drawn))


def used():
    """Everything on one device, on the mesh of the parameters, and on one that is asked for."""
    found = {}
    for name in ("transformer", "tied"):
        model, params, state = placed(name)
        found[name, "one device"] = uses(name, model, params, state)
        lying = train.shard(params, mesh_of(8), "full")
        found[name, "as they lie"] = uses(name, model, lying, state)
    model, params, state = placed("transformer")
    both = {"mesh": mesh_of(2, 4), "sharding": train.tensor_parallel(model) | {"0/weight": "full"}}
    found["transformer", "as asked for"] = uses("transformer", model, params, state, **both)
    return found


def sparing():
    """Options by which the scheduler holds little, as on other platforms.

    That for CPUs gathers early, to have more to do at a time.
    """
    options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    try:
        jax.jit(lambda x: x).lower(1.0).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        # Jaxlib 0.8 knows another name.
        options = {"xla_cpu_enable_concurrency_optimized_scheduler": False}
    return AS_USERS | options


def programs():
    """What programs send and hold that use parameters in parts, and such as leave it to XLA."""
    generate, evaluate, gathering = (
        importlib.import_module(f"fnn.train.{name}")
        for name in ("generation.generate", "evaluate", "_gathering")
    )
    model, params, state = placed("transformer")
    params = train.shard(params, mesh_of(8), "full")
    structure, numbers = split(model=model)
    compared, more = split(model=model, functions={"loss": LOSSES["transformer"]})
    lying = lies_on(params)
    (state, data) = lying.put_whole((state, as_batch((TOKENS[:16], TOKENS[:16]))))

    def of(layout):
        place = params, state
        return {
            "predict": lambda: evaluate._predict.lower(
                structure, numbers, *place, data.x, BATCH, layout
            ),
            "evaluate": lambda: evaluate._evaluate.lower(
                compared, more, *place, data, BATCH, layout
            ),
            "generate": lambda: generate._write.lower(*asked(params, state)),
        }

    found = {("gathered", name): one() for name, one in of(lying).items()}
    found["left to XLA", "predict"] = of(layout_of(mesh_of(8), "data"))["predict"]()
    kept = {module: module.tied for module in (evaluate, gathering)}
    jax.clear_caches()
    for module in kept:
        module.tied = lambda params, x: params
    found |= {("kept", name): of(lying)[name]() for name in ("predict", "generate")}
    for module, function in kept.items():
        module.tied = function
    jax.clear_caches()
    seen, options = {}, sparing()
    for case, one in found.items():
        compiled = one.compile(compiler_options=options)
        held = compiled.memory_analysis().temp_size_in_bytes
        seen[case] = collectives(compiled.as_text()), held
    return seen, sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def asked(params, state):
    """What the program that generates is given."""
    generate = importlib.import_module("fnn.train.generation.generate")
    used = generate._Model(model_of("transformer"), params, state, lies_on(params))
    drawing = generate._Drawing(1.0, None, 1.0, 1.0, None)
    given = generate._Given(TOKENS[:BATCH], None)
    return generate._asked(used, given, COUNT, KEY["key"], drawing, None, True)


def lies_on(params):
    return layout_in_use(params, None, None)


def caches():
    """How much of every cache lies on a device, and the whole of it."""
    generate = importlib.import_module("fnn.train.generation.generate")
    _, params, state = placed("transformer")
    given = asked(train.shard(params, mesh_of(8), "full"), state)
    writing = generate._go_on(*given[:2], generate._begin(*given))
    return [(a.addressable_shards[0].data.size, a.size) for a in jax.tree.leaves(writing.cache)]


def main(file):
    assert jax.device_count() == 8
    jax.config.update("jax_disable_most_optimizations", False)
    found = {"programs": programs()}
    jax.config.update("jax_disable_most_optimizations", True)
    found |= {"caches": caches(), "used": used()}
    file.write_bytes(pickle.dumps(found))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return found_by(__name__, tmp_path_factory.mktemp("devices"))


ELSEWHERE = [
    ("transformer", "as they lie"),
    ("transformer", "as asked for"),
    ("tied", "as they lie"),
]
TOLERANCE = rounding("float32", BATCH * WIDTH)


def assert_close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * np.abs(b).max())


@pytest.mark.parametrize("case", ELSEWHERE)
def test_scores_and_outputs_on_a_mesh_are_those_of_one_device(found, case):
    assert_close(found["used"][case][0], found["used"][case[0], "one device"][0])


def test_outputs_that_are_off_by_a_thousandth_are_seen(found):
    outputs = found["used"]["tied", "one device"][0]
    with pytest.raises(AssertionError):
        assert_close(jax.tree.map(lambda a: 1.001 * a, outputs), outputs)


@pytest.mark.parametrize("case", ELSEWHERE)
def test_what_is_drawn_on_a_mesh_is_what_one_device_draws(found, case):
    drawn, expected = (found["used"][one][1] for one in (case, (case[0], "one device")))
    for a, b in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(drawn[0], drawn[min(1, len(drawn) - 1)])


def check_gathered(found, name, way="gathered"):
    """Two batches, or a prompt and a step, gather every weight once each, and nothing else."""
    programs, weights = found["programs"]
    sent, _ = programs[way, name]
    # Summed are values of the loss, and whether scores are numbers; the outputs are made whole.
    outputs = TOKENS[:16].size * 32 * 4 if name == "predict" else 2 * BATCH * 8
    assert sent.pop("all-gather").bytes <= 2 * weights + outputs
    assert sum(one.bytes for one in sent.values()) <= 8


USES = ["predict", "evaluate", "generate"]


@pytest.mark.parametrize("name", USES)
def test_weights_in_parts_are_gathered_once_in_a_batch_or_step_and_nothing_else_is_sent(
    found, name
):
    check_gathered(found, name)


def test_a_batch_of_which_xla_decides_what_is_sent_is_seen(found):
    with pytest.raises(AssertionError):
        check_gathered(found, "predict", "left to XLA")


@pytest.mark.parametrize("name", USES)
def test_no_device_holds_all_weights_at_once(found, name):
    programs, weights = found["programs"]
    assert programs["gathered", name][1] < weights / 2


@pytest.mark.parametrize("name", ["predict", "generate"])
def test_weights_that_are_gathered_in_front_of_the_loop_are_seen(found, name):
    programs, _ = found["programs"]
    assert programs["kept", name][1] > programs["gathered", name][1]


def test_every_device_keeps_the_caches_of_its_rows(found):
    assert {whole / part for part, whole in found["caches"]} == {8}
