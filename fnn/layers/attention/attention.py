"""Attention: every time step takes from all others what its query finds in their keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.precision import downcast, upcast
from fnn._core.tree import inexact_leaves
from fnn._core.types import (
    Array,
    Cache,
    Coefficient,
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
from fnn.combinators.sequence import Sequence, step_mask
from fnn.layer import Layer, stateful
from fnn.layers._initializers import check_initializer, lecun_normal
from fnn.layers.attention._blocks import Dropping
from fnn.layers.attention._blockwise import (
    Again,
    Rows,
    Scoring,
    attend,
    attend_backward,
    attend_cached,
    plain,
)
from fnn.layers.attention.position import BASE, check_base, rotate
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
    score_bias: Callable[[Array, Array], Array] | None = None,
    bias: bool = True,
    dropout: Coefficient = 0.0,
    block: int | None = None,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Multi-head attention: every time step averages the values of others, weighted by softmax.

    x is an array, or a pair ``(x, memory)`` with a memory to attend to, each an array or a
    `fnn.Sequence`: no step sees those that are not there, and what they hold changes nothing, not
    even if it is NaN. y is what x is, and 0 where a step is not there. In training p has, in o, dv
    and dp, a factor ``m / (1 - dropout)``, m = 0 with this probability and else 1, drawn from `key`
    and again in backward.

    Forward:   q = x W_q + b_q, k = m W_k + b_k, v = m W_v + b_v in heads, m being x or the memory
        z[n, t, s] = sum_d q[t, n, d] k[s, n, d] / sqrt(D)
        p[n, t, s] = exp(z[n, t, s]) / sum_s exp(z[n, t, s])
        o[t, n, d] = sum_s p[n, t, s] v[s, n, d], 0 for a step that sees nothing
        y = o W_o + b_o
    Backward:  dp[n, t, s] = sum_d do[t, n, d] v[s, n, d], do being what is behind the last product
        dz = p (dp - sum_s p dp)
        dq[t, n, d] = sum_s dz[n, t, s] k[s, n, d] / sqrt(D)
        dk[s, n, d] = sum_t dz[n, t, s] q[t, n, d] / sqrt(D)
        dv[s, n, d] = sum_t p[n, t, s] do[t, n, d]
        and on to weights and x as in `fnn.dense`

    Args:
        heads: N, the number of heads of queries.
        key_value_heads: fewer heads of keys and values, each for as many heads of queries next to
            each other; None for N.
        head_width: D, the channels of a head; None for C / N.
        causal: whether step t sees the steps s <= t only.
        rotary: whether queries and keys are turned by their positions, as `fnn.rotary` does; a
            number is its base.
        score_bias: added to z: a function of positions of queries (T, 1) and of keys (1, S),
            floating numbers, to constants (T, S) or (N, T, S), -inf for what is not seen, as in
            ``lambda t, s: -abs(t - s) / 8``.
        bias: whether the four projections have one.
        dropout: the fraction of the probabilities dropped in training.
        block: how many steps are gone through at a time, where there are more than twice as many;
            None for 512, and on a CPU for 128, or for 512 queries and 256 keys where they fill up
            all blocks. Dropout draws by the block.
        initializer: draws the weights of the four projections.
    Shapes:    x, y (B, T, C); memory (B, S, M); weights of the dense layers query (C, N D), key
        and value (M, N D), output (N D, C)
    Saves:     x, q, k, v, o and for every row m = max_s z and sum_s exp(z - m) in place of p, so
        that memory grows with T, not with T^2. On a GPU of NVIDIA (Ampere or later) in 16 bits,
        without score_bias, dropout and padding, the kernel of cuDNN computes o and its gradient,
        and nothing is saved of a row
    Raises:    InputError for options out of range, heads that do not divide C, key_value_heads that
        do not divide heads, an odd D with rotary, an x or memory of another shape, of integers or
        without steps, a memory of another batch, lengths that do not fit, and a missing key in
        training with dropout.
    Source:    Vaswani et al. 2017, arXiv:1706.03762, eq. 1; blocks: Dao et al. 2022,
        arXiv:2205.14135; fewer keys: Ainslie et al. 2023, arXiv:2305.13245; biases: Press et al.
        2021, arXiv:2108.12409.

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
    if not isinstance(rotary, bool | np.bool_):
        check_base(rotary)
    base = None if _is_false(rotary) else BASE if isinstance(rotary, bool | np.bool_) else rotary
    own = heads if key_value_heads is None else key_value_heads
    scoring = Scoring(causal, score_bias)
    plan = _Plan(heads, own, head_width, base, scoring, bias, dropout, block, initializer)
    _check_plan(plan)
    return stateful(
        lambda key, x: _init(plan, key, x),
        lambda params, state, x, *, key=None, train=False: _forward(
            plan, params, state, x, key=key, train=train
        ),
        lambda params, residuals, dy: _backward(plan, params, residuals, dy),
        reference=lambda params, state, x, *, key=None, train=False: _apply(
            plan, params, state, x, key=key, train=train
        ),
        prefill=partial(_prefill, plan),
        decode=partial(_decode, plan),
    )


class _Plan(NamedTuple):
    """What an attention layer is told: `base` is that of rotary angles, None without them."""

    heads: int
    key_value_heads: int
    head_width: int | None
    base: float | None
    scoring: Scoring
    bias: bool
    dropout: Coefficient
    block: int | None
    initializer: jax.nn.initializers.Initializer


class _Residuals(NamedTuple):
    """What backward needs: memory None for x itself, key None without dropout, o (B, T, N D).

    `there` are the steps of the query where there is a memory, whose own are `present`.
    """

    query: Array
    there: Array | None
    memory: PyTree
    present: Array | None
    q: Array
    k: Array
    v: Array
    o: Array
    saved: Rows | Again
    key: Key


class _Cache(NamedTuple):
    """Keys and values (B, M, S, D): of a memory, or of x itself with room for a window.

    `present` (B, S) are the steps of a memory that are there.
    """

    k: Array
    v: Array
    present: Array | None


class _Values(NamedTuple):
    """The arrays of an input (B, T, C) and (B, S, M), and which of their steps are there."""

    query: Any
    there: Any
    memory: Any
    present: Any


def _check_plan(plan: _Plan) -> None:
    for name in ("heads", "key_value_heads", "head_width", "block"):
        if name in ("heads", "key_value_heads") or getattr(plan, name) is not None:
            check.count(getattr(plan, name), name)
    if plan.heads % plan.key_value_heads:
        raise InputError(
            f"key_value_heads that divide the {plan.heads} heads",
            f"{plan.key_value_heads}",
            "each head of keys serves as many heads of queries",
        )
    check.flag(plan.scoring.causal, "causal", "pass True for no future")
    check.flag(plan.bias, "bias")
    if plan.scoring.bias is not None:
        remedy = "pass one of positions, such as lambda t, s: -abs(t - s) / 8"
        check.function(plan.scoring.bias, "score_bias", remedy)
    check_rate(plan.dropout, "dropout")
    check_initializer(plan.initializer)


def _init(plan: _Plan, key: Array, x: Input, /) -> tuple[Params, State]:
    values = jax.eval_shape(_values, x)
    channels, width = values.query.shape[-1], plan.head_width
    if width is None and channels % plan.heads:
        raise InputError(
            f"channels in {plan.heads} equal heads",
            f"{channels} channels",
            "pass a number of heads that divides that of the channels, or a head_width",
        )
    width = channels // plan.heads if width is None else width
    if plan.base is not None and width % 2:
        raise InputError(
            "an even head_width for rotary",
            f"{width}",
            "the channels of a head turn in pairs",
        )
    between = (*values.query.shape[:-1], plan.heads * width)
    shapes = {
        "query": values.query,
        "key": values.memory,
        "value": values.memory,
        "output": jax.ShapeDtypeStruct(between, values.query.dtype),
    }
    own = plan.key_value_heads * width
    widths = {"query": plan.heads * width, "key": own, "value": own, "output": channels}
    params, key = {}, check.key(key)
    for i, (name, size) in enumerate(widths.items()):
        layer = dense(size, bias=plan.bias, initializer=plan.initializer)
        params[name], _ = layer.init(jax.random.fold_in(key, i), shapes[name])
    return params, ()


def _project(
    plan: _Plan, params: Params, values: _Values, first: Array | None = None
) -> tuple[Any, Any, Any]:
    """Return q, k and v in the shapes of `_blockwise`; `first` is the position of the first."""
    q = _queries(plan, params, values.query, first)
    width = q.shape[-1]
    k, v = (
        _heads(plan, params, name, values.memory, width, first).swapaxes(1, 2)
        for name in ("key", "value")
    )
    return q, k, v


def _queries(plan: _Plan, params: Params, x: Any, first: Array | None) -> Any:
    """Return q, scaled."""
    width = params["query"]["weight"].shape[1] // plan.heads
    q = _heads(plan, params, "query", x, width, first)
    q = downcast(upcast(q) * width**-0.5, q)
    groups = plan.heads // plan.key_value_heads
    return q.reshape(*q.shape[:2], plan.key_value_heads, groups, width).transpose(0, 2, 3, 1, 4)


def _heads(plan: _Plan, params: Params, name: str, z: Any, width: int, first: Array | None) -> Any:
    """Return one of the projections (B, T, N, D), with its channels turned if they are to be."""
    z, _ = _DENSE[plan.bias].apply(params[name], (), z)
    z = z.reshape(*z.shape[:-1], z.shape[-1] // width, width)
    return z if plan.base is None or name == "value" else rotate(z, plan.base, first=first)


def _needed(plan: _Plan, key: Key, train: bool) -> Key:
    """Return the key, or None where nothing is dropped."""
    check.flag(train, "train")
    return given_key(key) if train and not check.is_zero(plan.dropout) else None


def _dropping(plan: _Plan, key: Key) -> Dropping | None:
    return None if key is None else Dropping(key, plan.dropout)


def _apply(
    plan: _Plan, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
) -> tuple[Output, State]:
    values = _values(x, params)
    q, k, v = _project(plan, params, values)
    dropping = _dropping(plan, _needed(plan, key, train))
    o = plain(q, k, v, values.present, plan.scoring, plan.block, dropping)
    y, _ = _DENSE[plan.bias].apply(params["output"], (), _join_heads(o))
    return _with_values(x, _zero_padding(y, values.there)), state


def _forward(
    plan: _Plan, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
) -> tuple[Output, State, Residuals]:
    values, key = _values(x, params), _needed(plan, key, train)
    q, k, v = _project(plan, params, values)
    dropping = _dropping(plan, key)
    o, saved = attend(q, k, v, values.present, plan.scoring, plan.block, dropping)
    o = _join_heads(o)
    y, _ = _DENSE[plan.bias].apply(params["output"], (), o)
    memory, there = (inexact_leaves(x[1]), values.there) if _is_pair(x) else (None, None)
    query = _array(x[0] if _is_pair(x) else x)
    residuals = _Residuals(query, there, memory, values.present, q, k, v, o, saved, key)
    return _with_values(x, _zero_padding(y, values.there)), state, residuals


def _prefill(
    plan: _Plan,
    params: Params,
    state: State,
    x: Input,
    /,
    *,
    window: int,
    lengths: Array | None = None,
) -> tuple[Output, Cache]:
    """Return y and the cache.

    What is behind the end of a row is seen by no query of it, and overwritten when it gets there.
    """
    del state, lengths
    pair = _is_pair(x)
    if not (pair or plan.scoring.causal):
        raise InputError(
            "causal attention, to generate from a cache",
            "attention that sees what comes after",
            "pass causal=True to the layer, put an encoder in fnn.over_memory, or pass cache=False "
            "to fnn.generate",
        )
    values = _values(x, params)
    q, k, v = _project(plan, params, values)
    o, _ = attend(q, k, v, values.present, plan.scoring, plan.block)
    y, _ = _DENSE[plan.bias].apply(params["output"], (), _join_heads(o))
    if pair:
        return y, _Cache(k, v, values.present)
    room = [(0, 0), (0, 0), (0, window - k.shape[2]), (0, 0)]
    return y, _Cache(jnp.pad(k, room), jnp.pad(v, room), None)


def _decode(
    plan: _Plan, params: Params, state: State, cache: Cache, x: Input, position: Array, /
) -> tuple[Output, Cache]:
    """Return y of one step, and the cache, that of x itself with its key and value written in."""
    del state
    if _is_pair(x):
        q = _queries(plan, params, x[0], position)
    else:
        q, k, v = _project(plan, params, _values(x, params), position)
        cache = _Cache(_written(cache.k, k, position), _written(cache.v, v, position), None)
    o = attend_cached(q, cache.k, cache.v, cache.present, plan.scoring, position)
    y, _ = _DENSE[plan.bias].apply(params["output"], (), _join_heads(o))
    return y, cache


def _written(a: Any, new: Any, position: Any) -> Any:
    """Write one step (B, M, 1, D) into those of a cache (B, M, window, D); XLA does it in place."""
    new = new.astype(a.dtype)
    if not jnp.ndim(position):
        return jax.lax.dynamic_update_slice_in_dim(a, new, position, 2)
    return jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=1))(a, new, position)


def _backward(
    plan: _Plan, params: Params, residuals: Residuals, dy: Cotangent, /
) -> tuple[Params, Cotangent]:
    query, there, memory, present, q, k, v, o, saved, key = residuals
    there = present if memory is None else there
    query = _zero_padding(query, there)
    through, dparams, dx = _DENSE[plan.bias].backward, {}, {}
    dparams["output"], do = through(params["output"], o, _zero_padding(_array(dy), there))
    dropping = _dropping(plan, key)
    o, do = (_split_heads(a, q.shape) for a in (o, do))
    dq, dk, dv = attend_backward(q, k, v, present, o, saved, do, plan.scoring, plan.block, dropping)
    dq = downcast(upcast(_join_heads(dq)) * q.shape[-1] ** -0.5, dq)
    dz = {"query": dq, "key": _join_heads(dk[:, :, None]), "value": _join_heads(dv[:, :, None])}
    seen = query if memory is None else _zero_padding(_array(memory), present)
    for name, d in dz.items():
        if plan.base is not None and name != "value":
            width = q.shape[-1]
            turned = d.reshape(*d.shape[:2], d.shape[-1] // width, width)
            d = rotate(turned, plan.base, back=True).reshape(d.shape)
        of = query if name == "query" else seen
        dparams[name], dx[name] = through(params[name], of, d)
    through_memory = dx["key"] + dx["value"]
    if memory is None:
        return dparams, _with_values(dy, dx["query"] + through_memory)
    unused = jax.tree.map(jnp.zeros_like, memory)
    return dparams, (_with_values(dy, dx["query"]), _with_values(unused, through_memory))


# How wide a dense layer is, its weight tells; only init asks the layer.
_DENSE = {bias: dense(1, bias=bias) for bias in (True, False)}


def _is_false(flag: Unchecked) -> bool:
    return isinstance(flag, bool | np.bool_) and not flag


def _is_pair(x: Input) -> bool:
    return isinstance(x, tuple) and not isinstance(x, Sequence)


def _array(x: Input) -> Any:
    return x.values if isinstance(x, Sequence) else x


def _zero_padding(values: Any, there: Any) -> Any:
    """Return values (B, T, C) with zeros where a step is not there, which may hold NaN."""
    return values if there is None else jnp.where(there[:, :, None], values, 0)


def _with_values(x: Input, values: Any) -> Output:
    """Return the values as what x, or the first of a pair, is: a sequence or an array."""
    first = x[0] if _is_pair(x) else x
    return first._replace(values=values) if isinstance(first, Sequence) else values


def _join_heads(o: Any) -> Any:
    """Put heads (B, M, G, T, D) side by side: (B, T, M G D)."""
    batch, keys, groups, steps, width = o.shape
    return o.transpose(0, 3, 1, 2, 4).reshape(batch, steps, keys * groups * width)


def _split_heads(o: Any, shape: tuple[int, ...]) -> Any:
    """Undo `_join_heads`."""
    batch, keys, groups, steps, width = shape
    return o.reshape(batch, steps, keys, groups, width).transpose(0, 2, 3, 1, 4)


def _values(x: Input, params: Params = None) -> _Values:
    """Check an input, against the weights if there are some, and take it apart."""
    if _is_pair(x) and len(x) != 2:
        raise InputError("x or (x, memory)", f"a tuple of {len(x)}", "attend to one memory")
    query, memory = x if _is_pair(x) else (x, x)
    for name, part, weight in (("x", query, "query"), ("memory", memory, "key")):
        array = _array(part)
        check.floating(array, name)
        channels = {} if params is None else {"C": params[weight]["weight"].shape[0]}
        remedy = "keep batch, time and channels apart, and one step or more"
        check.shape(array, "B T C", name, remedy, **channels)
        if 0 in array.shape[1:]:
            raise InputError(f"{name} of shape (B, T, C)", str(tuple(array.shape)), remedy)
    if _array(query).shape[0] != _array(memory).shape[0]:
        raise InputError(
            f"a memory of batch {_array(query).shape[0]}",
            f"{_array(memory).shape[0]}",
            "give every example a memory of its own",
        )
    there, present = step_mask(query), step_mask(memory)
    own = _zero_padding(_array(query), there)
    return _Values(
        own, there, _zero_padding(_array(memory), present) if _is_pair(x) else own, present
    )
