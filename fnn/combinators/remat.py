"""Wrappers: combinators of one layer, which add nothing to the path of its parameters."""

from __future__ import annotations

from typing import Any

import jax

from fnn._core.description import constructor
from fnn._core.types import Key, PyTree
from fnn.layer import Layer, wrapping


@constructor
def remat(layer: Layer, /) -> Layer:
    """Rematerialization (gradient checkpointing): residuals recomputed from a layer's input.

    The same function and the same gradient for less memory and one more forward pass; both ways,
    by hand and (through `jax.checkpoint`) by autodiff. To save every n-th input of a deep stack
    (Chen et al. 2016, arXiv:1604.06174), wrap n layers: ``repeat(remat(repeat(layer, n)), times)``.
    `fnn.reversible` saves none. The residuals are ``{mode: (state, x,
    key)}``, the mode being ``"train"`` or ``"eval"``.

    >>> import fnn, jax, jax.numpy as jnp
    >>> deep = remat(fnn.serial(fnn.dense(8), fnn.gelu(), fnn.dense(8)))
    >>> params, state = deep.init(jax.random.key(0), jnp.ones((2, 8)))
    >>> y, state, residuals = deep.forward(params, state, jnp.ones((2, 8)))
    >>> [leaf.shape for leaf in jax.tree.leaves(residuals)]
    [(2, 8)]
    """

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        def plain(params: PyTree, state: PyTree, x: Any, key: Key) -> tuple[Any, PyTree]:
            return layer.apply(params, state, x, key=key, train=train)

        y_and_state: tuple[Any, PyTree] = jax.checkpoint(plain)(params, state, x, key)
        return y_and_state

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        y, new_state = layer.apply(params, state, x, key=key, train=train)
        return y, new_state, {"train" if train else "eval": (state, x, key)}

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        ((mode, saved),) = residuals.items()
        # The barrier ties the second forward pass to dy: without it XLA would find the two passes
        # equal, merge them, and keep what was meant to be forgotten.
        (state, x, key), dy = jax.lax.optimization_barrier((saved, dy))
        _, _, residuals = layer.forward(params, state, x, key=key, train=mode == "train")
        return layer.backward(params, residuals, dy)

    return wrapping(remat, layer, (layer.init, apply, forward, backward))
