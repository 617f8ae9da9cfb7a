"""Noise while training: numbers or channels switched off, or something added."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.layer import Array, Key, Layer, PyTree, check_floating, from_forward
from fnn.origin import constructor

_STEPS = 2**16


@constructor
def dropout(rate: float) -> Layer:
    """Set a random fraction `rate` of the numbers to zero in training; do nothing otherwise.

    Forward ``y = m x / (1 - rate)`` with m = 0 with probability `rate`, else 1, drawn from `key`
    for every number: the mean of y is x. Backward ``dx = m dy / (1 - rate)``. Out of training
    ``y = x`` and ``dx = dy``. x, y, m (...). Saved in training: m, one byte a number; it is the
    same for float32 and float64. Sixteen random bits a number cost half of what JAX's own 32 do:
    `rate` is rounded to a multiple of 2^-16, in the drawing and in the formula.

    Raises `fnn.InputError` for a rate outside [0, 1), and for a missing key in training. Source:
    Srivastava et al. 2014, JMLR 15, section 4, scaled in training instead of afterwards.

    >>> import jax, jax.numpy as jnp
    >>> layer = dropout(0.5)
    >>> layer.apply((), (), jnp.ones(4), key=jax.random.key(0), train=True)[0]
    Array([0., 0., 2., 2.], dtype=float32)
    >>> layer.apply((), (), jnp.ones(4))[0]
    Array([1., 1., 1., 1.], dtype=float32)
    """
    check_rate("dropout", rate)
    return _dropout("dropout", rate, lambda x: x.shape)


@constructor
def spatial_dropout(rate: float) -> Layer:
    """Set whole channels of an example to zero in training; do nothing otherwise.

    Neighbours in an image are alike, so that dropping one of them takes nothing away: here a
    channel goes everywhere or nowhere. Forward ``y[b, ..., c] = m[b, c] x[b, ..., c] / (1 - rate)``
    with m = 0 with probability `rate`, else 1, drawn from `key` for every example and channel.
    Backward ``dx[b, ..., c] = m[b, c] dy[b, ..., c] / (1 - rate)``. Out of training ``y = x`` and
    ``dx = dy``. x, y (B, ..., C) with any axes between. Saved in training: m (B, 1, ..., C), one
    byte a number.

    Raises `fnn.InputError` as `dropout` does, and for an x of fewer than 2 axes. Source: Tompson
    et al. 2014, arXiv:1411.4280, section 3.2.

    >>> import jax, jax.numpy as jnp
    >>> layer = spatial_dropout(0.5)
    >>> layer.apply((), (), jnp.ones((1, 3, 2)), key=jax.random.key(5), train=True)[0]
    Array([[[2., 0.],
            [2., 0.],
            [2., 0.]]], dtype=float32)
    """
    check_rate("spatial_dropout", rate)

    def mask_shape(x: Any) -> tuple[int, ...]:
        if x.ndim < 2:
            raise InputError(
                "spatial_dropout",
                "x of shape (B, ..., C)",
                str(tuple(x.shape)),
                "give x a batch axis, and keep the channels last",
            )
        return (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])

    return _dropout("spatial_dropout", rate, mask_shape)


@constructor
def gaussian_noise(deviation: float) -> Layer:
    """Add normal noise to every number in training; do nothing otherwise.

    Forward ``y = x + deviation e``, e normal with mean 0 and variance 1, drawn from `key` for every
    number; backward ``dx = dy``, in training and out of it. x, y, e (...). Saved: nothing. The
    noise of a key is the same for float32 and float64.

    Raises `fnn.InputError` for a negative or infinite `deviation`, and for a missing key in
    training. Source: Bishop 1995, doi:10.1162/neco.1995.7.1.108.

    >>> import jax, jax.numpy as jnp
    >>> layer = gaussian_noise(0.1)
    >>> layer.apply((), (), jnp.ones(2), key=jax.random.key(2), train=True)[0].round(2)
    Array([1.04, 1.13], dtype=float32)
    >>> layer.apply((), (), jnp.ones(2))[0]
    Array([1., 1.], dtype=float32)
    """
    if not 0 <= deviation < float("inf"):
        raise InputError(
            "gaussian_noise",
            "a finite deviation of 0 or more",
            describe(deviation),
            "pass the standard deviation of the noise, such as 0.1",
        )

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        del params
        check_floating("gaussian_noise", x)
        if not train or deviation == 0:
            return x, state, ()
        noise = jax.random.normal(given_key("gaussian_noise", key), x.shape, jnp.float32)
        return x + (deviation * noise).astype(x.dtype), state, ()

    return from_forward(lambda key, x: ((), ()), forward, lambda params, residuals, dy: ((), dy))


def check_rate(where: str, rate: float) -> None:
    """Raise `InputError` unless `rate` is a fraction that leaves something."""
    if not 0 <= rate < 1:
        raise InputError(
            where, "a rate in [0, 1)", describe(rate), "pass the fraction to drop, such as 0.2"
        )


def given_key(where: str, key: Key) -> Array:
    """Return the key that a layer needs in training, or raise `InputError` if there is none."""
    if key is None:
        raise InputError(
            where,
            "a key in training",
            "None",
            "call model.apply(params, state, x, key=jax.random.key(0), train=True)",
        )
    return key


def _dropout(where: str, rate: float, mask_shape: Callable[[Any], tuple[int, ...]]) -> Layer:
    """Drop by a mask of the given shape, which is that of x or broadcasts to it."""

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        del params
        check_floating(where, x)
        shape = mask_shape(x)
        if not train or rate == 0:
            return x, state, ()
        kept = drawn(given_key(where, key), rate, shape)
        return scaled(kept, rate, x), state, (kept,)

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        del params
        return (), scaled(residuals[0], rate, dy) if residuals else dy

    return from_forward(lambda key, x: ((), ()), forward, backward)


def drawn(key: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """Return what is kept: booleans, True with probability ``1 - rate``, of half a word each."""
    count = math.prod(shape)
    words = jax.random.bits(key, (-(-count // 2),), jnp.uint32)
    halves = jnp.concatenate([words >> 16, words % _STEPS])[:count]
    return (halves < _threshold(rate)).reshape(shape)


def scaled(kept: Array, rate: float, x: Any) -> Any:
    """Drop what is not kept, and scale what is, so that the mean stays."""
    return jnp.where(kept, x / (_threshold(rate) / _STEPS), 0)


def _threshold(rate: float) -> int:
    return max(round((1 - rate) * _STEPS), 1)
