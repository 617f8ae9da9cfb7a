"""Weights of a PyTorch model for the same model in fnn."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.arrays import require_arrays
from fnn._core.errors import InputError, at, describe, entry
from fnn._core.types import Input, Output, Params, PyTree, State, Unchecked
from fnn.combinators.walk import join, part
from fnn.interop._order import Orders, name_of
from fnn.interop._state_dict import Entries, Modules
from fnn.interop._torch_layers import CONVERTERS
from fnn.lab.summary import layer_shapes
from fnn.layer import Layer, require_layer
from fnn.train.files._arrays_file import named_leaves

_RECURRENT = ("rnn", "lstm", "gru")
# Layers of a vector whose weights have an axis of its elements: for a dense layer the rows.
_OF_ROWS = ("dense", "linear_head", "swiglu", "geglu")
_OF_ELEMENTS = ("batch_norm", "layer_norm", "rms_norm", "prelu")


@entry
def from_torch(
    model: Layer,
    weights: Mapping[str, Unchecked],
    x: Input,
    *,
    names: Mapping[str, str] | None = None,
    ignore: Collection[str] = (),
) -> tuple[Params, State]:
    """Convert the ``state_dict()`` of a PyTorch model to parameters and state of an fnn model.

    The layers of `model` that have weights and the modules in `weights` are paired in their order,
    or by `names`. Every entry is read, or refused by its name, but for the counter of a batch norm
    and for tied weights, which may be read under one of their names. Values keep their dtype. A
    state that PyTorch does not keep is as `init` makes it.

    PyTorch keeps channels second: the rows of a `fnn.dense` behind a `fnn.flatten` of images are
    put in the order of channels that come last. Where it cannot be known which order PyTorch has,
    as behind a norm of channels that a model may have moved there and back, that is an error.

    The modules of a ``TransformerEncoderLayer`` or ``TransformerDecoderLayer`` go to a
    `fnn.transformer_block`, or to layers like its own in any order. Weights do not tell whether
    norms come first, nor which activation it is: what PyTorch makes by default is
    ``norm_first=False, activation="relu"``. Nor do they tell the number of heads. Those of a GPT-2
    go to ``fnn.transformer_block(heads, causal=True, activation="gelu_tanh")`` behind an embedding
    and learned positions, and its head to a `fnn.unembedding` that shares the embedding's weight.

    Args:
        model: the same model in fnn.
        weights: arrays or PyTorch tensors by their names, as ``state_dict()`` gives them.
        x: an example of the input, or its shape. Images are channels last here and second there;
            other arrays are the same in both.
        names: the name of the module for each path of a layer: ``{"0": "features.conv1", "3":
            "rnn.l1"}``, ``.l1`` being the second layer of a stacked LSTM; a ``fnn.lstm(width,
            layers=2)`` takes ``rnn.l0`` by that name, and the layer above it as well. The copies in
            a `fnn.repeat` take a module each, ``{}`` in its name being the number of the copy:
            ``{"1/norm": "layers.{}.norm1"}``.
        ignore: names of entries, or of modules, that are left out.
    Raises:    InputError where a module or an entry is missing or left over, a shape differs, a
        layer with weights has no counterpart in PyTorch, a tensor is no dense array of floating
        values, and where an order cannot be known.

    >>> import fnn
    >>> weights = {"fc.weight": jnp.zeros((2, 3)), "fc.bias": jnp.ones(2)}
    >>> model = fnn.serial(fnn.dense(2), fnn.tanh())
    >>> params, state = from_torch(model, weights, jnp.ones((1, 3)))
    >>> params[0]["weight"].shape, params[0]["bias"]
    ((3, 2), Array([1., 1.], dtype=float32))

    """
    require_layer(model)
    x = require_arrays(x, shapes=True)
    modules = Modules(weights, names, ignore)
    spec = jax.eval_shape(lambda x: x, x)
    like = jax.eval_shape(model.init, jax.random.key(0), spec)
    shapes = layer_shapes(model, like[0], like[1], spec)
    reader = _Reader(modules, shapes, Orders(model, shapes, spec))
    params, state = reader.read(model, like)
    modules.check_all_read(reader.entries)
    return params, state


class _Reader:
    """Reads a model layer by layer."""

    def __init__(
        self, modules: Modules, shapes: Mapping[str, tuple[Input, Output]], orders: Orders
    ):
        self.modules = modules
        self.shapes = shapes
        self.orders = orders
        self.entries: set[str] = set()

    def read(
        self,
        layer: Layer,
        like: tuple[Params, State],
        path: str = "",
        copy: tuple[int, ...] = (),
    ) -> tuple[Params, State]:
        """Return parameters and state like those of a layer, the copies in it one by one."""
        if layer.copies is None:
            return self.read_inside(layer, like, path, copy)
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), like)
        pairs = [self.read_inside(layer, one, path, (*copy, i)) for i in range(layer.copies)]
        params, state = jax.tree.map(lambda *a: jnp.stack(a), *pairs)
        return params, state

    def read_inside(
        self, layer: Layer, like: tuple[Params, State], path: str, copy: tuple[int, ...]
    ) -> tuple[Params, State]:
        """Return parameters and state of one copy of a layer, child by child."""
        if not layer.children:
            return self.read_one(layer.manual or layer, like, path, copy)
        pairs = {}
        for name, child in layer.children.items():
            with at(name):
                inside = part(like[0], name), part(like[1], name)
                pairs[name] = self.read(child, inside, join(path, name), copy)
        if "" in pairs:
            return pairs[""]
        params, state = zip(*pairs.values(), strict=True)
        if isinstance(like[0], dict):
            return dict(zip(pairs, params, strict=True)), dict(zip(pairs, state, strict=True))
        return params, state

    def read_one(
        self, layer: Layer, like: tuple[Params, State], path: str, copy: tuple[int, ...]
    ) -> tuple[Params, State]:
        """Return parameters and state of a layer that has no children."""
        x, _ = self.shapes[path]
        name = name_of(layer)
        if not jax.tree.leaves(like[0]):
            own, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
            if jax.tree.leaves(own):
                return self.read_tied(layer, own, like, path, copy)
        if not jax.tree.leaves(like if name in CONVERTERS else like[0]):
            # A state alone, as that of a layer that counts, is nothing that PyTorch would know.
            return layer.init(jax.random.key(0), x)
        if name not in CONVERTERS:
            raise InputError("layers that PyTorch has", describe(layer), "set its weights by hand")
        module, params, state = self.convert(layer, name, path, copy)
        if name == "prelu" and np.size(params["slope"]) == 1:  # PyTorch may share one slope
            params = {"slope": jnp.broadcast_to(params["slope"], like[0]["slope"].shape)}
        if jax.tree.leaves(like[1]) and not jax.tree.leaves(state) and name != "batch_norm":
            state = jax.tree.map(jnp.asarray, layer.init(jax.random.key(0), x)[1])
        _check_like(module, (params, state), like)
        # Running statistics are as wide as the layer keeps them.
        state = jax.tree.map(lambda a, spec: a.astype(spec.dtype), state, like[1])
        params, state = self.ordered(layer, (params, state), path, copy)
        return params, state

    def read_tied(
        self,
        layer: Layer,
        own: Params,
        like: tuple[Params, State],
        path: str,
        copy: tuple[int, ...],
    ) -> tuple[Params, State]:
        """Return what a layer has that uses the parameters of another: its state alone."""
        if not jax.tree.leaves(like[1]):
            stacked = name_of(layer) in _RECURRENT and layer.call is not None
            count = layer.call.arguments()["layers"] if stacked and layer.call else 1
            self.modules.take_tied(path, count, self.entries)
            return like
        read = set(self.entries)
        _, state = self.read_one(layer, (own, like[1]), path, copy)
        found = self.entries - read
        if not self.modules.is_tied(Entries({}, {name: name for name in found}), read):
            raise InputError(
                "a module that is tied to the one whose parameters the layer uses",
                ", ".join(sorted(found)),
                "name the module of each layer by names=",
            )
        return like[0], state

    def convert(
        self, layer: Layer, name: str, path: str, copy: tuple[int, ...]
    ) -> tuple[str, Params, State]:
        """Take the module of a layer, and return its name, parameters and state."""
        module, entries = self.modules.take(path, copy, name)
        if name in _RECURRENT and layer.call is not None:
            layers = layer.call.arguments()["layers"]
            entries = self.modules.take_stack(module, entries, layers)
        try:
            params, state = CONVERTERS[name](layer, entries)
        except KeyError as error:
            raise InputError(
                f"{layer}, which has {error}, for module {module!r}",
                f"a module of {', '.join(entries)}",
                "build the layer that the module is",
            ) from error
        except (TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"{layer} for module {module!r}",
                f"entries of shapes {_shapes(entries)}",
                "build the layer that the module is",
            ) from error
        self.entries |= entries.read
        return module, params, state

    def ordered(
        self, layer: Layer, found: tuple[Params, State], path: str, copy: tuple[int, ...]
    ) -> tuple[Params, State]:
        """Return weights in the order in which fnn has the elements of what the layer gets."""
        name, orders = name_of(layer), self.orders.vectors(path, copy)
        known = [order for order in orders if order is not None]
        moved = any((order != np.arange(order.size)).any() for order in known)
        movable = len(orders) == 1 and name in (*_OF_ROWS, *_OF_ELEMENTS)
        if (
            len(known) < len(orders)
            or (moved and not movable)
            or not self.orders.is_right(path, copy, layer)
        ):
            raise InputError(
                "an input whose elements PyTorch has in a known order",
                "one that was reshaped, or joined, or moved, before it came here",
                "convert the layers before it and behind it apart, and set its weights by hand",
            )
        if not moved:
            return found
        order = orders[0]
        if name in _OF_ROWS:
            params, state = found
            return params | {"weight": params["weight"][order]}, state
        params, state = jax.tree.map(lambda a: a[order], found)
        return params, state


def _check_like(module: str, found: PyTree, like: PyTree) -> None:
    """Raise unless what a module holds has the shapes that the layer has, and floating values."""
    expected, got = (
        {path: tuple(leaf.shape) for path, leaf in named_leaves(tree).items()}
        for tree in (like, found)
    )
    if expected != got:
        raise InputError(
            f"module {module!r} to fill {expected}",
            f"{got}",
            "give the layer the sizes and options of the module",
        )
    for path, leaf in named_leaves(found).items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InputError(
                f"floating values for {path} of module {module!r}",
                f"{leaf.dtype}",
                "pass the weights before they were quantized",
            )


def _shapes(entries: Entries) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the entries of a module."""
    return {name: tuple(entries.arrays[name].shape) for name in entries}
