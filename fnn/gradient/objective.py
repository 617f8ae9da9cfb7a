"""The gradient of the objective, three ways: by hand, by autodiff, by differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, get_args

import jax

from fnn._core.description import Described
from fnn._core.errors import InputError, describe, entry, named
from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import Array, Data, Input, Key, PyTree, Scalar, Target
from fnn.gradient.numeric import numeric_gradient
from fnn.layer import Layer
from fnn.losses import Loss, mean

GradientName: TypeAlias = Literal["manual", "auto", "numeric"]


class ValueAndGrad(Protocol):
    """``(params, state, batch, *, key=None) -> ((value, state), grads)``, in training mode."""

    def __call__(
        self, params: PyTree, state: PyTree, batch: Any, /, *, key: Key = None
    ) -> tuple[tuple[Array, PyTree], PyTree]: ...


@dataclass(frozen=True, eq=False, repr=False)
class Estimator(Described):
    """A way to the gradient of one's own: a function ``(model, loss) -> ValueAndGrad``."""

    functions: ClassVar[tuple[str, ...]] = ("of",)
    of: Callable[[Layer, Loss], ValueAndGrad]


Gradient: TypeAlias = GradientName | Estimator


@entry
def value_and_grad(model: Layer, loss: Loss, gradient: Gradient = "manual") -> ValueAndGrad:
    """Return the function that gives the objective and its gradient in the parameters.

    The objective is ``mean_b loss(model(x_b), target_b)``, in training mode; with a batch ``(x,
    target, weights)`` the mean is weighted. The three ways are drop-in replacements of each other:

    - ``"manual"``: the chain rule by the layers' own `backward`. It calls no differentiation of
      JAX (layers made by `fnn.autodiff` aside).
    - ``"auto"``: `jax.value_and_grad` of the objective.
    - ``"numeric"``: central differences ``(f(p + h) - f(p - h)) / 2h`` with ``h = eps^(1/3)
      max(1, |p|)``, two evaluations for each parameter: for small models, and sharp in float64
      (some 10 digits), not in float32 (some 4).
    - an `Estimator`, which changes the batch or the gradient: `fnn.label_noise`,
      `fnn.dp_sgd`.

    The returned function maps ``(params, state, (x, target), *, key=None)`` to ``((value, state),
    grads)``, grads having the structure of params.

    Raises `fnn.InputError` for another `gradient`, and for what is no layer or no loss.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model, loss = fnn.dense(1), fnn.losses.squared_error()
    >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 1)))
    >>> batch = jnp.array([[1.0], [2.0]]), jnp.array([[2.0], [4.0]])
    >>> params = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> (value, state), grads = value_and_grad(model, loss)(params, state, batch)
    >>> value, grads["weight"]
    (Array(2.5, dtype=float32), Array([[-5.]], dtype=float32))
    """
    if not isinstance(model, Layer):
        raise InputError("a Layer", describe(model), "build one, as in fnn.serial(...)")
    if not isinstance(loss, Loss):
        raise InputError("a Loss", describe(loss), "pass one, as in fnn.losses.cross_entropy()")
    if isinstance(gradient, Estimator):
        estimate = gradient.of(model, loss)
        return estimate if gradient.call is None else named(gradient.call.public_name, estimate)
    if gradient not in get_args(GradientName):
        raise InputError(
            f"a gradient of {', '.join(map(repr, get_args(GradientName)))}",
            describe(gradient),
            "pass one of these names",
        )

    def objective(params: PyTree, state: PyTree, batch: Any, key: Key) -> tuple[Array, PyTree]:
        return objective_of(model, loss, params, state, *as_batch(batch), key)

    def manual(
        params: PyTree, state: PyTree, batch: Any, /, *, key: Key = None
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        value_and_state, (grads, _) = manual_gradients(
            model, loss, params, state, *as_batch(batch), key
        )
        return value_and_state, grads

    def auto(
        params: PyTree, state: PyTree, batch: Any, /, *, key: Key = None
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        return jax.value_and_grad(objective, has_aux=True)(params, state, batch, key)

    def numeric(
        params: PyTree, state: PyTree, batch: Any, /, *, key: Key = None
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        grads = numeric_gradient(lambda p: objective(p, state, batch, key)[0], params)
        return objective(params, state, batch, key), grads

    return {"manual": manual, "auto": auto, "numeric": numeric}[gradient]


def objective_of(
    model: Layer,
    loss: Loss,
    params: PyTree,
    state: PyTree,
    x: Any,
    target: Any,
    weights: Any,
    key: Key,
) -> tuple[Array, PyTree]:
    """Return the mean loss of a batch in training mode, and the new state."""
    prediction, state = model.apply(params, state, x, key=key, train=True)
    return mean(loss.apply(prediction, target), weights)[0], state


def manual_gradients(
    model: Layer,
    loss: Loss,
    params: PyTree,
    state: PyTree,
    x: Any,
    target: Any,
    weights: Any,
    key: Key,
) -> tuple[tuple[Array, PyTree], tuple[PyTree, Any]]:
    """Return ``(value, state), (dparams, dx)`` by hand: forwards, then backwards."""
    prediction, state, residuals = model.forward(params, state, x, key=key, train=True)
    values, slope = loss.forward(prediction, target)
    value, dvalues = mean(values, weights)
    dprediction = loss.backward(slope, dvalues)
    return (value, state), model.backward(params, residuals, dprediction)


def auto_gradients(model: Layer, loss: Loss, *run: Any) -> tuple[Any, tuple[PyTree, Any]]:
    """Return ``(value, state), (dparams, dx)`` by autodiff, as `manual_gradients` by hand."""
    params, x = run[0], run[2]
    return jax.value_and_grad(objective_in(model, loss, run), (0, 1), has_aux=True)(
        params, inexact_leaves(x)
    )


def objective_in(model: Layer, loss: Loss, run: Any) -> Callable[[PyTree, Any], Any]:
    """Return ``(params, floats of x) -> (value, state)``, the rest of a run being fixed."""
    _, state, x, target, weights, key = run

    def objective(params: PyTree, floats: Any) -> tuple[Array, PyTree]:
        x_again = combine(floats, x)
        return objective_of(model, loss, params, state, x_again, target, weights, key)

    return objective


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


def as_batch(batch: Data) -> Batch:
    """Return a batch of ``(x, target)`` or ``(x, target, weights)``.

    >>> as_batch((1, 2))
    Batch(x=1, target=2, weights=None)
    """
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise InputError("(x, target) or (x, target, weights)", describe(batch), "pass a tuple")
    return Batch(*batch)
