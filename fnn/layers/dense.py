"""The dense layer: every output is a weighted sum of all inputs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.sums import leading_sum
from fnn._core.types import Array, Cotangent, Input, Output, Params, Residuals, Unchecked
from fnn.layer import Layer, stateless
from fnn.layers._initializers import check_initializer, draw, lecun_normal


@constructor
def dense(
    width: int, *, bias: bool = True, initializer: jax.nn.initializers.Initializer = lecun_normal
) -> Layer:
    """Dense (fully connected) layer: a matrix product with a weight, plus a bias.

    Forward:   y[..., o] = sum_i x[..., i] weight[i, o] + bias[o]
    Backward:  dweight[i, o] = sum_... x[..., i] dy[..., o], dbias[o] = sum_... dy[..., o],
        dx[..., i] = sum_o dy[..., o] weight[i, o]

    Args:
        width: O, the number of outputs.
        bias: whether there is a bias (O,), starting at zero.
        initializer: of the weight (I, O), one of `jax.nn.initializers`.
    Shapes:    x (..., I) with any leading axes, y (..., O)
    Saves:     x
    Raises:    InputError for a width below 1, and for x of another last axis or of integers.
    Source:    Rumelhart, Hinton and Williams 1986, doi:10.1038/323533a0, eqs. 1, 6 and 7.

    >>> import jax, jax.numpy as jnp
    >>> layer = dense(2)
    >>> params = {"weight": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.array([0.5, 0.0])}
    >>> y, state, residuals = layer.forward(params, (), jnp.array([1.0, 1.0]))
    >>> y
    Array([4.5, 6. ], dtype=float32)
    >>> dparams, dx = layer.backward(params, residuals, jnp.array([1.0, 0.0]))
    >>> dx
    Array([1., 3.], dtype=float32)
    """
    check.count(width, "width")
    check_weight(bias, initializer)

    def init(key: Array, x: Input) -> Params:
        return init_weight(key, x, width, bias, initializer)

    def forward(params: Params, x: Input) -> tuple[Output, Residuals]:
        check_inputs(params, x)
        y = x @ params["weight"]
        return y + params["bias"].reshape((1,) * (y.ndim - 1) + (-1,)) if bias else y, x

    def backward(params: Params, x: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
        dparams = {"weight": outer_sum(x, dy)}
        if bias:
            dparams["bias"] = leading_sum(dy)
        return dparams, dy @ params["weight"].T

    return stateless(init, forward, backward, positionwise=True)


def check_weight(bias: Unchecked, initializer: Unchecked) -> None:
    """Raise `InputError` unless `bias` is a flag and `initializer` a function.

    Args:
        bias: whether there is a bias.
        initializer: draws the weight.
    """
    check.flag(bias, "bias")
    check_initializer(initializer)


def init_weight(
    key: Array,
    x: Input,
    width: int,
    bias: bool,
    initializer: jax.nn.initializers.Initializer,
) -> Params:
    """Return a weight (I, O) as it is drawn and, where wanted, a bias of zeros.

    Args:
        key: what the weight is drawn with.
        x: (..., I), whose dtype the parameters take.
        width: O, the number of outputs.
        bias: whether there is a bias (O,).
        initializer: of the weight, one of `jax.nn.initializers`.
    """
    check.floating(x)
    check.shape(x, "... I", remedy="give x a last axis")
    weight = draw(initializer, key, (x.shape[-1], width), x.dtype)
    return {"weight": weight} | ({"bias": jnp.zeros(width, x.dtype)} if bias else {})


def check_inputs(params: Params, x: Input) -> None:
    """Raise `InputError` unless the last axis of x is that of the weight (I, O).

    Args:
        params: those of the layer, of which the ``"weight"`` is looked at.
        x: (..., I).
    """
    check.floating(x)
    inputs = (x.shape or (0,))[-1]
    remedy = f"reshape x, or initialize the layer for {inputs} inputs"
    check.shape(x, "... I", remedy=remedy, I=params["weight"].shape[0])


def outer_sum(x: Array, dy: Array, dtype: Unchecked = None) -> Array:
    """Return ``sum_... x[..., i] dy[..., o]``, the gradient of a weight (I, O), summed in a dtype.

    With the leading axes made one, since for several of them XLA transposes x, and computes what it
    comes from again in that order, element by element.

    Args:
        x: (..., I).
        dy: (..., O), with the leading axes of x.
        dtype: that of the sum; None leaves it to `jax.numpy.matmul`.
    """
    product = functools.partial(jnp.matmul, preferred_element_type=dtype)
    found: Array = jax.lax.platform_dependent(
        _rows(x),
        _rows(dy),
        cpu=functools.partial(_transposed_first, product),
        default=lambda x, dy: product(x.T, dy),
    )
    return found


def _transposed_first(product: Callable[[Array, Array], Array], x: Array, dy: Array) -> Array:
    """Return the product of x (R, I), transposed, and dy (R, O), from a transposed copy on CPUs.

    XLA's products for CPUs are fast where the first factor is summed along its last axis. Of it and
    of the product's other order, that which transposes less; barriers keep XLA from undoing it
    (2048 rows, 128 and 512 columns: 1.4 ms, from 1.8; 512 and 128: 1.5 ms, from 2.7).
    """
    barrier = jax.lax.optimization_barrier
    inputs, outputs = x.shape[1], dy.shape[1]
    # A symbolic number, as in `jax.export`, may be large.
    rows: Unchecked = x.shape[0]
    few = isinstance(rows, int) and rows * (inputs - outputs) <= inputs * outputs
    if inputs <= outputs or few:
        return product(barrier(x.T), dy)
    return barrier(product(barrier(dy.T), x)).T


def _rows(x: Array) -> Array:
    """Return an array with its leading axes made one."""
    # Not -1: of an empty batch it cannot be told.
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
