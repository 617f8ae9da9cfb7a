"""Shared parameters: layers in several places of a model that have one set of parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, at, describe
from fnn._core.types import (
    Array,
    Cache,
    Cotangent,
    Input,
    Key,
    Output,
    Params,
    PyTree,
    Residuals,
    State,
    Unchecked,
)
from fnn.combinators.walk import join, layers_by_path, part
from fnn.layer import Layer, require_layer


@constructor
def shared(model: Layer, /, ties: Mapping[str, str]) -> Layer:
    """Shared parameters (weight tying): a model in which layers use the parameters of others.

    The parameters stand once in the tree, at the path of the layer that owns them; at that of a
    layer that uses them stands ``()``. So they are saved once, frozen by the owner's path, and an
    optimizer sees one gradient. State is no parameter: every place keeps its own, as the running
    mean of a batch norm is that of what comes by there.

    For a tied embedding see `fnn.unembedding`, for two branches `fnn.over_parts`.

    Forward:   y = f(x; p) of the model with ``p[user] = p[owner]``
    Backward:  dp[owner] = its own + the sum of dp[user] over all users

    Args:
        model: f, any model.
        ties: the path of each layer or combinator that uses the parameters of another, and the path
            of that other one: ``{"head": "embedding"}``. Paths are those of parameters, as
            `fnn.summary` shows them; inside of a `fnn.repeat` a copy shares with the same copy.
    Shapes:    x and y are those of the model
    Saves:     what the model saves
    Raises:    InputError for a path where there is no layer, for an owner that uses another's
        parameters itself, for layers whose parameters are unlike, and for what is no layer.
    Source:    Press and Wolf 2017, arXiv:1608.05859, section 3; Bromley et al. 1993, "Signature
        verification using a siamese time delay neural network", section 3.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = fnn.serial(embed=fnn.embedding(50, 8), gate=fnn.tanh(), head=fnn.unembedding(50))
    >>> model = shared(model, {"head": "embed"})
    >>> params, state = model.init(jax.random.key(0), jnp.zeros((1, 4), int))
    >>> params["embed"]["weight"].shape, params["head"]
    ((50, 8), ())

    """
    require_layer(model)
    owners = _owners(model, ties)
    users = _Shared(model, owners)
    return Layer(
        users.init,
        users.apply,
        users.forward,
        users.backward,
        children=MappingProxyType({"": _titled(model, owners)}),
        rebuild=lambda model: shared(model, ties),
        prefill=users.prefill,
        decode=users.decode,
    )


@dataclasses.dataclass(frozen=True)
class _Shared:
    """The functions, by the paths of layers without children: of users, and their owners."""

    model: Layer
    owners: Mapping[str, str]

    def init(self, key: Array, x: Input, /) -> tuple[Params, State]:
        params, state = self.model.init(key, x)
        for user, owner in self.owners.items():
            with at(user):
                _check_alike(owner, _get(params, owner), _get(params, user))
        for user in self.owners:
            params = _put(params, user, ())
        return params, state

    def apply(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        return self.model.apply(self.filled(params), state, x, key=key, train=train)

    def forward(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        return self.model.forward(self.filled(params), state, x, key=key, train=train)

    def backward(
        self, params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        dparams, dx = self.model.backward(self.filled(params), residuals, dy)
        for user, owner in self.owners.items():
            own, more = _get(dparams, owner), _get(dparams, user)
            structure: Unchecked = jax.tree.structure(_get(params, owner))
            # What is no gradient of these parameters, as when a layer is watched, passes untouched.
            if jax.tree.structure(own) == structure == jax.tree.structure(more):
                dparams = _put(dparams, owner, jax.tree.map(jnp.add, own, more))
                dparams = _put(dparams, user, ())
        return dparams, dx

    def prefill(
        self,
        params: Params,
        state: State,
        x: Input,
        /,
        *,
        window: int,
        lengths: Array | None = None,
    ) -> tuple[Output, Cache]:
        return self.model.prefill(self.filled(params), state, x, window=window, lengths=lengths)

    def decode(
        self, params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        return self.model.decode(self.filled(params), state, cache, x, position)

    def filled(self, params: Params) -> Params:
        """Return the parameters of the model, those of owners at the paths of users too."""
        for user, owner in self.owners.items():
            params = _put(params, user, _get(params, owner))
        return params


def _owners(model: Layer, ties: Unchecked) -> dict[str, str]:
    """Return the owner of each layer without children that uses another's parameters, by paths."""
    texts = isinstance(ties, Mapping) and all(isinstance(path, str) for path in ties.values())
    if not texts or not ties:
        remedy = 'pass paths of parameters, as in {"head": "embedding"}'
        raise InputError("ties of paths to the paths of owners", describe(ties), remedy)
    leaves = [path for path, layer in layers_by_path(model).items() if not layer.children]
    found: dict[str, str] = {}
    for user, owner in ties.items():
        below, above = (
            {rest for leaf in leaves if (rest := _rest(leaf, path)) is not None}
            for path in (user, owner)
        )
        for path, rests in ((user, below), (owner, above)):
            if not rests or not path:
                known = ", ".join(sorted(set(filter(None, leaves))))
                raise InputError(
                    "paths of layers inside of the model", describe(path), f"choose of {known}"
                )
        if user == owner or below != above:
            raise InputError(
                f"{owner!r} to be another layer, like {user!r}",
                f"layers at {sorted(above)} and at {sorted(below)} below them",
                "share between equal layers, or equal combinators of them",
            )
        found |= {join(user, rest): join(owner, rest) for rest in below}
    twice = sorted(set(found) & set(found.values()))
    if twice:
        raise InputError(
            "owners that have their parameters themselves",
            f"{twice[0]!r}, which uses those of {found[twice[0]]!r}",
            "name that one as the owner",
        )
    return found


def _rest(leaf: str, path: str) -> str | None:
    """Return the path from a combinator to a layer; None where the layer is not inside.

    >>> _rest("left/0", "left"), _rest("left", "left"), _rest("leftover", "left")
    ('0', '', None)
    """
    if leaf == path:
        return ""
    return leaf.removeprefix(f"{path}/") if leaf.startswith(f"{path}/") else None


def _titled(layer: Layer, owners: Mapping[str, str], path: str = "") -> Layer:
    """Return a model whose users say in their names whose parameters they have."""
    if not any(_rest(user, path) is not None for user in owners) and path:
        return layer
    if not layer.children:
        mark = f" (as {owners[path]})"
        title = layer.title or ("layer" if layer.call is None else layer.call.name)
        return dataclasses.replace(layer, title=f"{title.removesuffix(mark)}{mark}")
    if layer.rebuild is None:
        return layer
    inside = layer.children.items()
    return layer.rebuild(*(_titled(child, owners, join(path, name)) for name, child in inside))


def _check_alike(owner: str, own: Params, used: Params) -> None:
    """Raise unless the parameters of a user are like those of the owner."""
    try:
        check.same_shape(own, used)
    except InputError as error:
        _, got, _ = error.args
        expected = f"parameters like those of {owner!r}, {jax.tree.map(jnp.shape, own)}"
        remedy = "share between layers of one kind and size, outside of fnn.repeat or in one"
        raise InputError(expected, got, remedy) from None


def _get(tree: PyTree, path: str) -> PyTree:
    """Return the part of a tree at a path."""
    for step in path.split("/"):
        tree = part(tree, step)
    return tree


def _put(tree: PyTree, path: str, value: PyTree) -> PyTree:
    """Return a tree with another part at a path.

    >>> _put({"a": (1, 2)}, "a/1", 3)
    {'a': (1, 3)}
    """
    step, _, rest = path.partition("/")
    new = _put(part(tree, step), rest, value) if rest else value
    if isinstance(tree, dict):
        return tree | {step: new}
    return (*tree[: int(step)], new, *tree[int(step) + 1 :])
