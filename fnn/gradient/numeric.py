"""Derivatives by differences: slow, and derived from nothing but the function itself."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fnn._core.types import Array, PyTree, Scalar, Unchecked


def numeric_gradient(function: Callable[[PyTree], Array], params: PyTree) -> PyTree:
    """Return the gradient of a scalar function of a tree by central differences.

    ``(f(p + h) - f(p - h)) / 2h`` for one parameter after the other, ``h = eps^(1/3) max(1, |p|)``:
    the truncation of the difference, of order h^2, and the rounding, of order eps / h, then meet
    at eps^(2/3).

    Args:
        function: of the tree, to one value.
        params: the tree, of floating-point arrays.
    Source:    Press et al., Numerical Recipes, section 5.7.

    >>> import jax.numpy as jnp
    >>> float(numeric_gradient(lambda p: p["a"] ** 2, {"a": jnp.array(3.0)})["a"].round(1))
    6.0

    """
    flat, unravel = ravel_pytree(params)
    if not flat.size:
        return params
    everywhere = jnp.arange(flat.size)
    return unravel(central_differences(lambda p: function(unravel(p)), flat, everywhere))


def central_differences(
    function: Callable[[Array], Array], flat: Array, indices: Unchecked, step: Scalar = 1.0
) -> Array:
    """Return the partial derivatives of a function of a vector, at some of its indices.

    Args:
        function: of the vector, to one value.
        flat: the vector.
        indices: of the entries to differentiate in.
        step: one number, or one for each index, that scales h: two steps that disagree tell how far
            off a difference is.

    """

    def difference(place: tuple[Array, Array]) -> Array:
        i, step = place
        h = step * float(jnp.finfo(flat.dtype).eps) ** (1 / 3) * jnp.maximum(1, jnp.abs(flat[i]))
        sides = flat[i] + jnp.stack([h, -h])
        up, down = jax.lax.map(lambda value: function(flat.at[i].set(value)), sides)
        # What was added is not quite h: divide by the distance that rounding left.
        return ((up - down) / (sides[0] - sides[1]).astype(up.dtype)).astype(flat.dtype)

    indices = jnp.asarray(indices)
    return jax.lax.map(
        difference, (indices, jnp.broadcast_to(jnp.asarray(step, flat.dtype), indices.shape))
    )


def with_doubt(
    function: Callable[[Array], Array], flat: Array, indices: Unchecked
) -> tuple[Array, Array]:
    """Return partial derivatives, and how much they change when the step is halved.

    The change holds what both truncation and rounding do to a difference, whatever the scale on
    which the function bends.

    Args:
        function: of the vector, to one value.
        flat: the vector.
        indices: of the entries to differentiate in.

    """
    indices = jnp.asarray(indices)
    twice, steps = jnp.tile(indices, 2), jnp.repeat(jnp.array([1.0, 0.5]), indices.size)
    coarse, fine = central_differences(function, flat, twice, steps).reshape(2, -1)
    return fine, jnp.abs(fine - coarse)
