"""Shared parameters: once in the tree, seen by every tool, and refused where they do not fit."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.layers.test_laws import assert_close

KEY = jax.random.key(0)
K, C = 7, 4
TOKENS = jax.random.randint(jax.random.key(1), (3, 5), 0, K)
TARGET = jax.random.randint(jax.random.key(2), (3, 5), 0, K)
CROSS_ENTROPY = fnn.losses.cross_entropy()


def untied():
    return fnn.serial(embed=fnn.embedding(K, C), head=fnn.unembedding(K))


def tied():
    return fnn.shared(untied(), {"head": "embed"})


def made(model=None, x=TOKENS):
    return (model or tied()).init(KEY, x)


def encoder():
    return fnn.serial(fnn.dense(3), fnn.tanh(), fnn.batch_norm())


def siamese():
    both = fnn.over_parts(left=encoder(), right=encoder())
    return fnn.shared(fnn.serial(both, fnn.concatenate()), {"0/right": "0/left"})


def test_the_gradient_is_the_sum_over_all_places():
    params, state = made()
    apart = {**params, "head": params["embed"]}
    batch = TOKENS, TARGET
    one, many = (
        jax.jit(fnn.value_and_grad(model, CROSS_ENTROPY))(given, state, batch)[1]
        for model, given in ((tied(), params), (untied(), apart))
    )
    expected = many["embed"]["weight"] + many["head"]["weight"]
    assert one["head"] == ()
    assert_close(one["embed"]["weight"], expected, "float32", TOKENS.size * K)
    assert float(jnp.abs(many["head"]["weight"]).max()) > 0.01


def test_every_place_has_the_same_output_and_a_state_of_its_own():
    x = jax.random.normal(KEY, (6, 2))
    params, state = siamese().init(KEY, {"left": x, "right": x})
    assert jax.tree.leaves(params[0]["right"]) == []
    y, new = siamese().apply(params, state, {"left": x, "right": 2 * x}, train=True)
    means = [new[0][name][2]["mean"] for name in ("left", "right")]
    assert not np.allclose(*means)
    y, _ = siamese().apply(params, state, {"left": x, "right": x})
    np.testing.assert_array_equal(y[:, :3], y[:, 3:])


def test_a_summary_counts_the_parameters_once_and_names_their_owner():
    summary = fnn.summary(tied(), TOKENS)
    rows = {row.path: row for row in summary.rows}
    assert summary.parameters == K * C
    assert rows["embed"].parameters == K * C
    assert rows["head"].parameters == 0
    assert rows["head"].name == "unembedding (as embed)"
    assert rows["head"].output.shape == (3, 5, K)


def test_they_are_saved_once(tmp_path):
    params, state = made()
    fnn.save_weights(tmp_path / "model.safetensors", params, state)
    loaded, _ = fnn.load_weights(tmp_path / "model.safetensors", made(x=TOKENS))
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert len(jax.tree.leaves(loaded)) == 1
    np.testing.assert_array_equal(loaded["embed"]["weight"], params["embed"]["weight"])


def test_comparison_tuning_and_graph_see_every_place():
    params, state = made()
    batch = TOKENS, TARGET
    comparison = fnn.compare(tied(), CROSS_ENTROPY, params, state, batch, key=KEY)
    assert comparison.agrees
    assert [leaf.name for leaf in comparison.leaves] == ["params/embed/weight"]
    tuned, tuning = fnn.tune(tied(), CROSS_ENTROPY, batch, key=KEY, by="bytes")
    assert [cost.path for cost in tuning.costs] == ["embed", "head"]
    assert jax.eval_shape(tuned.init, KEY, TOKENS) == jax.eval_shape(tied().init, KEY, TOKENS)
    graph = fnn.graph(tied(), CROSS_ENTROPY, params, state, batch)
    assert {"embed", "head"} <= set(graph.nodes)
    assert all(node.agrees for node in graph.nodes.values())


def test_activations_are_traced_at_every_place_apart():
    """Their statistics go where gradients go, and are not added up."""
    params, state = made()
    one = fnn.trace_activations(tied(), CROSS_ENTROPY, params, state, (TOKENS, TARGET), key=KEY)
    apart = {**params, "head": params["embed"]}
    many = fnn.trace_activations(untied(), CROSS_ENTROPY, apart, state, (TOKENS, TARGET), key=KEY)
    assert [row.path for row in one.layers] == ["embed", "head"]
    for row, other in zip(one.layers, many.layers, strict=True):
        assert_close(row[2:], other[2:], "float32", TOKENS.size * K)


def test_they_are_trained_and_frozen_by_the_path_of_the_owner():
    optimizer = fnn.optim.freeze(fnn.optim.sgd(0.5), "embed/*")
    start = tied().init(jax.random.key(3), TOKENS)[0]
    for rule, moves in ((optimizer, False), (fnn.optim.sgd(0.5), True)):
        begin = fnn.init_train_state(tied(), rule, TOKENS, key=jax.random.key(3))
        step = fnn.train_step(tied(), CROSS_ENTROPY, rule)
        after = step(begin, (TOKENS, TARGET))[0].params
        same = bool((after["embed"]["weight"] == begin.params["embed"]["weight"]).all())
        assert same != moves
        assert jax.tree.structure(after) == jax.tree.structure(start)


def test_equal_ones_are_equal_print_and_are_pickled():
    assert tied() == tied()
    assert hash(tied()) == hash(tied())
    assert pickle.loads(pickle.dumps(tied())) == tied()
    assert eval(repr(tied()), vars(fnn)) == tied()
    assert fnn.map_layers(lambda path, layer: layer, tied()) == tied()


def test_a_wrapper_and_a_stack_of_shared_layers_share_too():
    block = fnn.residual(fnn.serial(fnn.dense(C), fnn.tanh()))
    deep = fnn.shared(fnn.serial(*[block] * 4), {str(i): "0" for i in (1, 2, 3)})
    x = jax.random.normal(KEY, (2, C))
    params, _ = fnn.repeat(fnn.remat(deep), 2).init(KEY, x)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 2 * (C * C + C)
    fnn.check_layer(fnn.repeat(fnn.remat(deep), 2), x, numeric=False)


def test_residuals_are_those_of_the_model():
    """The parameters that stand in two places are kept in none."""
    assert (
        fnn.summary(tied(), TOKENS).residual_bytes == fnn.summary(untied(), TOKENS).residual_bytes
    )


def test_a_cache_goes_through_shared_layers_and_layers_over_parts():
    attend = fnn.residual(fnn.attention(2, causal=True))
    model = fnn.shared(
        fnn.serial(embed=fnn.embedding(K, C), attend=attend, again=attend, head=fnn.unembedding(K)),
        {"again": "attend", "head": "embed"},
    )
    both = fnn.over_parts(a=model, b=model)
    x = {"a": TOKENS, "b": TOKENS[::-1]}
    params, state = both.init(KEY, x)
    expected, _ = both.apply(params, state, x)
    first = {name: tokens[:, :3] for name, tokens in x.items()}
    y, cache = both.prefill(params, state, first, window=5)
    assert_close(y, jax.tree.map(lambda a: a[:, :3], expected), "float32", 5 * C * K)
    for position in (3, 4):
        one = {name: tokens[:, position : position + 1] for name, tokens in x.items()}
        y, cache = both.decode(params, state, cache, one, jnp.int32(position))
        now = jax.tree.map(lambda a, p=position: a[:, p : p + 1], expected)
        assert_close(y, now, "float32", 5 * C * K)


def ties(of, model=untied):
    return lambda: fnn.shared(model(), of)


def unlike():
    model = fnn.serial(a=fnn.dense(C), b=fnn.dense(C + 1))
    return fnn.shared(model, {"b": "a"}).init(KEY, jnp.ones((1, C)))


def across_copies():
    model = fnn.serial(fnn.dense(C), fnn.repeat(fnn.dense(C), 2))
    return fnn.shared(model, {"1": "0"}).init(KEY, jnp.ones((1, C)))


PATHS = "paths of layers inside of the model"


@parametrize(
    [
        Bad("none", ties({}), "shared", "ties of paths to the paths of owners", r"\{\}"),
        Bad("list", ties(["head"]), "shared", "ties of paths .*", r"\['head'\]"),
        Bad("user", ties({"tail": "embed"}), "shared", PATHS, "'tail'"),
        Bad("owner", ties({"head": "emb"}), "shared", PATHS, "'emb'"),
        Bad("whole", ties({"": "embed"}), "shared", PATHS, "''"),
        Bad("itself", ties({"head": "head"}), "shared", "'head' to be another layer.*", ".*"),
        Bad(
            "chain",
            ties({"2": "1", "1": "0"}, lambda: fnn.serial(*[fnn.dense(C)] * 3)),
            "shared",
            "owners that have their parameters themselves",
            "'1', which uses those of '0'",
        ),
        Bad(
            "structure",
            ties({"0/right": "1"}, lambda: fnn.serial(
                fnn.over_parts(left=encoder(), right=encoder()), fnn.concatenate()
            )),
            "shared",
            "'1' to be another layer, like '0/right'",
            ".*",
        ),
        Bad("sizes", unlike, "shared", r"parameters like those of 'a', .*", ".*", "b"),
        Bad("copies", across_copies, "shared", r"parameters like those of '0', .*", ".*", "1"),
        Bad(
            "parts",
            lambda: fnn.over_parts(fnn.relu(), fnn.relu()).init(KEY, {"a": TOKENS}),
            "over_parts",
            "x to be a tuple of 2",
            "a dict of a",
        ),
        Bad(
            "names",
            lambda: fnn.over_parts(a=fnn.relu(), b=fnn.relu()).init(KEY, {"a": TOKENS}),
            "over_parts",
            "x to be a dict of a, b",
            "a dict of a",
        ),
    ]
)  # fmt: skip
def test_what_cannot_be_shared_is_refused(bad):
    assert_complains(bad, bad.call)


def test_a_gradient_that_is_not_added_up_is_noticed():
    model, params = tied(), made()[0]

    def backward(params, residuals, dy):
        dparams, dx = untied().backward({**params, "head": params["embed"]}, residuals, dy)
        return {**dparams, "head": ()}, dx

    wrong = fnn.Layer(model.init, model.apply, model.forward, backward)
    with pytest.raises(fnn.GradientError, match="dparams/embed/weight is"):
        fnn.check_layer(wrong, TOKENS, params=params, numeric=False)
