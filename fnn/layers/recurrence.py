"""One step of a recurrent layer: what is carried from step to step, and its gradient by hand.

A step is handed the projected input ``p = x input_weight + bias``, since a whole sequence has all
of them made by one matrix product; and backward it hands back the cotangents of p and of the
recurrent product ``h recurrent_weight``, since all steps together make ``dweight`` of them by one
product too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe, is_count
from fnn.layer import Array, PyTree
from fnn.layers.precision import narrowed, widened

lecun_normal = jax.nn.initializers.lecun_normal()
orthogonal = jax.nn.initializers.orthogonal()
Initializer = jax.nn.initializers.Initializer


class Cell(NamedTuple):
    """The formulas of one kind of step; a carry is a tuple of `parts` arrays (B, H), h the first.

    `step` is ``(p, product, params, carry) -> carry``, the plain formula. `forward` returns
    ``carry, saved`` and `backward` is ``(before, saved, dcarry) -> dbefore, slopes``, where
    `before` is the carry that came in. The first of the slopes is dp, the last the cotangent of
    ``product``; dbefore leaves out what reaches h through the product.
    """

    name: str
    parts: int
    gates: int
    step: Callable[[Any, Any, PyTree, Any], Any]
    forward: Callable[[Any, Any, PyTree, Any], tuple[Any, Any]]
    backward: Callable[[Any, Any, Any], tuple[Any, Any]]
    recurrent_bias: bool = False


class Settings(NamedTuple):
    """What a layer of cells is told about its parameters."""

    width: int
    bias: bool
    initializer: Initializer
    recurrent_initializer: Initializer
    forget_bias: float = 0.0


def rnn_formulas(where: str, activation: str) -> Cell:
    """Return the cell of `fnn.rnn` with one of its activations."""
    if activation not in ("tanh", "relu"):
        raise InputError(where, "an activation of 'tanh', 'relu'", describe(activation), "pick one")
    function = jnp.tanh if activation == "tanh" else jax.nn.relu

    def step(p: Any, product: Any, params: PyTree, carry: Any) -> Any:
        del params, carry
        return (function(p + product),)

    def forward(p: Any, product: Any, params: PyTree, carry: Any) -> tuple[Any, Any]:
        (h,) = step(p, product, params, carry)
        return (h,), h

    def backward(before: Any, h: Any, dcarry: Any) -> tuple[Any, Any]:
        (dh,) = dcarry
        da = dh * (1 - h * h) if activation == "tanh" else jnp.where(h > 0, dh, 0)
        return tuple(map(jnp.zeros_like, before)), (da,)

    return Cell("rnn", 1, 1, step, forward, backward)


def _lstm_step(p: Any, product: Any, params: PyTree, carry: Any) -> Any:
    del params
    i, f, g, o = jnp.split(p + product, 4, -1)
    c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _lstm_forward(p: Any, product: Any, params: PyTree, carry: Any) -> tuple[Any, Any]:
    del params
    a = p + product
    # All gates by one tanh, as s(a) = 1/2 + tanh(a / 2) / 2: four functions put together again
    # would be worked out number by number.
    half = jnp.where(_is_candidate(a), 1, jnp.asarray(0.5, a.dtype))
    gates = jnp.tanh(half * a) * half + (1 - half)
    i, f, g, o = jnp.split(gates, 4, -1)
    c = f * carry[1] + i * g
    return (o * jnp.tanh(c), c), gates


def _lstm_backward(before: Any, gates: Any, dcarry: Any) -> tuple[Any, Any]:
    dh, dc = dcarry
    i, f, g, o = jnp.split(gates, 4, -1)
    t = jnp.tanh(f * before[1] + i * g)
    dc = dc + dh * o * (1 - t * t)
    # tanh' = 1 - g g and s' = i - i i, for all gates at once.
    slope = jnp.where(_is_candidate(gates), 1, gates) - gates * gates
    da = jnp.concatenate([dc * g, dc * before[1], dc * i, dh * t], -1) * slope
    return (jnp.zeros_like(dh), dc * f), (da,)


def _is_candidate(gates: Any) -> Any:
    """Tell the g of i, f, g, o, which lie side by side: booleans (1, ..., 4H)."""
    width = gates.shape[-1] // 4
    place = jnp.arange(4 * width) // width
    return (place == 2).reshape((1,) * (gates.ndim - 1) + (-1,))


def _gru_step(p: Any, product: Any, params: PyTree, carry: Any) -> Any:
    r, z, n = jnp.split(p, 3, -1)
    hr, hz, hn = jnp.split(product, 3, -1)
    z = jax.nn.sigmoid(z + hz)
    n = jnp.tanh(n + jax.nn.sigmoid(r + hr) * _biased(hn, params))
    return ((1 - z) * n + z * carry[0],)


def _gru_forward(p: Any, product: Any, params: PyTree, carry: Any) -> tuple[Any, Any]:
    width = p.shape[-1] // 3
    a, last = jnp.split(p, [2 * width], -1)
    h2, hn = jnp.split(product, [2 * width], -1)
    both = 0.5 + 0.5 * jnp.tanh(0.5 * (a + h2))
    r, z = jnp.split(both, 2, -1)
    q = _biased(hn, params)
    n = jnp.tanh(last + r * q)
    return (n + z * (carry[0] - n),), (both, n, q)


def _gru_backward(before: Any, saved: Any, dcarry: Any) -> tuple[Any, Any]:
    (h,), (both, n, q), (dh,) = before, saved, dcarry
    r, z = jnp.split(both, 2, -1)
    dn = dh * (1 - z) * (1 - n * n)
    dboth = jnp.concatenate([dn * q, dh * (h - n)], -1) * (both - both * both)
    slopes = jnp.concatenate([dboth, dn], -1), jnp.concatenate([dboth, dn * r], -1)
    return (dh * z,), slopes


def _biased(hn: Any, params: PyTree) -> Any:
    return hn + _row(params["recurrent_bias"], hn) if "recurrent_bias" in params else hn


LSTM = Cell("lstm", 2, 4, _lstm_step, _lstm_forward, _lstm_backward)
GRU = Cell("gru", 1, 3, _gru_step, _gru_forward, _gru_backward, recurrent_bias=True)


def parted(cell: Cell, carry: Any) -> tuple[Any, ...]:
    """Return the arrays of a carry: it is h itself where there is nothing else."""
    return (carry,) if cell.parts == 1 else tuple(carry)


def joined(cell: Cell, parts: Any) -> Any:
    """Return the carry of these arrays: the inverse of `parted`."""
    return parts[0] if cell.parts == 1 else tuple(parts)


def carry_like(cell: Cell, settings: Settings, batch: int, dtype: Any) -> Any:
    """Return the shapes of a carry."""
    return joined(cell, [jax.ShapeDtypeStruct((batch, settings.width), dtype)] * cell.parts)


def check_carry(where: str, carry: Any, like: Any) -> None:
    """Raise `InputError` unless a carry has the structure, shapes and dtype of another."""

    def words(tree: Any) -> str:
        shapes = jax.tree.map(lambda a: tuple(jnp.shape(a)), tree)
        dtypes = sorted({jnp.result_type(a).name for a in jax.tree.leaves(tree)})
        return f"{' and '.join(dtypes)} of shapes {shapes}"

    if words(carry) != words(like):
        raise InputError(
            where, f"a carry {words(like)}", words(carry), "start with zeros of the dtype of x"
        )


def check_width(where: str, width: int) -> None:
    """Raise `InputError` unless a width is a positive integer."""
    if not is_count(width, 1):
        raise InputError(where, "a width of 1 or more", describe(width), "pass a positive int")


def init_cell(cell: Cell, settings: Settings, key: Array, inputs: int, dtype: Any) -> PyTree:
    """Draw the parameters of a cell, gate by gate."""
    width, gates = settings.width, cell.gates
    # Half precision is drawn in float32: an orthogonal matrix cannot be made of less.
    drawn = wide(dtype)

    def draw(key: Array, initializer: Initializer, rows: int) -> Array:
        keys = jax.random.split(key, gates)
        matrices = jax.vmap(lambda k: initializer(k, (rows, width), drawn))(keys)
        return jnp.moveaxis(matrices, 0, 1).reshape(rows, gates * width).astype(dtype)

    input_key, recurrent_key = jax.random.split(key)
    params = {
        "input_weight": draw(input_key, settings.initializer, inputs),
        "recurrent_weight": draw(recurrent_key, settings.recurrent_initializer, width),
    }
    if settings.bias:
        first = jnp.zeros(gates * width, dtype)
        if settings.forget_bias:
            first = first.at[width : 2 * width].set(settings.forget_bias)
        params["bias"] = first
        if cell.recurrent_bias:
            params["recurrent_bias"] = jnp.zeros(width, dtype)
    return params


def project(params: PyTree, x: Any) -> Any:
    """Return ``x input_weight + bias`` of one step or of many, half precision in float32."""
    p = product(x, params["input_weight"])
    return p + _row(params["bias"], p) if "bias" in params else p


def product(a: Any, weight: Any) -> Any:
    """Return ``a weight``, summed in float32 for a weight of half precision."""
    return jnp.matmul(a.astype(weight.dtype), weight, preferred_element_type=wide(weight.dtype))


def wide(dtype: Any) -> Any:
    """Return the dtype that sums of a dtype are kept in."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def pulled(cell: Cell, turned: Array, before: Any, saved: Any, dcarry: Any) -> tuple[Any, Any]:
    """Return ``dbefore, slopes`` of one step, `turned` being the recurrent weight transposed."""
    before, saved = jax.tree.map(widened, (before, saved))
    (dh, *rest), slopes = cell.backward(before, saved, dcarry)
    slopes = tuple(slope.astype(turned.dtype) for slope in slopes)
    return (dh + product(slopes[-1], turned), *rest), slopes


def gradients(params: PyTree, x: Any, h: Any, slopes: Any) -> tuple[PyTree, Any]:
    """Return dparams, still wide, and dx from the slopes of one step (B, ...), or of many.

    x are the inputs, h the hidden states that came in; of many steps (T, B, ...).
    """
    first, last = slopes[0], slopes[-1]
    leading = tuple(range(x.ndim - 1))

    def summed(a: Any, slope: Any) -> Any:
        return jax.lax.dot_general(
            a, slope, ((leading, leading), ((), ())), preferred_element_type=wide(a.dtype)
        )

    found = {"input_weight": summed(x, first), "recurrent_weight": summed(h, last)}
    if "bias" in params:
        found["bias"] = widened(first).sum(leading)
    if "recurrent_bias" in params:
        width = params["recurrent_bias"].shape[0]
        found["recurrent_bias"] = widened(last[..., -width:]).sum(leading)
    dparams = {name: found[name] for name in params}
    return dparams, narrowed(product(first, params["input_weight"].T), x)


def _row(bias: Array, x: Any) -> Any:
    return bias.reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype)
