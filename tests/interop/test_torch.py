"""Agreement with PyTorch in float64, outputs and gradients, wherever it has the same layer."""

from __future__ import annotations

import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from fnn._core.tree import combine, inexact_leaves
from fnn.lab.check import normal_like
from tests import cases, twins
from tests.layers.test_laws import RUN_KEY, assert_close, inputs, longest, widen
from tests.losses.test_laws import prediction
from tests.twins.twin import LossTwin, Twin

ALL = [
    twin
    for module in pkgutil.iter_modules(twins.__path__)
    for twin in getattr(importlib.import_module(f"tests.twins.{module.name}"), "TWINS", [])
]
LAYERS = {case.name: case for case in cases.LAYERS}
LOSSES = {case.name: case for case in cases.LOSSES}
layer_twins = pytest.mark.parametrize(
    ("twin", "train"),
    [
        pytest.param(twin, train, id=f"{twin.case}-{'train' if train else 'eval'}")
        for twin in ALL
        if isinstance(twin, Twin)
        for train in twin.train
    ],
)
loss_twins = pytest.mark.parametrize(
    "twin", [twin for twin in ALL if isinstance(twin, LossTwin)], ids=lambda twin: twin.case
)


def tensors(tree):
    """Turn arrays into tensors: those of floating numbers take part in gradients."""

    def convert(a):
        tensor = torch.from_numpy(np.array(a))
        if tensor.dtype == torch.int32:
            return tensor.long()
        return tensor.requires_grad_() if tensor.is_floating_point() else tensor

    return jax.tree.map(convert, tree)


def arrays(tree):
    return jax.tree.map(lambda tensor: jnp.asarray(tensor.detach().numpy()), tree)


def slopes(tree):
    """The gradients that PyTorch left in its tensors: zero where it had none to give."""
    return jax.tree.map(
        lambda t: jnp.asarray((torch.zeros_like(t) if t.grad is None else t.grad).numpy()), tree
    )


def floating_tensors(tree):
    return jax.tree.map(lambda t: t if t.is_floating_point() else None, tree)


def shaken(module, x):
    """The module with random weights away from where they start, variances positive."""
    torch.manual_seed(0)
    made = module(x).double()
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.randn_like(tensor))
        for name, tensor in made.named_buffers():
            if name.endswith("var"):
                tensor.abs_()
    return made


def beside_layer(twin, train):
    """What a layer and its twin give: pairs of outputs and gradients, the terms of their sums."""
    case = LAYERS[twin.case]
    with jax.enable_x64(True):
        layer, x = case.make(), inputs(case, dtype="float64")
        module = shaken(twin.module, jax.tree.map(np.asarray, x)).train(train)
        weights = {name: jnp.asarray(t.numpy()) for name, t in module.state_dict().items()}
        own = {name: weights[name] for name, _ in module.named_parameters()}
        arguments = tensors(twin.into(x))
        theirs = twin.call(module, *arguments)

        params, state = twin.convert(layer, weights)
        forward = jax.jit(functools.partial(layer.forward, key=RUN_KEY, train=train))
        y, _, residuals = forward(params, state, x)
        out, back_through_out = jax.vjp(lambda y_: twin.out(combine(y_, y)), inexact_leaves(y))

        # The transposes of what maps theirs to ours carry the gradients back and forth.
        dout = normal_like(jax.random.key(1), out)
        products = jax.tree.map(lambda t, d: (t * tensors(d)).sum(), theirs, dout)
        sum(jax.tree.leaves(products)).backward()
        dparams, dx = jax.jit(layer.backward)(params, residuals, back_through_out(dout)[0])
        _, to_theirs = jax.vjp(lambda own: twin.convert(layer, weights | own)[0], own)
        _, to_ours = jax.vjp(
            lambda x_: inexact_leaves(twin.into(combine(x_, x))), inexact_leaves(x)
        )
        pairs = [
            (out, arrays(theirs)),
            (to_theirs(dparams)[0], slopes(dict(module.named_parameters()))),
            (dx, to_ours(slopes(floating_tensors(arguments)))[0]),
        ]
        return pairs, longest(params, x, y)


@layer_twins
def test_layer_agrees_with_its_twin(twin, train):
    pairs, terms = beside_layer(twin, train)
    for ours, theirs in pairs:
        assert_close(ours, theirs, "float64", terms)


def beside_loss(twin):
    """The same of a loss: pairs of values and gradients, the terms of their sums."""
    case = LOSSES[twin.case]
    with jax.enable_x64(True):
        y = prediction(case, dtype="float64")
        loss, theirs, target = case.make(), tensors(y), tensors(widen(case.target))
        expected = twin.function(theirs, target)
        values, residuals = loss.forward(y, widen(case.target))
        dvalues = normal_like(jax.random.key(1), values)
        (expected * tensors(dvalues)).sum().backward()
        dy = loss.backward(residuals, dvalues)
        pairs = [(values, arrays(expected)), (dy, slopes(floating_tensors(theirs)))]
        return pairs, longest(y)


@loss_twins
def test_loss_agrees_with_its_twin(twin):
    pairs, terms = beside_loss(twin)
    for ours, theirs in pairs:
        assert_close(ours, theirs, "float64", terms)
