"""Twins of recurrence: padded batches are packed."""

from __future__ import annotations

import jax.numpy as jnp
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fnn
from fnn.interop._torch_layers import recurrent
from tests.cases.recurrent import INPUTS, TWO_WAYS, H
from tests.twins.twin import Twin


class Recurrent(torch.nn.Module):
    """A recurrent module of values, lengths or None, and the arrays of the initial state."""

    def __init__(self, kind, width=H, **options):
        super().__init__()
        self.inside = kind(INPUTS, width, batch_first=True, **options)

    def forward(self, values, lengths, *state):
        state = state[0] if len(state) == 1 else state or None
        if lengths is None:
            y, last = self.inside(values, state)
        else:
            packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
            y, last = self.inside(packed, state)
            y, _ = pad_packed_sequence(y, batch_first=True, total_length=values.shape[1])
        return (y, *(last if isinstance(last, tuple) else (last,)))


def inner(layer, weights):
    return recurrent(layer, {name.removeprefix("inside."): w for name, w in weights.items()})


def twin(case, kind, flat=None, **options):
    """Make a twin; `flat` gives PyTorch's arrays (layers * ways, B, H) of a carry."""

    def into(x):
        whole = x if isinstance(x, fnn.Sequence) else fnn.Sequence(x)
        state = () if whole.carry is None else flat(whole.carry)
        return (whole.values, whole.lengths, *state)

    def out(y):
        return (y.values, *flat(y.carry)) if flat else (getattr(y, "values", y),)

    def call(module, *x):
        results = module(*x)
        return results if flat else results[:1]

    return Twin(case, lambda x: Recurrent(kind, **options), inner, into, out, call)


def cell(case, kind, **options):
    return Twin(
        case,
        lambda x: kind(INPUTS, H, **options),
        recurrent,
        lambda x: (x[1], x[0]),
        lambda y: y[0],
    )


TWINS = [
    twin("rnn", torch.nn.RNN),
    twin("rnn-relu-lengths", torch.nn.RNN, nonlinearity="relu"),
    twin("lstm", torch.nn.LSTM),
    twin(
        "lstm-carry-lengths-no-bias",
        torch.nn.LSTM,
        lambda carry: tuple(part[None] for part in carry),
        bias=False,
    ),
    twin(
        "lstm-projection-carry-lengths",
        torch.nn.LSTM,
        lambda carry: tuple(part[None] for part in carry),
        width=3,
        proj_size=H,
    ),
    twin(
        "lstm-projection-stacked-bidirectional",
        torch.nn.LSTM,
        width=3,
        proj_size=H,
        num_layers=2,
        bidirectional=True,
        bias=False,
    ),
    twin("gru", torch.nn.GRU),
    twin(
        "rnn-stacked-bidirectional-carry-lengths",
        torch.nn.RNN,
        lambda carry: (jnp.stack([layer[way] for layer in carry for way in TWO_WAYS]),),
        num_layers=2,
        bidirectional=True,
    ),
    twin(
        "gru-carry-lengths-no-bias",
        torch.nn.GRU,
        lambda carry: (carry[None],),
        bias=False,
    ),
    cell("rnn_cell", torch.nn.RNNCell, nonlinearity="relu"),
    cell("lstm_cell", torch.nn.LSTMCell),
    cell("gru_cell", torch.nn.GRUCell),
]
