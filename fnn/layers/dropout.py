"""Noise in training: elements or channels switched off, or something added."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.precision import downcast, upcast
from fnn._core.types import (
    Array,
    Coefficient,
    Cotangent,
    Input,
    Key,
    Output,
    Params,
    Residuals,
    Scalar,
    State,
    Unchecked,
)
from fnn.layer import Layer, stateful

_STEPS = 2**16


@constructor
def dropout(rate: Coefficient) -> Layer:
    """Dropout: a random fraction of the elements set to zero in training.

    Sixteen random bits an element cost half of what JAX's own 32 do: `rate` is rounded to a
    multiple of 2^-16, in the drawing and in the formula. The mask of a key is the same for every
    dtype.

    Forward:   y = m x / (1 - rate), m = 0 with probability `rate`, else 1, drawn from `key` for
        every element: the mean of y is x; out of training y = x
    Backward:  dx = m dy / (1 - rate); out of training dx = dy

    Args:
        rate: the fraction dropped, in [0, 1); a plain 0 leaves the layer out.
    Shapes:    x, y, m (...)
    Saves:     in training m, one byte an element
    Raises:    InputError for a rate outside [0, 1), for a missing or wrong key in training, and for
        x of integers.
    Source:    Srivastava et al. 2014, JMLR 15, section 4, scaled in training instead of afterwards.

    >>> import jax, jax.numpy as jnp
    >>> layer = dropout(0.5)
    >>> layer.apply((), (), jnp.ones(4), key=jax.random.key(0), train=True)[0]
    Array([2., 0., 2., 0.], dtype=float32)
    >>> layer.apply((), (), jnp.ones(4))[0]
    Array([1., 1., 1., 1.], dtype=float32)
    """
    check_rate(rate)
    return _dropout(rate, lambda x: x.shape)


@constructor
def spatial_dropout(rate: Coefficient) -> Layer:
    """Spatial dropout: whole channels of an example set to zero in training.

    Neighbors in an image are alike, so that dropping one of them takes nothing away: here a
    channel goes everywhere or nowhere.

    Forward:   y[b, ..., c] = m[b, c] x[b, ..., c] / (1 - rate), m = 0 with probability `rate`, else
        1, drawn from `key` for every example and channel; out of training y = x
    Backward:  dx[b, ..., c] = m[b, c] dy[b, ..., c] / (1 - rate); out of training dx = dy

    Args:
        rate: the fraction dropped, in [0, 1); a plain 0 leaves the layer out.
    Shapes:    x, y (B, ..., C) with any axes between
    Saves:     in training m (B, 1, ..., C), one byte an element
    Raises:    InputError for a rate outside [0, 1), for a missing or wrong key in training, and for
        x of fewer than 2 axes or of integers.
    Source:    Tompson et al. 2014, arXiv:1411.4280, section 3.2.

    >>> import jax, jax.numpy as jnp
    >>> layer = spatial_dropout(0.5)
    >>> layer.apply((), (), jnp.ones((1, 3, 2)), key=jax.random.key(5), train=True)[0]
    Array([[[0., 2.],
            [0., 2.],
            [0., 2.]]], dtype=float32)
    """
    check_rate(rate)

    def mask_shape(x: Input) -> tuple[int, ...]:
        check.shape(x, "B ... C", remedy="give x a batch axis, and keep the channels last")
        return (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])

    return _dropout(rate, mask_shape)


@constructor
def gaussian_noise(std: Coefficient) -> Layer:
    """Gaussian noise: added to every element in training.

    The noise of a key is the same for every dtype.

    Forward:   y = x + std e, e normal with mean 0 and variance 1, drawn from `key` for every
        element; out of training y = x
    Backward:  dx = dy, in training and out of it

    Args:
        std: the standard deviation of the noise, 0 or more; a plain 0 leaves the layer out.
    Shapes:    x, y, e (...)
    Saves:     nothing
    Raises:    InputError for a negative or infinite `std`, for a missing or wrong key in training,
        and for x of integers.
    Source:    Bishop 1995, doi:10.1162/neco.1995.7.1.108.

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
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        del params
        check.flag(train, "train")
        check.floating(x)
        if not train or check.is_zero(std):
            return x, state, ()
        noise, wide = jax.random.normal(given_key(key), x.shape, jnp.float32), upcast(x)
        scaled_noise = (jnp.asarray(std, noise.dtype) * noise).astype(wide.dtype)
        return downcast(wide + scaled_noise, x), state, ()

    return stateful(
        lambda key, x: ((), ()),
        forward,
        lambda params, residuals, dy: ((), dy),
        positionwise=True,
    )


def check_rate(rate: Unchecked, name: str = "rate") -> None:
    """Raise `InputError` unless `rate` is a fraction that leaves something.

    Args:
        rate: the fraction to drop, in [0, 1).
        name: what the error calls it.
    """
    check.number(rate, name, least=0, below=1, remedy="pass the fraction to drop, such as 0.2")


def given_key(key: Key) -> Array:
    """Return the key that a layer needs in training, or raise `InputError` if there is none.

    Args:
        key: the key that the layer was called with, or None.
    """
    if key is None:
        raise InputError(
            "a key in training",
            "None",
            "call model.apply(params, state, x, key=jax.random.key(0), train=True)",
        )
    return check.key(key)


def _dropout(rate: Scalar, mask_shape: Callable[[Input], tuple[int, ...]]) -> Layer:
    """Drop by a mask of the given shape, which is that of x or broadcasts to it."""

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        del params
        check.flag(train, "train")
        check.floating(x)
        shape = mask_shape(x)
        if not train or check.is_zero(rate):
            return x, state, ()
        kept = drawn(given_key(key), rate, shape)
        return scaled(kept, rate, x), state, (kept,)

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        del params
        return (), scaled(residuals[0], rate, dy) if residuals else dy

    return stateful(lambda key, x: ((), ()), forward, backward, positionwise=True)


def drawn(key: Array, rate: Scalar, shape: tuple[int, ...]) -> Array:
    """Return what is kept: booleans, True with probability ``1 - rate``, of half a word each.

    The halves of a word are neighbors: a device draws those that it keeps, whichever axis is split.

    Args:
        key: what the mask is drawn with.
        rate: the probability that an element is dropped.
        shape: that of the mask.
    """
    *leading, last = shape or (1,)
    words = jax.random.bits(key, (*leading, -(-last // 2)), jnp.uint32)
    whole = (*leading, 2 * words.shape[-1])
    halves = jnp.stack([words % _STEPS, words >> 16], -1).reshape(whole)[..., :last]
    return (halves < jnp.asarray(_threshold(rate), jnp.uint32)).reshape(shape)


def scaled(kept: Array, rate: Scalar, x: Array) -> Array:
    """Drop what is not kept, and scale what is, so that the mean stays.

    Args:
        kept: booleans of the shape of x, or of one that broadcasts to it, as `drawn` gives them.
        rate: the one that they were drawn with.
        x: (...), or the dy of the same shape.
    """
    wide = upcast(x)
    # A product takes a CPU half of the time of a quotient.
    gain = jnp.asarray(_STEPS / _threshold(rate), wide.dtype)
    return downcast(jnp.where(kept, wide * gain, 0), x)


def _threshold(rate: Scalar) -> Scalar:
    """Return how many of the 2^16 values of half a word are kept, 1 at least."""
    if isinstance(rate, Array):
        return jnp.maximum(jnp.round((1 - rate.astype(jnp.float32)) * _STEPS), 1)
    return max(round((1 - rate) * _STEPS), 1)
