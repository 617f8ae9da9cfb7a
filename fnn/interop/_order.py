"""Order of elements: where PyTorch has each element of what flows through a model.

PyTorch keeps channels second, fnn last; so the vector that a flatten makes of images has another
order there, and so do the rows of the weight behind it. The model is run on codes in place of
values: code i is the i-th element of the array that PyTorch would have. Layers with weights start
anew from the order that their module gives; what only moves elements moves the codes; combinators
run as they are. Three examples in three codes, all of them rising, must tell the same order: then
nothing but moves has happened to them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.tree import inexact_leaves
from fnn._core.types import Array, Input, Key, Output, Params, PyTree, State
from fnn.combinators.walk import join, layers_by_path, map_layers, part
from fnn.layer import Layer

# Modules that have channels second, unless they work on vectors.
_CHANNELS_SECOND = (
    "batch_norm",
    "group_norm",
    "instance_norm",
    "conv",
    "depthwise_conv",
    "conv_transpose",
    "prelu",
    "average_pool",
    "max_pool",
    "adaptive_average_pool",
    "adaptive_max_pool",
    "global_average_pool",
    "global_max_pool",
    "upsample",
)
# Modules that have features last, whatever comes in.
_FEATURES_LAST = (
    "dense",
    "linear_head",
    "swiglu",
    "geglu",
    "rnn",
    "lstm",
    "gru",
    "rnn_cell",
    "lstm_cell",
    "gru_cell",
    "embedding",
    "unembedding",
    "networks.class_token",
    "networks.first_token",
    "attention",
    "positional",
    "rotary",
    "last_step",
)
# Norms of the last axis, which a model may have moved before and after: nobody can know.
_LAST_AXIS = ("layer_norm", "rms_norm")
# Codes below are of a view whose axes PyTorch may have in another order.
_VIEW = 2.0**40
_EXAMPLES = 3
# Layers that make vectors in an order of their own.
_MAKERS = ("flatten", "reshape", "concatenate")


class Seen(NamedTuple):
    """What a layer got: codes of vectors, and whether codes of other arrays are in no order.

    Args:
        vectors: for each input (B, C) its codes; of a layer that makes an order, those it makes.
        mixed: whether an input has its elements in an order that PyTorch's has not.
        viewed: whether an input is a view, whose axes PyTorch may have in another order.

    """

    vectors: list[Array]
    mixed: Array
    viewed: Array


def name_of(layer: Layer) -> str:
    """Return the name of a built-in layer without the package, ``""`` of another one."""
    made = (layer.manual or layer).call
    name = "" if made is None else made.public_name
    return name.removeprefix("fnn.") if name.startswith("fnn.") else ""


class Orders:
    """The orders of what flows through a model, by the paths of its layers.

    Args:
        model: the model.
        shapes: those of input and output of every layer.
        x: the shapes of the input.

    """

    def __init__(self, model: Layer, shapes: Mapping[str, tuple[Input, Output]], x: Input):
        # Without a layer that makes vectors of images nothing is in another order.
        self.known = not any(_loses_axes(*pair) for pair in shapes.values())
        self.seen = {} if self.known else _run(model, shapes, x)
        makers = [path for path, one in layers_by_path(model).items() if name_of(one) in _MAKERS]
        made = [codes for path in makers if path in self.seen for codes in self.seen[path].vectors]
        rows = [row for codes in made for row in codes.reshape(-1, *codes.shape[-2:])]
        # Another order is the doing of somebody's combinator, which PyTorch's model does alike.
        self.made = {order.tobytes() for order in map(order_of, rows) if order is not None}

    def vectors(self, path: str, copy: tuple[int, ...]) -> list[np.ndarray | None]:
        """Return the order of each vector that a layer gets, None where it is unknown."""
        if self.known:
            return []
        if path not in self.seen:
            return [None]
        orders = [order_of(codes[copy]) for codes in self.seen[path].vectors]
        return [order if order is None or self._explained(order) else None for order in orders]

    def _explained(self, order: np.ndarray) -> bool:
        """Say whether a layer of fnn has made this order."""
        return bool((order == np.arange(order.size)).all()) or order.tobytes() in self.made

    def is_right(self, path: str, copy: tuple[int, ...], layer: Layer) -> bool:
        """Say whether the axes that a layer gets, of other arrays than vectors, are PyTorch's."""
        if path not in self.seen:
            return True
        seen, viewable = self.seen[path], name_of(layer) not in _CHANNELS_SECOND
        return not seen.mixed[copy] and (viewable or not seen.viewed[copy])


def _run(model: Layer, shapes: Mapping[str, tuple[Input, Output]], x: Input) -> dict[str, Seen]:
    """Run a model on codes; return what its layers got by their paths."""
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        watched = map_layers(lambda path, layer: _watched(layer, *shapes[path]), model)
        codes = jax.tree.map(_input_codes, x)
        try:
            like = jax.eval_shape(watched.init, jax.random.key(0), codes)
            params, state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
            found = jax.tree.map(np.asarray, watched.apply(params, state, codes)[1])
            return _by_path(model, found)
        except Exception:
            # A combinator of somebody's that computes what codes do not bear: all is unknown.
            return {}


def order_of(codes: Array) -> np.ndarray | None:
    """Return where PyTorch has each element of a vector, by its codes; None if that is unknown.

    >>> order_of(np.array([[0.0, 2.0, 1.0], [5.0, 9.0, 7.0]]))
    array([0, 2, 1])
    >>> order_of(np.array([[0.0, 2.0, 1.0], [5.0, 7.0, 9.0]]))
    """
    rows = np.asarray(codes)
    ranks = rows.argsort(-1).argsort(-1)
    distinct = all(len(np.unique(row)) == len(row) for row in rows)
    same = np.isfinite(rows).all() and distinct and (ranks == ranks[0]).all()
    return np.asarray(ranks[0]) if same else None


def _loses_axes(x: Input, y: Output) -> bool:
    """Say whether a layer makes vectors of arrays with more axes, or the other way round."""
    before, after = (
        {len(leaf.shape) > 2 for leaf in jax.tree.leaves(inexact_leaves(tree))} for tree in (x, y)
    )
    # Of integers alone an embedding makes vectors, the same ones everywhere.
    return bool(before) and before != after


def _by_path(layer: Layer, tree: PyTree, path: str = "") -> dict[str, Seen]:
    """Return what each layer without children left in the place of its state."""
    if not layer.children:
        return {path: tree}
    found: dict[str, Seen] = {}
    for name, child in layer.children.items():
        found |= _by_path(child, part(tree, name), join(path, name))
    return found


def _codes(shape: tuple[int, ...], positions: np.ndarray) -> Array:
    """Return codes for examples, by the positions that their elements have in PyTorch."""
    random = np.random.default_rng(0)
    steps = random.integers(1, 1000, (_EXAMPLES, positions.size))
    steps[0] = 1
    tables = np.cumsum(steps, 1).astype(np.float64)
    rows = tables[np.arange(shape[0]) % _EXAMPLES]
    return jnp.asarray(rows[:, positions.ravel()].reshape(shape))


def _last(shape: tuple[int, ...]) -> np.ndarray:
    """Return the positions of elements where PyTorch has the axes in the order of fnn."""
    return np.arange(math.prod(shape[1:])).reshape(shape[1:])


def _second(shape: tuple[int, ...]) -> np.ndarray:
    """Return the positions of elements where PyTorch has the last axis second."""
    *space, channels = shape[1:]
    return np.moveaxis(np.arange(math.prod(shape[1:])).reshape(channels, *space), 0, -1)


def _input_codes(spec: jax.ShapeDtypeStruct) -> Array:
    """Return codes for an input: images have channels second, vectors and sequences last."""
    shape = (_EXAMPLES, *spec.shape[1:])
    if not jnp.issubdtype(spec.dtype, jnp.floating):
        return jnp.zeros(shape, spec.dtype)
    return _codes(shape, _second(shape) if len(shape) > 3 else _last(shape))


def _watched(layer: Layer, x_spec: Input, y_spec: Output) -> Layer:
    """Return a layer that turns codes into codes, and leaves what it saw in place of its state."""
    name = name_of(layer)
    others = (*_CHANNELS_SECOND, *_FEATURES_LAST, *_LAST_AXIS, *_MAKERS, "add")
    passes = name not in others and _passes(layer, x_spec, y_spec)
    apply = functools.partial(_apply_codes, layer, passes, y_spec)
    return Layer(lambda key, x: ((), ()), apply, layer.forward, layer.backward)


def _apply_codes(
    layer: Layer,
    passes: bool,
    y_spec: Output,
    params: Params,
    state: State,
    x: Input,
    /,
    *,
    key: Key = None,
    train: bool = False,
) -> tuple[Output, Seen]:
    """Return the codes of what a layer makes, and what it saw."""
    del params, state, key, train
    name, leaves = name_of(layer), jax.tree.leaves(inexact_leaves(x))
    # A part of a model may have learned from its input how wide it is: the shapes seen count.
    like = jax.tree.map(_seen_like, jax.eval_shape(functools.partial(_output, layer), x), y_spec)
    made = leaves if passes else _made(name, leaves, jax.tree.leaves(inexact_leaves(like)))
    codes = iter(made)
    # What is no float, as lengths are, goes on as nothing.
    y = [
        next(codes) if jnp.issubdtype(a.dtype, jnp.floating) else jnp.zeros(a.shape, a.dtype)
        for a in jax.tree.leaves(like)
    ]
    seen = _seen(made if name in _MAKERS else leaves)
    return jax.tree.unflatten(jax.tree.structure(like), y), seen


def _seen_like(leaf: Array, seen: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Return the shape of an output, of which the axes behind the first one are those seen."""
    shape = (*leaf.shape[:1], *seen.shape[1:]) if len(leaf.shape) == len(seen.shape) else leaf.shape
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _output(layer: Layer, x: Input) -> Output:
    """Return what a new layer makes of x."""
    params, state = layer.init(jax.random.key(0), x)
    return layer.apply(params, state, x)[0]


def _seen(leaves: list[Array]) -> Seen:
    """Return what is to be known of codes."""
    vectors = [leaf for leaf in leaves if leaf.ndim == 2]
    others = [leaf for leaf in leaves if leaf.ndim > 2]
    mixed = [jnp.isinf(leaf).any() for leaf in others]
    viewed = [(leaf < -_VIEW / 2).any() for leaf in others]
    none = jnp.zeros((), bool)
    return Seen(vectors, sum(mixed, none), sum(viewed, none))


def _made(name: str, x: list[Array], y: list[jax.ShapeDtypeStruct]) -> list[Array]:
    """Return the codes of what a layer makes."""
    if name in ("flatten", "reshape") and len(x) == len(y) == 1:
        return [_view(x[0].reshape(y[0].shape), x[0])]
    if name == "add" and len(y) == 1:
        return [sum(x[1:], x[0])]
    if name == "concatenate" and len(y) == 1:
        return [_joined(x, y[0].shape)]
    if name == "glu" and len(x) == len(y) == 1:
        return [_alike(x, y[0].shape)]
    if name in _FEATURES_LAST:
        wrong = sum((jnp.isinf(a).any() for a in x if a.ndim > 2), jnp.zeros((), bool))
        return [jnp.where(wrong, jnp.inf, _codes(a.shape, _last(a.shape))) for a in y]
    if name in _CHANNELS_SECOND and len(x) == len(y) == 1:
        if x[0].ndim < 3:
            return x
        wrong = jnp.isinf(x[0]).any() | (x[0] < -_VIEW / 2).any()
        if y[0].ndim < 3:
            return [jnp.where(wrong, jnp.inf, _codes(y[0].shape, _last(y[0].shape)))]
        return [jnp.where(wrong, jnp.inf, _codes(y[0].shape, _second(y[0].shape)))]
    if name in _LAST_AXIS and len(x) == len(y) == 1:
        return [jnp.where(_is(x[0], _last) | (x[0].ndim < 3), x[0], jnp.nan)]
    return [jnp.full(a.shape, jnp.nan) for a in y]


def _view(y: Array, x: Array) -> Array:
    """Return the codes of a reshaped array: those of x, if they are still in some order."""
    if y.shape == x.shape:
        return y
    if x.ndim > 2:
        # The axes were moved in between, by PyTorch's model too: codes no longer tell by whom.
        y = jnp.where(_is(x, _last) | _is(x, _second), y, jnp.nan)
    if y.ndim < 3:
        return y
    view = jnp.where(_is(y, _last), y - _VIEW, jnp.inf)
    return jnp.where(_is(y, _second), y, view)


def _joined(parts: list[Array], shape: tuple[int, ...]) -> Array:
    """Return the codes of a concatenation."""
    if len(shape) == 2:
        ends = np.cumsum([0, *(a.shape[1] for a in parts)])
        ranks = [a.argsort(-1).argsort(-1) + end for a, end in zip(parts, ends, strict=False)]
        known = jnp.stack([jnp.isfinite(a).all() for a in parts]).all()
        table = _codes(shape, _last(shape))
        return jnp.where(known, jnp.take_along_axis(table, jnp.concatenate(ranks, 1), 1), jnp.nan)
    return _alike(parts, shape)


def _alike(parts: list[Array], shape: tuple[int, ...]) -> Array:
    """Return the codes of what has the same axes as all of its parts."""
    codes = jnp.full(shape, jnp.nan)
    for layout in (_last, _second):
        alike = jnp.stack([_is(a, layout) for a in parts]).all()
        codes = jnp.where(alike, _codes(shape, layout(shape)), codes)
    return codes


def _is(x: Array, layout: Callable[[tuple[int, ...]], np.ndarray]) -> Array:
    """Say whether the elements of an array are in the order of a layout."""
    flat = x.reshape(x.shape[0], -1)
    inverse = layout(x.shape).ravel().argsort()
    rising = flat[:, inverse]
    return jnp.isfinite(flat).all() & (rising[:, 1:] > rising[:, :-1]).all()


def _passes(layer: Layer, x_spec: Input, y_spec: Output) -> bool:
    """Say whether a layer without parameters acts alike on every index of every axis."""
    x, y = (jax.tree.leaves(inexact_leaves(tree)) for tree in (x_spec, y_spec))
    alike = len(x) == len(y) == 1 and x[0].shape == y[0].shape and len(x[0].shape) > 1
    if not alike or not isinstance(x_spec, jax.ShapeDtypeStruct):
        return False
    random = np.random.default_rng(0)
    value = random.normal(size=(2, *x[0].shape[1:]))
    key = jax.random.key(0)
    params, state = layer.init(key, jnp.asarray(value))
    if jax.tree.leaves(params):
        return False

    def function(value: np.ndarray) -> np.ndarray:
        return np.asarray(layer.apply(params, state, jnp.asarray(value))[0])

    expected = function(value)
    for axis in range(1, value.ndim):
        for _ in range(2):
            moved = random.permutation(value.shape[axis])
            found = function(value.take(moved, axis))
            if not np.allclose(found, expected.take(moved, axis), equal_nan=True):
                return False
    return True
