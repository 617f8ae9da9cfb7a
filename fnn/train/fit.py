"""Training: many steps in one dispatch, on data that lives on the device."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Array, Data, Input, Key, PyTree, Scalar, Unchecked
from fnn.gradient.objective import Batch, Gradient, as_batch
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer, eval_params
from fnn.train._nonfinite import finite_leaves, origin
from fnn.train._progress import Progress, Report, check_progress, progress_bar
from fnn.train.batch import check_batch_size, check_data, length
from fnn.train.evaluate import run_evaluation
from fnn.train.metrics import Metrics
from fnn.train.step import (
    TrainState,
    TrainStep,
    first_difference,
    hyperparameters,
    init_train_state,
    train_step,
)

_DISPATCH_SECONDS = 0.1
# A run that lost its numbers later than this is not run again to find the layer.
_REPLAY_SECONDS = 10.0


class History(NamedTuple):
    """What happened in training, as plain numpy arrays.

    Args:
        loss: (steps,), the loss of every batch before its update.
        epoch_loss: (epochs,), its mean over an epoch, batches counting by their examples.
        validation: (epochs,) arrays by name, ``loss`` and the metrics, after every epoch.
        compile_seconds: how long compilation took.
        run_seconds: how long the steps and the validation took.

    A run that was stopped has the steps that it took, and the epochs that it began.
    """

    loss: np.ndarray
    epoch_loss: np.ndarray
    validation: dict[str, np.ndarray]
    compile_seconds: float
    run_seconds: float


@entry
def fit(
    model: Layer,
    loss: Loss,
    optimizer: Optimizer,
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    key: Key = None,
    gradient: Gradient = "manual",
    validation: Data | None = None,
    metrics: Metrics | None = None,
    progress: bool | Progress = False,
    start: TrainState | None = None,
) -> tuple[TrainState, History]:
    """Train a model and return what it became, with the history.

    Every epoch goes through all examples in a new order drawn from the key, `batch_size` at a time
    and the ragged rest as a smaller last batch: 1 is stochastic, ``len(x)`` full-batch gradient
    descent. A loop of `train_step` runs compiled, many steps in one dispatch, with the data and the
    training state on the device. The same key gives the same bits, whatever `progress` does; and a
    second call with equal model, loss, optimizer and shapes does not compile again, nor does one
    with other numbers: learning rates, noise sizes, dropout rates, seeds.

    It stops where parameters become infinite or NaN, and warns: it says at which step, and, if that
    came within seconds, in which layer, for which it runs the steps before once more. A loss that
    is not finite while the parameters are, as with `fnn.optim.skip_nonfinite`, stops nothing, and
    is warned of at the end.

    Args:
        model: the layer to train.
        loss: compares its outputs with the targets.
        optimizer: of `fnn.optim` or of optax. One that keeps an average is validated there, at
            `fnn.optim.eval_params`.
        data: ``(x, target)`` or ``(x, target, weights)``, n examples each.
        epochs: how often to go through the data, 0 or more.
        batch_size: examples in a step, from 1 to n.
        key: for the parameters, the order and the layers' randomness.
        gradient: ``"manual"``, ``"auto"``, ``"numeric"`` or an estimator, see `fnn.value_and_grad`.
        validation: data held out, to evaluate after every epoch.
        metrics: functions ``(prediction, target) -> values`` by name, for the validation data.
        progress: True for a bar in the terminal, or a function ``(step, steps, loss)``.
        start: a `TrainState` to go on from, in place of `key`: two epochs and then three are the
            same as five. One from the middle of an epoch finishes that first, as one of `epochs`.
    Raises:    InputError for epochs below 0, a batch size outside 1..n, data that is empty, of
        differing lengths, not finite, or that fits neither model nor loss, a `start` of another
        model or optimizer, metrics without validation data: all before it compiles. And inside of
        `jax.jit` or `jax.vmap`, where `fnn.train_step` belongs.

    >>> import fnn, jax, jax.numpy as jnp
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> train_state, history = fit(
    ...     fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1), (x, 2 * x + 1),
    ...     epochs=20, batch_size=16, key=jax.random.key(0),
    ... )
    >>> train_state.params["weight"].round(2), history.loss.shape
    (Array([[2.]], dtype=float32), (80,))
    """
    _refuse_tracing(data, validation, key, start)
    check_progress(progress)
    if metrics is not None and validation is None:
        raise InputError("validation data for the metrics", "none", "pass validation=(x, target)")
    _refuse_batches(data)
    batch = as_batch(data)
    examples = length(batch.x)
    check_plan(epochs, batch_size, examples)
    step = train_step(model, loss, optimizer, gradient)
    _refuse_tracing(hyperparameters(model, optimizer, gradient))
    begin = functools.partial(_start, model, optimizer, gradient, batch.x, batch_size, key, start)
    train_state = begin()
    weights = train_state.params, train_state.state
    plan = _Plan(
        step, check_data(model, loss, *weights, batch), _words(train_state.key), examples,
        batch_size, finite_leaves(train_state.params),
    )  # fmt: skip
    measure = None
    if validation is not None:
        held_out = check_data(model, loss, *weights, as_batch(validation))
        measure = functools.partial(_measure, model, loss, held_out, metrics, min(batch_size, 1024))
    began = time.perf_counter()
    train_state = _compile(plan, train_state, measure if epochs else None)
    compiled, first = time.perf_counter(), int(train_state.step)
    with progress_bar(progress, max(plan.last_step(first, epochs) - first, 0)) as report:
        train_state, losses, measured = _train(plan, train_state, epochs, report, measure)
    steps = int(train_state.step) - first
    ended = time.perf_counter()
    history = _history(plan, first, losses[:steps], measured)
    alive = bool((finite_leaves(train_state.params) | ~plan.finite).all())
    if not (alive and np.isfinite(history.loss).all()):
        replay = not alive and ended - compiled < _REPLAY_SECONDS
        found = _find_origin(plan, begin, history.loss) if replay else ""
        # Two: the function that names its errors stands between.
        warnings.warn(f"fnn.fit: {_complaint(history.loss, alive, found)}", stacklevel=3)
    return train_state, history._replace(
        compile_seconds=compiled - began, run_seconds=ended - compiled
    )


def check_plan(epochs: int, batch_size: int, examples: int) -> None:
    """Raise `InputError` unless so many epochs and batches of this size can be run.

    Args:
        epochs: 0 or more.
        batch_size: from 1 to the number of examples.
        examples: how many there are.
    """
    check.count(epochs, "epochs", least=0)
    check_batch_size(batch_size, examples)


def _refuse_tracing(*given: PyTree) -> None:
    """Raise inside of `jax.jit`, `jax.vmap` and their like: fit measures, prints and compiles."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given))
    if traced or isinstance(jnp.add(0, 0), jax.core.Tracer):
        raise InputError(
            "to be called outside of jax.jit, jax.vmap and jax.grad",
            "traced arguments" if traced else "a call inside of a traced function",
            "loop over fnn.train_step there, which is a pure function",
        )


def _refuse_batches(data: Unchecked) -> None:
    """Raise for a list of batches, which other libraries train on."""

    def is_batch(part: Unchecked) -> bool:
        pair = isinstance(part, tuple | list) and len(part) in (2, 3)
        return pair and hasattr(part[0], "shape")

    if isinstance(data, list) and data and all(map(is_batch, data)):
        raise InputError(
            "(x, target) of all examples",
            f"a list of {len(data)} batches",
            "concatenate them, or loop over fnn.train_step",
        )


class _Plan(NamedTuple):
    """What a run goes by: the step, the data, the words of the key, and how the data is cut.

    `finite` says which parameters were finite at the start: a constant of -inf is no accident.
    """

    step: TrainStep
    data: Batch
    seed: list[int]
    examples: int
    batch_size: int
    finite: Array

    def sizes(self) -> list[int]:
        """Return how many examples every step of an epoch has."""
        full, rest = divmod(self.examples, self.batch_size)
        return [self.batch_size] * full + [rest] * bool(rest)

    def last_step(self, first: int, epochs: int) -> int:
        """Return the step before which so many epochs end, of which the first may have begun."""
        per_epoch = len(self.sizes())
        return (first // per_epoch + epochs) * per_epoch

    def orders(self, epoch: int, taken: int = 0) -> list[tuple[np.ndarray, int]]:
        """Return the examples (steps, size) of an epoch, full batches and the rest apart.

        Beside each stands how many of its steps are behind us, when `taken` are of the epoch.
        """
        full, rest = divmod(self.examples, self.batch_size)
        rows = epoch_order(self.seed, epoch, self.examples)
        cut = full * self.batch_size
        pieces = [(rows[:cut].reshape(full, self.batch_size), min(taken, full))]
        if rest:
            pieces.append((rows[cut:][None], max(taken - full, 0)))
        return pieces


def _start(
    model: Layer,
    optimizer: Optimizer,
    gradient: Gradient,
    x: Input,
    batch_size: int,
    key: Key,
    start: TrainState | None,
) -> TrainState:
    """Return the train state to begin with, in buffers of its own."""
    if (key is None) == (start is None):
        raise InputError(
            "a key, or a TrainState to start from",
            "neither" if key is None else "both",
            "pass key=jax.random.key(0), or start=train_state",
        )
    # As JAX holds it: float64 of numpy, unless asked for, in float32.
    of_jax = jax.eval_shape(lambda x: x, x)
    spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype), of_jax)
    init = functools.partial(init_train_state, model, optimizer, spec, gradient=gradient)
    if start is None:
        start = init(key=jnp.asarray(check.key(key)))
    else:
        _check_start(start, lambda: jax.eval_shape(lambda key: init(key=key), jax.random.key(0)))
        # The numbers are those of the arguments, which may have changed.
        start = start._replace(hyperparameters=hyperparameters(model, optimizer, gradient))
    # Every dispatch gives its buffers away: the caller's must survive, and no two leaves may share
    # one, as the zeros of a bias and of a running mean might.
    return jax.tree.map(jnp.copy, start)


def _check_start(start: Unchecked, expected: Callable[[], TrainState]) -> None:
    """Raise unless a train state to go on from is one of this model and this optimizer."""
    remedy = "start from a train state of the same model and optimizer, or pass key="
    if not isinstance(start, TrainState):
        raise InputError("a TrainState to start from", describe(start), remedy)
    check.key(start.key)
    # The key may be another; the numbers are those of the arguments.
    like = expected()._replace(key=start.key, hyperparameters=start.hyperparameters)
    differs = first_difference(like, start)
    if differs:
        raise InputError("a start like the model and the optimizer", differs, remedy)
    check.number(start.step, "start.step", least=0)


def _measure(
    model: Layer,
    loss: Loss,
    held_out: Batch,
    metrics: Metrics | None,
    batch_size: int,
    train_state: TrainState,
) -> dict[str, float]:
    """Evaluate on the validation data, at the parameters that the optimizer would have scored."""
    params = eval_params(train_state.opt_state, train_state.params)
    return run_evaluation(model, loss, params, train_state.state, held_out, metrics, batch_size)


def _compile(
    plan: _Plan, train_state: TrainState, measure: Callable[[TrainState], Unchecked] | None
) -> TrainState:
    """Compile all programs of a run, so that the time of compilation stands by itself."""
    for order, _ in plan.orders(0):
        # Running no step compiles the program.
        if len(order):
            losses = _no_losses(len(order))
            train_state, *_ = _run(
                plan.step, train_state, plan.data, order, losses, plan.finite, True, 0, 0
            )
    if measure is not None:
        measure(train_state)
    return jax.block_until_ready(train_state)


def _train(
    plan: _Plan,
    train_state: TrainState,
    epochs: int,
    report: Report | None,
    measure: Callable[[TrainState], dict[str, float]] | None,
) -> tuple[TrainState, np.ndarray, list[dict[str, float]]]:
    """Run the epochs; return the losses of all steps, those that were not taken included."""
    first_epoch, taken = divmod(int(train_state.step), len(plan.sizes()))
    losses, measured = [], []
    alive = earlier = jnp.ones((), bool)
    for epoch in range(first_epoch, first_epoch + epochs):
        for order, offset in plan.orders(epoch, taken):
            train_state, values, alive = _dispatch(plan, train_state, order, offset, alive, report)
            losses.append(values[offset:])
        taken = 0
        if measure is not None:
            measured.append(measure(train_state))
        # Without anything to wait for, the device is asked about the epoch before: it has the next
        # one to work on meanwhile. A run that has stopped takes no steps.
        if not (alive if measure is not None else earlier):
            break
        earlier = alive
    jax.block_until_ready(train_state)
    # Copied at the end: each would wait for the device.
    return train_state, np.concatenate([_no_losses(0), *map(np.asarray, losses)]), measured


def _dispatch(
    plan: _Plan,
    train_state: TrainState,
    order: np.ndarray,
    first: int,
    alive: Array,
    report: Report | None,
) -> tuple[TrainState, Array, Array]:
    """Run the steps of one order: at once, or in portions of a tenth of a second under a bar."""
    steps = len(order)
    losses: Scalar = _no_losses(steps)
    done, portion = first, 1 if report else steps
    while done < steps:
        stop = min(done + portion, steps)
        began = time.perf_counter()
        train_state, losses, alive = _run(
            plan.step, train_state, plan.data, order, losses, plan.finite, alive, done, stop
        )
        if report:
            if not alive:
                break
            report(stop - done, float(losses[stop - 1]))
            seconds = time.perf_counter() - began
            portion = max(1, int((stop - done) * _DISPATCH_SECONDS / seconds))
        done = stop
    return train_state, losses, alive


class _Carry(NamedTuple):
    """What goes round in the loop: the number of the step, and whether the last loss was finite."""

    i: Array
    train_state: TrainState
    losses: Array
    finite: Array


@functools.partial(
    jax.jit,
    static_argnames="step",
    donate_argnames=("train_state", "losses"),
)
def _run(
    step: TrainStep,
    train_state: TrainState,
    data: PyTree,
    order: Array,
    losses: Array,
    watched: Array,
    alive: Scalar,
    start: Scalar,
    stop: Scalar,
) -> tuple[TrainState, Array, Array]:
    """Take steps start..stop-1, step i on the examples ``order[i]``, while all is finite.

    The bounds are traced, so one program serves any number of steps, for the price of a scan. A
    loss that is not finite interrupts the inner loop; only then, and at the end, the parameters are
    looked at, and if one of those `watched` is not finite the run is over.
    """

    def take(carry: _Carry) -> _Carry:
        batch = jax.tree.map(lambda a: a[order[carry.i]], data)
        train_state, metrics = step(carry.train_state, batch)
        value = metrics["loss"].astype(losses.dtype)
        return _Carry(
            carry.i + 1, train_state, carry.losses.at[carry.i].set(value), jnp.isfinite(value)
        )

    def stretch(carry: _Carry) -> _Carry:
        carry = jax.lax.while_loop(
            lambda c: (c.i < stop) & c.finite, take, carry._replace(finite=jnp.ones((), bool))
        )
        fine = (finite_leaves(carry.train_state.params) | ~watched).all()
        return carry._replace(finite=fine)

    carry = _Carry(jnp.asarray(start), train_state, jnp.asarray(losses), jnp.asarray(alive))
    carry = jax.lax.while_loop(lambda c: (c.i < stop) & c.finite, stretch, carry)
    return carry.train_state, carry.losses, carry.finite


def epoch_order(seed: list[int], epoch: int, examples: int) -> np.ndarray:
    """Return the order of the examples in an epoch, drawn from the words of the key.

    By numpy, on the host: sorting on the device costs more than the steps of a small network.

    Args:
        seed: the words of the key.
        epoch: from 0.
        examples: how many there are.

    >>> epoch_order([0, 7], 3, 5), epoch_order([0, 7], 3, 5)
    (array([3, 4, 2, 0, 1], dtype=int32), array([3, 4, 2, 0, 1], dtype=int32))
    """
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([*seed, epoch])))
    return random.permutation(examples).astype(np.int32)


def _words(key: Array) -> list[int]:
    """Return the integers that a key is made of."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    words: list[int] = np.asarray(jax.random.key_data(key) if typed else key).ravel().tolist()
    return words


def _no_losses(steps: int) -> np.ndarray:
    """Return room for the losses of so many steps."""
    return np.zeros(steps, jnp.result_type(float))


def _history(
    plan: _Plan, first: int, loss: np.ndarray, measured: list[dict[str, float]]
) -> History:
    """Return the history of a run that began at step `first`; the times are still open."""
    sizes = np.array(plan.sizes())
    number = first + np.arange(len(loss))
    epoch = number // len(sizes) - first // len(sizes)
    means = []
    for e in range(int(epoch[-1]) + 1 if len(loss) else 0):
        weights = sizes[number[epoch == e] % len(sizes)]
        means.append(loss[epoch == e] @ weights / weights.sum())
    validation = {
        name: np.array([values[name] for values in measured[: len(means)]])
        for name in (measured[0] if measured else {})
    }
    return History(loss, np.array(means, np.float64), validation, 0.0, 0.0)


def _find_origin(plan: _Plan, begin: Callable[[], TrainState], loss: np.ndarray) -> str:
    """Run once more up to the step that spoiled the parameters, and say what did it."""
    bad = np.flatnonzero(~np.isfinite(loss))
    ahead = int(bad[0]) if len(bad) else len(loss) - 1
    train_state, rows = _replay(plan, begin(), ahead)
    if ahead and not bool((finite_leaves(train_state.params) | ~plan.finite).all()):
        # The step before did it, whose loss was finite still.
        train_state, rows = _replay(plan, begin(), ahead - 1)
    made = plan.step.structure.build(train_state.hyperparameters)
    batch = jax.tree.map(lambda a: a[rows], plan.data)
    key = jax.random.fold_in(train_state.key, train_state.step)
    params, state = train_state.params, train_state.state
    try:
        return origin(made["model"], made["loss"], made["gradient"], params, state, batch, key)
    except Exception:
        # Whatever a model of the user's does here: the run's results are not to be lost by it.
        return ""


def _replay(plan: _Plan, train_state: TrainState, ahead: int) -> tuple[TrainState, np.ndarray]:
    """Take so many steps; return the train state there, and the examples of the next step."""
    epoch, taken = divmod(int(train_state.step), len(plan.sizes()))
    while True:
        for order, offset in plan.orders(epoch, taken):
            stop = min(offset + ahead, len(order))
            train_state, *_ = _run(
                plan.step, train_state, plan.data, order, _no_losses(len(order)), plan.finite,
                True, offset, stop,
            )  # fmt: skip
            ahead -= stop - offset
            if stop < len(order):
                return train_state, order[stop]
        epoch, taken = epoch + 1, 0


def _complaint(loss: np.ndarray, alive: bool, found: str) -> str:
    """Say what is not finite in a run, since when, where it began, and what to do."""
    bad = np.flatnonzero(~np.isfinite(loss))
    words = f"the parameters became infinite or NaN at step {len(loss) - 1}"
    if len(bad):
        words = f"the loss became {loss[bad[0]]} at step {bad[0]}"
    if found:
        words += f"; it began in {found}"
    if not alive:
        words += f"; stopped after step {len(loss) - 1}, where the parameters are not finite"
    return f"{words}; lower the learning rate or clip the gradient"
