"""Low-rank adaptation: a trained model and a small change of its weights."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.arrays import require_arrays
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import (
    Array,
    Cache,
    Cotangent,
    Input,
    Key,
    Number,
    Output,
    Params,
    PyTree,
    Residuals,
    State,
    Unchecked,
)
from fnn.layer import Layer, require_layer

_normal = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")


@constructor
def lora(
    model: Layer, /, rank: int, patterns: Sequence[str] = ("*weight",), *, scale: Number = 1.0
) -> Layer:
    """Low-rank adaptation (LoRA): weights of a model plus products of two thin matrices.

    Parameters are ``{"base": those of the model, "adapters": {path: {"a": ..., "b": ...}}}``. It
    starts as the model, since b is 0. To fine-tune, put trained parameters in the place of the base
    and freeze them::

        params, state = model.init(key, x)
        params, state = params | {"base": trained}, {"base": trained_state}
        optimizer = fnn.optim.freeze(fnn.optim.adam(1e-3), "base/*")

    `fnn.merge_lora` gives the weights back to the model alone. The gradient of a weight
    is computed whole: what is saved is the state of the optimizer and the file, not time.

    Forward:   y = f(x; W + scale a b), for all weights W that a pattern names
    Backward:  of the model for W + scale a b comes dW; da = scale dW b^T, db = scale a^T dW

    Args:
        model: f, any model.
        rank: r, the width of a and b; less than a weight has rows and columns.
        patterns: over paths of parameters, as `fnmatch` reads them: ``"*/query/weight"``.
        scale: what the change counts, a finite number.
    Shapes:    x and y are those of the model; W (..., I, O) with leading axes of copies,
        a (..., I, r), b (..., r, O)
    Saves:     what the model saves
    Raises:    InputError for what is no layer, a rank below 1 or too large, a pattern that names no
        parameters, and for parameters that are no matrices.
    Source:    Hu et al. 2021, arXiv:2106.09685, eq. 3.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = lora(fnn.serial(fnn.dense(8), fnn.relu(), fnn.dense(3)), 2, ["0/weight"])
    >>> params, state = model.init(jax.random.key(0), jnp.ones((1, 5)))
    >>> {path: adapter["a"].shape for path, adapter in params["adapters"].items()}
    {'0/weight': (5, 2)}

    """
    require_layer(model)
    check.count(rank, "rank")
    check.number(scale, "scale")
    given = tuple(check.several(patterns, "patterns", "pass a list of texts"))
    if not given or not all(isinstance(one, str) for one in given):
        raise InputError("patterns of text", describe(patterns), "pass a list of texts")
    of = _Adapted(model, rank, given, scale)
    return Layer(
        of.init,
        of.apply,
        of.forward,
        of.backward,
        children=MappingProxyType({"base": model}),
        rebuild=lambda model: lora(model, rank, patterns, scale=scale),
        prefill=of.prefill,
        decode=of.decode,
    )


def merge_lora(params: Params, *, scale: Number = 1.0) -> Params:
    """Return the parameters of the model alone, with the change of `lora` added to them.

    Args:
        params: those of `lora`.
        scale: that of `lora`.
    Raises:    InputError for other parameters, and for a scale that is no finite number.

    >>> one = {"weight": jnp.eye(2)}
    >>> adapter = {"a": jnp.array([[1.0], [0.0]]), "b": jnp.array([[0.0, 2.0]])}
    >>> merge_lora({"base": one, "adapters": {"weight": adapter}})["weight"]
    Array([[1., 2.],
           [0., 1.]], dtype=float32)
    """
    check.number(scale, "scale")
    if not isinstance(params, Mapping) or params.keys() != {"base", "adapters"}:
        raise InputError("params of fnn.lora", describe(params), "pass those of its init")
    params = require_arrays(params, "params")
    adapters = params["adapters"]
    if not isinstance(adapters, Mapping):
        raise InputError("adapters by path", describe(adapters), "pass params of fnn.lora")

    def merged(path: PyTree, leaf: Array) -> Array:
        adapter = adapters.get(_name(path))
        if adapter is None:
            return leaf
        return leaf + jnp.asarray(scale, leaf.dtype) * (adapter["a"] @ adapter["b"])

    return jax.tree.map_with_path(merged, params["base"])


@dataclasses.dataclass(frozen=True)
class _Adapted:
    """The functions of an adapted model."""

    model: Layer
    rank: int
    patterns: tuple[str, ...]
    scale: Number

    def init(self, key: Array, x: Input, /) -> tuple[Params, State]:
        key = check.key(key)
        base, state = self.model.init(key, x)
        weights = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(base)}
        chosen = self.chosen(weights)
        keys = jax.random.split(jax.random.fold_in(key, 1), max(len(chosen), 1))
        adapters = {
            path: _adapter(key, path, weights[path], self.rank)
            for path, key in zip(chosen, keys, strict=False)
        }
        return {"base": base, "adapters": adapters}, {"base": state}

    def chosen(self, weights: Unchecked) -> list[str]:
        """Return the paths that a pattern names."""
        for pattern in self.patterns:
            if not fnmatch.filter(weights, pattern):
                known = ", ".join(weights)
                raise InputError(
                    "patterns of parameters that there are", describe(pattern), f"choose of {known}"
                )
        found = (fnmatch.filter(weights, pattern) for pattern in self.patterns)
        return list(dict.fromkeys(path for paths in found for path in paths))

    def apply(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        y, state = self.model.apply(self.whole(params), state["base"], x, key=key, train=train)
        return y, {"base": state}

    def forward(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        whole = self.whole(params)
        y, state, residuals = self.model.forward(whole, state["base"], x, key=key, train=train)
        return y, {"base": state}, {"base": residuals}

    def backward(
        self, params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        dbase, dx = self.model.backward(self.whole(params), residuals["base"], dy)
        slopes = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(dbase)}
        dadapters = {}
        for path, adapter in params["adapters"].items():
            slope, a, b = slopes.get(path), adapter["a"], adapter["b"]
            if slope is None:  # a watched layer hands out something else
                dadapters[path] = jax.tree.map(jnp.zeros_like, adapter)
                continue
            slope = jnp.asarray(self.scale, slope.dtype) * slope
            dadapters[path] = {
                "a": slope @ jnp.swapaxes(b, -1, -2), "b": jnp.swapaxes(a, -1, -2) @ slope,
            }  # fmt: skip
        return {"base": dbase, "adapters": dadapters}, dx

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
        whole = self.whole(params)
        return self.model.prefill(whole, state["base"], x, window=window, lengths=lengths)

    def decode(
        self, params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        return self.model.decode(self.whole(params), state["base"], cache, x, position)

    def whole(self, params: Params) -> Params:
        """Return the weights with their changes."""
        return merge_lora(params, scale=self.scale)


def _adapter(key: Array, path: str, weight: Array, rank: int) -> dict[str, Array]:
    """Return a drawn at random and b of zeros, for a weight."""
    if weight.ndim < 2:
        raise InputError(
            "patterns of matrices",
            f"{path} of shape {weight.shape}",
            "name weights, as in '*weight'",
        )
    *copies, rows, columns = weight.shape
    if rank >= min(rows, columns):
        raise InputError(
            f"a rank below {min(rows, columns)}, for {path} of shape {weight.shape}",
            str(rank),
            "pass a smaller one, or name other weights",
        )
    a = jax.vmap(lambda key: _normal(key, (rows, rank), weight.dtype))(
        jax.random.split(key, math.prod(copies))
    )
    return {
        "a": a.reshape(*copies, rows, rank), "b": jnp.zeros((*copies, rank, columns), weight.dtype),
    }  # fmt: skip


def _name(path: Unchecked) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
