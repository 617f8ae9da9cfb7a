"""A GPT-2 as it is built in PyTorch: its weights, logits and gradients are the same here."""

import functools

import jax
import numpy as np
import pytest
import torch

import fnn
from tests.tolerance import rounding

VOCABULARY, WINDOW, WIDTH, HEADS, DEPTH = 11, 8, 12, 3, 2
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 7)).astype("int32")
TARGET = np.random.default_rng(1).integers(0, VOCABULARY, (2, 7)).astype("int32")
nn = torch.nn


class Conv1D(nn.Module):
    """A dense layer whose weight is (I, O)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / 4)
        self.bias = nn.Parameter(torch.randn(outputs) / 4)

    def forward(self, x):
        return x @ self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, dense):
        super().__init__()
        mask = torch.tril(torch.ones(WINDOW, WINDOW, dtype=torch.bool))
        self.register_buffer("bias", mask.view(1, 1, WINDOW, WINDOW))
        self.c_attn, self.c_proj = dense(WIDTH, 3 * WIDTH), dense(WIDTH, WIDTH)

    def forward(self, x):
        batch, steps, _ = x.shape
        q, k, v = (
            part.view(batch, steps, HEADS, -1).transpose(1, 2)
            for part in self.c_attn(x).split(WIDTH, -1)
        )
        z = q @ k.transpose(-1, -2) / (WIDTH / HEADS) ** 0.5
        z = z.masked_fill(~self.bias[:, :, :steps, :steps], float("-inf"))
        return self.c_proj((z.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


class Network(nn.Module):
    def __init__(self, dense):
        super().__init__()
        self.c_fc, self.c_proj = dense(WIDTH, 4 * WIDTH), dense(4 * WIDTH, WIDTH)

    def forward(self, x):
        return self.c_proj(nn.functional.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, dense):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(WIDTH), Attention(dense)
        self.ln_2, self.mlp = nn.LayerNorm(WIDTH), Network(dense)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    def __init__(self, dense):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(VOCABULARY, WIDTH),
                "wpe": nn.Embedding(WINDOW, WIDTH),
                "h": nn.ModuleList(Block(dense) for _ in range(DEPTH)),
                "ln_f": nn.LayerNorm(WIDTH),
            }
        )
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, tokens):
        parts = self.transformer
        x = parts["wte"](tokens) + parts["wpe"](torch.arange(tokens.shape[1]))
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))


def gpt2():
    block = fnn.transformer_block(HEADS, causal=True, activation="gelu_tanh")
    model = fnn.serial(
        embed=fnn.embedding(VOCABULARY, WIDTH),
        position=fnn.positional("learned", WINDOW),
        blocks=fnn.repeat(block, DEPTH),
        norm=fnn.layer_norm(),
        head=fnn.unembedding(VOCABULARY),
    )
    return fnn.shared(model, {"head": "embed"})


@functools.cache
def trained(dense):
    """A GPT-2 whose norms are not those it began with, its gradients, and what is read of it."""
    torch.manual_seed(0)
    network = GPT2(dense)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    logits = network(torch.from_numpy(TOKENS).long())
    target = torch.from_numpy(TARGET).long()
    nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
    return network, logits.detach().numpy()


in_both_layouts = pytest.mark.parametrize("dense", [Conv1D, nn.Linear])


def assert_close(left, right, terms):
    # Relative to the largest of all: the bias of the keys has no gradient but rounding.
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(right))
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=rounding("float32", terms) * scale)


@in_both_layouts
def test_logits_are_those_of_pytorch(dense):
    network, logits = trained(dense)
    model = gpt2()
    params, state = fnn.from_torch(model, network.state_dict(), TOKENS)
    assert_close(model.apply(params, state, TOKENS)[0], logits, 4 * WIDTH)


@in_both_layouts
def test_gradients_are_those_of_pytorch(dense):
    network, _ = trained(dense)
    model = gpt2()
    params, state = fnn.from_torch(model, network.state_dict(), TOKENS)
    run = fnn.value_and_grad(model, fnn.losses.cross_entropy(), gradient="manual")
    _, grads = jax.jit(run)(params, state, (TOKENS, TARGET), key=jax.random.key(0))
    theirs = {name: parameter.grad for name, parameter in network.named_parameters()}
    expected, _ = fnn.from_torch(model, theirs, TOKENS)
    assert_close(grads, expected, 16 * WIDTH)


def test_it_goes_on_as_pytorch_does():
    network, _ = trained(Conv1D)
    model = gpt2()
    params, state = fnn.from_torch(model, network.state_dict(), TOKENS)
    drawn = fnn.generate(
        model, params, state, TOKENS[:, :2], 6, key=jax.random.key(0), temperature=0
    )
    tokens = torch.from_numpy(TOKENS[:, :2]).long()
    for column in np.asarray(drawn).T:
        with torch.no_grad():
            newest = network(tokens)[:, -1].argmax(-1)
        np.testing.assert_array_equal(newest.numpy(), column)
        tokens = torch.cat([tokens, newest[:, None]], 1)


def test_a_square_matrix_stands_as_that_of_its_attention_does():
    """It tells by itself neither (I, O) nor (O, I)."""
    params = {
        dense: fnn.from_torch(gpt2(), trained(dense)[0].state_dict(), TOKENS)[0]
        for dense in (Conv1D, nn.Linear)
    }
    for dense, found in params.items():
        theirs = trained(dense)[0].transformer["h"][1].attn.c_proj.weight.detach().numpy()
        ours = found["blocks"]["attention"]["layer"]["output"]["weight"][1]
        np.testing.assert_array_equal(ours, theirs if dense is Conv1D else theirs.T)


def test_a_gpt2_without_an_entry_is_refused_by_name():
    weights = dict(trained(Conv1D)[0].state_dict())
    del weights["transformer.h.1.attn.c_attn.bias"]
    with pytest.raises(fnn.InputError, match=r"h\.1\.attn"):
        fnn.from_torch(gpt2(), weights, TOKENS)
