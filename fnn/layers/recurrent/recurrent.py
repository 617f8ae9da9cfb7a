"""Recurrent layers: a hidden state carried from time step to time step, back-propagation in time.

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
the first of every piece; backward computes that of the others again, from the gates.

With `truncate=k` the steps of a sequence make chunks of k, counted in the order of reading, and dh
(and dc) that step 1 of a chunk passes back to the chunk before are dropped, while all that goes
forward stays: backward is then no derivative of y. The gradient of ``x.carry`` comes from the first
chunk alone.

The parameters are a dict; of several layers a tuple of them, and of two directions
``{"forward": ..., "backward": ...}``. The carry nests alike. Gates lie side by side in the columns
of a weight, each gate drawn by itself.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.tree import shape_witness
from fnn._core.types import (
    Array,
    Cache,
    Cotangent,
    InitialNumber,
    Input,
    Key,
    Output,
    Params,
    Residuals,
    State,
    Unchecked,
)
from fnn.combinators.sequence import Sequence, step_mask
from fnn.layer import Layer, stateful, stateless
from fnn.layers._initializers import lecun_normal
from fnn.layers.recurrent._cells import (
    GRU,
    Cell,
    Initializer,
    Settings,
    check_carry,
    check_settings,
    checked_forget_bias,
    lstm_formulas,
    orthogonal,
    rnn_formulas,
)
from fnn.layers.recurrent._scan import Options, running
from fnn.layers.recurrent._stack import Run


@constructor
def rnn(
    width: int,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    layers: int = 1,
    bidirectional: bool = False,
    truncate: int | None = None,
    unroll: int = 1,
    bias: bool = True,
    initializer: Initializer = lecun_normal,
    recurrent_initializer: Initializer = orthogonal,
) -> Layer:
    """Simple (Elman) recurrent network: a hidden state carried through time.

    x and y are arrays, or a `fnn.Sequence`: then y is 0 and the state stays where a step is not
    there, whatever x holds, and ``y.carry`` is the last state where ``x.carry`` is the first.

    Forward:   y = h = f(a), a = x input_weight + h' recurrent_weight + bias, h' being h[t - 1]
    Backward:  da = dh f'(a), f' = 1 - h h of tanh; of relu 1 where h > 0, else 0
        dh' = da recurrent_weight^T, dx = da input_weight^T
        dinput_weight = sum x^T da, drecurrent_weight = sum h'^T da, dbias = sum da

    Args:
        width: H, the number of units.
        activation: f, ``"tanh"`` or ``"relu"``.
        layers: how many, each over the outputs of the one below.
        bidirectional: whether a second set of parameters reads every sequence from its last step
            to its first; the outputs lie side by side, the forward ones first.
        truncate: k, for gradients that end where a chunk of k steps begins; None for none.
        unroll: how many steps the compiled loop takes at a time.
        bias: whether there is one.
        initializer: draws input_weight.
        recurrent_initializer: draws recurrent_weight.
    Shapes:    x (B, T, I); y (B, T, H), bidirectional (B, T, 2H); carry h (B, H)
        input_weight (I, H), recurrent_weight (H, H), bias (H,)
    Saves:     x, h, and h' of every piece of steps
    Raises:    InputError for options out of range, an x of another shape or of integers, and
        lengths and a carry that do not fit it.
    Source:    Elman 1990, doi:10.1207/s15516709cog1402_1; Werbos 1990, doi:10.1109/5.58337.

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
    projection: int | None = None,
    layers: int = 1,
    bidirectional: bool = False,
    truncate: int | None = None,
    unroll: int = 1,
    bias: bool = True,
    forget_bias: InitialNumber | None = None,
    initializer: Initializer = lecun_normal,
    recurrent_initializer: Initializer = orthogonal,
) -> Layer:
    """Long short-term memory: a hidden state and a cell state carried through time.

    x and y are arrays, or a `fnn.Sequence`: then y is 0 and the state stays where a step is not
    there, whatever x holds, and ``y.carry`` is the last state where ``x.carry`` is the first.

    Forward:   i, f, g, o = s(a_i), s(a_f), tanh(a_g), s(a_o), gates of a in this order
        a = x input_weight + h' recurrent_weight + bias, h' and c' being h[t - 1] and c[t - 1]
        c = f c' + i g, m = o tanh(c)
        y = h = m, or m projection_weight with a projection
    Backward:  dm = dh, or dh projection_weight^T
        dc += dm o (1 - tanh(c)^2), dc being what came back from step t + 1
        da_i = dc g i (1 - i), da_f = dc c' f (1 - f), da_g = dc i (1 - g g)
        da_o = dm tanh(c) o (1 - o)
        dc' = dc f, dh' = da recurrent_weight^T, dx = da input_weight^T
        dinput_weight = sum x^T da, drecurrent_weight = sum h'^T da, dbias = sum da
        dprojection_weight = sum m^T dh

    Args:
        width: H, the number of units.
        projection: P, the width of h and y, by a matrix of its own (PyTorch's `proj_size`); None
            leaves it at H.
        layers: how many, each over the outputs of the one below.
        bidirectional: whether a second set of parameters reads every sequence from its last step
            to its first; the outputs lie side by side, the forward ones first.
        truncate: k, for gradients that end where a chunk of k steps begins; None for none.
        unroll: how many steps the compiled loop takes at a time.
        bias: whether there is one.
        forget_bias: where the bias of f starts (Jozefowicz, Zaremba and Sutskever 2015); None is 1.
        initializer: draws input_weight, gate by gate, and projection_weight.
        recurrent_initializer: draws recurrent_weight, gate by gate.
    Shapes:    x (B, T, I); y (B, T, H), bidirectional (B, T, 2H); carry (h, c), each (B, H)
        input_weight (I, 4H), recurrent_weight (H, 4H), bias (4H,)
        with a projection y (B, T, P), h (B, P), recurrent_weight (P, 4H), projection_weight (H, P)
    Saves:     x, the gates, and h' and c' of every piece of steps; with a projection h too
    Raises:    InputError for options out of range, a forget_bias without bias, an x of another
        shape or of integers, and lengths and a carry that do not fit it.
    Source:    Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735, with the forget gate
        of Gers, Schmidhuber and Cummins 2000; Sak, Senior and Beaufays 2014, arXiv:1402.1128, the
        projection.

    >>> import jax, jax.numpy as jnp
    >>> layer, x = lstm(4, layers=2), jnp.ones((2, 5, 3))
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> layer.apply(params, state, x)[0].shape
    (2, 5, 4)
    >>> [params[i]["input_weight"].shape for i in (0, 1)]
    [(3, 16), (4, 16)]

    """
    start = checked_forget_bias(forget_bias, bias)
    settings = Settings(width, bias, initializer, recurrent_initializer, start, projection)
    options = Options(layers, bidirectional, truncate, unroll)
    return _recurrent(lstm_formulas(settings), settings, options)


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

    The reset gate acts after the product, as in cuDNN and PyTorch. x and y are arrays, or a
    `fnn.Sequence`: then y is 0 and the state stays where a step is not there, whatever x holds, and
    ``y.carry`` is the last state where ``x.carry`` is the first.

    Forward:   r, z = s(p_r + u_r), s(p_z + u_z), n = tanh(p_n + r q), in this order
        p = x input_weight + bias, u = h' recurrent_weight, q = u_n + recurrent_bias
        y = h = (1 - z) n + z h', h' being h[t - 1]
    Backward:  dp_n = dh (1 - z) (1 - n n), dp_r = dp_n q r (1 - r), dp_z = dh (h' - n) z (1 - z)
        du is dp but for du_n = dp_n r
        dh' = dh z + du recurrent_weight^T, dx = dp input_weight^T
        dinput_weight = sum x^T dp, drecurrent_weight = sum h'^T du
        dbias = sum dp, drecurrent_bias = sum du_n

    Args:
        width: H, the number of units.
        layers: how many, each over the outputs of the one below.
        bidirectional: whether a second set of parameters reads every sequence from its last step
            to its first; the outputs lie side by side, the forward ones first.
        truncate: k, for gradients that end where a chunk of k steps begins; None for none.
        unroll: how many steps the compiled loop takes at a time.
        bias: whether there are bias and recurrent_bias.
        initializer: draws input_weight, gate by gate.
        recurrent_initializer: draws recurrent_weight, gate by gate.
    Shapes:    x (B, T, I); y (B, T, H), bidirectional (B, T, 2H); carry h (B, H)
        input_weight (I, 3H), recurrent_weight (H, 3H), bias (3H,), recurrent_bias (H,)
    Saves:     x, r, z, n and q, and h' of every piece of steps
    Raises:    InputError for options out of range, an x of another shape or of integers, and
        lengths and a carry that do not fit it.
    Source:    Cho et al. 2014, arXiv:1406.1078, eqs. 5 to 8.

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

    Forward:   y[b] = x[b, n[b] - 1], n being the lengths, or T; for a mask the last step that is
        there; 0 for a sequence of no steps
    Backward:  dx[b, n[b] - 1] = dy[b], and 0 elsewhere

    Shapes:    x (B, T, H) or a `fnn.Sequence` of it; y (B, H)
    Saves:     which step it is
    Raises:    InputError for another rank, T = 0, integers, and lengths that do not fit.

    >>> import fnn, jax.numpy as jnp
    >>> x = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    >>> last_step().apply((), (), fnn.Sequence(x, jnp.array([1, 2])))[0].ravel()
    Array([1., 4.], dtype=float32)
    """
    return stateless(lambda key, x: (), _last_forward, _last_backward)


def _last_forward(params: Params, x: Input) -> tuple[Output, Residuals]:
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
        last = jnp.arange(values.shape[1]) == values.shape[1] - 1
        last = jnp.broadcast_to(last, values.shape[:2])
    else:
        # There, and none after it.
        after = jax.lax.cumsum(mask.astype(jnp.int32), 1, reverse=True)
        last = mask & (after == 1)
    y = jnp.where(last[:, :, None], values, 0).sum(1)
    if not isinstance(x, Sequence):
        return y, last
    return y, Sequence(last, None, jax.tree.map(shape_witness, x.carry))


def _last_backward(params: Params, residuals: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
    del params
    padded = isinstance(residuals, Sequence)
    last = residuals.values if padded else residuals
    dvalues = jnp.where(last[:, :, None], dy[:, None, :], 0)
    if not padded:
        return (), dvalues
    dcarry = jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), residuals.carry)
    return (), Sequence(dvalues, None, dcarry)


def _recurrent(cell: Cell, settings: Settings, options: Options) -> Layer:
    check_settings(settings)
    check.count(options.layers, "layers")
    check.flag(options.bidirectional, "bidirectional")
    if options.truncate is not None:
        remedy = "pass a positive int, or None for no chunks"
        check.count(options.truncate, "truncate", remedy=remedy)
    check.count(options.unroll, "unroll")
    run = running(cell, settings, options)
    return stateful(
        partial(_init, run),
        partial(_forward, run),
        partial(_backward, run),
        reference=partial(_apply, run),
        prefill=partial(_prefill, run),
        decode=partial(_decode, run),
    )


def _init(run: Run, key: Array, x: Input, /) -> tuple[Params, State]:
    values = x.values if isinstance(x, Sequence) else x
    _check(values)
    return run.init(check.key(key), values), ()


def _apply(
    run: Run, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
) -> tuple[Output, State]:
    del key, train
    return _like_input(run.apply(params, _as_sequence(run, params, x)), x), state


def _forward(
    run: Run, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
) -> tuple[Output, State, Residuals]:
    del key, train
    y, residuals = run.forward(params, _as_sequence(run, params, x))
    return _like_input(y, x), state, residuals


def _backward(
    run: Run, params: Params, residuals: Residuals, dy: Cotangent, /
) -> tuple[Params, Cotangent]:
    whole = isinstance(dy, Sequence)
    dparams, dx = run.backward(params, residuals, dy if whole else Sequence(dy))
    if not whole:
        return dparams, dx.values
    return dparams, dx if dy.carry is not None else dx._replace(carry=None)


def _prefill(
    run: Run,
    params: Params,
    state: State,
    x: Input,
    /,
    *,
    window: int,
    lengths: Array | None = None,
) -> tuple[Output, Cache]:
    """Return y, and the carry after the last step of every row."""
    del state, window
    check.floating(x)
    return run.prefill(params, _as_sequence(run, params, Sequence(x, lengths)))


def _decode(
    run: Run, params: Params, state: State, cache: Cache, x: Input, position: Array, /
) -> tuple[Output, Cache]:
    """Return y of one step, and the carry after it."""
    del state, position
    _check(x, _inputs(params))
    y, cache = run.decode(params, cache, x[:, 0])
    return y[:, None], cache


def _as_sequence(run: Run, params: Params, x: Input) -> Sequence:
    """Return x, checked, as a sequence with a mask."""
    if not isinstance(x, Sequence):
        x = Sequence(x)
    _check(x.values, _inputs(params))
    if x.carry is not None:
        check_carry(x.carry, run.carry(x.values.shape[0], x.values.dtype))
    return Sequence(x.values, step_mask(x), x.carry)


def _like_input(y: Sequence, x: Input) -> Output:
    """Return y as what x is: a sequence or an array."""
    if not isinstance(x, Sequence):
        return y.values
    return Sequence(y.values, x.lengths, None if x.carry is None else y.carry)


def _inputs(params: Params) -> int:
    """Return the number of inputs of the lowest layer."""
    if isinstance(params, tuple):
        params = params[0]
    inputs: int = params.get("forward", params)["input_weight"].shape[0]
    return inputs


def _check(values: Unchecked, inputs: int | None = None) -> None:
    check.floating(values)
    remedy = "put batch and time in front, and initialize the layer for as many inputs"
    check.shape(values, "B T I", "x", remedy, **({} if inputs is None else {"I": inputs}))
