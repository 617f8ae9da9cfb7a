"""Vision transformers, and the class token that they read."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.mesh import zeros
from fnn._core.tree import shape_witness
from fnn._core.types import Array, Coefficient, Cotangent, Input, Output, Params, Residuals
from fnn.combinators.repeat import repeat
from fnn.combinators.serial import serial
from fnn.layer import Layer, stateless
from fnn.layers._initializers import check_initializer, draw
from fnn.layers.attention.position import positional
from fnn.layers.attention.transformer import transformer_block
from fnn.layers.conv.conv import conv
from fnn.layers.dense import dense
from fnn.layers.norm.layer_norm import layer_norm
from fnn.layers.shape import reshape

_small_normal = jax.nn.initializers.normal(0.02)


@constructor
def vit(
    classes: int = 1000,
    *,
    image: int = 224,
    patch: int = 16,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    dropout: Coefficient = 0.0,
) -> Layer:
    """Vision transformer (ViT): an encoder of the patches of an image, read at a class token.

    The defaults are ViT-B/16. `fnn.from_torch` fills it with the weights of a ViT of torchvision,
    whose norms have an epsilon of 1e-6 where those here have 1e-5.

    Forward:   y = dense(norm(blocks([class; patches] + positions))[first])
    Backward:  that of the layers it is made of

    Args:
        classes: K, the number of classes.
        image: the height and the width of an image, a multiple of `patch`.
        patch: the height and the width of a patch.
        width: C, the channels of a patch inside.
        depth: the number of `fnn.transformer_block`.
        heads: heads of attention, a divisor of the width.
        hidden: the width inside of the MLP; None for 4C.
        dropout: the fraction of what each term of a block adds that is dropped in training.
    Shapes:    x (B, image, image, channels), y (B, K) logits
    Saves:     what its layers save
    Raises:    InputError for counts below 1, an image that is no multiple of the patch, and as its
        layers do.
    Source:    Dosovitskiy et al. 2020, arXiv:2010.11929, eqs. 1-4.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model, x = vit(10, image=8, patch=4, width=16, depth=2, heads=2), jnp.ones((1, 8, 8, 3))
    >>> params, state = model.init(jax.random.key(0), x)
    >>> params["positions"]["weight"].shape, model.apply(params, state, x)[0].shape
    ((5, 16), (1, 10))

    """
    for name, value in (("classes", classes), ("image", image), ("patch", patch)):
        check.count(value, name)
    check.count(width, "width")
    check.count(depth, "depth")
    if image % patch:
        raise InputError(
            f"an image of a multiple of {patch}", str(image), "crop the images, or resize them"
        )
    tokens = (image // patch) ** 2 + 1
    block = transformer_block(heads, hidden=hidden, activation="gelu", dropout=dropout)
    return serial(
        patches=serial(conv(width, patch, stride=patch, padding="VALID"), reshape(-1, width)),
        token=class_token(),
        positions=positional("learned", tokens),
        blocks=repeat(block, depth),
        norm=layer_norm(),
        first=first_token(),
        head=dense(classes),
    )


@constructor
def class_token(*, initializer: jax.nn.initializers.Initializer = _small_normal) -> Layer:
    """Class token: a learnable vector in front of every sequence.

    Forward:   y[b, 0] = weight, y[b, 1 + t] = x[b, t]
    Backward:  dweight = sum_b dy[b, 0], dx[b, t] = dy[b, 1 + t]

    Args:
        initializer: of the weight (1, C), one of `jax.nn.initializers`.
    Shapes:    x (B, T, C), weight (C,), y (B, 1 + T, C)
    Saves:     nothing
    Raises:    InputError for x of integers, of other axes, or of another width.
    Source:    Devlin et al. 2018, arXiv:1810.04805, section 3.

    >>> import jax.numpy as jnp
    >>> class_token().apply({"weight": jnp.array([5.0])}, (), jnp.zeros((1, 2, 1)))[0].ravel()
    Array([5., 0., 0.], dtype=float32)
    """
    check_initializer(initializer)

    def init(key: Array, x: Input) -> Params:
        check.floating(x)
        check.shape(x, "B T C", remedy="give x axes of batch, tokens and channels")
        return {"weight": draw(initializer, key, (1, x.shape[-1]), x.dtype)[0]}

    def forward(params: Params, x: Input) -> tuple[Output, Residuals]:
        weight = params["weight"]
        check.floating(x)
        check.shape(x, "B T C", C=weight.shape[0])
        token = zeros((x.shape[0], 1, x.shape[-1]), x.dtype, x) + weight.reshape(1, 1, -1)
        return jnp.concatenate([token, x], 1), ()

    def backward(params: Params, residuals: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
        del params, residuals
        return {"weight": dy[:, 0].sum(0)}, dy[:, 1:]

    return stateless(init, forward, backward)


@constructor
def first_token() -> Layer:
    """First token of every sequence, such as the class token.

    Forward:   y[b] = x[b, 0]
    Backward:  dx[b, 0] = dy[b], 0 elsewhere

    Shapes:    x (B, T, ...), y (B, ...)
    Saves:     the shape of x
    Raises:    InputError for x without an axis of tokens, or without any.

    >>> import jax.numpy as jnp
    >>> first_token().apply((), (), jnp.array([[[1.0], [2.0]]]))[0]
    Array([[1.]], dtype=float32)
    """

    def forward(params: Params, x: Input) -> tuple[Output, Residuals]:
        del params
        check.shape(x, "B T ...", remedy="give x axes of batch and tokens")
        if not x.shape[1]:
            raise InputError("one token or more", str(tuple(x.shape)), "put class_token in front")
        return x[:, 0], shape_witness(x)

    def backward(params: Params, witness: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
        del params
        return (), jnp.zeros(witness.shape[1:], dy.dtype).at[:, 0].set(dy)

    return stateless(lambda key, x: (), forward, backward)
