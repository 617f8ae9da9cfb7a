"""Noise while training: numbers or channels switched off, or something added."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.types import Array, Coefficient, Key, PyTree, Scalar, Unchecked
from fnn.layer import Layer, stateful

_STEPS = 2**16


@constructor
def dropout(rate: Coefficient) -> Layer:
    """Dropout: a random fraction `rate` of the elements set to zero in training.

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
    check_rate(rate)
    return _dropout(rate, lambda x: x.shape)


@constructor
def spatial_dropout(rate: Coefficient) -> Layer:
    """Spatial dropout: whole channels of an example set to zero in training.

    Neighbors in an image are alike, so that dropping one of them takes nothing away: here a
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
    check_rate(rate)

    def mask_shape(x: Any) -> tuple[int, ...]:
        if x.ndim < 2:
            raise InputError(
                "x of shape (B, ..., C)",
                str(tuple(x.shape)),
                "give x a batch axis, and keep the channels last",
            )
        return (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])

    return _dropout(rate, mask_shape)


@constructor
def gaussian_noise(std: Coefficient) -> Layer:
    """Gaussian noise added to every element in training.

    Forward ``y = x + std e``, e normal with mean 0 and variance 1, drawn from `key` for every
    number; backward ``dx = dy``, in training and out of it. x, y, e (...). Saved: nothing. The
    noise of a key is the same for float32 and float64.

    Raises `fnn.InputError` for a negative or infinite `std`, and for a missing key in
    training. Source: Bishop 1995, doi:10.1162/neco.1995.7.1.108.

    >>> import jax, jax.numpy as jnp
    >>> layer = gaussian_noise(0.1)
    >>> layer.apply((), (), jnp.ones(2), key=jax.random.key(2), train=True)[0].round(2)
    Array([1.04, 1.13], dtype=float32)
    >>> layer.apply((), (), jnp.ones(2))[0]
    Array([1., 1.], dtype=float32)
    """
    check.number(
        std, "std", least=0, remedy="pass the standard deviation of the noise, such as 0.1"
    )

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        del params
        check.floating(x)
        if not train or check.is_zero(std):
            return x, state, ()
        noise = jax.random.normal(given_key(key), x.shape, jnp.float32)
        return x + (jnp.asarray(std, noise.dtype) * noise).astype(x.dtype), state, ()

    return stateful(lambda key, x: ((), ()), forward, lambda params, residuals, dy: ((), dy))


def check_rate(rate: Unchecked, name: str = "rate") -> None:
    """Raise `InputError` unless `rate` is a fraction that leaves something."""
    check.number(rate, name, least=0, below=1, remedy="pass the fraction to drop, such as 0.2")


def given_key(key: Key) -> Array:
    """Return the key that a layer needs in training, or raise `InputError` if there is none."""
    if key is None:
        raise InputError(
            "a key in training",
            "None",
            "call model.apply(params, state, x, key=jax.random.key(0), train=True)",
        )
    return key


def _dropout(rate: Scalar, mask_shape: Callable[[Any], tuple[int, ...]]) -> Layer:
    """Drop by a mask of the given shape, which is that of x or broadcasts to it."""

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        del params
        check.floating(x)
        shape = mask_shape(x)
        if not train or check.is_zero(rate):
            return x, state, ()
        kept = drawn(given_key(key), rate, shape)
        return scaled(kept, rate, x), state, (kept,)

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        del params
        return (), scaled(residuals[0], rate, dy) if residuals else dy

    return stateful(lambda key, x: ((), ()), forward, backward)


def drawn(key: Array, rate: Scalar, shape: tuple[int, ...]) -> Array:
    """Return what is kept: booleans, True with probability ``1 - rate``, of half a word each."""
    count = math.prod(shape)
    words = jax.random.bits(key, (-(-count // 2),), jnp.uint32)
    halves = jnp.concatenate([words >> 16, words % _STEPS])[:count]
    return (halves < jnp.asarray(_threshold(rate), jnp.uint32)).reshape(shape)


def scaled(kept: Array, rate: Scalar, x: Any) -> Any:
    """Drop what is not kept, and scale what is, so that the mean stays."""
    share = _threshold(rate) / _STEPS
    return jnp.where(kept, x / (share.astype(x.dtype) if isinstance(share, Array) else share), 0)


def _threshold(rate: Scalar) -> Scalar:
    if isinstance(rate, Array):
        return jnp.maximum(jnp.round((1 - rate) * _STEPS), 1)
    return max(round((1 - rate) * _STEPS), 1)
