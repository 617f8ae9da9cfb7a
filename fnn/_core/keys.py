"""Keys of `jax.random` as the words that they are made of: what cannot hold a key holds those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")


def is_key(leaf: Any) -> bool:
    """Say whether something is a key, one or several, or the shape of one; the new style alone.

    >>> is_key(jax.random.key(0)), is_key(jax.random.PRNGKey(0)), is_key(None)
    (True, False, False)
    """
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def words_of(leaf: Any) -> Any:
    """Return the words of a key, and anything else as it is.

    >>> words_of(jax.random.key(7)), words_of(1.5)
    (Array([0, 7], dtype=uint32), 1.5)
    """
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def on_words(function: Callable[..., Any], *leaves: jax.Array) -> jax.Array:
    """Return what a function makes of arrays; of keys, the key of what it makes of their words.

    >>> on_words(lambda words: words + 1, jax.random.key(7)) == jax.random.wrap_key_data(
    ...     jnp.array([1, 8], "uint32")
    ... )
    Array(True, dtype=bool)
    """
    made: jax.Array = function(*map(words_of, leaves))
    if not is_key(leaves[0]):
        return made
    return jax.random.wrap_key_data(jnp.asarray(made), impl=jax.random.key_impl(leaves[0]))


def generator_of(leaf: jax.Array | jax.ShapeDtypeStruct) -> str | None:
    """Return the name of a key's generator, also of the shape of one; None for another's.

    >>> generator_of(jax.eval_shape(lambda: jax.random.key(0, impl="rbg")))
    'rbg'
    """
    return next((g for g in _GENERATORS if jax.random.key(0, impl=g).dtype == leaf.dtype), None)
