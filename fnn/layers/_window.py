"""How a window moves over space: the options of convolutions and pools, checked in one place."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax

from fnn._core import check
from fnn._core.errors import InputError, describe

Sizes: TypeAlias = tuple[int, ...]
Pads: TypeAlias = tuple[tuple[int, int], ...]
Padding: TypeAlias = str | int | Pads

_AXES = {1: "(B, W, C)", 2: "(B, H, W, C)", 3: "(B, D, H, W, C)"}


class Geometry(NamedTuple):
    """A window over space, one number an axis: place p of y sees p stride + k dilation - low.

    `spread` - 1 zeros lie between the numbers of x, before it is padded.
    """

    size: Sizes
    stride: Sizes
    padding: Pads
    dilation: Sizes
    spread: Sizes

    @property
    def span(self) -> Sizes:
        """How far the window reaches, with what dilation leaves out."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.size, self.dilation, strict=True))

    def padded(self, space: Sizes) -> Sizes:
        """Return the size of x spread and padded."""
        axes = zip(space, self.spread, self.padding, strict=True)
        return tuple((n - 1) * f + 1 + low + high for n, f, (low, high) in axes)

    def places(self, space: Sizes) -> Sizes:
        """Return how often the window fits: the size of y."""
        axes = zip(self.padded(space), self.span, self.stride, strict=True)
        return tuple((n - span) // s + 1 for n, span, s in axes)


def side_by_side(sizes: Sizes) -> Geometry:
    """Return the geometry of windows of some sizes that neither overlap nor leave gaps."""
    unit = (1,) * len(sizes)
    return Geometry(sizes, sizes, ((0, 0),) * len(sizes), unit, unit)


class Window(NamedTuple):
    """The options of a window as they were given, an int standing for one on every axis."""

    size: int | Sizes
    stride: int | Sizes
    padding: Padding
    dilation: int | Sizes = 1

    def check(self, size: str = "kernel") -> int | None:
        """Raise `InputError` for options that are wrong whatever x is; return their axes.

        `size` is what the size of the window is called.
        """
        named = ((size, self.size), ("stride", self.stride), ("dilation", self.dilation))
        for name, value in named:
            check_sizes(name, value)
        if not (
            self.padding in ("SAME", "VALID") or check.is_count(self.padding, 0) or self._pairs()
        ):
            raise InputError(
                "padding 'SAME', 'VALID', an int of 0 or more, or a pair of them for each axis",
                describe(self.padding),
                "give pairs as in padding=((0, 1), (0, 1)): before and after, for each axis",
            )
        pads = [("padding", self.padding)] if isinstance(self.padding, tuple) else []
        ranks = {name: len(v) for name, v in (*named, *pads) if isinstance(v, tuple)}
        if len(set(ranks.values())) > 1:
            raise InputError(
                "options for one number of axes",
                ", ".join(f"{name} for {rank}" for name, rank in ranks.items()),
                "pass one number to each axis of space, or an int for all",
            )
        return next(iter(ranks.values()), None)

    def over(self, x: Any, most: int | None = None) -> Geometry:
        """Return the geometry of the window on x (B, *space, C); raise `InputError` if none."""
        check_space(x, self.check(), most)
        space = x.shape[1:-1]
        size, stride, dilation = (
            on_axes(option, len(space)) for option in (self.size, self.stride, self.dilation)
        )
        span = Geometry(size, stride, (), dilation, ()).span
        pads = self.pads(space, span, stride)
        geometry = Geometry(size, stride, pads, dilation, (1,) * len(space))
        if any(n < k for n, k in zip(geometry.padded(space), span, strict=True)):
            raise InputError(
                f"x of at least {span} places, padding included",
                str(geometry.padded(space)),
                "take a smaller window or dilation, or more padding",
            )
        return geometry

    def pads(self, space: Sizes, span: Sizes, stride: Sizes) -> Pads:
        """Return the padding before and after each axis; that of SAME follows XLA."""
        if isinstance(self.padding, tuple):
            return self.padding
        if self.padding == "SAME":
            missing = [
                max((-(-n // s) - 1) * s + k - n, 0)
                for n, k, s in zip(space, span, stride, strict=True)
            ]
            return tuple((total // 2, total - total // 2) for total in missing)
        each = 0 if self.padding == "VALID" else int(self.padding)
        return ((each, each),) * len(space)

    def _pairs(self) -> bool:
        return isinstance(self.padding, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 and all(check.is_count(p, 0) for p in pair)
            for pair in self.padding
        )


def check_sizes(name: str, value: Any) -> None:
    """Raise `InputError` unless a value is an int of 1 or more, or a tuple of them."""
    each = value if isinstance(value, tuple) and value else (value,)
    if not all(check.is_count(size, 1) for size in each):
        raise InputError(
            f"{name} of 1 or more, one int or a tuple of them",
            describe(value),
            f"pass {name}=2 for all axes of space, or {name}=(2, 3) for each",
        )


def check_space(x: Any, rank: int | None, most: int | None = None) -> None:
    """Raise `InputError` unless x is floating and has `rank` axes between the first and last."""
    check.floating(x)
    axes = len(x.shape) - 2
    if axes < 1 or (rank is not None and axes != rank) or (most is not None and axes > most):
        shapes = "(B, *space, C)" if rank is None else _AXES.get(rank, f"(B, {rank} axes, C)")
        if rank is None and most is not None:
            shapes = ", ".join(_AXES[axes] for axes in range(1, most)) + f" or {_AXES[most]}"
        raise InputError(
            f"x of shape {shapes}",
            str(tuple(x.shape)),
            "give x a batch axis, axes of space and the channels last, as in x[..., None]",
        )
    if min(x.shape[1:-1]) < 1:
        raise InputError(
            "axes of space of 1 place or more", str(tuple(x.shape)), "leave such x out"
        )


def on_axes(option: int | Sizes, rank: int) -> Sizes:
    """Return an option for each axis of space."""
    return option if isinstance(option, tuple) else (option,) * rank


def window_slices(padded: Any, geometry: Geometry, places: Sizes) -> Iterator[Any]:
    """Return what each place of the window sees, in row-major order: (B, *places, C) each."""
    for offset in itertools.product(*map(range, geometry.size)):
        starts = [k * d for k, d in zip(offset, geometry.dilation, strict=True)]
        stops = [
            start + (m - 1) * s + 1
            for start, m, s in zip(starts, places, geometry.stride, strict=True)
        ]
        yield jax.lax.slice(
            padded,
            (0, *starts, 0),
            (padded.shape[0], *stops, padded.shape[-1]),
            (1, *geometry.stride, 1),
        )


def pad(x: Any, geometry: Geometry, value: float = 0) -> Any:
    """Return x spread and padded; a negative padding cuts off."""
    space = [
        (low, high, f - 1) for (low, high), f in zip(geometry.padding, geometry.spread, strict=True)
    ]
    return jax.lax.pad(x, x.dtype.type(value), ((0, 0, 0), *space, (0, 0, 0)))


def unpadded(padded: Any, geometry: Geometry) -> Any:
    """Return x of what `pad` made of it, with a spread of 1."""
    space = [(-low, -high, 0) for low, high in geometry.padding]
    return jax.lax.pad(padded, padded.dtype.type(0), ((0, 0, 0), *space, (0, 0, 0)))


def reduced(x: Any, geometry: Geometry, start: float, combine: Callable[[Any, Any], Any]) -> Any:
    """Combine the numbers of each window, from a start that also stands for the padding."""
    return jax.lax.reduce_window(
        x,
        x.dtype.type(start),
        combine,
        (1, *geometry.size, 1),
        (1, *geometry.stride, 1),
        ((0, 0), *geometry.padding, (0, 0)),
    )


def count(sizes: Sizes) -> int:
    """Return how many places there are."""
    return math.prod(sizes)
