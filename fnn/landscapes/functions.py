"""Toy functions to descend on: each a number for a point, its minima known.

A landscape maps an array (..., d), points along the last axis, to their heights (...). `low` and
`high` bound the part worth drawing, and `minima` (m, d) are the global minima.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.description import Described, constructor
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Array, Input, Unchecked


@dataclass(frozen=True, eq=False, repr=False)
class Landscape(Described):
    """Toy function of points (..., d) with values (...), its minima and the part to draw.

    Args:
        height: the function, points (..., d) to values (...).
        minima: (n, d), where it is lowest.
        low: (d,), the corner of the part to draw.
        high: (d,), the other corner.
        call: the call of the `constructor` that made it.
    Shapes:    points (..., d), values (...)
    Raises:    InputError for what is no function, no minimum, and shapes that do not fit.

    >>> Landscape(lambda x: (x**2).sum(-1), [[0.0]], [-1.0], [1.0])(jnp.array([3.0]))
    Array(9., dtype=float32)

    """

    functions: ClassVar[tuple[str, ...]] = ("height",)
    height: Callable[[Array], Array]
    minima: Sequence[Sequence[float]]
    low: Sequence[float]
    high: Sequence[float]

    def __post_init__(self) -> None:
        check.function(self.height, "height", takes="point")
        corners = {"minima": self.minima, "low": self.low, "high": self.high}
        shapes = [floating_array(one, name).shape for name, one in corners.items()]
        d = shapes[1][:1]
        if not d or shapes != [(*shapes[0][:1], *d), d, d] or not shapes[0][0]:
            raise InputError(
                "minima (n, d), low (d,) and high (d,)",
                ", ".join(map(str, shapes)),
                "give each as many coordinates",
            )

    @entry
    def __call__(self, point: Input) -> Array:
        """Return the height at points (..., d).

        Args:
            point: the points, an array or a list of coordinates.
        Raises:    InputError for points of another number of coordinates, or of no numbers.

        """
        point = floating_array(point, "point")
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
    """Quadratic bowl, its minimum 0 at 0.

    Descent converges for learning rates below ``2 / max c``.

    Forward:   y = sum_i c_i x_i^2 / 2

    Args:
        curvatures: c, one above 0 for each coordinate.
    Shapes:    x (..., d), y (...)
    Raises:    InputError for no curvature, and one of 0 or less.

    >>> float(quadratic((1.0, 4.0))(jnp.array([2.0, 1.0])))
    4.0

    """
    try:
        for curvature in curvatures:
            check.number(curvature, "curvature", above=0)
        known = len(curvatures) > 0
    except (InputError, TypeError):
        known = False
    if not known:
        raise InputError(
            "curvatures above 0, one for each coordinate",
            describe(curvatures),
            "pass some, as in (1.0, 10.0); for a negative one see saddle()",
        )
    d = len(curvatures)

    def height(x: Array) -> Array:
        c = jnp.asarray(curvatures, x.dtype).reshape((1,) * (x.ndim - 1) + (d,))
        return (x**2 * c).sum(-1) / 2

    return Landscape(height, [[0.0] * d], [-2.0] * d, [2.0] * d)


@constructor
def rosenbrock() -> Landscape:
    """Rosenbrock's valley, its minimum 0 at (1, 1).

    Forward:   z = (1 - x)^2 + 100 (y - x^2)^2

    Shapes:    (x, y) (..., 2), z (...)
    Source:    Rosenbrock 1960, doi:10.1093/comjnl/3.3.175.

    >>> float(rosenbrock()(jnp.array([0.0, 1.0])))
    101.0
    """

    def height(p: Array) -> Array:
        x, y = p[..., 0], p[..., 1]
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    return Landscape(height, [[1.0, 1.0]], [-1.7, -0.7], [1.7, 2.3])


@constructor
def himmelblau() -> Landscape:
    """Himmelblau's function, of four minima of height 0.

    Forward:   z = (x^2 + y - 11)^2 + (x + y^2 - 7)^2

    Shapes:    (x, y) (..., 2), z (...)
    Source:    Himmelblau 1972, Applied Nonlinear Programming.

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
    """Strict saddle between two basins.

    The saddle lies at 0, with height 0, curvature 1 along x and -1 along y; the minima -1/4 at
    (0, 1) and (0, -1).

    Forward:   z = x^2 / 2 + y^4 / 4 - y^2 / 2

    Shapes:    (x, y) (..., 2), z (...)
    Source:    Nesterov 2004, Introductory Lectures, example 1.2.2.

    >>> float(saddle()(jnp.array([0.0, -1.0])))
    -0.25
    """

    def height(p: Array) -> Array:
        x, y = p[..., 0], p[..., 1]
        return x**2 / 2 + y**4 / 4 - y**2 / 2

    return Landscape(height, [[0.0, 1.0], [0.0, -1.0]], [-1.6, -1.6], [1.6, 1.6])


@constructor
def double_well(tilt: float = 0.3) -> Landscape:
    """Double well: a shallow basin and a deep one.

    The deep one is on the left; on the right is a local minimum.

    Forward:   y = (x^2 - 1)^2 + tilt x

    Args:
        tilt: how much deeper the left basin is, in (0, 1.5); from 1.54 on the right one is gone.
    Shapes:    x (..., 1), y (...)
    Raises:    InputError for a tilt outside (0, 1.5).

    >>> double_well()(jnp.array([-1.0])) < double_well()(jnp.array([1.0]))
    Array(True, dtype=bool)

    """
    check.number(tilt, "tilt", above=0, below=1.5, remedy="pass one such as 0.3")
    tilt = float(tilt)
    # The least root of the slope 4 x^3 - 4 x + tilt, by Viete's cosine.
    angle = math.acos(-tilt * 3 * math.sqrt(3) / 8) / 3
    deepest = min(2 / math.sqrt(3) * math.cos(angle - 2 * math.pi * k / 3) for k in range(3))
    return Landscape(
        lambda p: (p[..., 0] ** 2 - 1) ** 2 + tilt * p[..., 0], [[deepest]], [-1.7], [1.7]
    )


@constructor
def rastrigin(dimensions: int = 2) -> Landscape:
    """Rastrigin's function, its minimum 0 at 0.

    Near every point of whole numbers lies a local minimum.

    Forward:   y = 10 d + sum_i (x_i^2 - 10 cos(2 pi x_i))

    Args:
        dimensions: d, >= 1.
    Shapes:    x (..., d), y (...)
    Raises:    InputError for dimensions below 1.
    Source:    Rastrigin 1974, Systems of Extremal Control.

    >>> float(rastrigin()(jnp.array([0.0, 0.0])))
    0.0

    """
    check.count(dimensions, "dimensions")

    def height(x: Array) -> Array:
        return 10 * dimensions + (x**2 - 10 * jnp.cos(2 * jnp.pi * x)).sum(-1)

    d = dimensions
    return Landscape(height, [[0.0] * d], [-3.2] * d, [3.2] * d)


@constructor
def octopus(
    dimensions: int = 2, edge: float = math.e, saddle: float = 1.0, bowl: float = 1.0
) -> Landscape:
    """Octopus: saddles in sequence; plain descent takes exponentially long in their number.

    It is meant for the tubes in which every coordinate after the i-th is at most t; there it is
    twice differentiable, and the minima ``-d v`` have ``|x_i| = 4 t``. Descent with a learning rate
    of ``1 / (4 L)`` needs ``1 + ln 2 / ln(1 + g / (2 L))`` times as long for each saddle as for the
    one before, as each leaves it that much nearer to the next one's ridge.

    Forward:   with t = edge, g = saddle, L = bowl, all coordinates by their size |x_i|, and i the
        first of them not above 2 t (i - 1 saddles are behind)::

            x_i <= t:      y = sum_{j<i} L (x_j - 4 t)^2 - g x_i^2 + sum_{j>i} L x_j^2 - (i - 1) v
            x_i <= 2 t:    y = sum_{j<i} L (x_j - 4 t)^2 + a(x_i) + b(x_i) x_{i+1}^2
                               + sum_{j>i+1} L x_j^2 - (i - 1) v
            none is left:  y = sum_j L (x_j - 4 t)^2 - d v

            a(x) = -g x^2 + (10 g - 14 L) / (3 t) (x - t)^3 + (5 L - 3 g) / (2 t^2) (x - t)^4
            b(x) = -g - 10 (L + g) (z^3 + 1.5 z^4 + 0.6 z^5),   z = x / t - 2
            v    = 4 L t^2 - a(2 t) = (4 L + 13 (L + g) / 6) t^2

    Args:
        dimensions: d, >= 2.
        edge: t, the size of a saddle's tube, > 0.
        saddle: g, half of the curvature down from a saddle, > 0.
        bowl: L, half of the curvature up, > 0.
    Shapes:    x (..., d), y (...)
    Raises:    InputError for dimensions below 2, and settings that are not positive.
    Source:    Du et al. 2017, arXiv:1705.10412, sec. 4.

    >>> float(octopus()(jnp.array([0.0, 0.0])))
    0.0

    """
    check.count(dimensions, "dimensions", least=2)
    for name, value in (("edge", edge), ("saddle", saddle), ("bowl", bowl)):
        check.number(value, name, above=0)
    d, t, g, bowl = dimensions, float(edge), float(saddle), float(bowl)
    drop = (4 * bowl + 13 * (bowl + g) / 6) * t**2

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
            -g * here**2
            + (10 * g - 14 * bowl) / (3 * t) * y**3
            + (5 * bowl - 3 * g) / (2 * t**2) * y**4
        )
        z = here / t - 2
        turning = -g - 10 * (bowl + g) * (z**3 + 1.5 * z**4 + 0.6 * z**5)
        near = here <= t
        at = jnp.where(near, -g * here**2, leaving)
        beside = jnp.where(near, bowl, turning) * following**2
        rest = ahead - first - after
        bowls = bowl * (behind * (x - 4 * t) ** 2 + rest * x**2).sum(-1)
        at_saddle = first.sum(-1)
        return bowls + at_saddle * (at + beside) - behind.sum(-1) * drop

    return Landscape(height, [[4 * t] * d], [-2.0 * t] * d, [6.0 * t] * d)


def floating_array(values: Unchecked, name: str) -> Array:
    """Return an array of floating-point numbers; integers are converted, other things refused.

    Args:
        values: an array, a number, or a list of numbers.
        name: what an error calls it.

    >>> floating_array([1, 2], "point")
    Array([1., 2.], dtype=float32)
    """
    if isinstance(values, np.ma.MaskedArray):
        remedy = "fill what is masked, with values.filled(...)"
        raise InputError(f"{name} without a mask", describe(values), remedy)
    try:
        # NumPy's other byte order is turned round, which JAX refuses.
        if isinstance(values, np.ndarray) and not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        found = jnp.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} of numbers", describe(values), "pass an array") from error
    if jnp.issubdtype(found.dtype, jnp.integer):
        found = found.astype(jnp.result_type(float))
    check.floating(found, name)
    return found
