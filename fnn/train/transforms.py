"""Data augmentation: transforms of batches of images, on the device, drawn from a key.

Each is a function ``(batch, key, step) -> batch`` for the `transform` of `fnn.fit` and `fnn.sweep`:
the key is one of the step, so that the same key and step give the same bits, in a run that goes on
too. They change x, an example at a time and each in its own way; targets and weights stay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import Described, constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Data, Unchecked
from fnn.gradient.objective import Batch, as_batch

Change: TypeAlias = Callable[[Array, Array, Array], Array]
Axis: TypeAlias = Literal["width", "height"]


@dataclass(frozen=True, eq=False, repr=False)
class BatchTransform(Described):
    """Transform of the x of a batch, ``transform(batch, key, step) -> batch``.

    Equal ones share a compiled program.

    Args:
        change: ``(x, key, step) -> x``, x (B, ...) with examples along the first axis.
        call: the call of the `constructor` that made it.
    Raises:    InputError for what is no function.

    >>> double = BatchTransform(lambda x, key, step: 2 * x)
    >>> double((jnp.ones((1, 2)), jnp.zeros(1)), jax.random.key(0), 0).x
    Array([[2., 2.]], dtype=float32)
    """

    functions: ClassVar[tuple[str, ...]] = ("change",)
    change: Change

    def __post_init__(self) -> None:
        remedy = "pass a function (x, key, step) -> x"
        check.function(self.change, "change", remedy, takes="x, key, step")

    def __call__(self, batch: Data, key: Array, step: Array) -> Batch:
        """Return the batch with another x."""
        found = as_batch(batch)
        return found._replace(x=self.change(found.x, check.key(key), step))


@constructor
def random_flip(probability: float = 0.5, *, axis: Axis = "width") -> BatchTransform:
    """Random flip: images mirrored, each with a probability.

    Args:
        probability: that an image is mirrored, from 0 to 1.
        axis: along which: ``"width"`` is from left to right, ``"height"`` upside down.
    Shapes:    x (B, H, W) or (B, H, W, C)
    Raises:    InputError for another probability or axis, and for x that is no images.
    Source:    Krizhevsky et al. 2012, section 4.1.

    >>> x = jnp.array([[[1.0, 2.0]]])
    >>> random_flip(1.0)((x, jnp.zeros(1)), jax.random.key(0), 0).x
    Array([[[2., 1.]]], dtype=float32)
    """
    check.number(probability, "probability", least=0, most=1)
    check.one_of(axis, "axis", ("width", "height"))

    def change(x: Array, key: Array, step: Array) -> Array:
        del step
        _check_images(x)
        mirrored = jax.random.bernoulli(key, float(probability), (len(x),))
        return jnp.where(_over_examples(mirrored, x), jnp.flip(x, 2 if axis == "width" else 1), x)

    return BatchTransform(change)


@constructor
def random_crop(padding: int) -> BatchTransform:
    """Random crop with padding: images moved by up to some pixels; what comes in is 0.

    Each is padded with zeros on all sides, and cut out again at its own place.

    Args:
        padding: by how many pixels at most in both directions, 1 or more.
    Shapes:    x (B, H, W) or (B, H, W, C)
    Raises:    InputError for another padding, and for x that is no images.
    Source:    He et al. 2016, section 4.2.

    >>> x = jnp.ones((1, 3, 3))
    >>> moved = random_crop(1)((x, jnp.zeros(1)), jax.random.key(0), 0).x
    >>> moved.shape, float(moved.sum()) in (4, 6, 9)
    ((1, 3, 3), True)
    """
    check.count(padding, "padding")

    def change(x: Array, key: Array, step: Array) -> Array:
        del step
        _check_images(x)
        around = [(0, 0), (padding, padding), (padding, padding), *[(0, 0)] * (x.ndim - 3)]
        corners = jax.random.randint(key, (len(x), 2), 0, 2 * padding + 1)

        cut = functools.partial(_cut, shape=x.shape[1:])
        return jax.vmap(cut)(jnp.pad(x, around), corners)

    return BatchTransform(change)


@constructor
def cutout(size: int) -> BatchTransform:
    """Cutout: a square of every image is 0, about a pixel drawn at random.

    At a border it is cut off.

    Args:
        size: of a side, in pixels, 1 or more.
    Shapes:    x (B, H, W) or (B, H, W, C)
    Raises:    InputError for another size, and for x that is no images.
    Source:    DeVries and Taylor 2017, "Improved regularization of convolutional neural networks
        with cutout".

    >>> x = jnp.ones((1, 5, 5))
    >>> float(cutout(1)((x, jnp.zeros(1)), jax.random.key(0), 0).x.sum())
    24.0
    """
    check.count(size, "size")

    def change(x: Array, key: Array, step: Array) -> Array:
        del step
        _check_images(x)
        inside = []
        for axis, one in zip((1, 2), jax.random.split(key), strict=True):
            first = jax.random.randint(one, (len(x), 1), 0, x.shape[axis]) - size // 2
            places = jnp.arange(x.shape[axis])[None]
            inside.append((places >= first) & (places < first + size))
        square = inside[0][:, :, None] & inside[1][:, None, :]
        return jnp.where(square.reshape(*square.shape, *[1] * (x.ndim - 3)), 0, x)

    return BatchTransform(change)


@constructor
def input_noise(std: float) -> BatchTransform:
    """Input noise: Gaussian noise added to x.

    Forward:   x + std N(0, 1)

    Args:
        std: its standard deviation, 0 or more.
    Shapes:    x (B, ...)
    Raises:    InputError for another std, and for x of integers.
    Source:    Bishop 1995, "Training with noise is equivalent to Tikhonov regularization".

    >>> x = jnp.zeros((1, 2))
    >>> bool((input_noise(0.1)((x, jnp.zeros(1)), jax.random.key(0), 0).x != 0).all())
    True
    """
    check.number(std, "std", least=0)

    def change(x: Array, key: Array, step: Array) -> Array:
        del step
        check.floating(x)
        return x + jnp.asarray(std, x.dtype) * jax.random.normal(key, x.shape, x.dtype)

    return BatchTransform(change)


@constructor
def compose(*transforms: BatchTransform) -> BatchTransform:
    """Composition of transforms: one after the other, each with a key of its own.

    Args:
        transforms: one or more of these, or functions ``(batch, key, step) -> batch``.
    Raises:    InputError for none, and for what is no function.

    >>> both = compose(random_flip(1.0), random_flip(1.0, axis="height"))
    >>> both((jnp.array([[[1.0, 2.0], [3.0, 4.0]]]), jnp.zeros(1)), jax.random.key(0), 0).x
    Array([[[4., 3.],
            [2., 1.]]], dtype=float32)
    >>> both == compose(random_flip(1.0), random_flip(1.0, axis="height"))
    True
    """
    if not transforms:
        raise InputError("one transform or more", "none", "pass some, or no transform to fit")
    for one in transforms:
        remedy = "pass transforms, or functions (batch, key, step) -> batch"
        check.function(one, "transforms", remedy, takes="batch, key, step")
    return _Composition(lambda x, key, step: x, transforms)


@dataclass(frozen=True, eq=False, repr=False)
class _Composition(BatchTransform):
    """Transforms one after the other; those of the user may change targets too."""

    transforms: tuple[Callable[[Batch, Array, Array], Batch], ...] = ()

    def __call__(self, batch: Data, key: Array, step: Array) -> Batch:
        for i, transform in enumerate(self.transforms):
            batch = transform(as_batch(batch), jax.random.fold_in(key, i), step)
        return as_batch(batch)


def _cut(image: Array, corner: Array, shape: tuple[int, ...]) -> Array:
    """Return a part of an image (H, W, ...) of a shape, from a corner (2,) on."""
    start = [corner[0], corner[1], *[jnp.zeros((), corner.dtype)] * (image.ndim - 2)]
    return jax.lax.dynamic_slice(image, start, shape)


def _check_images(x: Unchecked) -> None:
    """Raise unless x is a batch of images, with channels or without."""
    if getattr(x, "ndim", 0) not in (3, 4):
        got = str(x.shape) if hasattr(x, "shape") else describe(x)
        expected = "x of shape (B, H, W) or (B, H, W, C)"
        raise InputError(expected, got, "reshape it, as in x.reshape(-1, 28, 28)")


def _over_examples(values: Array, x: Array) -> Array:
    """Return (B,) in a shape that meets x (B, ...)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))
