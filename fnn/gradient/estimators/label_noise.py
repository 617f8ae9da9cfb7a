"""Noise in the targets, drawn anew for every batch."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.arrays import as_labels
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.linear_head import LinearHead
from fnn._core.types import Array, Coefficient, Data, Key, Output, Params, Scalar, State, Unchecked
from fnn.combinators.sequence import Sequence
from fnn.gradient.objective import (
    Estimator,
    Gradient,
    ValueAndGrad,
    ValueStateGrads,
    as_batch,
    nesting,
    value_and_grad,
)
from fnn.layer import Layer, output_shape
from fnn.losses import Loss

# Far from the small numbers that a model may fold into the key of a step.
_STREAM = 0x6C61626C


@constructor
def label_noise(
    *, flip: Coefficient = 0.0, std: Coefficient = 0.0, gradient: Gradient = "manual"
) -> Estimator:
    """Label noise: the gradient for targets that are partly wrong, every time in another way.

    It stands in the place of the gradient's name, ``fnn.fit(..., gradient=label_noise(flip=0.1))``.
    The noise comes from the key of the step, which training folds from its own; it stops with
    training, and the reported loss is that of the noisy targets. Unlike noise in the gradient it
    vanishes where the model cannot follow it, and so drives descent along the minima to flat ones.
    Labels that the loss ignores, and those that are no class, stay.

    Args:
        flip: the probability, in [0, 1], with which a label becomes one of the others, each as
            likely; labels -1 and +1, in the shape of the prediction, change sign.
        std: the standard deviation of what is added to targets that are numbers, t + std n, n
            standard normal; 0 or more.
        gradient: how the gradient is taken then.
    Raises:    InputError for a flip outside [0, 1], a negative std, both at once, targets of the
        wrong kind, and a missing key.
    Source:    Blanc et al. 2019, arXiv:1904.09080, eq. 2; Damian, Ma and Lee 2021,
        arXiv:2106.06530 (flips of 0.2).

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
    if not check.is_zero(flip) and not check.is_zero(std):
        raise InputError(
            "a flip for labels or a std for numbers", f"flip={flip} and std={std}", "leave one out"
        )

    def of(model: Layer, loss: Loss) -> ValueAndGrad:
        plain = value_and_grad(model, loss, gradient)
        if check.is_zero(flip) and check.is_zero(std):
            return plain
        options = _Options(plain, model, loss, flip, std, nesting(gradient))
        return functools.partial(_noisy, options)

    return Estimator(of)


class _Options(NamedTuple):
    """The arguments of the constructor, and what they are used with."""

    plain: ValueAndGrad
    model: Layer
    loss: Loss
    flip: Coefficient
    std: Coefficient
    depth: int


def _noisy(
    options: _Options, params: Params, state: State, batch: Data, /, *, key: Key = None
) -> ValueStateGrads:
    """Return value, state and gradient for noisy targets."""
    x, target, weights = as_batch(batch)
    target = jnp.asarray(target)
    own = jax.random.fold_in(check.key(key), _STREAM + options.depth)
    if not check.is_zero(options.std):
        noisy = _shaken(target, options.std, own)
    else:
        prediction = output_shape(options.model, params, state, x)
        noisy = _flipped(target, options.flip, _class_axes(prediction), own)
    if options.loss.counted is not None:
        noisy = jnp.where(options.loss.counted(target), noisy, target.astype(noisy.dtype))
    batch = (x, noisy) if weights is None else (x, noisy, weights)
    return options.plain(params, state, batch, key=key)


def _class_axes(prediction: Output) -> tuple[int, ...]:
    """Return the shape of the logits that a prediction holds."""
    if isinstance(prediction, LinearHead):
        return (*prediction.features.shape[:-1], prediction.weight.shape[-1])
    if isinstance(prediction, Sequence):
        prediction = prediction.values
    if not hasattr(prediction, "shape"):
        raise InputError("a prediction of one array", describe(prediction), "pass std=0.1, say")
    return tuple(prediction.shape)


def _shaken(target: Array, std: Scalar, key: Array) -> Array:
    """Return targets that are numbers with noise added."""
    if not jnp.issubdtype(target.dtype, jnp.floating):
        raise InputError(
            "targets of a floating dtype for a std",
            describe(target),
            "pass flip=0.1 for labels",
        )
    return target + jnp.asarray(std, target.dtype) * jax.random.normal(
        key, target.shape, target.dtype
    )


def _flipped(target: Array, flip: Scalar, logits: tuple[int, ...], key: Array) -> Array:
    """Return labels of which some are others."""
    floats = jnp.issubdtype(target.dtype, jnp.floating)
    if not floats and target.ndim != len(logits):
        return _relabelled(as_labels(target), flip, logits[-1], key)
    check.values(
        target,
        lambda t: (t != 1) & (t != -1),
        "labels of integers, or -1 and +1, for a flip",
        "pass std=0.1 for numbers",
    )
    sign = jnp.where(jax.random.bernoulli(key, flip, target.shape), -1, 1).astype(target.dtype)
    # Under jit, what is no sign has no other: it is made visible.
    wrong: Unchecked = jnp.nan if floats else 0
    return jnp.where(jnp.abs(target) == 1, sign * target, wrong)


def _relabelled(target: Array, flip: Scalar, classes: int, key: Array) -> Array:
    """Return integer labels of which some are other classes."""
    which, how = jax.random.split(key)
    other = jax.random.randint(how, target.shape, 1, max(classes, 2), target.dtype)
    wrong = (target + other) % jnp.asarray(classes, target.dtype)
    known = (target >= 0) & (target < classes)
    return jnp.where(known & jax.random.bernoulli(which, flip, target.shape), wrong, target)
