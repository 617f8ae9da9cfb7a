"""Computation graphs: the values and gradients of every node, its words and its picture."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import plot
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.tolerance import rounding

KEY = jax.random.key(2)
X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
LABELS = np.array([0, 1, 1, 0])
LOSS = fnn.losses.cross_entropy()
NEURON = {"x1": 1.0, "w1": 0.5, "x2": -2.0, "w2": 0.75, "b": 0.25, "t": 1.0}
MODELS = {
    "two layers, a batch of 1": (fnn.serial(fnn.dense(4), fnn.sigmoid(), fnn.dense(2)), X[:1]),
    "norm and a residual block": (
        fnn.serial(fnn.batch_norm(), fnn.residual(fnn.serial(fnn.dense(3), fnn.relu()))),
        X,
    ),
    "an LSTM of three steps": (
        fnn.serial(fnn.lstm(3), fnn.last_step(), fnn.dense(2)),
        np.concatenate([X, X[:2]]).reshape(2, 3, 3),
    ),
}


@functools.cache
def drawn_up(name, detail="layers"):
    """The model of a name with its parameters, state and batch, and its graph."""
    model, x = MODELS[name]
    params, state = model.init(KEY, x)
    batch = x, LABELS[: len(x)]
    return model, params, state, batch, fnn.graph(model, LOSS, params, state, batch, detail=detail)


def neuron(x1, w1, x2, w2, b, t):
    return (jax.nn.sigmoid(w1 * x1 + w2 * x2 + b) - t) ** 2


def close(a, b, scale=1.0):
    np.testing.assert_allclose(
        np.asarray(a), np.asarray(b), rtol=0, atol=rounding("float32", 100) * scale
    )


def three_steps(weight, carry, xs):
    def step(carry, x):
        carry = jnp.tanh(weight * carry + x)
        return carry, carry

    return jnp.sum(jax.lax.scan(step, carry, xs)[1] ** 2)


FUNCTIONS = {
    "neuron": (neuron, tuple(NEURON.values())),
    "a value used twice": (lambda x, y: x * y + jnp.exp(x) / y, (0.5, 2.0)),
    "one leaf": (lambda x: x, (2.0,)),
    "three steps in time": (three_steps, (0.5, 0.1, np.array([1.0, -1.0, 0.5], "float32"))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_leaves_are_those_of_jax_grad(name):
    function, args = FUNCTIONS[name]
    graph = fnn.graph(function, *args)
    values = [jnp.asarray(a, "float32") for a in args]
    close(graph.nodes[graph.root].value, function(*values))
    close(graph.nodes[graph.root].gradient, 1.0)
    leaves = [node for node in graph.nodes.values() if node.kind == "input"]
    expected = jax.grad(function, tuple(range(len(args))))(*values)
    by_name = dict(zip(function.__code__.co_varnames, expected, strict=False))
    assert {node.name for node in leaves} == set(by_name) & {node.name for node in leaves}
    for node in leaves:
        close(node.gradient, by_name[node.name])


@pytest.mark.parametrize("name", ["neuron", "a value used twice"])
def test_the_gradient_of_a_number_is_the_sum_over_its_edges(name):
    function, args = FUNCTIONS[name]
    graph = fnn.graph(function, *args)
    for node in graph.nodes.values():
        out = [edge for edge in graph.edges if edge.source == node.name]
        if out:
            total = sum(edge.derivative * graph.nodes[edge.target].gradient for edge in out)
            close(node.gradient, total)


@pytest.mark.parametrize("detail", ["layers", "operations"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_a_model_are_those_of_value_and_grad(name, detail):
    model, params, state, batch, graph = drawn_up(name, detail)
    (value, _), grads = fnn.value_and_grad(model, LOSS)(params, state, batch)
    close(graph.nodes[graph.root].value, value)
    found = 0
    for path, leaf in jax.tree.leaves_with_path(grads):
        node = graph.nodes[jax.tree_util.keystr(path, simple=True, separator="/")]
        assert node.kind == "parameter"
        close(node.gradient, leaf)
        found += 1
    assert found == sum(node.kind == "parameter" for node in graph.nodes.values())
    assert all(node.agrees for node in graph.nodes.values())
    if detail == "layers":
        paths = [row.path for row in fnn.summary(model, batch[0]).rows]
        assert [node.name for node in graph.nodes.values() if node.kind == "layer"] == paths


def test_a_layer_whose_gradient_by_hand_is_wrong_is_marked_with_all_that_is_behind_it():
    right = fnn.tanh()
    wrong = fnn.stateless(
        lambda key, x: (),
        lambda params, x: (jnp.tanh(x), jnp.tanh(x)),
        lambda params, y, dy: ((), dy * (1 - y)),
    )
    for middle, agrees in ((right, True), (wrong, False)):
        model = fnn.serial(fnn.dense(3), middle, fnn.dense(2))
        params, state = model.init(KEY, X)
        nodes = fnn.graph(model, LOSS, params, state, (X, LABELS)).nodes
        assert [nodes[n].agrees for n in ("x", "0/weight", "0")] == [agrees] * 3
        assert all(nodes[n].agrees for n in ("1", "2/weight", "2"))
    assert "by hand ≠ autodiff" in str(fnn.graph(model, LOSS, params, state, (X, LABELS)))


def test_a_large_model_is_folded_until_it_can_be_read_and_says_so():
    block = fnn.serial(*[fnn.dense(3), fnn.relu()] * 12)
    model = fnn.serial(block, block, fnn.dense(2))
    params, state = model.init(KEY, X)
    graph = fnn.graph(model, LOSS, params, state, (X, LABELS))
    assert len(graph.nodes) <= 60 or graph.note
    assert graph.note == "combinators below depth 1 are folded"
    (_, _), grads = fnn.value_and_grad(model, LOSS)(params, state, (X, LABELS))
    close(graph.nodes["2/weight"].gradient, grads[2]["weight"])


def test_a_graph_is_written_as_json_dot_words_and_a_table():
    graph = fnn.graph(neuron, **NEURON)
    read = json.loads(json.dumps(graph.to_dict()))
    assert [node["name"] for node in read["nodes"]] == list(graph.nodes)
    assert read["root"] == graph.root
    assert graph.to_dot().count("->") == len(graph.edges)
    assert graph.describe().count(";") == len(graph.nodes) - 1
    assert len(str(graph).splitlines()) == len(graph.nodes) + 1


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_steps_show_values_forwards_and_then_gradients_backwards():
    graph = fnn.graph(neuron, **NEURON)
    n = len(graph.nodes)
    numbers = {
        step: sum(map(bool, texts(plot.graph(graph, step=step)))) for step in range(2 * n + 1)
    }
    # A label for every node, and one number more in every step.
    assert numbers == {step: n + step for step in range(2 * n + 1)}
    hidden = texts(plot.graph(graph, hide=["σ", "b"]))
    assert hidden.count("?") == 4


def test_the_picture_of_every_model_has_its_nodes():
    for name in MODELS:
        graph = drawn_up(name)[-1]
        drawn = texts(plot.graph(graph))
        assert all(node.label in drawn for node in graph.nodes.values())


def test_a_page_holds_a_frame_for_every_step_and_needs_no_network(tmp_path):
    graph = fnn.graph(lambda w, x: jnp.tanh(w * x), 0.5, 2.0)
    plot.graph_page(graph, tmp_path / "page.html", title="A & B")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2 * len(graph.nodes) + 1
    assert "A &amp; B" in page
    assert "src=" not in page
    assert "<link" not in page


BAD = [
    Bad("vector", lambda: fnn.graph(lambda x: x, X), "graph", "a function to one .* number", ".*"),
    Bad("integer", lambda: fnn.graph(lambda x: 1, 2.0), "graph", "a function to one .*", ".*"),
    Bad("text", lambda: fnn.graph(lambda x: x, "a"), "graph", "x of numbers", "'a'"),
    Bad("no-function", lambda: fnn.graph(3), "graph", "function to be a function", "3"),
    Bad(
        "detail",
        lambda: fnn.graph(neuron, **NEURON, detail="x"),
        "graph",
        "detail of 'layers', 'operations'",
        "'x'",
    ),
    Bad("model", lambda: fnn.graph(fnn.relu(), LOSS), "graph", "loss, .*", "1 arguments"),
    Bad(
        "step",
        lambda: plot.graph(fnn.graph(lambda x: x * x, 2.0), step=5),
        "plot.graph",
        "step of 0 to 4",
        "5",
    ),
    Bad(
        "hide",
        lambda: plot.graph(fnn.graph(lambda x: x * x, 2.0), hide=["y"]),
        "plot.graph",
        "nodes to hide among .*",
        "'y'",
    ),
    Bad("not-a-graph", lambda: plot.graph(3), "plot.graph", "a Graph", "3"),
]


@parametrize(BAD)
def test_bad_input_is_refused(bad):
    assert_complains(bad, bad.call)
