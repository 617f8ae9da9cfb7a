"""Empty batches: every layer takes them, and no gradient, state or output of it is NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn

ROWS, IMAGES = (0, 6), (0, 2, 3, 6)
ACTIVATIONS = [
    *("identity", "sign", "straight_through_sign", "sigmoid", "tanh", "relu", "leaky_relu", "elu"),
    *("selu", "softplus", "gelu", "silu", "mish", "hard_sigmoid", "hard_tanh", "hard_silu"),
    *("relu6", "softmax", "log_softmax", "glu", "prelu"),
]
LAYERS = {
    **{name: (getattr(fnn, name)(), ROWS) for name in ACTIVATIONS},
    "softmax-no-classes": (fnn.softmax(), (2, 0)),
    "log_softmax-no-classes": (fnn.log_softmax(), (2, 0)),
    "softmax-batch": (fnn.softmax(0), ROWS),
    "log_softmax-batch": (fnn.log_softmax(0), ROWS),
    "swiglu": (fnn.swiglu(3), ROWS),
    "geglu": (fnn.geglu(3), ROWS),
    "dense": (fnn.dense(3), ROWS),
    "dense-images": (fnn.dense(3), IMAGES),
    "linear_head": (fnn.linear_head(3), ROWS),
    "embedding": (fnn.embedding(5, 3), (0, 2)),
    "dropout": (fnn.dropout(0.5), ROWS),
    "spatial_dropout": (fnn.spatial_dropout(0.5), IMAGES),
    "gaussian_noise": (fnn.gaussian_noise(0.5), ROWS),
    "flatten": (fnn.flatten(), IMAGES),
    "reshape": (fnn.reshape(-1, 3), IMAGES),
    "layer_norm": (fnn.layer_norm(), ROWS),
    "rms_norm": (fnn.rms_norm(), ROWS),
    "group_norm": (fnn.group_norm(2), IMAGES),
    "group_norm-no-positions": (fnn.group_norm(2), (2, 0, 6)),
    "instance_norm": (fnn.instance_norm(), IMAGES),
    "instance_norm-no-positions": (fnn.instance_norm(), (2, 0, 6)),
    "batch_norm": (fnn.batch_norm(), IMAGES),
    "batch_norm-untracked": (fnn.batch_norm(track_running_stats=False), ROWS),
    "from_function": (fnn.from_function(jnp.sin, lambda x, dy: jnp.cos(x) * dy), ROWS),
    "residual": (fnn.residual(fnn.dense(6)), ROWS),
    "repeat": (fnn.repeat(fnn.dense(6), 2), ROWS),
    "remat": (fnn.remat(fnn.dense(3)), ROWS),
    "reversible": (fnn.reversible(fnn.dense(3), fnn.dense(3), 2), ROWS),
    "parallel": (fnn.serial(fnn.parallel(fnn.dense(3), fnn.relu()), fnn.concatenate()), ROWS),
}


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_an_empty_batch_gives_empty_outputs_and_gradients_of_zero(layer, shape, train):
    key = jax.random.key(0)
    x = jnp.zeros(shape, "int32" if layer.name == "embedding" else "float32")
    # A batch norm made by a batch that is there.
    params, state = layer.init(key, jnp.ones((2, *shape[1:]), x.dtype))
    y, new_state, residuals = layer.forward(params, state, x, key=key, train=train)
    dparams, dx = layer.backward(params, residuals, y)
    if layer.name == "linear_head":
        assert y.features.shape == shape
        return
    assert y.size == 0
    assert jax.tree.structure(dparams) == jax.tree.structure(params)
    for leaf in jax.tree.leaves(dparams):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))
    jax.tree.map(np.testing.assert_array_equal, new_state, state)
    assert dx is None or dx.shape == x.shape
