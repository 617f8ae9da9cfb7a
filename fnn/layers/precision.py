"""Half precision: numbers of 16 bits are stored, and summed in 32."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


def widened(x: Any) -> Any:
    """Return bfloat16 and float16 as float32, and wider numbers as they are.

    A sum that is kept in bfloat16 (8 bits) stands still once it is 256 times its next term, and one
    in float16 overflows at 65504. What comes out of a long sum is cast back to the dtype of x.

    >>> widened(jnp.ones(2, "bfloat16")).dtype, widened(jnp.ones(2)).dtype
    (dtype('float32'), dtype('float32'))
    """
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def narrowed(y: Any, x: Any) -> Any:
    """Return y, which came out of ``widened(x)``, in the dtype of x.

    >>> x = jnp.ones(2, "bfloat16")
    >>> narrowed(widened(x) / 3, x).dtype
    dtype(bfloat16)
    """
    return y.astype(x.dtype) if jnp.finfo(x.dtype).bits < 32 else y
