"""Noise in the targets, drawn anew for every batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Coefficient, Key, PyTree, Scalar
from fnn.gradient.objective import Estimator, Gradient, ValueAndGrad, as_batch, value_and_grad
from fnn.layer import Layer, output_shape
from fnn.losses import Loss

# Far from the small numbers that a model may fold into the key of a step.
_STREAM = 0x6C61626C


@constructor
def label_noise(
    *, flip: Coefficient = 0.0, std: Coefficient = 0.0, gradient: Gradient = "manual"
) -> Estimator:
    """Take the gradient for targets that are partly wrong, every time in another way.

    - `flip`: the probability with which a label becomes one of the others, each as likely; for
      labels -1 and +1 it changes sign.
    - `std`: ``t + std n`` for targets that are numbers, n standard normal.

    It stands in the place of the gradient's name, ``fnn.fit(..., gradient=label_noise(flip=0.1))``,
    and `gradient` says how the gradient is taken then. The noise comes from the key of the step,
    which training folds from its own; it stops with training, and the reported loss is that of the
    noisy targets. Unlike noise in the gradient it vanishes where the model cannot follow it, and so
    drives descent along the minima to flat ones.

    Raises `fnn.InputError` for a flip outside [0, 1], a negative std, both at once, targets
    of the wrong kind, and a missing key. Source: Blanc et al. 2019, arXiv:1904.09080, eq. 2;
    Damian, Ma and Lee 2021, arXiv:2106.06530 (flips of 0.2).

    >>> import fnn, jax, jax.numpy as jnp
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> train_state, history = fnn.fit(
    ...     fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.05), (x, 2 * x),
    ...     epochs=20, batch_size=16, key=jax.random.key(0), gradient=label_noise(std=0.1),
    ... )
    >>> bool(abs(train_state.params["weight"][0, 0] - 2) < 0.2)
    True
    """
    check.number(flip, "flip", least=0, most=1, remedy="pass a probability")
    check.number(std, "std", least=0, remedy="pass 0.1, say")
    flips, shakes = not check.is_zero(flip), not check.is_zero(std)
    if flips and shakes:
        raise InputError(
            "a flip for labels or a std for numbers", f"flip={flip} and std={std}", "leave one out"
        )

    def of(model: Layer, loss: Loss) -> ValueAndGrad:
        plain = value_and_grad(model, loss, gradient)

        def noisy(
            params: PyTree, state: PyTree, batch: Any, /, *, key: Key = None
        ) -> tuple[tuple[Array, PyTree], PyTree]:
            x, target, weights = as_batch(batch)
            target = jnp.asarray(target)
            if flips or shakes:
                own = jax.random.fold_in(check.key(key), _STREAM)
                if shakes:
                    target = _shaken(target, std, own)
                elif jnp.issubdtype(target.dtype, jnp.floating):
                    target = (
                        jnp.where(jax.random.bernoulli(own, flip, target.shape), -1, 1) * target
                    )
                else:
                    classes = output_shape(model, params, state, x).shape[-1]
                    target = _relabelled(target, flip, classes, own)
            batch = (x, target) if weights is None else (x, target, weights)
            return plain(params, state, batch, key=key)

        return noisy

    return Estimator(of)


def _shaken(target: Array, std: Scalar, key: Any) -> Array:
    if not jnp.issubdtype(target.dtype, jnp.floating):
        raise InputError(
            "targets of a floating dtype for a std",
            describe(target),
            "pass flip=0.1 for labels",
        )
    return target + std * jax.random.normal(key, target.shape, target.dtype)


def _relabelled(target: Array, flip: Scalar, classes: int, key: Any) -> Array:
    which, how = jax.random.split(key)
    other = jax.random.randint(how, target.shape, 1, max(classes, 2), target.dtype)
    wrong = (target + other) % jnp.asarray(classes, target.dtype)
    return jnp.where(jax.random.bernoulli(which, flip, target.shape), wrong, target)
