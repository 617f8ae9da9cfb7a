"""Recurrent layers: a state is carried from step to step, and back-propagation goes through time.

x is (B, T, I), and y (B, T, H); or both are a `fnn.Sequence`, with lengths of its own for every
sequence of the batch. Where a step is not there, the state is carried over it unchanged, y is 0,
and what x holds there changes nothing, not even if it is NaN. ``x.carry`` is the state before the
first step; when there is one, and only then, ``y.carry`` is the state after the last, so that a
scan over the pieces of a long sequence carries it, and the layers of a `fnn.serial` do not hand
theirs to each other.

In every formula ``s(a) = 1 / (1 + exp(-a))``, h is h[t] of one sequence and h' is h[t - 1], and dh
is the sum of dy[t] and of what came back from step t + 1. The sums of the weights' gradients are
over all steps of all sequences, outside of the loop over steps: one matrix product each for every
piece of them, which has as many steps as make 512 rows with B. What a step carried in is saved for
the first of every piece; backward works out that of the others again, from the gates.

Options of all three: `layers` of them, one above the other; `bidirectional`, with a second set of
parameters that reads every sequence from its last step to its first, the outputs side by side, of
the forward reading first, (B, T, 2H); and `unroll`, how many steps the compiled loop takes at a
time. With `truncate=k` the steps of a sequence make chunks of k, counted in the order of reading,
and dh (and dc) that step 1 of a chunk passes back to the chunk before are dropped, while all that
goes forward stays: the backward rule is then no derivative of y. The gradient of ``x.carry`` comes
from the first chunk alone.

The parameters are a dict; of several layers a tuple of them, and of two directions
``{"forward": ..., "backward": ...}``. The carry nests alike. Gates lie side by side in the columns
of a weight, each gate drawn by itself by `initializer` and `recurrent_initializer`.

All raise `fnn.InputError` for a `width`, `layers`, `truncate` or `unroll` below 1, for an x of
another shape or of integers, and for lengths and a carry that do not fit it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.tree import shape_witness
from fnn._core.types import Array, Key, PyTree
from fnn.combinators.sequence import Sequence, step_mask
from fnn.layer import Layer, stateful, stateless
from fnn.layers._initializers import lecun_normal
from fnn.layers.recurrent._cells import (
    GRU,
    LSTM,
    Cell,
    Initializer,
    Settings,
    check_carry,
    check_width,
    orthogonal,
    rnn_formulas,
)
from fnn.layers.recurrent._scan import Options, running


@constructor
def rnn(
    width: int,
    *,
    activation: str = "tanh",
    layers: int = 1,
    bidirectional: bool = False,
    truncate: int | None = None,
    unroll: int = 1,
    bias: bool = True,
    initializer: Initializer = lecun_normal,
    recurrent_initializer: Initializer = orthogonal,
) -> Layer:
    """Simple (Elman) recurrent network: a hidden state carried through time.

    Forward ``h = f(a)``, ``a = x input_weight + h' recurrent_weight + bias``, ``y = h``. Backward
    ``da = dh f'(a)``, ``dh' = da recurrent_weight^T``, ``dx = da input_weight^T``,
    ``dinput_weight = sum x^T da``, ``drecurrent_weight = sum h'^T da``, ``dbias = sum da``. f is
    tanh, ``f' = 1 - h h``, or relu, ``f' = 1 where h > 0, else 0``.

    input_weight (I, H), recurrent_weight (H, H), bias (H,), H being `width`; the carry h (B, H).
    Saved: x, h, and h' of every piece of steps. Source: Elman 1990,
    doi:10.1207/s15516709cog1402_1; Werbos 1990, doi:10.1109/5.58337. The module's docstring tells
    the options and the errors.

    >>> import jax.numpy as jnp
    >>> params = {"input_weight": jnp.eye(1), "recurrent_weight": 10 * jnp.eye(1)}
    >>> layer = rnn(1, activation="relu", bias=False)
    >>> layer.apply(params, (), jnp.array([[[1.0], [2.0], [3.0]]]))[0].ravel()
    Array([  1.,  12., 123.], dtype=float32)
    """
    settings = Settings(width, bias, initializer, recurrent_initializer)
    options = Options(layers, bidirectional, truncate, unroll)
    return _recurrent(rnn_formulas(activation), settings, options)


@constructor
def lstm(
    width: int,
    *,
    layers: int = 1,
    bidirectional: bool = False,
    truncate: int | None = None,
    unroll: int = 1,
    bias: bool = True,
    forget_bias: float = 1.0,
    initializer: Initializer = lecun_normal,
    recurrent_initializer: Initializer = orthogonal,
) -> Layer:
    """Long short-term memory: a hidden state and a cell state carried through time.

    Forward ``a = x input_weight + h' recurrent_weight + bias`` are the pre-activations of
    ``i = s(a_i)``, ``f = s(a_f)``, ``g = tanh(a_g)`` and ``o = s(a_o)``, in this order;
    ``c = f c' + i g``, ``y = h = o tanh(c)``. Backward, dc being what came back from step t + 1,
    ``dc += dh o (1 - tanh(c)^2)``, ``da_i = dc g i (1 - i)``, ``da_f = dc c' f (1 - f)``,
    ``da_g = dc i (1 - g g)``, ``da_o = dh tanh(c) o (1 - o)``; ``dc' = dc f``, and from da as in
    `rnn` dh', dx and the gradients of the weights.

    input_weight (I, 4H), recurrent_weight (H, 4H), bias (4H,), H being `width`; the carry is the
    pair (h, c), each (B, H). bias starts at 0, and at `forget_bias` for f (Jozefowicz, Zaremba and
    Sutskever 2015). Saved: x, the gates, and h' and c' of every piece of steps. Source:
    Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735, with the forget gate of Gers,
    Schmidhuber and Cummins 2000. The module's docstring tells the options and the errors.

    >>> import jax, jax.numpy as jnp
    >>> layer, x = lstm(4, layers=2), jnp.ones((2, 5, 3))
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> layer.apply(params, state, x)[0].shape
    (2, 5, 4)
    >>> [params[i]["input_weight"].shape for i in (0, 1)]
    [(3, 16), (4, 16)]
    """
    settings = Settings(width, bias, initializer, recurrent_initializer, forget_bias)
    options = Options(layers, bidirectional, truncate, unroll)
    return _recurrent(LSTM, settings, options)


@constructor
def gru(
    width: int,
    *,
    layers: int = 1,
    bidirectional: bool = False,
    truncate: int | None = None,
    unroll: int = 1,
    bias: bool = True,
    initializer: Initializer = lecun_normal,
    recurrent_initializer: Initializer = orthogonal,
) -> Layer:
    """Gated recurrent unit: a hidden state that gates reset and renew from time step to time step.

    Forward ``p = x input_weight + bias``, ``u = h' recurrent_weight``; ``r = s(p_r + u_r)``,
    ``z = s(p_z + u_z)``, ``q = u_n + recurrent_bias``, ``n = tanh(p_n + r q)``, in this order;
    ``y = h = (1 - z) n + z h'``. Backward ``dp_n = dh (1 - z) (1 - n n)``,
    ``dp_r = dp_n q r (1 - r)``, ``dp_z = dh (h' - n) z (1 - z)``, and du is dp but for
    ``du_n = dp_n r``; ``dh' = dh z + du recurrent_weight^T``, ``dx = dp input_weight^T``,
    ``dinput_weight = sum x^T dp``, ``drecurrent_weight = sum h'^T du``, ``dbias = sum dp``,
    ``drecurrent_bias = sum du_n``.

    input_weight (I, 3H), recurrent_weight (H, 3H), bias (3H,), recurrent_bias (H,), H being
    `width`; the carry h (B, H). The reset gate acts after the product, as in cuDNN and PyTorch.
    Saved: x, r, z, n and q, and h' of every piece of steps. Source: Cho et al. 2014,
    arXiv:1406.1078, eqs. 5 to 8. The module's docstring tells the options and the errors.

    >>> import fnn, jax, jax.numpy as jnp
    >>> layer = gru(4, bidirectional=True)
    >>> x = fnn.Sequence(jnp.ones((2, 5, 3)), jnp.array([5, 2]))
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> layer.apply(params, state, x)[0].values[1, :, 0] == 0
    Array([False, False,  True,  True,  True], dtype=bool)
    """
    settings = Settings(width, bias, initializer, recurrent_initializer)
    options = Options(layers, bidirectional, truncate, unroll)
    return _recurrent(GRU, settings, options)


@constructor
def last_step() -> Layer:
    """Last time step of every sequence, padding left out.

    Forward ``y[b] = x[b, n[b] - 1]``, n being the lengths, or T; for a mask the last step that is
    there. Backward ``dx[b, n[b] - 1] = dy[b]``, and 0 elsewhere. x (B, T, H) or a `fnn.Sequence` of
    it, y (B, H): 0 for a sequence of no steps. Saved: which step it is.

    Raises `fnn.InputError` for another rank, no steps, integers, and lengths that do not fit.

    >>> import fnn, jax.numpy as jnp
    >>> x = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    >>> last_step().apply((), (), fnn.Sequence(x, jnp.array([1, 2])))[0].ravel()
    Array([1., 4.], dtype=float32)
    """

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        values = x.values if isinstance(x, Sequence) else x
        check.floating(values)
        if len(values.shape) != 3 or not values.shape[1]:
            raise InputError(
                "x of shape (B, T, H) with a step or more",
                str(tuple(values.shape)),
                "put it behind a recurrent layer",
            )
        mask = step_mask(x)
        if mask is None:
            here = jnp.arange(values.shape[1]) == values.shape[1] - 1
            here = jnp.broadcast_to(here, values.shape[:2])
        else:
            # There, and none after it.
            after = jax.lax.cumsum(mask.astype(jnp.int32), 1, reverse=True)
            here = mask & (after == 1)
        y = jnp.where(here[:, :, None], values, 0).sum(1)
        if not isinstance(x, Sequence):
            return y, here
        return y, Sequence(here, None, jax.tree.map(shape_witness, x.carry))

    def backward(params: PyTree, residuals: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params
        padded = isinstance(residuals, Sequence)
        here = residuals.values if padded else residuals
        dvalues = jnp.where(here[:, :, None], dy[:, None, :], 0)
        if not padded:
            return (), dvalues
        dcarry = jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), residuals.carry)
        return (), Sequence(dvalues, None, dcarry)

    return stateless(lambda key, x: (), forward, backward)


def _recurrent(cell: Cell, settings: Settings, options: Options) -> Layer:
    check_width(settings.width)
    for name in ("layers", "truncate", "unroll"):
        value = getattr(options, name)
        if not check.is_count(value, 1) and not (name == "truncate" and value is None):
            raise InputError(
                f"{name} of 1 or more",
                describe(value),
                "pass a positive int" + (", or None for no chunks" if name == "truncate" else ""),
            )
    run = running(cell, settings, options)

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        values = x.values if isinstance(x, Sequence) else x
        _check(values)
        return run.init(key, values), ()

    def read(params: PyTree, x: Any) -> Sequence:
        """Return x as a sequence with a mask."""
        if not isinstance(x, Sequence):
            x = Sequence(x)
        _check(x.values, _inputs(params))
        if x.carry is not None:
            check_carry(x.carry, run.carry(x.values.shape[0], x.values.dtype))
        return Sequence(x.values, step_mask(x), x.carry)

    def written(y: Sequence, x: Any) -> Any:
        if not isinstance(x, Sequence):
            return y.values
        return Sequence(y.values, x.lengths, None if x.carry is None else y.carry)

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        del key, train
        return written(run.apply(params, read(params, x)), x), state

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        del key, train
        y, residuals = run.forward(params, read(params, x))
        return written(y, x), state, residuals

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        whole = isinstance(dy, Sequence)
        dparams, dx = run.backward(params, residuals, dy if whole else Sequence(dy))
        if not whole:
            return dparams, dx.values
        return dparams, dx if dy.carry is not None else dx._replace(carry=None)

    return stateful(init, forward, backward, reference=apply)


def _inputs(params: PyTree) -> int:
    """Return the number of inputs of the lowest layer."""
    if isinstance(params, tuple):
        params = params[0]
    return params.get("forward", params)["input_weight"].shape[0]


def _check(values: Any, inputs: Any = "I") -> None:
    check.floating(values)
    if len(values.shape) != 3 or inputs not in ("I", values.shape[2]):
        raise InputError(
            f"x of shape (B, T, {inputs})",
            str(tuple(values.shape)),
            "put batch and time in front, and initialize the layer for as many inputs",
        )
