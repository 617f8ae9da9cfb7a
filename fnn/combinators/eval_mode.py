"""Evaluation mode inside of a model in training: frozen batch norms for fine-tuning."""

from __future__ import annotations

import dataclasses

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.types import Input, Key, Output, Params, Residuals, State
from fnn.layer import Layer, require_layer, wrapping


@constructor
def eval_mode(layer: Layer, /) -> Layer:
    """Evaluation mode: a layer that is always out of training, also where the model around trains.

    A batch norm in it is frozen: it normalizes by its running statistics, and leaves them as they
    are; dropout lets all pass. The parameters are trained as those of any layer, by the gradient
    out of training; what is not to move is for `fnn.optim.freeze`. Parameters and state are those
    of the layer, so that weights are loaded into both alike. To fine-tune a trained network below
    a new head, ``fnn.serial(fnn.eval_mode(trunk), head)``; to freeze the batch norms of a model and
    leave the rest as it is, wrap those alone::

        def frozen(path, layer):
            return fnn.eval_mode(layer) if layer.name == "batch_norm" else layer

        model = fnn.map_layers(frozen, model)

    Forward:   y = f(x) with train=False
    Backward:  dx = J^T dy, of f with train=False

    Args:
        layer: f, any layer or model.
    Shapes:    those of the layer
    Saves:     what the layer saves out of training
    Raises:    InputError for what is no layer.

    >>> import fnn, jax, jax.numpy as jnp
    >>> norm, x = eval_mode(fnn.batch_norm(epsilon=0.0)), jnp.array([[3.0], [5.0]])
    >>> params, state = norm.init(jax.random.key(0), x)
    >>> y, after = norm.apply(params, state, x, train=True)
    >>> y.tolist(), after["mean"].tolist()
    ([[3.0], [5.0]], [0.0])

    """
    require_layer(layer)

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        check.flag(train, "train")
        return layer.apply(params, state, x, key=key)

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        check.flag(train, "train")
        return layer.forward(params, state, x, key=key)

    functions = layer.init, apply, forward, layer.backward
    wrapped = wrapping(eval_mode, layer, functions, (layer.prefill, layer.decode))
    return dataclasses.replace(wrapped, derivation=layer.derivation)
