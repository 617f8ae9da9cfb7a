"""Every entry of a state_dict is read, or refused by its name."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import fnn
from tests.layers.test_laws import assert_close

X, STEPS = jnp.ones((2, 4)), jnp.ones((1, 3, 4))
TOKENS = np.array([[1, 2, 6]], "int32")
LINEAR = nn.Linear(4, 2).state_dict()
LORA = {**LINEAR, "lora_A": torch.ones(1, 4), "lora_B": torch.ones(2, 1)}
STACK = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).state_dict()


class Tied(nn.Module):
    """A model of tokens whose last weight is that of its first layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


def cast(dtype):
    return {name: tensor.to(dtype) for name, tensor in LINEAR.items()}


# A layer, a state_dict, the input, what the message says.
LEFT_OVER = {
    "statistics of a norm that has none": (
        fnn.layer_norm(), nn.BatchNorm1d(4).state_dict(), X, "none for running_mean, running_var",
    ),
    "statistics of an instance norm": (
        fnn.instance_norm(),
        nn.InstanceNorm1d(4, affine=True, track_running_stats=True).state_dict(),
        STEPS,
        "none for running_mean, running_var",
    ),
    "statistics for a batch norm without": (
        fnn.batch_norm(track_running_stats=False), nn.BatchNorm1d(4).state_dict(), X, "'1/mean'",
    ),
    "no statistics for a batch norm": (
        fnn.batch_norm(), nn.LayerNorm(4).state_dict(), X, "'1/mean'",
    ),
    "entries of a buffer": (fnn.dense(2), LORA, X, "none for lora_A, lora_B"),
    "biases of keys and values": (
        fnn.attention(2), nn.MultiheadAttention(4, 2, add_bias_kv=True).state_dict(), STEPS,
        "none for bias_k, bias_v",
    ),
    "a module": (fnn.dense(4), STACK, X, "a layer for every module .* none for 1"),
    "a projection": (
        fnn.lstm(6), nn.LSTM(4, 6, proj_size=3).state_dict(), STEPS, "projection_weight",
    ),
    "a counter without statistics": (
        fnn.dense(2), {**LINEAR, "num_batches_tracked": torch.tensor(3)}, X,
        "none for num_batches_tracked",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OVER)
def test_an_entry_that_the_layer_has_no_place_for_is_refused(name):
    layer, weights, x, message = LEFT_OVER[name]
    with pytest.raises(fnn.InputError, match=message):
        fnn.from_torch(layer, weights, x)


def test_entries_and_modules_are_left_out_by_name():
    params, _ = fnn.from_torch(fnn.dense(2), LORA, X, ignore=["lora_A", "lora_B"])
    np.testing.assert_array_equal(params["weight"], LINEAR["weight"].numpy().T)
    params, _ = fnn.from_torch(fnn.dense(4), STACK, X, ignore=["1"])
    np.testing.assert_array_equal(params["bias"], STACK["0.bias"].numpy())


def test_the_counter_of_a_batch_norm_is_no_entry_to_account_for():
    module = nn.BatchNorm1d(4)
    module(torch.randn(3, 4))
    _, state = fnn.from_torch(fnn.batch_norm(), module.state_dict(), X)
    np.testing.assert_array_equal(state["mean"], module.running_mean.numpy())


def test_a_batch_norm_without_statistics_takes_a_module_without():
    module = nn.BatchNorm1d(4, track_running_stats=False)
    params, state = fnn.from_torch(
        fnn.batch_norm(track_running_stats=False), module.state_dict(), X
    )
    assert (sorted(params), state) == (["scale", "shift"], ())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_tensors_keep_their_dtype_and_their_bits(dtype):
    weights = cast(getattr(torch, dtype))
    params, _ = fnn.from_torch(fnn.dense(2), weights, X)
    assert params["weight"].dtype == dtype
    # Float32 holds each of the three.
    expected = weights["weight"].float().numpy().T
    np.testing.assert_array_equal(np.asarray(params["weight"], "float32"), expected)


def test_running_statistics_of_half_precision_become_as_wide_as_the_layer_keeps_them():
    weights = nn.BatchNorm1d(4).bfloat16().state_dict()
    params, state = fnn.from_torch(fnn.batch_norm(), weights, X.astype("bfloat16"))
    assert params["scale"].dtype == "bfloat16"
    assert {leaf.dtype.name for leaf in state.values()} == {"float32"}


def test_arrays_of_another_byte_order_are_converted():
    weights = {"weight": np.arange(8, dtype=">f4").reshape(2, 4)}
    params, _ = fnn.from_torch(fnn.dense(2, bias=False), weights, X)
    np.testing.assert_array_equal(params["weight"], np.arange(8).reshape(2, 4).T)


REFUSED = {
    "complex": (cast(torch.complex64), "floating values .* got complex64"),
    "quantized": (cast(torch.int8), "floating values .* got int8"),
    "without storage": (
        {name: t.to("meta") for name, t in LINEAR.items()}, "dense array .* on meta",
    ),
    "sparse": (
        {name: t.to_sparse() for name, t in LINEAR.items()}, "dense array .*sparse_coo",
    ),
    "text": ({"weight": "a"}, "dense array of numbers for 'weight', got a str"),
    "masked": ({"weight": np.ma.ones((2, 4))}, "dense array .* MaskedArray"),
    "too large": ({"weight": np.full((2, 4), 1e300)}, r"within float32, got 1e\+300"),
    "a vector": ({"weight": np.ones(4)}, "to fill"),
    "none": ({}, "a module for every layer"),
    "a module": (nn.Linear(4, 2), "a state_dict.* got Linear"),
    "a list": ([1], "a state_dict.* got list"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_dictionary_of_dense_floating_arrays_is_refused_in_words(name):
    weights, message = REFUSED[name]
    layer = fnn.dense(2, bias=isinstance(weights, dict) and "bias" in weights)
    with pytest.raises(fnn.InputError, match=message):
        fnn.from_torch(layer, weights, X)


@pytest.mark.parametrize(
    ("layer", "weights", "x"),
    [
        (fnn.conv(2, 3), {"weight": np.ones(3), "bias": np.ones(2)}, jnp.ones((1, 4, 4, 2))),
        (
            fnn.attention(2),
            {"in_proj_weight": np.ones((7, 4)), "out_proj.weight": np.ones((4, 4))},
            STEPS,
        ),
    ],
)
def test_entries_that_no_such_module_has_are_refused_with_their_shapes(layer, weights, x):
    with pytest.raises(fnn.InputError, match="got entries of shapes"):
        fnn.from_torch(layer, weights, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": ["lora_C"]}, "entries that there are, got lora_C"),
        ({"ignore": "lora_A"}, "ignore= of names, several of them, got 'lora_A'"),
        ({"names": 3}, "names= of modules by paths of layers, got 3"),
        ({"names": {"": "fc.{}"}}, r"names of modules in names=.* got 'fc\.\{\}'"),
        ({"names": {"": "fc"}}, "a module 'fc'"),
        ({"names": {"": "", "1": "fc"}, "ignore": ["lora_A", "lora_B"]}, r"layers with .*\['1'\]"),
    ],
)
def test_names_that_do_not_fit_are_refused(options, message):
    with pytest.raises(fnn.InputError, match=message):
        fnn.from_torch(fnn.dense(2), LORA, X, **options)


def test_tied_weights_go_to_two_layers_or_to_one_that_has_them_alone():
    weights = Tied().state_dict()
    both = fnn.serial(fnn.embedding(7, 4), fnn.dense(7, bias=False))
    params, _ = fnn.from_torch(both, weights, TOKENS)
    np.testing.assert_array_equal(params[0]["weight"], params[1]["weight"].T)
    alone, _ = fnn.from_torch(fnn.embedding(7, 4), weights, TOKENS)
    np.testing.assert_array_equal(alone["weight"], params[0]["weight"])
    # Saved once, they are found by name.
    del weights["head.weight"]
    by_name, _ = fnn.from_torch(both, weights, TOKENS, names={"0": "embed", "1": "embed"})
    np.testing.assert_array_equal(by_name[1]["weight"], params[1]["weight"])


def test_an_untied_copy_is_refused():
    weights = {name: t.clone() for name, t in Tied().state_dict().items()}
    with pytest.raises(fnn.InputError, match="none for head"):
        fnn.from_torch(fnn.embedding(7, 4), weights, TOKENS)


# PyTorch says that it takes a slower way.
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("both_ways", [False, True])
def test_a_projected_lstm_of_two_layers_gives_the_same_outputs(both_ways):
    torch.manual_seed(0)
    module = nn.LSTM(4, 6, 2, proj_size=3, bidirectional=both_ways, batch_first=True)
    x = np.random.default_rng(1).normal(size=(2, 5, 4)).astype("float32")
    expected = module(torch.from_numpy(x))[0].detach().numpy()
    layer = fnn.lstm(6, projection=3, layers=2, bidirectional=both_ways)
    params, state = fnn.from_torch(layer, module.state_dict(), x)
    assert_close(layer.apply(params, state, jnp.asarray(x))[0], expected, "float32", 5 * 4 * 6)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer_without_biases_gives_the_same_outputs(norm_first):
    torch.manual_seed(0)
    module = nn.TransformerEncoderLayer(
        4, 2, 8, bias=False, batch_first=True, norm_first=norm_first
    ).eval()
    x = np.random.default_rng(1).normal(size=(2, 5, 4)).astype("float32")
    expected = module(torch.from_numpy(x)).detach().numpy()
    block = fnn.transformer_block(2, hidden=8, activation="relu", bias=False, norm_first=norm_first)
    params, state = fnn.from_torch(block, module.state_dict(), x)
    assert_close(block.apply(params, state, jnp.asarray(x))[0], expected, "float32", 5 * 4 * 8)


def test_learned_positions_and_a_linear_head_take_an_embedding_and_a_linear():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(7, 4), nn.Embedding(3, 4)
            self.head = nn.Linear(4, 7)

        def forward(self, x):
            return self.head(self.tokens(x) + self.positions.weight)

    module = Positions()
    model = fnn.serial(fnn.embedding(7, 4), fnn.positional("learned", length=3), fnn.linear_head(7))
    params, state = fnn.from_torch(model, module.state_dict(), TOKENS)
    logits = model.apply(params, state, jnp.asarray(TOKENS))[0].logits
    assert_close(logits, module(torch.from_numpy(TOKENS)).detach().numpy(), "float32", 4 * 7)
