"""Weights of a PyTorch model for the same model in fnn."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core.errors import InputError, at, describe, entry
from fnn._core.types import Array, PyTree
from fnn.combinators.walk import join, part
from fnn.interop._torch_layers import CONVERTERS
from fnn.lab.summary import layer_shapes
from fnn.layer import Layer
from fnn.train.checkpoint import named_leaves

# The layers of a recurrent stack share one module; an attention and a gate have modules inside.
_STACKED = re.compile(r"(?P<kind>(?:weight|bias)_(?:ih|hh))_l(?P<layer>\d+)(?P<way>(?:_reverse)?)$")
_INSIDE = ("out_proj", "gate_proj", "up_proj")
_RECURRENT = ("fnn.rnn", "fnn.lstm", "fnn.gru")
# A transformer layer of PyTorch has its modules by kind, not in the order in which they run: that
# depends on where its norms are.
_TRANSFORMER: dict[str, tuple[str, ...]] = {
    "fnn.attention": ("self_attn", "multihead_attn"),
    "fnn.dense": ("linear1", "linear2"),
    "fnn.layer_norm": ("norm1", "norm2", "norm3"),
}
# A count that no result depends on.
_COUNTER = "num_batches_tracked"


@entry
def from_torch(
    model: Layer, weights: Mapping[str, Any], x: Any, *, names: Mapping[str, str] | None = None
) -> tuple[PyTree, PyTree]:
    """Turn the ``state_dict()`` of a PyTorch model into parameters and state of an fnn model.

    The layers of `model` that have weights and the modules in `weights` are paired in their order;
    `names` pairs them by name instead, from the path of a layer to the name of its module:
    ``{"0": "features.conv1", "3": "rnn.l1"}``, ``.l1`` being the second layer of a stacked LSTM; a
    ``fnn.lstm(width, layers=2)`` takes ``rnn.l0`` by that name, and the layer above it as well.
    The copies in a `fnn.repeat` take a module each, ``{}`` in its name being the number of the
    copy: ``{"1/norm": "layers.{}.norm1"}``. x is an example of the input, or its shape. PyTorch
    keeps channels second: the rows of a `fnn.dense` behind a `fnn.flatten` of images are put in the
    order of channels that come last.

    The modules of a ``TransformerEncoderLayer`` or ``TransformerDecoderLayer`` go to a
    `fnn.transformer_block`, or to layers like its own in any order. Weights do not tell whether
    norms come first, nor which activation it is: what PyTorch makes by default is
    ``norm_first=False, activation="relu"``.

    Values are arrays or PyTorch tensors, and keep their dtype. A state that PyTorch does not keep
    is as `init` makes it.

    Raises `fnn.InputError` when a module is missing or left over, a shape differs, or a layer with
    weights has no counterpart in PyTorch.

    >>> import fnn
    >>> weights = {"fc.weight": jnp.zeros((2, 3)), "fc.bias": jnp.ones(2)}
    >>> model = fnn.serial(fnn.dense(2), fnn.tanh())
    >>> params, state = from_torch(model, weights, jnp.ones((1, 3)))
    >>> params[0]["weight"].shape, params[0]["bias"]
    ((3, 2), Array([1., 1.], dtype=float32))
    """
    modules = _Modules(weights, names)
    spec = jax.eval_shape(lambda x: x, x)
    like = jax.eval_shape(model.init, jax.random.key(0), spec)
    shapes = layer_shapes(model, like[0], like[1], spec)
    params, state = _Reader(modules, shapes).read(model, like)
    modules.check_all_taken()
    return params, state


class _Modules:
    """The modules of a state_dict, each taken once: in order, or by name."""

    def __init__(self, weights: Mapping[str, Any], names: Mapping[str, str] | None):
        self.names = names
        self.named: set[str] = set()
        self.left = grouped(weights)
        self.all = set(self.left)

    def take(self, path: str, copy: tuple[int, ...], make: Any) -> tuple[str, Mapping[str, Array]]:
        if self.names is None:
            name = self.next_for(make)
        elif path in self.names:
            name = self.names[path].format(*copy)
            self.named.add(path)
        else:
            raise InputError(
                "names= to have a module for every layer with weights",
                f"names for {', '.join(self.names)}",
                f"name the module of {path!r} too",
            )
        if name is None or name not in self.left:
            left = ", ".join(self.left) or "none"
            raise InputError(
                "a module for every layer with weights" if name is None else f"a module {name!r}",
                f"these, not taken yet: {left}",
                "build the same model, or pair layers and modules by names=",
            )
        return name, self.left.pop(name)

    def next_for(self, make: Any) -> str | None:
        """Return the next module, or in a transformer layer the next one for layers of `make`."""
        first = next(iter(self.left), None)
        if first is None:
            return None
        outer = first[: first.rfind(".") + 1]
        if not {f"{outer}self_attn", f"{outer}linear1"} <= self.all:
            return first
        own = (f"{outer}{last}" for last in _TRANSFORMER.get(make, ()))
        return next((name for name in own if name in self.left), first)

    def take_stack(self, name: str, layers: int) -> dict[str, Array]:
        """Take the modules of the layers above one, and return all under their own numbers."""
        outer = name.rstrip("0123456789")
        first = int(name[len(outer) :] or 0)
        found = {}
        for i in range(1, layers):
            above = f"{outer}{first + i}"
            if above not in self.left:
                raise InputError(
                    f"a module {above!r} for layer {i + 1} of {layers}",
                    f"these, not taken yet: {', '.join(self.left) or 'none'}",
                    "give the layer as many layers as the module has",
                )
            weights = self.left.pop(above)
            found.update({key.replace("_l0", f"_l{i}"): w for key, w in weights.items()})
        return found

    def check_all_taken(self) -> None:
        if self.left:
            raise InputError(
                "a layer for every module with weights",
                f"none for {', '.join(self.left)}",
                "build the same model, or pass the weights of the modules that it has",
            )
        unknown = set(self.names or ()) - self.named
        if unknown:
            raise InputError(
                "names= of layers with weights",
                f"{sorted(unknown)}",
                "name paths of parameters, as fnn.summary shows them",
            )


def grouped(weights: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
    """Return the weights of each module, by its name and theirs in it.

    >>> weights = {"rnn.weight_ih_l1": jnp.ones(2), "fc.weight": jnp.ones(2)}
    >>> {module: list(names) for module, names in grouped(weights).items()}
    {'rnn.l1': ['weight_ih_l0'], 'fc': ['weight']}
    """
    found: dict[str, dict[str, Array]] = {}
    for full, value in weights.items():
        module, _, name = full.rpartition(".")
        if name == _COUNTER:
            continue
        outer, _, last = module.rpartition(".")
        stacked = _STACKED.match(name)
        if last in _INSIDE:
            module, name = outer, f"{last}.{name}"
        elif stacked:
            module = ".".join(filter(None, (module, f"l{stacked['layer']}")))
            name = f"{stacked['kind']}_l0{stacked['way']}"
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        found.setdefault(module, {})[name] = jnp.asarray(value)
    return found


class _Reader:
    """Reads a model layer by layer; remembers what images the last flatten made rows of."""

    def __init__(self, modules: _Modules, shapes: Mapping[str, tuple[Any, Any]]):
        self.modules = modules
        self.shapes = shapes
        self.image: tuple[int, ...] = ()

    def read(
        self, layer: Layer, like: PyTree, path: str = "", copy: tuple[int, ...] = ()
    ) -> tuple[PyTree, PyTree]:
        """Return parameters and state like those of a layer, the copies in it one by one."""
        if layer.copies is None:
            return self.read_inside(layer, like, path, copy)
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), like)
        pairs = [self.read_inside(layer, one, path, (*copy, i)) for i in range(layer.copies)]
        params, state = jax.tree.map(lambda *a: jnp.stack(a), *pairs)
        return params, state

    def read_inside(
        self, layer: Layer, like: PyTree, path: str, copy: tuple[int, ...]
    ) -> tuple[PyTree, PyTree]:
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
        self, layer: Layer, like: PyTree, path: str, copy: tuple[int, ...]
    ) -> tuple[PyTree, PyTree]:
        x, _ = self.shapes[path]
        name = "" if layer.call is None else layer.call.public_name
        if name == "fnn.flatten":
            self.image = x.shape[1:]
        if not jax.tree.leaves(like if name in CONVERTERS else like[0]):
            # A state alone, as that of a layer that counts, is nothing that PyTorch would know.
            return layer.init(jax.random.key(0), x)
        if name not in CONVERTERS:
            raise InputError("layers that PyTorch has", describe(layer), "set its weights by hand")
        module, params, state = self.convert(layer, name, path, copy)
        if name == "fnn.prelu":  # PyTorch may share one slope
            params = {"slope": jnp.broadcast_to(params["slope"], like[0]["slope"].shape)}
        if jax.tree.leaves(like[1]) and not jax.tree.leaves(state):
            state = jax.tree.map(jnp.asarray, layer.init(jax.random.key(0), x)[1])
        if name == "fnn.dense" and len(self.image) > 1:
            params = params | {"weight": channels_last(params["weight"], self.image)}
            self.image = ()
        elif len(self.image) > 1:
            params, state = jax.tree.map(lambda a: channels_last(a, self.image), (params, state))
        self.check(module, (params, state), like)
        return params, state

    def convert(
        self, layer: Layer, name: str, path: str, copy: tuple[int, ...]
    ) -> tuple[str, PyTree, PyTree]:
        """Take the module of a layer, and return its name, parameters and state."""
        module, weights = self.modules.take(path, copy, name)
        if name in _RECURRENT and layer.call is not None:
            layers = layer.call.arguments()["layers"]
            weights = {**weights, **self.modules.take_stack(module, layers)}
        try:
            return module, *CONVERTERS[name](layer, weights)
        except KeyError as error:
            raise InputError(
                f"{layer}, which has {error}, for module {module!r}",
                f"a module of {', '.join(weights)}",
                "build the layer that the module is",
            ) from error

    def check(self, name: str, found: PyTree, like: PyTree) -> None:
        expected, got = (
            {path: tuple(leaf.shape) for path, leaf in named_leaves(tree).items()}
            for tree in (like, found)
        )
        if expected != got:
            raise InputError(
                f"module {name!r} to fill {expected}",
                f"{got}",
                "give the layer the sizes and options of the module",
            )


def channels_last(weight: Array, image: tuple[int, ...]) -> Array:
    """Reorder the first axis of a weight from images flattened channels first to channels last.

    >>> channels_last(jnp.arange(4), (2, 1, 2))
    Array([0, 2, 1, 3], dtype=int32)
    """
    if math.prod(image) != weight.shape[0]:
        raise InputError(
            f"a layer behind flatten() with {math.prod(image)} inputs, as the images have numbers",
            describe(weight),
            "put its weights in order by hand",
        )
    *space, channels = image
    rows = jnp.moveaxis(weight.reshape(channels, *space, *weight.shape[1:]), 0, len(space))
    return rows.reshape(weight.shape)
