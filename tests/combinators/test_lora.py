"""Low-rank adaptation: starts as the model, learns beside frozen weights, merges back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.layers.test_laws import assert_close

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (16, 6))
TARGET = jax.random.normal(jax.random.key(2), (16, 4))
LOSS = fnn.losses.squared_error()


def base():
    return fnn.serial(fnn.dense(8), fnn.tanh(), fnn.dense(4))


def adapted(**options):
    return fnn.lora(base(), 2, ["*/weight"], **options)


@pytest.fixture(scope="module")
def trained():
    """Parameters of a model, and of the adapted one after steps that leave them frozen."""
    given, given_state = base().init(jax.random.key(3), X)
    optimizer = fnn.optim.freeze(fnn.optim.adam(0.05), "base/*")
    begin = fnn.init_train_state(adapted(scale=0.7), optimizer, X, key=KEY)
    begin = begin._replace(params=begin.params | {"base": given}, state={"base": given_state})
    start = adapted(scale=0.7).apply(begin.params, begin.state, X)[0]
    np.testing.assert_array_equal(start, base().apply(given, given_state, X)[0])
    step = jax.jit(fnn.train_step(adapted(scale=0.7), LOSS, optimizer))
    after, losses = begin, []
    for _ in range(20):
        after, metrics = step(after, (X, TARGET))
        losses.append(float(metrics["loss"]))
    return given, after, losses


def test_only_the_adapters_learn(trained):
    given, after, losses = trained
    for a, b in zip(jax.tree.leaves(after.params["base"]), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(a, b)
    assert losses[-1] < 0.9 * losses[0]


def test_merged_weights_are_those_of_the_model_alone(trained):
    given, after, _ = trained
    merged = fnn.merge_lora(after.params, scale=0.7)
    assert jax.tree.structure(merged) == jax.tree.structure(given)
    expected = adapted(scale=0.7).apply(after.params, after.state, X)[0]
    assert_close(base().apply(merged, after.state["base"], X)[0], expected, "float32", 8)
    assert float(jnp.abs(merged[0]["weight"] - given[0]["weight"]).max()) > 0.01


def test_every_copy_of_an_attention_has_adapters_of_its_own():
    block = fnn.transformer_block(2)
    model = fnn.lora(fnn.repeat(block, 3), 1, ["attention/*query/weight", "*value/weight"])
    params, _ = jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, 5, 4), "float32"))
    shapes = [adapter["a"].shape for adapter in params["adapters"].values()]
    assert shapes == [(3, 4, 1), (3, 4, 1)]


def test_a_summary_shows_the_layers_and_the_adapters():
    rows = {row.path: row for row in fnn.summary(adapted(), X).rows}
    assert rows["base/0"].parameters == 6 * 8 + 8
    assert rows[""].parameters == 2 * (6 + 8 + 8 + 4)


def test_activations_are_traced_through_it(trained):
    _, after, _ = trained
    model, run = adapted(scale=0.7), (after.params, after.state, (X, TARGET))
    trace = fnn.trace_activations(model, LOSS, *run, key=KEY)
    assert [row.path for row in trace.layers] == ["base/0", "base/1", "base/2"]


def init(rank, patterns):
    return lambda: fnn.lora(base(), rank, patterns).init(KEY, X)


@parametrize(
    [
        Bad("rank", lambda: fnn.lora(base(), 0), "lora", "rank of 1 or more", "0"),
        Bad("large", init(4, ["2/weight"]), "lora", "a rank below 4, for 2/weight .*", "4"),
        Bad("text", lambda: fnn.lora(base(), 1, "weight"), "lora", "patterns, several .*", ".*"),
        Bad("numbers", lambda: fnn.lora(base(), 1, [3]), "lora", "patterns of text", r"\[3\]"),
        Bad("none", init(1, ["head/*"]), "lora", "patterns of parameters that .*", "'head/.*'"),
        Bad("bias", init(1, ["*/bias"]), "lora", "patterns of matrices", r"0/bias of shape .*"),
        Bad(
            "scale",
            lambda: fnn.lora(base(), 1, scale=float("nan")),
            "lora",
            "scale of one finite number",
            "nan",
        ),
    ]
)
def test_what_cannot_be_adapted_is_refused(bad):
    assert_complains(bad, bad.call)
