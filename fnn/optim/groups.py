"""Different rules for different parameters: by a mask, or by the path of an array."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.layer import PyTree, merged
from fnn.optim.paths import by_leaf, leaf_paths
from fnn.optim.rule import UpdateRule, chain, check_rule, each, memoryless
from fnn.origin import constructor


@constructor
def masked(rule: UpdateRule, mask: PyTree | Callable[[PyTree], PyTree]) -> UpdateRule:
    """Apply a rule where a mask says True; elsewhere gradients pass as they are.

    `mask` is a tree of True and False in the structure of the parameters, or a prefix of it, or a
    function that makes one of the parameters. The rule sees, and keeps state for, its own arrays
    only, with None in the place of all others.

    Raises `fnn.InputError` for what is no rule, for a rule that needs more than the gradient
    (`sam`), and for a mask that does not fit.

    >>> import fnn, jax.numpy as jnp
    >>> rule = masked(fnn.optim.weight_decay(0.1), {"weight": True, "bias": False})
    >>> params = {"weight": jnp.array([10.0]), "bias": jnp.array([10.0])}
    >>> grads = {"weight": jnp.array([0.0]), "bias": jnp.array([0.0])}
    >>> rule.update(grads, rule.init(params), params)[0]
    {'bias': Array([0.], dtype=float32), 'weight': Array([1.], dtype=float32)}
    """
    check_rule("optim.masked", "a rule", rule, plain=True)

    def part(params: PyTree, *trees: PyTree) -> list[PyTree]:
        chosen = mask(params) if callable(mask) else mask
        if not all(isinstance(leaf, bool) for leaf in jax.tree.leaves(chosen)):
            raise InputError(
                "optim.masked", "a tree of True and False", describe(chosen), "compare shapes, say"
            )
        try:
            return [jax.tree.map(lambda m, a: a if m else None, chosen, tree) for tree in trees]
        except ValueError as error:
            raise InputError(
                "optim.masked",
                "a mask in the structure of the parameters",
                str(jax.tree.structure(chosen)),
                f"make one like {jax.tree.structure(params)}",
            ) from error

    def init(params: PyTree, /) -> PyTree:
        return rule.init(*part(params, params))

    def update(grads: PyTree, state: PyTree, params: PyTree, /) -> tuple[PyTree, PyTree]:
        own_grads, own_params = part(params, grads, params)
        updates, state = rule.update(own_grads, state, own_params)
        return merged(updates, grads), state

    return UpdateRule(init, update)


@constructor
def by_path(rules: Mapping[str, UpdateRule], default: UpdateRule | None = None) -> UpdateRule:
    """Give every parameter array the rule of the first pattern that its path matches.

    Paths are those of `fnn.summary` and of saved weights, such as ``hidden/0/bias``; patterns are
    those of file names, with ``*`` (slashes too), ``?`` and ``[...]``. `default` is the rule of all
    others; ``chain()`` lets their gradients pass. Every rule sees its own arrays only: a global
    norm in one is that of its group.

    Raises `fnn.InputError` for what is no rule, or a rule that needs more than the gradient; when
    `init` finds a pattern that matches nothing, or nothing that earlier ones leave, or without a
    default an array without a pattern.

    >>> import fnn, jax, jax.numpy as jnp
    >>> rule = by_path({"*bias": fnn.optim.sgd(0.5)}, fnn.optim.sgd(0.1))
    >>> params = ({"weight": jnp.array([1.0]), "bias": jnp.array([1.0])},)
    >>> rule.update(params, rule.init(params), params)[0]
    ({'bias': Array([-0.5], dtype=float32), 'weight': Array([-0.1], dtype=float32)},)
    """
    for rule in (*rules.values(), *([] if default is None else [default])):
        check_rule("optim.by_path", "rules", rule, plain=True)
    members = [*rules.values(), chain() if default is None else default]
    indices = {pattern: index for index, pattern in enumerate(rules)}

    def groups(params: PyTree) -> list[int]:
        return by_leaf("optim.by_path", indices, params, default=len(indices))

    def mask(index: int) -> Callable[[PyTree], PyTree]:
        return lambda params: jax.tree.unflatten(
            jax.tree.structure(params), [group == index for group in groups(params)]
        )

    grouped = chain(*(masked(rule, mask(index)) for index, rule in enumerate(members)))

    def init(params: PyTree, /) -> PyTree:
        _check_groups(indices, groups(params), leaf_paths(params), default is not None)
        return grouped.init(params)

    return UpdateRule(init, grouped.update)


@constructor
def freeze(rule: UpdateRule, *patterns: str) -> UpdateRule:
    """Apply a rule to all arrays but those whose path matches a pattern: they do not move.

    The rule sees the others only, and keeps no state for what stands still. Patterns are those of
    `by_path`.

    Raises `fnn.InputError` as `by_path` does, and without a pattern.

    >>> import fnn, jax.numpy as jnp
    >>> rule = freeze(fnn.optim.sgd(0.5), "0/*")
    >>> params = ({"bias": jnp.array([1.0])}, {"bias": jnp.array([1.0])})
    >>> rule.update(params, rule.init(params), params)[0]
    ({'bias': Array([0.], dtype=float32)}, {'bias': Array([-0.5], dtype=float32)})
    """
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(
            "optim.freeze", "patterns", describe(patterns), "name paths, as in freeze(rule, '0/*')"
        )

    def change(grads: PyTree, params: PyTree) -> PyTree:
        del params
        return each(jnp.zeros_like, grads)

    return by_path(dict.fromkeys(patterns, memoryless(change)), rule)


def _check_groups(
    indices: Mapping[str, int], groups: list[int], paths: list[str], default: bool
) -> None:
    for pattern, index in indices.items():
        if index not in groups:
            raise InputError(
                "optim.by_path",
                f"an array left for the pattern {pattern!r}",
                "one that earlier patterns leave nothing for",
                "put the narrower pattern first",
            )
    rest = [path for path, group in zip(paths, groups, strict=True) if group == len(indices)]
    if rest and not default:
        raise InputError(
            "optim.by_path",
            "a pattern for every array",
            f"none for {', '.join(map(repr, rest[:5]))}",
            "pass a default rule, such as chain() for no change",
        )
