"""Training: bit for bit reproducible, every example once an epoch, and gradient descent by hand."""

from __future__ import annotations

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import optim
from tests.tolerance import difference, rounding

KEY, OTHER = jax.random.key(7), jax.random.key(8)
EXAMPLES, INPUTS, CLASSES, EPOCHS = 23, 4, 3, 5
LR, MOMENTUM = 0.03, 0.8
SIZES = [1, 5, EXAMPLES]  # stochastic, with a ragged last batch of 3, full-batch
all_sizes = pytest.mark.parametrize("batch_size", SIZES)
# For the tests that compile a whole network for every one.
sizes_and_dtypes = pytest.mark.parametrize(
    ("batch_size", "dtype"), [*((size, "float32") for size in SIZES), (5, "float64")]
)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def classes(seed=0, examples=EXAMPLES, dtype="float32"):
    random = np.random.default_rng(seed)
    x = random.normal(size=(examples, INPUTS)).astype(dtype)
    return x, random.integers(0, CLASSES, examples).astype("int32")


def numbers(dtype="float64"):
    random = np.random.default_rng(1)
    x = random.normal(size=(EXAMPLES, INPUTS))
    return x.astype(dtype), random.normal(size=(EXAMPLES, 1)).astype(dtype)


def network():
    """A model with every kind of memory and chance."""
    return fnn.serial(
        hidden=fnn.serial(fnn.dense(6), fnn.batch_norm(momentum=0.7), fnn.tanh(), fnn.dropout(0.3)),
        out=fnn.dense(CLASSES),
    )


def noisy():
    return optim.chain(optim.gradient_noise(0.02, 0.4, key=OTHER), optim.sgd(LR, MOMENTUM))


def momentum():
    return optim.sgd(LR, MOMENTUM)


def train(data=None, optimizer=None, *, epochs=EPOCHS, batch_size=5, model=None, **options):
    options = {"key": KEY} | options if "start" not in options else options
    return fnn.fit(
        model or network(), fnn.losses.cross_entropy(), optimizer or momentum(), data or classes(),
        epochs=epochs, batch_size=batch_size, **options,
    )  # fmt: skip


def linear(**options):
    return fnn.dense(1, bias=False, initializer=jax.nn.initializers.zeros, **options)


def orders(epochs, key=KEY, examples=EXAMPLES):
    """Where fit goes: with rate 0 and output 0 the loss of example i is its target squared, i^2."""
    data = np.zeros((examples, 1), "float32"), np.arange(examples, dtype="float32")[:, None]
    _, history = fnn.fit(
        linear(), fnn.losses.squared_error(), optim.sgd(0.0), data, epochs=epochs, batch_size=1,
        key=key,
    )  # fmt: skip
    return np.sqrt(history.loss).reshape(epochs, examples).round().astype(int)


def bits(tree):
    """Everything a tree holds, down to the last bit."""

    def is_key(a):
        return jnp.issubdtype(a.dtype, jax.dtypes.prng_key)

    data = [jax.random.key_data(a) if is_key(a) else a for a in jax.tree.leaves(tree)]
    return [(str(a.dtype), a.shape, np.asarray(a).tobytes()) for a in data]


def assert_close(one, other, bound):
    """Equal within `bound`, relative to the largest number of all."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    left, right = ([np.asarray(a, np.float64) for a in jax.tree.leaves(t)] for t in (one, other))
    scale = max(np.abs(b).max() for b in right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * scale)


def compiled(caplog, function):
    """Return what function() gives, and the names of the programs that it made JAX compile."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        result = function()
    return result, [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]


# One step.


def test_a_step_is_pure_and_adds_the_updates():
    model, optimizer = fnn.serial(fnn.dropout(0.3), fnn.dense(CLASSES)), momentum()
    loss, batch = fnn.losses.cross_entropy(), classes()
    start = fnn.init_train_state(model, optimizer, batch[0], key=KEY)
    before, step = bits((start, batch)), fnn.train_step(model, loss, optimizer)
    (one, metrics), (other, again) = step(start, batch), step(start, batch)
    assert bits((one, metrics)) == bits((other, again))
    assert bits((start, batch)) == before
    # Of the same numbers, which are arrays in a step.
    made = step.structure.build(start.hyperparameters)
    (value, _), grads = fnn.value_and_grad(made["model"], loss)(
        start.params, start.state, batch, key=jax.random.fold_in(start.key, 0)
    )
    updates, _ = made["optimizer"].update(grads, start.opt_state, start.params)
    assert bits(one.params) == bits(jax.tree.map(jnp.add, start.params, updates))
    assert metrics["loss"] == value
    assert (int(one.step), bits(one.key)) == (1, bits(start.key))


def test_the_randomness_of_a_step_depends_on_its_number():
    model, batch = fnn.serial(fnn.dropout(0.3), fnn.dense(CLASSES)), classes()
    start = fnn.init_train_state(model, optim.sgd(LR), batch[0], key=KEY)
    step = fnn.train_step(model, fnn.losses.cross_entropy(), optim.sgd(LR))
    one, other = step(start, batch), step(start._replace(step=jnp.int32(1)), batch)
    assert one[1]["loss"] != other[1]["loss"]


def test_a_training_state_starts_from_init_whether_x_is_known_or_only_its_shape():
    x, _ = classes()
    spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
    one, other = (fnn.init_train_state(network(), noisy(), a, key=KEY) for a in (x, spec))
    assert bits(one) == bits(other)
    assert int(one.step) == 0


@sizes_and_dtypes
def test_fit_is_a_loop_of_steps_in_the_order_drawn(batch_size, dtype):
    with jax.enable_x64(dtype == "float64"):
        (x, y), optimizer = classes(dtype=dtype), momentum()
        step = jax.jit(fnn.train_step(network(), fnn.losses.cross_entropy(), optimizer))
        spec = jax.ShapeDtypeStruct((batch_size, INPUTS), dtype)
        looped, losses = fnn.init_train_state(network(), optimizer, spec, key=KEY), []
        for order in orders(2):
            for i in range(0, EXAMPLES, batch_size):
                rows = order[i : i + batch_size]
                looped, metrics = step(looped, (x[rows], y[rows]))
                losses.append(metrics["loss"])
        fitted, history = train((x, y), optimizer, epochs=2, batch_size=batch_size)
        bound = rounding(dtype, EXAMPLES * len(losses))
        assert_close(fitted.params, looped.params, bound)
        assert_close(history.loss, np.stack(losses), bound)


# The order of the examples.


def test_every_epoch_visits_every_example_once_in_an_order_of_its_own():
    drawn = orders(EPOCHS)
    np.testing.assert_array_equal(np.sort(drawn), np.tile(np.arange(EXAMPLES), (EPOCHS, 1)))
    assert len({tuple(order) for order in drawn}) == EPOCHS


def test_the_order_comes_from_the_key():
    np.testing.assert_array_equal(orders(2), orders(2))
    assert (orders(2) != orders(2, OTHER)).any()


@all_sizes
def test_every_example_moves_its_own_parameter_once_an_epoch(batch_size, dtype):
    # Example i is the i-th unit vector: from 0 to target 1 its weight moves by 2 lr / B, once.
    data = np.eye(EXAMPLES, dtype=dtype), np.ones((EXAMPLES, 1), dtype)
    end, history = fnn.fit(
        linear(), fnn.losses.squared_error(), optim.sgd(LR), data, epochs=1, batch_size=batch_size,
        key=KEY,
    )  # fmt: skip
    full, rest = divmod(EXAMPLES, batch_size)
    sizes = np.array([batch_size] * full + [rest] * bool(rest))
    assert history.loss.shape == sizes.shape
    expected = np.repeat(2 * LR / sizes, sizes)
    moved = np.sort(np.asarray(end.params["weight"], np.float64).ravel())
    np.testing.assert_allclose(moved, np.sort(expected), rtol=rounding(dtype, batch_size))


@all_sizes
def test_fit_is_gradient_descent_by_hand(batch_size, dtype):
    x, t = numbers()
    w, losses = np.zeros((INPUTS, 1)), []
    for order in orders(EPOCHS):
        for i in range(0, EXAMPLES, batch_size):
            rows = order[i : i + batch_size]
            error = x[rows] @ w - t[rows]
            losses.append((error**2).mean())
            w = w - LR * 2 / len(rows) * x[rows].T @ error
    end, history = fnn.fit(
        linear(), fnn.losses.squared_error(), optim.sgd(LR), numbers(dtype), epochs=EPOCHS,
        batch_size=batch_size, key=KEY,
    )  # fmt: skip
    bound = rounding(dtype, EXAMPLES * len(losses))
    assert_close(end.params["weight"], w, bound)
    assert_close(history.loss, np.array(losses), bound)


# The same bits.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"key": jax.random.key(7)},
        {"key": jax.random.PRNGKey(7)},
        {"progress": True},
        {"progress": lambda step, steps, loss: None},
        {"validation": classes(2), "metrics": {"accuracy": fnn.accuracy}},
        {"data": jax.tree.map(jnp.asarray, classes())},
    ],
    ids=["again", "equal-key", "old-key", "bar", "function", "validation", "on-device"],
)
def test_bits_do_not_depend_on(options):
    # An old-style key holds the same numbers; only its own leaf looks different.
    optimizer = noisy()
    (one, first), (other, second) = (
        train(optimizer=optimizer),
        train(**{"optimizer": optimizer} | options),
    )
    for name in ("params", "state", "opt_state", "step"):
        assert bits(getattr(one, name)) == bits(getattr(other, name))
    assert bits((first.loss, first.epoch_loss)) == bits((second.loss, second.epoch_loss))


def test_another_key_gives_other_parameters():
    (one, _), (other, _) = train(), train(key=OTHER)
    assert bits(one.params) != bits(other.params)


@sizes_and_dtypes
def test_two_epochs_and_then_three_are_five_bit_for_bit(batch_size, dtype):
    with jax.enable_x64(dtype == "float64"):
        run = functools.partial(train, classes(dtype=dtype), noisy(), batch_size=batch_size)
        two, first = run(epochs=2)
        three, second = run(epochs=3, start=two)
        five, whole = run(epochs=5)
    assert bits(three) == bits(five)
    assert bits(np.concatenate([first.loss, second.loss])) == bits(whole.loss)


def test_start_key_and_data_survive():
    data = jax.tree.map(jnp.asarray, classes())
    start, _ = train(data, epochs=1)
    before = bits((start, data, KEY, OTHER))
    train(data, start=start)
    train(data)
    assert bits((start, data, KEY, OTHER)) == before


@pytest.mark.parametrize("gradient", ["auto", "numeric"])
def test_histories_agree_with_the_manual_gradient(gradient):
    with jax.enable_x64(True):
        data, steps = classes(dtype="float64"), EPOCHS * 5
        # A batch norm bends on a scale of its own, which the bound of a difference does not know.
        layers = {"hidden": fnn.dense(6), "bend": fnn.tanh(), "out": fnn.dense(CLASSES)}
        model = fnn.serial(**layers) if gradient == "numeric" else network()
        one, manual = train(data, model=model)
        other, history = train(data, model=model, gradient=gradient)
        terms = EXAMPLES * steps
        bound = (difference if gradient == "numeric" else rounding)("float64", terms)
        assert_close((history.loss, history.epoch_loss), (manual.loss, manual.epoch_loss), bound)
        assert_close(other.params["out"], one.params["out"], bound)


# Compilation.


@pytest.mark.parametrize(("taken", "programs"), [(2, 1), (4, 1), (5, 2)])
def test_a_run_that_ends_before_the_smaller_last_batch_compiles_no_program_for_it(
    taken, programs, caplog
):
    model = fnn.serial(fnn.dense(taken + 10), fnn.dense(CLASSES))
    options = {"steps": taken, "batch_size": 5, "key": KEY}
    _, seen = compiled(
        caplog,
        lambda: fnn.fit(model, fnn.losses.cross_entropy(), optim.sgd(0.1), classes(), **options),
    )
    assert sum("run_steps" in name for name in seen) == programs


def test_a_second_fit_of_equal_things_compiles_nothing(caplog):
    def once(width, seed):
        model = fnn.serial(fnn.dense(width), fnn.relu(), fnn.dense(CLASSES))
        optimizer = optim.chain(
            optim.clip_by_global_norm(0.7), optim.sgd(optim.schedule.cosine(0.02, 9), 0.6)
        )
        return fnn.fit(
            model, fnn.losses.cross_entropy(0.05), optimizer, classes(seed), epochs=2, batch_size=7,
            validation=classes(seed + 1), metrics={"accuracy": fnn.accuracy},
            key=jax.random.key(seed),
        )  # fmt: skip

    _, first = compiled(caplog, lambda: once(9, 0))
    _, second = compiled(caplog, lambda: once(9, 1))
    _, third = compiled(caplog, lambda: once(10, 1))
    assert any("run_steps" in message for message in first)
    assert second == []
    assert any("run_steps" in message for message in third)


@pytest.mark.parametrize("progress", [False, lambda *_: None], ids=["silent", "progress"])
def test_the_number_of_epochs_does_not_compile_again(caplog, progress):
    train(epochs=1, progress=progress)
    _, again = compiled(caplog, lambda: train(epochs=4, progress=progress))
    assert again == []


# Weights.


@pytest.mark.parametrize("kind", ["float32", "int32", "bool"])
@all_sizes
def test_an_example_of_weight_0_does_not_matter(batch_size, kind):
    x, y = classes()
    weights = np.ones(EXAMPLES, kind)
    # Stochastic descent has batches of one example, and none of those may weigh nothing.
    absent = [] if batch_size == 1 else [4]
    weights[absent] = 0
    other_x, other_y = x.copy(), y.copy()
    other_x[absent], other_y[absent] = 17, (y[absent] + 1) % CLASSES
    model = fnn.serial(fnn.dense(6), fnn.tanh(), fnn.dense(CLASSES))
    one, other = (
        fnn.fit(
            model,
            fnn.losses.cross_entropy(),
            optim.sgd(LR),
            data,
            epochs=2,
            key=KEY,
            batch_size=batch_size,
        )
        for data in ((x, y, weights), (other_x, other_y, weights))
    )
    assert bits(one[0].params) == bits(other[0].params)
    assert bits(one[1].loss) == bits(other[1].loss)


def test_equal_weights_are_no_weights(dtype):
    data = numbers(dtype)
    (one, first), (other, second) = (
        fnn.fit(
            linear(),
            fnn.losses.squared_error(),
            optim.sgd(LR),
            parts,
            epochs=EPOCHS,
            key=KEY,
            batch_size=5,
        )
        for parts in (data, (*data, np.full(EXAMPLES, 3.0, dtype)))
    )
    bound = rounding(dtype, EXAMPLES * EPOCHS * 5)
    assert_close(other.params, one.params, bound)
    assert_close(second.loss, first.loss, bound)


def test_a_weight_of_2_counts_an_example_twice(dtype):
    x, t = numbers(dtype)
    weights = np.ones(EXAMPLES, dtype)
    weights[:4] = 2
    doubled = np.concatenate([x, x[:4]]), np.concatenate([t, t[:4]])
    one, other = (
        fnn.fit(
            linear(),
            fnn.losses.squared_error(),
            optim.sgd(LR),
            data,
            epochs=EPOCHS,
            key=KEY,
            batch_size=len(data[0]),
        )[0].params
        for data in ((x, t, weights), doubled)
    )
    assert_close(one, other, rounding(dtype, EXAMPLES * EPOCHS))


# Evaluation.


@pytest.mark.parametrize("batch_size", [1, 5, EXAMPLES, 1000])
def test_predict_is_the_model_on_everything_at_once(batch_size, dtype):
    (x, y), model = classes(dtype=dtype), network()
    end, _ = train((x, y))
    expected, _ = model.apply(end.params, end.state, jnp.asarray(x))
    outputs = fnn.predict(model, end.params, end.state, x, batch_size=batch_size)
    assert (outputs.shape, outputs.dtype) == ((EXAMPLES, CLASSES), dtype)
    assert_close(outputs, expected, rounding(dtype, 6))


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("batch_size", [1, 5, EXAMPLES, 1000])
def test_evaluate_is_the_mean_over_everything_at_once(batch_size, weighted, dtype):
    (x, y), model, loss = classes(dtype=dtype), network(), fnn.losses.cross_entropy(0.1)
    end, _ = train((x, y))
    weights = np.random.default_rng(2).uniform(0, 3, EXAMPLES).astype(dtype) if weighted else None
    outputs, _ = model.apply(end.params, end.state, jnp.asarray(x))
    metrics = {"accuracy": fnn.accuracy, "nll": fnn.losses.nll().apply}
    result = fnn.evaluate(
        model, loss, end.params, end.state, (x, y, weights)[: 2 + weighted], metrics=metrics,
        batch_size=batch_size,
    )  # fmt: skip
    functions = {"loss": loss.apply} | metrics
    assert list(result) == list(functions)
    for name, function in functions.items():
        values = np.asarray(function(outputs, y), np.float64)
        assert type(result[name]) is float
        np.testing.assert_allclose(
            result[name], np.average(values, weights=weights), rtol=rounding(dtype, EXAMPLES)
        )


def test_accuracy_is_the_share_of_right_answers():
    y = classes()[1]
    outputs = np.eye(CLASSES, dtype="float32")[(y + (np.arange(EXAMPLES) < 6)) % CLASSES]
    result = fnn.evaluate(
        fnn.identity(), fnn.losses.cross_entropy(), (), (), (outputs, y),
        metrics={"accuracy": fnn.accuracy}, batch_size=5,
    )  # fmt: skip
    assert result["accuracy"] == np.float32(17) / np.float32(23)


# The history.


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("epochs", [0, 1, 3])
@all_sizes
def test_the_history_is_plain_numpy_of_the_documented_shapes(batch_size, epochs, weighted):
    data = (*classes(), np.ones(EXAMPLES, "float32"))[: 2 + weighted]
    end, history = fnn.fit(
        fnn.dense(CLASSES), fnn.losses.cross_entropy(), optim.sgd(LR), data, epochs=epochs,
        batch_size=batch_size, key=KEY, validation=classes(3, 11),
        metrics={"accuracy": fnn.accuracy},
    )  # fmt: skip
    steps = -(-EXAMPLES // batch_size)
    assert history.loss.shape == (epochs * steps,)
    assert history.epoch_loss.shape == (epochs,)
    assert set(history.validation) == ({"loss", "accuracy"} if epochs else set())
    for values in (history.loss, history.epoch_loss, *history.validation.values()):
        assert type(values) is np.ndarray
    assert all(values.shape == (epochs,) for values in history.validation.values())
    assert type(history.compile_seconds) is type(history.run_seconds) is float
    assert int(end.step) == epochs * steps


def test_no_epochs_give_the_initial_state():
    end, _ = train(epochs=0)
    spec = jax.ShapeDtypeStruct((5, INPUTS), jnp.float32)
    assert bits(end) == bits(fnn.init_train_state(network(), momentum(), spec, key=KEY))


def test_the_epoch_loss_is_the_mean_over_the_examples_ragged_batch_included():
    _, history = train(batch_size=5)
    expected = np.average(
        history.loss.reshape(EPOCHS, 5).astype(np.float64), axis=1, weights=[5, 5, 5, 5, 3]
    )
    assert_close(history.epoch_loss, expected, rounding("float32", EXAMPLES))


def test_validation_is_evaluate_after_every_epoch():
    held_out, metrics = classes(4, 11), {"accuracy": fnn.accuracy}
    _, history = train(validation=held_out, metrics=metrics)
    for epoch in range(EPOCHS):
        end, _ = train(epochs=epoch + 1)
        expected = fnn.evaluate(
            network(), fnn.losses.cross_entropy(), end.params, end.state, held_out,
            metrics=metrics, batch_size=5,
        )  # fmt: skip
        assert {name: values[epoch] for name, values in history.validation.items()} == expected


@all_sizes
def test_progress_counts_up_to_all_steps_with_losses_of_the_history(batch_size):
    calls = []
    _, history = train(batch_size=batch_size, progress=lambda *call: calls.append(call))
    steps, totals, losses = zip(*calls, strict=True)
    assert list(steps) == sorted(set(steps))
    assert (steps[-1], set(totals)) == (len(history.loss), {len(history.loss)})
    np.testing.assert_array_equal(losses, history.loss[np.array(steps) - 1].astype(float))


def test_the_bar_ends_at_all_steps(capsys):
    train(progress=True)
    assert "25/25" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_warns_and_names_the_step():
    x, t = numbers("float32")
    with pytest.warns(
        UserWarning, match=r"^fnn\.fit: the loss became (inf|nan) at step \d+; "
    ) as w:
        _, history = fnn.fit(
            linear(), fnn.losses.squared_error(), optim.sgd(1e6), (x, t), epochs=9, batch_size=5,
            key=KEY,
        )  # fmt: skip
    first = int(np.flatnonzero(~np.isfinite(history.loss))[0])
    assert first > 0
    assert f"{history.loss[first]} at step {first};" in str(w[0].message)
    assert w[0].filename == __file__


def test_training_learns_the_digits_better_than_guessing_by_far():
    (x, y), test = fnn.datasets.digits()
    model = fnn.serial(fnn.flatten(), fnn.dense(16), fnn.relu(), fnn.dense(10))
    x, test_x = (images.astype("float32") / 255 for images in (x, test[0]))
    _, history = fnn.fit(
        model, fnn.losses.cross_entropy(), optim.sgd(0.1, 0.9), (x, y), epochs=3, batch_size=50,
        key=KEY, validation=(test_x, test[1]), metrics={"accuracy": fnn.accuracy},
    )  # fmt: skip
    assert history.validation["accuracy"][-1] > 0.85


# What is no optimizer, no start, no data.


def refused(match, **options):
    with pytest.raises(fnn.InputError, match=match) as raised:
        train(**options)
    assert "; " in str(raised.value)


@pytest.mark.parametrize("optimizer", [optim.sgd, "adam", optim.Optimizer, network()])
def test_what_is_no_optimizer_is_refused(optimizer):
    refused("expected an optimizer, got", optimizer=optimizer)
    with pytest.raises(fnn.InputError, match=r"^fnn\.init_train_state: expected an optimizer"):
        fnn.init_train_state(network(), optimizer, classes()[0], key=KEY)


FORGETFUL = {
    "grads": (lambda g, s, p: g, "updates"),
    "none": (lambda g, s, p: None, r"\(updates, state\) of the optimizer"),
    "three": (lambda g, s, p: (g, s, p), r"\(updates, state\) of the optimizer"),
    "state": (lambda g, s, p: (g, ()), "an optimizer state like the one before the step"),
    "shape": (lambda g, s, p: (g, jnp.ones(3)), "an optimizer state like the one before the step"),
    "dtype": (lambda g, s, p: (g, s > 0), "an optimizer state like the one before the step"),
    "part": (
        lambda g, s, p: ({"weight": g["weight"]}, s),
        "updates like the parameters, got nothing at bias",
    ),
    "widths": (
        lambda g, s, p: (jax.tree.map(lambda a: a[None], g), s),
        r"updates like the parameters, got float32 of shape \(1, 3\) at bias",
    ),
}


@pytest.mark.parametrize("name", FORGETFUL)
def test_an_optimizer_that_gives_something_else_is_refused(name):
    update, match = FORGETFUL[name]
    optimizer = optim.Optimizer(lambda params: jnp.ones(2), update)
    refused(match, optimizer=optimizer, model=fnn.dense(CLASSES))


def test_a_start_of_another_model_or_optimizer_is_refused_by_its_first_leaf():
    start, _ = train(epochs=1)
    other = fnn.serial(hidden=fnn.dense(6), out=fnn.dense(CLASSES))
    refused("got .* at params/hidden/", start=start, model=other)
    refused("nothing at opt_state/", start=start, optimizer=optim.adam(0.1))
    wider = start._replace(params={**start.params, "out": {"bias": jnp.ones(4)}})
    refused(r"float32 of shape \(4,\) at params/out/bias", start=wider)
    half = start._replace(state=jax.tree.map(lambda a: a.astype("float16"), start.state))
    refused("float16 of shape .* at state/", start=half)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"step": -3}, "start.step of 0 or more"),
        ({"step": jnp.float32(1)}, "at step, where int32"),
        ({"key": 3}, "a key, got 3"),
        ({"key": jax.random.split(KEY)}, "one key, got 2 keys"),
    ],
    ids=["step", "float", "key", "keys"],
)
def test_a_start_of_spoiled_counts_is_refused(change, match):
    refused(match, start=train(epochs=0)[0]._replace(**change))


@pytest.mark.parametrize("start", [train, (), "start", {}], ids=["function", "tuple", "text", "{}"])
def test_what_is_no_train_state_is_refused(start):
    refused("a TrainState to start from", start=start)
    step = fnn.train_step(network(), fnn.losses.cross_entropy(), momentum())
    with pytest.raises(fnn.InputError, match="expected a TrainState"):
        step(start, classes())


@pytest.mark.parametrize(
    "numbers",
    [{}, None, {"optimizer/learning_rate": 0.1}, "surplus"],
    ids=["none", "nothing", "missing", "surplus"],
)
def test_hyperparameters_of_another_training_are_refused(numbers):
    start = fnn.init_train_state(network(), momentum(), classes()[0], key=KEY)
    step = fnn.train_step(network(), fnn.losses.cross_entropy(), momentum())
    step(start, classes())
    if numbers == "surplus":
        numbers = {**start.hyperparameters, "optimizer/epsilon": 1e-8}
    with pytest.raises(fnn.InputError, match=r"the hyper-parameter '(model|optimizer)/"):
        step(start._replace(hyperparameters=numbers), classes())


@pytest.mark.parametrize("progress", ["False", 1, 0, None, []])
def test_progress_that_is_no_flag_is_refused(progress):
    refused("progress of True or False", progress=progress)


def test_metrics_without_validation_are_refused():
    refused("validation data for the metrics", metrics={"accuracy": fnn.accuracy})


def test_fit_inside_of_a_transformation_is_refused_and_names_the_step():
    def params(key=KEY, rate=LR):
        return train(optimizer=optim.sgd(rate), key=key)[0].params

    calls = (
        lambda: jax.jit(params)(KEY),
        lambda: jax.jit(lambda: params())(),
        lambda: jax.vmap(params)(jax.random.split(KEY)),
        lambda: jax.vmap(lambda rate: params(rate=rate))(jnp.ones(2)),
        lambda: jax.grad(lambda rate: params(rate=rate)["out"]["bias"].sum())(0.1),
    )
    for call in calls:
        with pytest.raises(fnn.InputError, match=r"^fnn\.fit: .*; loop over fnn\.train_step"):
            call()


def test_fit_runs_without_compilation_too():
    data = classes(examples=7)
    held_out = classes(1, 3)
    compiled, history = train(data, epochs=2, batch_size=3, validation=held_out)
    with jax.disable_jit():
        plain, other = train(data, epochs=2, batch_size=3, validation=held_out)
    bound = rounding("float32", 7 * 6)
    assert_close(plain.params, compiled.params, bound)
    assert_close(other.loss, history.loss, bound)


# Where it goes on.


@pytest.mark.parametrize("taken", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("progress", [False, lambda *_: None], ids=["silent", "progress"])
def test_a_start_in_mid_epoch_goes_on_where_it_stopped_bit_for_bit(taken, progress):
    # Five steps an epoch, the last of them smaller.
    data, steps = classes(), []
    whole, history = train(data, noisy(), epochs=2)
    begin, _ = train(data, noisy(), epochs=0)
    step = jax.jit(fnn.train_step(network(), fnn.losses.cross_entropy(), noisy()))
    for epoch, order in enumerate(orders(2)):
        for i in range(0, EXAMPLES, 5):
            if 5 * epoch + i // 5 < taken:
                begin, metrics = step(begin, tuple(part[order[i : i + 5]] for part in data))
                steps.append(metrics["loss"])
    end, rest = train(data, noisy(), epochs=2 - taken // 5, start=begin, progress=progress)
    bound = rounding("float32", EXAMPLES * 10)
    assert int(end.step) == int(whole.step) == 10
    assert rest.loss.shape == (10 - taken,)
    assert rest.epoch_loss.shape == (2 - taken // 5,)
    assert_close(np.concatenate([np.stack(steps), rest.loss]), history.loss, bound)
    assert_close(end.params, whole.params, bound)


# Runs that lose their numbers.


def diverges(**options):
    with pytest.warns(UserWarning, match=r"^fnn\.fit: ") as warned:
        end, history = train(epochs=50, **options)
    assert len(warned) == 1
    return end, history, str(warned[0].message)


def logarithm():
    return fnn.serial(fnn.dense(8), fnn.from_function(jnp.log), fnn.dense(CLASSES))


@pytest.mark.parametrize(
    "options",
    [{}, {"validation": classes(1)}, {"progress": lambda *_: None}, {"batch_size": EXAMPLES}],
    ids=["plain", "validation", "progress", "full-batch"],
)
def test_a_run_that_loses_its_numbers_stops_and_names_the_layer(options):
    end, history, message = diverges(model=logarithm(), **options)
    assert int(end.step) == len(history.loss) == len(history.epoch_loss) == 1
    assert {len(values) for values in history.validation.values()} <= {1}
    assert "the loss became nan at step 0; it began in the output of layer '1'" in message
    assert "stopped after step 0" in message


def test_a_run_that_loses_its_numbers_in_the_last_step_of_an_epoch_is_not_validated():
    data = classes(examples=16)
    with pytest.warns(UserWarning, match="stopped after step 1"):
        _, history = fnn.fit(
            fnn.serial(fnn.dense(6), fnn.relu(), fnn.dense(CLASSES)), fnn.losses.cross_entropy(),
            optim.sgd(1e30), data, epochs=1, batch_size=8, key=KEY, validation=data,
        )  # fmt: skip
    assert len(history.loss) == 2
    assert history.validation == {}


BEGINNINGS = {
    "inside": (
        fnn.serial(a=fnn.dense(4), b=fnn.residual(fnn.from_function(jnp.log)), c=fnn.dense(3)),
        "the output of layer 'b'",
    ),
    "repeated": (
        fnn.serial(fnn.repeat(fnn.from_function(lambda x: jnp.log(x - 9)), 2), fnn.dense(3)),
        "the output of layer '0'",
    ),
    "recomputed": (
        fnn.serial(fnn.dense(4), fnn.remat(fnn.from_function(jnp.log)), fnn.dense(3)),
        "the output of layer '1'",
    ),
    "gradient": (
        fnn.serial(
            fnn.dense(4), fnn.relu(), fnn.from_function(lambda x: jnp.sqrt(0 * x)), fnn.dense(3)
        ),
        "the gradient of '0/weight'",
    ),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_the_place_where_the_numbers_were_lost_is_named(name):
    model, place = BEGINNINGS[name]
    assert f"it began in {place}" in diverges(model=model)[2]


def test_the_place_is_named_however_many_epochs_went_well():
    optimizer = optim.sgd(lambda t: jnp.where(t == 12, jnp.inf, 0.01))
    end, history, message = diverges(optimizer=optimizer)
    assert np.isfinite(history.loss[:13]).all()
    assert not np.isfinite(history.loss[13:]).any()
    assert int(end.step) == len(history.loss) == 14
    assert "the loss became nan at step 13; it began in the update of the optimizer" in message


def test_parameters_that_are_lost_in_the_last_step_are_seen():
    optimizer = optim.sgd(lambda t: jnp.where(t == 3, jnp.inf, 0.01))
    with pytest.warns(UserWarning, match="parameters became infinite or NaN at step 3; it began"):
        end, history = train(optimizer=optimizer, epochs=4, batch_size=EXAMPLES)
    assert np.isfinite(history.loss).all()
    assert int(end.step) == 4


def test_a_skipped_step_stops_nothing_and_leaves_the_running_state():
    (x, y), guarded = classes(), optim.skip_nonfinite(optim.sgd(LR))
    # Finite, but not behind a batch norm, whose variance is beyond float32.
    x[4] = 3e38
    end, history, message = diverges(data=(x, y), optimizer=guarded)
    assert int(end.step) == len(history.loss) == 250
    assert int(end.opt_state.skipped) == 50
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((end.params, end.state)))
    assert "stopped" not in message


def test_a_constant_of_minus_infinity_among_the_parameters_stops_nothing():
    start, _ = train(epochs=0, model=masked(), optimizer=optim.sgd(LR))
    end, history = train(epochs=2, model=masked(), optimizer=optim.sgd(LR), start=start)
    assert int(end.step) == len(history.loss) == 10
    assert np.isneginf(end.params[1]["mask"]).any()


def masked():
    """A layer that keeps a mask of -inf among its parameters, which nothing moves."""

    def init(key, x):
        return {"mask": jnp.where(jnp.arange(CLASSES) == 7, 0.0, -jnp.inf)}

    return fnn.serial(
        fnn.dense(CLASSES),
        fnn.stateless(
            init,
            lambda params, x: (x + 0.0, ()),
            lambda params, residuals, dy: (jax.tree.map(jnp.zeros_like, params), dy),
        ),
    )


def test_updates_in_a_wider_dtype_leave_the_parameters_in_theirs():
    wide = optim.Optimizer(
        lambda params: (), lambda g, s, p: (jax.tree.map(lambda a: -a.astype("float32"), g), s)
    )
    data = classes(dtype="bfloat16")
    end, _ = train(data, wide, model=fnn.dense(CLASSES), epochs=1)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(end.params)} == {"bfloat16"}
