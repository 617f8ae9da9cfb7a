"""Weights of a PyTorch model for the same model in fnn."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fnn.combine import parallel, serial
from fnn.errors import InputError, at, describe
from fnn.layer import Array, Layer, PyTree, output_shape
from fnn.layers.attention import attention
from fnn.layers.dense import dense
from fnn.layers.gated import prelu
from fnn.layers.norm import layer_norm
from fnn.layers.recurrent import gru, lstm, rnn
from fnn.layers.shape import flatten
from fnn.layers.transformer import mlp, mlp_parts
from fnn.model import children
from fnn.pair import on_first
from fnn.reversible import reversible
from fnn.sequence import Sequence, on_values
from fnn.torch_layers import CONVERTERS
from fnn.train.checkpoint import named_leaves
from fnn.wrap import repeat

# The layers of a recurrent stack share one module; an attention and a gate have modules inside.
_STACKED = re.compile(r"(?P<kind>(?:weight|bias)_(?:ih|hh))_l(?P<layer>\d+)(?P<way>(?:_reverse)?)$")
_INSIDE = ("out_proj", "gate_proj", "up_proj")
_RECURRENT = (rnn, lstm, gru)
# A transformer layer of PyTorch has its modules by kind, not in the order in which they run: that
# depends on where its norms are.
_TRANSFORMER: dict[Any, tuple[str, ...]] = {
    attention: ("self_attn", "multihead_attn"),
    dense: ("linear1", "linear2"),
    layer_norm: ("norm1", "norm2", "norm3"),
}
# A count that no result depends on.
_COUNTER = "num_batches_tracked"


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
    params, state = _Reader(modules).read(model, spec, (), ())
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
                "from_torch",
                "names= to have a module for every layer with weights",
                f"names for {', '.join(self.names)}",
                f"name the module of {path!r} too",
            )
        if name is None or name not in self.left:
            left = ", ".join(self.left) or "none"
            raise InputError(
                "from_torch",
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
                    "from_torch",
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
                "from_torch",
                "a layer for every module with weights",
                f"none for {', '.join(self.left)}",
                "build the same model, or pass the weights of the modules that it has",
            )
        unknown = set(self.names or ()) - self.named
        if unknown:
            raise InputError(
                "from_torch",
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

    def __init__(self, modules: _Modules):
        self.modules = modules
        self.image: tuple[int, ...] = ()

    def read(
        self, layer: Layer, x: Any, path: tuple[str, ...], copy: tuple[int, ...]
    ) -> tuple[PyTree, PyTree]:
        if layer.origin is not None and layer.origin.make is mlp:
            layer = mlp_parts(x.shape[-1], *layer.origin.args, **layer.origin.kwargs)
        inside = children(layer)
        origin = layer.origin
        if not inside or origin is None:
            return self.read_one(layer, x, path, copy)
        if origin.make in (serial, parallel):
            pairs = []
            for name, child in inside.items():
                with at(name):
                    pairs.append(self.read(child, x, (*path, name), copy))
                    if origin.make is serial:
                        x = output_shape(child, *pairs[-1], x)
            params, state = zip(*pairs, strict=True)
            if origin.kwargs:
                return dict(zip(inside, params, strict=True)), dict(zip(inside, state, strict=True))
            return params, state
        if origin.make is repeat:
            times = origin.args[1]
            pairs = [self.read(inside[""], x, path, (*copy, i)) for i in range(times)]
            params, state = jax.tree.map(lambda *a: jnp.stack(a), *pairs)
            return params, state
        if origin.make is reversible:
            raise InputError(
                "from_torch", "layers that PyTorch has", describe(layer), "set its weights by hand"
            )
        if origin.make is on_values and isinstance(x, Sequence):
            x = x.values
        return self.read(inside[""], x[0] if origin.make is on_first else x, path, copy)

    def read_one(
        self, layer: Layer, x: Any, path: tuple[str, ...], copy: tuple[int, ...]
    ) -> tuple[PyTree, PyTree]:
        key = jax.random.key(0)
        like = jax.eval_shape(layer.init, key, x)
        make = None if layer.origin is None else layer.origin.make
        if make is flatten:
            self.image = x.shape[1:]
        if not jax.tree.leaves(like if make in CONVERTERS else like[0]):
            # A state alone, as that of a layer that counts, is nothing that PyTorch would know.
            return layer.init(key, x)
        if make not in CONVERTERS:
            raise InputError(
                "from_torch", "layers that PyTorch has", describe(layer), "set its weights by hand"
            )
        name, weights = self.modules.take("/".join(path), copy, make)
        if layer.origin is not None and make in _RECURRENT:
            above = self.modules.take_stack(name, layer.origin.kwargs.get("layers", 1))
            weights = {**weights, **above}
        try:
            params, state = CONVERTERS[make](layer, weights)
        except KeyError as error:
            raise InputError(
                "from_torch",
                f"{layer}, which has {error}, for module {name!r}",
                f"a module of {', '.join(weights)}",
                "build the layer that the module is",
            ) from error
        if make is prelu:  # PyTorch may share one slope
            params = {"slope": jnp.broadcast_to(params["slope"], like[0]["slope"].shape)}
        if jax.tree.leaves(like[1]) and not jax.tree.leaves(state):
            state = jax.tree.map(jnp.asarray, layer.init(key, x)[1])
        if make is dense and len(self.image) > 1:
            params = params | {"weight": channels_last(params["weight"], self.image)}
            self.image = ()
        elif len(self.image) > 1:
            params, state = jax.tree.map(lambda a: channels_last(a, self.image), (params, state))
        self.check(name, (params, state), like)
        return params, state

    def check(self, name: str, found: PyTree, like: PyTree) -> None:
        expected, got = (
            {path: tuple(leaf.shape) for path, leaf in named_leaves(tree).items()}
            for tree in (like, found)
        )
        if expected != got:
            raise InputError(
                "from_torch",
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
            "from_torch",
            f"a layer behind flatten() with {math.prod(image)} inputs, as the images have numbers",
            describe(weight),
            "put its weights in order by hand",
        )
    *space, channels = image
    rows = jnp.moveaxis(weight.reshape(channels, *space, *weight.shape[1:]), 0, len(space))
    return rows.reshape(weight.shape)
