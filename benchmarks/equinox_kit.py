"""The parts of Equinox that the networks of networks.py are made of.

See network_peers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from network_peers import EPSILON, HEADS, Forward, Part, PlainKit

# The name that equinox_loop in loops.py gives the axis of examples.
BATCH_AXIS = "batch"


class EqxJoined(eqx.Module):
    """Parts that a function puts together."""

    parts: list[Any]
    forward: Forward = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        return self.forward(self.parts, x)


class EqxPlain(eqx.Module):
    """A part of plain JAX."""

    params: Any
    apply: Callable[[Any, Any], Any] = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        return self.apply(self.params, x)


class EqxOverSteps(eqx.Module):
    """A part of vectors over every time step, if there are some."""

    inside: Any

    def __call__(self, x: Any) -> Any:
        # An index has no axis of channels.
        vector = 0 if isinstance(self.inside, eqx.nn.Embedding) else 1
        return jax.vmap(self.inside)(x) if x.ndim > vector else self.inside(x)


class EqxAttention(eqx.Module):
    """Attention of a sequence to itself."""

    inside: eqx.nn.MultiheadAttention
    causal: bool = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        mask = jnp.tril(jnp.ones((len(x), len(x)), bool)) if self.causal else None
        return self.inside(x, x, x, mask)


class EqxLstm(eqx.Module):
    """A cell over all time steps."""

    cell: eqx.nn.LSTMCell

    def __call__(self, x: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            carry = self.cell(x, carry)
            return carry, carry[0]

        zeros = jnp.zeros(self.cell.hidden_size)
        return jax.lax.scan(step, (zeros, zeros), x)[1]


class EquinoxKit(PlainKit):
    """Equinox: one example at a time, channels first."""

    channel_axis, image_axes = 0, (-2, -1)

    def key(self) -> Any:
        self.count += 1
        return jax.random.key(self.count)

    def join(self, forward: Forward, *parts: Part) -> Part:
        return EqxJoined(list(parts), forward)

    def size_of(self, model: Part) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))

    def conv(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True
    ) -> Part:
        padding = 0 if kernel == stride else kernel // 2
        return eqx.nn.Conv2d(
            inputs, outputs, kernel, stride, padding, use_bias=bias, key=self.key()
        )

    def batch_norm(self, width: int) -> Part:
        def apply(params: Any, x: Any) -> Any:
            mean, square = jax.lax.pmean((x.mean((1, 2)), (x**2).mean((1, 2))), BATCH_AXIS)
            scale = params[0] * jax.lax.rsqrt(square - mean**2 + EPSILON)
            shift = params[1] - mean * scale
            return x * scale[:, None, None] + shift[:, None, None]

        return EqxPlain([jnp.ones(width), jnp.zeros(width)], apply)

    def layer_norm(self, width: int) -> Part:
        return EqxOverSteps(eqx.nn.LayerNorm(width))

    def dense(self, inputs: int, outputs: int) -> Part:
        return EqxOverSteps(eqx.nn.Linear(inputs, outputs, key=self.key()))

    def embedding(self, count: int, width: int) -> Part:
        return EqxOverSteps(eqx.nn.Embedding(count, width, key=self.key()))

    def positions(self, steps: int, width: int, token: bool) -> Part:
        return EqxPlain(*super().positions(steps, width, token))

    def attention(self, width: int, causal: bool) -> Part:
        biases = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        return EqxAttention(
            eqx.nn.MultiheadAttention(HEADS, width, key=self.key(), **biases), causal
        )

    def lstm(self, inputs: int, width: int) -> Part:
        return EqxLstm(eqx.nn.LSTMCell(inputs, width, key=self.key()))

    def max_pool(self, x: Any) -> Any:
        return eqx.nn.MaxPool2d(2, 2)(x)

    def upsample(self, x: Any) -> Any:
        return x.repeat(2, 1).repeat(2, 2)

    def tokens(self, x: Any) -> Any:
        return x.reshape(len(x), -1).T

    def channels_last(self, x: Any) -> Any:
        return jnp.moveaxis(x, 0, -1)

    def whole(self, model: Part) -> Part:
        def forward(parts: Any, x: Any) -> Any:
            return parts[0](jnp.moveaxis(x, -1, 0) if x.ndim == 3 else x)

        return self.join(forward, model)
