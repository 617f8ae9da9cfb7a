"""One step of training, as a pure function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.description import Structure, split
from fnn._core.errors import InputError, describe, entry
from fnn._core.place import first_difference
from fnn._core.tree import inexact_leaves
from fnn._core.types import (
    Array,
    Data,
    Input,
    OptState,
    Params,
    PyTree,
    Scalar,
    State,
    Unchecked,
    Updates,
)
from fnn.gradient.objective import Gradient, value_and_grad
from fnn.layer import Layer, require_layer
from fnn.losses import Loss
from fnn.optim.optimizer import GradientAt, Optimizer, check_optimizer, take_step
from fnn.train.precision import Precision, in_precision


class TrainState(NamedTuple):
    """Everything training remembers, a pytree: save it, and go on from it bit for bit.

    Args:
        params: the parameters of the model.
        state: what its layers remember, such as running statistics.
        opt_state: what the optimizer remembers.
        key: the key that the randomness of every step is folded from.
        step: how many steps were taken.
        hyperparameters: the numbers of model, optimizer and estimator by their paths, such as
            ``"optimizer/learning_rate"``: inputs of the compiled step, which may change between
            steps, and be stacked and mapped over.
    """

    params: Params
    state: State
    opt_state: OptState
    key: Array
    step: Array
    hyperparameters: dict[str, Scalar]


@dataclass(frozen=True)
class TrainStep:
    """Training step, ``(train_state, batch) -> (train_state, {"loss": value})``.

    Steps that differ in run-time hyper-parameters alone are equal, so that `jax.jit` compiles one
    program for all of them.

    Args:
        structure: model, loss, optimizer and estimator without their numbers.
        hyperparameters: the paths of these numbers.

    >>> import fnn
    >>> steps = [
    ...     fnn.train_step(fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(rate))
    ...     for rate in (0.1, 0.2)
    ... ]
    >>> steps[0] == steps[1]
    True
    """

    structure: Structure
    hyperparameters: tuple[str, ...] = field(compare=False)

    @entry
    def __call__(
        self,
        train_state: TrainState,
        batch: Data,
        rebuild: Callable[[Layer, Params], Layer] | None = None,
    ) -> tuple[TrainState, dict[str, Array]]:
        """Take one step.

        Where the optimizer skips it, as `fnn.optim.skip_nonfinite` does, the running state of the
        layers stays as it was too.

        Args:
            train_state: as `fnn.init_train_state` makes it.
            batch: ``(x, target)`` or ``(x, target, weights)``.
            rebuild: of the model and its parameters makes the model that runs, such as one that
                gathers parameters from a mesh; None for the model itself.
        Raises:    InputError for a train state of another model, optimizer or gradient, and for an
            optimizer that gives no updates like the parameters, or no state like the one before.
        """
        self._check(train_state)
        if rebuild is not None:
            check.function(rebuild, "rebuild", takes="model, params")
        params, state, opt_state, key, count, numbers = train_state
        made = self.structure.build(numbers)
        model, optimizer = in_precision(
            made["model"], made["optimizer"], made["precision"], opt_state
        )
        model = model if rebuild is None else rebuild(model, params)
        gradient_of = value_and_grad(model, made["loss"], made["gradient"])
        step_key = jax.random.fold_in(key, count)
        (value, new_state), updates, new_opt_state = _step(
            optimizer,
            lambda p: gradient_of(p, state, batch, key=step_key),
            params,
            opt_state,
        )
        new_state = _unless_skipped(opt_state, new_opt_state, state, new_state)
        params = jax.tree.map(_moved, params, updates)
        after = TrainState(params, new_state, new_opt_state, key, count + 1, numbers)
        return after, {"loss": value}

    def _check(self, train_state: Unchecked) -> None:
        """Raise unless this is a train state with the numbers that the step takes."""
        remedy = "make it with fnn.init_train_state for the same model, optimizer and gradient"
        if not isinstance(train_state, TrainState):
            raise InputError("a TrainState", describe(train_state), remedy)
        given = train_state.hyperparameters
        is_mapping = isinstance(given, Mapping)
        missing = [name for name in self.hyperparameters if not is_mapping or name not in given]
        surplus = sorted(set(given) - set(self.hyperparameters)) if is_mapping else []
        if missing or surplus:
            words = f"with the hyper-parameter {missing[0]!r}" if missing else ""
            raise InputError(
                f"a train state {words or f'without the hyper-parameter {surplus[0]!r}'}",
                f"one with {sorted(given) if is_mapping else describe(given)}",
                remedy,
            )


def _step(
    optimizer: Optimizer, gradient_at: GradientAt, params: Params, opt_state: OptState
) -> tuple[tuple[Array, State], Updates, OptState]:
    """Take a step with an optimizer, and raise unless it gives what an optimizer should."""
    remedy = "let its update return (updates, state), each as it was given"
    value_and_aux, updates, after = take_step(optimizer, gradient_at, params, opt_state)
    for name, before, now, of in (
        ("updates", params, updates, "the parameters"),
        ("an optimizer state", opt_state, after, "the one before the step"),
    ):
        differs = first_difference(before, now, dtypes=name != "updates")
        if differs:
            raise InputError(f"{name} like {of}", differs, remedy)
    return value_and_aux, updates, after


def _moved(p: Array, u: Array) -> Array:
    """Return ``p + u`` in the dtype of p, added in the wider of the two."""
    if p.dtype == u.dtype:
        return p + u
    wide = max(p.dtype, u.dtype, key=lambda dtype: dtype.itemsize)
    return (p.astype(wide) + u.astype(wide)).astype(p.dtype)


def _unless_skipped(before: OptState, after: OptState, state: State, new_state: State) -> State:
    """Return the new running state, or the old one where the optimizer counted a skipped step."""
    skips = [a != b for b, a in zip(_skipped(before), _skipped(after), strict=True)]
    if not skips:
        return new_state
    skip = functools.reduce(jnp.logical_or, skips)
    return jax.tree.map(lambda old, new: jnp.where(skip, old, new), state, new_state)


def _skipped(opt_state: OptState) -> Iterator[Array]:
    """Yield the counts of skipped steps in an optimizer's state, wherever they stand."""

    def counts(node: Unchecked) -> bool:
        return hasattr(node, "skipped")

    for node in jax.tree.leaves(opt_state, is_leaf=counts):
        if counts(node):
            yield node.skipped
            yield from _skipped(tuple(node) if isinstance(node, tuple) else ())


@entry
def train_step(
    model: Layer,
    loss: Loss,
    optimizer: Optimizer,
    gradient: Gradient = "manual",
    precision: Precision | None = None,
) -> TrainStep:
    """Training step: gradient, update, ``params + updates``, as a pure function.

    It maps ``(train_state, batch)`` to ``(train_state, {"loss": value})``. The randomness of step t
    comes from ``jax.random.fold_in(train_state.key, t)``, however many gradients the optimizer asks
    for in it. Its hyper-parameters are those of the train state; what shapes the program (a number
    of units, an absent momentum, a flag) is that of the arguments here. Compile, scan and map it at
    will.

    Args:
        model: the layer to train.
        loss: compares its outputs with the targets.
        optimizer: of `fnn.optim` or of optax.
        gradient: where gradients come from, as in `fnn.value_and_grad`.
        precision: in which layers compute, see `fnn.mixed_precision`: ``"bfloat16"`` or
            ``"float16"``, or these by patterns over paths; None for that of the parameters.
    Raises:    InputError for what is no layer, loss, optimizer, gradient or precision.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model, loss, optimizer = fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1)
    >>> x = jnp.array([[1.0], [2.0]])
    >>> train_state = fnn.init_train_state(model, optimizer, x, key=jax.random.key(0))
    >>> step = jax.jit(fnn.train_step(model, loss, optimizer))
    >>> for _ in range(100):
    ...     train_state, metrics = step(train_state, (x, 3 * x))
    >>> bool(metrics["loss"] < 1e-2), int(train_state.step)
    (True, 100)
    """
    value_and_grad(model, loss, gradient)  # for its checks
    check_optimizer("an optimizer", optimizer)
    in_precision(model, optimizer, precision)
    structure, numbers = split(
        model=model, loss=loss, optimizer=optimizer, gradient=gradient, precision=precision
    )
    return _step_of(structure, tuple(sorted(numbers)))


@functools.lru_cache(maxsize=256)
def _step_of(structure: Structure, names: tuple[str, ...]) -> TrainStep:
    """Return the step of a structure, the same object for equal ones: `jax.jit` goes by that."""
    return TrainStep(structure, names)


@entry
def init_train_state(
    model: Layer,
    optimizer: Optimizer,
    x: Input,
    *,
    key: Array,
    gradient: Gradient = "manual",
    precision: Precision | None = None,
) -> TrainState:
    """Train state at the start: parameters drawn, running state, hyper-parameters, step 0.

    Args:
        model: the layer to train.
        optimizer: of `fnn.optim` or of optax.
        x: a batch or its `jax.ShapeDtypeStruct`; its values are not looked at.
        key: for the parameters, and for the randomness of all steps.
        gradient: where gradients come from, as in `train_step`; an estimator has numbers too.
        precision: as in `train_step`; that of float16 has a loss scale in the optimizer's state.
    Raises:    InputError for what is no layer, optimizer, key or precision.

    >>> import fnn, jax, jax.numpy as jnp
    >>> start = init_train_state(
    ...     fnn.dense(2), fnn.optim.sgd(0.1), jnp.ones((1, 3)), key=jax.random.key(0)
    ... )
    >>> start.params["weight"].shape, start.hyperparameters
    ((3, 2), {'optimizer/learning_rate': Array(0.1, dtype=float32, weak_type=True)})
    """
    require_layer(model)
    check_optimizer("an optimizer", optimizer)
    params, state, train_key = _drawn(model, check.key(key), x)
    numbers = hyperparameters(model, optimizer, gradient)
    _, optimizer = in_precision(model, optimizer, precision)
    begun = _begun(optimizer, params)
    return TrainState(params, state, begun, train_key, jnp.asarray(np.int32(0)), numbers)


def _drawn(model: Layer, key: Array, x: Input) -> tuple[Params, State, Array]:
    """Return what `init` gives, to rounding, and the key of the steps, drawn by one program.

    Call by call every shape of a weight would compile some of its own, at half a second each.
    """
    leaves, tree = jax.tree.flatten(x)
    are_arrays = all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves)
    structure, numbers = split(model=model)
    if are_arrays and not _any_traced(key, numbers):
        specs = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        params, state, train_key = _init(structure, numbers, structure.at_init, tree, specs, key)
        if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(inexact_leaves(params))):
            return params, state, train_key
    # There, outside of a program, an initializer is judged by what it draws.
    init_key, train_key = jax.random.split(key)
    return *model.init(init_key, x), train_key


def _any_traced(*trees: PyTree) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


# At the usual level the compiler takes twice as long, and the program has the same bits and speed.
@functools.partial(
    jax.jit,
    static_argnames=("structure", "at_init", "tree", "specs"),
    compiler_options={"xla_backend_optimization_level": "1"},
)
def _init(
    structure: Structure,
    numbers: dict[str, Scalar],
    at_init: tuple[Hashable, ...],
    tree: Unchecked,
    specs: tuple[jax.ShapeDtypeStruct, ...],
    key: Array,
) -> tuple[Params, State, Array]:
    del at_init  # of the structure, which equals one of other initializers
    model: Layer = structure.build(numbers)["model"]
    init_key, train_key = jax.random.split(key)
    return *model.init(init_key, jax.tree.unflatten(tree, specs)), train_key


def _begun(optimizer: Optimizer, params: Params) -> OptState:
    """Return what an optimizer remembers at the start, by one program, as `_drawn` does.

    One by hand is equal to itself alone, so that its program would never be found again.
    """
    structure, numbers = split(optimizer=optimizer)
    if getattr(optimizer, "call", None) is None or _any_traced(params, numbers):
        return optimizer.init(params)
    return _optimizer_init(structure, numbers, structure.at_init, params)


@functools.partial(jax.jit, static_argnames=("structure", "at_init"))
def _optimizer_init(
    structure: Structure,
    numbers: dict[str, Scalar],
    at_init: tuple[Hashable, ...],
    params: Params,
) -> OptState:
    del at_init
    optimizer: Optimizer = structure.build(numbers)["optimizer"]
    return optimizer.init(params)


def hyperparameters(model: Layer, optimizer: Optimizer, gradient: Gradient) -> dict[str, Scalar]:
    """Return the run-time hyper-parameters of a training by their paths.

    Args:
        model: the layer to train.
        optimizer: of `fnn.optim` or of optax.
        gradient: where gradients come from.
    """
    _, numbers = split(model=model, optimizer=optimizer, gradient=gradient)
    return {path: jnp.asarray(value) for path, value in numbers.items()}
