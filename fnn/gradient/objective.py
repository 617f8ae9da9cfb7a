"""The gradient of the objective, three ways: by hand, by autodiff, by differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias, get_args

import jax

from fnn.errors import InputError, describe
from fnn.gradient.numeric import numeric_gradient
from fnn.layer import Array, Key, Layer, PyTree, floating, merged
from fnn.losses import Loss, mean
from fnn.origin import Made

GradientName: TypeAlias = Literal["manual", "auto", "numeric"]


class ValueAndGrad(Protocol):
    """``(params, state, batch, *, key=None) -> ((value, state), grads)``, in training mode."""

    def __call__(
        self, params: PyTree, state: PyTree, batch: Any, /, *, key: Key = None
    ) -> tuple[tuple[Array, PyTree], PyTree]: ...


class Estimator(Made):
    """A way to the gradient of one's own: a function ``(model, loss) -> ValueAndGrad``."""

    def __init__(self, of: Callable[[Layer, Loss], ValueAndGrad]):
        self.of = of


Gradient: TypeAlias = GradientName | Estimator


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
    - an `Estimator`, which changes the batch or the gradient: `fnn.optim.label_noise`,
      `fnn.optim.dp_sgd`.

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
        raise InputError(
            "value_and_grad", "a Layer", describe(model), "build one, as in fnn.serial(...)"
        )
    if not isinstance(loss, Loss):
        raise InputError(
            "value_and_grad", "a Loss", describe(loss), "pass one, as in fnn.losses.cross_entropy()"
        )
    if isinstance(gradient, Estimator):
        return gradient.of(model, loss)
    if gradient not in get_args(GradientName):
        raise InputError(
            "value_and_grad",
            f"a gradient of {', '.join(map(repr, get_args(GradientName)))}",
            describe(gradient),
            "pass one of these names",
        )

    def objective(params: PyTree, state: PyTree, batch: Any, key: Key) -> tuple[Array, PyTree]:
        return objective_of(model, loss, params, state, *unpack(batch), key)

    def manual(
        params: PyTree, state: PyTree, batch: Any, /, *, key: Key = None
    ) -> tuple[tuple[Array, PyTree], PyTree]:
        value_and_state, (grads, _) = pull_back(model, loss, params, state, *unpack(batch), key)
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


def pull_back(
    model: Layer,
    loss: Loss,
    params: PyTree,
    state: PyTree,
    x: Any,
    target: Any,
    weights: Any,
    key: Key,
) -> tuple[tuple[Array, PyTree], tuple[PyTree, Any]]:
    """Return ``(value, state), (dparams, dx)`` by the hand rules: forwards, then backwards."""
    prediction, state, residuals = model.forward(params, state, x, key=key, train=True)
    values, slope = loss.forward(prediction, target)
    value, dvalues = mean(values, weights)
    dprediction = loss.backward(slope, dvalues)
    return (value, state), model.backward(params, residuals, dprediction)


def auto_pull_back(model: Layer, loss: Loss, *run: Any) -> tuple[Any, tuple[PyTree, Any]]:
    """Return ``(value, state), (dparams, dx)`` by autodiff: the other way than `pull_back`."""
    params, x = run[0], run[2]
    return jax.value_and_grad(objective_in(model, loss, run), (0, 1), has_aux=True)(
        params, floating(x)
    )


def objective_in(model: Layer, loss: Loss, run: Any) -> Callable[[PyTree, Any], Any]:
    """Return ``(params, floats of x) -> (value, state)``, the rest of a run being fixed."""
    _, state, x, target, weights, key = run

    def objective(params: PyTree, floats: Any) -> tuple[Array, PyTree]:
        x_again = merged(floats, x)
        return objective_of(model, loss, params, state, x_again, target, weights, key)

    return objective


def unpack(batch: Any) -> tuple[Any, Any, Any]:
    """Split a batch into x, target and weights (None when it has none)."""
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise InputError(
            "batch", "(x, target) or (x, target, weights)", describe(batch), "pass a tuple"
        )
    x, target, *weights = batch
    return x, target, weights[0] if weights else None
