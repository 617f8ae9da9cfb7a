"""PyTorch's tied weights go to layers that share their parameters, each read once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import fnn
from tests.layers.test_laws import assert_close

random = np.random.default_rng(2)
TOKENS = np.array([[1, 2, 6], [0, 4, 4]], "int32")
PAIR = tuple(random.normal(size=(3, 4)).astype("float32") for _ in range(2))


class Language(nn.Module):
    """Token embedding and output projection tied, with a layer between and one behind."""

    def __init__(self):
        super().__init__()
        self.embed, self.hidden = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.calibrate = nn.Linear(7, 7)

    def forward(self, x):
        return self.calibrate(self.head(torch.tanh(self.hidden(self.embed(x)))))


class Siamese(nn.Module):
    """One encoder for two inputs, under one name or under two."""

    def __init__(self, twice):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.twice = twice
        if twice:
            self.right = self.left
        self.last = nn.Linear(3, 2)

    def forward(self, x, y):
        return self.last(self.left(x) * self.left(y))


def language():
    model = fnn.serial(
        fnn.embedding(7, 4), fnn.dense(4), fnn.tanh(), fnn.unembedding(7), fnn.dense(7)
    )
    return fnn.shared(model, {"3": "0"})


def product():
    def forward(params, x):
        return x[0] * x[1], x

    return fnn.stateless(
        lambda key, x: (), forward, lambda params, x, dy: ((), (dy * x[1], dy * x[0]))
    )


def siamese():
    encoder = fnn.serial(fnn.dense(3), fnn.batch_norm())
    model = fnn.serial(fnn.over_parts(encoder, encoder), product(), fnn.dense(2))
    return fnn.shared(model, {"0/1": "0/0"})


def test_a_tied_embedding_gives_the_logits_and_the_gradient_of_pytorch():
    torch.manual_seed(0)
    module, model = Language(), language()
    params, state = fnn.from_torch(model, module.state_dict(), TOKENS)
    assert params[3] == ()
    dy = random.normal(size=(2, 3, 7)).astype("float32")
    expected = module(torch.from_numpy(TOKENS).long())
    expected.backward(torch.from_numpy(dy))
    y, _, residuals = model.forward(params, state, jnp.asarray(TOKENS), train=True)
    assert_close(y, expected.detach().numpy(), "float32", 4 * 4 * 7)
    dparams, _ = model.backward(params, residuals, jnp.asarray(dy))
    tied = module.embed.weight.grad.numpy()
    assert_close(dparams[0]["weight"], tied, "float32", 6 * 4 * 4 * 7)


@pytest.mark.parametrize(
    ("twice", "names"),
    [
        (True, None),
        (False, {"0/0/0": "left.0", "0/0/1": "left.1", "0/1/1": "left.1", "2": "last"}),
    ],
)
def test_a_siamese_model_gives_the_outputs_of_pytorch(twice, names):
    torch.manual_seed(0)
    module, model = Siamese(twice), siamese()
    module(*map(torch.from_numpy, PAIR))  # statistics away from where they start
    module.eval()
    params, state = fnn.from_torch(model, module.state_dict(), PAIR, names=names)
    expected = module(*map(torch.from_numpy, PAIR)).detach().numpy()
    y, _ = model.apply(params, state, jax.tree.map(jnp.asarray, PAIR))
    assert_close(y, expected, "float32", 4 * 3 * 3)


def test_modules_that_are_not_tied_are_refused():
    apart = {name: tensor.clone() for name, tensor in Language().state_dict().items()}
    with pytest.raises(fnn.InputError, match="expected"):
        fnn.from_torch(language(), apart, TOKENS)
    apart = {name: tensor.clone() for name, tensor in Siamese(True).state_dict().items()}
    with pytest.raises(fnn.InputError, match=r"a module that is tied to the one .*'0/1/1'"):
        fnn.from_torch(siamese(), apart, PAIR, names={
            "0/0/0": "left.0", "0/0/1": "left.1", "0/1/1": "right.1", "2": "last",
        })  # fmt: skip
