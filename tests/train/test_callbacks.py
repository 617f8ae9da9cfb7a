"""Callbacks: they see what there is, change what they may, and cost and alter nothing else."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import optim
from fnn.train import callbacks
from tests.train.test_fit import KEY, bits, classes, compiled

DATA, HELD_OUT = classes(), classes(1, 11)
MODEL, LOSS = fnn.serial(fnn.dense(4), fnn.dropout(0.3), fnn.dense(3)), fnn.losses.cross_entropy()
RATE = "optimizer/learning_rate"


def train(rate=0.03, **options):
    """Five steps an epoch, the last of three examples."""
    options = {"data": DATA, "batch_size": 5} | options
    options |= {"key": KEY} if "start" not in options else {}
    return fnn.fit(MODEL, LOSS, optim.sgd(rate, 0.8), **options)


def seen(events):
    return [(event.kind, event.step, event.epoch) for event in events]


# What they see.


def test_events_come_at_their_steps_and_in_their_order():
    events = []
    train(epochs=2, validation=HELD_OUT, callbacks=[callbacks.every(events.append, steps=3)])
    assert seen(events) == [
        ("start", 0, 0), ("step", 3, 0), ("validation", 5, 0), ("epoch", 5, 0), ("step", 6, 1),
        ("step", 9, 1), ("validation", 10, 1), ("epoch", 10, 1), ("end", 10, 1),
    ]  # fmt: skip


def test_a_plain_function_is_called_between_epochs_alone():
    events = []
    train(steps=7, callbacks=[events.append])
    assert seen(events) == [("start", 0, 0), ("epoch", 5, 0), ("end", 7, 1)]


def test_a_clock_calls_at_steps():
    events = []
    train(epochs=2, callbacks=[callbacks.every(events.append, seconds=1e-6)])
    assert next(event.step for event in events if event.kind == "step") == 1


def test_events_show_the_losses_since_the_last_of_their_kind_and_the_state_of_their_step():
    losses, states, metrics = {}, [], []

    def look(event):
        losses.setdefault(event.kind, []).append(event.losses)
        states.append(event.train_state)
        metrics.append(event.metrics)

    options = {"validation": HELD_OUT, "metrics": {"accuracy": fnn.accuracy}}
    end, history = train(epochs=2, callbacks=[callbacks.every(look, steps=3)], **options)
    sizes = {kind: [len(one) for one in found] for kind, found in losses.items()}
    # What comes between, a step or a validation, takes nothing from the end of an epoch.
    assert sizes == {"start": [0], "step": [3, 3, 3], "validation": [5, 5], "epoch": [5, 5],
                     "end": [10]}  # fmt: skip
    for found in losses.values():
        assert bits(np.concatenate(found)) == bits(history.loss[: sum(map(len, found))])
    assert [int(one.step) for one in states] == [0, 3, 5, 5, 6, 9, 10, 10, 10]
    assert bits(states[1]) == bits(train(steps=3)[0])
    assert bits(states[-1]) == bits(end)
    assert {name: history.validation[name][0] for name in ("loss", "accuracy")} == metrics[2]
    assert [np.isnan(one["loss"]) for one in metrics[:3]] == [True, True, False]


def test_callbacks_that_only_look_change_no_bit_and_compile_nothing(caplog):
    plain, history = train(epochs=2)
    looks = [callbacks.every(lambda event: None, steps=2), lambda event: None]
    (end, other), programs = compiled(caplog, lambda: train(epochs=2, callbacks=looks))
    assert bits(end) == bits(plain)
    assert bits((other.loss, other.epoch_loss)) == bits((history.loss, history.epoch_loss))
    assert programs == []


# What they change.


def test_another_learning_rate_is_that_of_the_run_from_there_and_compiles_nothing(caplog):
    half, _ = train(steps=4)
    expected, _ = train(0.01, steps=3, start=half)
    train(steps=1, callbacks=[changing(1)])
    (end, history), programs = compiled(caplog, lambda: train(steps=7, callbacks=[changing(4)]))
    assert bits(end.params) == bits(expected.params)
    assert len(history.loss) == 7
    assert programs == []


def changing(step):
    def change(event):
        if event.step == step and event.kind == "step":
            state, rate = event.train_state, np.float64(0.01)
            return state._replace(hyperparameters={**state.hyperparameters, RATE: rate})
        return None

    return callbacks.every(change, steps=1)


def test_a_run_goes_back_to_an_earlier_step_and_takes_the_same_again():
    kept = []

    def back(event):
        if event.step == 3 and not kept:
            kept.append(event.train_state)
        return kept[0] if event.step == 8 and len(kept) == 1 and not kept.append(None) else None

    for data, size in ((DATA, 5), (lambda epoch: batches(), None)):
        kept.clear()
        options = {"data": data, "batch_size": size, "epochs": 2}
        end, history = train(callbacks=[callbacks.every(back, steps=1)], **options)
        whole, expected = train(**options)
        assert bits(end) == bits(whole)
        assert bits((history.loss, history.epoch_loss)) == bits(
            (expected.loss, expected.epoch_loss)
        )


def batches():
    return [tuple(part[i : i + 5] for part in DATA) for i in range(0, 23, 5)]


def test_a_stop_ends_the_run_with_its_reason():
    def stop(event):
        return callbacks.Stop("enough") if event.step == 4 else None

    end, history = train(epochs=9, callbacks=[callbacks.every(stop, steps=2)])
    assert (int(end.step), len(history.loss), history.stopped) == (4, 4, "enough")
    assert bits(end) == bits(train(steps=4)[0])


def test_a_stop_is_not_undone_by_what_another_callback_answers():
    def stop(event):
        return callbacks.Stop("enough", event.train_state) if event.step == 5 else None

    def go_on(event):
        return event.train_state if event.kind == "epoch" else None

    end, history = train(epochs=3, callbacks=[stop, go_on])
    assert (int(end.step), len(history.loss), history.stopped) == (5, 5, "enough")


def scripted(values):
    """A validation whose loss takes these values, by the steps of the run."""
    model = fnn.dense(1, bias=False, initializer=jax.nn.initializers.zeros)
    # The loss of the held-out example is (w - t)^2, and w counts the steps.
    counting = optim.Optimizer(
        lambda params: (), lambda g, s, p: (jax.tree.map(jnp.ones_like, g), s)
    )
    table = jnp.asarray([0.0, *values])

    def metric(prediction, target):
        return table[prediction[:, 0].astype(int)]

    one = np.ones((1, 1), "float32")
    return lambda epochs, *given: fnn.fit(
        model, fnn.losses.squared_error(), counting, (one, one), epochs=epochs, batch_size=1,
        key=KEY, validation=(one, one), metrics={"score": metric}, callbacks=given,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("best", "values", "taken", "kept"),
    [
        ("lowest", [5, 3, 4, 3, 2, 9, 9, 9, 1], 8, 5),
        ("highest", [1, 3, 2, 4, 4, 4, 4, 9, 9], 7, 4),
        ("lowest", [5, 4, 3, 2, 1, 1, 0, 0, 0], 9, 7),
        ("lowest", [2, np.nan, np.nan, np.nan, 1, 0, 0, 0, 0], 4, 1),
    ],
)
def test_early_stopping_waits_and_ends_with_the_best(best, values, taken, kept):
    stopping = callbacks.early_stopping(metric="score", best=best, patience=3)
    for _ in range(2):  # it begins anew with every run
        end, history = scripted(values)(9, stopping)
        assert len(history.loss) == taken
        assert float(end.params["weight"][0, 0]) == kept
        assert history.stopped == ("no better score in 3 validations" if taken < 9 else "")
    last, _ = scripted(values)(
        9, callbacks.early_stopping(metric="score", best=best, patience=3, restore=False)
    )
    assert float(last.params["weight"][0, 0]) == taken


def test_the_learning_rate_is_reduced_on_a_plateau():
    rates = []

    def note(event):
        rates.append(round(float(event.train_state.hyperparameters[RATE]), 6))

    reduce = callbacks.reduce_on_plateau(patience=2, min_delta=10.0, factor=0.1, least=0.002)
    train(epochs=8, callbacks=[reduce, note])
    # The first loss is the best by far; every two more are too many, down to the least.
    assert rates[1:] == pytest.approx([0.03] * 2 + [0.003] * 2 + [0.002] * 5)


def test_a_run_that_loses_its_numbers_goes_on_from_before_with_a_smaller_rate():
    back = callbacks.roll_back(factor=1e-4)
    end, history = train(1e4, epochs=3, callbacks=[callbacks.every(back, steps=2)])
    assert history.stopped == ""
    assert (int(end.step), len(history.loss), len(history.epoch_loss)) == (15, 15, 3)
    assert np.isfinite(history.loss).all()
    assert float(end.hyperparameters[RATE]) == pytest.approx(1.0)


def test_it_rolls_back_so_often_and_no_more():
    data = (np.float32(3e38) * np.sign(DATA[0]), DATA[1])
    times = []

    def count(event):
        times.append(event.kind)

    back = callbacks.roll_back(at_most=2)
    with pytest.warns(UserWarning, match=r"^fnn\.fit: the loss became"):
        _, history = train(epochs=3, data=data, callbacks=[back, count])
    assert times.count("nonfinite") == 3
    assert history.stopped == "the parameters became infinite or NaN"


def test_it_goes_back_to_no_state_whose_loss_is_more_than_twice_the_lowest():
    start = fnn.init_train_state(MODEL, optim.sgd(0.03, 0.8), DATA[0][:1], key=KEY)
    back = callbacks.roll_back(factor=0.5)

    def event(kind, step, losses=()):
        state = start._replace(step=jnp.int32(step))
        return SimpleNamespace(
            kind=kind, step=step, losses=np.asarray(losses), train_state=state, resumed=False
        )

    back(event("start", 0))
    back(event("step", 1, [1.0]))
    back(event("step", 2, [2.0]))
    back(event("step", 3, [2.5]))
    # The end of the epoch shows the same losses again, whose mean is low enough.
    back(event("epoch", 3, [1.0, 2.0, 2.5]))
    assert int(back(event("nonfinite", 4)).step) == 2


# What they write.


def rows_of(file):
    with file.open(newline="") as lines:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(lines)]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_log_of_a_run_that_goes_on_is_that_of_the_whole(kind, tmp_path):
    log = {"csv": callbacks.log_csv, "json": callbacks.log_json}[kind]

    def read(file):
        if kind == "csv":
            return rows_of(file)
        found = [json.loads(line) for line in file.read_text().splitlines()]
        return [{k: v for k, v in row.items() if k != "seconds"} for row in found]

    def run(file, **options):
        logs = [callbacks.every(log(file), steps=2)]
        end, history = train(callbacks=logs, **options)
        return {"start": end, "data_state": history.data_state}

    one, other = tmp_path / "one", tmp_path / "other"
    run(one, steps=10)
    part = run(other, steps=6)
    run(other, steps=2, **part)  # of which nothing but the log is left
    with other.open("a") as file:
        file.write('{"step": 7, "ev')  # killed while it wrote
    run(other, steps=4, **part)
    assert [int(row["step"]) for row in read(one)] == [2, 4, 5, 6, 8, 10, 10]
    assert read(other) == read(one)


@pytest.mark.parametrize("log", [callbacks.log_csv, callbacks.log_json])
def test_a_run_that_goes_on_may_begin_a_log(log, tmp_path):
    end, history = train(steps=2)
    file = tmp_path / "log"
    train(
        steps=2, start=end, data_state=history.data_state,
        callbacks=[callbacks.every(log(file), steps=2)],
    )  # fmt: skip
    assert len(file.read_text().splitlines()) > 0


def test_what_is_not_finite_is_null_in_json(tmp_path):
    file = tmp_path / "log"
    train(
        steps=2, validation=HELD_OUT, callbacks=[callbacks.every(callbacks.log_json(file), steps=2)]
    )
    assert json.loads(file.read_text().splitlines()[0])["validation_loss"] is None


def test_tensorboard_gets_every_value(tmp_path, monkeypatch):
    import tensorboardX

    added = []
    monkeypatch.setattr(
        tensorboardX.SummaryWriter, "add_scalar", lambda self, *row: added.append(row)
    )
    _, history = train(
        epochs=2, validation=HELD_OUT, callbacks=[callbacks.log_tensorboard(tmp_path / "runs")]
    )
    assert list((tmp_path / "runs").iterdir())
    found = {(name, step): value for name, value, step in added}
    assert found["validation_loss", 10] == history.validation["loss"][1]


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    for name, data, size in (("arrays", DATA, 5), ("batches", lambda epoch: batches(), None)):
        options = {"data": data, "batch_size": size}
        keep = callbacks.checkpoint(tmp_path / name, steps=3, model=MODEL)
        part, _ = train(steps=7, callbacks=[keep], **options)
        file = fnn.train.latest_checkpoint(tmp_path / name)
        start, info = fnn.load_train_state(file, like=part), fnn.train.checkpoint_info(file)
        assert int(start.step) == 7
        rest, _ = train(steps=3, start=start, data_state=info.data_state, **options)
        assert bits(rest) == bits(train(steps=10, **options)[0])


def function_of_epoch(epoch):
    return iter(batches())


def plateau(metric):
    return callbacks.reduce_on_plateau(
        metric=metric, best="lowest", patience=2, min_delta=0.02, factor=0.5
    )


def stopping(metric):
    return callbacks.early_stopping(metric=metric, patience=2, min_delta=0.05)


def rolling(metric):
    return callbacks.every(callbacks.roll_back(factor=1e-4), steps=2)


RESUMED = {
    "a validation of every epoch": (0.05, {"validation": HELD_OUT}, [stopping, plateau]),
    "one of every 3 steps": (
        0.05, {"validation": HELD_OUT, "validation_every": 3}, [plateau, stopping],
    ),
    "the training loss": (0.05, {}, [stopping, plateau]),
    "batches of a function": (
        0.05, {"data": function_of_epoch, "batch_size": None, "validation": HELD_OUT},
        [plateau, stopping],
    ),
    # The checkpoints of steps that were rolled back are gone: all that are left go on as it did.
    "numbers that are lost": (1e4, {}, [rolling]),
}  # fmt: skip


@pytest.mark.parametrize("name", RESUMED)
def test_what_counts_goes_on_from_every_checkpoint_as_if_nothing_had_been(name, tmp_path):
    rate, options, makers = RESUMED[name]
    step_limit = 24

    def run(folder, steps, **given):
        events = []

        def look(event):
            told = event.kind, event.step, event.epoch, event.losses, event.metrics
            events.append((*told, event.stopped) if event.kind != "end" else ("end", event.stopped))

        # Saved at every step: also where the end of an epoch is still to be told. The callback
        # that saves is called behind the others, wherever it stands.
        keep = callbacks.checkpoint(folder, steps=1, keep=99)
        counting = [make("loss") for make in makers]
        end, history = train(
            rate, steps=steps, callbacks=[keep, callbacks.every(look, steps=2), *counting],
            **options, **given,
        )  # fmt: skip
        return end, history, events

    whole, history, expected = run(tmp_path / "whole", step_limit)
    lost = [i for i, one in enumerate(expected) if one[0] == "nonfinite"]
    assert bool(lost) == (makers == [rolling])
    expected = expected[lost[-1] + 1 :] if lost else expected
    files = sorted((tmp_path / "whole").glob("*.safetensors"))
    assert len(files) >= 10
    for i in (0, 2, 3, 4, 7, 8, 9):
        start = fnn.load_train_state(files[i], like=whole)
        step = int(start.step)
        position = fnn.train.checkpoint_info(files[i]).data_state
        end, rest, events = run(
            tmp_path / str(step), step_limit - step, start=start, data_state=position
        )
        assert bits(end) == bits(whole)
        assert bits(rest.loss) == bits(history.loss[step:])
        assert rest.stopped == history.stopped
        # Where the checkpoint was written the events of its step had been told, or not: the end of
        # an epoch comes behind it.
        told = [
            one for one in expected if one[0] == "end" or one[1] > step or told_behind(one, step)
        ]
        assert bits_of_events(events[1:]) == bits_of_events(told)


def test_the_validation_at_the_end_of_a_part_of_a_run_is_none_of_the_whole():
    def run(steps, **given):
        stop = callbacks.early_stopping(patience=9, min_delta=100.0)
        end, history = train(steps=steps, validation=HELD_OUT, callbacks=[stop], **given)
        return end, history, stop.get_state()

    part, history, _ = run(7)
    assert len(history.validation["loss"]) == 2
    _, _, joined = run(8, start=part, data_state=history.data_state)
    assert joined == run(15)[2]


def test_what_saves_is_called_when_the_others_have_counted(tmp_path):
    def stop():
        return callbacks.early_stopping(patience=1, min_delta=100.0)

    part, _ = train(epochs=1, callbacks=[callbacks.checkpoint(tmp_path), stop()])
    file = fnn.train.latest_checkpoint(tmp_path)
    start, info = fnn.load_train_state(file, like=part), fnn.train.checkpoint_info(file)
    _, history = train(epochs=9, callbacks=[stop()], start=start, data_state=info.data_state)
    assert len(history.loss) == 5


def told_behind(event, step):
    return event[:2] == ("epoch", step) or (event[:2] == ("validation", step) and not step % 5)


def bits_of_events(events):
    return [(one[:3], bits(one[3]), repr(one[4:])) if len(one) > 2 else one for one in events]


def test_counts_of_other_callbacks_are_refused():
    _, history = train(epochs=1, callbacks=[stopping("loss"), plateau("loss")])
    with pytest.raises(fnn.InputError, match="the callbacks of the run before, _EarlyStopping"):
        train(epochs=1, callbacks=[plateau("loss")], data_state=history.data_state)
    with pytest.raises(fnn.InputError, match="a data_state of an earlier run"):
        train(epochs=1, callbacks=[stopping("loss")], data_state=history.data_state[:60])


def test_a_learning_rate_of_the_arguments_that_changed_counts_more_than_that_of_a_callback():
    part, history = train(steps=4, callbacks=[changing(2)])
    given = {"steps": 1, "start": part, "data_state": history.data_state}
    for rate, expected in ((0.03, 0.01), (0.02, 0.02)):
        end, _ = train(rate, callbacks=[], **given)
        assert float(end.hyperparameters[RATE]) == pytest.approx(expected)


class Counter:
    """A callback of one's own that counts epochs, and goes on."""

    def __init__(self, state=None):
        self.epochs, self.state = 0, state

    def __call__(self, event):
        self.epochs += event.kind == "epoch"

    def get_state(self):
        return str(self.epochs).encode() if self.state is None else self.state

    def set_state(self, state):
        self.epochs = int(state)


def test_a_callback_of_ones_own_goes_on_with_what_it_counts():
    end, history = train(epochs=2, callbacks=[Counter()])
    again = Counter()
    train(epochs=3, start=end, data_state=history.data_state, callbacks=[again])
    assert again.epochs == 5
    with pytest.raises(fnn.InputError, match="bytes from get_state of the callback Counter, got 3"):
        train(epochs=1, callbacks=[Counter(3)])


def test_a_run_that_stops_with_an_earlier_state_keeps_its_checkpoints(tmp_path):
    stop = callbacks.early_stopping(patience=1, min_delta=100.0)
    _, history = train(
        epochs=4, validation=HELD_OUT, callbacks=[stop, callbacks.checkpoint(tmp_path)]
    )
    assert history.stopped.startswith("no better loss")
    assert fnn.train.latest_checkpoint(tmp_path).name == "step-000000000005.safetensors"


def test_the_best_checkpoint_stays(tmp_path):
    keep = callbacks.checkpoint(tmp_path, keep=1, metric="loss", best="highest")
    _, history = train(epochs=4, validation=HELD_OUT, callbacks=[keep])
    best = fnn.train.checkpoint_info(fnn.train.best_checkpoint(tmp_path, "highest"))
    assert best.step == 5 * (1 + int(np.argmax(history.validation["loss"])))


# What is no callback, and no answer.


def answering(**fields):
    return [lambda event: event.train_state._replace(**fields)]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (3, "a list of callbacks"),
        ("abc", "a list of callbacks"),
        ([3], "callback to be a function"),
        ([fnn.relu], r"callback to be a function of \(event\)"),
        ([lambda event: 3], "an answer of the callback <lambda>, got 3"),
        (answering(params=()), "a train state of <lambda> like"),
        (answering(hyperparameters={}), "a train state of <lambda> with the hyper-parameters"),
        (answering(step=jnp.int32(9)), r"a train state of <lambda> at a step in \[0, 0\]"),
        ([callbacks.early_stopping(metric="score")], "validation data for the metric 'score'"),
        ([callbacks.reduce_on_plateau(path="rate")], "a hyper-parameter 'rate'"),
        ([callbacks.checkpoint("/dev/null/none")], "a folder to write to"),
        ([callbacks.log_csv("/nowhere/log.csv")], "a file to write to"),
    ],
)
def test_what_is_no_callback_or_answer_is_refused(given, match):
    with pytest.raises(fnn.InputError, match=match):
        train(epochs=1, callbacks=given)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: callbacks.every(print), "steps or seconds, got neither"),
        (lambda: callbacks.every(print, steps=1, seconds=1), "steps or seconds, got both"),
        (lambda: callbacks.every(3, steps=1), "callback to be a function"),
        (lambda: callbacks.every(print, seconds=0), "seconds above 0"),
        (lambda: callbacks.early_stopping(best="min"), "best of 'lowest', 'highest'"),
        (lambda: callbacks.early_stopping(patience=0), "patience of 1 or more"),
        (lambda: callbacks.reduce_on_plateau(factor=1.0), r"factor in \(0, 1\)"),
        (lambda: callbacks.roll_back(at_most=0), "at_most of 1 or more"),
        (lambda: callbacks.log_csv(3), "file to be a path"),
        (lambda: callbacks.checkpoint("here", keep=0), "keep of 1 or more"),
    ],
)
def test_arguments_of_callbacks_are_looked_at(make, match):
    with pytest.raises(fnn.InputError, match=rf"^fnn\.train\.callbacks\.\w+: expected {match}"):
        make()
