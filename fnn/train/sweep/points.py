"""Points of a sweep: the settings of every run, as a grid, at random, or spread by Sobol."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Array, Unchecked

Point = dict[str, Unchecked]


class Range(NamedTuple):
    """Range of a number that a sweep draws from, see `between`.

    Args:
        low: the least value.
        high: the largest.
        log: whether ratios are as likely, not differences.
    """

    low: float
    high: float
    log: bool


@entry
def between(low: float, high: float, *, log: bool = False) -> Range:
    """Range of a number, for `random_points` and `sobol_points`.

    Args:
        low: the least value; above 0 where `log`.
        high: the largest, above `low`.
        log: draw the logarithm evenly, as for a learning rate.
    Raises:    InputError for what are no such numbers.

    >>> between(1e-3, 1, log=True)
    Range(low=0.001, high=1, log=True)

    """
    check.flag(log, "log")
    if log:
        check.number(low, "low", above=0, remedy="a logarithm has values above 0 alone")
    else:
        check.number(low, "low")
    check.number(high, "high", above=low)
    return Range(low, high, log)


@entry
def grid(axes: Mapping[str, Sequence[Unchecked]], /) -> list[Point]:
    """Grid: a point for every combination of values; the last axis changes first.

    Args:
        axes: the values of each setting by its name, such as ``{"learning_rate": [0.1, 1.0],
            "seed": range(8)}``.
    Raises:    InputError for an axis without values, or with one twice.

    >>> grid({"rate": [0.1, 1.0], "seed": range(2)})[:2]
    [{'rate': 0.1, 'seed': 0}, {'rate': 0.1, 'seed': 1}]

    """
    _check_names(axes)
    for name, values in axes.items():
        listed = not isinstance(values, str | bytes) and hasattr(values, "__len__")
        if not listed or not len(values):
            expected = f"one or more values of {name}"
            raise InputError(expected, describe(values), "pass a list, as in [0.1, 1.0]")
        twice = [
            one for i, one in enumerate(values) if any(one is b or one == b for b in values[:i])
        ]
        if twice:
            got = f"{describe(twice[0])} twice"
            raise InputError(f"different values of {name}", got, "leave one out")
    return [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]


@entry
def random_points(
    axes: Mapping[str, Range | Sequence[Unchecked]], count: int, *, key: Array
) -> list[Point]:
    """Random search: points whose settings are drawn independently.

    Args:
        axes: a `between`, or a list of values to choose from, by the name of the setting.
        count: how many points.
        key: for what is drawn.
    Raises:    InputError for axes that are neither, and a count below 1.
    Source:    Bergstra and Bengio 2012, "Random search for hyper-parameter optimization".

    >>> import jax
    >>> points = random_points({"rate": between(0.1, 1.0)}, 3, key=jax.random.key(0))
    >>> [0.1 <= point["rate"] <= 1.0 for point in points]
    [True, True, True]

    """
    _check_names(axes)
    check.count(count, "count")
    shares = np.asarray(jax.random.uniform(check.key(key), (count, len(axes))), np.float64)
    return _at_shares(axes, shares)


@entry
def sobol_points(
    axes: Mapping[str, Range | Sequence[Unchecked]], count: int, *, key: Array
) -> list[Point]:
    """Sobol points: settings that fill the space more evenly than chance, scrambled by the key.

    Args:
        axes: as in `random_points`.
        count: how many points; powers of two are spread best.
        key: for the scrambling.
    Raises:    InputError for axes that are neither, and a count below 1.
    Source:    Owen 1998, "Scrambling Sobol' and Niederreiter-Xing points", by `scipy.stats.qmc`.

    >>> import jax
    >>> points = sobol_points({"rate": between(0.0, 1.0)}, 4, key=jax.random.key(0))
    >>> sorted(int(4 * point["rate"]) for point in points)
    [0, 1, 2, 3]

    """
    from scipy.stats import qmc

    _check_names(axes)
    check.count(count, "count")
    seed = int(jax.random.bits(check.key(key), (), "uint32"))
    sampler = qmc.Sobol(len(axes), scramble=True, rng=np.random.default_rng(seed))
    return _at_shares(axes, sampler.random_base2(math.ceil(math.log2(count)))[:count])


def _check_names(axes: Unchecked) -> None:
    """Raise unless axes are a mapping of names, and there are some."""
    named = isinstance(axes, Mapping) and axes and all(isinstance(name, str) for name in axes)
    if not named:
        remedy = 'pass a dict, as in {"learning_rate": [0.1, 1.0], "seed": range(8)}'
        raise InputError("values of settings by their names", describe(axes), remedy)


def _at_shares(axes: Mapping[str, Range | Sequence[Unchecked]], shares: np.ndarray) -> list[Point]:
    """Return the points at shares (count, axes) of the way from each axis's low end to its high."""
    at = {name: _value_at(name, axis) for name, axis in axes.items()}
    return [
        {name: at[name](float(share)) for name, share in zip(axes, row, strict=True)}
        for row in shares
    ]


def _value_at(name: str, axis: Unchecked) -> Callable[[float], Unchecked]:
    """Return the function from a share in [0, 1) to the value there."""
    if isinstance(axis, Range):
        low, high = float(axis.low), float(axis.high)
        if axis.log:
            return lambda share: low * (high / low) ** share
        return lambda share: low + (high - low) * share
    if isinstance(axis, str | bytes) or not hasattr(axis, "__len__") or not len(axis):
        expected = f"a range or a list of values of {name}"
        raise InputError(expected, describe(axis), "pass fnn.train.between(low, high), or a list")
    return lambda share: axis[int(share * len(axis))]
