"""Data as training reads it: arrays on the device, memory-mapped rows, batches from anywhere.

A `Source` hands out stretches: examples on the device, and which of them each of some steps takes.
Arrays are one stretch an epoch. All else is read in portions of some megabytes, always in order,
and in the thread of the caller: the device works on the portion before meanwhile.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import NamedTuple, Protocol

import jax
import numpy as np

from fnn._core import check
from fnn._core.arrays import jax_dtype
from fnn._core.errors import InputError, describe
from fnn._core.types import Data, Params, State, Unchecked
from fnn.gradient.objective import Batch, as_batch
from fnn.layer import Layer, output_shape
from fnn.losses import Loss
from fnn.train.data._order import EpochOrder
from fnn.train.data._rows import row_reader
from fnn.train.data.batch import check_batch_size, check_data, length
from fnn.train.loop._program import Steps, Transform, transformed_spec

_PORTION_BYTES, _PORTION_STEPS = 2**24, 256
# A portion that takes longer to be read goes to the device as far as it is.
_PORTION_SECONDS = 0.2


class CheckRows(Protocol):
    """``(batch) -> batch``, on the device; `whole` says that it is all there is."""

    def __call__(self, batch: Batch, /, *, whole: bool = False) -> Batch: ...


class Stretch(NamedTuple):
    """Steps ready to be taken.

    Args:
        epoch: which they belong to.
        data: examples on the device.
        order: (steps, size), which of them every step takes.
        begin: the first step.
        end: the step to stop before.
        ends_epoch: whether the epoch is over then.
        place: where the data stand before a step, of data whose place the number of the step does
            not tell; else None.
    """

    epoch: int
    data: Batch | Steps
    order: np.ndarray
    begin: int
    end: int
    ends_epoch: bool
    place: Callable[[int], bytes | None]


class Source(Protocol):
    """Where the batches of a training come from.

    `spec` has the shapes of a batch, `epoch_steps` says how many steps an epoch has, None where
    that is not known, and `again` says whether what was read can be read once more.
    """

    @property
    def spec(self) -> Batch: ...

    @property
    def epoch_steps(self) -> int | None: ...

    @property
    def again(self) -> bool: ...

    def prepare(self, check_rows: CheckRows, seed: list[int]) -> None:
        """Take how rows are looked at, and the words of the key that the order is drawn from."""

    def programs(self) -> list[Stretch]:
        """Return a stretch for every program that is known to be needed."""

    def stretches(self, step: int, until: int | None, place: bytes | None) -> Iterator[Stretch]:
        """Yield what comes from a step on, and nothing from step `until` on."""


def open_source(data: Data, batch_size: int | None) -> Source:
    """Return the source that data are read by.

    Args:
        data: ``(x, target)`` or ``(x, target, weights)``, in memory or memory-mapped; batches; or a
            function of the epoch that gives them.
        batch_size: how many examples a step takes; None for data that come in batches.
    Raises:    InputError for what is no data, and a `batch_size` that does not go with it.
    """
    batches = _batches(data)
    if batches is not None:
        if batch_size is not None:
            expected, got = "no batch_size for data in batches", describe(batch_size)
            raise InputError(expected, got, "leave it out, or pass arrays")
        return batches
    batch = as_batch(data)
    examples = length(batch.x)
    check_batch_size(batch_size, examples)
    mapped = any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(batch))
    size = int(batch_size or 0)
    if mapped:
        return MappedRows(batch, examples, size)
    return Arrays(batch, examples, size)


def _batches(data: Unchecked) -> Batches | None:
    """Return the source of data in batches, or None for data of arrays."""
    if hasattr(data, "shape") or isinstance(data, tuple | dict | str | bytes):
        return None
    if isinstance(data, list) and not (data and all(map(_is_batch, data))):
        return None
    if hasattr(data, "__next__"):
        return Batches(lambda epoch: data, None, again=False, name=type(data).__name__)
    if hasattr(data, "__iter__"):
        count = len(data) if isinstance(data, Sized) else None
        return Batches(lambda epoch: data, count, again=True, name=type(data).__name__)
    if callable(data):
        remedy = "pass arrays, batches, or a function of the epoch that gives batches"
        check.function(data, "data", remedy, takes="epoch")
        name = getattr(data, "__name__", type(data).__name__)
        return Batches(data, None, again=True, name=name)
    return None


def _is_batch(part: Unchecked) -> bool:
    pair = isinstance(part, tuple | list) and len(part) in (2, 3)
    return pair and all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(part[0]))


def row_check(
    model: Layer, loss: Loss, transform: Transform | None, params: Params, state: State
) -> CheckRows:
    """Return a function that looks at rows and puts them onto the device.

    Args:
        model: the layer that they are for.
        loss: compares its outputs with the targets.
        transform: of the batches, or None: the model sees what it makes of them.
        params: of the model, of which the shapes are kept.
        state: of the model.
    """
    params, state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, state))
    outputs: dict[Unchecked, Unchecked] = {}

    def check_rows(batch: Batch, /, *, whole: bool = False) -> Batch:
        if whole and transform is None:
            return check_data(model, loss, params, state, batch)
        spec = _rows_spec(batch, length(batch.x))
        known = _kind(spec)
        if known not in outputs:
            # Tracing a model takes longer than to look at a portion.
            seen = transformed_spec(transform, spec)
            same = _kind(seen.target) == _kind(spec.target)
            # Targets that are made on the device have their values there.
            judge = loss if same else dataclasses.replace(loss, check=lambda y, t: None)
            outputs[known] = output_shape(model, params, state, seen.x), judge
        shapes, judge = outputs[known]
        return check_data(model, judge, params, state, batch, outputs=shapes)

    return check_rows


class Arrays:
    """Arrays in memory, on the device from the first step to the last.

    Args:
        batch: x, target and weights of all examples.
        examples: how many there are.
        batch_size: how many a step takes; the rest of an epoch is a step of its own.
    """

    again = True

    def __init__(self, batch: Batch, examples: int, batch_size: int):
        self.batch, self.examples, self.batch_size = batch, examples, batch_size
        self.spec = _rows_spec(batch, batch_size)
        self.epoch_steps = -(-examples // batch_size)
        self.seed: list[int] = []

    def prepare(self, check_rows: CheckRows, seed: list[int]) -> None:
        self.batch, self.seed = check_rows(self.batch, whole=True), seed

    def programs(self) -> list[Stretch]:
        return list(self.stretches(0, self.epoch_steps, None))

    def stretches(self, step: int, until: int | None, place: bytes | None) -> Iterator[Stretch]:
        _refuse_place(place)
        epoch, taken = divmod(step, self.epoch_steps)
        full, rest = divmod(self.examples, self.batch_size)
        cut = full * self.batch_size
        while until is None or epoch * self.epoch_steps < until:
            rows = EpochOrder(self.seed, epoch, self.examples).rows(0, self.examples)
            order = rows[:cut].reshape(full, self.batch_size)
            yield Stretch(epoch, self.batch, order, min(taken, full), full, not rest, _nowhere)
            if rest:
                yield Stretch(epoch, self.batch, rows[cut:][None], 0, 1, True, _nowhere)
            epoch, taken = epoch + 1, 0


class MappedRows:
    """Arrays of which some are memory-mapped: rows are read when their step comes.

    Args:
        batch: x, target and weights of all examples.
        examples: how many there are.
        batch_size: how many a step takes; the rest of an epoch is a step of its own.
    """

    again = True

    def __init__(self, batch: Batch, examples: int, batch_size: int):
        for name, part in zip(batch._fields, batch, strict=True):
            if part is not None and length(part) != examples:
                raise InputError(
                    f"x and {name} of one length",
                    f"{examples} and {length(part)}",
                    "give one row of each to every example",
                )
        leaves, self.structure = jax.tree.flatten(batch)
        self.readers = [row_reader(leaf) for leaf in leaves]
        self.examples, self.batch_size = examples, batch_size
        self.spec = _rows_spec(batch, batch_size)
        self.epoch_steps = -(-examples // batch_size)
        self.portion = _portion_steps(self.spec, self.epoch_steps)
        self.seed: list[int] = []
        # Of a step of so many examples those that this process reads; None for all.
        self.slots: Callable[[int], np.ndarray] | None = None

    def prepare(self, check_rows: CheckRows, seed: list[int]) -> None:
        self.check_rows, self.seed = check_rows, seed

    def programs(self) -> list[Stretch]:
        return []

    def stretches(self, step: int, until: int | None, place: bytes | None) -> Iterator[Stretch]:
        _refuse_place(place)
        epoch, taken = divmod(step, self.epoch_steps)
        full = self.examples // self.batch_size
        while until is None or epoch * self.epoch_steps < until:
            order = EpochOrder(self.seed, epoch, self.examples)
            last = self.epoch_steps if until is None else until - epoch * self.epoch_steps
            while taken < min(last, self.epoch_steps):
                # Portions begin where they would without a start: equal programs, equal bits.
                begin = taken - taken % self.portion if taken < full else full
                end = min(begin + self.portion, full) if taken < full else full + 1
                rows = order.rows(begin * self.batch_size, end * self.batch_size)
                size = self.batch_size if begin < full else len(rows)
                steps = self.portion if begin < full else 1
                data = self._read(rows, steps, size)
                local = np.arange(steps * size, dtype=np.int32).reshape(steps, size)
                over = end == self.epoch_steps
                yield Stretch(epoch, data[0], local, taken - begin, end - begin, over, _nowhere)
                taken = end
            epoch, taken = epoch + 1, 0

    def _read(self, rows: np.ndarray, steps: int, size: int) -> tuple[Batch, np.ndarray]:
        """Return rows on the device, filled up to those of so many steps, and their numbers."""
        # The program is one for all portions: what fills up the last is read by no step.
        filled = np.concatenate([rows, np.repeat(rows[:1], steps * size - len(rows))])
        if self.slots is not None:
            filled = filled.reshape(steps, size)[:, self.slots(size)].ravel()
        batch: Batch = jax.tree.unflatten(self.structure, [read(filled) for read in self.readers])
        try:
            return self.check_rows(batch), filled
        except InputError:
            _blame(self.check_rows, batch, 1, lambda i: f"example {filled[i]}")
            raise


class Batches:
    """Batches from an iterable, a generator or a function of the epoch.

    Args:
        make: gives what is iterated over, of the epoch.
        epoch_steps: how many batches that has, or None.
        again: whether it can be gone through again; not so a generator.
        name: what an error calls it.
    """

    def __init__(
        self, make: Callable[[int], Iterable[Data]], epoch_steps: int | None, *, again: bool,
        name: str,
    ):  # fmt: skip
        self.make, self.epoch_steps, self.again, self.name = make, epoch_steps, again, name
        self.portion_seconds = _PORTION_SECONDS
        # The first batch tells the shapes. A generator gives it once, a loader may shuffle anew.
        self._opened: _Reader | None = self._open(0)
        first = self._opened.peek()
        if first is None:
            raise self._without_batches(0)
        self.spec = _rows_spec(first, length(first.x))

    def prepare(self, check_rows: CheckRows, seed: list[int]) -> None:
        del seed
        self.check_rows = check_rows

    def programs(self) -> list[Stretch]:
        return []

    def stretches(self, step: int, until: int | None, place: bytes | None) -> Iterator[Stretch]:
        reader, begun = self._find(step, place)
        while until is None or step < until:
            taken = 0
            most = self.epoch_steps, self.portion_seconds
            for portion in reader.portions(step, until, *most):
                yield self._stretch(reader.epoch, portion, step)
                step, taken = step + len(portion.batches), taken + len(portion.batches)
            if not taken and not begun:
                raise self._without_batches(reader.epoch)
            # Nobody misses a batch that is looked at here, but of a generator.
            over = until is None or step < until or (self.again and reader.peek() is None)
            # A place behind the last batch of an epoch was taken before its end was told.
            if (taken or place is not None) and over:
                yield self._end(reader.epoch)
            place = None
            if not self.again:
                return
            reader, begun = self._open(reader.epoch + 1), False

    def _open(self, epoch: int) -> _Reader:
        made: Unchecked = self.make(epoch)
        try:
            batches = iter(made)
        except TypeError as error:
            remedy = "let the function of the epoch return an iterable of (x, target)"
            raise InputError("batches", describe(made), remedy) from error
        return _Reader(batches, epoch, self.name)

    def _find(self, step: int, place: bytes | None) -> tuple[_Reader, bool]:
        """Return a reader that stands at a step, and whether batches of its epoch were passed."""
        opened = self._opened
        if not self.again and opened is not None:
            if place is not None:
                expected = f"data that can be read from a place, not {self.name}"
                raise InputError(expected, "a place to go on from", "pass a function of the epoch")
            return opened, True
        self._opened = None
        if place is not None:
            found = _unpacked(place)
            reader = self._open(found.epoch)
            reader.go_to(found)
            return reader, found.skip > 0 or found.state is not None
        epoch, left = divmod(step, self.epoch_steps) if self.epoch_steps else (0, step)
        reader = opened if opened is not None and not epoch else self._open(epoch)
        while left:
            passed = reader.drop(left)
            if not passed:
                raise self._without_batches(reader.epoch)
            if passed == left:
                return reader, True
            reader, left = self._open(reader.epoch + 1), left - passed
        return reader, False

    def _stretch(self, epoch: int, portion: _Portion, step: int) -> Stretch:
        """Return a portion on the device, filled up to the size that all such portions have."""
        count, size = len(portion.batches), length(portion.batches[0].x)
        filled = portion.batches + [portion.batches[0]] * (portion.room - count)
        batch: Batch = jax.tree.map(lambda *leaves: np.concatenate(leaves), *filled)
        order = np.arange(portion.room * size, dtype=np.int32).reshape(-1, size)
        try:
            data = self.check_rows(batch)
        except InputError:
            _blame(self.check_rows, batch, size, lambda i: f"the batch of step {step + i}")
            raise

        def place(i: int) -> bytes | None:
            there = portion.place._replace(skip=portion.place.skip + i)
            return _packed(there) if self.again else None

        return Stretch(epoch, data, order, 0, count, False, place)

    def _end(self, epoch: int) -> Stretch:
        """Return the end of an epoch, behind its last portion: no steps."""
        place = _packed(_Place(epoch + 1, 0, None)) if self.again else None
        order = np.zeros((0, 1), np.int32)
        return Stretch(epoch, Batch((), ()), order, 0, 0, True, lambda i: place)

    def _without_batches(self, epoch: int) -> InputError:
        expected = f"batches from {self.name} in epoch {epoch}"
        return InputError(expected, "none", "pass data with at least one")


class _Place(NamedTuple):
    """Where data in batches stand: in an epoch, `skip` batches behind its begin, or a state."""

    epoch: int
    skip: int
    state: str | None


class _Portion(NamedTuple):
    """Some batches of equal shapes, the place of the first, and how many there may be."""

    batches: list[Batch]
    place: _Place
    room: int


class _Reader:
    """Batches of an epoch, one after the other, and where they stand.

    Args:
        iterator: gives the batches. One with `get_state` and `set_state`, as those of Grain, is
            asked where it stands.
        epoch: which it is.
        name: what an error calls the data.
    """

    def __init__(self, iterator: Iterator[Data], epoch: int, name: str):
        self.iterator, self.epoch, self.name = iterator, epoch, name
        self.held: Batch | None = None
        self.state: str | None = None
        # Batches handed out since that state.
        self.since = 0
        self._mark()

    def _mark(self) -> None:
        if hasattr(self.iterator, "get_state") and hasattr(self.iterator, "set_state"):
            self.state, self.since = _encoded(self.iterator.get_state(), self.name), 0

    def peek(self, step: int | None = None) -> Batch | None:
        """Return the next batch without handing it out, or None behind the last."""
        if self.held is None:
            self.held = self._draw(step)
        return self.held

    def drop(self, count: int) -> int:
        """Pass some batches, and return how many there were."""
        passed = 0
        while passed < count:
            if self.held is None and self._next(None) is None:
                break
            self.held, passed = None, passed + 1
        self.since += passed
        return passed

    def go_to(self, place: _Place) -> None:
        """Go to a place in this epoch, from its begin."""
        if place.state is not None:
            if not hasattr(self.iterator, "set_state"):
                expected, got = "data with a state to go on from", self.name
                raise InputError(expected, got, "pass data like those that data_state is of")
            self.iterator.set_state(_decoded(place.state))
            self.state = place.state
        self.drop(place.skip)

    def portions(
        self, step: int, until: int | None, epoch_steps: int | None, seconds: float
    ) -> Iterator[_Portion]:
        """Yield batches up to the end of the epoch, or to a step."""
        failure: Exception | None = None
        while until is None or step < until:
            first = self.peek(step)
            if first is None:
                return
            most = _portion_steps(first, epoch_steps)
            batches, place = [], _Place(self.epoch, self.since, self.state)
            began, kind = time.monotonic(), _kind(first)
            room = most if until is None else min(most, until - step)
            while self.held is not None and _kind(self.held) == kind:
                batches.append(self.held)
                self.held, self.since = None, self.since + 1
                if len(batches) == room or time.monotonic() - began > seconds:
                    break
                try:
                    self.held = self._draw(step + len(batches))
                except Exception as error:
                    # The batches before it are good.
                    failure = error
                    break
            yield _Portion(batches, place, most)
            if failure is not None:
                raise failure
            step += len(batches)
            if self.held is None:
                self._mark()

    def _draw(self, step: int | None) -> Batch | None:
        """Return the next batch as NumPy's arrays, or None behind the last."""
        item = self._next(step)
        if item is None:
            return None
        try:
            batch = jax.tree.map(np.asarray, as_batch(item))
            length([part for part in batch if part is not None])
        except InputError as error:
            raise InputError(error.args[0], f"{error.args[1]}{_of(step)}", error.args[2]) from error
        found: Batch = batch
        return found

    def _next(self, step: int | None) -> Data:
        """Return what the iterator gives next, or None; an error of its own says where it was."""
        try:
            return next(self.iterator, None)
        except Exception as error:
            error.add_note(f"fnn.fit: raised by {self.name}, read for a batch{_of(step)}")
            raise


def _of(step: int | None) -> str:
    return "" if step is None else f" of step {step}"


def _kind(tree: Unchecked) -> Unchecked:
    """Return structure, shapes and dtypes of a tree of arrays, hashable."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _rows_spec(batch: Batch, size: int) -> Batch:
    """Return the shapes of so many rows, as JAX holds them."""
    spec: Batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), jax_dtype(a.dtype)), batch
    )
    return spec


def _portion_steps(batch: Batch, epoch_steps: int | None) -> int:
    """Return how many batches like one go to the device at once."""
    size = sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(batch))
    steps = max(1, min(_PORTION_BYTES // max(size, 1), _PORTION_STEPS))
    return steps if epoch_steps is None else min(steps, epoch_steps)


def _blame(check_rows: CheckRows, batch: Batch, size: int, name: Callable[[int], str]) -> None:
    """Raise for the first part of some rows that is wrong by itself, and say which that is."""
    for i in range(length(batch.x) // size):
        part = jax.tree.map(lambda a, i=i: a[i * size : (i + 1) * size], batch)
        try:
            check_rows(part)
        except InputError as error:
            expected, got, remedy = error.args
            raise InputError(expected, f"{got} of {name(i)}", remedy) from None


def _nowhere(step: int) -> None:
    """Say that the number of a step tells where the data stand."""
    del step


def _refuse_place(place: bytes | None) -> None:
    if place is not None:
        expected, got = "no data_state for data of arrays", describe(place)
        raise InputError(expected, got, "leave it out: start tells the step")


def _encoded(state: Unchecked, name: str) -> str:
    """Return the state of an iterator as text."""
    if isinstance(state, bytes):
        return json.dumps({"base64": base64.b64encode(state).decode()})
    try:
        return json.dumps({"json": state})
    except TypeError as error:
        expected, got = f"a state of {name} that JSON holds", describe(state)
        raise InputError(expected, got, "let its get_state return bytes") from error


def _decoded(state: str) -> Unchecked:
    held = json.loads(state)
    return base64.b64decode(held["base64"]) if "base64" in held else held["json"]


def _packed(place: _Place) -> bytes:
    return json.dumps(place._asdict()).encode()


def _unpacked(place: bytes) -> _Place:
    try:
        found = _Place(**json.loads(place))
        check.count(found.epoch, "epoch", least=0)
        check.count(found.skip, "skip", least=0)
    except (TypeError, ValueError) as error:
        expected, got = "a data_state of an earlier run", describe(place)
        raise InputError(expected, got, "pass history.data_state, or what was saved") from error
    return found
