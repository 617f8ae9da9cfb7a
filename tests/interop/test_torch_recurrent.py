"""A recurrent classifier trained in PyTorch and loaded from its state_dict."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fnn
from tests.core.test_errors import Bad, assert_complains
from tests.layers.test_laws import assert_close

B, T, INPUTS, H, K = 8, 6, 3, 5, 4
KINDS = {"RNN": fnn.rnn, "LSTM": fnn.lstm, "GRU": fnn.gru}


class Classifier(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        options = {"num_layers": 2, "bidirectional": True, "batch_first": True}
        self.rnn = getattr(torch.nn, kind)(INPUTS, H, **options)
        self.head = torch.nn.Linear(2 * H, K)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(y[torch.arange(len(x)), lengths - 1])


def trained(kind):
    """A classifier after 20 steps, its examples and lengths, and their logits."""
    torch.manual_seed(0)
    model = Classifier(kind)
    x, lengths = torch.randn(B, T, INPUTS), torch.arange(B) % T + 1
    lengths[0] = T
    labels = torch.randint(K, (B,))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(model(x, lengths), labels)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] / 2
    optimizer.zero_grad()
    logits = model(x, lengths)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    return model, (x.numpy(), lengths.int().numpy(), labels.int().numpy()), logits.detach().numpy()


def classifier(kind):
    return fnn.serial(KINDS[kind](H, layers=2, bidirectional=True), fnn.last_step(), fnn.dense(K))


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_trained_in_torch_gives_the_same_outputs_and_gradients(kind):
    theirs, (x, lengths, labels), logits = trained(kind)
    model, padded = classifier(kind), fnn.Sequence(jnp.asarray(x), jnp.asarray(lengths))
    weights = theirs.state_dict()
    params, state = fnn.from_torch(model, weights, padded)
    y, _ = jax.jit(model.apply)(params, state, padded)
    assert_close(y, logits, "float32", T * 4 * H)

    objective = jax.jit(fnn.value_and_grad(model, fnn.losses.cross_entropy()))
    _, grads = objective(params, state, (padded, jnp.asarray(labels)))
    own = {name: jnp.asarray(tensor.numpy()) for name, tensor in weights.items()}
    # By name, since a tree of weights is sorted.
    names = {"0": "rnn.l0", "2": "head"}
    _, to_theirs = jax.vjp(lambda own: fnn.from_torch(model, own, padded, names=names)[0], own)
    expected = {name: tensor.grad.numpy() for name, tensor in theirs.named_parameters()}
    assert_close(to_theirs(grads)[0], expected, "float32", B * T * 4 * H)


def test_the_layers_of_a_stack_are_found_in_order_by_name_and_one_by_one():
    weights = torch.nn.LSTM(INPUTS, H, 2).state_dict()
    weights = {f"inner.{name}": tensor for name, tensor in weights.items()}
    x = jnp.ones((B, T, INPUTS))
    stack, apart = fnn.lstm(H, layers=2), fnn.serial(fnn.lstm(H), fnn.lstm(H))
    in_order, _ = fnn.from_torch(stack, weights, x)
    by_name, _ = fnn.from_torch(stack, weights, x, names={"": "inner.l0"})
    one_by_one, _ = fnn.from_torch(apart, weights, x, names={"1": "inner.l1", "0": "inner.l0"})
    jax.tree.map(np.testing.assert_array_equal, in_order, by_name)
    jax.tree.map(np.testing.assert_array_equal, in_order, one_by_one)


def test_a_stack_of_another_height_is_refused():
    weights = torch.nn.LSTM(INPUTS, H, 2).state_dict()
    x = jnp.ones((B, T, INPUTS))
    for layers, expected, got in (
        (3, "a module 'l2' for layer 3 of 3", "these, not taken yet: none"),
        (1, "a layer for every module with weights", "none for l1"),
    ):
        bad = Bad("", None, "from_torch", expected, got)
        assert_complains(bad, fnn.from_torch, fnn.lstm(H, layers=layers), weights, x)
