"""Whole models of PyTorch, trained there and run here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import fnn
from tests.layers.test_laws import assert_close


def images(seed, count):
    return np.random.default_rng(seed).normal(size=(count, 1, 9, 8)).astype("float32")


def trained_network():
    """A small network for images, after a few steps of training."""
    torch.manual_seed(0)
    nn = torch.nn
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, (2, 3), stride=(2, 1), groups=2, bias=False),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    x, target = torch.from_numpy(images(1, 16)), torch.arange(16) % 3
    descent = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for _ in range(5):
        descent.zero_grad()
        nn.functional.cross_entropy(network(x), target).backward()
        descent.step()
    return network.eval()


@pytest.fixture(scope="module")
def network():
    return trained_network()


def same_network():
    return fnn.serial(
        fnn.conv(4, 3),
        fnn.batch_norm(),
        fnn.relu(),
        fnn.max_pool(2, padding="VALID"),
        fnn.conv(6, (2, 3), stride=(2, 1), padding="VALID", groups=2, bias=False),
        fnn.relu(),
        fnn.conv_transpose(4, 3, stride=2, padding=1, output_padding=1),
        fnn.average_pool(2, padding="VALID"),
        fnn.flatten(),
        fnn.dense(3),
    )


def test_a_network_for_images_trained_in_pytorch_gives_the_same_outputs_here(network):
    x = images(2, 5)
    expected = network(torch.from_numpy(x)).detach().numpy()
    here = jnp.asarray(np.moveaxis(x, 1, -1))
    model = same_network()
    params, state = fnn.from_torch(model, network.state_dict(), here)
    y, _ = jax.jit(model.apply)(params, state, here)
    terms = max(leaf.size for leaf in jax.tree.leaves(params))
    assert_close(y, expected, "float32", terms)
    by_forward, _, _ = model.forward(params, state, here)
    assert_close(by_forward, expected, "float32", terms)


def test_a_kernel_of_another_size_is_refused_by_name(network):
    model = fnn.serial(fnn.conv(4, 5), *fnn.children(same_network()).values())
    with pytest.raises(fnn.InputError, match=r"module '0' to fill .*\(5, 5, 1, 4\)"):
        fnn.from_torch(model, network.state_dict(), jnp.ones((1, 9, 8, 1)))


STEPS, CHANNELS, HIDDEN = 5, 8, 12


def moved(model):
    """A model, all of whose weights have moved from where they start."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return model.eval()


def encoder(norm_first, activation):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(
        CHANNELS, 2, HIDDEN, activation=activation, norm_first=norm_first, batch_first=True
    )
    norm = torch.nn.LayerNorm(CHANNELS) if norm_first else None
    return moved(torch.nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False))


def decoder(norm_first, activation):
    torch.manual_seed(0)
    layer = torch.nn.TransformerDecoderLayer(
        CHANNELS, 2, HIDDEN, activation=activation, norm_first=norm_first, batch_first=True
    )
    return moved(torch.nn.TransformerDecoder(layer, 2))


def same_encoder(norm_first, activation):
    block = fnn.transformer_block(
        2, hidden=HIDDEN, activation=activation, norm_first=norm_first, causal=True, dropout=0.1
    )
    last = (fnn.over_sequence(fnn.layer_norm()),) if norm_first else ()
    return fnn.serial(fnn.repeat(block, 2), *last)


@pytest.mark.parametrize(("norm_first", "activation"), [(False, "relu"), (True, "gelu")])
def test_a_transformer_of_pytorch_gives_the_same_outputs_here(norm_first, activation):
    model, lengths = encoder(norm_first, activation), np.array([STEPS, 3])
    x = np.random.default_rng(1).normal(size=(2, STEPS, CHANNELS)).astype("float32")
    there = np.arange(STEPS) < lengths[:, None]
    future = torch.nn.Transformer.generate_square_subsequent_mask(STEPS)
    expected = model(torch.from_numpy(x), future < 0, torch.from_numpy(~there)).detach().numpy()
    same, here = same_encoder(norm_first, activation), fnn.Sequence(jnp.asarray(x), lengths)
    params, state = fnn.from_torch(same, model.state_dict(), here)
    y, _ = jax.jit(same.apply)(params, state, here)
    assert_close(y.values[there], expected[there], "float32", STEPS * CHANNELS * HIDDEN)


@pytest.mark.parametrize(("norm_first", "activation"), [(False, "relu"), (True, "gelu")])
def test_a_decoder_of_pytorch_gives_the_same_outputs_here(norm_first, activation):
    model, lengths = decoder(norm_first, activation), np.array([7, 4])
    random = np.random.default_rng(1)
    x, memory = (random.normal(size=(2, n, CHANNELS)).astype("float32") for n in (STEPS, 7))
    unseen = torch.from_numpy(np.arange(7) >= lengths[:, None])
    future = torch.nn.Transformer.generate_square_subsequent_mask(STEPS)
    expected = model(
        *map(torch.from_numpy, (x, memory)), future < 0, memory_key_padding_mask=unseen
    )
    block = fnn.transformer_block(
        2, hidden=HIDDEN, activation=activation, norm_first=norm_first, causal=True, cross=True
    )
    same = fnn.repeat(block, 2)
    here = jnp.asarray(x), fnn.Sequence(jnp.asarray(memory), lengths)
    params, state = fnn.from_torch(same, model.state_dict(), here)
    (y, _), _ = jax.jit(same.apply)(params, state, here)
    assert_close(y, expected.detach().numpy(), "float32", STEPS * CHANNELS * HIDDEN)


def test_a_network_of_two_layers_takes_modules_in_order_or_by_name():
    shapes = {"0": (HIDDEN, CHANNELS), "2": (CHANNELS, HIDDEN)}
    weights = {f"{name}.weight": np.ones(shape, "float32") for name, shape in shapes.items()}
    weights["0.weight"] *= 2
    model, x = fnn.mlp(HIDDEN, bias=False), jnp.ones((1, CHANNELS))
    in_order, _ = fnn.from_torch(model, weights, x)
    by_name, _ = fnn.from_torch(model, weights, x, names={"down": "2", "up": "0"})
    for params in (in_order, by_name):
        assert (params["up"]["weight"] == 2).all()
        assert (params["down"]["weight"] == 1).all()


def test_a_transformer_of_other_layers_is_refused_by_name():
    block = fnn.transformer_block(2, hidden=HIDDEN, norm_first=False, bias=False)
    with pytest.raises(fnn.InputError, match=r"module 'self_attn' to fill"):
        fnn.from_torch(
            block, encoder(False, "relu").layers[0].state_dict(), jnp.ones((1, STEPS, CHANNELS))
        )
