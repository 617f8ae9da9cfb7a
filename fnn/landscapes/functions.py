"""Functions to play descent on: each a number for a point, its minima known.

A landscape maps an array (..., d), points along the last axis, to their heights (...). `low` and
`high` bound the part worth drawing, and `minima` (m, d) are the global minima.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import Described, constructor
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Array


@dataclass(frozen=True, eq=False, repr=False)
class Landscape(Described):
    """Toy function of points (..., d) with values (...), its minima and the part to draw.

    Args:
        height: the function, points (..., d) to values (...).
        minima: (n, d), where it is lowest.
        low: (d,), the corner of the part to draw.
        high: (d,), the other corner.
        call: the call of the `constructor` that made it.

    >>> Landscape(lambda x: (x**2).sum(-1), [[0.0]], [-1.0], [1.0])(jnp.array([3.0]))
    Array(9., dtype=float32)

    """

    functions: ClassVar[tuple[str, ...]] = ("height",)
    height: Callable[[Array], Array]
    minima: Sequence[Sequence[float]]
    low: Sequence[float]
    high: Sequence[float]

    @entry
    def __call__(self, point: Any) -> Array:
        """Return the height at points (..., d).

        Raises `fnn.InputError` for points of another number of coordinates.
        """
        point = jnp.asarray(point)
        dimensions = len(self.minima[0])
        if point.ndim < 1 or point.shape[-1] != dimensions:
            raise InputError(
                f"points of shape (..., {dimensions})",
                describe(point),
                f"pass {dimensions} coordinates along the last axis",
            )
        return self.height(point)


@constructor
def quadratic(curvatures: Sequence[float] = (1.0, 10.0)) -> Landscape:
    """Quadratic bowl: ``sum_i c_i x_i^2 / 2``, the minimum at 0.

    Descent converges for learning rates below ``2 / max c``.

    Raises `fnn.InputError` unless all curvatures are positive.

    >>> float(quadratic((1.0, 4.0))(jnp.array([2.0, 1.0])))
    4.0
    """
    if not len(curvatures) or not all(c > 0 for c in curvatures):
        raise InputError(
            "curvatures above 0, one for each coordinate",
            describe(curvatures),
            "pass some, as in (1.0, 10.0); for a negative one see saddle()",
        )
    d = len(curvatures)

    def height(x: Array) -> Array:
        return (x**2 * jnp.asarray(curvatures, x.dtype).reshape((1,) * (x.ndim - 1) + (d,))).sum(
            -1
        ) / 2

    return Landscape(height, [[0.0] * d], [-2.0] * d, [2.0] * d)


@constructor
def rosenbrock() -> Landscape:
    """Rosenbrock's valley: ``(1 - x)^2 + 100 (y - x^2)^2``, the minimum 0 at (1, 1).

    Source: Rosenbrock 1960, doi:10.1093/comjnl/3.3.175.

    >>> float(rosenbrock()(jnp.array([0.0, 1.0])))
    101.0
    """

    def height(p: Array) -> Array:
        x, y = p[..., 0], p[..., 1]
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    return Landscape(height, [[1.0, 1.0]], [-1.7, -0.7], [1.7, 2.3])


@constructor
def himmelblau() -> Landscape:
    """Himmelblau's function, four minima: ``(x^2 + y - 11)^2 + (x + y^2 - 7)^2``.

    Source: Himmelblau 1972, Applied Nonlinear Programming.

    >>> float(himmelblau()(jnp.array([3.0, 2.0])))
    0.0
    """

    def height(p: Array) -> Array:
        x, y = p[..., 0], p[..., 1]
        return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2

    minima = [
        [3.0, 2.0],
        [-2.805118086952745, 3.131312518250573],
        [-3.779310253377747, -3.283185991286169],
        [3.584428340330492, -1.848126526964403],
    ]
    return Landscape(height, minima, [-5.0, -5.0], [5.0, 5.0])


@constructor
def saddle() -> Landscape:
    """Strict saddle between two basins: ``x^2 / 2 + y^4 / 4 - y^2 / 2``.

    The saddle lies at 0, with height 0, curvature 1 along x and -1 along y; the minima -1/4 at
    (0, 1) and (0, -1). Source: Nesterov 2004, Introductory Lectures, example 1.2.2.

    >>> float(saddle()(jnp.array([0.0, -1.0])))
    -0.25
    """

    def height(p: Array) -> Array:
        x, y = p[..., 0], p[..., 1]
        return x**2 / 2 + y**4 / 4 - y**2 / 2

    return Landscape(height, [[0.0, 1.0], [0.0, -1.0]], [-1.6, -1.6], [1.6, 1.6])


@constructor
def double_well(tilt: float = 0.3) -> Landscape:
    """Double well: a shallow basin and a deep one, ``(x^2 - 1)^2 + tilt x``.

    The deep one is on the left for a tilt above 0; on the right is a local minimum.

    Raises `fnn.InputError` for a tilt outside (0, 1.5), where there are not two basins, or not one
    deeper than the other.

    >>> double_well()(jnp.array([-1.0])) < double_well()(jnp.array([1.0]))
    Array(True, dtype=bool)
    """
    if not 0 < tilt < 1.5:
        raise InputError("a tilt in (0, 1.5)", describe(tilt), "pass 0.3")
    # The least root of the slope 4 x^3 - 4 x + tilt, by Viete's cosine.
    angle = math.acos(-tilt * 3 * math.sqrt(3) / 8) / 3
    deepest = min(2 / math.sqrt(3) * math.cos(angle - 2 * math.pi * k / 3) for k in range(3))
    return Landscape(
        lambda p: (p[..., 0] ** 2 - 1) ** 2 + tilt * p[..., 0], [[deepest]], [-1.7], [1.7]
    )


@constructor
def rastrigin(dimensions: int = 2) -> Landscape:
    """Rastrigin's function: ``10 d + sum_i (x_i^2 - 10 cos(2 pi x_i))``, the minimum 0 at 0.

    Near every point of whole numbers lies a local minimum. Raises `fnn.InputError` for dimensions
    below 1. Source: Rastrigin 1974, Systems of Extremal Control.

    >>> float(rastrigin()(jnp.array([0.0, 0.0])))
    0.0
    """
    _check_dimensions(dimensions, 1)

    def height(x: Array) -> Array:
        return 10 * dimensions + (x**2 - 10 * jnp.cos(2 * jnp.pi * x)).sum(-1)

    d = dimensions
    return Landscape(height, [[0.0] * d], [-3.2] * d, [3.2] * d)


@constructor
def octopus(
    dimensions: int = 2, edge: float = math.e, saddle: float = 1.0, bowl: float = 1.0
) -> Landscape:
    """Octopus: saddles in sequence; plain descent takes exponentially long in their number.

    With ``t = edge``, ``g = saddle``, ``L = bowl``, all coordinates by their size ``|x_i|``, and i
    the first of them not above 2 t (i - 1 saddles are behind)::

        x_i <= t:      sum_{j<i} L (x_j - 4 t)^2 - g x_i^2 + sum_{j>i} L x_j^2 - (i - 1) v
        x_i <= 2 t:    sum_{j<i} L (x_j - 4 t)^2 + a(x_i) + b(x_i) x_{i+1}^2
                           + sum_{j>i+1} L x_j^2 - (i - 1) v
        none is left:  sum_j L (x_j - 4 t)^2 - d v

        a(x) = -g x^2 + (10 g - 14 L) / (3 t) (x - t)^3 + (5 L - 3 g) / (2 t^2) (x - t)^4
        b(x) = -g - 10 (L + g) (z^3 + 1.5 z^4 + 0.6 z^5),   z = x / t - 2
        v    = 4 L t^2 - a(2 t) = (4 L + 13 (L + g) / 6) t^2

    It is meant for the tubes in which every coordinate after the i-th is at most t; there it is
    twice differentiable, and the minima ``-d v`` have ``|x_i| = 4 t``. Descent with a learning rate
    of ``1 / (4 L)`` needs ``1 + ln 2 / ln(1 + g / (2 L))`` times as long for each saddle as for the
    one before, as each leaves it that much nearer to the next one's ridge.

    Raises `fnn.InputError` for dimensions below 2, and settings that are not positive. Source: Du
    et al. 2017, arXiv:1705.10412, sec. 4.

    >>> float(octopus()(jnp.array([0.0, 0.0])))
    0.0
    """
    _check_dimensions(dimensions, 2)
    for name, value in (("edge", edge), ("saddle", saddle), ("bowl", bowl)):
        if not value > 0:
            raise InputError(f"{name} above 0", describe(value), "pass a larger one")
    d, t, g, L = dimensions, edge, saddle, bowl  # noqa: N806
    drop = (4 * L + 13 * (L + g) / 6) * t**2

    def height(point: Array) -> Array:
        x = jnp.abs(point)
        behind = jnp.cumprod((x > 2 * t).astype(x.dtype), -1)
        ahead = 1 - behind
        # One at the coordinate of the saddle we are at, and at the one after it.
        first = jnp.concatenate([jnp.ones_like(x[..., :1]), behind[..., :-1]], -1) * ahead
        after = jnp.concatenate([jnp.zeros_like(x[..., :1]), first[..., :-1]], -1)
        here, following = (first * x).sum(-1), (after * x).sum(-1)
        y = here - t
        leaving = (
            -g * here**2 + (10 * g - 14 * L) / (3 * t) * y**3 + (5 * L - 3 * g) / (2 * t**2) * y**4
        )
        z = here / t - 2
        turning = -g - 10 * (L + g) * (z**3 + 1.5 * z**4 + 0.6 * z**5)
        near = here <= t
        at = jnp.where(near, -g * here**2, leaving)
        beside = jnp.where(near, L, turning) * following**2
        rest = ahead - first - after
        bowls = L * (behind * (x - 4 * t) ** 2 + rest * x**2).sum(-1)
        at_saddle = first.sum(-1)
        return bowls + at_saddle * (at + beside) - behind.sum(-1) * drop

    return Landscape(height, [[4 * t] * d], [-2.0 * t] * d, [6.0 * t] * d)


def _check_dimensions(dimensions: Any, least: int) -> None:
    if not check.is_count(dimensions, least):
        raise InputError(
            f"dimensions of {least} or more",
            describe(dimensions),
            "pass an int",
        )
