"""Residual networks for images."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Unchecked
from fnn.combinators.join import add
from fnn.combinators.parallel import parallel
from fnn.combinators.repeat import repeat
from fnn.combinators.residual import residual
from fnn.combinators.serial import serial
from fnn.layer import Layer
from fnn.layers.activation.piecewise import relu
from fnn.layers.conv.conv import conv
from fnn.layers.dense import dense
from fnn.layers.norm.batch_norm import batch_norm
from fnn.layers.pool.adaptive_pool import global_average_pool
from fnn.layers.pool.pool import max_pool

_HE = jax.nn.initializers.he_normal()
# The number of blocks in each stage by depth; from 50 on they have a bottleneck.
_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_BOTTLENECK = 50


@constructor
def resnet(
    depth: int | tuple[int, ...] = 18,
    classes: int = 1000,
    *,
    width: int = 64,
    bottleneck: bool | None = None,
    stem: Literal["imagenet", "cifar"] = "imagenet",
) -> Layer:
    """Residual network (ResNet): stages of residual blocks of convolutions, for images.

    Each stage after the first halves the size and doubles the width, by its first block; blocks
    that are alike run in one `fnn.repeat`. The stride of a bottleneck is that of its convolution
    over 3 x 3, and paddings are those of PyTorch, so that `fnn.from_torch` fills it with the
    weights of a ResNet of torchvision, running statistics included.

    Forward:   y = dense(mean over positions of stages(stem(x))); a block is
        relu(x + f(x)), f being convolutions with batch norms, x projected where the shape changes
    Backward:  that of the layers it is made of

    Args:
        depth: 18, 34, 50, 101 or 152; or the number of blocks of each stage.
        classes: K, the number of classes.
        width: the channels of the first stage, without the fourfold of a bottleneck.
        bottleneck: whether a block is convolutions over 1, 3 and 1, the last four times as wide, in
            place of two over 3; None for the usual one, which is True from depth 50 on.
        stem: ``"imagenet"``, a convolution over 7 x 7 and a max pool that quarter the size, or
            ``"cifar"``, one over 3 x 3 for small images.
    Shapes:    x (B, H, W, C), y (B, K) logits
    Saves:     what its layers save
    Raises:    InputError for another depth, stem or flag, for counts below 1, and as its layers do.
    Source:    He et al. 2015, arXiv:1512.03385, table 1 and figure 5.

    >>> import fnn, jax, jax.numpy as jnp
    >>> params, state = jax.eval_shape(resnet(18).init, jax.random.key(0), jnp.ones((1, 64, 64, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    11689512

    """
    blocks = _blocks_of(depth)
    check.count(classes, "classes")
    check.count(width, "width")
    if bottleneck is not None:
        check.flag(bottleneck, "bottleneck")
    check.one_of(stem, "stem", ("imagenet", "cifar"))
    if bottleneck is None:
        bottleneck = isinstance(depth, int) and depth >= _BOTTLENECK
    stages: list[Layer] = []
    before = width
    for i, count in enumerate(blocks):
        stage = _Block(width * 2**i, bool(bottleneck))
        stages.append(_stage(stage, count, before, 1 if i == 0 else 2))
        before = stage.outputs
    return serial(
        stem=_stem(width, stem),
        stages=serial(*stages),
        pool=global_average_pool(),
        head=dense(classes),
    )


class _Block(NamedTuple):
    """A kind of residual block.

    Args:
        width: the channels of its convolutions.
        bottleneck: whether it has three of them, the last four times as wide.

    """

    width: int
    bottleneck: bool

    @property
    def outputs(self) -> int:
        """The channels of what it makes."""
        return 4 * self.width if self.bottleneck else self.width

    def inside(self, stride: int) -> Layer:
        """Return f of ``relu(x + f(x))``."""
        if not self.bottleneck:
            first = _normed(self.width, 3, stride)
            return serial(*first, relu(), *_normed(self.width, 3))
        first, second = _normed(self.width, 1), _normed(self.width, 3, stride)
        return serial(*first, relu(), *second, relu(), *_normed(self.outputs, 1))


def _stage(block: _Block, count: int, before: int, stride: int) -> Layer:
    """Return blocks of one size, the first of which changes the shape where it has to."""
    kept = serial(residual(block.inside(1)), relu())
    first: list[Layer] = []
    if stride != 1 or before != block.outputs:
        around = serial(*_normed(block.outputs, 1, stride))
        both = parallel(inside=block.inside(stride), around=around)
        first = [serial(both, add(), relu())]
    left = count - len(first)
    return serial(*first, *([repeat(kept, left)] if left else []))


def _stem(width: int, kind: str) -> Layer:
    """Return what makes the first channels."""
    if kind == "cifar":
        return serial(*_normed(width, 3), relu())
    return serial(*_normed(width, 7, 2), relu(), max_pool(3, stride=2, padding=1))


def _normed(channels: int, kernel: int, stride: int = 1) -> tuple[Layer, Layer]:
    """Return a convolution and its batch norm."""
    padding = kernel // 2
    made = conv(channels, kernel, stride=stride, padding=padding, bias=False, initializer=_HE)
    return made, batch_norm()


def _blocks_of(depth: Unchecked) -> tuple[int, ...]:
    """Return the number of blocks of each stage."""
    if isinstance(depth, tuple) and depth:
        for count in depth:
            check.count(count, "blocks of a stage")
        return depth
    if isinstance(depth, bool) or not isinstance(depth, int) or depth not in _BLOCKS:
        known = ", ".join(map(str, _BLOCKS))
        remedy = "pass one of these, or the number of blocks of each stage, as in (2, 2)"
        raise InputError(f"a depth of {known}", describe(depth), remedy)
    return _BLOCKS[depth]
