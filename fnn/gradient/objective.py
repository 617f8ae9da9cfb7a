"""The gradient of the objective, three ways: by hand, by autodiff, by differences."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.arrays import as_arrays, require_arrays
from fnn._core.description import Described
from fnn._core.errors import InputError, describe, entry, named, naming
from fnn._core.mesh import automatic, layouts, vary_over, varying_axes
from fnn._core.place import check_place, first_difference
from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import (
    Array,
    Cotangent,
    Data,
    Grads,
    Input,
    Key,
    Params,
    Prediction,
    PyTree,
    Scalar,
    State,
    Target,
    Unchecked,
)
from fnn.gradient.numeric import numeric_gradient
from fnn.layer import Layer, require_layer
from fnn.losses import Loss, mean
from fnn.losses._loss import counted_weights, cover, require_loss

GradientName: TypeAlias = Literal["manual", "auto", "numeric"]
# (value, state), grads
ValueStateGrads: TypeAlias = tuple[tuple[Array, State], Grads]


class ValueAndGrad(Protocol):
    """``(params, state, batch, *, key=None) -> ((value, state), grads)``, in training mode."""

    def __call__(
        self, params: Params, state: State, batch: Data, /, *, key: Key = None
    ) -> ValueStateGrads: ...


@dataclass(frozen=True, eq=False, repr=False)
class Estimator(Described):
    """Gradient estimator: a way to the gradient of one's own.

    Args:
        of: ``(model, loss) -> ValueAndGrad``.
        call: the call of the `constructor` that made it.
    Raises:    InputError for what is no function.

    """

    functions: ClassVar[tuple[str, ...]] = ("of",)
    of: Callable[[Layer, Loss], ValueAndGrad]

    def __post_init__(self) -> None:
        check.function(self.of, "of", "pass a function, see fnn.Estimator", takes="model, loss")


Gradient: TypeAlias = GradientName | Estimator


@entry
def value_and_grad(model: Layer, loss: Loss, gradient: Gradient = "manual") -> ValueAndGrad:
    """Return the function that gives the objective and its gradient in the parameters.

    The objective is ``mean_b loss(model(x_b), target_b)``, in training mode and in float32 or
    better; with a batch ``(x, target, weights)`` the mean is weighted. An example of weight 0 is
    left out, whatever it holds: the first example that counts stands in its place, so that nothing
    of it reaches a layer, and its values are not looked at. A value whose target the loss ignores
    counts as one of weight 0. Where nothing counts, objective and gradient are 0.

    The returned function maps ``(params, state, (x, target), *, key=None)`` to ``((value, state),
    grads)``, grads having the structure of params. On a mesh of devices all is that of the whole
    batch, wherever its parts lie; under `jax.shard_map` value and gradient are those of a device's
    own share, with and without ``check_vma``, whichever the `gradient`: average both over the axis,
    as in ``jax.lax.pmean(grads, "data")``. `jax.grad` of a model there has the meaning of JAX,
    which for parameters that all devices hold alike is the sum over them where ``check_vma`` is.

    Args:
        model: the layer to differentiate.
        loss: compares its outputs with the targets.
        gradient: ``"manual"``, the chain rule by the layers' own `backward`, which calls no
            differentiation of JAX (layers made by `fnn.autodiff` aside); ``"auto"``,
            `jax.value_and_grad` of the objective; ``"numeric"``, central differences
            ``(f(p + h) - f(p - h)) / 2h`` with ``h = eps^(1/3) max(1, |p|)``, two evaluations for
            each parameter: for small models, and sharp in float64 (some 10 digits), not in float32
            (some 4); or an `Estimator`, which changes the batch or the gradient:
            `fnn.label_noise`, `fnn.dp_sgd`. All are drop-in replacements of each other.
    Raises:    InputError for another `gradient`, and for what is no layer or no loss; the returned
        function for parameters and state of another model.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model, loss = fnn.dense(1), fnn.losses.squared_error()
    >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 1)))
    >>> batch = jnp.array([[1.0], [2.0]]), jnp.array([[2.0], [4.0]])
    >>> params = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> (value, state), grads = value_and_grad(model, loss)(params, state, batch)
    >>> value, grads["weight"]
    (Array(2.5, dtype=float32), Array([[-5.]], dtype=float32))

    """
    require_layer(model)
    require_loss(loss)
    if isinstance(gradient, Estimator):
        estimate = gradient.of(model, loss)
        return estimate if gradient.call is None else named(gradient.call.public_name, estimate)
    check.one_of(gradient, "gradient", get_args(GradientName), "pass one of these names")
    way = {"manual": _manual, "auto": _auto, "numeric": _numeric}[gradient]
    run = functools.partial(way, model, loss)

    def gradient_of(
        params: Params, state: State, batch: Data, /, *, key: Key = None
    ) -> ValueStateGrads:
        with naming("fnn.value_and_grad"):
            made = as_batch(batch)
            require_arrays(made.x)
            check_place(model, params, state, made.x)
        return run(_local(params, state, made, key), state, made, key)

    return gradient_of


def _local(params: Params, *others: PyTree) -> Params:
    """Return parameters whose gradient is that of each device's share under `jax.shard_map`."""
    return vary_over(params, varying_axes(params, others))


def _manual(
    model: Layer, loss: Loss, params: Params, state: State, batch: Batch, key: Key
) -> ValueStateGrads:
    """Return value, state and the gradient by hand."""
    value_and_state, (grads, _) = manual_gradients(model, loss, params, state, *batch, key)
    differs = first_difference(params, grads, dtypes=False)
    if differs:
        remedy = (
            "let every backward return (dparams, dx), dparams with the shapes of the parameters"
        )
        raise InputError("dparams of the model's backward like its parameters", differs, remedy)
    return value_and_state, grads


def _auto(
    model: Layer, loss: Loss, params: Params, state: State, batch: Batch, key: Key
) -> ValueStateGrads:
    """Return value, state and the gradient by autodiff."""

    def objective(params: Params) -> tuple[Array, State]:
        return _objective_of(model, loss, params, state, *batch, key)

    value_and_state, grads = jax.value_and_grad(objective, has_aux=True)(params)
    return value_and_state, _where_any_counts(loss, batch.target, batch.weights, grads)


def _numeric(
    model: Layer, loss: Loss, params: Params, state: State, batch: Batch, key: Key
) -> ValueStateGrads:
    """Return value, state and the gradient by differences."""

    def objective(params: Params) -> tuple[Array, State]:
        return _objective_of(model, loss, params, state, *batch, key)

    grads = numeric_gradient(lambda p: objective(p)[0], params)
    return objective(params), grads


def _objective_of(
    model: Layer,
    loss: Loss,
    params: Params,
    state: State,
    x: Input,
    target: Target,
    weights: Array | None,
    key: Key,
) -> tuple[Array, State]:
    """Return the mean loss of a batch in training mode, and the new state."""
    weights = counted_weights(loss, target, weights)
    x = fill(x, weights)
    prediction, state = model.apply(params, state, x, key=key, train=True)

    def value(prediction: Prediction, target: Target, weights: Array | None) -> Array:
        return mean(loss.apply(_cover_left_out(prediction, weights), target), weights)[0]

    layout = layouts(0.0, prediction, target)
    return automatic(value, layout, prediction, target, weights), state


def manual_gradients(
    model: Layer,
    loss: Loss,
    params: Params,
    state: State,
    x: Input,
    target: Target,
    weights: Array | None,
    key: Key,
) -> tuple[tuple[Array, State], tuple[Grads, Cotangent]]:
    """Return ``(value, state), (dparams, dx)`` by hand: forwards, then backwards.

    Args:
        model: the layer.
        loss: compares its outputs with the targets.
        params: its parameters.
        state: what its layers remember.
        x: (B, ...), an array or a tree of arrays.
        target: (B, ...), what the loss compares with.
        weights: (B, ...), one for each value of the loss; None where all count alike.
        key: of the randomness of the layers; None where there is none.
    """
    weights = counted_weights(loss, target, weights)
    x = fill(x, weights)
    prediction, state, residuals = model.forward(params, state, x, key=key, train=True)

    def scored(
        prediction: Prediction, target: Target, weights: Array | None
    ) -> tuple[Array, Cotangent]:
        prediction = _cover_left_out(prediction, weights)
        made = loss.forward(prediction, target)
        values, slope = check.returned(made, "values, residuals", "the loss's forward")
        value, dvalues = mean(values, weights)
        # A derivative that is the same everywhere still is one of values that differ.
        dvalues = vary_over(dvalues, varying_axes(values))
        dprediction = _cover_left_out(loss.backward(slope, dvalues), weights)
        return value, vary_over(dprediction, varying_axes(prediction))

    layout = layouts((0.0, inexact_leaves(prediction)), prediction, target)
    value, dprediction = automatic(scored, layout, prediction, target, weights)
    dparams, dx = model.backward(params, residuals, dprediction)
    dparams = _where_any_counts(None, target, weights, dparams)
    return (value, state), (dparams, _uncovered(dx, weights))


def auto_gradients(
    model: Layer, loss: Loss, *run: Unchecked
) -> tuple[tuple[Array, State], tuple[Grads, Cotangent]]:
    """Return ``(value, state), (dparams, dx)`` by autodiff, as `manual_gradients` by hand.

    Args:
        model: the layer.
        loss: compares its outputs with the targets.
        run: ``params, state, x, target, weights, key``, as `manual_gradients` takes them.
    """
    params, state, x, target, weights, key = run
    # Alike for x, of which a part may be the same on all devices, such as the weight of a head.
    params, floats = _local((params, inexact_leaves(x)), state, x, target, weights, key)
    value_and_state, (dparams, dx) = jax.value_and_grad(
        objective_in(model, loss, run), (0, 1), has_aux=True
    )(params, floats)
    return value_and_state, (_where_any_counts(loss, target, weights, dparams), dx)


def objective_in(
    model: Layer, loss: Loss, run: tuple[Unchecked, ...]
) -> Callable[[Params, Input], tuple[Array, State]]:
    """Return ``(params, floats of x) -> (value, state)``, the rest of a run being fixed.

    Args:
        model: the layer.
        loss: compares its outputs with the targets.
        run: ``(params, state, x, target, weights, key)``, as `manual_gradients` takes them.
    """
    _, state, x, target, weights, key = run

    def objective(params: Params, floats: Input) -> tuple[Array, State]:
        x_again = combine(floats, x)
        return _objective_of(model, loss, params, state, x_again, target, weights, key)

    return objective


def fill(tree: PyTree, weights: Array | None) -> PyTree:
    """Return a tree of arrays with the first example that counts in place of all of weight 0.

    What such an example holds, be it NaN, then reaches nothing: 0 times infinity is no number, so
    that a gradient of 0 would not be enough.

    Args:
        tree: arrays (B, ...); those of another length, and numbers, stay as they are.
        weights: (B, ...), an example counts where one of its weights is not 0; None for all.

    >>> fill(jnp.array([[1.0], [jnp.nan]]), jnp.array([0.5, 0.0]))
    Array([[1.],
           [1.]], dtype=float32)
    """
    if weights is None or not np.ndim(weights):
        return tree

    def filled(tree: PyTree, weights: Array) -> PyTree:
        counts = _examples_that_count(weights)
        return jax.tree.map(functools.partial(_fill_leaf, counts, counts.argmax()), tree)

    return automatic(filled, layouts(tree, weights), tree, weights)


def _fill_leaf(counts: Unchecked, first: Array, leaf: Unchecked) -> Array:
    """Fill one leaf; NumPy's stay NumPy's."""
    if not np.ndim(leaf) or leaf.shape[0] != counts.shape[0]:
        return leaf
    # An array of NumPy keeps its dtype and place, where the weights are known.
    known = not isinstance(leaf, jax.Array) and not isinstance(counts, jax.Array)
    xp: Any = np if known else jnp
    stand_in = leaf[first] if known else jax.lax.stop_gradient(jnp.asarray(leaf)[first])
    # Where none counts it is one that does not: zeros are better.
    stand_in = xp.where(counts.any(), stand_in, xp.zeros_like(stand_in))
    where = counts.reshape(counts.shape + (1,) * (leaf.ndim - 1))
    filled: Array = xp.where(where, leaf, stand_in[None])
    return filled


def _examples_that_count(weights: Array) -> Array:
    """Return booleans (B,): an example counts where one of its values does."""
    counts: Array = _nonzero(weights)
    return counts.any(tuple(range(1, counts.ndim)))


def _nonzero(weights: Array) -> Array:
    """Return True where a weight is not 0; of NumPy where the weights are known."""
    known: Unchecked = weights if hasattr(weights, "dtype") else np.asarray(weights)
    nonzero: Array = known if known.dtype == bool else known != 0
    return nonzero


def _cover_left_out(prediction: PyTree, weights: Array | None) -> PyTree:
    """Return a prediction, or its derivative, with zeros where the weight is 0."""
    return prediction if weights is None else cover(prediction, _nonzero(weights))


def _where_any_counts(
    loss: Loss | None, target: Target, weights: Array | None, grads: Grads
) -> Grads:
    """Return gradients, 0 where nothing counts: they are then 0 times anything."""
    weights = weights if loss is None else counted_weights(loss, target, weights)
    if weights is None:
        return grads
    some = _nonzero(weights).any()
    return jax.tree.map(lambda g: jnp.where(some, g, jnp.zeros_like(g)), grads)


def _uncovered(dx: Cotangent, weights: Array | None) -> Cotangent:
    """Return the derivative in x where it was not filled, 0 where it was."""
    if weights is None or not np.ndim(weights):
        return dx
    counts = _examples_that_count(weights)
    return jax.tree.map(lambda leaf: cover(leaf, counts), dx)


class Batch(NamedTuple):
    """Batch: examples, what the model should give for them, and how much each counts.

    Args:
        x: (B, ...), an array or a tree of arrays.
        target: (B, ...), what the loss compares with.
        weights: (B, ...), one for each value of the loss, 0 or more; None where all count alike.

    """

    x: Input
    target: Target
    weights: Scalar = None


def as_batch(batch: Unchecked) -> Batch:
    """Return a batch of ``(x, target)`` or ``(x, target, weights)``, its arrays as JAX takes them.

    Args:
        batch: a tuple or list of two or three parts, each an array or a tree of arrays.

    >>> as_batch((1, 2))
    Batch(x=1, target=2, weights=None)
    """
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise InputError("(x, target) or (x, target, weights)", describe(batch), "pass a tuple")
    made = Batch(*batch)
    return Batch(*(as_arrays(part, name) for name, part in zip(made._fields, made, strict=True)))


def nesting(gradient: Gradient) -> int:
    """Return how many estimators of fnn a gradient stands in: their noise must differ.

    Args:
        gradient: the name of a way to the gradient, or an estimator.

    >>> import fnn
    >>> nesting("manual"), nesting(fnn.label_noise(flip=0.1)), nesting(fnn.dp_sgd(1.0, 1.0))
    (0, 1, 1)
    """
    if not isinstance(gradient, Estimator) or gradient.call is None:
        return 0
    return 1 + nesting(gradient.call.arguments().get("gradient", "manual"))
