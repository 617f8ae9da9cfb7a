"""Running statistics of batch norms estimated anew: for weights that no batch was run with."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax

from fnn._core import check
from fnn._core.arrays import require_arrays
from fnn._core.errors import InputError, describe, entry
from fnn._core.place import check_place
from fnn._core.types import Input, Key, Number, Params, Scalar, State
from fnn.combinators._parts import fold
from fnn.combinators.eval_mode import eval_mode
from fnn.combinators.walk import map_layers
from fnn.layer import Layer, require_layer, use_auto
from fnn.layers.norm.batch_norm import batch_norm


@entry
def update_batch_norm(
    model: Layer, params: Params, state: State, batches: Iterable[Input], *, key: Key = None
) -> State:
    """Estimate the running statistics of all batch norms of a model anew, and return the state.

    Averaged weights (`fnn.optim.ema` and its like) never saw a batch: their running statistics are
    those of other weights. Mean and var become the means over the batches, each weighed by its
    number of examples; what was there before is forgotten. The model runs in training mode, and
    other layers move their states as they do there; what is in `fnn.eval_mode` keeps its state.

    Args:
        model: the model, with a batch norm that has running statistics.
        params: its parameters, such as averaged ones.
        state: its state.
        batches: the inputs x of the training set, batch after batch.
        key: what dropout and other layers of chance draw from, where there are such.
    Raises:    InputError for a model without such a batch norm, for one whose batch norms are all
        in `fnn.eval_mode`, for parameters and state of another model, and for no batches.
    Source:    Izmailov et al. 2018, arXiv:1803.05407, section 3.2.

    >>> import fnn, jax.numpy as jnp
    >>> model, x = fnn.batch_norm(), jnp.array([[1.0], [3.0], [5.0], [7.0]])
    >>> params, state = model.init(jax.random.key(0), x)
    >>> update_batch_norm(model, params, state, [x[:2], x[2:]])
    {'mean': Array([4.], dtype=float32), 'var': Array([1.], dtype=float32)}
    """
    require_layer(model, "a model")
    if not _has_statistics(model):
        raise InputError("a model with running statistics", describe(model), "leave it as it is")
    if not _has_statistics(model, frozen=False):
        raise InputError(
            "a batch norm outside of fnn.eval_mode",
            "those in it alone, which keep their statistics",
            "take fnn.eval_mode out of the model, or leave its state as it is",
        )
    inputs = check.several(batches, "batches", "pass a list of inputs, or a generator")
    seen = 0
    for i, batch in enumerate(inputs):
        x = require_arrays(batch, "batches")
        check_place(model, params, state, x)
        examples = jax.tree.leaves(x)[0].shape[0]
        share = seen / max(seen + examples, 1)
        state = _step(model, params, state, x, fold(key, i), share)
        seen += examples
    if not seen:
        raise InputError("one batch or more", "none", "pass the inputs of the training set")
    return state


@functools.partial(jax.jit, static_argnums=0)
def _step(model: Layer, params: Params, state: State, x: Input, key: Key, share: Scalar) -> State:
    """Run one batch, of which the state so far keeps a share."""
    moving = map_layers(functools.partial(_with_momentum, share), model)
    return moving.apply(params, state, x, key=key, train=True)[1]


def _with_momentum(momentum: Number, path: str, layer: Layer) -> Layer:
    """Return a batch norm with another momentum, and other layers as they are."""
    if layer.manual is not None:
        return use_auto(map_layers(functools.partial(_with_momentum, momentum), layer.manual, path))
    if not _is_tracked(layer) or layer.call is None:
        return layer
    return batch_norm(**{**layer.call.arguments(), "momentum": momentum})


def _has_statistics(model: Layer, *, frozen: bool = True) -> bool:
    """Say whether there is a batch norm with running statistics, those that are `frozen` too."""
    if not frozen and model.call is not None and model.call.make is eval_mode:
        return False
    inside = [*model.children.values(), *([] if model.manual is None else [model.manual])]
    return _is_tracked(model) or any(_has_statistics(layer, frozen=frozen) for layer in inside)


def _is_tracked(layer: Layer) -> bool:
    """Say whether a layer is a batch norm with running statistics."""
    call = layer.call
    return call is not None and call.make is batch_norm and call.arguments()["track_running_stats"]
