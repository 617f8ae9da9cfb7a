"""The summary of a model, and taking it apart."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

import fnn
from tests.cases.compound import block

X = jax.ShapeDtypeStruct((4, 5), "float32")


def deep():
    return fnn.serial(
        first=fnn.dense(5),
        deep=fnn.repeat(fnn.remat(fnn.residual(block())), 3),
        both=fnn.serial(fnn.parallel(fnn.tanh(), fnn.dense(2)), fnn.concatenate()),
    )


def test_a_summary_counts_all_parameters_state_and_residuals():
    model = deep()
    summary = fnn.summary(model, X)
    params, state = model.init(jax.random.key(0), jnp.ones(X.shape))
    assert summary.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert summary.state_size == sum(leaf.size for leaf in jax.tree.leaves(state))
    paths = {row.path: row for row in summary.rows}
    assert paths["deep/0"].parameters == 3 * (5 * 5 + 5)
    # What remat keeps is its input, its running mean and var and a key, for each copy.
    assert paths["deep"].name == "repeat(remat(residual(serial)))"
    assert paths["deep"].residual_bytes == 3 * (4 * 5 * 4 + 2 * 5 * 4 + 8)
    assert paths["deep/0"].residual_bytes == 0
    assert paths["both/0/1"].output.shape == (4, 2)


def test_residuals_that_two_layers_keep_count_once():
    # relu keeps its output, which is the input that dense keeps.
    summary = fnn.summary(fnn.serial(fnn.relu(), fnn.dense(2)), X)
    assert [row.residual_bytes for row in summary.rows] == [4 * 5 * 4, 0]


def test_a_summary_on_a_mesh_says_how_every_parameter_lies_and_what_a_device_holds():
    x, mesh = (
        jax.ShapeDtypeStruct((4, 64), "float32"),
        jax.sharding.AbstractMesh((2, 4), ("a", "b")),
    )
    model = fnn.serial(fnn.dense(128), fnn.repeat(fnn.dense(128), 3), fnn.dense(2))
    rules = {"0/weight": PartitionSpec("a", "b"), "1/*": "full"}
    first, copies, last = fnn.summary(model, x, mesh=mesh, sharding=rules).rows
    assert first.layout == {"0/bias": PartitionSpec(), "0/weight": PartitionSpec("a", "b")}
    assert first.device_bytes == 4 * (128 + 64 * 128 // 8)
    # Of three biases of 128 entries less than 1024 are left, and stay whole.
    assert copies.device_bytes == 4 * (3 * 128 + 3 * 128 * 128 // 2)
    assert last.device_bytes == 4 * last.parameters
    printed = str(fnn.summary(model, x, mesh=mesh, sharding=rules)).splitlines()
    assert [line.split()[-3] for line in printed[1:4]] == ["b", "a", "-"]
    plain = fnn.summary(model, x)
    assert plain.rows[0].layout is None
    assert plain.device_bytes == 4 * plain.parameters
    with pytest.raises(fnn.InputError, match=r"a jax\.sharding\.AbstractMesh"):
        fnn.summary(model, x, mesh=3)


def test_a_layer_without_a_manual_gradient_is_marked():
    layer = fnn.autodiff(lambda key, x: ((), ()), lambda p, s, x, *, key=None, train=False: (x, s))
    assert "autodiff (auto)" in str(fnn.summary(fnn.serial(layer), X))


def test_a_summary_fits_80_columns():
    assert max(map(len, str(fnn.summary(deep(), X)).splitlines())) <= 80


def test_a_model_taken_apart_and_put_together_is_the_same():
    seen = []

    def keep(path, layer):
        seen.append(path)
        return layer

    assert fnn.map_layers(keep, deep()) == deep()
    assert seen == [
        "first", "deep/0", "deep/1", "deep/2", "deep/3", "both/0/0", "both/0/1", "both/1",
    ]  # fmt: skip


def test_a_printed_model_can_be_read_back():
    model = fnn.serial(fnn.dense(3, bias=False), fnn.residual(fnn.elu(1.5)), fnn.dropout(0.25))
    assert eval(repr(model), vars(fnn)) == model
