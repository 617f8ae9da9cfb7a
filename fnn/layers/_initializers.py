"""How layers draw their weights: the default initializer, and what all initializers must give."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Unchecked

lecun_normal = jax.nn.initializers.lecun_normal()

_REMEDY = "pass one of jax.nn.initializers, such as jax.nn.initializers.lecun_normal()"


def check_initializer(initializer: Unchecked, name: str = "initializer") -> None:
    """Raise unless a value is a function of key, shape and dtype.

    Args:
        initializer: what may be one.
        name: what it is called.

    >>> check_initializer(lecun_normal)
    >>> check_initializer(jax.nn.relu)
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected initializer to be a function of (key, shape, \
    dtype), got one of (x); pass one of jax.nn.initializers, such as \
    jax.nn.initializers.lecun_normal()
    """
    check.function(initializer, name, _REMEDY, takes="key, shape, dtype")


def draw(
    initializer: jax.nn.initializers.Initializer,
    key: Array,
    shape: tuple[int, ...],
    dtype: Unchecked,
    name: str = "initializer",
) -> Array:
    """Return a weight as an initializer draws it, or raise unless it is one of that shape.

    Args:
        initializer: a function of key, shape and dtype.
        key: what it draws with.
        shape: of the weight.
        dtype: of the weight.
        name: what the initializer is called.

    >>> draw(lambda key, shape, dtype: jnp.ones(3), jax.random.key(0), (2, 3), jnp.float32)
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected initializer to give float32 of shape (2, 3), got \
    float32 of shape (3,); pass one of jax.nn.initializers, such as \
    jax.nn.initializers.lecun_normal()
    """
    key, expected = check.key(key), f"{name} to give {np.dtype(dtype).name} of shape {shape}"
    try:
        weight: Unchecked = initializer(key, shape, dtype)
        weight = jnp.asarray(weight) if isinstance(weight, np.ndarray) else weight
    except InputError:
        raise
    except Exception as error:
        raise InputError(expected, f"{type(error).__name__}: {error}", _REMEDY) from error
    if not (isinstance(weight, jax.Array) and (weight.shape, weight.dtype) == (shape, dtype)):
        raise InputError(expected, describe(weight), _REMEDY)
    check_drawn(weight, name)
    return weight


def check_drawn(weight: Array, name: str = "initializer") -> None:
    """Raise unless a weight, where it is known, is finite.

    Args:
        weight: as it was drawn.
        name: what the initializer is called.
    """
    check.values(
        weight, lambda w: ~np.isfinite(w), f"{name} to give finite values", _REMEDY, "weight"
    )
