"""The words of every signature. All trees are JAX pytrees."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import jax

from fnn._core.description import AtInit, RunTime

Array: TypeAlias = jax.Array
# A key of `jax.random`, or None where nothing is up to chance.
Key: TypeAlias = jax.Array | None
# Any tree of arrays.
PyTree: TypeAlias = Any
# What a layer learns, what it remembers between steps, and what forward saves for backward.
Params: TypeAlias = Any
State: TypeAlias = Any
Residuals: TypeAlias = Any
# What a layer keeps of the time steps before, so that generation reads the newest alone.
Cache: TypeAlias = Any
# Gradients and updates, in the structure of the parameters.
Grads: TypeAlias = Any
Updates: TypeAlias = Any
OptState: TypeAlias = Any
# An array, a tree of arrays or a `fnn.Sequence`, or the `jax.ShapeDtypeStruct` of one.
Input: TypeAlias = Any
Output: TypeAlias = Any
# The derivative of the objective in an input or output; None in place of integers.
Cotangent: TypeAlias = Any
# What a loss compares: an array of the model's outputs (or a tree), and what they should be.
Prediction: TypeAlias = Any
Target: TypeAlias = Any
# (x, target) or (x, target, weights), each an array or a tree with a leading axis of examples.
Data: TypeAlias = Any
# One value, an array or a traced one.
Scalar: TypeAlias = Any
# A number or an array of one: an input of the compiled program, so that a new one compiles nothing.
Number: TypeAlias = Annotated[float | jax.Array, RunTime()]
# The same, but a plain 0 leaves its term out of the program.
Coefficient: TypeAlias = Annotated[float | jax.Array, RunTime(unless_zero=True)]
# A number that `init` alone reads, as it does all initializers: a new one compiles no other step.
InitialNumber: TypeAlias = Annotated[float, AtInit()]
# The key of noise, an input of the program too.
NoiseKey: TypeAlias = Annotated[jax.Array, RunTime()]
# What a check is asked about: anything that a user may have passed.
Unchecked: TypeAlias = Any
