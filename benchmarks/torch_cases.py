"""The layers and losses of fnn that PyTorch has too, each with its module, at two sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import fnn

Shape = tuple[int, ...]
Inputs = Callable[[np.random.Generator, Shape], Any]
SMALL, LARGE = (256, 512), (4096, 512)
IMAGES = ((16, 14, 14, 64), (64, 28, 28, 64))
FEW_CHANNELS = ((16, 14, 14, 32), (64, 28, 28, 32))
ONE_CHANNEL = ((16, 28, 28, 1), (128, 28, 28, 1))
SMALL_IMAGES = ((16, 7, 7, 64), (64, 14, 14, 64))
VOLUMES = ((2, 8, 8, 8, 16), (4, 16, 16, 16, 16))
LINES = ((16, 100, 64), (64, 200, 64))
STEPS = ((16, 50, 64), (64, 50, 128))
WINDOWS = ((4, 128, 256), (2, 1024, 256))
CLASSES, HEADS, UNITS = 8192, 8, 256


def numbers(random: np.random.Generator, shape: Shape) -> Any:
    return random.normal(size=shape).astype(np.float32)


def no_products(shape: Shape) -> float:
    del shape
    return 0.0


def run(module: Any, *x: torch.Tensor) -> Any:
    return module(*x)


class Case(NamedTuple):
    """A layer or loss of fnn and its twin.

    `module` makes PyTorch's for the shape of x, None for what is a function; `call` runs it on the
    leaves of x. `products` counts the operations of the matrix products of a forward pass. Of a
    loss x is the pair of prediction and target, and `call` returns the mean over examples; with a
    `head` the prediction is what the head makes of the features.
    """

    family: str
    name: str
    layer: Any
    module: Callable[[Shape], Any]
    sizes: tuple[Shape, Shape] = (SMALL, LARGE)
    products: Callable[[Shape], float] = no_products
    x: Inputs = numbers
    call: Callable[..., Any] = run
    head: Any = None


def of_conv(
    channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> Callable[[Shape], float]:
    """Count the operations of a convolution that divides every axis by its stride."""

    def count(shape: Shape) -> float:
        axes = len(shape) - 2
        positions = shape[0] * math.prod(size // stride for size in shape[1:-1])
        return 2.0 * positions * kernel**axes * shape[-1] // groups * channels

    return count


def of_dense(*widths: int) -> Callable[[Shape], float]:
    """Count the operations of dense layers in turn; x has the first of the widths."""
    pairs = sum(a * b for a, b in itertools.pairwise(widths))
    return lambda shape: 2.0 * math.prod(shape[:-1]) * pairs


def of_recurrence(gates: int, inputs: int | None = None) -> Callable[[Shape], float]:
    width = UNITS * gates
    return lambda shape: (
        2.0 * math.prod(shape[:-1]) * ((inputs or shape[-1]) * width + UNITS * width)
    )


def of_attention(causal: bool, mlp: bool = False) -> Callable[[Shape], float]:
    """Count four projections, scores and averages, half of them if causal, and an MLP."""

    def count(shape: Shape) -> float:
        batch, steps, width = shape
        seen = steps / 2 if causal else steps
        matrices = 12 if mlp else 4
        return 2.0 * batch * steps * (matrices * width**2 + 2 * seen * width)

    return count


class SelfAttention(nn.MultiheadAttention):
    """Attention by the fused kernel, with the weights of a MultiheadAttention."""

    def __init__(self, width: int, causal: bool):
        super().__init__(width, HEADS, batch_first=True)
        self.causal = causal

    def forward(self, x: Any) -> Any:
        inside = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = inside.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Block(nn.TransformerEncoderLayer):
    """A causal transformer block around it, norms first."""

    def __init__(self, width: int):
        super().__init__(width, HEADS, 4 * width, 0.0, nn.GELU(), batch_first=True)
        self.self_attn = SelfAttention(width, causal=True)

    def forward(self, x: Any) -> Any:
        x = x + self.self_attn(self.norm1(x))
        return x + self.linear2(functional.gelu(self.linear1(self.norm2(x))))


class Gated(nn.Module):
    """The gate of a Llama."""

    def __init__(self, activation: Callable[[Any], Any]):
        super().__init__()
        self.gate_proj = nn.Linear(512, 512, bias=False)
        self.up_proj = nn.Linear(512, 512, bias=False)
        self.activation = activation

    def forward(self, x: Any) -> Any:
        return self.activation(self.gate_proj(x)) * self.up_proj(x)


def activations() -> list[Case]:
    modules: dict[str, tuple[Any, Any]] = {
        "sigmoid": (fnn.sigmoid(), nn.Sigmoid),
        "tanh": (fnn.tanh(), nn.Tanh),
        "relu": (fnn.relu(), nn.ReLU),
        "leaky_relu": (fnn.leaky_relu(0.01), nn.LeakyReLU),
        "elu": (fnn.elu(), nn.ELU),
        "selu": (fnn.selu(), nn.SELU),
        "gelu": (fnn.gelu(), nn.GELU),
        "gelu approximate": (fnn.gelu(approximate=True), lambda: nn.GELU("tanh")),
        "silu": (fnn.silu(), nn.SiLU),
        "mish": (fnn.mish(), nn.Mish),
        "softplus": (fnn.softplus(), nn.Softplus),
        "relu6": (fnn.relu6(), nn.ReLU6),
        "hard_sigmoid": (fnn.hard_sigmoid(), nn.Hardsigmoid),
        "hard_silu": (fnn.hard_silu(), nn.Hardswish),
        "hard_tanh": (fnn.hard_tanh(), nn.Hardtanh),
    }
    return [
        Case("activations", name, layer, lambda shape, module=module: module())
        for name, (layer, module) in modules.items()
    ]


def gates() -> list[Case]:
    products = of_dense(512, 1024)
    return [
        Case("gates", "prelu", fnn.prelu(), lambda shape: nn.PReLU(shape[-1])),
        Case("gates", "glu", fnn.glu(), lambda shape: nn.GLU()),
        Case("gates", "geglu", fnn.geglu(512), lambda shape: Gated(functional.gelu),
             products=products),
        Case("gates", "swiglu", fnn.swiglu(512), lambda shape: Gated(functional.silu),
             products=products),
        Case("softmax", "softmax", fnn.softmax(), lambda shape: nn.Softmax(-1)),
        Case("softmax", "log_softmax", fnn.log_softmax(), lambda shape: nn.LogSoftmax(-1)),
        Case("noise", "dropout", fnn.dropout(0.3), lambda shape: nn.Dropout(0.3)),
        Case("noise", "spatial_dropout", fnn.spatial_dropout(0.3), lambda shape: nn.Dropout2d(0.3),
             IMAGES),
    ]  # fmt: skip


def norms() -> list[Case]:
    name = "normalization"
    return [
        Case(name, "batch_norm", fnn.batch_norm(), lambda shape: nn.BatchNorm1d(shape[-1])),
        Case(name, "batch_norm images", fnn.batch_norm(), lambda shape: nn.BatchNorm2d(shape[-1]),
             IMAGES),
        Case(name, "layer_norm", fnn.layer_norm(), lambda shape: nn.LayerNorm(shape[-1])),
        Case(name, "rms_norm", fnn.rms_norm(), lambda shape: nn.RMSNorm(shape[-1], eps=1e-5)),
        Case(name, "group_norm", fnn.group_norm(8), lambda shape: nn.GroupNorm(8, shape[-1]),
             IMAGES),
        Case(name, "instance_norm", fnn.instance_norm(),
             lambda shape: nn.InstanceNorm2d(shape[-1], affine=True), IMAGES),
    ]  # fmt: skip


def convolutions() -> list[Case]:
    """Convolutions of images and sequences; paddings are those that both libraries have."""
    name = "convolution"
    return [
        Case(name, "conv 3x3", fnn.conv(64, 3), lambda shape: nn.Conv2d(shape[-1], 64, 3, 1, 1),
             FEW_CHANNELS, of_conv(64, 3)),
        Case(name, "conv 3x3 of one channel", fnn.conv(32, 3),
             lambda shape: nn.Conv2d(1, 32, 3, 1, 1), ONE_CHANNEL, of_conv(32, 3)),
        Case(name, "conv 1x1", fnn.conv(64, 1), lambda shape: nn.Conv2d(shape[-1], 64, 1),
             FEW_CHANNELS, of_conv(64, 1)),
        Case(name, "conv 5x5 stride 2", fnn.conv(64, 5, stride=2, padding=2),
             lambda shape: nn.Conv2d(shape[-1], 64, 5, 2, 2), FEW_CHANNELS, of_conv(64, 5, 2)),
        Case(name, "conv 3x3 in 4 groups", fnn.conv(64, 3, groups=4),
             lambda shape: nn.Conv2d(shape[-1], 64, 3, 1, 1, groups=4), FEW_CHANNELS,
             of_conv(64, 3, groups=4)),
        Case(name, "depthwise_conv 3x3", fnn.depthwise_conv(3),
             lambda shape: nn.Conv2d(shape[-1], shape[-1], 3, 1, 1, groups=shape[-1]),
             FEW_CHANNELS, of_conv(1, 3)),
        Case(name, "conv_transpose 2x2 stride 2", fnn.conv_transpose(32, 2, stride=2),
             lambda shape: nn.ConvTranspose2d(shape[-1], 32, 2, 2), SMALL_IMAGES, of_conv(32, 2)),
        Case(name, "conv of 3 in 1 dimension", fnn.conv(64, 3),
             lambda shape: nn.Conv1d(shape[-1], 64, 3, 1, 1), LINES, of_conv(64, 3)),
        Case(name, "conv of 3 in 3 dimensions", fnn.conv(16, 3),
             lambda shape: nn.Conv3d(shape[-1], 16, 3, 1, 1), VOLUMES, of_conv(16, 3)),
    ]  # fmt: skip


def pools() -> list[Case]:
    """Pools and upsampling, windows inside of the image."""
    valid: dict[str, Any] = {"stride": 2, "padding": "VALID"}
    modules: dict[str, tuple[Any, Callable[[], Any], Any]] = {
        "max_pool 2x2": (fnn.max_pool(2), lambda: nn.MaxPool2d(2), IMAGES),
        "max_pool 3x3 stride 2": (fnn.max_pool(3, **valid), lambda: nn.MaxPool2d(3, 2), IMAGES),
        "average_pool 2x2": (fnn.average_pool(2), lambda: nn.AvgPool2d(2), IMAGES),
        "average_pool 3x3 stride 2": (
            fnn.average_pool(3, **valid), lambda: nn.AvgPool2d(3, 2), IMAGES,
        ),
        "global_average_pool": (
            fnn.global_average_pool(),
            lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGES,
        ),
        "global_max_pool": (
            fnn.global_max_pool(),
            lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()), IMAGES,
        ),
        "adaptive_average_pool 7x7": (
            fnn.adaptive_average_pool(7), lambda: nn.AdaptiveAvgPool2d(7), IMAGES,
        ),
        "adaptive_max_pool 7x7": (
            fnn.adaptive_max_pool(7), lambda: nn.AdaptiveMaxPool2d(7), IMAGES,
        ),
        "upsample nearest": (fnn.upsample(2), lambda: nn.Upsample(scale_factor=2), SMALL_IMAGES),
        "upsample linear": (
            fnn.upsample(2, method="linear"),
            lambda: nn.Upsample(scale_factor=2, mode="bilinear"), SMALL_IMAGES,
        ),
    }  # fmt: skip
    return [
        Case("resizing" if "upsample" in name else "pooling", name, layer,
             lambda shape, module=module: module(), sizes)
        for name, (layer, module, sizes) in modules.items()
    ]  # fmt: skip


def carried(parts: int) -> Inputs:
    """Draw what a cell takes: the carry of an array or a pair of them, and x."""

    def draw(random: np.random.Generator, shape: Shape) -> Any:
        carry = tuple(numbers(random, (shape[0], UNITS)) for _ in range(parts))
        return (carry if parts > 1 else carry[0]), numbers(random, shape)

    return draw


def lstm_step(module: Any, h: torch.Tensor, c: torch.Tensor, x: torch.Tensor) -> Any:
    new_h, new_c = module(x, (h, c))
    return new_h, new_c, new_h


def cell_step(module: Any, h: torch.Tensor, x: torch.Tensor) -> Any:
    new = module(x, h)
    return new, new


def recurrences() -> list[Case]:
    """Recurrent layers over 50 time steps, and one step of their cells."""
    kinds = {"rnn": (nn.RNN, nn.RNNCell, 1), "lstm": (nn.LSTM, nn.LSTMCell, 4),
             "gru": (nn.GRU, nn.GRUCell, 3)}  # fmt: skip
    cases = []
    for name, (whole, cell, gates) in kinds.items():
        cases.append(
            Case("recurrent", name, getattr(fnn, name)(UNITS),
                 lambda shape, whole=whole: whole(shape[-1], UNITS, batch_first=True), STEPS,
                 of_recurrence(gates), call=lambda module, x: module(x)[0])
        )  # fmt: skip
        parts = 2 if name == "lstm" else 1
        cases.append(
            Case("recurrent", f"{name}_cell", getattr(fnn, f"{name}_cell")(UNITS),
                 lambda shape, cell=cell: cell(shape[-1], UNITS), ((64, 128), (1024, 128)),
                 of_recurrence(gates), carried(parts),
                 lstm_step if parts > 1 else cell_step)
        )  # fmt: skip
    return cases


def transformers() -> list[Case]:
    return [
        Case("dense", "dense", fnn.dense(512), lambda shape: nn.Linear(shape[-1], 512),
             products=of_dense(512, 512)),
        Case("attention", "attention of 8 heads", fnn.attention(HEADS),
             lambda shape: SelfAttention(shape[-1], causal=False), WINDOWS, of_attention(False)),
        Case("attention", "attention causal", fnn.attention(HEADS, causal=True),
             lambda shape: SelfAttention(shape[-1], causal=True), WINDOWS, of_attention(True)),
        Case("attention", "transformer_block causal", fnn.transformer_block(HEADS, causal=True),
             lambda shape: Block(shape[-1]), WINDOWS, of_attention(True, mlp=True)),
        Case("attention", "mlp", fnn.mlp(),
             lambda shape: nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)),
             WINDOWS, of_dense(256, 1024, 256)),
        Case("embedding", "embedding", fnn.embedding(CLASSES, 256),
             lambda shape: nn.Embedding(CLASSES, 256), ((256,), (64, 256)), x=tokens),
    ]  # fmt: skip


def tokens(random: np.random.Generator, shape: Shape) -> Any:
    return random.integers(CLASSES, size=shape).astype(np.int32)


def with_target(target: Inputs, prediction: Inputs = numbers) -> Inputs:
    return lambda random, shape: (prediction(random, shape), target(random, shape))


def labels(random: np.random.Generator, shape: Shape) -> Any:
    return random.integers(shape[-1], size=shape[:-1]).astype(np.int32)


def bits(random: np.random.Generator, shape: Shape) -> Any:
    return random.integers(2, size=shape).astype(np.float32)


def signs(random: np.random.Generator, shape: Shape) -> Any:
    return 2 * bits(random, shape) - 1


def counts(random: np.random.Generator, shape: Shape) -> Any:
    return random.poisson(size=shape).astype(np.float32)


def distributions(random: np.random.Generator, shape: Shape) -> Any:
    return random.dirichlet(np.ones(shape[-1]), size=shape[:-1]).astype(np.float32)


def log_probabilities(random: np.random.Generator, shape: Shape) -> Any:
    y = numbers(random, shape)
    return y - np.log(np.exp(y).sum(-1, keepdims=True))


def class_labels(random: np.random.Generator, shape: Shape) -> Any:
    return labels(random, (*shape[:-1], CLASSES))


def spelled(random: np.random.Generator, shape: Shape) -> Any:
    """Draw labels of a sequence, one for four time steps; class 0 is the blank."""
    return random.integers(1, shape[-1], size=(shape[0], shape[1] // 4)).astype(np.int32)


def ctc(module: Any, y: torch.Tensor, target: torch.Tensor) -> Any:
    del module
    (examples, steps, _), length = y.shape, target.shape[1]
    log_p = functional.log_softmax(y, -1).transpose(0, 1)
    own = [torch.full((examples,), count) for count in (steps, length)]
    return functional.ctc_loss(log_p, target, *own, reduction="sum") / examples


def of_sum(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Call a function of PyTorch for the sum over everything, and divide it by the examples."""
    return lambda module, y, t: function(y, t, reduction="sum", **options) / len(y)


def head_loss(module: Any, x: torch.Tensor, target: torch.Tensor) -> Any:
    return functional.cross_entropy(module(x), target)


def losses() -> list[Case]:
    """Losses as means over the examples, and their gradients."""
    f, own = functional, fnn.losses
    functions: dict[str, tuple[Any, Inputs, Callable[..., Any]]] = {
        "cross_entropy": (
            own.cross_entropy(), with_target(labels), lambda m, y, t: f.cross_entropy(y, t),
        ),
        "cross_entropy smoothed": (
            own.cross_entropy(0.1), with_target(labels),
            lambda m, y, t: f.cross_entropy(y, t, label_smoothing=0.1),
        ),
        "nll": (
            own.nll(), with_target(labels, log_probabilities), lambda m, y, t: f.nll_loss(y, t),
        ),
        "kl_divergence": (
            own.kl_divergence(), with_target(distributions),
            lambda m, y, t: f.kl_div(f.log_softmax(y, -1), t, reduction="batchmean"),
        ),
        "multiclass_hinge": (
            own.multiclass_hinge(), with_target(labels),
            lambda m, y, t: y.shape[-1] * f.multi_margin_loss(y, t),
        ),
        "binary_cross_entropy": (
            own.binary_cross_entropy(), with_target(bits),
            of_sum(f.binary_cross_entropy_with_logits),
        ),
        "logistic": (own.logistic(), with_target(signs), of_sum(f.soft_margin_loss)),
        "squared_error": (own.squared_error(), with_target(numbers), of_sum(f.mse_loss)),
        "absolute_error": (own.absolute_error(), with_target(numbers), of_sum(f.l1_loss)),
        "huber": (own.huber(), with_target(numbers), of_sum(f.huber_loss)),
        "poisson": (own.poisson(), with_target(counts), of_sum(f.poisson_nll_loss, log_input=True)),
        "cosine_distance": (
            own.cosine_distance(), with_target(numbers),
            lambda m, y, t: 1 - f.cosine_similarity(y, t, -1).mean(),
        ),
    }  # fmt: skip
    cases = [
        Case("losses", name, loss, lambda shape: None, x=x, call=call)
        for name, (loss, x, call) in functions.items()
    ]
    ctc_sizes = ((8, 40, 32), (32, 100, 64))
    head = Case(
        "heads", "linear_head, linear_cross_entropy", own.linear_cross_entropy(),
        lambda shape: nn.Linear(shape[-1], CLASSES), ((256, 256), (1024, 256)),
        of_dense(256, CLASSES), with_target(class_labels), head_loss, fnn.linear_head(CLASSES),
    )  # fmt: skip
    return [
        *cases,
        Case(
            "losses",
            "ctc",
            own.ctc(),
            lambda shape: None,
            ctc_sizes,
            x=with_target(spelled),
            call=ctc,
        ),
        head,
    ]


CASES = [
    *transformers(), *activations(), *gates(), *norms(), *convolutions(), *pools(), *recurrences(),
    *losses(),
]  # fmt: skip


def x_of(case: Case, shape: Shape) -> Any:
    """Draw the input of a case, in numpy."""
    return case.x(np.random.default_rng(0), shape)
