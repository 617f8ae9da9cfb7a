"""Transformer blocks: attention and an MLP, each with a residual connection."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Coefficient, PyTree
from fnn.combinators.cross import over_query, residual_cross
from fnn.combinators.residual import residual
from fnn.combinators.sequence import over_sequence
from fnn.combinators.serial import serial
from fnn.layer import Init, Layer
from fnn.layers._initializers import lecun_normal
from fnn.layers.activation.gated import geglu, swiglu
from fnn.layers.activation.piecewise import relu
from fnn.layers.activation.smooth import gelu, silu
from fnn.layers.attention.attention import attention
from fnn.layers.dense import dense
from fnn.layers.dropout import dropout as dropout_layer
from fnn.layers.norm.layer_norm import layer_norm, rms_norm

Activation = Literal["gelu", "relu", "silu", "geglu", "swiglu"]
_PLAIN: dict[str, Callable[[], Layer]] = {"gelu": gelu, "relu": relu, "silu": silu}
_GATED: dict[str, Callable[..., Layer]] = {"geglu": geglu, "swiglu": swiglu}
_NORMS: dict[str, Callable[[], Layer]] = {"layer_norm": layer_norm, "rms_norm": rms_norm}


@constructor
def mlp(
    hidden: int | None = None,
    *,
    activation: Activation = "gelu",
    bias: bool = True,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Multilayer perceptron: two dense layers with an activation between, back to the width of x.

    Forward ``y = f(x W_up + b_up) W_down + b_down``, f being the `activation`; for the gated ones
    ``y = g(x W_up) W_down`` with g that of `fnn.swiglu` or `fnn.geglu`, and no biases. Backward is
    that of ``fnn.serial(fnn.dense(hidden), fnn.gelu(), fnn.dense(C))``, which this is.

    x, y (..., C) with any leading axes; up has weight (C, H) and bias (H,), or for a gate weight
    (C, 2H); down has weight (H, C) and bias (C,). H is `hidden`: without it 4C, or for a gate
    8C / 3, which is as many numbers.

    Raises `fnn.InputError` for a `hidden` below 1, an unknown activation, and for an x of another
    last axis, without axes or of integers. Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 2;
    Shazeer 2020, arXiv:2002.05202, eq. 6.

    >>> import jax, jax.numpy as jnp
    >>> params, state = mlp().init(jax.random.key(0), jnp.ones((1, 3)))
    >>> params["up"]["weight"].shape, params["down"]["weight"].shape
    ((3, 12), (12, 3))
    """
    if hidden is not None and not check.is_count(hidden, 1):
        raise InputError("a hidden of 1 or more", describe(hidden), "pass a positive int")
    if activation not in (*_PLAIN, *_GATED):
        raise InputError(
            f"one of {', '.join((*_PLAIN, *_GATED))}",
            describe(activation),
            "name an activation, or compose fnn.serial of dense layers and your own",
        )

    options: dict[str, Any] = {"activation": activation, "bias": bias, "initializer": initializer}
    # How wide its layers are, the weights tell; only init asks them.
    inside = mlp_parts(1, 1, **options)

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        check.floating(x)
        if not x.shape:
            raise InputError("x of shape (..., C)", describe(x), "give x a last axis")
        return mlp_parts(x.shape[-1], hidden, **options).init(key, x)

    return _with_init(init, inside)


def _with_init(init: Init, inside: Layer) -> Layer:
    """Return a combinator whose widths are known when it is initialized."""
    rebuild = inside.rebuild
    assert rebuild is not None
    return dataclasses.replace(
        inside, init=init, rebuild=lambda *parts: _with_init(init, rebuild(*parts))
    )


def mlp_parts(
    channels: int,
    hidden: int | None = None,
    *,
    activation: Activation = "gelu",
    bias: bool = True,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Return what `mlp` is made of for so many channels, its options being those of `mlp`."""
    if activation in _GATED:
        width = -(-8 * channels // 3) if hidden is None else hidden
        return serial(
            up=_GATED[activation](width, initializer=initializer),
            down=dense(channels, bias=False, initializer=initializer),
        )
    return serial(
        up=dense(4 * channels if hidden is None else hidden, bias=bias, initializer=initializer),
        activation=_PLAIN[activation](),
        down=dense(channels, bias=bias, initializer=initializer),
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
    score_bias: Callable[[Any, Any], Any] | None = None,
    hidden: int | None = None,
    activation: Activation = "gelu",
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm",
    norm_first: bool = True,
    bias: bool = True,
    dropout: Coefficient = 0.0,
    attention_dropout: Coefficient = 0.0,
    block: int = 128,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Transformer block: attention and an MLP, each with a residual connection.

    Forward ``z = x + attention(norm(x))``, ``y = z + mlp(norm(z))``; without `norm_first`, as the
    first transformers were, ``z = norm(x + attention(x))``, ``y = norm(z + mlp(z))``. Each term is
    behind a dropout if its rate is not 0; backward is that of the `fnn.residual` layers it is made
    of. x, y (B, T, C): an array, or a `fnn.Sequence` whose steps that are not there are not seen. A
    block does not change the shape: stack them by `fnn.repeat`.

    With `cross`, the block of a decoder, x is a pair ``(x, memory)`` with memory (B, S, M), and so
    is y, with the same memory. Between the two terms there is a third, ``attention(norm(z),
    memory)``, which sees all of the memory in the order it is in.

    The options are those of `fnn.attention`, whose own dropout is `attention_dropout`, and of
    `fnn.mlp`; `causal`, `rotary` and `score_bias` are for the attention to x itself.
    ``norm="rms_norm"``, ``rotary=True``, ``activation="swiglu"`` and ``bias=False`` make a block of
    a Llama.

    Raises `fnn.InputError` for an unknown norm, a `norm_first` or `cross` that is no bool, with
    `cross` for an x that is no pair, and as the layers do that it is made of. Source: Xiong et al.
    2020, arXiv:2002.04745, table 1, which has both orders; Vaswani et al. 2017, arXiv:1706.03762,
    section 3.1.

    >>> import fnn, jax, jax.numpy as jnp
    >>> stack = fnn.repeat(transformer_block(2, causal=True), 6)
    >>> params, state = stack.init(jax.random.key(0), jnp.ones((1, 3, 4)))
    >>> params["attention"]["layer"]["query"]["weight"].shape
    (6, 4, 4)
    >>> sorted(params["mlp"]), sorted(params["mlp"]["layer"])
    (['layer', 'norm'], ['activation', 'down', 'up'])
    """
    if norm not in _NORMS:
        raise InputError(
            f"one of {', '.join(_NORMS)}",
            describe(norm),
            "name a norm of the channels",
        )
    words = {
        "norm_first": "pass True for norms in front of attention and mlp, False for norms behind",
        "cross": "pass True for the block of a decoder, whose x is a pair (x, memory)",
    }
    for name, value in {"norm_first": norm_first, "cross": cross}.items():
        if not isinstance(value, bool):
            raise InputError(f"{name} of True or False", describe(value), words[name])
    attending = functools.partial(
        attention,
        heads,
        key_value_heads=key_value_heads,
        head_width=head_width,
        bias=bias,
        dropout=attention_dropout,
        block=block,
        initializer=initializer,
    )
    drop = {} if check.is_zero(dropout) else {"dropout": over_sequence(dropout_layer(dropout))}
    normed = over_sequence(_NORMS[norm]())

    def term(layer: Layer, around: Callable[[Layer], Layer], norm: Layer) -> Layer:
        """Add what a layer makes, with a norm in front of it or behind the sum."""
        if norm_first:
            return around(serial(norm=norm, layer=layer, **drop))
        return serial(residual=around(serial(layer=layer, **drop)), norm=norm)

    own = attending(causal=causal, rotary=rotary, score_bias=score_bias)
    network = mlp(hidden, activation=activation, bias=bias, initializer=initializer)
    own, small = (term(layer, residual, normed) for layer in (own, over_sequence(network)))
    if not cross:
        return serial(attention=own, mlp=small)
    return serial(
        attention=over_query(own),
        cross=term(attending(), residual_cross, over_query(normed)),
        mlp=over_query(small),
    )
