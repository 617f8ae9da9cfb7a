"""The trial of a loss: its gradient, and what training takes for granted of its values."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.arrays import require_arrays
from fnn._core.errors import InputError, describe, entry
from fnn._core.linear_head import LinearHead
from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import (
    Array,
    Cotangent,
    Prediction,
    PyTree,
    Target,
    Unchecked,
)
from fnn.lab.agreement import Agreement, GradientError, Report, largest, leafwise
from fnn.lab.check import Gradients, gradients, normal_like, widened
from fnn.lab.tolerance import difference, rounding
from fnn.layer import Layer, stateless
from fnn.losses import Loss
from fnn.losses._loss import require_loss

_BATCH = "a value depends on other examples, or on their number: leave the mean to fnn.losses.mean"
_NO_DVALUES = "dvalues are left out: multiply by those of each example"


@entry
def check_loss(
    loss: Loss,
    prediction: Prediction,
    target: Target,
    *,
    seed: int = 0,
    numeric: bool = True,
    large: float | None = 100.0,
) -> Report:
    """Check a loss: its gradient, one value for each example, weights, and far predictions.

    `backward` against `jax.vjp` and central differences of `apply`, in float64 and for a random
    cotangent; the values of `forward` against those of `apply`. A value must not depend on other
    examples: it stays the same in a batch of twice the size, and its derivative in their
    predictions is 0. An example of weight 0 has no gradient. Where predictions are `large` times as
    large the gradient is compared too, and all numbers are finite in the precision of the
    prediction, whose dtype the gradient has, while values have float32 or better. Returns the
    table.

    Args:
        loss: of `fnn.losses`, or one's own.
        prediction: of two examples or more (B, ...), an array or tree, of random values; no array
            in it that is not of examples has a first axis of B.
        target: for these predictions (B, ...), an array or tree.
        seed: what the cotangent comes from.
        numeric: whether to compare with differences too. Switch it off at a kink.
        large: the factor of predictions far out; None for a loss that is meant to overflow there.
    Raises:    GradientError, an AssertionError that holds the table, where something disagrees or
        is not finite, with a guess at the mistake, such as 'sign', 'factor 2', 'mean over batch
        instead of a sum', or 'dvalues are left out'. InputError for what is no loss, for less than
        two examples, and for input that the loss refuses.

    >>> import fnn, jax
    >>> y, t = jax.random.normal(jax.random.key(1), (2, 5, 3))
    >>> check_loss(fnn.losses.huber(0.5), y, t).agrees
    True
    >>> wrong = fnn.losses.Loss(
    ...     lambda y, t: ((y - t) ** 2).sum(-1),
    ...     lambda y, t: (((y - t) ** 2).sum(-1), y - t),
    ...     lambda slope, dvalues: slope * dvalues[:, None],
    ...     lambda y, t: None,
    ... )
    >>> try:
    ...     check_loss(wrong, y, t)
    ... except fnn.GradientError as error:
    ...     print("factor 0.5" in str(error))
    True

    """
    require_loss(loss)
    check.count(seed, "seed", 0)
    check.flag(numeric, "numeric")
    if large is not None:
        check.number(large, "large", above=0)
    prediction = require_arrays(prediction, "prediction")
    # A loss may look at predictions alone.
    target = require_arrays(target, "target") if jax.tree.leaves(target) else target
    loss.check(prediction, target)
    examples, shape = _check_values(loss, prediction, target), _first_shape(prediction)
    far = None if large is None else _scaled(prediction, large)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        near = jax.tree.map(widened, (prediction, target))
        more = jax.jit(functools.partial(_more, loss, examples))(*near, jax.random.key(int(seed)))
        more = jax.tree.map(np.asarray, more)
    # One layer for both places: it is compiled once.
    ways = functools.partial(gradients, _as_layer(loss, near[1]), params=(), state=())
    ways = functools.partial(ways, seed=int(seed), numeric=bool(numeric))
    rows = _of_gradient(ways(prediction), shape, numeric)
    rows += _of_values(more, shape)
    if far is not None:
        outer = _of_gradient(ways(far), shape, False)
        rows += [row._replace(leaf=f"{row.leaf}, far out") for row in outer]
    if more.same_for_twice:
        rows = [row if row.agrees else row._replace(guess=_NO_DVALUES) for row in rows]
    report = Report(tuple(rows))
    if not report.agrees:
        raise GradientError(f"{_name(loss)} is no loss to train with\n{report}")
    if far is not None:
        _check_finite(loss, far, target, large or 1.0)
    return report


def _of_gradient(found: Gradients, shape: tuple[int, ...], numeric: bool) -> list[Agreement]:
    """Return the rows of the gradient, and of the values by both functions."""
    bound, manual = rounding("float64", int(found.terms)), {"dprediction": found.manual[1]}
    rows = leafwise(manual, {"dprediction": found.auto[1]}, "auto", bound, shape)
    if numeric and found.numeric is not None:
        slopes, doubts = (tree[1] for tree in found.numeric)
        doubt = largest(doubts) / (largest(slopes) or 1.0)
        sure = difference("float64", int(found.terms), doubt)
        rows += leafwise(manual, {"dprediction": slopes}, "numeric", sure, shape)
    return rows + leafwise({"values": found.y}, {"values": found.applied[0]}, "apply", bound)


def _of_values(more: _More, shape: tuple[int, ...]) -> list[Agreement]:
    """Return the rows of what training takes for granted."""
    bound = rounding("float64", max(math.prod(shape), more.values.size))
    zero = bound * float(more.scale)
    name = "values of two batches in one"
    rows = leafwise({name: more.doubled}, {name: more.values}, "one batch", bound)
    across = {"derivative in other examples": more.across}
    rows += leafwise(across, _zeros(across), "zero", zero)
    rows = [row if row.agrees else row._replace(guess=_BATCH) for row in rows]
    left_out = {"dprediction of weight 0": more.left_out}
    return rows + leafwise(left_out, _zeros(left_out), "zero", zero)


class _More(NamedTuple):
    """What is asked of a loss beside its gradient.

    Args:
        values: (2, B, ...), those of a batch, twice.
        doubled: (2, B, ...), those of the batch put twice into one.
        across: the derivative of the values of the first example in the predictions of others.
        left_out: the gradient of examples whose dvalues are 0.
        same_for_twice: whether the gradient is the same for twice the dvalues.
        scale: the largest entry of the gradient.

    """

    values: Array
    doubled: Array
    across: Cotangent
    left_out: Cotangent
    same_for_twice: Array
    scale: Array


def _more(loss: Loss, examples: int, prediction: Prediction, target: Target, key: Array) -> _More:
    """Compute what is asked of a loss beside its gradient."""
    values, residuals = loss.forward(prediction, target)
    twice = loss.apply(_twice(prediction, examples), _twice(target, examples))

    def first(floats: Prediction) -> Array:
        return loss.apply(combine(floats, prediction), target)[0].sum()

    dv = normal_like(key, values)
    there = (jnp.arange(examples) > 0).reshape((-1,) + (1,) * (values.ndim - 1))
    gradient, of_twice = loss.backward(residuals, dv), loss.backward(residuals, 2 * dv)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(of_twice), strict=True)
    sizes = [jnp.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(gradient)]
    left_out = loss.backward(residuals, jnp.where(there, 0, dv))
    return _More(
        jnp.stack([values, values]),
        twice.reshape(2, *values.shape),
        _others(jax.grad(first)(inexact_leaves(prediction)), examples),
        _others(left_out, examples),
        jnp.stack([(a == b).all() for a, b in pairs]).all(),
        jnp.stack(sizes).max(),
    )


def _as_layer(loss: Loss, target: Target) -> Layer:
    """Return the loss of a fixed target as a layer of its prediction: one checker serves both."""
    return stateless(
        lambda key, x: (),
        lambda params, x: loss.forward(x, target),
        lambda params, residuals, dy: ((), loss.backward(residuals, dy)),
        reference=lambda params, x: loss.apply(x, target),
    )


def _check_values(loss: Loss, prediction: Prediction, target: Target) -> int:
    """Return the number of examples, or raise unless values and gradient are what they should be.

    Nothing is computed.
    """
    applied = jax.eval_shape(loss.apply, prediction, target)
    values, residuals = jax.eval_shape(loss.forward, prediction, target)
    for way, found in (("apply", applied), ("forward", values)):
        wide = jnp.issubdtype(found.dtype, jnp.floating) and jnp.finfo(found.dtype).bits >= 32
        if not wide or not found.shape:
            raise GradientError(
                f"{way} of {_name(loss)} should give values (B, ...) in float32 or better, one for"
                f" each example, and gives {describe(found)}"
            )
    gradient, floats = jax.eval_shape(loss.backward, residuals, values), inexact_leaves(prediction)
    wanted: Unchecked = [_shapes(tree) for tree in (gradient, floats)]
    if wanted[0] != wanted[1]:
        raise GradientError(
            f"backward of {_name(loss)} should give a gradient like the prediction, {wanted[1]},"
            f" and gives {wanted[0]}"
        )
    examples = int(values.shape[0])
    if examples < 2:
        raise InputError("two examples or more", f"{examples}", "pass a larger batch")
    return examples


def _check_finite(loss: Loss, prediction: Prediction, target: Target, large: float) -> None:
    """Raise unless values and gradient of far predictions are finite, in their own precision."""
    values, residuals = loss.forward(prediction, target)
    gradient = loss.backward(residuals, jnp.ones_like(values))
    for name, leaf in (("values", values), *(("gradient", g) for g in jax.tree.leaves(gradient))):
        wrong = np.argwhere(~np.isfinite(np.asarray(leaf, np.float64)))
        if len(wrong):
            raise GradientError(
                f"the {name} of {_name(loss)} are not finite at {wrong[0].tolist()} for predictions"
                f" {large:g} times as large: use log-sum-exp and softplus, which do not overflow,"
                " or pass large=None where it is meant so"
            )


def _shapes(tree: PyTree) -> PyTree:
    """Return shapes and dtypes of a tree, in words."""
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{tuple(leaf.shape)}", tree)


def _first_shape(prediction: Prediction) -> tuple[int, ...]:
    """Return the shape of the first floating array of a prediction."""
    floats: list[Array] = jax.tree.leaves(inexact_leaves(prediction))
    if not floats:
        raise InputError("a prediction of floating values", describe(prediction), "pass floats")
    return tuple(floats[0].shape)


def _scaled(prediction: Prediction, factor: float) -> Prediction:
    """Return predictions a number of times as large."""
    floats = jax.tree.map(lambda a: jnp.asarray(factor, a.dtype) * a, inexact_leaves(prediction))
    return combine(floats, prediction)


def _is_head(node: PyTree) -> bool:
    return isinstance(node, LinearHead)


def _twice(tree: PyTree, examples: int) -> PyTree:
    """Return a batch put twice into one; of a linear head the features."""

    def twice(node: PyTree) -> PyTree:
        if _is_head(node):
            return node._replace(features=twice(node.features))
        of_examples = bool(node.shape) and node.shape[0] == examples
        return jnp.concatenate([node, node]) if of_examples else node

    return jax.tree.map(twice, tree, is_leaf=_is_head)


def _others(gradient: Cotangent, examples: int) -> PyTree:
    """Return the gradient in all examples but the first, of arrays that have some."""
    nodes: list[PyTree] = jax.tree.leaves(gradient, is_leaf=_is_head)
    arrays = [node.features if _is_head(node) else node for node in nodes]
    others = [array[1:] for array in arrays if array.shape and array.shape[0] == examples]
    return others[0] if len(others) == 1 else others


def _name(loss: Loss) -> str:
    return "the loss" if loss.call is None else str(loss)


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(np.zeros_like, tree)
