"""The networks of networks.py in other libraries: each written once, of the parts of a library.

A library is a kit of parts as its users take them; a network is a function of a kit. Those of what
may not be installed stand in nnx_kit.py and equinox_kit.py. Images are channels last on the way in
and out, inside they are as the library has them. What Equinox and plain JAX call batch norm has no
running statistics here, which is a little less work than the others do.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import torch
from loops import Batches, Loop, LossName, equinox_loop, jax_loop, nnx_loop, torch_loop
from torch_cases import SelfAttention

Part = Any
Forward = Callable[[Sequence[Callable[[Any], Any]], Any], Any]
HEADS = 8
EPSILON = 1e-5


class Plain(NamedTuple):
    """A part in plain JAX: a function, and the parameters it takes."""

    params: Any
    apply: Callable[[Any, Any], Any]


class PlainKit:
    """Plain JAX: parameters in lists, functions of `jax.nn` and `jax.lax`."""

    channel_axis, image_axes = -1, (-3, -2)
    relu = staticmethod(jax.nn.relu)
    # As PyTorch's and ours, not the approximation.
    gelu = staticmethod(functools.partial(jax.nn.gelu, approximate=False))

    def __init__(self) -> None:
        self.count = 0

    def draw(self, *shape: int) -> Any:
        self.count += 1
        inputs = math.prod(shape[:-1])
        return jax.random.normal(jax.random.key(self.count), shape) / inputs**0.5

    def join(self, forward: Forward, *parts: Part) -> Part:
        def apply(params: Any, x: Any) -> Any:
            pairs = zip(parts, params, strict=True)
            return forward([functools.partial(part.apply, p) for part, p in pairs], x)

        return Plain([part.params for part in parts], apply)

    def whole(self, model: Part) -> Part:
        return model

    def size_of(self, model: Part) -> int:
        """Return the number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(model.params))

    def conv(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True
    ) -> Part:
        params = [self.draw(kernel, kernel, inputs, outputs), *([jnp.zeros(outputs)] * bias)]
        axes = ("NHWC", "HWIO", "NHWC")
        padding = "VALID" if kernel == stride else [(kernel // 2, kernel // 2)] * 2

        def apply(params: Any, x: Any) -> Any:
            y = jax.lax.conv_general_dilated(
                x, params[0], (stride, stride), padding, dimension_numbers=axes
            )
            return y + params[1] if bias else y

        return Plain(params, apply)

    def batch_norm(self, width: int) -> Part:
        return self.norm(width, (0, 1, 2))

    def layer_norm(self, width: int) -> Part:
        return self.norm(width, -1)

    def norm(self, width: int, axes: Any) -> Part:
        def apply(params: Any, x: Any) -> Any:
            return jax.nn.standardize(x, axes, epsilon=EPSILON) * params[0] + params[1]

        return Plain([jnp.ones(width), jnp.zeros(width)], apply)

    def dense(self, inputs: int, outputs: int) -> Part:
        params = [self.draw(inputs, outputs), jnp.zeros(outputs)]
        return Plain(params, lambda params, x: x @ params[0] + params[1])

    def embedding(self, count: int, width: int) -> Part:
        return Plain(self.draw(count, width), lambda params, x: params[x])

    def positions(self, steps: int, width: int, token: bool) -> Part:
        params = [self.draw(steps, width), self.draw(1, width) if token else jnp.zeros((0, width))]
        return Plain(params, with_positions)

    def attention(self, width: int, causal: bool) -> Part:
        params = [self.draw(width, 3 * width), jnp.zeros(3 * width)]
        params += [self.draw(width, width), jnp.zeros(width)]

        def apply(params: Any, x: Any) -> Any:
            w, b, out, c = params
            inside = (x @ w + b).reshape(*x.shape[:2], 3, HEADS, -1)
            q, k, v = jnp.moveaxis(inside, 2, 0)
            y = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
            return y.reshape(x.shape) @ out + c

        return Plain(params, apply)

    def lstm(self, inputs: int, width: int) -> Part:
        params = [self.draw(inputs, 4 * width), self.draw(width, 4 * width), jnp.zeros(4 * width)]

        def apply(params: Any, x: Any) -> Any:
            w, u, b = params

            def step(carry: Any, projected: Any) -> Any:
                h, c = carry
                i, f, g, o = jnp.split(projected + h @ u, 4, -1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            zeros = jnp.zeros((x.shape[0], width))
            _, h = jax.lax.scan(step, (zeros, zeros), jnp.swapaxes(x @ w + b, 0, 1))
            return jnp.swapaxes(h, 0, 1)

        return Plain(params, apply)

    def max_pool(self, x: Any) -> Any:
        shape = (1, 2, 2, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, shape, shape, "VALID")

    def upsample(self, x: Any) -> Any:
        return x.repeat(2, 1).repeat(2, 2)

    def concatenate(self, *x: Any) -> Any:
        return jnp.concatenate(x, self.channel_axis)

    def tokens(self, x: Any) -> Any:
        """Give images their positions as time steps."""
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def channels_last(self, x: Any) -> Any:
        return x


def with_positions(params: Any, x: Any) -> Any:
    positions, token = params
    if len(token):
        x = jnp.concatenate([jnp.broadcast_to(token, (*x.shape[:-2], 1, x.shape[-1])), x], -2)
    return x + positions


class TorchJoined(torch.nn.Module):
    """Parts that a function puts together."""

    def __init__(self, joined: Forward, parts: Sequence[Part]):
        super().__init__()
        self.joined, self.parts = joined, torch.nn.ModuleList(parts)

    def forward(self, x: Any) -> Any:
        return self.joined(self.parts, x)


class TorchPositions(torch.nn.Module):
    """Positions, and a class token, that are learned."""

    def __init__(self, steps: int, width: int, token: bool):
        super().__init__()
        self.positions = torch.nn.Parameter(0.02 * torch.randn(steps, width))
        self.token = torch.nn.Parameter(torch.zeros(1, 1, width)) if token else None

    def forward(self, x: Any) -> Any:
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return x + self.positions


class TorchLstm(torch.nn.LSTM):
    """An LSTM that returns its hidden states alone."""

    def forward(self, x: Any) -> Any:
        return super().forward(x)[0]


class TorchKit:
    """PyTorch: channels second, in memory last."""

    image_axes = (-2, -1)
    relu, gelu = staticmethod(torch.relu), staticmethod(torch.nn.functional.gelu)
    dense, embedding = torch.nn.Linear, torch.nn.Embedding
    batch_norm, layer_norm = torch.nn.BatchNorm2d, torch.nn.LayerNorm
    positions, attention = TorchPositions, SelfAttention

    def join(self, forward: Forward, *parts: Part) -> Part:
        return TorchJoined(forward, parts)

    def whole(self, model: Part) -> Part:
        # What comes in has its channels last in memory already.
        def forward(parts: Any, x: Any) -> Any:
            return parts[0](x.permute(0, 3, 1, 2) if x.ndim == 4 else x)

        return self.join(forward, model).to(memory_format=torch.channels_last)

    def size_of(self, model: Part) -> int:
        # The second bias of an LSTM does nothing that the first does not.
        own = [p.numel() for name, p in model.named_parameters() if "bias_hh" not in name]
        return sum(own)

    def conv(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True
    ) -> Part:
        padding = 0 if kernel == stride else kernel // 2
        return torch.nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias)

    def lstm(self, inputs: int, width: int) -> Part:
        return TorchLstm(inputs, width, batch_first=True)

    def max_pool(self, x: Any) -> Any:
        return torch.nn.functional.max_pool2d(x, 2)

    def upsample(self, x: Any) -> Any:
        return torch.nn.functional.interpolate(x, scale_factor=2)

    def concatenate(self, *x: Any) -> Any:
        return torch.cat(x, 1)

    def tokens(self, x: Any) -> Any:
        return x.flatten(2).transpose(1, 2)

    def channels_last(self, x: Any) -> Any:
        return x.permute(0, 2, 3, 1)


def in_turn(parts: Any, x: Any) -> Any:
    for part in parts:
        x = part(x)
    return x


def normed(kit: Any, inputs: int, outputs: int, kernel: int, stride: int = 1) -> Part:
    conv = kit.conv(inputs, outputs, kernel, stride, bias=False)
    return kit.join(in_turn, conv, kit.batch_norm(outputs))


def residual_block(kit: Any, inputs: int, outputs: int, stride: int) -> Part:
    parts = [normed(kit, inputs, outputs, 3, stride), normed(kit, outputs, outputs, 3)]
    if inputs == outputs:
        return kit.join(lambda parts, x: kit.relu(x + rectified(kit, parts, x)), *parts)

    def forward(parts: Any, x: Any) -> Any:
        return kit.relu(parts[2](x) + rectified(kit, parts[:2], x))

    return kit.join(forward, *parts, normed(kit, inputs, outputs, 1, stride))


def rectified(kit: Any, parts: Any, x: Any) -> Any:
    return parts[1](kit.relu(parts[0](x)))


def residual_network(kit: Any, width: int, stages: int, classes: int) -> Part:
    """Stages of two blocks, each of half the size and twice the channels of the one before."""
    blocks, before = [], width
    for i in range(stages):
        outputs = width * 2**i
        blocks.append(residual_block(kit, before, outputs, 1 + (i > 0)))
        blocks.append(residual_block(kit, outputs, outputs, 1))
        before = outputs

    def forward(parts: Any, x: Any) -> Any:
        stem, *between, head = parts
        return head(in_turn(between, kit.relu(stem(x))).mean(kit.image_axes))

    return kit.join(forward, normed(kit, 3, width, 3), *blocks, kit.dense(before, classes))


def unet(kit: Any, channels: int, depth: int, classes: int) -> Part:
    def forward(parts: Any, x: Any) -> Any:
        return kit.channels_last(in_turn(parts, x))

    return kit.join(forward, level(kit, 1, channels, depth), kit.conv(channels, classes, 1))


def level(kit: Any, inputs: int, channels: int, depth: int) -> Part:
    """Make a convolution, deeper levels beside a way around them, and a convolution again."""
    first = kit.conv(inputs, channels, 3)
    if not depth:
        return kit.join(lambda parts, x: kit.relu(parts[0](x)), first)

    def forward(parts: Any, x: Any) -> Any:
        first, below, last = parts
        around = kit.relu(first(x))
        deep = kit.upsample(below(kit.max_pool(around)))
        return kit.relu(last(kit.concatenate(around, deep)))

    below = level(kit, channels, 2 * channels, depth - 1)
    return kit.join(forward, first, below, kit.conv(3 * channels, channels, 3))


def perceptron(kit: Any, width: int, hidden: int) -> Part:
    def forward(parts: Any, x: Any) -> Any:
        return parts[1](kit.gelu(parts[0](x)))

    return kit.join(forward, kit.dense(width, hidden), kit.dense(hidden, width))


def normed_first(kit: Any, width: int, inside: Part) -> Part:
    """Make a residual connection around a part with a layer norm in front."""
    return kit.join(lambda parts, x: x + parts[1](parts[0](x)), kit.layer_norm(width), inside)


def blocks(kit: Any, width: int, depth: int, causal: bool) -> list[Part]:
    parts = []
    for _ in range(depth):
        parts.append(normed_first(kit, width, kit.attention(width, causal)))
        parts.append(normed_first(kit, width, perceptron(kit, width, 4 * width)))
    return parts


def patches(kit: Any, width: int, patch: int) -> Part:
    conv = kit.conv(3, width, patch, patch)
    return kit.join(lambda parts, x: kit.tokens(parts[0](x)), conv)


def vit(kit: Any, image: int, patch: int, width: int, depth: int, classes: int) -> Part:
    steps = (image // patch) ** 2 + 1

    def forward(parts: Any, x: Any) -> Any:
        *before, head = parts
        return head(in_turn(before, x)[..., 0, :])

    return kit.join(
        forward, patches(kit, width, patch), kit.positions(steps, width, True),
        *blocks(kit, width, depth, False), kit.layer_norm(width), kit.dense(width, classes),
    )  # fmt: skip


def gpt(kit: Any, vocabulary: int, steps: int, width: int, depth: int) -> Part:
    return kit.join(
        in_turn, kit.embedding(vocabulary, width), kit.positions(steps, width, False),
        *blocks(kit, width, depth, True), kit.layer_norm(width), kit.dense(width, vocabulary),
    )  # fmt: skip


def lstm(kit: Any, vocabulary: int, inputs: int, width: int) -> Part:
    return kit.join(
        in_turn, kit.embedding(vocabulary, inputs), kit.lstm(inputs, width),
        kit.dense(width, vocabulary),
    )  # fmt: skip


def mixer(kit: Any, image: int, patch: int, width: int, depth: int, classes: int) -> Part:
    """MLP-mixer: perceptrons over the patches and over the channels in turn."""
    steps = (image // patch) ** 2

    def over_patches(parts: Any, x: Any) -> Any:
        return parts[0](x.swapaxes(-1, -2)).swapaxes(-1, -2)

    parts = []
    for _ in range(depth):
        mixing = kit.join(over_patches, perceptron(kit, steps, 2 * steps))
        parts.append(normed_first(kit, width, mixing))
        parts.append(normed_first(kit, width, perceptron(kit, width, 4 * width)))

    def forward(parts: Any, x: Any) -> Any:
        *before, head = parts
        return head(in_turn(before, x).mean(-2))

    return kit.join(
        forward, patches(kit, width, patch), *parts, kit.layer_norm(width),
        kit.dense(width, classes),
    )  # fmt: skip


def autoencoder(kit: Any, widths: Sequence[int]) -> Part:
    def forward(parts: Any, x: Any) -> Any:
        for part in parts[:-1]:
            x = kit.relu(part(x))
        return parts[-1](x)

    pairs = itertools.pairwise(widths)
    return kit.join(forward, *(kit.dense(inputs, outputs) for inputs, outputs in pairs))


def plain_loop(model: Plain, rate: float, batches: Batches, loss_name: LossName) -> Loop:
    return jax_loop(model.apply, model.params, rate, batches, loss_name)


def nnx_kit() -> Any:
    return importlib.import_module("nnx_kit").NnxKit()


def equinox_kit() -> Any:
    return importlib.import_module("equinox_kit").EquinoxKit()


KITS: dict[str, tuple[Callable[[], Any], Callable[..., Loop]]] = {
    "plain jax": (PlainKit, plain_loop),
    "flax nnx": (nnx_kit, nnx_loop),
    "equinox": (equinox_kit, equinox_loop),
    "pytorch": (TorchKit, torch_loop),
}
