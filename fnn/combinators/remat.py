"""Rematerialization: a layer that keeps its input alone."""

from __future__ import annotations

import functools

import jax

from fnn._core.description import constructor
from fnn._core.types import Cotangent, Input, Key, Output, Params, Residuals, State
from fnn.layer import Layer, require_layer, wrapping


@constructor
def remat(layer: Layer, /) -> Layer:
    """Rematerialization (gradient checkpointing): residuals recomputed from a layer's input.

    The same function and the same gradient for less memory and one more forward pass; both by hand
    and (through `jax.checkpoint`) by autodiff. To save every n-th input of a deep stack wrap n
    layers: ``repeat(remat(repeat(layer, n)), times)``. `fnn.reversible` saves none.

    Forward:   y = f(x)
    Backward:  forward again, then dx = J^T dy

    Args:
        layer: f, any layer or model.
    Shapes:    those of the layer
    Saves:     {mode: (state, x, key)}, the mode being "train" or "eval"
    Raises:    InputError for what is no layer.
    Source:    Chen et al. 2016, arXiv:1604.06174.

    >>> import fnn, jax, jax.numpy as jnp
    >>> deep = remat(fnn.serial(fnn.dense(8), fnn.gelu(), fnn.dense(8)))
    >>> params, state = deep.init(jax.random.key(0), jnp.ones((2, 8)))
    >>> y, state, residuals = deep.forward(params, state, jnp.ones((2, 8)))
    >>> [leaf.shape for leaf in jax.tree.leaves(residuals)]
    [(2, 8)]
    """
    require_layer(layer)

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        checkpointed = jax.checkpoint(functools.partial(_apply, layer, train))
        y_and_state: tuple[Output, State] = checkpointed(params, state, x, key)
        return y_and_state

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        y, new_state = layer.apply(params, state, x, key=key, train=train)
        return y, new_state, {"train" if train else "eval": (state, x, key)}

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        ((mode, saved),) = residuals.items()
        # The barrier ties the second forward pass to dy: without it XLA would find the two passes
        # equal, merge them, and keep what was meant to be forgotten.
        (state, x, key), dy = jax.lax.optimization_barrier((saved, dy))
        _, _, residuals = layer.forward(params, state, x, key=key, train=mode == "train")
        return layer.backward(params, residuals, dy)

    functions = layer.init, apply, forward, backward
    return wrapping(remat, layer, functions, (layer.prefill, layer.decode))


def _apply(
    layer: Layer, train: bool, params: Params, state: State, x: Input, key: Key
) -> tuple[Output, State]:
    """Apply a layer, as a function of arrays alone."""
    return layer.apply(params, state, x, key=key, train=train)
