"""Data that are read while a run goes on: the same bits from everywhere, in order, to the step."""

from __future__ import annotations

import functools
import itertools

import grain
import jax
import numpy as np
import pytest

import fnn
from fnn import optim
from fnn.train.data import _order, _rows, stream
from tests.train.test_fit import CLASSES, EXAMPLES, KEY, OTHER, bits, classes, compiled

SIZE, STEPS = 5, 5  # steps an epoch, the last of 3 examples
X, Y = classes()


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch):
    # Several portions an epoch, and one program for the sources of all kinds.
    monkeypatch.setattr(stream, "_PORTION_STEPS", 2)


def network():
    return fnn.serial(fnn.dense(4), fnn.batch_norm(), fnn.dropout(0.3), fnn.dense(3))


OPTIMIZERS = {
    "momentum": optim.sgd(0.03, 0.8),
    "accumulated-averaged-noisy": optim.chain(
        optim.anticorrelated_noise(0.02, key=OTHER),
        optim.accumulate(optim.sgd(0.03, 0.8), 2),
        optim.ema(0.9),
    ),
    "schedule-free": optim.schedule_free_sgd(0.03),
    "sghmc": optim.sghmc(0.01, temperature=1e-4, key=OTHER),
}
MODEL, LOSS = network(), fnn.losses.cross_entropy()


def train(data, optimizer="momentum", **options):
    options = {"key": KEY} | options if "start" not in options else options
    return fnn.fit(MODEL, LOSS, OPTIMIZERS[optimizer], data, **options)


def batches(epoch=0):
    """The batches of an epoch, in an order of its own."""
    order = np.random.default_rng(epoch).permutation(EXAMPLES)
    return [(X[rows], Y[rows]) for rows in np.split(order, range(SIZE, EXAMPLES, SIZE))]


def generated():
    for epoch in itertools.count():
        yield from batches(epoch)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(file, X)
    return np.load(file, mmap_mode="r")


def examples():
    return grain.MapDataset.source(list(zip(X, Y, strict=True))).seed(3).shuffle()


def loader():
    return grain.DataLoader(
        data_source=list(zip(X, Y, strict=True)),
        sampler=grain.samplers.IndexSampler(EXAMPLES, shuffle=True, seed=3, num_epochs=1),
        operations=[grain.transforms.Batch(SIZE)],
    )


SOURCES = {
    "list": batches,
    "function": lambda: batches,
    "function-of-generators": lambda: lambda epoch: iter(batches(epoch)),
    "grain-map": lambda: examples().batch(SIZE),
    "grain-iter": lambda: examples().batch(SIZE).to_iter_dataset(),
    "grain-loader": loader,
}


# The same bits.


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_memory_map_trains_to_the_bits_of_its_array(optimizer, mapped):
    array, first = train((X, Y), optimizer, epochs=2, batch_size=SIZE)
    from_file, second = train((mapped, Y), optimizer, epochs=2, batch_size=SIZE)
    assert bits(from_file) == bits(array)
    assert bits((second.loss, second.epoch_loss)) == bits((first.loss, first.epoch_loss))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["arrays", "map", "function", "grain-map"])
def test_a_run_goes_on_from_any_step_bit_for_bit(kind, optimizer, mapped):
    data = {"arrays": (X, Y), "map": (mapped, Y)}.get(kind) or SOURCES[kind]()
    options = {"batch_size": SIZE} if kind in ("arrays", "map") else {}
    run = functools.partial(train, data, optimizer, **options)
    whole, history = run(steps=2 * STEPS)
    for taken in (1, 4, 5, 7):
        part, first = run(steps=taken)
        for place in {None, first.data_state}:
            rest, second = run(steps=2 * STEPS - taken, start=part, data_state=place)
            assert bits(rest) == bits(whole)
            assert bits(np.concatenate([first.loss, second.loss])) == bits(history.loss)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_goes_on_from_its_place_and_from_its_step(kind):
    data = SOURCES[kind]()
    whole, _ = train(data, steps=8)
    part, first = train(data, steps=6)
    for place in {None, first.data_state}:
        assert bits(train(data, steps=2, start=part, data_state=place)[0]) == bits(whole)


def test_a_generator_goes_on_with_what_it_gives_next():
    whole, _ = train(batches, steps=7)
    data = generated()
    part, _ = train(data, steps=4)
    assert bits(train(data, steps=3, start=part)[0]) == bits(whole)


def test_a_loader_of_pytorch_trains_as_the_list_of_its_batches():
    torch = pytest.importorskip("torch")
    rows = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    data = torch.utils.data.DataLoader(rows, batch_size=SIZE)
    parts = [(X[i : i + SIZE], Y[i : i + SIZE]) for i in range(0, EXAMPLES, SIZE)]
    assert bits(train(data, epochs=2)[0]) == bits(train(parts, epochs=2)[0])


# In order, and no further.


def numbered(count, read):
    """Batches whose loss is the square of their number, at rate 0 and output 0."""
    for i in range(count):
        read.append(i)
        yield np.zeros((2, 1), "float32"), np.full((2, 1), i, "float32")


def numbers(count, read, **options):
    model = fnn.dense(1, bias=False, initializer=jax.nn.initializers.zeros)
    _, history = fnn.fit(
        model, fnn.losses.squared_error(), optim.sgd(0.0), numbered(count, read), key=KEY, **options
    )
    return np.sqrt(history.loss).round().astype(int).tolist(), history


def test_batches_are_taken_in_the_order_in_which_they_come():
    read = []
    assert numbers(33, read, epochs=1)[0] == read == list(range(33))


def test_a_source_that_swaps_its_portions_is_noticed(monkeypatch):
    honest = stream._Reader.portions

    def swapped(*args):
        found = list(honest(*args))
        return iter([*found[1::-1], *found[2:]])

    monkeypatch.setattr(stream._Reader, "portions", swapped)
    assert numbers(9, [], epochs=1)[0] != list(range(9))


def test_no_batch_is_read_behind_the_last_step():
    read = []
    taken, history = numbers(33, read, steps=7)
    assert taken == read == list(range(7))
    assert history.stopped == ""


def test_data_that_end_before_the_last_step_are_told():
    taken, history = numbers(5, [], steps=7)
    assert taken == list(range(5))
    assert history.stopped == "the data ended after 5 steps"


def test_memory_is_flat_however_long_a_stream_is():
    counts = []

    def look(event):
        if event.kind == "step":
            counts.append(len(jax.live_arrays()))

    numbers(400, [], epochs=1, callbacks=[fnn.train.callbacks.every(look, steps=100)])
    assert len(counts) == 4
    # The losses of some stretches wait for their copy.
    assert max(counts[1:]) - min(counts[1:]) <= 64


def test_batches_of_other_shapes_are_steps_of_their_own():
    parts = [(X[:5], Y[:5]), (X[5:8], Y[5:8]), (X[8:10], Y[8:10]), (X[10:15], Y[10:15])]
    end, history = train(parts, epochs=1)
    step = jax.jit(fnn.train_step(MODEL, LOSS, OPTIMIZERS["momentum"]))
    looped = fnn.init_train_state(MODEL, OPTIMIZERS["momentum"], X[:5], key=KEY)
    for part in parts:
        looped, _ = step(looped, part)
    assert int(end.step) == len(history.loss) == 4
    for one, other in zip(jax.tree.leaves(end.params), jax.tree.leaves(looped.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_the_epoch_loss_counts_batches_by_their_examples():
    _, history = train(batches(), epochs=2)
    expected = np.average(history.loss.reshape(2, STEPS), axis=1, weights=[5, 5, 5, 5, 3])
    np.testing.assert_allclose(history.epoch_loss, expected, rtol=1e-6)


def test_a_second_run_on_a_stream_compiles_nothing(caplog):
    train(batches(), epochs=1)
    _, again = compiled(caplog, lambda: train(batches(), epochs=2, key=OTHER))
    assert again == []


# Length.


@pytest.mark.parametrize("steps", [0, 3, 5, 8])
def test_steps_are_taken_to_the_number(steps):
    end, history = train((X, Y), steps=steps, batch_size=SIZE, validation=(X, Y))
    assert int(end.step) == len(history.loss) == steps
    assert len(history.epoch_loss) == -(-steps // STEPS)
    assert len(history.validation.get("loss", ())) == -(-steps // STEPS)


def test_validation_every_so_many_steps_is_evaluate_there():
    _, history = train((X, Y), steps=7, batch_size=SIZE, validation=(X, Y), validation_every=3)
    part, _ = train((X, Y), steps=6, batch_size=SIZE)
    expected = fnn.evaluate(MODEL, LOSS, part.params, part.state, (X, Y), batch_size=SIZE)
    assert len(history.validation["loss"]) == 2
    assert history.validation["loss"][1] == expected["loss"]


# On the device.


def test_a_transform_changes_what_a_step_sees_and_nothing_else():
    same, _ = train((X, Y), epochs=1, batch_size=SIZE, transform=lambda batch, key, step: batch)
    plain, _ = train((X, Y), epochs=1, batch_size=SIZE)
    assert bits(same) == bits(plain)
    twice, _ = train((2 * X, Y), epochs=1, batch_size=SIZE)
    doubled, _ = train((X, Y), epochs=1, batch_size=SIZE, transform=doubling)
    assert bits(doubled) == bits(twice)


def doubling(batch, key, step):
    return batch._replace(x=2 * batch.x)


def test_a_transform_draws_anew_in_every_step_and_the_same_in_every_run():
    def noise(batch, key, step):
        return batch._replace(target=0 * batch.target + jax.random.normal(key))

    def run(start=None, **options):
        model = fnn.dense(1, bias=False, initializer=jax.nn.initializers.zeros)
        options |= {"key": KEY} if start is None else {"start": start}
        return fnn.fit(
            model, fnn.losses.squared_error(), optim.sgd(0.0), (np.zeros((6, 1), "float32"),) * 2,
            batch_size=2, transform=noise, **options,
        )  # fmt: skip

    _, whole = run(steps=5)
    part, first = run(steps=2)
    _, second = run(part, steps=3)
    assert len(set(whole.loss.tolist())) == 5
    assert bits(np.concatenate([first.loss, second.loss])) == bits(whole.loss)


# The order.


@pytest.mark.parametrize("examples", [1, 2, 3, 5, 64, 1000, 4097])
def test_an_order_that_stands_nowhere_visits_every_example_once(examples, monkeypatch):
    monkeypatch.setattr(_order, "_DRAWN", 0)
    order = _order.EpochOrder([1, 2], 3, examples)
    rows = np.concatenate([order.rows(i, min(i + 7, examples)) for i in range(0, examples, 7)])
    np.testing.assert_array_equal(np.sort(rows), np.arange(examples))


def test_orders_that_stand_nowhere_differ_by_key_and_epoch_and_look_like_chance(monkeypatch):
    monkeypatch.setattr(_order, "_DRAWN", 0)
    count = 4096
    orders = [
        _order.EpochOrder([k], epoch, count).rows(0, count) for k in (1, 2) for epoch in (0, 1)
    ]
    # Correlations of chance have a deviation of 1 / 64: 5 of them, once in 10^6 for each.
    found = np.corrcoef([*orders, np.arange(count), *(np.roll(one, 1) for one in orders)])
    assert np.abs(found - np.eye(len(found))).max() < 5 / 64


def test_an_order_of_a_billion_examples_is_read_where_it_is_asked_for():
    order = _order.EpochOrder([1], 0, 10**9)
    rows = order.rows(10**9 - 1000, 10**9)
    assert len(set(rows.tolist())) == 1000
    assert rows.min() >= 0
    assert rows.max() < 10**9


# What is wrong is named.


def refused(match, data, **options):
    with pytest.raises(fnn.InputError, match=match) as raised:
        train(data, **options)
    assert str(raised.value).startswith("fnn.fit: expected")


def test_what_does_not_go_together_is_refused(mapped):
    refused("no batch_size for data in batches, got 5", batches(), epochs=1, batch_size=5)
    refused("a batch_size from 1 to 23", (X, Y), epochs=1)
    refused("epochs or steps, got neither", (X, Y), batch_size=5)
    refused("epochs or steps, got both", (X, Y), batch_size=5, epochs=1, steps=1)
    refused("steps of 0 or more", (X, Y), batch_size=5, steps=-1)
    refused("one epoch of a generator.*function of the epoch", generated(), epochs=2)
    refused("batches from .* in epoch 0, got none", iter(()), epochs=1)
    refused("no data_state for data of arrays", (X, Y), batch_size=5, steps=1, data_state=b"{}")
    refused("a data_state of an earlier run", batches(), steps=1, data_state=b"[]")
    refused("that can be read from a place", generated(), steps=1, data_state=b"{}")
    refused("x and target of one length", (mapped, Y[:4]), batch_size=5, steps=1)
    refused("validation data for validation_every", batches(), steps=1, validation_every=2)


def test_a_row_that_is_not_finite_is_named_by_its_number(tmp_path):
    spoiled = np.array(X)
    spoiled[17, 2] = np.nan
    np.save(tmp_path / "x.npy", spoiled)
    data = np.load(tmp_path / "x.npy", mmap_mode="r"), Y
    refused(r"nan at x\[0, 2\] of example 17", data, epochs=1, batch_size=SIZE)


def test_a_batch_that_is_wrong_is_named_by_its_step():
    wrong = [*batches()[:2], (X[:5], Y[:5] + CLASSES), *batches()[3:]]
    refused("of the batch of step 2", wrong, epochs=1)


def test_a_reader_that_fails_is_named_and_the_run_is_not_lost():
    def failing():
        for step, batch in zip(range(5), generated(), strict=False):
            if step == 4:
                raise OSError("the disk is gone")
            yield batch

    with pytest.raises(OSError, match="the disk is gone") as raised:
        train(failing(), steps=8)
    error = raised.value
    assert "raised by generator, read for a batch of step 4" in "".join(error.__notes__)
    assert "go on with start=error.train_state" in "".join(error.__notes__)
    assert int(error.train_state.step) == len(error.history.loss) == 4
    assert error.history.stopped == "OSError was raised"
    rest, _ = train(batches, steps=4, start=error.train_state)
    assert bits(rest) == bits(train(batches, steps=8)[0])


VIEWS = {
    "whole": lambda a: a,
    "from-a-row-on": lambda a: a[3:],
    "every-second": lambda a: a[::2],
    "backwards": lambda a: a[::-1],
    "one-column": lambda a: a[:, 1],
    "some-columns": lambda a: a[:, 1:3],
    "transposed": lambda a: a.T,
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_rows_of_a_map_are_its_rows_and_what_was_written_stays(view, mode, tmp_path):
    # With something in front, so that the array begins in the middle of a page.
    (tmp_path / "x").write_bytes(b"head" * 1500 + X.tobytes())
    array = np.memmap(tmp_path / "x", np.float32, mode, 6000, X.shape)
    if mode != "r":
        array[5] = 7
    seen = VIEWS[view](array)
    rows = np.array([3, 0, 3, len(seen) - 1])
    np.testing.assert_array_equal(_rows.row_reader(seen)(rows), np.array(seen)[rows])
    assert mode == "r" or (array[5] == 7).all()


def test_a_file_that_took_the_name_of_the_mapped_one_is_not_read(tmp_path):
    np.save(tmp_path / "x.npy", X)
    array = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.save(tmp_path / "other.npy", X + 1)
    (tmp_path / "other.npy").replace(tmp_path / "x.npy")
    np.testing.assert_array_equal(_rows.row_reader(array)(np.arange(3)), X[:3])


def test_a_file_that_is_cut_is_told(tmp_path):
    np.save(tmp_path / "x.npy", X)
    read = _rows.row_reader(np.load(tmp_path / "x.npy", mmap_mode="r"))
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(fnn.InputError, match="as long as when it was mapped, got a shorter file"):
        read(np.array([20]))


def test_a_transform_may_give_the_model_another_dtype_and_other_targets():
    raw = np.round(20 * X).astype("int8")

    def scaled(batch, key, step):
        return batch._replace(
            x=batch.x.astype("float32") / 16, target=jax.nn.one_hot(batch.target, 3)
        )

    def hot(batch, key, step):
        return batch._replace(target=jax.nn.one_hot(batch.target, 3))

    one, _ = train((raw, Y), epochs=1, batch_size=SIZE, transform=scaled)
    other, _ = train((raw / np.float32(16), Y), epochs=1, batch_size=SIZE, transform=hot)
    assert bits(one) == bits(other)
