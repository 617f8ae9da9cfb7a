"""Programs that leave fnn: they compute the same, at any batch size, in a process without it."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import fnn
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.tolerance import rounding

KEY = jax.random.key(3)
# What is tested elsewhere runs here too: no module of fnn is there to be imported.
WITHOUT_FNN = """
import sys
from pathlib import Path
import numpy as np
from jax import export

sys.modules["fnn"] = None
folder = Path(sys.argv[1])
inputs, place = dict(np.load(folder / "inputs.npz")), dict(np.load(folder / "forward.npz"))
forward = export.deserialize(bytearray((folder / "forward.bin").read_bytes()))
y = forward.call(place, inputs["x"])
step = export.deserialize(bytearray((folder / "step.bin").read_bytes()))
place, losses = dict(np.load(folder / "step.npz")), []
for _ in range(3):
    place, loss = step.call(place, inputs["x"], inputs["target"])
    losses.append(loss)
np.savez(folder / "found.npz", y=y, losses=np.stack(losses), **place)
"""


def images(examples):
    x = jax.random.normal(KEY, (examples, 6, 6, 2))
    return x, jax.random.randint(jax.random.key(4), (examples,), 0, 3)


def network():
    """Convolution, normalization, chance and a loss of labels: what is hard to take along."""
    return fnn.serial(
        # A bias in front of a batch norm has no gradient but rounding, which Adam would scale up.
        fnn.conv(3, 3, stride=2, bias=False),
        fnn.batch_norm(),
        fnn.relu(),
        fnn.dropout(0.3),
        fnn.flatten(),
        fnn.dense(3),
    )


def training(gradient="manual"):
    model, optimizer = network(), fnn.optim.adam(0.01)
    step = fnn.train_step(model, fnn.losses.cross_entropy(), optimizer, gradient)
    return model, step, fnn.init_train_state(model, optimizer, images(4)[0], key=KEY)


def close(one, other):
    scale = np.abs(other).max(initial=1)
    assert np.abs(np.asarray(one) - other).max(initial=0) <= rounding(jnp.float32, 200) * scale


def test_a_process_without_fnn_runs_a_model_and_trains_it(tmp_path):
    model, step, train_state = training()
    x, target = images(7)
    forward = fnn.export_forward(model, train_state.params, train_state.state, images(4)[0])
    trained = fnn.export_step(step, train_state, images(4))
    for name, exported in (("forward", forward), ("step", trained)):
        (tmp_path / f"{name}.bin").write_bytes(exported.program)
        np.savez(tmp_path / f"{name}.npz", **exported.arrays)
    np.savez(tmp_path / "inputs.npz", x=x, target=target)
    command = [sys.executable, "-c", WITHOUT_FNN, str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=300)
    with np.load(tmp_path / "found.npz") as file:
        found = dict(file)
    close(found["y"], model.apply(train_state.params, train_state.state, x)[0])
    losses = []
    for _ in range(3):
        train_state, metrics = jax.jit(step)(train_state, (x, target))
        losses.append(metrics["loss"])
    close(found["losses"], np.stack(losses))
    close(found["params/5/weight"], train_state.params[5]["weight"])
    close(found["state/1/mean"], train_state.state[1]["mean"])


def test_trees_are_taken_and_given_by_path():
    model = fnn.serial(fnn.lstm(2))
    x = fnn.Sequence(jnp.ones((3, 4, 2)), jnp.array([4, 2, 1]))
    params, state = model.init(KEY, x)
    program = export.deserialize(fnn.export_forward(model, params, state, x).program)
    place = fnn.export_forward(model, params, state, x).arrays
    y = program.call(place, {"values": x.values, "lengths": x.lengths})
    expected, _ = model.apply(params, state, x)
    assert sorted(y) == ["lengths", "values"]
    close(y["values"], expected.values)


def test_a_program_of_one_batch_size_takes_no_other():
    model = fnn.dense(2)
    x = jnp.ones((3, 2))
    exported = fnn.export_forward(model, *model.init(KEY, x), x, any_batch=False)
    program = export.deserialize(exported.program)
    assert program.call(exported.arrays, x).shape == (3, 2)
    with pytest.raises(ValueError, match="mismatch"):
        program.call(exported.arrays, jnp.ones((4, 2)))


def of_one_size(x):
    """Return what cannot be computed of a batch of unknown size: a row for every example."""
    return x * jnp.arange(x.shape[0] if x.shape[0] == 3 else 2, dtype=x.dtype)[:, None]


X = jnp.ones((3, 2))
DENSE = fnn.dense(2)
PLACE = DENSE.init(KEY, X)
BAD = [
    Bad(
        "platform",
        lambda: fnn.export_forward(DENSE, *PLACE, X, platforms=("gpu",)),
        "export_forward",
        "platforms .*",
        ".*gpu.*",
    ),
    Bad(
        "batch",
        lambda: fnn.export_forward(fnn.from_function(of_one_size), (), (), X),
        "export_forward",
        "program for any batch size",
        ".*",
    ),
    Bad(
        "step",
        lambda: fnn.export_step(DENSE, (), (X, X)),
        "export_step",
        "training step",
        r"dense\(2\)",
    ),
    Bad(
        "state",
        lambda: fnn.export_step(training()[1], (), images(4)),
        "export_step",
        "TrainState",
        r".*\(\).*",
    ),
]


@parametrize(BAD)
def test_bad_input_is_refused(bad):
    assert_complains(bad, bad.call)
