"""A ResNet-18 and a vision transformer made in PyTorch: the same logits and gradients here."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

import fnn
from fnn import networks
from tests.layers.test_laws import assert_close

random = np.random.default_rng(3)
CLASSES, WIDTH, SIZE = 5, 4, 32
# Roundings of one layer after the other add up: each counts as a sum of the longest.
LONGEST = 9 * 8 * WIDTH


def images(size=SIZE):
    return random.normal(size=(2, size, size, 3)).astype("float32")


class Block(nn.Module):
    """A residual block by the names of the usual ones."""

    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Four stages of two blocks."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False), nn.BatchNorm2d(WIDTH)
        widths = [WIDTH, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
        for i, (before, width) in enumerate(itertools.pairwise(widths)):
            stage = nn.Sequential(Block(before, width, 1 + (i > 0)), Block(width, width, 1))
            self.add_module(f"layer{i + 1}", stage)
        self.fc = nn.Linear(8 * WIDTH, CLASSES)

    def forward(self, x):
        y = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            y = stage(y)
        return self.fc(y.mean((2, 3)))


class EncoderBlock(nn.Module):
    """A block by the names of torchvision."""

    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ViT(nn.Module):
    """Patches of 4, a class token, learned positions."""

    def __init__(self, width=8, depth=2, patch=4, size=8):
        super().__init__()
        tokens = (size // patch) ** 2 + 1
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.randn(1, tokens, width))
        self.encoder.layers = nn.Sequential(*[EncoderBlock(width, 2) for _ in range(depth)])
        self.encoder.ln = nn.LayerNorm(width)
        self.heads = nn.Sequential(nn.Linear(width, CLASSES))

    def forward(self, x):
        y = self.conv_proj(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.class_token.expand(len(y), -1, -1), y], 1)
        y = self.encoder.ln(self.encoder.layers(y + self.encoder.pos_embedding))
        return self.heads(y[:, 0])


def agree(module, model, x, depth):
    """Compare logits, the gradient in x and the norm of the gradient in all parameters."""
    params, state = fnn.from_torch(model, module.state_dict(), x)
    dy = random.normal(size=(len(x), CLASSES)).astype("float32")
    given = torch.from_numpy(np.moveaxis(x, -1, 1).copy()).requires_grad_()
    logits = module(given)
    logits.backward(torch.from_numpy(dy))
    y, _, residuals = model.forward(params, state, jnp.asarray(x))
    dparams, dx = model.backward(params, residuals, jnp.asarray(dy))
    terms = depth * LONGEST
    assert_close(y, logits.detach().numpy(), "float32", terms)
    assert_close(dx, np.moveaxis(given.grad.numpy(), 1, -1), "float32", terms)
    ours = sum(float((leaf.astype("float64") ** 2).sum()) for leaf in jax.tree.leaves(
        jax.tree.map(np.asarray, dparams)
    ))  # fmt: skip
    theirs = sum(float((p.grad.double() ** 2).sum()) for p in module.parameters())
    assert abs(ours / theirs - 1) < 1e-4


def test_a_resnet_18_gives_the_logits_and_gradients_of_pytorch():
    torch.manual_seed(0)
    module = ResNet()
    with torch.no_grad():
        for _ in range(3):  # running statistics away from where they start
            module(torch.from_numpy(np.moveaxis(images(), -1, 1).copy()))
    agree(module.eval(), networks.resnet(18, CLASSES, width=WIDTH), images(), 20)


def test_a_vision_transformer_gives_the_logits_and_gradients_of_pytorch():
    torch.manual_seed(0)
    model = networks.vit(CLASSES, image=8, width=8, depth=2, heads=2, patch=4)
    agree(ViT().eval(), model, images(8), 10)
