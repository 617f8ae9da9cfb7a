"""What the types of arrays say on a mesh of devices, and how functions keep to it.

JAX has three modes. In the automatic one types say nothing, and XLA lays everything out. Under
`jax.shard_map` a type says over which axes of the mesh values differ, and in the explicit mode
(`jax.sharding.AxisType.Explicit`) how an array is laid out; there results must have the types that
are expected of them. On one device all of this does nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp

from fnn._core.types import Array, PyTree, Unchecked

Carry = TypeVar("Carry")
Result = TypeVar("Result")
_PARTS: contextvars.ContextVar[int] = contextvars.ContextVar("parts", default=1)


def varying_axes(*trees: PyTree) -> frozenset[str]:
    """Return the axes of the mesh over which some leaf differs, as `jax.shard_map` tracks them.

    >>> varying_axes(jnp.ones(2))
    frozenset()
    """
    return frozenset().union(*(_varying(leaf) for leaf in jax.tree.leaves(trees)))


def _varying(leaf: Unchecked) -> frozenset[str]:
    """Return the axes of one array; JAX 0.8 has another name for them than 0.10."""
    shape_only = isinstance(leaf, jax.ShapeDtypeStruct)
    if not shape_only and not isinstance(leaf, jax.Array):
        return frozenset()
    kind: Unchecked = leaf if shape_only else jax.typeof(leaf)
    manual: Unchecked = getattr(kind, "manual_axis_type", None)
    found: frozenset[str] | None = getattr(manual, "varying", None) or getattr(kind, "vma", None)
    return found or frozenset()


def vary_over(tree: PyTree, axes: frozenset[str]) -> PyTree:
    """Return a tree whose arrays count as different over some axes of the mesh.

    The values stay. The derivative in an array that is the same on all devices is the sum over
    them; in what this returns it is that of each device.

    Args:
        tree: arrays.
        axes: names of axes, as of `varying_axes`.

    >>> vary_over(jnp.ones(1), frozenset())
    Array([1.], dtype=float32)
    """
    return jax.tree.map(lambda leaf: _vary_over(leaf, axes), tree) if axes else tree


def _vary_over(leaf: Unchecked, axes: frozenset[str]) -> Array:
    leaf = jnp.asarray(leaf)
    missing = tuple(sorted(axes - _varying(leaf)))
    if not missing:
        return leaf
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(leaf, missing, to="varying")
    older: Unchecked = jax.lax
    found: Array = older.pvary(leaf, missing)
    return found


def scan(
    body: Callable[[Carry, Unchecked], tuple[Carry, Unchecked]],
    carry: Carry,
    xs: Unchecked = None,
    *,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
) -> tuple[Carry, Unchecked]:
    """Return what `jax.lax.scan` does, from a first carry that varies as that of `body` does.

    Under `jax.shard_map` zeros are the same on all devices, and sums of what differs are not: the
    carry must be of one type all along.

    Args:
        body: ``(carry, x) -> carry, y``.
        carry: the first one.
        xs: a tree of arrays, one x for each entry of their leading axes.
        length: how many there are, where xs has none.
        reverse: whether to begin with the last.
        unroll: how many steps are written out at a time.

    >>> scan(lambda total, x: (total + x, None), jnp.zeros(()), jnp.arange(3.0))[0]
    Array(3., dtype=float32)
    """
    if jax.sharding.get_abstract_mesh().manual_axes:
        carry = _settled(body, carry, xs)
    return jax.lax.scan(body, carry, xs, length=length, reverse=reverse, unroll=unroll)


def _settled(
    body: Callable[[Carry, Unchecked], tuple[Carry, Unchecked]], carry: Carry, xs: Unchecked
) -> Carry:
    """Return a first carry whose arrays vary over what those after any number of steps do."""
    if any(leaf.shape[0] == 0 for leaf in jax.tree.leaves(xs)):
        return carry

    def step(carry: Carry, xs: Unchecked) -> Carry:
        return body(carry, jax.tree.map(lambda a: jnp.asarray(a)[0], xs))[0]

    while True:
        after = jax.eval_shape(step, carry, xs)
        wider = jax.tree.map(lambda a, b: _vary_over(a, _varying(b)), carry, after)
        if _varying_by_leaf(wider) == _varying_by_leaf(carry):
            return wider
        carry = wider


def _varying_by_leaf(tree: PyTree) -> list[frozenset[str]]:
    """Return the axes of the mesh over which each leaf differs."""
    return [_varying(leaf) for leaf in jax.tree.leaves(tree)]


def zeros(shape: tuple[int, ...], dtype: Unchecked, batch: Array) -> Array:
    """Return zeros that lie on the mesh as a batch does: their leading axis is that of the batch.

    Args:
        shape: (B, ...).
        dtype: that of the zeros.
        batch: (B, ...), of any other axes.

    >>> zeros((2, 1), "int32", jnp.ones((2, 3)))
    Array([[0],
           [0]], dtype=int32)
    """
    made = jnp.zeros(shape, dtype)
    layout = _explicit(batch)
    if layout is None:
        return made
    spec = jax.sharding.PartitionSpec(layout.spec[0], *(None,) * (len(shape) - 1))
    return jax.sharding.reshard(made, jax.sharding.NamedSharding(layout.mesh, spec))


def _explicit(leaf: Unchecked) -> Unchecked:
    """Return the layout that the type of an array tells in the explicit mode, None in others."""
    if not isinstance(leaf, jax.Array):
        return None
    layout: Unchecked = getattr(jax.typeof(leaf), "sharding", None)
    return layout if layout is not None and layout.mesh.explicit_axes else None


def layouts(tree: PyTree, *others: PyTree) -> PyTree:
    """Return the layouts of the arrays of a tree in the explicit mode, and None in others.

    Args:
        tree: arrays, and None where there is nothing to lay out.
        others: more arrays that may tell the mode.

    >>> layouts(jnp.ones(2))
    """
    known = map(_explicit, jax.tree.leaves((tree, others)))
    mesh = next((layout.mesh for layout in known if layout is not None), None)
    if mesh is None:
        return None
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.tree.map(lambda leaf: _explicit(leaf) or whole, tree)


def automatic(function: Callable[..., Result], like: PyTree, *arguments: Unchecked) -> Result:
    """Call a function in the automatic mode, where types tell layouts; elsewhere just call it.

    In the explicit mode JAX asks of every sum over an axis that is laid out over devices where its
    result shall be: for a gradient that is known, it lies as what it is the gradient of.

    Args:
        function: of arrays and trees of them.
        like: the `layouts` of its results; None where no mode is explicit.
        arguments: those of the function.

    >>> automatic(jnp.sum, None, jnp.ones(3))
    Array(3., dtype=float32)
    """
    if like is None:
        return function(*arguments)
    found: Result = jax.sharding.auto_axes(function, out_sharding=like)(*arguments)
    return found


@contextlib.contextmanager
def batch_in_parts(parts: int) -> Iterator[None]:
    """Tell the layers traced inside over how many devices their batch is split, in equal parts.

    In the automatic mode types do not: what goes through a batch a few examples at a time, all
    devices at once, has to know.

    Args:
        parts: the number of devices.
    """
    token = _PARTS.set(parts)
    try:
        yield
    finally:
        _PARTS.reset(token)


def parts_of(batch: int) -> int:
    """Return in how many parts a batch lies, side by side along its leading axis; 1 if as a whole.

    Args:
        batch: how many examples there are.

    >>> with batch_in_parts(4):
    ...     print(parts_of(8), parts_of(6))
    4 1
    """
    parts = _PARTS.get()
    return parts if batch % parts == 0 else 1
