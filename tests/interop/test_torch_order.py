"""The order of elements behind a flatten: PyTorch's, whatever stands in front; or an error."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import fnn
from tests.layers.test_laws import assert_close

HEIGHT, WIDTH, COLORS, CHANNELS, OUT = 4, 3, 3, 4, 2
ELEMENTS = HEIGHT * WIDTH * CHANNELS


class Net(nn.Module):
    """Modules by their names, and a function of them and x."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def images(count=2):
    return normal(count, HEIGHT, WIDTH, COLORS)


def sequences():
    return normal(2, 5, CHANNELS)


def conv(inputs=COLORS, outputs=CHANNELS):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def behind_conv(*modules, width=ELEMENTS):
    return nn.Sequential(conv(), *modules, nn.Flatten(), nn.Linear(width, OUT))


def same_behind_conv(*layers):
    return fnn.serial(fnn.conv(CHANNELS, 3), *layers, fnn.flatten(), fnn.dense(OUT))


def heads():
    return Net(
        lambda net, x: tuple(head(net.conv(x).flatten(1)) for head in net.heads),
        conv=conv(),
        heads=nn.ModuleList([nn.Linear(ELEMENTS, n) for n in (3, 2, 1)]),
    )


def residual():
    def function(net, x):
        x = net.conv(x)
        return net.last((x + torch.relu(net.inside(x))).flatten(1))

    return Net(function, conv=conv(), inside=conv(CHANNELS), last=nn.Linear(ELEMENTS, OUT))


def repeated():
    def function(net, x):
        x = net.conv(x).flatten(1)
        for one in net.stack:
            x = torch.tanh(one(x))
        return net.last(x)

    stack = nn.ModuleList([nn.Linear(ELEMENTS, ELEMENTS) for _ in range(3)])
    return Net(function, conv=conv(), stack=stack, last=nn.Linear(ELEMENTS, OUT))


def joined(join):
    return Net(
        lambda net, x: net.last(join(net.one(x), net.other(x))),
        one=conv(),
        other=conv(outputs=2),
        last=nn.Linear(HEIGHT * WIDTH * (CHANNELS + 2), OUT),
    )


def over_time(module, steps=5, width=CHANNELS):
    def function(net, x):
        y = net.inside(x, x, x) if isinstance(net.inside, nn.MultiheadAttention) else net.inside(x)
        return net.last((y[0] if isinstance(y, tuple) else y).flatten(1))

    return Net(function, inside=module, last=nn.Linear(steps * width, OUT))


def lstm_of_convolution():
    def function(net, x):
        return net.last(net.rnn(net.conv(x.movedim(-1, 1)).movedim(1, -1))[0].flatten(1))

    return Net(
        function,
        conv=nn.Conv1d(CHANNELS, 6, 3, padding=1),
        rnn=nn.LSTM(6, CHANNELS, batch_first=True),
        last=nn.Linear(5 * CHANNELS, OUT),
    )


def branches(*layers):
    two = fnn.parallel(
        *(fnn.serial(fnn.conv(n, 3), *layers) if layers else fnn.conv(n, 3) for n in (CHANNELS, 2))
    )
    return fnn.serial(two, fnn.concatenate())


# The model here, the model there, x.
SAME = {
    "images": (
        lambda: fnn.serial(fnn.flatten(), fnn.dense(OUT)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(HEIGHT * WIDTH * COLORS, OUT)),
        images,
    ),
    "images without channels": (
        lambda: fnn.serial(fnn.flatten(), fnn.dense(OUT)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, OUT)),
        sequences,
    ),
    "embedded tokens": (
        lambda: fnn.serial(fnn.embedding(7, 4), fnn.flatten(), fnn.dense(OUT)),
        lambda: nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, OUT)),
        lambda: np.array([[1, 2, 6], [0, 3, 3]], "int32"),
    ),
    "convolution": (same_behind_conv, behind_conv, images),
    "activation and pool": (
        lambda: same_behind_conv(fnn.gelu(), fnn.max_pool(2, padding="VALID")),
        lambda: behind_conv(nn.GELU(), nn.MaxPool2d(2), width=2 * 1 * CHANNELS),
        images,
    ),
    "softmax over channels": (
        lambda: same_behind_conv(fnn.softmax()), lambda: behind_conv(nn.Softmax(1)), images,
    ),
    "gate over channels": (
        lambda: same_behind_conv(fnn.glu()),
        lambda: behind_conv(nn.GLU(1), width=ELEMENTS // 2),
        images,
    ),
    "group norm": (
        lambda: same_behind_conv(fnn.group_norm(2)),
        lambda: behind_conv(nn.GroupNorm(2, CHANNELS)),
        images,
    ),
    "transposed convolution": (
        lambda: fnn.serial(
            fnn.conv_transpose(CHANNELS, 3, padding=1), fnn.flatten(), fnn.dense(OUT)
        ),
        lambda: nn.Sequential(
            nn.ConvTranspose2d(COLORS, CHANNELS, 3, padding=1),
            nn.Flatten(),
            nn.Linear(ELEMENTS, OUT),
        ),
        images,
    ),
    "norms of the vector": (
        lambda: fnn.serial(
            fnn.conv(CHANNELS, 3), fnn.flatten(), fnn.batch_norm(), fnn.tanh(), fnn.layer_norm(),
            fnn.dense(OUT),
        ),
        lambda: nn.Sequential(
            conv(), nn.Flatten(), nn.BatchNorm1d(ELEMENTS), nn.Tanh(), nn.LayerNorm(ELEMENTS),
            nn.Linear(ELEMENTS, OUT),
        ),
        images,
    ),
    "three heads": (
        lambda: fnn.serial(
            fnn.conv(CHANNELS, 3), fnn.flatten(), fnn.parallel(*map(fnn.dense, (3, 2, 1)))
        ),
        heads,
        images,
    ),
    "residual branch": (
        lambda: same_behind_conv(fnn.residual(fnn.serial(fnn.conv(CHANNELS, 3), fnn.relu()))),
        residual,
        images,
    ),
    "repetition": (
        lambda: fnn.serial(
            fnn.conv(CHANNELS, 3), fnn.flatten(),
            fnn.repeat(fnn.remat(fnn.serial(fnn.dense(ELEMENTS), fnn.tanh())), 3), fnn.dense(OUT),
        ),
        repeated,
        images,
    ),
    "images joined": (
        lambda: fnn.serial(branches(), fnn.flatten(), fnn.dense(OUT)),
        lambda: joined(lambda a, b: torch.cat([a, b], 1).flatten(1)),
        images,
    ),
    "vectors joined": (
        lambda: fnn.serial(branches(fnn.flatten()), fnn.dense(OUT)),
        lambda: joined(lambda a, b: torch.cat([a.flatten(1), b.flatten(1)], 1)),
        images,
    ),
    "recurrent output": (
        lambda: fnn.serial(fnn.lstm(CHANNELS), fnn.flatten(), fnn.dense(OUT)),
        lambda: over_time(nn.LSTM(CHANNELS, CHANNELS, batch_first=True)),
        sequences,
    ),
    "attention output": (
        lambda: fnn.serial(fnn.attention(2), fnn.flatten(), fnn.dense(OUT)),
        lambda: over_time(nn.MultiheadAttention(CHANNELS, 2, batch_first=True)),
        sequences,
    ),
    "recurrent output of a convolution": (
        lambda: fnn.serial(
            fnn.conv(6, 3), fnn.lstm(CHANNELS), fnn.flatten(), fnn.dense(OUT)
        ),
        lstm_of_convolution,
        sequences,
    ),
    "view of one channel": (
        lambda: fnn.serial(
            fnn.reshape(HEIGHT, WIDTH, 1), fnn.conv(CHANNELS, 3), fnn.flatten(), fnn.dense(OUT)
        ),
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, HEIGHT, WIDTH)), conv(1), nn.Flatten(), nn.Linear(ELEMENTS, OUT)
        ),
        lambda: normal(2, HEIGHT * WIDTH),
    ),
    "mean over space": (
        lambda: fnn.serial(
            fnn.conv(CHANNELS, 3), fnn.global_average_pool(), fnn.dense(OUT)
        ),
        lambda: nn.Sequential(
            conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, OUT)
        ),
        images,
    ),
}  # fmt: skip


def moved(module):
    """The module with weights and statistics away from where they start, out of training."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.2 * torch.rand_like(tensor))
    return module.eval()


def for_torch(x):
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy() if x.ndim == 4 else x)


@pytest.mark.parametrize("name", SAME)
def test_a_vector_behind_these_has_the_rows_of_pytorch(name):
    model, module, x = SAME[name][0](), moved(SAME[name][1]()), SAME[name][2]()
    expected = module(for_torch(x))
    params, state = fnn.from_torch(model, module.state_dict(), x)
    y, _ = model.apply(params, state, jnp.asarray(x))
    theirs = [expected] if torch.is_tensor(expected) else expected
    terms = max(leaf.size for leaf in jax.tree.leaves((params, x)))
    assert_close(jax.tree.leaves(y), [t.detach().numpy() for t in theirs], "float32", terms)


def flipped(layer):
    """A combinator of a user's: it turns the input around, as a model in PyTorch would too."""

    def apply(params, state, x, /, *, key=None, train=False):
        return layer.apply(params, state, x[:, ::-1], key=key, train=train)

    made = fnn.autodiff(layer.init, apply)
    return fnn.layer.Layer(*made, children={"": layer}, rebuild=flipped, derivation="auto")


# The model here and the shapes of its modules: what PyTorch's model does between them is unknown.
UNKNOWN = {
    "sum of a vector and a dense layer's": (
        lambda: fnn.serial(
            fnn.conv(CHANNELS, 3), fnn.flatten(), fnn.residual(fnn.dense(ELEMENTS)), fnn.dense(OUT)
        ),
        lambda: nn.Sequential(
            conv(), nn.Linear(ELEMENTS, ELEMENTS), nn.Linear(ELEMENTS, OUT)
        ),
        images,
    ),
    "gate over the vector": (
        lambda: fnn.serial(fnn.conv(CHANNELS, 3), fnn.flatten(), fnn.glu(), fnn.dense(OUT)),
        lambda: nn.Sequential(conv(), nn.Linear(ELEMENTS // 2, OUT)),
        images,
    ),
    "sorted channels": (
        lambda: same_behind_conv(fnn.from_function(jnp.sort)), behind_conv, images,
    ),
    "norm of channels": (
        lambda: same_behind_conv(fnn.layer_norm()),
        lambda: behind_conv(nn.LayerNorm(CHANNELS)),
        images,
    ),
    "view of channels in front of a convolution": (
        lambda: fnn.serial(fnn.dense(12), fnn.reshape(2, 2, 3), fnn.conv(CHANNELS, 3)),
        lambda: nn.Sequential(nn.Linear(CHANNELS, 12), conv()),
        lambda: normal(2, CHANNELS),
    ),
    "groups of a vector": (
        lambda: fnn.serial(fnn.conv(CHANNELS, 3), fnn.flatten(), fnn.group_norm(2)),
        lambda: nn.Sequential(conv(), nn.GroupNorm(2, ELEMENTS)),
        images,
    ),
    "turned around by a combinator of one's own": (
        lambda: fnn.serial(fnn.conv(CHANNELS, 3), fnn.flatten(), flipped(fnn.dense(OUT))),
        behind_conv,
        images,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_order_that_cannot_be_known_is_refused(name):
    model, module, x = UNKNOWN[name][0](), UNKNOWN[name][1](), UNKNOWN[name][2]()
    with pytest.raises(fnn.InputError, match="elements PyTorch has in a known order"):
        fnn.from_torch(model, module.state_dict(), x)


def test_the_order_is_found_of_shapes_alone_and_under_jit():
    model, module, x = same_behind_conv(), moved(behind_conv()), images()
    weights = {name: jnp.asarray(t.numpy()) for name, t in module.state_dict().items()}
    expected, _ = fnn.from_torch(model, weights, x)
    spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
    # By name, since a tree of weights is sorted.
    names = {"0": "0", "2": "2"}
    found, _ = jax.jit(lambda weights: fnn.from_torch(model, weights, spec, names=names))(weights)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
