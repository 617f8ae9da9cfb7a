"""Nothing is asked of the network: not to import the package, not to train and save."""

import subprocess
import sys

import pytest

# What Python says before it opens, resolves or sends; heard by the hook below.
WATCH = """
import sys

def hook(event, args):
    if event.startswith(("socket.", "urllib.", "http.client.", "ftplib.", "smtplib.")):
        raise ConnectionRefusedError(f"{event} {args}")

sys.addaudithook(hook)
"""
TRAINING = """
import importlib, pkgutil, tempfile, pathlib
import jax, numpy as np
import fnn

for module in pkgutil.walk_packages(fnn.__path__, "fnn."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
x, labels = np.ones((8, 3), "float32"), np.arange(8) % 2
model, loss = fnn.serial(fnn.dense(4), fnn.tanh(), fnn.dense(2)), fnn.losses.cross_entropy()
noise = fnn.optim.gradient_noise(0.1, key=jax.random.key(1))
optimizer = fnn.optim.chain(noise, fnn.optim.sgd(0.1))
data = x, labels
trained, _ = fnn.fit(
    model, loss, optimizer, data, epochs=2, batch_size=4, key=jax.random.key(0), progress=True
)
fnn.evaluate(model, loss, trained.params, trained.state, data)
file = pathlib.Path(tempfile.mkdtemp(), "model.safetensors")
fnn.save_weights(file, trained.params, trained.state)
fnn.load_weights(file, (trained.params, trained.state))
fnn.datasets.digits()
print("done", int(trained.step))
"""


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCH + code],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_import_and_training_ask_nothing_of_the_network():
    done = run(TRAINING)
    assert done.stderr.count("Error") == 0, done.stderr
    assert done.stdout.split() == ["done", "4"]


@pytest.mark.parametrize(
    ("call", "event"),
    [
        ("import socket; socket.socket()", "socket.__new__"),
        ("import socket; socket.getaddrinfo('example.org', 80)", "socket.getaddrinfo"),
        ("import urllib.request as u; u.urlopen('http://example.org')", "urllib.Request"),
    ],
)
def test_a_call_to_the_network_is_seen(call, event):
    done = run(call)
    assert done.returncode
    assert f"ConnectionRefusedError: {event}" in done.stderr
