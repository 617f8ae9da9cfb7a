"""Half precision: numbers of 16 bits are stored, and summed in 32."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


def wide_dtype(dtype: Any) -> Any:
    """Return float32 for bfloat16 and float16, and other dtypes as they are.

    >>> wide_dtype("bfloat16"), wide_dtype("float64")
    (dtype('float32'), dtype('float64'))
    """
    return jnp.dtype(jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype)


def upcast(x: Any) -> Any:
    """Return bfloat16 and float16 as float32, and wider numbers as they are.

    A sum that is kept in bfloat16 (8 bits) stands still once it is 256 times its next term, and one
    in float16 overflows at 65504. What comes out of a long sum is cast back to the dtype of x.

    >>> upcast(jnp.ones(2, "bfloat16")).dtype, upcast(jnp.ones(2)).dtype
    (dtype('float32'), dtype('float32'))
    """
    x = jnp.asarray(x)
    return x.astype(wide_dtype(x.dtype))


def wide_einsum(formula: str, a: Any, b: Any) -> Any:
    """Multiply two arrays of one dtype by the formula of `jax.numpy.einsum`; the sum stays wide.

    >>> half = jnp.ones((2, 2), "bfloat16")
    >>> wide_einsum("ij,jk->ik", half, half).dtype
    dtype('float32')
    """
    return jnp.einsum(formula, a, b, preferred_element_type=wide_dtype(a.dtype))


def downcast(y: Any, x: Any) -> Any:
    """Return y, which came out of ``upcast(x)``, in the dtype of x.

    >>> x = jnp.ones(2, "bfloat16")
    >>> downcast(upcast(x) / 3, x).dtype
    dtype(bfloat16)
    """
    return y.astype(x.dtype) if jnp.finfo(x.dtype).bits < 32 else y
