"""Whole models of PyTorch, trained there and run here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import fnn
from tests.test_layers import assert_close


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
        fnn.max_pool(2),
        fnn.conv(6, (2, 3), stride=(2, 1), padding="VALID", groups=2, bias=False),
        fnn.relu(),
        fnn.conv_transpose(4, 3, stride=2, padding=1, output_padding=1),
        fnn.average_pool(2),
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
