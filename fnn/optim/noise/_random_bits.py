"""Random bits for noise: a generator that fuses into the update, and Threefry beside it.

The counter generator makes the word at place i of an array from i and a key of two words alone::

    a = mix(i + key_0)
    word = a + mix(a ^ key_1)

with ``mix`` two multiplications and three shifts of 32 bits. Nothing but elementwise integer
arithmetic: XLA computes a word where the update needs it, no array of random numbers is stored, and
the words are the same under `jax.vmap`, and on any number of devices in any layout. Both mixers are
one to one; adding what goes in between makes the word a random function of the place, which may
repeat, and not a shuffle, which may not.

The two words come from Threefry, which hashes the optimizer's key, the step and the leaf, so that
streams of neighboring keys, steps and leaves have nothing in common. `benchmarks/dieharder.py`
puts streams to the test. It is made for noise, not for secrets: an adversary can invert it.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.errors import InputError
from fnn._core.types import Array, Scalar, Unchecked

Generator: TypeAlias = Literal["counter", "threefry"]


def check_generator(generator: Unchecked) -> None:
    """Raise `InputError` unless `generator` is the name of one."""
    check.one_of(generator, "generator", get_args(Generator))


def streams(key: Array, step: Scalar, count: int, generator: Generator) -> Array:
    """Return `count` keys, for `bits`: independent streams of one step of one optimizer.

    >>> import jax
    >>> streams(jax.random.key(0), 7, 3, "counter").shape
    (3, 2)
    """
    key = jax.random.fold_in(key, step)
    if generator == "threefry":
        return jax.random.split(key, count)
    return jax.random.bits(key, (count, 2), jnp.uint32)


def bits(stream: Array, shape: tuple[int, ...], generator: Generator) -> Array:
    """Return an array of random 32-bit words.

    Raises `InputError` for more than 2^32 of them from the counter.

    >>> import jax
    >>> stream = streams(jax.random.key(0), 7, 1, "counter")[0]
    >>> bits(stream, (2,), "counter").dtype
    dtype('uint32')
    """
    if generator == "threefry":
        return jax.random.bits(stream, shape, jnp.uint32)
    first = _mix(_places(shape) + stream[0])
    return first + _mix(first ^ stream[1])


def _places(shape: tuple[int, ...]) -> Array:
    """Return the places of an array, counted row by row; axis by axis, as none need be whole."""
    size = math.prod(shape)
    if size > 2**32:
        raise InputError(
            "at most 2^32 numbers in a leaf, the places that 32 bits count",
            f"{size}",
            "split the leaf, or pass generator='threefry'",
        )
    place = jnp.zeros(shape, jnp.uint32)
    for axis, length in enumerate(shape):
        stride = math.prod(shape[axis + 1 :])
        if length > 1:
            place += jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return place


def _mix(word: Array) -> Array:
    """Map 32-bit words to 32-bit words, one to one, every bit of the input moving every other.

    The pattern of Appleby's MurmurHash3 finalizer, with Wellons's and Ettinger's constants of least
    bias, https://github.com/skeeto/hash-prospector.
    """
    word ^= word >> 16
    word *= jnp.uint32(0x21F0AAAD)
    word ^= word >> 15
    word *= jnp.uint32(0xD35A2D97)
    return word ^ (word >> 15)
