"""How a window moves over the spatial axes: the options of convolutions and pools, checked once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import jax

from fnn._core import check
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Input, Unchecked

Sizes: TypeAlias = tuple[int, ...]
Pads: TypeAlias = tuple[tuple[int, int], ...]
Padding: TypeAlias = str | int | Pads

# Positions are counted in 32 bits.
_MOST = 2**31 - 1
_AXES = {1: "(B, W, C)", 2: "(B, H, W, C)", 3: "(B, D, H, W, C)"}


class Geometry(NamedTuple):
    """A window, one entry for each spatial axis: position p of y sees p stride + k dilation - low.

    `input_dilation` - 1 zeros lie between the elements of x, before it is padded.
    """

    size: Sizes
    stride: Sizes
    padding: Pads
    dilation: Sizes
    input_dilation: Sizes

    @property
    def span(self) -> Sizes:
        """How far the window reaches, with what dilation leaves out."""
        return span_of(self.size, self.dilation)

    def padded(self, spatial: Sizes) -> Sizes:
        """Return the spatial size of x dilated and padded."""
        axes = zip(spatial, self.input_dilation, self.padding, strict=True)
        return tuple((n - 1) * f + 1 + low + high for n, f, (low, high) in axes)

    def positions(self, spatial: Sizes) -> Sizes:
        """Return how often the window fits: the spatial size of y."""
        axes = zip(self.padded(spatial), self.span, self.stride, strict=True)
        return tuple((n - span) // s + 1 for n, span, s in axes)


def span_of(size: Sizes, dilation: Sizes) -> Sizes:
    """Return how far a window reaches, with what dilation leaves out."""
    return tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))


def side_by_side(sizes: Sizes) -> Geometry:
    """Return the geometry of windows of some sizes that neither overlap nor leave gaps."""
    unit = (1,) * len(sizes)
    return Geometry(sizes, sizes, ((0, 0),) * len(sizes), unit, unit)


class Window(NamedTuple):
    """The options of a window as they were given, an int standing for one on every axis.

    With `ceil_mode` a last window may begin inside x or the padding before it, and end beyond.
    """

    size: int | Sizes
    stride: int | Sizes
    padding: Padding
    dilation: int | Sizes = 1
    ceil_mode: bool = False

    def check(self, size: str = "kernel") -> int | None:
        """Raise `InputError` for options that are wrong whatever x is; return their axes.

        `size` is what the size of the window is called.
        """
        named = {size: self.size, "stride": self.stride, "dilation": self.dilation}
        for name, value in named.items():
            check_sizes(name, value)
        _check_padding(self.padding)
        return check_axes(named | {"padding": self.padding})

    def over(self, x: Input, most: int | None = None) -> Geometry:
        """Return the geometry of the window on x (B, *spatial, C); raise `InputError` if none."""
        check_spatial(x, self.check(), most)
        spatial = x.shape[1:-1]
        size, stride, dilation = (
            per_axis(option, len(spatial)) for option in (self.size, self.stride, self.dilation)
        )
        span = span_of(size, dilation)
        pads = self.pads(spatial, span, stride)
        if self.ceil_mode:
            axes = zip(spatial, span, stride, pads, strict=True)
            pads = tuple((pair[0], _ceil_padding(n, k, s, pair)) for n, k, s, pair in axes)
        geometry = Geometry(size, stride, pads, dilation, (1,) * len(spatial))
        if any(n < k for n, k in zip(geometry.padded(spatial), span, strict=True)):
            raise InputError(
                f"x of spatial size {span} or more, padding included",
                str(geometry.padded(spatial)),
                "take a smaller window or dilation, or more padding",
            )
        return geometry

    def pads(self, spatial: Sizes, span: Sizes, stride: Sizes) -> Pads:
        """Return the padding before and after each axis; that of SAME follows XLA."""
        if isinstance(self.padding, tuple):
            return self.padding
        if self.padding == "SAME":
            missing = [
                max((-(-n // s) - 1) * s + k - n, 0)
                for n, k, s in zip(spatial, span, stride, strict=True)
            ]
            return tuple((total // 2, total - total // 2) for total in missing)
        each = 0 if self.padding == "VALID" else int(self.padding)
        return ((each, each),) * len(spatial)


def _ceil_padding(n: int, span: int, stride: int, pads: tuple[int, int]) -> int:
    """Return the padding after an axis with which the last window has all of what it sees."""
    low, high = pads
    positions = -(-(n + low + high - span) // stride) + 1
    if (positions - 1) * stride >= n + low:
        positions -= 1
    return max(high, (positions - 1) * stride + span - n - low)


def _check_padding(padding: Unchecked) -> None:
    pairs = isinstance(padding, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and all(check.is_count(p, 0) for p in pair)
        for pair in padding
    )
    named = isinstance(padding, str) and padding in ("SAME", "VALID")
    if not (named or check.is_count(padding, 0) or (pairs and padding)):
        raise InputError(
            "padding 'SAME', 'VALID', an int of 0 or more, or a pair of them for each axis",
            describe(padding),
            "give pairs as in padding=((0, 1), (0, 1)): before and after, for each axis",
        )


def check_axes(options: dict[str, Unchecked]) -> int | None:
    """Raise `InputError` unless all tuples among options are as long; return how long."""
    ranks = {name: len(value) for name, value in options.items() if isinstance(value, tuple)}
    if len(set(ranks.values())) > 1:
        raise InputError(
            "options for one number of axes",
            ", ".join(f"{name} for {rank}" for name, rank in ranks.items()),
            "pass one entry for each spatial axis, or an int for all",
        )
    return next(iter(ranks.values()), None)


def check_sizes(name: str, value: Unchecked) -> None:
    """Raise `InputError` unless a value is an int of 1 or more, or a tuple of them."""
    each = value if isinstance(value, tuple) and value else (value,)
    if not all(check.is_count(size, 1) for size in each):
        raise InputError(
            f"{name} of 1 or more, one int or a tuple of them",
            describe(value),
            f"pass {name}=2 for all spatial axes, or {name}=(2, 3) for each",
        )
    if math.prod(map(int, each)) > _MOST:
        raise InputError(
            f"{name} of {_MOST} at most, the product of its axes",
            describe(value),
            "no array is as large",
        )


def check_spatial(x: Unchecked, rank: int | None, most: int | None = None) -> None:
    """Raise `InputError` unless x is floating and has `rank` axes between the first and last."""
    check.floating(x)
    axes = len(x.shape) - 2
    if axes < 1 or (rank is not None and axes != rank) or (most is not None and axes > most):
        shapes = "(B, *spatial, C)" if rank is None else _AXES.get(rank, f"(B, {rank} axes, C)")
        if rank is None and most is not None:
            shapes = ", ".join(_AXES[axes] for axes in range(1, most)) + f" or {_AXES[most]}"
        raise InputError(
            f"x of shape {shapes}",
            str(tuple(x.shape)),
            "give x a batch axis, spatial axes and the channels last, as in x[..., None]",
        )
    # The batch, which may be empty or symbolic, is not asked.
    if min(x.shape[1:]) < 1:
        raise InputError(
            "x whose spatial axes and channels are 1 or more",
            str(tuple(x.shape)),
            "leave such x out; the batch alone may be empty",
        )


def per_axis(option: int | Sizes, rank: int) -> Sizes:
    """Return an option for each spatial axis."""
    return option if isinstance(option, tuple) else (option,) * rank


def window_slices(padded: Array, geometry: Geometry, positions: Sizes) -> Iterator[Array]:
    """Return what each element of the window sees, in row-major order: (B, *positions, C) each."""
    for offset in itertools.product(*map(range, geometry.size)):
        starts = [k * d for k, d in zip(offset, geometry.dilation, strict=True)]
        stops = [
            start + (m - 1) * s + 1
            for start, m, s in zip(starts, positions, geometry.stride, strict=True)
        ]
        yield jax.lax.slice(
            padded,
            (0, *starts, 0),
            (padded.shape[0], *stops, padded.shape[-1]),
            (1, *geometry.stride, 1),
        )


def pad(x: Array, geometry: Geometry, value: float = 0) -> Array:
    """Return x dilated and padded; a negative padding cuts off."""
    axes = zip(geometry.padding, geometry.input_dilation, strict=True)
    spatial = [(low, high, f - 1) for (low, high), f in axes]
    return jax.lax.pad(x, x.dtype.type(value), ((0, 0, 0), *spatial, (0, 0, 0)))


def unpadded(padded: Array, geometry: Geometry) -> Array:
    """Return x of what `pad` made of it, with an input dilation of 1."""
    spatial = [(-low, -high, 0) for low, high in geometry.padding]
    return jax.lax.pad(padded, padded.dtype.type(0), ((0, 0, 0), *spatial, (0, 0, 0)))


def reduce_windows(
    x: Array, geometry: Geometry, start: float, combine: Callable[[Array, Array], Array]
) -> Array:
    """Combine the elements of each window, from a start that also stands for the padding."""
    return jax.lax.reduce_window(
        x,
        x.dtype.type(start),
        combine,
        (1, *geometry.size, 1),
        (1, *geometry.stride, 1),
        ((0, 0), *geometry.padding, (0, 0)),
    )
