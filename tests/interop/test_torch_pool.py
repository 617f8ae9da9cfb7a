"""Pools with the windows, infinities and sizes of those of PyTorch."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import fnn


def in_pytorch(module, x):
    """Return y and dx of a module on x (B, H, W, C), for a dy of ones."""
    tensor = torch.from_numpy(np.moveaxis(x, -1, 1).copy()).requires_grad_(True)
    y = module(tensor)
    y.backward(torch.ones_like(y))
    return tuple(np.moveaxis(a.numpy(), 1, -1) for a in (y.detach(), tensor.grad))


def assert_as_in_pytorch(pairs, x):
    """Compare y and dx of layers with those of modules, NaN and infinities included."""

    @jax.jit
    def run(x):
        def both(layer):
            y, _, residuals = layer.forward((), (), x)
            return y, layer.backward((), residuals, jnp.ones_like(y))[1]

        return [both(layer) for layer, _ in pairs]

    for here, (layer, module) in zip(run(x), pairs, strict=True):
        for ours, theirs in zip(here, in_pytorch(module, x), strict=True):
            close = {"rtol": 1e-5, "atol": 1e-5, "equal_nan": True}
            np.testing.assert_allclose(ours, theirs, **close, err_msg=str(layer))


def test_a_pool_that_is_not_that_of_pytorch_is_seen():
    pair = fnn.average_pool(2, padding=1), torch.nn.AvgPool2d(2, None, 1)
    with pytest.raises(AssertionError, match="average_pool"):
        assert_as_in_pytorch([pair], np.ones((1, 4, 4, 1), "float32"))


@pytest.mark.parametrize("size", [3, 4, 6])
def test_ceil_mode_has_the_windows_of_pytorch(size):
    pairs = []
    for window, stride, padding in itertools.product((2, 3), (1, 2, 3), (0, 1)):
        here = {"stride": stride, "padding": padding, "ceil_mode": True}
        there = (window, stride, padding)
        pairs += [
            (fnn.max_pool(window, **here), torch.nn.MaxPool2d(*there, ceil_mode=True)),
            (
                fnn.average_pool(window, **here),
                torch.nn.AvgPool2d(*there, ceil_mode=True, count_include_pad=False),
            ),
            (
                fnn.average_pool(window, **here, count_padding=True),
                torch.nn.AvgPool2d(*there, ceil_mode=True),
            ),
        ]
    x = np.random.default_rng(size).normal(size=(1, size, size + 1, 1)).astype("float32")
    assert_as_in_pytorch(pairs, x)
    assert len({module(torch.ones(1, 1, size, size)).shape for _, module in pairs}) > 2


EXTREMES = {
    "minus-inf": [-np.inf],
    "nan": [-np.inf, np.nan],
    "all": [-np.inf, np.nan, 1, 2, np.inf],
}


@pytest.mark.parametrize("values", EXTREMES.values(), ids=EXTREMES)
def test_infinities_and_nan_are_pooled_as_in_pytorch(values):
    """Padding is never the largest, the last NaN is, and a mean sees nothing but its window."""
    x = np.random.default_rng(0).choice(values, (1, 7, 40, 2)).astype("float32")
    nn = torch.nn
    padded = {"padding": ((0, 0), (10, 10))}
    pairs = [
        (fnn.max_pool(3, stride=2, padding=1), nn.MaxPool2d(3, 2, 1)),
        (fnn.max_pool(2, padding=1, ceil_mode=True), nn.MaxPool2d(2, 2, 1, ceil_mode=True)),
        (fnn.max_pool((1, 20), **padded), nn.MaxPool2d((1, 20), None, (0, 10))),
        (fnn.adaptive_max_pool((3, 9)), nn.AdaptiveMaxPool2d((3, 9))),
        (fnn.adaptive_max_pool((9, 50)), nn.AdaptiveMaxPool2d((9, 50))),
        (fnn.adaptive_average_pool((3, 9)), nn.AdaptiveAvgPool2d((3, 9))),
        (fnn.adaptive_average_pool((9, 50)), nn.AdaptiveAvgPool2d((9, 50))),
    ]
    assert_as_in_pytorch(pairs, x)


@pytest.mark.parametrize(("size", "count"), [(7, 3), (3, 7), (5, 50), (50, 7)])
def test_adaptive_averages_are_those_of_pytorch_at_any_size(size, count):
    x = np.random.default_rng(0).normal(size=(2, size, count + 1, 3)).astype("float32")
    pair = fnn.adaptive_average_pool((count, 3)), torch.nn.AdaptiveAvgPool2d((count, 3))
    assert_as_in_pytorch([pair], x)
