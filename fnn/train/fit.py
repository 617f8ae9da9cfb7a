"""Training: many steps in one dispatch, on data that lives on the device."""

from __future__ import annotations

import functools
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Array, Key, PyTree
from fnn.gradient.objective import Gradient, as_batch
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer, eval_params
from fnn.train._progress import Progress, Report, progress_bar
from fnn.train.batch import check_batch_size, check_data, length
from fnn.train.evaluate import run_evaluation
from fnn.train.metrics import Metrics
from fnn.train.step import TrainState, TrainStep, hyperparameters, init_train_state, train_step

_DISPATCH_SECONDS = 0.1


class History(NamedTuple):
    """What happened in training, as plain numpy arrays.

    `loss` (steps,) the loss of every batch before its update; `epoch_loss` (epochs,) its mean over
    an epoch, batches counting by their examples; `validation` (epochs,) arrays by name, ``loss``
    and the metrics, after every epoch; `compile_seconds` and `run_seconds` what it took.
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
    data: Any,
    *,
    epochs: int,
    batch_size: int,
    key: Key = None,
    gradient: Gradient = "manual",
    validation: Any = None,
    metrics: Metrics | None = None,
    progress: bool | Progress = False,
    start: TrainState | None = None,
) -> tuple[TrainState, History]:
    """Train a model and return what it became, with the history.

    Every epoch goes through all examples in a new order drawn from the key, `batch_size` at a time
    and the ragged rest as a smaller last batch: 1 is stochastic, ``len(x)`` full-batch gradient
    descent. A loop of `train_step` runs compiled, many steps in one dispatch, with the data and the
    training state on the device. The same key gives the same bits, whatever `progress` does; and a
    second call with equal model, loss, optimizer and shapes does not compile
    again, nor does one with other numbers: learning rates, noise sizes, dropout rates, seeds.

    - `data` and `validation`: ``(x, target)`` or ``(x, target, weights)``, n examples each. An
      optimizer that keeps an average is validated there, at `fnn.optim.eval_params`.
    - `epochs`: 0 or more; `key`: for the parameters, the order and the layers' randomness.
    - `gradient`: ``"manual"``, ``"auto"`` or ``"numeric"``, see `fnn.value_and_grad`.
    - `metrics`: functions ``(prediction, target) -> values`` by name, for the validation data.
    - `progress`: True for a bar in the terminal, or a function ``(step, steps, loss)``.
    - `start`: a `TrainState` to go on from, in place of `key`: two epochs and then three are the
      same as five.

    Raises `fnn.InputError` for epochs below 0, a batch size outside 1..n, data that is empty, of
    differing lengths, not finite, or that fits neither model nor loss; all before it compiles.
    Warns when the loss stops being finite.

    >>> import fnn, jax, jax.numpy as jnp
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> train_state, history = fit(
    ...     fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1), (x, 2 * x + 1),
    ...     epochs=20, batch_size=16, key=jax.random.key(0),
    ... )
    >>> train_state.params["weight"].round(2), history.loss.shape
    (Array([[2.]], dtype=float32), (80,))
    """
    batch = as_batch(data)
    examples = length(batch.x)
    check_plan(epochs, batch_size, examples)
    step = train_step(model, loss, optimizer, gradient)
    train_state = _start(model, optimizer, gradient, batch.x, batch_size, key, start)
    weights = train_state.params, train_state.state
    data = check_data(model, loss, *weights, batch)
    if validation is not None:
        validation = check_data(model, loss, *weights, as_batch(validation))

    began = time.perf_counter()
    full, rest = divmod(examples, batch_size)
    run = functools.partial(_run, step)
    # Read before the loop: inside it would wait for the device.
    seed = _words(train_state.key)
    # Running no step compiles the program, and leaves the time of compilation by itself.
    shapes = [(full, batch_size)] + ([(1, rest)] if rest else [])
    for shape in shapes:
        order = np.zeros(shape, np.int32)
        train_state, _ = run(train_state, data, order, _no_losses(shape[0]), 0, 0)
    evaluation = functools.partial(
        run_evaluation, model, loss, metrics=metrics, batch_size=min(batch_size, 1024)
    )
    if validation is not None and epochs:
        evaluation(_evaluated(train_state), train_state.state, validation)
    jax.block_until_ready(train_state)
    compiled = time.perf_counter()

    steps_per_epoch = full + bool(rest)
    first_epoch = int(train_state.step) // steps_per_epoch
    losses: list[Array] = []
    measured: list[dict[str, float]] = []
    with progress_bar(progress, epochs * steps_per_epoch) as report:
        for epoch in range(first_epoch, first_epoch + epochs):
            rows = epoch_order(seed, epoch, examples)
            pieces = [rows[: full * batch_size].reshape(full, batch_size)]
            if rest:
                pieces.append(rows[full * batch_size :][None])
            for piece in pieces:
                train_state, values = _dispatch(run, train_state, data, piece, report)
                losses.append(values)
            if validation is not None:
                measured.append(evaluation(_evaluated(train_state), train_state.state, validation))
    jax.block_until_ready(train_state)
    ended = time.perf_counter()

    history = _history(losses, measured, [batch_size] * full + [rest] * bool(rest), epochs)
    finite = np.isfinite(history.loss)
    if not finite.all():
        warnings.warn(
            f"fnn.fit: the loss became {history.loss[~finite][0]} at step {int(finite.argmin())}; "
            "lower the learning rate or clip the gradient",
            # Two: the function that names its errors stands between.
            stacklevel=3,
        )
    return train_state, history._replace(
        compile_seconds=compiled - began, run_seconds=ended - compiled
    )


def _evaluated(train_state: TrainState) -> PyTree:
    return eval_params(train_state.opt_state, train_state.params)


def check_plan(epochs: int, batch_size: int, examples: int) -> None:
    """Raise `InputError` unless so many epochs and batches of this size can be run."""
    if not check.is_count(epochs, 0):
        raise InputError("epochs of 0 or more", describe(epochs), "pass an int")
    check_batch_size(batch_size, examples)


def _start(
    model: Layer,
    optimizer: Optimizer,
    gradient: Gradient,
    x: Any,
    batch_size: int,
    key: Key,
    start: TrainState | None,
) -> TrainState:
    if (key is None) == (start is None):
        raise InputError(
            "a key, or a TrainState to start from",
            "neither" if key is None else "both",
            "pass key=jax.random.key(0), or start=train_state",
        )
    if start is None:
        check.key(key)
        # As JAX holds it: float64 of numpy, unless asked for, in float32.
        of_jax = jax.eval_shape(lambda x: x, x)
        spec = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype), of_jax
        )
        start = init_train_state(model, optimizer, spec, key=jnp.asarray(key), gradient=gradient)
    else:
        # The numbers are those of the arguments, which may have changed.
        start = start._replace(hyperparameters=hyperparameters(model, optimizer, gradient))
    # Every dispatch gives its buffers away: the caller's must survive, and no two leaves may share
    # one, as the zeros of a bias and of a running mean might.
    return jax.tree.map(jnp.copy, start)


def _dispatch(
    run: Any, train_state: TrainState, data: Any, order: np.ndarray, report: Report | None
) -> tuple[TrainState, Array]:
    """Run all steps of one order: at once, or in portions of a tenth of a second under a bar."""
    steps = order.shape[0]
    losses: Any = _no_losses(steps)
    done, portion = 0, 1 if report else steps
    while done < steps:
        stop = min(done + portion, steps)
        began = time.perf_counter()
        train_state, losses = run(train_state, data, order, losses, done, stop)
        if report:
            report(stop - done, float(losses[stop - 1]))
            seconds = time.perf_counter() - began
            portion = max(1, int((stop - done) * _DISPATCH_SECONDS / seconds))
        done = stop
    return train_state, losses


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
    start: Any,
    stop: Any,
) -> tuple[TrainState, Array]:
    """Take steps start..stop-1, step i on the examples ``order[i]``.

    The bounds are traced, so one program serves any number of steps, for the price of a scan.
    """

    def body(i: Any, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
        train_state, losses = carry
        batch = jax.tree.map(lambda a: a[order[i]], data)
        train_state, metrics = step(train_state, batch)
        return train_state, losses.at[i].set(metrics["loss"].astype(losses.dtype))

    return jax.lax.fori_loop(start, stop, body, (train_state, losses))


def epoch_order(seed: list[int], epoch: int, examples: int) -> np.ndarray:
    """Return the order of the examples in an epoch, drawn from the words of the key.

    By numpy, on the host: sorting on the device costs more than the steps of a small network.

    >>> epoch_order([0, 7], 3, 5), epoch_order([0, 7], 3, 5)
    (array([3, 4, 2, 0, 1], dtype=int32), array([3, 4, 2, 0, 1], dtype=int32))
    """
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([*seed, epoch])))
    return random.permutation(examples).astype(np.int32)


def _words(key: Array) -> list[int]:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    words: list[int] = np.asarray(jax.random.key_data(key) if typed else key).ravel().tolist()
    return words


def _no_losses(steps: int) -> np.ndarray:
    return np.zeros(steps, jnp.result_type(float))


def _history(
    losses: list[Array], measured: list[dict[str, float]], sizes: list[int], epochs: int
) -> History:
    loss = (
        np.concatenate([np.asarray(values) for values in losses])
        if losses
        else np.zeros(0, np.float32)
    )
    by_epoch = loss.reshape(epochs, -1) if epochs else np.zeros((0, len(sizes)))
    validation = {
        name: np.array([values[name] for values in measured])
        for name in (measured[0] if measured else {})
    }
    return History(loss, by_epoch @ np.array(sizes) / sum(sizes), validation, 0.0, 0.0)
