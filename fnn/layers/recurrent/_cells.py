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

from fnn._core import check
from fnn._core.errors import InputError, describe
from fnn._core.precision import downcast, upcast, wide_dtype
from fnn._core.types import Array, PyTree
from fnn.layers.dense import outer_sum

orthogonal = jax.nn.initializers.orthogonal()
Initializer = jax.nn.initializers.Initializer


class Cell(NamedTuple):
    """The formulas of one kind of step; a carry is a tuple of `parts` arrays (B, H), h the first.

    `step` is ``(p, product, params, carry) -> carry``, the plain formula. By hand it has two parts:
    `gate` of ``p, product, params`` makes what is saved, arrays (B, n H) for every n of `saved`;
    and `advance` is ``(saved, carry) -> carry``, so cheap that backward does it again instead of
    storing every carry.

    Backward, `factors` of ``before, saved``, `before` being the carry that came in, are all that
    does not depend on dcarry, worked out for many steps at once: a pair of what the slopes are
    multiples of, and of the rest. And `pull` is ``(factors, dcarry) -> dbefore, slopes``, short,
    since every step waits for the one after it. The first slope is the cotangent of ``product``,
    and that of p, whose last gate is the second where there is one; dbefore leaves out what reaches
    h through the product.
    """

    name: str
    parts: int
    gates: int
    step: Callable[[Any, Any, PyTree, Any], Any]
    gate: Callable[[Any, Any, PyTree], tuple[Any, ...]]
    advance: Callable[[Any, Any], Any]
    factors: Callable[[Any, Any], tuple[tuple[Any, ...], tuple[Any, ...]]]
    pull: Callable[[Any, Any], tuple[Any, Any]]
    saved: tuple[int, ...]
    recurrent_bias: bool = False


class Settings(NamedTuple):
    """What a layer of cells is told about its parameters."""

    width: int
    bias: bool
    initializer: Initializer
    recurrent_initializer: Initializer
    forget_bias: float = 0.0


def rnn_formulas(activation: str) -> Cell:
    """Return the cell of `fnn.rnn` with one of its activations."""
    if activation not in ("tanh", "relu"):
        raise InputError("an activation of 'tanh', 'relu'", describe(activation), "pick one")
    function = jnp.tanh if activation == "tanh" else jax.nn.relu

    def step(p: Any, product: Any, params: PyTree, carry: Any) -> Any:
        del carry
        return gate(p, product, params)

    def gate(p: Any, product: Any, params: PyTree) -> tuple[Any, ...]:
        del params
        return (function(p + product),)

    def advance(saved: Any, carry: Any) -> Any:
        del carry
        return saved

    def factors(before: Any, saved: Any) -> Any:
        del before
        (h,) = saved
        return (1 - h * h if activation == "tanh" else (h > 0).astype(h.dtype),), ()

    def pull(factors: Any, dcarry: Any) -> tuple[Any, Any]:
        ((factor,), _), (dh,) = factors, dcarry
        # Of relu a choice and no product, so that where it is cut off not even infinity passes.
        da = dh * factor if activation == "tanh" else jnp.where(factor > 0, dh, 0)
        return (jnp.zeros_like(dh),), (da,)

    return Cell("rnn", 1, 1, step, gate, advance, factors, pull, (1,))


def _lstm_step(p: Any, product: Any, params: PyTree, carry: Any) -> Any:
    del params
    i, f, g, o = jnp.split(p + product, 4, -1)
    c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _lstm_gate(p: Any, product: Any, params: PyTree) -> tuple[Any, ...]:
    del params
    a = p + product
    # All gates by one tanh, as s(a) = 1/2 + tanh(a / 2) / 2: four functions put together again
    # would be worked out number by number.
    half = jnp.where(_is_candidate(a), 1, jnp.asarray(0.5, a.dtype))
    return (jnp.tanh(half * a) * half + (1 - half),)


def _lstm_advance(saved: Any, carry: Any) -> Any:
    i, f, g, o = jnp.split(saved[0], 4, -1)
    c = f * carry[1] + i * g
    return o * jnp.tanh(c), c


def _lstm_factors(before: Any, saved: Any) -> Any:
    (_, c), (i, f, g, o) = before, jnp.split(saved[0], 4, -1)
    t = jnp.tanh(f * c + i * g)
    own = [g * (i - i * i), c * (f - f * f), i * (1 - g * g), t * (o - o * o)]
    return (jnp.concatenate(own, -1),), (o * (1 - t * t), f)


def _lstm_pull(factors: Any, dcarry: Any) -> tuple[Any, Any]:
    ((own,), (through, f)), (dh, dc) = factors, dcarry
    dc = dc + dh * through
    da = jnp.concatenate([dc, dc, dc, dh], -1) * own
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


def _gru_gate(p: Any, product: Any, params: PyTree) -> tuple[Any, ...]:
    width = p.shape[-1] // 3
    a, last = jnp.split(p, [2 * width], -1)
    h2, hn = jnp.split(product, [2 * width], -1)
    both = 0.5 + 0.5 * jnp.tanh(0.5 * (a + h2))
    q = _biased(hn, params)
    n = jnp.tanh(last + both[..., :width] * q)
    return jnp.concatenate([both, n], -1), q


def _gru_advance(saved: Any, carry: Any) -> Any:
    _, z, n = jnp.split(saved[0], 3, -1)
    return (n + z * (carry[0] - n),)


def _gru_factors(before: Any, saved: Any) -> Any:
    (h,), (gates, q) = before, saved
    r, z, n = jnp.split(gates, 3, -1)
    own = (1 - z) * (1 - n * n)
    across = jnp.concatenate([own * q * (r - r * r), (h - n) * (z - z * z), own * r], -1)
    return (across, own), (z,)


def _gru_pull(factors: Any, dcarry: Any) -> tuple[Any, Any]:
    ((across, own), (z,)), (dh,) = factors, dcarry
    return (dh * z,), (jnp.concatenate([dh, dh, dh], -1) * across, dh * own)


def _biased(hn: Any, params: PyTree) -> Any:
    return hn + _row(params["recurrent_bias"], hn) if "recurrent_bias" in params else hn


LSTM = Cell("lstm", 2, 4, _lstm_step, _lstm_gate, _lstm_advance, _lstm_factors, _lstm_pull, (4,))
GRU = Cell("gru", 1, 3, _gru_step, _gru_gate, _gru_advance, _gru_factors, _gru_pull, (3, 1), True)


def parted(cell: Cell, carry: Any) -> tuple[Any, ...]:
    """Return the arrays of a carry: it is h itself where there is nothing else."""
    return (carry,) if cell.parts == 1 else tuple(carry)


def joined(cell: Cell, parts: Any) -> Any:
    """Return the carry of these arrays: the inverse of `parted`."""
    return parts[0] if cell.parts == 1 else tuple(parts)


def carry_like(cell: Cell, settings: Settings, batch: int, dtype: Any) -> Any:
    """Return the shapes of a carry."""
    return joined(cell, [jax.ShapeDtypeStruct((batch, settings.width), dtype)] * cell.parts)


def check_carry(carry: Any, like: Any) -> None:
    """Raise `InputError` unless a carry has the structure, shapes and dtype of another."""

    def words(tree: Any) -> str:
        shapes = jax.tree.map(lambda a: tuple(jnp.shape(a)), tree)
        dtypes = sorted({jnp.result_type(a).name for a in jax.tree.leaves(tree)})
        return f"{' and '.join(dtypes)} of shapes {shapes}"

    if words(carry) != words(like):
        raise InputError(
            f"a carry {words(like)}", words(carry), "start with zeros of the dtype of x"
        )


def check_width(width: int) -> None:
    """Raise `InputError` unless a width is a positive integer."""
    if not check.is_count(width, 1):
        raise InputError("a width of 1 or more", describe(width), "pass a positive int")


def init_cell(cell: Cell, settings: Settings, key: Array, inputs: int, dtype: Any) -> PyTree:
    """Draw the parameters of a cell, gate by gate."""
    width, gates = settings.width, cell.gates
    # Half precision is drawn in float32: an orthogonal matrix cannot be made of less.
    drawn = wide_dtype(dtype)

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
    return jnp.matmul(
        a.astype(weight.dtype), weight, preferred_element_type=wide_dtype(weight.dtype)
    )


def factored(cell: Cell, before: Any, saved: Any) -> Any:
    """Return the factors of one step, or of many, from what was stored."""
    return cell.factors(*jax.tree.map(upcast, (before, saved)))


def pulled(cell: Cell, turned: Array, factors: Any, dcarry: Any) -> tuple[Any, Any]:
    """Return ``dbefore, slopes`` of one step, `turned` being the recurrent weight transposed."""
    (dh, *rest), slopes = cell.pull(factors, dcarry)
    slopes = tuple(slope.astype(turned.dtype) for slope in slopes)
    return (dh + product(slopes[0], turned), *rest), slopes


def gradients(params: PyTree, x: Any, h: Any, slopes: Any) -> tuple[PyTree, Any]:
    """Return dparams, still wide, and dx from the slopes of one step (B, ...), or of many.

    x are the inputs, h the hidden states that came in; of many steps (B, T, ...).
    """
    across, *last = slopes
    own = across
    if last:
        own = jnp.concatenate([across[..., : -last[0].shape[-1]], *last], -1)
    leading = tuple(range(x.ndim - 1))
    wide = wide_dtype(x.dtype)
    found = {
        "input_weight": outer_sum(x, downcast(own, x), wide),
        "recurrent_weight": outer_sum(downcast(h, x), downcast(across, x), wide),
    }
    if "bias" in params:
        found["bias"] = upcast(own).sum(leading)
    if "recurrent_bias" in params:
        width = params["recurrent_bias"].shape[0]
        found["recurrent_bias"] = upcast(across[..., -width:]).sum(leading)
    dparams = {name: found[name] for name in params}
    return dparams, downcast(product(own, params["input_weight"].T), x)


def _row(bias: Array, x: Any) -> Any:
    return bias.reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype)
