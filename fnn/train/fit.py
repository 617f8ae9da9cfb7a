"""Training: the door to the loop, and what comes out of it."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.keys import words_of
from fnn._core.place import first_difference
from fnn._core.types import Array, Data, Input, Key, Params, PyTree, Unchecked
from fnn.gradient.objective import Gradient, as_batch
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer
from fnn.train.data.batch import check_batch_size, check_data
from fnn.train.data.stream import Source, open_source, row_check
from fnn.train.evaluate import Evaluation
from fnn.train.loop._events import Callback, Timed, check_callbacks
from fnn.train.loop._loop import Kept, Loop, Plan
from fnn.train.loop._memory import Memory, numbers_to_go_on, unpack
from fnn.train.loop._nonfinite import finite_leaves
from fnn.train.loop._program import Transform, check_transform, copies, transformed_spec
from fnn.train.loop._progress import Progress, check_progress, progress_bar
from fnn.train.loop._record import History as History
from fnn.train.loop._replay import complaint
from fnn.train.loop._split import Split
from fnn.train.metrics import Metrics, check_metrics
from fnn.train.precision import Precision
from fnn.train.sharding import Layout, Sharding, layout_of, start_on
from fnn.train.step import TrainState, hyperparameters, init_train_state, train_step

# A run that lost its numbers later than this is not run again from its begin to find the layer.
_REPLAY_SECONDS = 10.0

_GENERATOR_ONCE = "pass steps=, or as data the function of the epoch that makes it"


@entry
def fit(
    model: Layer,
    loss: Loss,
    optimizer: Optimizer,
    data: Data,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    key: Key = None,
    gradient: Gradient = "manual",
    precision: Precision | None = None,
    transform: Transform | None = None,
    validation: Data | None = None,
    validation_every: int | None = None,
    metrics: Metrics | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | Progress = False,
    start: TrainState | None = None,
    data_state: bytes | None = None,
    mesh: Mesh | None = None,
    sharding: Sharding | None = None,
) -> tuple[TrainState, History]:
    """Train a model and return what it became, with the history.

    Every epoch goes through all examples in a new order drawn from the key, `batch_size` at a time
    and the ragged rest as a smaller last batch: 1 is stochastic, ``len(x)`` full-batch gradient
    descent. A loop of `train_step` runs compiled, many steps in one dispatch, with the training
    state on the device. The same key gives the same bits, whatever `progress` and callbacks that
    only look do; and a second call with equal model, loss, optimizer and shapes does not compile
    again, nor does one with other numbers: learning rates, noise sizes, dropout rates, seeds.

    Arrays lie on the device as a whole. Of a `numpy.memmap` rows are read as they are needed, in
    the same order and to the same bits. Data in batches are taken as they come: a list, a loader of
    PyTorch, a data set or loader of Grain, once an epoch; a function of the epoch that gives such;
    or a generator, once. They are read while the device computes, some megabytes at a time.

    It stops where parameters become infinite or NaN, and warns: it says at which step, and, if that
    came within seconds, in which layer, for which it runs the steps before once more. A loss that
    is not finite while the parameters are, as with `fnn.optim.skip_nonfinite`, stops nothing, and
    is warned of at the end. Ctrl-C and SIGTERM end it after the steps under way, with what there
    is, and so may a callback: ``history.stopped`` says why. An error in data, metric or callback
    bears what there is as ``error.train_state`` and ``error.history``.

    On a mesh of devices it computes what it does on one, up to the rounding of sums: every batch is
    split over the first axis of the mesh, also one that does not divide evenly, the statistics of
    `fnn.batch_norm` are those of the whole batch, and dropout and noise draw the same bits.
    Parameters are made where they are to lie.

    Args:
        model: the layer to train.
        loss: compares its outputs with the targets.
        optimizer: of `fnn.optim` or of optax. One that keeps an average is validated there, at
            `fnn.optim.eval_params`.
        data: ``(x, target)`` or ``(x, target, weights)``, n examples each; or batches of these.
        epochs: how often to go through the data, 0 or more.
        steps: how many steps to take, in place of `epochs`.
        batch_size: examples in a step, from 1 to n; none for data in batches. Where it does not
            divide n, the smaller last batch compiles a program of its own: of a large network that
            costs as much as the first.
        key: for the parameters, the order and the layers' randomness.
        gradient: ``"manual"``, ``"auto"``, ``"numeric"`` or an estimator, see `fnn.value_and_grad`.
        precision: in which layers compute while training, ``"bfloat16"`` or ``"float16"``, or these
            by patterns over paths, see `fnn.mixed_precision`; None for that of the parameters.
            Parameters, moments, losses and statistics keep theirs, and validated is in float32.
        transform: a function ``(batch, key, step) -> batch`` on the device, traced: each step takes
            its batch as it returns it. The key is one of the step.
        validation: data held out, in memory, to evaluate after every epoch.
        validation_every: evaluate after so many steps, in place of every epoch.
        metrics: functions ``(prediction, target) -> values`` by name, for the validation data.
        callbacks: functions of a `fnn.train.callbacks.Event`, called between epochs, in this order,
            those that save behind the others; those of `fnn.train.callbacks.every` between steps
            too. They return None, a train state to go on with, such as one of another learning
            rate, or a `fnn.train.callbacks.Stop`.
        progress: True for a bar in the terminal, or a function ``(step, steps, loss)``; of data
            without a length `steps` is 0.
        start: a `TrainState` to go on from, in place of `key`: two epochs and then three are the
            same as five. One from the middle of an epoch finishes that first, as one of `epochs`.
            Batches before it are passed; a generator goes on with what it gives next.
        data_state: ``history.data_state`` of the run before: data in batches go on from there, and
            nothing is passed; callbacks that count, as early stopping does, go on with their
            counts, and so do hyper-parameters that a callback changed.
        mesh: devices to train on, as `jax.make_mesh` gives; None for one device, or where there is
            a `sharding` for all devices, along one axis ``"data"``.
        sharding: where parameters and optimizer state lie: ``"data"``, whole on every device, the
            default; ``"full"``, each array of 1024 entries or more in parts, along its largest axis
            that the first axis of the mesh divides; or these words and
            `jax.sharding.PartitionSpec` by paths, and behind these by patterns over them, of which
            the first match counts: see `fnn.train.tensor_parallel`. What is not matched is whole.
    Raises:    InputError for epochs or steps below 0 or both, a batch size outside 1..n, data that
        is empty, of differing lengths, not finite, or that fits neither model nor loss, a `start`
        of another model or optimizer, metrics without validation data, what is no mesh, a sharding
        that fits neither mesh nor parameters: all before it compiles, what is streamed when it is
        read. And inside of `jax.jit` or `jax.vmap`, where `fnn.train_step` belongs.

    >>> import fnn, jax, jax.numpy as jnp
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> train_state, history = fit(
    ...     fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1), (x, 2 * x + 1),
    ...     epochs=20, batch_size=16, key=jax.random.key(0),
    ... )
    >>> train_state.params["weight"].round(2), history.loss.shape
    (Array([[2.]], dtype=float32), (80,))
    """
    # What gives batches is no tree.
    _refuse_tracing(data if isinstance(data, tuple | list) else (), validation, key, start)
    check_progress(progress)
    _check_validation(validation, validation_every, metrics)
    check_transform(transform)
    callbacks = check_callbacks(callbacks)
    _check_length(epochs, steps)
    layout = layout_of(mesh, sharding)
    source = open_source(data, batch_size)
    if not source.again and epochs is not None and epochs > 1:
        raise InputError("one epoch of a generator", f"epochs={epochs}", _GENERATOR_ONCE)
    taken = train_step(model, loss, optimizer, gradient, precision)
    given = hyperparameters(model, optimizer, gradient)
    _refuse_tracing(given)
    seen = transformed_spec(transform, source.spec)
    memory = unpack(data_state)
    begin = functools.partial(
        _start, model, optimizer, gradient, precision, seen.x, key, start, memory, layout
    )
    train_state = begin()
    source = source if layout is None else Split(source, layout)
    place = train_state.params, train_state.state
    source.prepare(row_check(model, loss, transform, *place), key_words(train_state.key))
    measure = None
    if validation is not None:
        held_out = check_data(model, loss, *place, as_batch(validation))
        held_out = held_out if layout is None else layout.put_whole(held_out)
        size = min(batch_size or jax.tree.leaves(source.spec)[0].shape[0], 1024)
        measure = Evaluation(model, loss, held_out, metrics, size, layout)
    until = _last_step(source, int(train_state.step), epochs, steps)
    plan = Plan(
        taken, transform, source, _watched(train_state.params), until, epochs, measure,
        validation_every, ("loss", *(metrics or {})) if measure else (), callbacks, layout,
    )  # fmt: skip
    _check_clocks(plan)
    loop = Loop(plan, train_state, memory, given)
    return _run(loop, progress, lambda: Kept(begin(), memory.place))


def _run(
    loop: Loop, progress: bool | Progress, begin: Callable[[], Kept]
) -> tuple[TrainState, History]:
    """Run to the end; return what came of it, or raise with it."""
    loop.compile()
    began, ahead = time.perf_counter(), loop.plan.until
    compiled = loop.compile_seconds
    try:
        with progress_bar(progress, 0 if ahead is None else max(ahead - loop.first, 0)) as report:
            loop.run(report)
    except BaseException as error:
        _attach(error, loop)
        raise
    seconds = time.perf_counter() - began
    found = loop.record.history(loop.stopped, loop.data_state())
    history = found._replace(
        compile_seconds=loop.compile_seconds,
        run_seconds=seconds - (loop.compile_seconds - compiled),
    )
    if loop.dead or not np.isfinite(history.loss).all():
        # From what was kept on the way, or from the begin: a generator gives nothing twice.
        # Several processes would each go by a clock of its own.
        lost = loop.changed or loop.is_shared or seconds > _REPLAY_SECONDS
        known = None if lost else begin
        kept = loop.kept
        again = known if kept is None else lambda: Kept(jax.tree.map(jnp.copy, kept[0]), kept[1])
        replay = again if loop.dead and loop.plan.source.again else None
        _warn(complaint(loop, history.loss, replay))
    elif loop.stopped.startswith("interrupted"):
        _warn(f"{loop.stopped} after step {loop.step}; go on with start=train_state")
    return loop.train_state, history


def _warn(words: str) -> None:
    # Four: `_run`, `fit`, and the function that names its errors stand between.
    warnings.warn(f"fnn.fit: {words}", stacklevel=5)


def _attach(error: BaseException, loop: Loop) -> None:
    """Let an error bear what there is of a run."""
    if loop.step == loop.first:
        return
    train_state: TrainState | None = loop.train_state
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(train_state)):
        # It came in the middle of a dispatch, to which the buffers were given.
        train_state = None if loop.kept is None else loop.kept.train_state
    history: History | None = None
    # Where the device failed, nothing comes from it any more; the error is to be seen still.
    with contextlib.suppress(Exception):
        history = loop.record.history(loop.stopped, loop.data_state())
    vars(error).update(train_state=train_state, history=history)
    error.add_note(
        f"fnn.fit: stopped after step {loop.step}; the error bears train_state and history: "
        "go on with start=error.train_state"
    )


def _check_length(epochs: int | None, steps: int | None) -> None:
    """Raise unless either epochs or steps are given, 0 or more."""
    if (epochs is None) == (steps is None):
        got = "neither" if epochs is None else "both"
        raise InputError("epochs or steps", got, "pass one of them, as in epochs=5")
    if epochs is not None:
        check.count(epochs, "epochs", least=0)
    else:
        check.count(steps, "steps", least=0)


def _check_validation(validation: Data | None, every: int | None, metrics: Metrics | None) -> None:
    """Raise for what goes with validation data, and without."""
    for value, name in ((metrics, "the metrics"), (every, "validation_every")):
        if value is not None and validation is None:
            raise InputError(f"validation data for {name}", "none", "pass validation=(x, target)")
    check_metrics(metrics)
    if every is not None:
        check.count(every, "validation_every")


def _check_clocks(plan: Plan) -> None:
    """Raise where a clock would call back in one process before another."""
    is_shared = plan.layout is not None and plan.layout.is_shared
    if is_shared and any(isinstance(one, Timed) and one.seconds for one in plan.callbacks):
        expected = "callbacks that steps call, on a mesh of several processes"
        raise InputError(expected, "one that a clock calls", "pass steps= in place of seconds=")


def _last_step(source: Source, first: int, epochs: int | None, steps: int | None) -> int | None:
    """Return the step to stop before, of epochs of which the first may have begun; None if open."""
    if steps is not None:
        return first + steps
    if not source.epoch_steps or epochs is None:
        return None
    return (first // source.epoch_steps + epochs) * source.epoch_steps


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
    # What is computed inside of a traced function is traced, whatever it is computed of.
    if traced or isinstance(jax.device_put(np.zeros(())), jax.core.Tracer):
        raise InputError(
            "to be called outside of jax.jit, jax.vmap and jax.grad",
            "traced arguments" if traced else "a call inside of a traced function",
            "loop over fnn.train_step there, which is a pure function",
        )


def _start(
    model: Layer,
    optimizer: Optimizer,
    gradient: Gradient,
    precision: Precision | None,
    x: Input,
    key: Key,
    start: TrainState | None,
    memory: Memory,
    layout: Layout | None,
) -> TrainState:
    """Return the train state to begin with, in buffers of its own."""
    if (key is None) == (start is None):
        raise InputError(
            "a key, or a TrainState to start from",
            "neither" if key is None else "both",
            "pass key=jax.random.key(0), or start=train_state",
        )
    init = functools.partial(
        init_train_state, model, optimizer, x, gradient=gradient, precision=precision
    )
    if start is None:
        key = jnp.asarray(check.key(key))
        if layout is not None:
            return start_on(layout, model, optimizer, x, key, gradient, precision)
        start = init(key=key)
    else:
        _check_start(start, lambda: jax.eval_shape(lambda key: init(key=key), jax.random.key(0)))
        # The numbers are those of the arguments, which may have changed.
        given = hyperparameters(model, optimizer, gradient)
        numbers = numbers_to_go_on(given, start.hyperparameters, memory.begun)
        start = start._replace(hyperparameters=numbers)
        start = start if layout is None else layout.put(start)
    # Every dispatch gives its buffers away: the caller's must survive, and no two leaves may share
    # one, as the zeros of a bias and of a running mean might.
    return copies(start, layout)


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


def _watched(params: Params) -> Array:
    """Return for every leaf of the parameters whether it is finite, and so has to stay it."""
    leaves: list[Array] = jax.tree.leaves(params)
    if any([device.platform for device in leaf.devices()] != ["cpu"] for leaf in leaves):
        return finite_leaves(params)
    # What lies in this memory needs no program to be looked at.
    finite = [not _is_inexact(leaf) or bool(np.isfinite(leaf).all()) for leaf in leaves]
    return jnp.asarray(np.array(finite, bool))


def _is_inexact(leaf: Array) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def key_words(key: Array) -> list[int]:
    """Return the integers that a key is made of."""
    words: list[int] = np.asarray(words_of(key)).ravel().tolist()
    return words
