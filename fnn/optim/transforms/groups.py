"""Different optimizers for different parameters: by a mask, or by the path of an array."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.tree import combine
from fnn._core.types import Grads, OptState, Params, PyTree, Updates
from fnn.optim._paths import by_leaf, leaf_paths
from fnn.optim.optimizer import (
    Optimizer,
    chain,
    check_optimizer,
    stateless_transform,
    tree_map_like,
    update_with,
)


@constructor
def masked(optimizer: Optimizer, mask: PyTree | Callable[[Params], PyTree]) -> Optimizer:
    """Masking: an optimizer where a mask says True; elsewhere gradients pass as they are.

    The optimizer sees, and keeps state for, its own arrays only, with None in the place of all
    others.

    Update:    that of the optimizer where the mask is True, g elsewhere

    Args:
        optimizer: the optimizer of the arrays chosen.
        mask: a tree of True and False in the structure of the parameters, or a prefix of it, or a
            function that makes one of the parameters.
    Raises:    InputError for what is no optimizer, for one that needs more than the gradient
        (`sam`), and for a mask that does not fit.

    >>> import fnn, jax.numpy as jnp
    >>> optimizer = masked(fnn.optim.weight_decay(0.1), {"weight": True, "bias": False})
    >>> params = {"weight": jnp.array([10.0]), "bias": jnp.array([10.0])}
    >>> grads = {"weight": jnp.array([0.0]), "bias": jnp.array([0.0])}
    >>> optimizer.update(grads, optimizer.init(params), params)[0]
    {'bias': Array([0.], dtype=float32), 'weight': Array([1.], dtype=float32)}

    """
    check_optimizer("an optimizer", optimizer, plain=True)

    def part(params: Params, *trees: PyTree) -> list[PyTree]:
        chosen = mask(params) if callable(mask) else mask
        if not all(isinstance(leaf, bool | np.bool_) for leaf in jax.tree.leaves(chosen)):
            raise InputError("a tree of True and False", describe(chosen), "compare shapes, say")
        try:
            return [jax.tree.map(lambda m, a: a if m else None, chosen, tree) for tree in trees]
        except ValueError as error:
            raise InputError(
                "a mask in the structure of the parameters",
                str(jax.tree.structure(chosen)),
                f"make one like {jax.tree.structure(params)}",
            ) from error

    def init(params: Params, /) -> OptState:
        return optimizer.init(*part(params, params))

    def update(
        grads: Grads, state: OptState, params: Params, /, **extra: PyTree
    ) -> tuple[Updates, OptState]:
        own_grads, own_params = part(params, grads, params)
        # Of what optax may ask for more, the value alone is the same for a part of the arrays.
        value = {name: extra[name] for name in ("value",) if name in extra}
        updates, state = update_with(optimizer, own_grads, state, own_params, value)
        return combine(updates, grads), state

    return Optimizer(init, update)


@constructor
def by_path(optimizers: Mapping[str, Optimizer], default: Optimizer | None = None) -> Optimizer:
    """Optimizers by path: every parameter array has that of the first pattern that matches.

    Paths are those of `fnn.summary` and of saved weights, such as ``hidden/0/bias``; patterns are
    those of file names, with ``*`` (slashes too), ``?`` and ``[...]``. Every optimizer sees its own
    arrays only: a global norm in one is that of its group.

    Update:    that of the optimizer of the array

    Args:
        optimizers: optimizers by pattern, the narrower patterns first.
        default: the optimizer of all other arrays; ``chain()`` lets their gradients pass. Without
            one every array needs a pattern.
    Raises:    InputError for what is no optimizer, or needs more than the gradient; from `init` for
        a pattern that matches nothing, or nothing that earlier ones leave, and without a default
        for an array without a pattern.

    >>> import fnn, jax, jax.numpy as jnp
    >>> optimizer = by_path({"*bias": fnn.optim.sgd(0.5)}, fnn.optim.sgd(0.1))
    >>> params = ({"weight": jnp.array([1.0]), "bias": jnp.array([1.0])},)
    >>> optimizer.update(params, optimizer.init(params), params)[0]
    ({'bias': Array([-0.5], dtype=float32), 'weight': Array([-0.1], dtype=float32)},)

    """
    if not isinstance(optimizers, Mapping):
        raise InputError(
            "optimizers by pattern", describe(optimizers), "pass a dict, as {'*/bias': sgd(0.1)}"
        )
    for optimizer in (*optimizers.values(), *([] if default is None else [default])):
        check_optimizer("optimizers", optimizer, plain=True)
    members = [*optimizers.values(), chain() if default is None else default]
    indices = {pattern: index for index, pattern in enumerate(optimizers)}

    def groups(params: Params) -> list[int]:
        return by_leaf(indices, params, default=len(indices))

    def mask(index: int) -> Callable[[Params], PyTree]:
        return lambda params: jax.tree.unflatten(
            jax.tree.structure(params), [group == index for group in groups(params)]
        )

    grouped = chain(*(masked(optimizer, mask(index)) for index, optimizer in enumerate(members)))

    def init(params: Params, /) -> OptState:
        _check_groups(indices, groups(params), leaf_paths(params), default is not None)
        return grouped.init(params)

    return Optimizer(init, grouped.update)


@constructor
def freeze(optimizer: Optimizer, *patterns: str) -> Optimizer:
    """Freezing: an optimizer for all arrays but those whose path matches a pattern.

    The optimizer sees the others only, and keeps no state for what stands still.

    Update:    0 for the arrays that match, that of the optimizer for the others

    Args:
        optimizer: the optimizer of the others.
        patterns: over paths, as in `by_path`, one or more.
    Raises:    InputError as `by_path` does, and without a pattern.

    >>> import fnn, jax.numpy as jnp
    >>> optimizer = freeze(fnn.optim.sgd(0.5), "0/*")
    >>> params = ({"bias": jnp.array([1.0])}, {"bias": jnp.array([1.0])})
    >>> optimizer.update(params, optimizer.init(params), params)[0]
    ({'bias': Array([0.], dtype=float32)}, {'bias': Array([-0.5], dtype=float32)})

    """
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(
            "patterns", describe(patterns), "name paths, as in freeze(optimizer, '0/*')"
        )

    def change(grads: Grads, params: Params) -> Updates:
        del params
        return tree_map_like(jnp.zeros_like, grads)

    return by_path(dict.fromkeys(patterns, stateless_transform(change)), optimizer)


def _check_groups(
    indices: Mapping[str, int], groups: list[int], paths: list[str], default: bool
) -> None:
    """Raise `InputError` for a pattern that got no array, and for an array without an optimizer."""
    for pattern, index in indices.items():
        if index not in groups:
            raise InputError(
                f"an array left for the pattern {pattern!r}",
                "one that earlier patterns leave nothing for",
                "put the narrower pattern first",
            )
    rest = [path for path, group in zip(paths, groups, strict=True) if group == len(indices)]
    if rest and not default:
        raise InputError(
            "a pattern for every array",
            f"none for {', '.join(map(repr, rest[:5]))}",
            "pass a default optimizer, such as chain() for no change",
        )
