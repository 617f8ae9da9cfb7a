"""Mixed precision: products in 16 bits, all that is kept and summed in 32."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.paths import matches, value_at
from fnn._core.precision import wide_dtype
from fnn._core.types import (
    Array,
    Cache,
    Cotangent,
    Grads,
    Input,
    Key,
    OptState,
    Output,
    Params,
    PyTree,
    Residuals,
    Scalar,
    State,
    Unchecked,
    Updates,
)
from fnn.combinators.walk import layers_by_path, map_layers
from fnn.layer import Layer, require_layer, wrapping
from fnn.optim.optimizer import (
    GradientAt,
    Optimizer,
    Taken,
    check_optimizer,
    take_step,
    update_with,
)

HalfName: TypeAlias = Literal["bfloat16", "float16"]
WideName: TypeAlias = Literal["float32"]
# The precision of all layers, or of some by patterns over their paths.
Precision: TypeAlias = HalfName | Mapping[str, HalfName | WideName]
_HALVES = get_args(HalfName)
# 2**15 is about the largest that a gradient of 1 survives in float16.
_FIRST_SCALE, _STEPS_TO_GROW, _LARGEST_SCALE = 2.0**15, 2000, 2.0**24


@constructor
def mixed_precision(
    layer: Layer, /, precision: Precision = "bfloat16", loss_scale: Scalar = 1.0
) -> Layer:
    """Mixed precision: a layer computed in 16 bits, whose parameters, output and gradients have 32.

    What goes in is rounded to half precision, what comes out is widened again, forwards and
    backwards. Parameters, running state and what an optimizer makes of the gradient stay as they
    were, in float32; so do the losses. fnn's layers sum in float32 also in between.

    `fnn.fit` and `fnn.train_step` take ``precision=`` and do this by themselves, with a loss scale
    that adapts. Evaluated is the model as it was made, in float32; to evaluate in half precision
    too, pass this layer to `fnn.evaluate`.

    Forward:   y = wide(f(half(x); half(p)))
    Backward:  dp, dx = wide(J^T half(s dy)) / s, J being that of f in half precision

    Args:
        layer: f, any layer or model.
        precision: ``"bfloat16"``, with the range of float32; ``"float16"``, which is finer and
            whose range is small; or one by patterns over the paths of layers, as `fnn.summary`
            shows them: the path of a layer counts before patterns, of these the first that
            matches, and ``"float32"`` elsewhere:
            ``{"head": "float32", "*": "bfloat16"}``.
        loss_scale: s, which keeps small gradients from rounding to 0 in float16, a number above 0.
    Shapes:    those of the layer
    Saves:     what the layer saves, in half precision
    Raises:    InputError for another precision, a pattern that matches no layer, a loss scale of 0
        or less, and for what is no layer.
    Source:    Micikevicius et al. 2018, "Mixed precision training", arXiv:1710.03740.

    >>> import fnn, jax, jax.numpy as jnp
    >>> dense = mixed_precision(fnn.dense(2))
    >>> params, state = dense.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> y, state, residuals = dense.forward(params, state, jnp.ones((1, 3)))
    >>> params["weight"].dtype, y.dtype, jax.tree.leaves(residuals)[0].dtype
    (dtype('float32'), dtype('float32'), dtype(bfloat16))
    """
    require_layer(layer)
    check_precision(precision)
    if not isinstance(loss_scale, jax.core.Tracer):
        check.number(loss_scale, "loss_scale", above=0)
    if isinstance(precision, str):
        return _in_half(layer, precision, loss_scale)
    chosen = _by_path(layer, precision)

    def change(path: str, inside: Layer) -> Layer:
        dtype = chosen[path]
        return inside if dtype == "float32" else _in_half(inside, dtype, loss_scale)

    return map_layers(change, layer)


def narrowest(layer: Layer, dtype: Unchecked) -> np.dtype:
    """Return the dtype that a layer computes in where its parameters have another one.

    Args:
        layer: any layer or model.
        dtype: that of its parameters.

    >>> import fnn
    >>> narrowest(fnn.dense(2), "float64"), narrowest(mixed_precision(fnn.dense(2)), "float64")
    (dtype('float64'), dtype(bfloat16))
    """
    rebuild, found = layer.rebuild, []
    if isinstance(rebuild, functools.partial) and rebuild.func is _in_half:
        found.append(jnp.dtype(rebuild.keywords["name"]))
    found += [narrowest(child, dtype) for child in layer.children.values()]
    return min([*found, jnp.dtype(dtype)], key=lambda one: -jnp.finfo(one).eps)


def check_precision(precision: Unchecked) -> None:
    """Raise unless this is a precision, or one by patterns.

    Args:
        precision: what is checked.

    >>> check_precision({"head": "float32", "*": "bfloat16"})
    """
    if not isinstance(precision, Mapping):
        check.one_of(precision, "precision", _HALVES, "pass one, or a dict of them by paths")
        return
    if not precision:
        raise InputError("a pattern or more", "an empty dict", "pass {'*': 'bfloat16'} for all")
    for pattern, name in precision.items():
        if not isinstance(pattern, str):
            raise InputError("patterns over paths", describe(pattern), "pass text such as 'head'")
        check.one_of(name, f"precision of {pattern!r}", (*_HALVES, "float32"))


def _by_path(model: Layer, precision: Mapping[str, HalfName | WideName]) -> dict[str, str]:
    """Return the precision of every layer without children, by its path."""
    paths = [path for path, one in layers_by_path(model).items() if one.rebuild is None]
    for pattern in precision:
        if not any(matches(path, pattern) for path in paths):
            known = ", ".join(map(repr, paths[:6])) + (", ..." if len(paths) > 6 else "")
            remedy = f"the layers are {known}"
            raise InputError("a pattern that matches a layer", repr(pattern), remedy)
    return {path: value_at(path, precision, "float32") for path in paths}


class _Saved(NamedTuple):
    """Residuals of a layer in half precision: its own, and the dtypes outside as empty arrays."""

    inside: Residuals
    loss_scale: Scalar
    x: PyTree
    y: PyTree


def _in_half(layer: Layer, name: str, loss_scale: Scalar) -> Layer:
    """Return a layer that computes in half precision; the scale 1 leaves its products out."""
    half = jnp.dtype(name)
    scaled = not (isinstance(loss_scale, float | int) and loss_scale == 1)

    def enter(params: Params, x: Input) -> tuple[Params, Input]:
        return _cast((params, x), half)

    def leave(y: Output, state: State, before: State) -> tuple[Output, State]:
        state = jax.tree.map(_as_before, state, before)
        return _cast(y, jnp.dtype("float32"), only=half), state

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        if scaled:
            params, x = _scale_cotangents((params, x), 1 / loss_scale)
        y, new_state = layer.apply(*_around(enter(params, x), state), key=key, train=train)
        y, new_state = leave(y, new_state, state)
        return (_scale_cotangents(y, loss_scale) if scaled else y), new_state

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        inside = _around(enter(params, x), state)
        y, new_state, residuals = layer.forward(*inside, key=key, train=train)
        scale = jnp.float32(loss_scale) if scaled else ()
        saved = _Saved(residuals, scale, _witnesses(x), _witnesses(y))
        return *leave(y, new_state, state), saved

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        scale = residuals.loss_scale if scaled else 1
        dy = _like(dy, residuals.y, scale)
        dparams, dx = layer.backward(_cast(params, half), residuals.inside, dy)
        return _like(dparams, params, 1 / scale), _like(dx, residuals.x, 1 / scale)

    def prefill(
        params: Params, state: State, x: Input, /, *, window: int, lengths: Array | None = None
    ) -> tuple[Output, Cache]:
        inside = _around(enter(params, x), state)
        y, cache = layer.prefill(*inside, window=window, lengths=lengths)
        return leave(y, (), ())[0], cache

    def decode(
        params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        inside = _around(enter(params, x), state)
        y, cache = layer.decode(*inside[:2], cache, inside[2], position)
        return leave(y, (), ())[0], cache

    again = functools.partial(_in_half, name=name, loss_scale=loss_scale)
    wrapped = wrapping(again, layer, (layer.init, apply, forward, backward), (prefill, decode))
    return dataclasses.replace(wrapped, derivation=layer.derivation, title=f"{layer.name} ({name})")


def _as_before(new: Array, old: Array) -> Array:
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def _around(inside: tuple[Params, Input], state: State) -> tuple[Params, State, Input]:
    """Return what a layer in half precision takes: it keeps its state in float32."""
    params, x = inside
    return params, _cast(state, jnp.dtype("float32"), only=jnp.dtype("float64")), x


def _is_floating(leaf: Unchecked) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _cast(tree: PyTree, dtype: np.dtype, only: np.dtype | None = None) -> PyTree:
    """Return the floating arrays of a tree in a dtype; `only` those of another."""

    def cast(leaf: Unchecked) -> Unchecked:
        if not hasattr(leaf, "dtype") or not _is_floating(leaf):
            return leaf
        return leaf.astype(dtype) if only in (None, leaf.dtype) else leaf

    return jax.tree.map(cast, tree)


def _witnesses(tree: PyTree) -> PyTree:
    """Return arrays of no entries that carry the dtypes of the floating arrays; None for others."""
    return jax.tree.map(lambda leaf: jnp.zeros(0, leaf.dtype) if _is_floating(leaf) else None, tree)


def _like(cotangents: PyTree, like: PyTree, factor: Scalar) -> PyTree:
    """Return cotangents times a factor, in the dtypes of other arrays; None where there is none."""

    def change(d: Unchecked, a: Unchecked) -> Unchecked:
        if d is None or not _is_floating(d):
            return d
        wide = wide_dtype(d.dtype)
        return (d.astype(wide) * jnp.asarray(factor, wide)).astype(a.dtype)

    return jax.tree.map(change, cotangents, like, is_leaf=lambda d: d is None)


@jax.custom_vjp
def _identity(tree: PyTree, factor: Scalar) -> PyTree:
    del factor
    return tree


def _identity_forward(tree: PyTree, factor: Scalar) -> tuple[PyTree, Scalar]:
    return tree, factor


def _identity_backward(factor: Scalar, dtree: PyTree) -> tuple[PyTree, Scalar]:
    scaled = jax.tree.map(lambda d: d * jnp.asarray(factor, d.dtype), dtree)
    return scaled, jnp.zeros_like(factor)


_identity.defvjp(_identity_forward, _identity_backward)


def _scale_cotangents(tree: PyTree, factor: Scalar) -> PyTree:
    """Return a tree as it is, whose derivative is multiplied by a factor on its way back."""
    return jax.tree.map(
        lambda leaf: _identity(leaf, jnp.float32(factor)) if _is_floating(leaf) else leaf, tree
    )


class LossScaleState(NamedTuple):
    """The state of the optimizer inside, the loss scale, and what it adapts by.

    Args:
        inner: the state of the optimizer.
        scale: what losses are multiplied by.
        good_steps: how many steps were finite since the scale was changed.
        skipped: how many steps were not, and were left out.
    """

    inner: OptState
    scale: Array
    good_steps: Array
    skipped: Array


def in_precision(
    model: Layer, optimizer: Optimizer, precision: Precision | None, opt_state: OptState = None
) -> tuple[Layer, Optimizer]:
    """Return model and optimizer as training in a precision takes them.

    Args:
        model: the layer to train.
        optimizer: of `fnn.optim` or of optax.
        precision: as in `mixed_precision`; None for the model as it is.
        opt_state: the optimizer's state, which knows the loss scale; None for none.

    >>> import fnn
    >>> in_precision(fnn.dense(2), fnn.optim.sgd(0.1), "float16")
    (mixed_precision(dense(2), 'float16'), dynamic_loss_scale(sgd(0.1)))
    """
    if precision is None:
        return model, optimizer
    check_precision(precision)
    names = (precision,) if isinstance(precision, str) else tuple(precision.values())
    if "float16" not in names:
        return mixed_precision(model, precision), optimizer
    optimizer = dynamic_loss_scale(optimizer)
    if opt_state is None:
        return mixed_precision(model, precision), optimizer
    if not isinstance(opt_state, LossScaleState):
        raise InputError(
            "an optimizer's state with a loss scale",
            describe(opt_state),
            "make the train state with precision= too",
        )
    return mixed_precision(model, precision, opt_state.scale), optimizer


@constructor
def dynamic_loss_scale(optimizer: Optimizer) -> Optimizer:
    """Dynamic loss scale of float16: halved where a gradient overflows, and the step left out.

    After 2,000 steps that were finite it is doubled, so that it stays near the largest that does
    not overflow. The state holds it; `fnn.train_step` multiplies the derivative of the loss by it.

    Update:    that of the optimizer inside where all of g is finite, else 0, and its state as it
        was

    Args:
        optimizer: the optimizer inside.
    Raises:    InputError for what is no optimizer.
    Source:    Micikevicius et al. 2018, "Mixed precision training", arXiv:1710.03740, section 3.2.

    >>> import fnn, jax.numpy as jnp
    >>> optimizer, params = dynamic_loss_scale(fnn.optim.sgd(0.5)), jnp.array([1.0])
    >>> state = optimizer.init(params)
    >>> updates, after = optimizer.update(jnp.array([jnp.inf]), state, params)
    >>> updates, float(after.scale / state.scale), int(after.skipped)
    (Array([0.], dtype=float32), 0.5, 1)
    """
    check_optimizer("an optimizer", optimizer)

    def init(params: Params, /) -> LossScaleState:
        scale, none = jnp.asarray(_FIRST_SCALE, jnp.float32), jnp.int32(0)
        return LossScaleState(optimizer.init(params), scale, none, jnp.int32(0))

    def update(
        grads: Grads, state: LossScaleState, params: Params, /, **extra: PyTree
    ) -> tuple[Updates, LossScaleState]:
        finite = _all_finite(grads)
        # By a condition, not number by number, as in `fnn.optim.skip_nonfinite`.
        updates, inner = jax.lax.cond(
            finite,
            lambda: _cast_like(*update_with(optimizer, grads, state.inner, params, extra), grads),
            lambda: (jax.tree.map(jnp.zeros_like, grads), state.inner),
        )
        return updates, _adapted(state, inner, finite)

    def step(gradient_at: GradientAt, params: Params, state: LossScaleState, /) -> Taken:
        value_and_aux, updates, inner = take_step(optimizer, gradient_at, params, state.inner)
        finite = _all_finite(updates)
        updates = jax.tree.map(lambda u: jnp.where(finite, u, jnp.zeros_like(u)), updates)
        inner = jax.tree.map(lambda new, old: jnp.where(finite, new, old), inner, state.inner)
        return value_and_aux, updates, _adapted(state, inner, finite)

    needed = getattr(optimizer, "step", None) is not None
    return Optimizer(init, update, step if needed else None)


def _cast_like(updates: Updates, inner: OptState, grads: Grads) -> tuple[Updates, OptState]:
    """Return updates in the dtypes of the gradient: both ways of a condition give the same."""
    return jax.tree.map(lambda u, g: u.astype(g.dtype), updates, grads), inner


def _all_finite(tree: PyTree) -> Array:
    found: list[Array] = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, found, jnp.ones((), bool))


def _adapted(state: LossScaleState, inner: OptState, finite: Array) -> LossScaleState:
    """Return the state after a step, with the scale of the next one."""
    good = jnp.where(finite, state.good_steps + 1, 0)
    grows = good == _STEPS_TO_GROW
    grown = jnp.where(grows, jnp.minimum(2 * state.scale, _LARGEST_SCALE), state.scale)
    scale = jnp.where(finite, grown, jnp.maximum(state.scale / 2, 1))
    skipped = state.skipped + (1 - finite.astype(jnp.int32))
    return LossScaleState(inner, scale, jnp.where(grows, 0, good), skipped)
