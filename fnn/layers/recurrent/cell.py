"""Recurrent cells: one step of a recurrent layer, to be put into a scan of one's own."""

from __future__ import annotations

from typing import Any

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, Key, PyTree
from fnn.layer import Layer, stateful
from fnn.layers._initializers import lecun_normal
from fnn.layers.recurrent._cells import (
    GRU,
    LSTM,
    Cell,
    Initializer,
    Settings,
    carry_like,
    check_carry,
    check_width,
    factored,
    gradients,
    init_cell,
    joined,
    orthogonal,
    parted,
    product,
    project,
    pulled,
    rnn_formulas,
)


@constructor
def rnn_cell(
    width: int,
    *,
    activation: str = "tanh",
    bias: bool = True,
    initializer: Initializer = lecun_normal,
    recurrent_initializer: Initializer = orthogonal,
) -> Layer:
    """RNN cell, one time step for a scan of one's own: the pair ``(h', x)`` becomes ``(h, h)``.

    Forward ``h = f(a)``, ``a = x input_weight + h' recurrent_weight + bias``. Backward, dh being
    the sum of both cotangents, ``da = dh f'(a)``, ``dh' = da recurrent_weight^T``,
    ``dx = da input_weight^T``, ``dinput_weight = x^T da``, ``drecurrent_weight = h'^T da``,
    ``dbias = sum_b da[b]``. f is tanh, or relu with ``relu'(0) = 0``.

    x (B, I), h (B, H), H being `width`; the parameters are those of `fnn.rnn`. Saved: x, h' and h.

    Raises `fnn.InputError` for an unknown activation, a width below 1, an x that is no pair, and
    for other shapes of its two. Source: Elman 1990, doi:10.1207/s15516709cog1402_1.

    >>> import jax.numpy as jnp
    >>> params = {"input_weight": jnp.eye(1), "recurrent_weight": 10 * jnp.eye(1)}
    >>> cell = rnn_cell(1, activation="relu", bias=False)
    >>> h, y = cell.apply(params, (), (jnp.array([[2.0]]), jnp.array([[3.0]])))[0]
    >>> h
    Array([[23.]], dtype=float32)
    """
    settings = Settings(width, bias, initializer, recurrent_initializer)
    return _layer(rnn_formulas(activation), settings)


@constructor
def lstm_cell(
    width: int,
    *,
    bias: bool = True,
    forget_bias: float = 1.0,
    initializer: Initializer = lecun_normal,
    recurrent_initializer: Initializer = orthogonal,
) -> Layer:
    """LSTM cell, one time step for a scan: ``((h', c'), x)`` becomes ``((h, c), h)``.

    Forward and backward are the formulas of `fnn.lstm` for one step, and the parameters are the
    same. x (B, I), h and c (B, H), H being `width`. Saved: x, h', c' and the four gates.

    Raises `fnn.InputError` for a width below 1, an x that is no such pair, and for other shapes of
    its arrays. Source: Gers, Schmidhuber and Cummins 2000, doi:10.1162/089976600300015015.

    >>> import jax, jax.numpy as jnp
    >>> cell, x, zeros = lstm_cell(4), jnp.ones((2, 3)), jnp.zeros((2, 4))
    >>> params, state = cell.init(jax.random.key(0), ((zeros, zeros), x))
    >>> (h, c), y = cell.apply(params, state, ((zeros, zeros), x))[0]
    >>> h.shape, c.shape, y is h
    ((2, 4), (2, 4), True)
    """
    settings = Settings(width, bias, initializer, recurrent_initializer, forget_bias)
    return _layer(LSTM, settings)


@constructor
def gru_cell(
    width: int,
    *,
    bias: bool = True,
    initializer: Initializer = lecun_normal,
    recurrent_initializer: Initializer = orthogonal,
) -> Layer:
    """GRU cell, one time step for a scan of one's own: the pair ``(h', x)`` becomes ``(h, h)``.

    Forward and backward are the formulas of `fnn.gru` for one step, and the parameters are the
    same. x (B, I), h (B, H), H being `width`. Saved: x, h', the three gates and the product q.

    Raises `fnn.InputError` for a width below 1, an x that is no pair, and for other shapes of its
    two. Source: Cho et al. 2014, arXiv:1406.1078, in the form of cuDNN and PyTorch.

    >>> import jax, jax.numpy as jnp
    >>> cell, pair = gru_cell(4), (jnp.zeros((2, 4)), jnp.ones((2, 3)))
    >>> params, state = cell.init(jax.random.key(0), pair)
    >>> h, y = cell.apply(params, state, pair)[0]
    >>> h.shape, y is h
    ((2, 4), True)
    """
    return _layer(GRU, Settings(width, bias, initializer, recurrent_initializer))


def _layer(cell: Cell, settings: Settings) -> Layer:
    check_width(settings.width)
    carried = "h" if cell.parts == 1 else "(h, c)"

    def checked(x: Any, inputs: int | None = None) -> tuple[Any, Any]:
        """Return the carry as a tuple, and the input."""
        if not isinstance(x, tuple) or len(x) != 2:
            shapes = jax.tree.map(lambda a: tuple(a.shape), x)
            raise InputError(f"a pair ({carried}, x)", f"shapes {shapes}", "pass the carry with x")
        carry, x = x
        check.floating(x)
        if len(x.shape) != 2 or inputs not in (None, x.shape[1]):
            raise InputError(
                f"x of shape (B, {'I' if inputs is None else inputs})",
                str(tuple(x.shape)),
                "pass one step, and initialize the layer for as many inputs",
            )
        check_carry(carry, carry_like(cell, settings, x.shape[0], x.dtype))
        return parted(cell, carry), x

    def written(parts: Any, x: Any) -> tuple[Any, Any]:
        parts = [downcast(part, x) for part in parts]
        return joined(cell, parts), parts[0]

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        _, x = checked(x)
        return init_cell(cell, settings, key, x.shape[1], x.dtype), ()

    def prepared(params: PyTree, x: Any) -> tuple[Any, ...]:
        before, x = checked(x, params["input_weight"].shape[0])
        wide = tuple(map(upcast, before))
        across = product(wide[0], params["recurrent_weight"])
        return before, x, (project(params, x), across, params, wide)

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        del key, train
        _, x, arguments = prepared(params, x)
        return written(cell.step(*arguments), x), state

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        del key, train
        before, x, (*arguments, wide) = prepared(params, x)
        saved = cell.gate(*arguments)
        kept = jax.tree.map(lambda a: downcast(a, x), saved)
        return written(cell.advance(saved, wide), x), state, (x, before, kept)

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        x, before, saved = residuals
        dcarry, dh = dy
        first, *rest = parted(cell, dcarry)
        dcarry = tuple(map(upcast, (first + dh, *rest)))
        turned = params["recurrent_weight"].T
        dbefore, slopes = pulled(cell, turned, factored(cell, before, saved), dcarry)
        dparams, dx = gradients(params, x, before[0], slopes)
        return jax.tree.map(downcast, dparams, params), (written(dbefore, x)[0], dx)

    return stateful(init, forward, backward, reference=apply)
