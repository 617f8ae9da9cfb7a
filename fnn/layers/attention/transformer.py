"""Transformer blocks: attention and an MLP, each with a residual connection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.types import Array, Coefficient, Input, Params, State
from fnn.combinators.cross import over_query, residual_cross
from fnn.combinators.residual import residual
from fnn.combinators.sequence import over_sequence
from fnn.combinators.serial import serial
from fnn.layer import Init, Layer
from fnn.layers._initializers import check_initializer, lecun_normal
from fnn.layers.activation.gated import geglu, swiglu
from fnn.layers.activation.piecewise import relu
from fnn.layers.activation.smooth import gelu, silu
from fnn.layers.attention.attention import attention
from fnn.layers.dense import dense
from fnn.layers.dropout import check_rate, dropout as dropout_layer
from fnn.layers.norm.layer_norm import layer_norm, rms_norm

Activation: TypeAlias = Literal["gelu", "gelu_tanh", "relu", "silu", "geglu", "swiglu"]
_PLAIN: dict[str, Callable[[], Layer]] = {
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate=True),
    "relu": relu,
    "silu": silu,
}
_GATED: dict[str, Callable[..., Layer]] = {"geglu": geglu, "swiglu": swiglu}
_NORMS = ("layer_norm", "rms_norm")


@constructor
def mlp(
    hidden: int | None = None,
    *,
    activation: Activation = "gelu",
    bias: bool | None = None,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Multilayer perceptron: two dense layers with an activation between, back to the width of x.

    Forward:   y = f(x W_up + b_up) W_down + b_down, f being the activation
        gated: y = g(x W_up) W_down, g being that of `fnn.swiglu` or `fnn.geglu`
    Backward:  that of the layers it is made of, ``fnn.serial(fnn.dense(hidden), fnn.gelu(),
        fnn.dense(C))``

    Args:
        hidden: H, the width between; None is 4C, or for a gate 8C / 3, which is as many weights.
        activation: ``"gelu"``, ``"gelu_tanh"`` (approximate, as of GPT-2), ``"relu"``, ``"silu"``,
            or gated ``"geglu"`` or ``"swiglu"``.
        bias: whether there are b_up and b_down; None is True, but for a gate, which has none.
        initializer: draws the weights.
    Shapes:    x, y (..., C) with any leading axes; up weight (C, H), for a gate (C, 2H), and bias
        (H,); down weight (H, C) and bias (C,)
    Saves:     what its layers save
    Raises:    InputError for options out of range, ``bias=True`` for a gate, and for an x of
        another last axis, without axes or of integers.
    Source:    Vaswani et al. 2017, arXiv:1706.03762, eq. 2; Shazeer 2020, arXiv:2002.05202, eq. 6.

    >>> import jax, jax.numpy as jnp
    >>> params, state = mlp().init(jax.random.key(0), jnp.ones((1, 3)))
    >>> params["up"]["weight"].shape, params["down"]["weight"].shape
    ((3, 12), (12, 3))

    """
    if hidden is not None:
        check.count(hidden, "hidden")
    remedy = "name an activation, or compose fnn.serial of dense layers and your own"
    check.one_of(activation, "activation", (*_PLAIN, *_GATED), remedy)
    _check_bias(bias)
    if bias and activation in _GATED:
        raise InputError(
            f"no bias for {activation!r}",
            "True",
            "leave it out, or name an activation without gate",
        )
    check_initializer(initializer)
    make = partial(_mlp_parts, activation=activation, bias=bias, initializer=initializer)
    # How wide its layers are, the weights tell; only init asks them.
    return _with_init(partial(_init_mlp, make, hidden), make(1, 1))


def _init_mlp(
    make: Callable[..., Layer], hidden: int | None, key: Array, x: Input, /
) -> tuple[Params, State]:
    check.floating(x)
    check.shape(x, "... C", remedy="give x a last axis")
    return make(x.shape[-1], hidden).init(key, x)


def _check_bias(bias: bool | None) -> None:
    if bias is not None:
        check.flag(bias, "bias")


def _with_init(init: Init, inside: Layer) -> Layer:
    """Return a combinator whose widths are known when it is initialized."""
    rebuild = inside.rebuild
    assert rebuild is not None
    return dataclasses.replace(
        inside, init=init, rebuild=lambda *parts: _with_init(init, rebuild(*parts))
    )


def _mlp_parts(
    channels: int,
    hidden: int | None = None,
    *,
    activation: Activation = "gelu",
    bias: bool | None = None,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Return what `mlp` is made of for so many channels, its options being those of `mlp`."""
    if activation in _GATED:
        width = -(-8 * channels // 3) if hidden is None else hidden
        return serial(
            up=_GATED[activation](width, initializer=initializer),
            down=dense(channels, bias=False, initializer=initializer),
        )
    make = partial(dense, bias=bias is not False, initializer=initializer)
    return serial(
        up=make(4 * channels if hidden is None else hidden),
        activation=_PLAIN[activation](),
        down=make(channels),
    )


@constructor
def transformer_block(
    heads: int,
    *,
    key_value_heads: int | None = None,
    head_width: int | None = None,
    causal: bool = False,
    cross: bool = False,
    rotary: bool | float = False,
    score_bias: Callable[[Array, Array], Array] | None = None,
    hidden: int | None = None,
    activation: Activation = "gelu",
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm",
    norm_first: bool = True,
    bias: bool | None = None,
    dropout: Coefficient = 0.0,
    attention_dropout: Coefficient = 0.0,
    block: int | None = None,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Transformer block: attention and an MLP, each with a residual connection.

    x is an array, or a `fnn.Sequence` whose steps that are not there are not seen. With `cross`,
    the block of a decoder, x is a pair ``(x, memory)``, and so is y, with the same memory: between
    the two terms there is a third, ``attention(norm(z), memory)``, which sees all of the memory in
    the order it is in. A block does not change the shape: stack them by `fnn.repeat`.
    ``norm="rms_norm"``, ``rotary=True``, ``activation="swiglu"`` and ``bias=False`` make a block of
    a Llama.

    Forward:   z = x + attention(norm(x)), y = z + mlp(norm(z))
        with the norms behind, as the first transformers had them:
        z = norm(x + attention(x)), y = norm(z + mlp(z))
    Backward:  that of the `fnn.residual` layers it is made of

    Args:
        heads: heads of queries, as for `fnn.attention`.
        key_value_heads: heads of keys and values; None for as many.
        head_width: channels of a head; None for C / heads.
        causal: whether a step of x sees only those before it, and itself.
        cross: whether there is a memory to attend to.
        rotary: whether queries and keys of x are turned by their positions; a number is the base.
        score_bias: added to the scores of x with itself, as in `fnn.attention`.
        hidden: the width inside the MLP, as for `fnn.mlp`.
        activation: that of `fnn.mlp`.
        norm: ``"layer_norm"`` or ``"rms_norm"``.
        norm_first: True for norms in front of attention and MLP, False for norms behind the sums.
        bias: whether attention, MLP and layer norms add one (of a norm the shift, as in PyTorch);
            None is True, but for a gated MLP, which has none.
        dropout: the fraction of what each term adds that is dropped in training.
        attention_dropout: the fraction of the probabilities that is, as `fnn.attention` drops them.
        block: steps that attention goes through at a time, as in `fnn.attention`.
        initializer: draws the weights.
    Shapes:    x, y (B, T, C); with `cross` x and y are pairs of that and a memory (B, S, M)
    Saves:     what its layers save
    Raises:    InputError for an unknown norm, a flag that is no bool, ``bias=True`` with a gated
        activation, with `cross` for an x that is no pair, and as its layers do.
    Source:    Xiong et al. 2020, arXiv:2002.04745, table 1, which has both orders; Vaswani et al.
        2017, arXiv:1706.03762, section 3.1.

    >>> import fnn, jax, jax.numpy as jnp
    >>> stack = fnn.repeat(transformer_block(2, causal=True), 6)
    >>> params, state = stack.init(jax.random.key(0), jnp.ones((1, 3, 4)))
    >>> params["attention"]["layer"]["query"]["weight"].shape
    (6, 4, 4)
    >>> sorted(params["mlp"]), sorted(params["mlp"]["layer"])
    (['layer', 'norm'], ['activation', 'down', 'up'])

    """
    check.one_of(norm, "norm", _NORMS, "name a norm of the channels")
    _check_bias(bias)
    wanted = "pass True for norms in front of attention and mlp, False for norms behind"
    check.flag(norm_first, "norm_first", wanted)
    wanted = "pass True for the block of a decoder, whose x is a pair (x, memory)"
    check.flag(cross, "cross", wanted)
    check_rate(dropout, "dropout")
    check_rate(attention_dropout, "attention_dropout")
    attending = partial(
        attention,
        heads,
        key_value_heads=key_value_heads,
        head_width=head_width,
        bias=bias is not False,
        dropout=attention_dropout,
        block=block,
        initializer=initializer,
    )
    drop = {} if check.is_zero(dropout) else {"dropout": over_sequence(dropout_layer(dropout))}
    normed = over_sequence(
        rms_norm() if norm == "rms_norm" else layer_norm(shift=bias is not False)
    )
    frame = _Frame(normed, norm_first, drop)
    network = mlp(hidden, activation=activation, bias=bias, initializer=initializer)
    own = _term(frame, attending(causal=causal, rotary=rotary, score_bias=score_bias))
    small = _term(frame, over_sequence(network))
    if not cross:
        return serial(attention=own, mlp=small)
    frame = frame._replace(norm=over_query(normed))
    return serial(
        attention=over_query(own),
        cross=_term(frame, attending(), residual_cross),
        mlp=over_query(small),
    )


class _Frame(NamedTuple):
    """What stands around each term of a block: a norm in front or behind, and a dropout, if any."""

    norm: Layer
    norm_first: bool
    drop: dict[str, Layer]


def _term(frame: _Frame, layer: Layer, around: Callable[[Layer], Layer] = residual) -> Layer:
    """Add what a layer makes, with a norm in front of it or behind the sum."""
    if frame.norm_first:
        return around(serial(norm=frame.norm, layer=layer, **frame.drop))
    return serial(residual=around(serial(layer=layer, **frame.drop)), norm=frame.norm)
