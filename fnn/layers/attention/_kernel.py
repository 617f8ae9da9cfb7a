"""The kernel of cuDNN for attention, which NVIDIA's GPUs have for numbers of 16 bits.

It goes through blocks as `fnn.layers.attention._blockwise` does, in one kernel whose scores never
leave the chip. What it cannot do, and every other kind of device, is left to the blocks.

Shapes are those of `_blockwise`: q, o (B, M, G, T, D), q scaled already, k and v (B, M, S, D).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# The least that a GPU must be able to do, NVIDIA's Ampere, and the widest head on all of them.
_CAPABILITY, _WIDTH = 8.0, 128


def takes(q: Any, k: Any, causal: bool) -> bool:
    """Tell whether there is a kernel for such arrays here, scores being plain products."""
    steps, others, width = q.shape[3], k.shape[2], q.shape[4]
    half = jnp.finfo(q.dtype).bits == 16
    fits = width % 8 == 0 and width <= _WIDTH and not (causal and steps != others)
    mesh = jax.sharding.get_abstract_mesh()
    # The types of its results do not tell a layout.
    told = mesh.manual_axes or mesh.explicit_axes
    return half and fits and not told and there()


@functools.cache
def there() -> bool:
    """Tell whether the devices of this process have the kernel."""
    # Other makers have other words for what a device is capable of.
    capability = getattr(jax.devices()[0], "compute_capability", "")
    return re.fullmatch(r"\d+\.\d+", capability) is not None and float(capability) >= _CAPABILITY


def attend(q: Any, k: Any, v: Any, causal: bool, blockwise: Callable[..., Any]) -> Any:
    """Return o by the kernel on CUDA, by the blocks elsewhere."""

    def kernel(*arrays: Any) -> Any:
        # As it is computed where it is differentiated: XLA can then find backward's own the same.
        return jax.vjp(functools.partial(fused, causal=causal), *arrays)[0]

    return jax.lax.platform_dependent(q, k, v, cuda=kernel, default=blockwise)


def attend_backward(
    q: Any, k: Any, v: Any, do: Any, causal: bool, blockwise: Callable[..., Any]
) -> Any:
    """Return dq, dk and dv, by the kernel on CUDA, by the blocks elsewhere."""

    def kernel(q: Any, k: Any, v: Any, do: Any) -> Any:
        return jax.vjp(functools.partial(fused, causal=causal), q, k, v)[1](do)

    return jax.lax.platform_dependent(q, k, v, do, cuda=kernel, default=blockwise)


def fused(q: Any, k: Any, v: Any, *, causal: bool, implementation: Any = "cudnn") -> Any:
    """Return o (B, M, G, T, D), as `jax.nn.dot_product_attention` computes it."""
    batch, keys, groups, steps, width = q.shape
    # What JAX does in between is not written for strict promotion.
    with jax.numpy_dtype_promotion("standard"):
        o = jax.nn.dot_product_attention(
            q.transpose(0, 3, 1, 2, 4).reshape(batch, steps, keys * groups, width),
            k.swapaxes(1, 2),
            v.swapaxes(1, 2),
            scale=1.0,
            is_causal=causal,
            implementation=implementation,
        )
    return o.reshape(batch, steps, keys, groups, width).transpose(0, 2, 3, 1, 4)
