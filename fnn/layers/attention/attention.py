"""Attention: every step takes from all others what its query finds in their keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.precision import downcast, upcast
from fnn._core.tree import inexact_leaves
from fnn._core.types import Array, Coefficient, Key, PyTree
from fnn.combinators.sequence import Sequence, step_mask
from fnn.layer import Layer, stateful
from fnn.layers._initializers import lecun_normal
from fnn.layers.attention._blocks import Dropping
from fnn.layers.attention._blockwise import Rows, Scoring, Whole, attend, attend_backward, plain
from fnn.layers.attention.position import BASE, check_base, rotated
from fnn.layers.dense import dense
from fnn.layers.dropout import check_rate, given_key


@constructor
def attention(
    heads: int,
    *,
    key_value_heads: int | None = None,
    head_width: int | None = None,
    causal: bool = False,
    rotary: bool | float = False,
    score_bias: Callable[[Any, Any], Any] | None = None,
    bias: bool = True,
    dropout: Coefficient = 0.0,
    block: int = 128,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Multi-head attention: every time step averages the values of others, weighted by softmax.

    Forward, with ``q = x W_q + b_q``, ``k = m W_k + b_k``, ``v = m W_v + b_v`` in N heads of D
    channels, m being x itself or a memory: scores ``z[n, t, s] = sum_d q[t, n, d] k[s, n, d] /
    sqrt(D)``, probabilities ``p[n, t, s] = exp(z[n, t, s]) / sum_s exp(z[n, t, s])``,
    ``o[t, n, d] = sum_s p[n, t, s] v[s, n, d]``, ``y = o W_o + b_o``. Backward, from the do behind
    the last product: ``dp[n, t, s] = sum_d do[t, n, d] v[s, n, d]``, ``dz = p (dp - sum_s p dp)``,
    ``dq[t, n, d] = sum_s dz[n, t, s] k[s, n, d] / sqrt(D)``,
    ``dk[s, n, d] = sum_t dz[n, t, s] q[t, n, d] / sqrt(D)``,
    ``dv[s, n, d] = sum_t p[n, t, s] do[t, n, d]``, and on to weights and x as in `fnn.dense`.
    Saved up to a length of ``2 block``: x, q, k, v, o and p. A longer one is gone through in blocks
    of `block` steps, which saves a logarithm for every row in place of p, and works p out again:
    memory grows with T, not with T^2.

    x is (B, T, C), or a pair ``(x, memory)`` with memory (B, S, M) to attend to, each an array or a
    `fnn.Sequence`: no step sees those that are not there. y is (B, T, C) as x is, lengths and carry
    passed on. Of a step that sees nothing o is 0. Parameters are those of four dense layers, query
    (C, N D), key and value (M, N D), output (N D, C), D being `head_width` or else C / N.

    In training p has, in o, dv and dp, a factor ``m / (1 - dropout)``, m = 0 with this probability
    and else 1, as in `fnn.dropout`. It is drawn from `key`, and again in backward: none is saved.

    `key_value_heads` are fewer heads of keys and values, each for as many heads of queries next to
    each other. `causal` lets step t see the steps s <= t. `rotary` turns queries and keys by their
    places as `fnn.rotary` does; a number is its base. `score_bias` is added to z: a function from
    places of queries (T, 1) and of keys (1, S), floating numbers, to constants (T, S) or (N, T, S),
    -inf for what is not seen, as in ``lambda t, s: -abs(t - s) / 8``.

    Raises `fnn.InputError` for options out of range, heads that do not divide C, key_value_heads
    that do not divide heads, an odd D with `rotary`, an x or memory of another shape, of integers
    or without steps, a memory of another batch, for lengths as `fnn.Sequence` has none, and for a
    missing key in training with dropout. Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1;
    blocks: Dao et al. 2022, arXiv:2205.14135; fewer keys: Ainslie et al. 2023, arXiv:2305.13245;
    biases: Press et al. 2021, arXiv:2108.12409.

    >>> import fnn, jax, jax.numpy as jnp
    >>> layer = attention(2, causal=True)
    >>> x = jax.random.normal(jax.random.key(1), (1, 3, 4))
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> sorted(params), params["query"]["weight"].shape
    (['key', 'output', 'query', 'value'], (4, 4))
    >>> first, _ = layer.apply(params, state, x[:, :1])
    >>> jnp.allclose(layer.apply(params, state, x)[0][:, :1], first)
    Array(True, dtype=bool)
    """
    own = heads if key_value_heads is None else key_value_heads
    _check_options(heads, own, head_width, block, causal, score_bias)
    base = None if rotary is False else BASE if rotary is True else rotary
    if base is not None:
        check_base(base)
    check_rate(dropout, "dropout")
    scoring = Scoring(causal, score_bias)

    def projections(inputs: int, width: int) -> dict[str, Layer]:
        widths = {"query": heads * width, "key": own * width, "value": own * width}
        return {
            name: dense(size, bias=bias, initializer=initializer)
            for name, size in (widths | {"output": inputs}).items()
        }

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        values = jax.eval_shape(_values, x)
        channels = values.query.shape[-1]
        if head_width is None and channels % heads:
            raise InputError(
                f"channels in {heads} equal heads",
                f"{channels} channels",
                "pass a number of heads that divides that of the channels, or a head_width",
            )
        width = channels // heads if head_width is None else head_width
        if base is not None and width % 2:
            raise InputError(
                "an even head_width for rotary",
                f"{width}",
                "the channels of a head turn in pairs",
            )
        between = jax.ShapeDtypeStruct(
            (*values.query.shape[:-1], heads * width), values.query.dtype
        )
        shapes = {"query": values.query, "output": between}
        params = {}
        for i, (name, layer) in enumerate(projections(channels, width).items()):
            of = shapes.get(name, values.memory)
            params[name], _ = layer.init(jax.random.fold_in(key, i), of)
        return params, ()

    def project(params: PyTree, x: Any) -> tuple[_Values, Any, Any, Any]:
        """Return the input's arrays, and q, k and v in the shapes of `blockwise`."""
        values = _values(x, params)
        width = params["query"]["weight"].shape[1] // heads

        def heads_of(name: str, z: Any) -> Any:
            z, _ = _DENSE[bias].apply(params[name], (), z)
            z = z.reshape(*z.shape[:-1], -1, width)
            return z if base is None or name == "value" else rotated(z, base)

        q = heads_of("query", values.query)
        q = downcast(upcast(q) * width**-0.5, q)
        q = q.reshape(*q.shape[:2], own, heads // own, width).transpose(0, 2, 3, 1, 4)
        k, v = (heads_of(name, values.memory).swapaxes(1, 2) for name in ("key", "value"))
        return values, q, k, v

    def needed(key: Key, train: bool) -> Key:
        return given_key(key) if train and not check.is_zero(dropout) else None

    def dropping(key: Key) -> Dropping | None:
        return None if key is None else Dropping(key, dropout)

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        values, q, k, v = project(params, x)
        o, _ = plain(q, k, v, values.present, scoring, block, dropping(needed(key, train)))
        y, _ = _DENSE[bias].apply(params["output"], (), _joined(o))
        return _with_values(x, y), state

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        values, q, k, v = project(params, x)
        key = needed(key, train)
        o, saved = attend(q, k, v, values.present, scoring, block, dropping(key))
        joined = _joined(o)
        y, _ = _DENSE[bias].apply(params["output"], (), joined)
        memory = inexact_leaves(x[1]) if _is_pair(x) else None
        residuals = _Residuals(values.query, memory, values.present, q, k, v, joined, saved, key)
        return _with_values(x, y), state, residuals

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        query, memory, present, q, k, v, joined, saved, key = residuals
        dparams = {}
        values = dy.values if isinstance(dy, Sequence) else dy
        dparams["output"], do = _DENSE[bias].backward(params["output"], joined, values)
        o, do = (_parted(a, q.shape) for a in (joined, do))
        dq, dk, dv = attend_backward(q, k, v, present, o, saved, do, scoring, block, dropping(key))
        dq = downcast(upcast(_joined(dq)) * q.shape[-1] ** -0.5, dq)
        dz = {"query": dq, "key": _joined(dk[:, :, None]), "value": _joined(dv[:, :, None])}
        dx = {}
        for name, d in dz.items():
            if base is not None and name != "value":
                d = rotated(d.reshape(*d.shape[:2], -1, q.shape[-1]), base, back=True)
                d = d.reshape(*d.shape[:2], -1)
            of = query if name == "query" or memory is None else _array(memory)
            dparams[name], dx[name] = _DENSE[bias].backward(params[name], of, d)
        through_memory = dx["key"] + dx["value"]
        if memory is None:
            return dparams, _with_values(dy, dx["query"] + through_memory)
        unused = jax.tree.map(jnp.zeros_like, memory)
        return dparams, (_with_values(dy, dx["query"]), _with_values(unused, through_memory))

    return stateful(init, forward, backward, reference=apply)


class _Residuals(NamedTuple):
    """What backward needs: memory None for x itself, key None without dropout, o (B, T, N D)."""

    query: Array
    memory: Any
    present: Array | None
    q: Array
    k: Array
    v: Array
    o: Array
    saved: Whole | Rows
    key: Key


class _Values(NamedTuple):
    """The arrays of an input (B, T, C) and (B, S, M), and which steps of memory are there."""

    query: Any
    memory: Any
    present: Any


# How wide a dense layer is, its weight tells; only init asks the layer.
_DENSE = {bias: dense(1, bias=bias) for bias in (True, False)}


def _is_pair(x: Any) -> bool:
    return isinstance(x, tuple) and not isinstance(x, Sequence)


def _array(x: Any) -> Any:
    return x.values if isinstance(x, Sequence) else x


def _with_values(x: Any, values: Any) -> Any:
    """Return the values as what x, or the first of a pair, is: a sequence or an array."""
    first = x[0] if _is_pair(x) else x
    return first._replace(values=values) if isinstance(first, Sequence) else values


def _joined(o: Any) -> Any:
    """Put heads (B, M, G, T, D) side by side: (B, T, M G D)."""
    return o.transpose(0, 3, 1, 2, 4).reshape(o.shape[0], o.shape[3], -1)


def _parted(o: Any, shape: tuple[int, ...]) -> Any:
    """Undo `_joined`."""
    batch, keys, groups, steps, width = shape
    return o.reshape(batch, steps, keys, groups, width).transpose(0, 2, 3, 1, 4)


def _values(x: Any, params: PyTree = None) -> _Values:
    """Check an input, against the weights if there are some, and take it apart."""
    if _is_pair(x) and len(x) != 2:
        raise InputError("x or (x, memory)", f"a tuple of {len(x)}", "attend to one memory")
    query, memory = x if _is_pair(x) else (x, x)
    for name, part, weight in (("x", query, "query"), ("memory", memory, "key")):
        array = _array(part)
        check.floating(array)
        channels = "C" if params is None else params[weight]["weight"].shape[0]
        fits = len(array.shape) == 3 and channels in ("C", array.shape[-1])
        if not fits or 0 in array.shape[1:]:
            raise InputError(
                f"{name} of shape (B, T, {channels})",
                str(tuple(array.shape)),
                "keep batch, time and channels apart, and one step or more",
            )
    if _array(query).shape[0] != _array(memory).shape[0]:
        raise InputError(
            f"a memory of batch {_array(query).shape[0]}",
            f"{_array(memory).shape[0]}",
            "give every example a memory of its own",
        )
    step_mask(query)
    return _Values(_array(query), _array(memory), step_mask(memory))


def _check_options(
    heads: int, own: int, head_width: int | None, block: int, causal: Any, score_bias: Any
) -> None:
    options = {"heads": heads, "key_value_heads": own, "head_width": head_width, "block": block}
    for name, value in options.items():
        if not (check.is_count(value, 1) or (name == "head_width" and value is None)):
            raise InputError(f"{name} of 1 or more", describe(value), "pass a positive int")
    if not isinstance(causal, bool):
        raise InputError("causal of True or False", describe(causal), "pass True for no future")
    if score_bias is not None and not callable(score_bias):
        raise InputError(
            "a score_bias that is a function of places",
            describe(score_bias),
            "pass one such as lambda t, s: -abs(t - s) / 8",
        )
    if heads % own:
        raise InputError(
            f"key_value_heads that divide the {heads} heads",
            f"{own}",
            "each head of keys serves as many heads of queries",
        )
