"""Computation graphs: the values and gradients of every node, its words and its picture."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import plot
from fnn.cli.networks import network
from fnn.plot._thumbnail import thumbnail
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


@pytest.mark.parametrize("detail", ["layers", "operations"])
@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_of_every_node_is_the_sum_of_what_comes_back_along_its_edges(name, detail):
    graph = drawn_up(name, detail)[-1]
    for node in graph.nodes.values():
        out = [edge for edge in graph.edges if edge.source == node.name]
        if out and node.gradient is not None:
            total = functools.reduce(
                lambda a, b: jax.tree.map(np.add, a, b), [edge.gradient for edge in out]
            )
            for a, b in zip(*map(jax.tree.leaves, (node.gradient, total)), strict=True):
                close(a, b)
    assert graph.nodes[graph.root].gradient == 1


def test_the_gradient_of_every_layer_is_jax_grad_of_what_comes_after_it():
    model, params, state, (_, labels), graph = drawn_up("two layers, a batch of 1")
    for i, path in enumerate(["0", "1", "2"], 1):

        def after(value, first=i):
            for layer, *own in list(zip(fnn.children(model).values(), params, state, strict=True))[
                first:
            ]:
                value, _ = layer.apply(*own, value)
            return LOSS.apply(value, labels).mean()

        close(graph.nodes[path].gradient, jax.grad(after)(graph.nodes[path].value))


def test_the_graph_of_the_main_job_s_network_has_its_layers_folded_with_the_gradients_of_fnn():
    model = network("mlp", (8, 8), 3, hidden=(4,), normalize=True, rate=0.5)
    x = np.random.default_rng(2).uniform(size=(4, 8, 8)).astype("float32")
    params, state = model.init(KEY, x)
    graph = fnn.graph(model, LOSS, params, state, (x, LABELS), key=KEY)
    layers = [node.name for node in graph.nodes.values() if node.kind == "layer"]
    assert layers == [row.path for row in fnn.summary(model, x).rows]
    (value, _), grads = fnn.value_and_grad(model, LOSS)(params, state, (x, LABELS), key=KEY)
    close(graph.nodes[graph.root].value, value)
    for path, leaf in jax.tree.leaves_with_path(grads):
        node = graph.nodes[jax.tree_util.keystr(path, simple=True, separator="/")]
        close(node.gradient, leaf)
        assert node.agrees


def negative_log_likelihood(x, w, t):
    return -jnp.sum(t * jax.nn.log_softmax(x @ w)) / len(x)


def picked(x, w, labels):
    return -jnp.mean(jax.nn.log_softmax(x @ w)[jnp.arange(len(x)), labels])


def in_two(x, w, t):
    return -jnp.sum(t * jnp.log(jax.jit(jax.nn.softmax)(x @ w))) / len(x)


WEIGHT = np.random.default_rng(1).normal(size=(3, 2)).astype("float32")


@pytest.mark.parametrize(
    ("function", "target"),
    [
        (negative_log_likelihood, np.eye(2, dtype="float32")[LABELS]),
        (in_two, np.eye(2, dtype="float32")[LABELS]),
        (picked, LABELS),
    ],
)
def test_log_softmax_and_its_loss_are_one_node_unless_operations_are_asked_for(function, target):
    graph = fnn.graph(function, X, WEIGHT, target)
    labels = [node.label for node in graph.nodes.values()]
    assert labels == ["x", "w", "@", list(graph.nodes)[3], "softmax + NLL"]
    close(graph.nodes["@"].gradient, (jax.nn.softmax(X @ WEIGHT) - np.eye(2)[LABELS]) / len(X))
    close(graph.nodes["w"].gradient, jax.grad(function, 1)(X, WEIGHT, target))


def test_operations_leave_log_softmax_apart_from_its_loss():
    target = np.eye(2, dtype="float32")[LABELS]
    apart = fnn.graph(negative_log_likelihood, X, WEIGHT, target, detail="operations")
    assert "log_softmax" in [node.label for node in apart.nodes.values()]


def test_a_key_is_a_leaf_without_gradient():
    def masked(x, key):
        return jnp.sum(x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype))

    graph = fnn.graph(masked, X, KEY)
    assert graph.nodes["key"].gradient is None
    kept = jax.random.bernoulli(KEY, 0.5, X.shape)
    close(graph.nodes["x"].gradient, kept)


def test_a_log_softmax_that_is_read_elsewhere_stays_apart():
    def with_entropy(z):
        log_p = jax.nn.log_softmax(z)
        return -jnp.sum(log_p * z) + jnp.sum(log_p)

    labels = [node.label for node in fnn.graph(with_entropy, X[0]).nodes.values()]
    assert "log_softmax" in labels
    assert "softmax + NLL" not in labels


def test_constants_are_numbers_beside_the_operation_or_leaves():
    graph = fnn.graph(lambda x: jnp.sum((2.0 / x) * np.float32([1, 2])), X[0, :2])
    assert [node.label for node in graph.nodes.values()] == ["x", "2 ÷", "constant", "×", "Σ"]
    assert graph.nodes["constant"].kind == "constant"
    assert graph.nodes["constant"].gradient is None
    np.testing.assert_array_equal(graph.nodes["constant"].value, [1, 2])


def test_a_large_function_is_folded_to_its_calls_and_says_so():
    part = jax.jit(lambda x: functools.reduce(lambda y, _: jnp.tanh(y) * x, range(12), x))
    part.__name__ = "part"
    graph = fnn.graph(lambda x: part(x) + part(x) + part(x), 0.5)
    assert graph.note == "calls and loops are folded"
    assert len(graph.nodes) == 6
    close(graph.nodes["x"].gradient, 3 * jax.grad(lambda x: part(x))(0.5))


def test_operations_of_a_large_model_are_folded_to_layers_and_it_says_so():
    model = fnn.serial(*[fnn.dense(3), fnn.softplus()] * 12)
    params, state = model.init(KEY, X)
    run = model, fnn.losses.squared_error(), params, state, (X, X)
    graph = fnn.graph(*run, detail="operations")
    assert graph.note == "operations are folded to layers"
    assert sum(node.kind == "layer" for node in graph.nodes.values()) == 24


def test_frames_go_forwards_and_then_backwards_and_calculate():
    graph = fnn.graph(lambda w, x: w * x + w, 2.0, 3.0)
    frames = graph.frames()
    names = list(graph.nodes)
    assert [frame.node for frame in frames] == names + names[::-1]
    assert [frame.way for frame in frames] == ["forward"] * 4 + ["backward"] * 4
    assert frames[2].text == "[×] = w × x = 2 × 3 = 6"
    # The branch that adds is in the calculation.
    assert frames[-1].text == "gradient of w = 3 · 1 (through [×]) + 1 · 1 (through [+]) = 4"


def mistakes(graph):
    """Right answers for a branching number, and wrong ones with what is said of each."""
    right = float(graph.nodes["w"].gradient)
    return {
        right: "right",
        right * 1.004: "right",
        -right: "wrong: the sign is turned round",
        2 * right: "wrong: factor 2: it is twice the right one",
        right / 2: "wrong: factor 2: it is half the right one",
        float(graph.nodes["w"].value): "wrong: that is the value, not the gradient",
        right - 0.25: "wrong: what comes back from [−] is not added",
        123.0: "wrong",
    }


def test_answers_are_right_or_named_by_their_mistake():
    graph = fnn.graph(lambda w, x: w * x - 0.25 * (1 - w), 7.0, 3.0)
    assert {n.name for n in graph.nodes.values()} >= {"w", "x", "×", "1 −"}
    exercise = graph.blank(["w"])
    said = {}
    for answer in mistakes(graph):
        (mark,) = exercise.check({"w": answer}).marks
        said[answer] = mark.text.replace("1 −", "[−]")
        assert mark.right == (mark.text == "right")
    assert said == mistakes(graph)


def test_answers_that_are_arrays_are_told_apart_too():
    graph = fnn.graph(lambda x, w: jnp.sum(jnp.tanh(x @ w) ** 2), X[:3], X[1:])
    right = graph.nodes["w"].gradient
    exercise = graph.blank(["w"])
    answers = {
        "right": right,
        "wrong: transposed": right.T,
        "wrong: shape (3, 1), where (3, 3) is asked for": right[:, :1],
        "wrong: factor 3": 3 * right,
        "wrong: that is the value, not the gradient": graph.nodes["w"].value,
        "wrong: not a number": "three",
    }
    for text, answer in answers.items():
        (mark,) = exercise.check({"w": answer}).marks
        assert mark.text == text


def test_an_exercise_without_answers_is_not_right_and_with_the_solution_it_is():
    graph = fnn.graph(neuron, **NEURON)
    exercise = graph.blank(values=["σ"])
    assert not exercise.check().right
    assert {mark.text for mark in exercise.check().marks} == {"not answered"}
    solution = {name: graph.nodes[name].gradient for name in exercise.gradients}
    marks = exercise.check(solution, {"σ": graph.nodes["σ"].value})
    assert marks.right
    assert len(marks.marks) == len(graph.nodes)
    assert str(exercise).count("?") == len(graph.nodes)


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_steps_show_values_forwards_and_then_gradients_backwards():
    graph = fnn.graph(lambda w, x: jnp.tanh(w * x), 0.5, 2.0)
    n = len(graph.nodes)
    numbers = {
        step: sum(map(bool, texts(plot.graph(graph, step=step)))) for step in range(2 * n + 1)
    }
    # A label for every node, one number more in every step, and derivatives with the gradients.
    behind = {node: n + n - list(graph.nodes).index(node) for node in graph.nodes}
    slopes = {
        step: sum(behind[edge.source] <= step for edge in graph.edges) for step in range(2 * n + 1)
    }
    assert numbers == {step: n + step + slopes[step] for step in range(2 * n + 1)}


def test_an_exercise_is_drawn_with_empty_boxes_and_no_derivatives():
    graph = fnn.graph(lambda w, x: jnp.tanh(w * x), 0.5, 2.0)
    drawn = texts(plot.graph(graph.blank(["w", "×"], values=["tanh"])))
    assert drawn.count("?") == 3
    assert sum(map(bool, drawn)) == 3 * len(graph.nodes)


def test_the_picture_of_every_model_has_its_nodes_and_a_legend_of_their_kinds():
    for name in MODELS:
        graph = drawn_up(name)[-1]
        figure = plot.graph(graph)
        drawn = texts(figure)
        assert all(node.label in drawn for node in graph.nodes.values())
        legend = {text.get_text() for text in figure.legends[0].texts}
        assert {node.kind for node in graph.nodes.values()} <= legend
        assert figure.get_label() == graph.describe()


def test_images_and_weights_that_read_images_are_drawn_small():
    x = np.random.default_rng(0).uniform(size=(2, 64)).astype("float32")
    model = fnn.serial(fnn.dense(64), fnn.dense(2))
    params, state = model.init(KEY, x)
    graph = fnn.graph(model, LOSS, params, state, (x, LABELS[:2]))
    # Value and gradient of the image and of the weights that read it, not of those behind.
    images = plot.graph(graph).axes[0].images
    assert len(images) == 4
    shades = {image.get_array().shape for image in images}
    assert shades == {(8, 8, 4), (4 * 9 - 1, 4 * 9 - 1, 4)}


@pytest.mark.parametrize(
    ("shape", "kind", "size"),
    [
        ((2, 8, 6, 3), "layer", (2 * 9 - 1, 2 * 7 - 1)),
        ((3, 3, 2, 5), "parameter", (2 * 4 - 1, 3 * 4 - 1)),
        ((1, 1, 2, 5), "parameter", None),
        ((2, 63), "input", None),
        ((2, 8, 8), "input", (8, 8)),
        ((2, 8, 8), "layer", None),
        ((64, 4), "parameter", None),
        ((4, 4), "layer", None),
    ],
)
def test_an_array_is_an_image_where_its_axes_say_so(shape, kind, size):
    found = thumbnail(np.ones(shape, "float32"), kind)
    assert (None if found is None else found.shape[:2]) == size


def test_the_layout_of_a_graph_is_the_same_in_every_process():
    code = (
        "import fnn; from fnn.plot.graph import _places;"
        "print(_places(fnn.graph(lambda a, b, c, d: (a * b + c * d) * (a + d), 1., 2., 3., 4.)))"
    )
    places = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(places) == 1


def test_a_page_steps_through_one_picture_and_needs_no_network(tmp_path):
    graph = fnn.graph(lambda w, x: jnp.tanh(w * x), 0.5, 2.0)
    plot.graph_page(graph, tmp_path / "page.html", title="A & B")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 1
    assert "A &amp; B" in page
    assert "src=" not in page
    assert "<link" not in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["texts"][1:] == [frame.text for frame in graph.frames()]
    # Every part is in the picture; values come in steps 1 to n, gradients up to 2 n.
    assert all(f'id="{part}"' in page for part in data["shown"])
    assert all(f'id="node-{i}"' in page for i in range(len(graph.nodes)))
    n = len(graph.nodes)
    assert sorted(data["shown"].values())[: n + 1] == [*range(1, n + 1), n + 1]
    plot.graph_page(graph, tmp_path / "again.html", title="A & B")
    assert (tmp_path / "again.html").read_text() == page


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
        "blank",
        lambda: fnn.graph(lambda x: x * x, 2.0).blank(["y"]),
        "",
        "gradients of nodes of 'x', '×'",
        "'y'",
    ),
    Bad(
        "blank-text",
        lambda: fnn.graph(lambda x: x, 2.0).blank(3),
        "",
        "gradients of names, several of them",
        "3",
    ),
    Bad(
        "answer",
        lambda: fnn.graph(lambda x: x * x, 2.0).blank(["x"]).check({"y": 1}),
        "",
        "gradients of 'x'",
        "'y'",
    ),
    Bad(
        "tolerance",
        lambda: fnn.graph(lambda x: x * x, 2.0).blank(["x"]).check(tolerance=2),
        "",
        r"tolerance in \(0, 1\)",
        "2",
    ),
    Bad("page", lambda: plot.graph_page(3, "x.html"), "plot.graph_page", "a Graph", "3"),
    Bad("not-a-graph", lambda: plot.graph(3), "plot.graph", "a Graph", "3"),
]


@parametrize(BAD)
def test_bad_input_is_refused(bad):
    assert_complains(bad, bad.call)
