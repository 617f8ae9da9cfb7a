"""Recurrent cells: one time step of a recurrent layer, for a scan of one's own."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.precision import downcast, upcast
from fnn._core.types import (
    Array,
    Cotangent,
    InitialNumber,
    Input,
    Key,
    Output,
    Params,
    Residuals,
    State,
)
from fnn.layer import Layer, stateful
from fnn.layers._initializers import lecun_normal
from fnn.layers.recurrent._cells import (
    GRU,
    Cell,
    Initializer,
    Parts,
    Settings,
    carry_like,
    cell_vjp,
    check_carry,
    check_settings,
    checked_forget_bias,
    init_cell,
    lstm_formulas,
    orthogonal,
    pack_carry,
    param_gradients,
    precompute_factors,
    project,
    recurrent_product,
    rnn_formulas,
    transpose_weights,
    unpack_carry,
)


@constructor
def rnn_cell(
    width: int,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    bias: bool = True,
    initializer: Initializer = lecun_normal,
    recurrent_initializer: Initializer = orthogonal,
) -> Layer:
    """RNN cell, one time step for a scan of one's own: the pair ``(h', x)`` becomes ``(h, h)``.

    The parameters are those of `fnn.rnn`.

    Forward:   h = f(a), a = x input_weight + h' recurrent_weight + bias
    Backward:  da = dh f'(a), dh being the sum of both cotangents
        dh' = da recurrent_weight^T, dx = da input_weight^T
        dinput_weight = x^T da, drecurrent_weight = h'^T da, dbias = sum_b da[b]

    Args:
        width: H, the number of units.
        activation: f, ``"tanh"``, or ``"relu"`` with ``relu'(0) = 0``.
        bias: whether there is one.
        initializer: draws input_weight.
        recurrent_initializer: draws recurrent_weight.
    Shapes:    x (B, I); h', h (B, H); input_weight (I, H), recurrent_weight (H, H), bias (H,)
    Saves:     x, h' and h
    Raises:    InputError for options out of range, an x that is no pair, and other shapes of its
        two.
    Source:    Elman 1990, doi:10.1207/s15516709cog1402_1.

    >>> import jax.numpy as jnp
    >>> params = {"input_weight": jnp.eye(1), "recurrent_weight": 10 * jnp.eye(1)}
    >>> cell = rnn_cell(1, activation="relu", bias=False)
    >>> h, y = cell.apply(params, (), (jnp.array([[2.0]]), jnp.array([[3.0]])))[0]
    >>> h
    Array([[23.]], dtype=float32)

    """
    settings = Settings(width, bias, initializer, recurrent_initializer)
    return _cell_layer(rnn_formulas(activation), settings)


@constructor
def lstm_cell(
    width: int,
    *,
    projection: int | None = None,
    bias: bool = True,
    forget_bias: InitialNumber | None = None,
    initializer: Initializer = lecun_normal,
    recurrent_initializer: Initializer = orthogonal,
) -> Layer:
    """LSTM cell, one time step for a scan: ``((h', c'), x)`` becomes ``((h, c), h)``.

    Formulas and parameters are those of `fnn.lstm`, for one step.

    Forward:   i, f, g, o = s(a_i), s(a_f), tanh(a_g), s(a_o)
        a = x input_weight + h' recurrent_weight + bias
        c = f c' + i g, h = o tanh(c)
    Backward:  dc += dh o (1 - tanh(c)^2), dh being the sum of both cotangents
        da_i = dc g i (1 - i), da_f = dc c' f (1 - f), da_g = dc i (1 - g g)
        da_o = dh tanh(c) o (1 - o)
        dc' = dc f, dh' = da recurrent_weight^T, dx = da input_weight^T
        dinput_weight = x^T da, drecurrent_weight = h'^T da, dbias = sum_b da[b]

    Args:
        width: H, the number of units.
        projection: P, the width of h, by a matrix of its own; None leaves it at H.
        bias: whether there is one.
        forget_bias: where the bias of f starts; None is 1.
        initializer: draws input_weight, and projection_weight.
        recurrent_initializer: draws recurrent_weight, gate by gate.
    Shapes:    x (B, I); h', h, c', c (B, H), h (B, P) with a projection
    Saves:     x, h', c' and the four gates; with a projection h too
    Raises:    InputError for options out of range, a forget_bias without bias, an x that is no such
        pair, and other shapes of its arrays.
    Source:    Gers, Schmidhuber and Cummins 2000, doi:10.1162/089976600300015015; Sak, Senior and
        Beaufays 2014, arXiv:1402.1128, the projection.

    >>> import jax, jax.numpy as jnp
    >>> cell, x, zeros = lstm_cell(4), jnp.ones((2, 3)), jnp.zeros((2, 4))
    >>> params, state = cell.init(jax.random.key(0), ((zeros, zeros), x))
    >>> (h, c), y = cell.apply(params, state, ((zeros, zeros), x))[0]
    >>> h.shape, c.shape, y is h
    ((2, 4), (2, 4), True)

    """
    start = checked_forget_bias(forget_bias, bias)
    settings = Settings(width, bias, initializer, recurrent_initializer, start, projection)
    return _cell_layer(lstm_formulas(settings), settings)


@constructor
def gru_cell(
    width: int,
    *,
    bias: bool = True,
    initializer: Initializer = lecun_normal,
    recurrent_initializer: Initializer = orthogonal,
) -> Layer:
    """GRU cell, one time step for a scan of one's own: the pair ``(h', x)`` becomes ``(h, h)``.

    Formulas and parameters are those of `fnn.gru`, for one step.

    Forward:   r, z = s(p_r + u_r), s(p_z + u_z), n = tanh(p_n + r q), h = (1 - z) n + z h'
        p = x input_weight + bias, u = h' recurrent_weight, q = u_n + recurrent_bias
    Backward:  dp_n = dh (1 - z) (1 - n n), dp_r = dp_n q r (1 - r), dp_z = dh (h' - n) z (1 - z)
        du = dp but for du_n = dp_n r, dh being the sum of both cotangents
        dh' = dh z + du recurrent_weight^T, dx = dp input_weight^T
        dinput_weight = x^T dp, drecurrent_weight = h'^T du, dbias = sum_b dp[b]
        drecurrent_bias = sum_b du_n[b]

    Args:
        width: H, the number of units.
        bias: whether there are bias and recurrent_bias.
        initializer: draws input_weight, gate by gate.
        recurrent_initializer: draws recurrent_weight, gate by gate.
    Shapes:    x (B, I); h', h (B, H)
    Saves:     x, h', the gates r, z and n, and q
    Raises:    InputError for options out of range, an x that is no pair, and other shapes of its
        two.
    Source:    Cho et al. 2014, arXiv:1406.1078, in the form of cuDNN and PyTorch.

    >>> import jax, jax.numpy as jnp
    >>> cell, pair = gru_cell(4), (jnp.zeros((2, 4)), jnp.ones((2, 3)))
    >>> params, state = cell.init(jax.random.key(0), pair)
    >>> h, y = cell.apply(params, state, pair)[0]
    >>> h.shape, y is h
    ((2, 4), True)

    """
    return _cell_layer(GRU, Settings(width, bias, initializer, recurrent_initializer))


class _Plan(NamedTuple):
    """What the layer of a cell is made of."""

    cell: Cell
    settings: Settings


def _cell_layer(cell: Cell, settings: Settings) -> Layer:
    check_settings(settings)
    plan = _Plan(cell, settings)
    return stateful(
        lambda key, x: _init(plan, key, x),
        lambda params, state, x, *, key=None, train=False: _forward(
            plan, params, state, x, key=key, train=train
        ),
        lambda params, residuals, dy: _backward(plan, params, residuals, dy),
        reference=lambda params, state, x, *, key=None, train=False: _apply(
            plan, params, state, x, key=key, train=train
        ),
    )


def _checked(plan: _Plan, x: Input, inputs: int | None = None) -> tuple[Parts, Any]:
    """Return the carry as a tuple, and the input."""
    if not isinstance(x, tuple) or len(x) != 2:
        carried = "h" if plan.cell.parts == 1 else "(h, c)"
        shapes = jax.tree.map(lambda a: tuple(a.shape), x)
        raise InputError(f"a pair ({carried}, x)", f"shapes {shapes}", "pass the carry with x")
    carry, x = x
    check.floating(x)
    remedy = "pass one step, and initialize the layer for as many inputs"
    check.shape(x, "B I", "x", remedy, **({} if inputs is None else {"I": inputs}))
    check_carry(carry, carry_like(*plan, x.shape[0], x.dtype))
    return unpack_carry(plan.cell, carry), x


def _carry_and_output(plan: _Plan, parts: Any, x: Any) -> Output:
    """Return the carry and the output, h, in the dtype of x."""
    parts = [downcast(part, x) for part in parts]
    return pack_carry(plan.cell, parts), parts[0]


def _init(plan: _Plan, key: Array, x: Input, /) -> tuple[Params, State]:
    _, x = _checked(plan, x)
    return init_cell(*plan, key, x.shape[1], x.dtype), ()


def _prepared(plan: _Plan, params: Params, x: Input) -> tuple[Parts, Any, tuple[Any, ...]]:
    """Return carry and input, and the arguments of a step."""
    before, x = _checked(plan, x, params["input_weight"].shape[0])
    wide = tuple(map(upcast, before))
    product = recurrent_product(wide[0], params["recurrent_weight"])
    return before, x, (project(params, x), product, params, wide)


def _apply(
    plan: _Plan, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
) -> tuple[Output, State]:
    del key, train
    _, x, arguments = _prepared(plan, params, x)
    return _carry_and_output(plan, plan.cell.step(*arguments), x), state


def _forward(
    plan: _Plan, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
) -> tuple[Output, State, Residuals]:
    del key, train
    before, x, arguments = _prepared(plan, params, x)
    saved = plan.cell.gate(*arguments)
    kept = jax.tree.map(lambda a: downcast(a, x), saved)
    y = _carry_and_output(plan, plan.cell.advance(saved, arguments[-1]), x)
    return y, state, (x, before, kept)


def _backward(
    plan: _Plan, params: Params, residuals: Residuals, dy: Cotangent, /
) -> tuple[Params, Cotangent]:
    x, before, saved = residuals
    dcarry, dh = dy
    first, *rest = unpack_carry(plan.cell, dcarry)
    dcarry = tuple(map(upcast, (first + dh, *rest)))
    factors = precompute_factors(plan.cell, before, saved)
    dbefore, slopes = cell_vjp(plan.cell, transpose_weights(params), factors, dcarry)
    dparams, dx = param_gradients(params, x, before[0], slopes, factors[1])
    return jax.tree.map(downcast, dparams, params), (_carry_and_output(plan, dbefore, x)[0], dx)
