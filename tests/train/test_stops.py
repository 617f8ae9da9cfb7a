"""Whatever ends a run, what there is comes back: signals, errors, numbers that are lost."""

from __future__ import annotations

import os
import signal
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import optim
from fnn.train import callbacks
from fnn.train.loop import _loop
from tests.train.test_fit import KEY, bits, classes

DATA = classes()
MODEL, LOSS = fnn.serial(fnn.dense(4), fnn.dropout(0.3), fnn.dense(3)), fnn.losses.cross_entropy()
OPTIMIZER = optim.sgd(0.03, 0.8)
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def train(data=DATA, optimizer=OPTIMIZER, model=MODEL, **options):
    """Five steps an epoch, the last of three examples."""
    options = {"batch_size": 5} | options
    options |= {"key": KEY} if "start" not in options else {}
    return fnn.fit(model, LOSS, optimizer, data, **options)


def interrupted(number, **options):
    with pytest.warns(UserWarning, match=rf"^fnn\.fit: interrupted by {number.name} after") as w:
        end, history = train(**options)
    assert history.stopped == f"interrupted by {number.name}"
    assert "go on with start=train_state" in str(w[0].message)
    assert w[0].filename == __file__
    return end, history


def sending(number, at):
    def send(event):
        if event.kind == "step" and event.step == at:
            os.kill(os.getpid(), number)

    return callbacks.every(send, steps=1)


# Signals.


@pytest.mark.parametrize("number", SIGNALS, ids=lambda one: one.name)
def test_a_signal_in_a_callback_ends_the_run_there_and_it_goes_on_bit_for_bit(number):
    before = [signal.getsignal(one) for one in SIGNALS]
    end, history = interrupted(number, steps=9, callbacks=[sending(number, 4)])
    assert (int(end.step), len(history.loss)) == (4, 4)
    assert [signal.getsignal(one) for one in SIGNALS] == before
    assert bits(train(steps=5, start=end)[0]) == bits(train(steps=9)[0])


@pytest.mark.parametrize("number", SIGNALS, ids=lambda one: one.name)
def test_a_signal_while_steps_run_waits_for_those_under_way(number):
    timer = threading.Timer(0.2, os.kill, (os.getpid(), number))
    timer.start()
    began = time.monotonic()
    end, history = interrupted(number, epochs=10**8)
    # A dispatch is a second; the machine may be busy.
    assert time.monotonic() - began < 60
    assert int(end.step) == len(history.loss) > 0
    assert bits(train(steps=int(end.step))[0]) == bits(end)


def test_a_signal_ends_a_reader_that_is_stalled_and_names_it(monkeypatch):
    monkeypatch.setattr(_loop, "_STALLED_SECONDS", 0.1)

    def stalled():
        yield from [DATA] * 3
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        time.sleep(600)
        yield DATA

    with pytest.warns(UserWarning, match=r"^fnn\.fit: interrupted by SIGINT, \d+ s into reading"):
        end, history = train(stalled(), batch_size=None, steps=9)
    assert "reading generator behind step" in history.stopped
    assert int(end.step) == len(history.loss)


def test_a_handler_of_the_users_stays():
    got = []
    before = signal.signal(signal.SIGTERM, lambda *_: got.append(1))
    try:
        _, history = train(steps=6, callbacks=[sending(signal.SIGTERM, 4)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (got, history.stopped) == ([1], "")


def test_the_end_is_told_whatever_it_is(tmp_path):
    ends = []

    def note(event):
        if event.kind == "end":
            ends.append((event.step, event.stopped))

    keep = callbacks.checkpoint(tmp_path / "run")
    asked = [keep, sending(signal.SIGINT, 3), note]
    end, _ = interrupted(signal.SIGINT, steps=9, callbacks=asked)
    assert ends == [(3, "interrupted by SIGINT")]
    file = fnn.train.latest_checkpoint(tmp_path / "run")
    assert bits(fnn.load_train_state(file, like=end)) == bits(end)


# Errors.


def failing(what):
    raise RuntimeError(what)


def failing_callback(event):
    if event.step == 7:
        failing("callback")


def batches(epoch):
    for i in range(0, 23, 5):
        if epoch == 1 and i == 10:
            failing("data")
        yield tuple(part[i : i + 5] for part in DATA)


ERRORS = {
    "data": ({"data": batches, "batch_size": None, "epochs": 3}, 7),
    "callback": ({"epochs": 3, "callbacks": [callbacks.every(failing_callback, steps=1)]}, 7),
    "progress": (
        {"epochs": 3, "progress": lambda step, *_: failing("progress") if step >= 7 else None},
        7,
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_bears_what_there_is_and_says_how_to_go_on(name):
    options, least = ERRORS[name]
    with pytest.raises(RuntimeError, match=name) as raised:
        train(**options)
    error = raised.value
    steps = int(error.train_state.step)
    assert steps == len(error.history.loss) >= least
    assert error.history.stopped == "RuntimeError was raised"
    assert f"stopped after step {steps}; " in error.__notes__[-1]
    if name != "data":
        rest, _ = train(steps=15 - steps, start=error.train_state)
        assert bits(rest) == bits(train(epochs=3)[0])


def test_an_error_before_the_first_step_is_the_error_alone():
    with pytest.raises(RuntimeError, match="early") as raised:
        train(epochs=1, callbacks=[lambda event: failing("early")])
    assert not hasattr(raised.value, "train_state")


def test_a_callback_that_fails_at_the_end_hides_no_error():
    def fail(event):
        if event.kind in ("epoch", "end"):
            failing(event.kind)

    with pytest.raises(RuntimeError, match="epoch") as raised:
        train(epochs=1, callbacks=[fail])
    assert any("RuntimeError was raised too: end" in note for note in raised.value.__notes__)


# Numbers that are lost.


def exploding(step):
    return optim.sgd(lambda t: jnp.where(t == step, jnp.inf, 0.01))


def lost(**options):
    with pytest.warns(UserWarning, match=r"^fnn\.fit: the loss became nan") as warned:
        end, history = train(**options)
    return end, history, str(warned[0].message)


@pytest.mark.parametrize("source", ["arrays", "function"])
@pytest.mark.parametrize("kept", [0.0, 1e9], ids=["from-the-way", "from-the-begin"])
def test_the_place_is_named_from_wherever_the_run_can_be_run_again(source, kept, monkeypatch):
    monkeypatch.setattr(_loop, "_KEEP_SECONDS", kept)
    parts = [tuple(part[i : i + 5] for part in DATA) for i in range(0, 23, 5)]
    options = {} if source == "arrays" else {"data": lambda epoch: parts, "batch_size": None}
    end, history, message = lost(optimizer=exploding(12), epochs=9, **options)
    assert int(end.step) == len(history.loss) == 14
    assert history.stopped == "the parameters became infinite or NaN"
    assert "at step 13; it began in the update of the optimizer; stopped after step 13" in message


def test_a_kept_state_of_another_run_names_another_place(monkeypatch):
    # The check above is one: from a state that is not of this run nothing is found.
    monkeypatch.setattr(_loop, "_KEEP_SECONDS", 0.0)
    keep = _loop.Loop._keep

    def spoiled(self):
        keep(self)
        self.kept = self.kept._replace(
            train_state=self.kept.train_state._replace(step=jnp.int32(0))
        )

    monkeypatch.setattr(_loop.Loop, "_keep", spoiled)
    assert "the update of the optimizer" not in lost(optimizer=exploding(12), epochs=9)[2]


def test_steps_after_the_numbers_were_lost_are_in_no_history():
    end, history, _ = lost(optimizer=exploding(7), epochs=3)
    assert int(end.step) == len(history.loss) == 9
    assert np.isfinite(history.loss[:8]).all()
