"""Fine-tuning with frozen batch norms: step by step where PyTorch gets with norms in eval()."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

import fnn
from fnn import losses, optim
from tests.layers.test_laws import assert_close

STEPS, LR, MOMENTUM, CLASSES = 3, 0.05, 0.8, 3
# Roundings of each step add up, each a sum over a batch of images of 5 x 5 positions.
TERMS = STEPS * 6 * 5 * 5


def frozen(path, layer):
    del path
    return fnn.eval_mode(layer) if layer.name == "batch_norm" else layer


def test_training_around_frozen_batch_norms_is_that_of_pytorch():
    torch.manual_seed(1)
    random = np.random.default_rng(4)
    images = random.normal(size=(STEPS, 6, 5, 5, 2)).astype("float32")
    labels = random.integers(CLASSES, size=(STEPS, 6))
    theirs = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, CLASSES),
    )  # fmt: skip
    given = torch.from_numpy(np.moveaxis(images, -1, 2).copy())
    for x in given:  # running statistics away from where they start
        theirs(x)
    model = fnn.serial(
        fnn.conv(4, (3, 3)), fnn.batch_norm(), fnn.relu(), fnn.global_average_pool(),
        fnn.dense(CLASSES),
    )  # fmt: skip
    tuned = fnn.map_layers(frozen, model)
    params, state = fnn.from_torch(tuned, theirs.state_dict(), images[0])
    descent = torch.optim.SGD(theirs.parameters(), LR, MOMENTUM)
    theirs.train()
    theirs[1].eval()
    optimizer, loss = optim.sgd(LR, MOMENTUM), losses.cross_entropy()
    step = jax.jit(fnn.train_step(tuned, loss, optimizer))
    ours = fnn.init_train_state(tuned, optimizer, images[0], key=jax.random.key(0))
    ours = ours._replace(params=params, state=state)
    for x, target, image in zip(given, labels, images, strict=True):
        descent.zero_grad()
        nn.functional.cross_entropy(theirs(x), torch.from_numpy(target)).backward()
        descent.step()
        batch = jnp.asarray(image), jnp.asarray(target, "int32")
        ours, _ = step(ours, batch)
    want_params, want_state = fnn.from_torch(model, theirs.state_dict(), images[0])
    jax.tree.map(np.testing.assert_array_equal, ours.state, want_state)
    jax.tree.map(np.testing.assert_array_equal, ours.state, state)
    jax.tree.map(lambda a, b: assert_close(a, b, "float32", TERMS), ours.params, want_params)
    assert not jnp.allclose(ours.params[1]["scale"], params[1]["scale"])
