"""Different optimizers for different parameters: by a mask, by path, by the copy of a repeat."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.tree import combine
from fnn._core.types import (
    Array,
    Grads,
    OptState,
    Params,
    PyTree,
    Scalar,
    State,
    Unchecked,
    Updates,
)
from fnn.optim._paths import by_leaf, leaf_paths
from fnn.optim.optimizer import (
    GradientAt,
    Optimizer,
    OptimizerStep,
    Taken,
    chain,
    check_optimizer,
    eval_params,
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
    """Optimizers by path: every parameter array has that of its path or the first match.

    Paths are those of `fnn.summary` and of saved weights, such as ``hidden/0/bias``; patterns are
    those of file names, with ``*`` (slashes too), ``?`` and ``[...]``. Every optimizer sees its own
    arrays only: a global norm in one is that of its group.

    Update:    that of the optimizer of the array

    Args:
        optimizers: optimizers by pattern, the narrower patterns first; the path of an array counts
            before all patterns, wherever it stands.
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
            "patterns", describe(patterns), "name paths, as in freeze(optimizer, '0/*', '2/bias')"
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UnstackState:
    """The state of the optimizer inside, and the paths of what it sees taken apart."""

    inner: OptState
    paths: tuple[str, ...] = field(metadata={"static": True})

    def eval_params(self, params: Params) -> Params:
        """Return the averages that the optimizer inside keeps, stacked as the parameters are.

        Args:
            params: the parameters that training moves.
        """
        parts = _unstacked(self.paths, params)
        averaged: Params = eval_params(self.inner, parts)
        return params if averaged is parts else _stacked(self.paths, averaged)


@constructor
def unstack(optimizer: Optimizer, *paths: str) -> Optimizer:
    """Unstacking: an optimizer that sees each copy of a `fnn.repeat` as arrays of its own.

    The parameters of copies are stacked along a leading axis, so that a pattern means all of them.
    The optimizer inside sees a tuple of n in their place, with the paths that `fnn.serial` of n
    layers has: ``blocks/3/weight``. So one copy may be frozen, have a learning rate or a noise of
    its own; and what is made for one array, as the norms of `lamb` and the singular values of
    `muon`, is that of a copy. Time and compile time of an update grow with the number of copies.

    Update:    that of the optimizer for the copies as separate arrays, stacked again

    Args:
        optimizer: any optimizer: `freeze`, `by_path`, a chain with noise.
        paths: where the parameters of a repeat stand, as `fnn.summary` shows it, one or more;
            ``""`` where that is the whole model. After the first they are those of the tree so far:
            a repeat in the first copy of another is ``"blocks/0/inner"``.
    Raises:    InputError for what is no optimizer, without a path, and from `init` for a path where
        there are no arrays, or none with one leading axis in common.

    >>> import fnn, jax.numpy as jnp
    >>> frozen = fnn.optim.freeze(fnn.optim.sgd(0.5), "blocks/1/*")
    >>> optimizer = unstack(frozen, "blocks")
    >>> params = {"blocks": {"bias": jnp.ones((3, 2))}}
    >>> optimizer.update(params, optimizer.init(params), params)[0]["blocks"]["bias"]
    Array([[-0.5, -0.5],
           [ 0. ,  0. ],
           [-0.5, -0.5]], dtype=float32)

    """
    check_optimizer("an optimizer", optimizer)
    if not paths or not all(isinstance(path, str) for path in paths):
        raise InputError(
            "paths", describe(paths), "name the repeat, as in unstack(optimizer, 'blocks')"
        )

    def init(params: Params, /) -> UnstackState:
        for i, path in enumerate(paths):
            _check_stack(path, _unstacked(paths[:i], params))
        return UnstackState(optimizer.init(_unstacked(paths, params)), paths)

    def update(
        grads: Grads, state: UnstackState, params: Params, /, **extra: PyTree
    ) -> tuple[Updates, UnstackState]:
        more = {name: _of_parts(paths, name, given) for name, given in extra.items()}
        parts = _unstacked(paths, grads), state.inner, _unstacked(paths, params)
        updates, inner = update_with(optimizer, *parts, more)
        return _stacked(paths, updates), UnstackState(inner, paths)

    inner_step = getattr(optimizer, "step", None)
    if inner_step is None:
        return Optimizer(init, update)
    return Optimizer(init, update, functools.partial(_step_of_parts, inner_step, paths))


def _step_of_parts(
    step: OptimizerStep,
    paths: tuple[str, ...],
    gradient_at: GradientAt,
    params: Params,
    state: UnstackState,
    /,
) -> Taken:
    """Take a step of an optimizer that is handed the gradient as a function of the copies."""

    def at_parts(parts: Params, /) -> tuple[tuple[Scalar, State], Grads]:
        value_and_aux, grads = gradient_at(_stacked(paths, parts))
        return value_and_aux, _unstacked(paths, grads)

    value_and_aux, updates, inner = step(at_parts, _unstacked(paths, params), state.inner)
    return value_and_aux, _stacked(paths, updates), UnstackState(inner, paths)


def _of_parts(paths: tuple[str, ...], name: str, given: Unchecked) -> Unchecked:
    """Return what an optimizer is given beside the gradient, for copies as separate arrays."""
    if name == "grad":
        return _unstacked(paths, given)
    if name == "value_fn":
        return lambda parts: given(_stacked(paths, parts))
    if name == "grad_fn":
        return lambda parts, *more: _unstacked(paths, given(_stacked(paths, parts), *more))
    return given


def _unstacked(paths: tuple[str, ...], tree: PyTree) -> PyTree:
    """Return a tree with a tuple of copies at each path.

    >>> _unstacked(("a",), {"a": {"b": jnp.array([1.0, 2.0])}})
    {'a': ({'b': Array(1., dtype=float32)}, {'b': Array(2., dtype=float32)})}
    """
    for path in paths:
        tree = _replaced(path, _copies, tree)
    return tree


def _stacked(paths: tuple[str, ...], tree: PyTree) -> PyTree:
    """Return the tree that `_unstacked` took apart.

    >>> _stacked(("a",), {"a": ({"b": jnp.ones(1)}, {"b": jnp.zeros(1)})})["a"]["b"].shape
    (2, 1)
    """
    for path in reversed(paths):
        tree = _replaced(path, lambda copies: jax.tree.map(_stack, *copies), tree)
    return tree


def _replaced(path: str, function: Callable[[PyTree], PyTree], tree: PyTree) -> PyTree:
    """Return a tree with a function applied to the part that stands at a path."""

    def is_there(here: Unchecked, node: PyTree) -> bool:
        del node
        return jax.tree_util.keystr(here, simple=True, separator="/") == path

    def one(here: Unchecked, node: PyTree) -> PyTree:
        return function(node) if is_there(here, node) else node

    return jax.tree.map_with_path(one, tree, is_leaf=is_there, is_leaf_takes_path=True)


def _copies(stack: PyTree) -> tuple[PyTree, ...]:
    """Return what is stacked, one after the other."""
    count = next((leaf.shape[0] for leaf in jax.tree.leaves(stack)), 0)
    return tuple(jax.tree.map(operator.itemgetter(i), stack) for i in range(count))


def _stack(*copies: Array) -> Array:
    return jnp.stack(copies)


def _check_stack(path: str, params: Params) -> None:
    """Raise `InputError` unless there are arrays at a path, with a leading axis in common."""
    found: list[PyTree] = []
    _replaced(path, found.append, params)
    shapes = [leaf.shape for leaf in jax.tree.leaves(found)]
    if len({shape[:1] for shape in shapes}) == 1 and all(shape and shape[0] for shape in shapes):
        return
    if shapes:
        got = f"shapes {', '.join(map(str, dict.fromkeys(shapes)))}"
    else:
        got = f"none, but {', '.join(map(repr, leaf_paths(params)[:5])) or 'no parameters'}"
    expected = f"arrays at {path!r} with one leading axis in common, that of copies"
    raise InputError(expected, got, "name the path of a fnn.repeat, as fnn.summary shows it")
