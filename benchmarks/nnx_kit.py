"""The parts of Flax NNX that the networks of networks.py are made of.

See network_peers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from network_peers import HEADS, Forward, Part, PlainKit, with_positions


class NnxJoined(nnx.Module):
    """Parts that a function puts together."""

    def __init__(self, forward: Forward, parts: Sequence[Part]):
        self.forward, self.parts = forward, nnx.List(parts)

    def __call__(self, x: Any) -> Any:
        return self.forward(self.parts, x)


class NnxPositions(nnx.Module):
    """Positions, and a class token, that are learned."""

    def __init__(self, steps: int, width: int, token: bool):
        self.positions = nnx.Param(0.02 * jax.random.normal(jax.random.key(0), (steps, width)))
        self.token = nnx.Param(jnp.zeros((int(token), width)))

    def __call__(self, x: Any) -> Any:
        return with_positions((self.positions[...], self.token[...]), x)


class NnxAttention(nnx.Module):
    """Attention of a sequence to itself."""

    def __init__(self, width: int, causal: bool, rngs: Any):
        self.inside = nnx.MultiHeadAttention(HEADS, width, decode=False, rngs=rngs)
        self.causal = causal

    def __call__(self, x: Any) -> Any:
        mask = nnx.make_causal_mask(x[..., 0]) if self.causal else None
        return self.inside(x, mask=mask)


class NnxKit(PlainKit):
    """Flax NNX: channels last as in plain JAX, and its functions where NNX has none."""

    def __init__(self) -> None:
        super().__init__()
        self.rngs = nnx.Rngs(0)

    def join(self, forward: Forward, *parts: Part) -> Part:
        return NnxJoined(forward, parts)

    def size_of(self, model: Part) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

    def conv(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True
    ) -> Part:
        padding = "VALID" if kernel == stride else kernel // 2
        return nnx.Conv(
            inputs, outputs, (kernel, kernel), stride, padding=padding, use_bias=bias,
            rngs=self.rngs,
        )  # fmt: skip

    def batch_norm(self, width: int) -> Part:
        return nnx.BatchNorm(width, rngs=self.rngs)

    def layer_norm(self, width: int) -> Part:
        return nnx.LayerNorm(width, rngs=self.rngs)

    def dense(self, inputs: int, outputs: int) -> Part:
        return nnx.Linear(inputs, outputs, rngs=self.rngs)

    def embedding(self, count: int, width: int) -> Part:
        return nnx.Embed(count, width, rngs=self.rngs)

    def positions(self, steps: int, width: int, token: bool) -> Part:
        return NnxPositions(steps, width, token)

    def attention(self, width: int, causal: bool) -> Part:
        return NnxAttention(width, causal, self.rngs)

    def lstm(self, inputs: int, width: int) -> Part:
        return nnx.RNN(nnx.OptimizedLSTMCell(inputs, width, rngs=self.rngs))

    def max_pool(self, x: Any) -> Any:
        return nnx.max_pool(x, (2, 2), (2, 2))
