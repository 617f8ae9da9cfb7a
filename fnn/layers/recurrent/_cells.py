"""One time step of a recurrent layer: what is carried from step to step, and its manual gradient.

A step is handed the projected input ``p = x input_weight + bias``, since a whole sequence has all
of them made by one matrix product; and backward it hands back the cotangents of p and of the
recurrent product ``h recurrent_weight``, since all steps together make ``dweight`` of them by one
product too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.arrays import rectified
from fnn._core.errors import InputError
from fnn._core.precision import downcast, upcast, wide_dtype
from fnn._core.types import Array, Cotangent, Input, Params, PyTree, Unchecked
from fnn.layers._initializers import check_drawn, check_initializer, draw as draw_weight
from fnn.layers.dense import outer_sum

orthogonal = jax.nn.initializers.orthogonal()
Initializer: TypeAlias = jax.nn.initializers.Initializer
# The arrays of a carry, h the first; and those that a cell saves, or makes slopes of.
Parts: TypeAlias = tuple[Any, ...]
# What `Cell.factors` returns.
Factors: TypeAlias = tuple[Parts, Parts]
ACTIVATIONS = ("tanh", "relu")


class Cell(NamedTuple):
    """The formulas of one kind of time step; a carry is a tuple of `parts` arrays, h the first.

    `step` is ``(p, product, params, carry) -> carry``, the plain formula. By hand it has two parts:
    `gate` of the same arguments makes what is saved, arrays (B, n H) for every n of `saved`, and h
    (B, P) where that is `projected`; and `advance` is ``(saved, carry) -> carry``, so cheap that
    backward does it again instead of storing every carry. Where it reads no h, `recall` of
    ``saved`` is ``(a, b)``, the rest of the carry becoming ``a rest + b`` in a step, or ``()`` for
    no rest: then all else is found for many steps at once.

    Backward, `factors` of ``before, saved``, `before` being the carry that came in, are all that
    does not depend on dcarry, computed for many steps at once: a pair of what the slopes are
    multiples of, and of the rest. And `pull` is ``(factors, dcarry, transposed) -> dbefore,
    slopes``, short, since every step waits for the one after it; `transposed` are those of
    `transpose_weights`. The first slope is the cotangent of ``product``, and that of p, whose last
    gate is the second where there is one; a projected cell has the cotangent of h for a last slope.
    dbefore leaves out what reaches h through the product.
    """

    name: str
    parts: int
    gates: int
    step: Callable[[Any, Any, Params, Parts], Parts]
    gate: Callable[[Any, Any, Params, Parts], Parts]
    advance: Callable[[Parts, Parts], Parts]
    factors: Callable[[Parts, Parts], Factors]
    pull: Callable[[Factors, Parts, Params], tuple[Parts, Parts]]
    saved: tuple[int, ...]
    recurrent_bias: bool = False
    projected: bool = False
    recall: Callable[[Parts], Parts] | None = None


class Settings(NamedTuple):
    """What a layer of cells is told about its parameters; `projection` is the width of h."""

    width: int
    bias: bool
    initializer: Initializer
    recurrent_initializer: Initializer
    forget_bias: float = 0.0
    projection: int | None = None

    @property
    def hidden(self) -> int:
        """The width of h, which is that of the output."""
        return self.width if self.projection is None else self.projection


def check_settings(settings: Settings) -> None:
    """Raise `InputError` for a width, a flag or an initializer that is none."""
    check.count(settings.width, "width")
    if settings.projection is not None:
        check.count(settings.projection, "projection")
    check.flag(settings.bias, "bias")
    check.number(settings.forget_bias, "forget_bias")
    for name in ("initializer", "recurrent_initializer"):
        check_initializer(getattr(settings, name), name)


def checked_forget_bias(forget_bias: Unchecked, bias: Unchecked) -> float:
    """Return where the bias of the forget gate starts: at 1, unless told otherwise."""
    check.flag(bias, "bias")
    if forget_bias is None:
        return 1.0 if bias else 0.0
    check.number(forget_bias, "forget_bias")
    if not bias:
        raise InputError(
            "no forget_bias without a bias", f"{forget_bias}", "leave it out, or pass bias=True"
        )
    found: float = forget_bias
    return found


def rnn_formulas(activation: str) -> Cell:
    """Return the cell of `fnn.rnn` with one of its activations."""
    check.one_of(activation, "activation", ACTIVATIONS)
    function = jnp.tanh if activation == "tanh" else rectified

    def gate(p: Any, product: Any, params: Params, carry: Parts) -> Parts:
        del params, carry
        return (function(p + product),)

    def advance(saved: Parts, carry: Parts) -> Parts:
        del carry
        return saved

    def factors(before: Parts, saved: Parts) -> Factors:
        del before
        (h,) = saved
        return (1 - h * h if activation == "tanh" else (h > 0).astype(h.dtype),), ()

    def pull(factors: Factors, dcarry: Parts, transposed: Params) -> tuple[Parts, Parts]:
        del transposed
        ((factor,), _), (dh,) = factors, dcarry
        # Of relu a choice and no product, so that where it is cut off not even infinity passes.
        da = dh * factor if activation == "tanh" else jnp.where(factor > 0, dh, 0)
        return (jnp.zeros_like(dh),), (da,)

    return Cell("rnn", 1, 1, gate, gate, advance, factors, pull, (1,), recall=lambda saved: ())


def _lstm_step(p: Any, product: Any, params: Params, carry: Parts) -> Parts:
    i, f, g, o = jnp.split(p + product, 4, -1)
    c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return _projected(h, params), c


def _projected(h: Any, params: Params) -> Any:
    """Return h times the projection, where there is one."""
    weight = params.get("projection_weight")
    return h if weight is None else recurrent_product(h, weight)


def _lstm_gate(p: Any, product: Any, params: Params, carry: Parts) -> Parts:
    del params, carry
    a = p + product
    # All gates by one tanh, as s(a) = 1/2 + tanh(a / 2) / 2: four functions put together again
    # would be computed element by element.
    half = jnp.where(_is_candidate(a), 1, jnp.asarray(0.5, a.dtype))
    return (jnp.tanh(half * a) * half + (1 - half),)


def _lstm_advance(saved: Parts, carry: Parts) -> Parts:
    i, f, g, o = jnp.split(saved[0], 4, -1)
    c = f * carry[1] + i * g
    return o * jnp.tanh(c), c


def _lstm_recall(saved: Parts) -> Parts:
    i, f, g, _ = jnp.split(saved[0], 4, -1)
    return f, i * g


def _lstm_factors(before: Parts, saved: Parts) -> Factors:
    (_, c), (i, f, g, o) = before, jnp.split(saved[0], 4, -1)
    t = jnp.tanh(f * c + i * g)
    own = [g * (i - i * i), c * (f - f * f), i * (1 - g * g), t * (o - o * o)]
    return (jnp.concatenate(own, -1),), (o * (1 - t * t), f)


def _lstm_pull(factors: Factors, dcarry: Parts, transposed: Params) -> tuple[Parts, Parts]:
    del transposed
    ((own,), (through, f)), (dh, dc) = factors, dcarry
    dc = dc + dh * through
    da = jnp.concatenate([dc, dc, dc, dh], -1) * own
    return (jnp.zeros_like(dh), dc * f), (da,)


# With a projection, h = m projection_weight of m = o tanh(c). h is saved beside the gates, so that
# backward finds it without a product; what its slope is written over has its shape, and m is with
# the rest of the factors.


def _projected_lstm_gate(p: Any, product: Any, params: Params, carry: Parts) -> Parts:
    gates = _lstm_gate(p, product, params, carry)
    return (*gates, _projected(_lstm_advance(gates, carry)[0], params))


def _projected_lstm_advance(saved: Parts, carry: Parts) -> Parts:
    gates, h = saved
    return h, _lstm_advance((gates,), carry)[1]


def _projected_lstm_factors(before: Parts, saved: Parts) -> Factors:
    gates, h = saved
    (own,), (through, f) = _lstm_factors(before, (gates,))
    m, _ = _lstm_advance((gates,), before)
    return (own, jnp.zeros_like(h)), (through, f, m)


def _projected_lstm_pull(
    factors: Factors, dcarry: Parts, transposed: Params
) -> tuple[Parts, Parts]:
    ((own, _), (through, f, _)), (dh, dc) = factors, dcarry
    dm = recurrent_product(dh, transposed["projection_weight"])
    (_, dc), slopes = _lstm_pull(((own,), (through, f)), (dm, dc), transposed)
    return (jnp.zeros_like(dh), dc), (*slopes, dh)


def _is_candidate(gates: Any) -> Any:
    """Tell the g of i, f, g, o, which lie side by side: booleans (1, ..., 4H)."""
    width = gates.shape[-1] // 4
    position = jnp.arange(4 * width) // width
    return (position == 2).reshape((1,) * (gates.ndim - 1) + (-1,))


def _gru_step(p: Any, product: Any, params: Params, carry: Parts) -> Parts:
    r, z, n = jnp.split(p, 3, -1)
    hr, hz, hn = jnp.split(product, 3, -1)
    z = jax.nn.sigmoid(z + hz)
    n = jnp.tanh(n + jax.nn.sigmoid(r + hr) * _biased(hn, params))
    return ((1 - z) * n + z * carry[0],)


def _gru_gate(p: Any, product: Any, params: Params, carry: Parts) -> Parts:
    del carry
    width = p.shape[-1] // 3
    a, last = jnp.split(p, [2 * width], -1)
    h2, hn = jnp.split(product, [2 * width], -1)
    both = 0.5 + 0.5 * jnp.tanh(0.5 * (a + h2))
    q = _biased(hn, params)
    n = jnp.tanh(last + both[..., :width] * q)
    return jnp.concatenate([both, n], -1), q


def _gru_advance(saved: Parts, carry: Parts) -> Parts:
    _, z, n = jnp.split(saved[0], 3, -1)
    return (n + z * (carry[0] - n),)


def _gru_factors(before: Parts, saved: Parts) -> Factors:
    (h,), (gates, q) = before, saved
    r, z, n = jnp.split(gates, 3, -1)
    own = (1 - z) * (1 - n * n)
    all_gates = [own * q * (r - r * r), (h - n) * (z - z * z), own * r]
    return (jnp.concatenate(all_gates, -1), own), (z,)


def _gru_pull(factors: Factors, dcarry: Parts, transposed: Params) -> tuple[Parts, Parts]:
    del transposed
    ((all_gates, own), (z,)), (dh,) = factors, dcarry
    return (dh * z,), (jnp.concatenate([dh, dh, dh], -1) * all_gates, dh * own)


def _biased(hn: Any, params: Params) -> Any:
    return hn + _row(params["recurrent_bias"], hn) if "recurrent_bias" in params else hn


LSTM = Cell(
    "lstm",
    2,
    4,
    _lstm_step,
    _lstm_gate,
    _lstm_advance,
    _lstm_factors,
    _lstm_pull,
    (4,),
    recall=_lstm_recall,
)
PROJECTED_LSTM = Cell(
    "lstm",
    2,
    4,
    _lstm_step,
    _projected_lstm_gate,
    _projected_lstm_advance,
    _projected_lstm_factors,
    _projected_lstm_pull,
    (4,),
    projected=True,
    recall=_lstm_recall,
)
GRU = Cell("gru", 1, 3, _gru_step, _gru_gate, _gru_advance, _gru_factors, _gru_pull, (3, 1), True)


def lstm_formulas(settings: Settings) -> Cell:
    """Return the cell of `fnn.lstm`, with a projection or without."""
    return LSTM if settings.projection is None else PROJECTED_LSTM


def unpack_carry(cell: Cell, carry: PyTree) -> Parts:
    """Return the arrays of a carry: it is h itself where there is nothing else."""
    return (carry,) if cell.parts == 1 else tuple(carry)


def pack_carry(cell: Cell, parts: Any) -> PyTree:
    """Return the carry of these arrays: the inverse of `unpack_carry`."""
    return parts[0] if cell.parts == 1 else tuple(parts)


def carry_widths(cell: Cell, settings: Settings) -> tuple[int, ...]:
    """Return the widths of the arrays of a carry."""
    return (settings.hidden, *(settings.width,) * (cell.parts - 1))


def saved_widths(cell: Cell, settings: Settings) -> tuple[int, ...]:
    """Return the widths of the arrays that a cell saves of every step."""
    gates = tuple(count * settings.width for count in cell.saved)
    return (*gates, settings.hidden) if cell.projected else gates


def carry_like(cell: Cell, settings: Settings, batch: int, dtype: Any) -> PyTree:
    """Return the shapes of a carry."""
    widths = carry_widths(cell, settings)
    return pack_carry(cell, [jax.ShapeDtypeStruct((batch, width), dtype) for width in widths])


def check_carry(carry: Unchecked, like: PyTree) -> None:
    """Raise `InputError` unless a carry has the structure, shapes and dtype of another."""
    got, expected = _in_words(carry), _in_words(like)
    if got != expected:
        raise InputError(f"a carry {expected}", got, "start with zeros of the dtype of x")


def _in_words(tree: Unchecked) -> str:
    shapes = jax.tree.map(lambda a: tuple(jnp.shape(a)), tree)
    dtypes = sorted({jnp.result_type(a).name for a in jax.tree.leaves(tree)})
    return f"{' and '.join(dtypes)} of shapes {shapes}"


def init_cell(cell: Cell, settings: Settings, key: Array, inputs: int, dtype: Any) -> Params:
    """Draw the parameters of a cell, gate by gate."""
    key, width, hidden, gates = check.key(key), settings.width, settings.hidden, cell.gates
    # Half precision is drawn in float32: an orthogonal matrix cannot be made of less.
    drawn = wide_dtype(dtype)

    def draw(key: Array, name: str, rows: int) -> Array:
        keys, initializer = jax.random.split(key, gates), getattr(settings, name)
        one = functools.partial(draw_weight, initializer, shape=(rows, width), dtype=drawn)
        matrices = jax.vmap(lambda k: one(k, name=name))(keys)
        check_drawn(matrices, name)
        return jnp.moveaxis(matrices, 0, 1).reshape(rows, gates * width).astype(dtype)

    input_key, recurrent_key, *others = jax.random.split(key, 3 if cell.projected else 2)
    params = {
        "input_weight": draw(input_key, "initializer", inputs),
        "recurrent_weight": draw(recurrent_key, "recurrent_initializer", hidden),
    }
    if cell.projected:
        projection = draw_weight(settings.initializer, others[0], (width, hidden), drawn)
        params["projection_weight"] = projection.astype(dtype)
    if settings.bias:
        first = jnp.zeros(gates * width, dtype)
        if not check.is_zero(settings.forget_bias):
            first = first.at[width : 2 * width].set(settings.forget_bias)
        params["bias"] = first
        if cell.recurrent_bias:
            params["recurrent_bias"] = jnp.zeros(width, dtype)
    return params


def project(params: Params, x: Input) -> Any:
    """Return ``x input_weight + bias`` of one step or of many, half precision in float32."""
    p = recurrent_product(x, params["input_weight"])
    return p + _row(params["bias"], p) if "bias" in params else p


def recurrent_product(a: Any, weight: Any) -> Any:
    """Return ``a weight``, summed in float32 for a weight of half precision."""
    return jnp.matmul(
        a.astype(weight.dtype), weight, preferred_element_type=wide_dtype(weight.dtype)
    )


def transpose_weights(params: Params) -> Params:
    """Return the transposes of the weights that every step backward multiplies by."""
    names = ("recurrent_weight", "projection_weight")
    return {name: params[name].T for name in names if name in params}


def precompute_factors(cell: Cell, before: Parts, saved: Parts) -> Factors:
    """Return the factors of one step, or of many, from what was stored."""
    return cell.factors(*jax.tree.map(upcast, (before, saved)))


def cell_vjp(
    cell: Cell, transposed: Params, factors: Factors, dcarry: Parts
) -> tuple[Parts, Parts]:
    """Return ``dbefore, slopes`` of one step."""
    weight = transposed["recurrent_weight"]
    (dh, *rest), slopes = cell.pull(factors, dcarry, transposed)
    slopes = tuple(slope.astype(weight.dtype) for slope in slopes)
    return (dh + recurrent_product(slopes[0], weight), *rest), slopes


def param_gradients(
    params: Params, x: Input, h: Any, slopes: Parts, others: Parts
) -> tuple[Params, Cotangent]:
    """Return dparams, still wide, and dx from the slopes of one step (B, ...), or of many.

    x are the inputs, h the hidden states that came in, `others` the factors that are no slopes; of
    many steps (B, T, ...).
    """
    wide, found = wide_dtype(x.dtype), {}
    if "projection_weight" in params:
        slopes, dh = slopes[:-1], slopes[-1]
        found["projection_weight"] = outer_sum(downcast(others[-1], x), downcast(dh, x), wide)
    du, *last = slopes
    dp = du
    if last:
        dp = jnp.concatenate([du[..., : -last[0].shape[-1]], *last], -1)
    leading = tuple(range(x.ndim - 1))
    found["input_weight"] = outer_sum(x, downcast(dp, x), wide)
    found["recurrent_weight"] = outer_sum(downcast(h, x), downcast(du, x), wide)
    if "bias" in params:
        found["bias"] = upcast(dp).sum(leading)
    if "recurrent_bias" in params:
        width = params["recurrent_bias"].shape[0]
        found["recurrent_bias"] = upcast(du[..., -width:]).sum(leading)
    dparams = {name: found[name] for name in params}
    return dparams, downcast(recurrent_product(dp, params["input_weight"].T), x)


def _row(bias: Array, x: Any) -> Any:
    return bias.reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype)
