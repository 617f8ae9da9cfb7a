"""The loop around the compiled steps: portions of them, and events between.

Steps run in dispatches of up to a second, one of them ahead of the host, so that data is read and
losses are copied while the device works. The host looks in only where something is to be called.
"""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.errors import InputError
from fnn._core.types import Array, Scalar, Unchecked
from fnn.train.data.stream import Source, Stretch
from fnn.train.loop._events import (
    NONFINITE,
    Callback,
    Event,
    Kind,
    Timed,
    checked_answer,
    inner,
    name_of,
    remembers,
    saves,
    state_of,
)
from fnn.train.loop._memory import Memory, check_same_callbacks, marks_of, pack
from fnn.train.loop._nonfinite import all_sound
from fnn.train.loop._processes import agreed, copied
from fnn.train.loop._program import Transform, copies, no_losses, run
from fnn.train.loop._progress import Report
from fnn.train.loop._record import Piece, Record
from fnn.train.loop._signals import Interrupt
from fnn.train.sharding import Layout
from fnn.train.step import TrainState, TrainStep

# A dispatch is as long as Ctrl-C may have to wait; shorter where a bar or a clock looks on.
_DISPATCH_SECONDS, _WATCHED_SECONDS = 1.0, 0.1
# So often a train state is kept, if it is small, to find from there where numbers were lost.
_KEEP_SECONDS, _KEEP_BYTES = 10.0, 2**28
# A reader that takes longer is named where the run is interrupted.
_STALLED_SECONDS = 1.0
# More steps than an order has.
_NEVER = 2**31


class Measure(Protocol):
    """``(train_state) -> values`` by name; `compile` makes its program ready beforehand."""

    def __call__(self, train_state: TrainState, /) -> dict[str, float]: ...

    def compile(self, train_state: TrainState, /) -> None: ...


class Plan(NamedTuple):
    """What a run goes by.

    Args:
        step: the training step.
        transform: of the batches, or None.
        source: of the data.
        watched: which parameters have to stay finite: a constant of -inf is no accident.
        until: the step to stop before, or None.
        epochs: how many end before it stops, or None.
        measure: evaluates on the validation data, or None.
        measure_steps: it is called after so many steps; None for every epoch.
        names: of what it gives.
        callbacks: functions of an event.
        layout: where all that lies on a mesh; None where there is none.
    """

    step: TrainStep
    transform: Transform | None
    source: Source
    watched: Array
    until: int | None
    epochs: int | None
    measure: Measure | None
    measure_steps: int | None
    names: tuple[str, ...]
    callbacks: tuple[Callback, ...]
    layout: Layout | None = None


class Kept(NamedTuple):
    """A train state on the way, and where the data stood."""

    train_state: TrainState
    place: bytes | None


class Loop:
    """A run: `run` goes on with it to its end, and all it has is whole at any time.

    Args:
        plan: what it goes by.
        train_state: where it begins; its buffers are given away.
        memory: of the run that it goes on with.
        given: the hyper-parameters of the arguments.
    """

    def __init__(
        self, plan: Plan, train_state: TrainState, memory: Memory, given: Mapping[str, Scalar]
    ):
        self.plan, self.train_state, self.place = plan, train_state, memory.place
        self.memory, self.given = memory, given
        self.first = self.step = int(train_state.step)
        self.is_shared = plan.layout is not None and plan.layout.is_shared
        self.record, self.interrupt = Record(self.first, memory.losses), Interrupt(self.is_shared)
        self.report: Report | None = None
        known = memory.metrics
        self.metrics = {name: known.get(name, float("nan")) for name in plan.names}
        self.stopped, self.compile_seconds = "", 0.0
        self.dead = False
        # Kept where a callback changed the state too; None before, where the run's begin will do.
        self.kept: Kept | None = None
        self.changed = False
        self.epoch = self.first // plan.source.epoch_steps if plan.source.epoch_steps else 0
        self._pace = _Pace(_DISPATCH_SECONDS)
        self._alive: Scalar = self._put(jnp.asarray(np.ones((), bool)))
        self._programs: set[Unchecked] = set()
        self._ended = self._at = 0
        self._first_epoch: int | None = None
        self._stretch: Stretch | None = None
        self._over = self._moved = False
        self._looked = True
        self._reading_since = math.inf
        self._measured_at = -1
        # Whether a process was interrupted before the last dispatch, of several.
        self._is_asked = False
        self._settled, self._ends_epoch = memory.settled, memory.ends_epoch
        # The memory at a step behind which this run ends, and a longer one would not.
        self._passing: bytes | None = None
        self._due = [0.0] * len(plan.callbacks)
        self._names = tuple(map(name_of, plan.callbacks))
        self._remembering = [i for i, one in enumerate(plan.callbacks) if remembers(one)]
        check_same_callbacks(memory, self._names, self._remembering)
        # By callback and kind of event: the step up to which it has seen the losses.
        self._seen: dict[tuple[int, str], int] = {}
        for i in range(len(plan.callbacks)):
            self._seen |= {(i, kind): step for kind, step in memory.seen.items()}
            if memory.callbacks == self._names:
                self._seen[i, "step"] = memory.stepped[i]
        self._keep_at = time.monotonic() + _KEEP_SECONDS
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(train_state))
        # A clock says when, which other processes would not know.
        self._keeps = size < _KEEP_BYTES and not self.is_shared

    # The run.

    def compile(self) -> None:
        """Compile what is known already, so that the time of compilation stands by itself."""
        began = time.perf_counter()
        known, until = self.plan.source.programs(), self.plan.until
        steps = self.plan.source.epoch_steps
        if len(known) > 1 and steps and until is not None and until < self.first + steps:
            # The smaller last batch of an epoch is a program of its own, which may not be reached.
            reached = until // steps > self.first // steps
            known = known if reached else known[:-1]
        for stretch in known:
            self._compile(stretch)
        if self.plan.measure is not None and self.plan.epochs != 0:
            self.plan.measure.compile(self.train_state)
        jax.block_until_ready(self.train_state)
        self.compile_seconds = time.perf_counter() - began

    def run(self, report: Report | None) -> None:
        """Go on to the end, or until something asks to stop."""
        self.report = report
        clocks = [one for one in self.plan.callbacks if isinstance(one, Timed) and one.seconds]
        self._pace.seconds = _WATCHED_SECONDS if report or clocks else _DISPATCH_SECONDS
        now = time.monotonic()
        for i, callback in enumerate(self.plan.callbacks):
            self._due[i] = now + ((isinstance(callback, Timed) and callback.seconds) or 0.0)
        with self.interrupt.watched():
            try:
                states = self.memory.states.values()
                for i, state in zip(self._remembering, states, strict=False):
                    inner(self.plan.callbacks[i]).set_state(state)
                self._fire("start")
                self._catch_up()
                self._go()
                if self._unmeasured():
                    self._passing = self.data_state()
                    self._measure()
            except KeyboardInterrupt:
                self.stopped = f"interrupted by {self.interrupt.by or self._other_signal()}"
                waited = time.monotonic() - self._reading_since
                if waited > _STALLED_SECONDS:
                    name = getattr(self.plan.source, "name", "the data")
                    self.stopped += f", {waited:.0f} s into reading {name} behind step {self.step}"
            except Exception as error:
                self.stopped = f"{type(error).__name__} was raised"
                self._end_after(error)
                raise
            self._end()

    def _end(self) -> None:
        self._settle()
        self.dead = self.dead or not self._is_sound()
        self.interrupt.by = ""
        self._fire("end")

    def _end_after(self, error: Exception) -> None:
        """Tell the callbacks that it is over: what they say against it does not hide the error."""
        try:
            self._end()
        except Exception as other:
            error.add_note(f"fnn.fit: at the end {type(other).__name__} was raised too: {other}")

    def _catch_up(self) -> None:
        """Do what the run before did not come to after its last step."""
        if self.memory.seen.get("validation") == self.step:
            self._measured_at = self.step
        # The epoch that ended with the last step, and not the one that begins.
        self.epoch -= self._ends_epoch
        if not self._settled:
            self._after_portion()
        if self._ends_epoch and not (self._over or self._moved):
            self._close_epoch()
            self.epoch += 1

    def _go(self) -> None:
        """Take stretches until the run is over."""
        plan = self.plan
        self._over = self._over or plan.epochs == 0 or self.step == plan.until
        while not self._over:
            self._moved = False
            stretches = plan.source.stretches(self.step, plan.until, self.place)
            for stretch in self._read(stretches):
                # What comes behind the last step may be the end of its epoch.
                if self.step == plan.until and stretch.end > stretch.begin:
                    self._over = True
                else:
                    self._take(stretch)
                if self._over or self._moved:
                    break
            else:
                self._over = True
                if self.step != plan.until and self._ended != plan.epochs:
                    self.stopped = f"the data ended after {self.step - self.first} steps"
            if self._over:
                # The last steps may have lost their numbers, and a callback may know others.
                self._landed()

    def _read(self, stretches: Iterator[Stretch]) -> Iterator[Stretch]:
        """Yield stretches; while one is read, a signal may interrupt."""
        while True:
            self._reading_since = time.monotonic()
            with self.interrupt.at_once():
                stretch = next(stretches, None)
            self._reading_since = math.inf
            if stretch is None:
                return
            yield stretch

    def _take(self, stretch: Stretch) -> None:
        """Take the steps of a stretch, in portions."""
        self._stretch, self._at, self.epoch = stretch, stretch.begin, stretch.epoch
        if self._first_epoch is None:
            self._first_epoch = stretch.epoch
        if stretch.end > stretch.begin:
            self._compile(stretch)
            losses = self._put(no_losses(len(stretch.order)))
            size = stretch.order.shape[1]
            piece = Piece(stretch.epoch, size, self.step, losses, stretch.begin, stretch.begin)
            self.record.begin(piece)
            while self._at < stretch.end and self.step != self.plan.until:
                losses = self._dispatch(stretch, losses)
                self._after_portion()
                if self._over or self._moved:
                    return
        if self._at == stretch.end and stretch.ends_epoch:
            self._end_epoch()

    def _dispatch(self, stretch: Stretch, losses: Array | np.ndarray) -> Array:
        """Send some steps to the device, and wait for those sent before."""
        plan, began = self.plan, time.perf_counter()
        most = min(stretch.end - self._at, self._free_steps())
        count = min(most, self._pace.steps)
        if self.is_shared:
            count, self._is_asked = agreed(count, bool(self.interrupt.by))
        stop, self._looked = self._at + count, count == most or self.is_shared
        self._settled, self._ends_epoch = False, stretch.ends_epoch and stop == stretch.end
        self.train_state, values, self._alive = run(
            plan.step, plan.transform, self.train_state, stretch.data, stretch.order, losses,
            plan.watched, self._alive, self._at, stop, self._looked, plan.layout,
        )  # fmt: skip
        self._at, self.step = stop, self.step + count
        self.record.extend(values, stop)
        self._pace.launch(self._alive, count, began)
        # What one process sees of the steps, all see.
        if not self._pace.land(leaving=0 if self.report or self.is_shared else 1):
            self._lose()
        elif self.report:
            with self.interrupt.at_once():
                self.report(count, float(np.asarray(values)[stop - 1]))
        return values

    def _after_portion(self) -> None:
        """Call what is due after some steps, and heed a signal."""
        if self._is_asked if self.is_shared else self.interrupt.by:
            raise KeyboardInterrupt
        if self._over or self._moved:
            return
        now = time.monotonic()
        if now > self._keep_at and self._keeps:
            self._keep_at = now + _KEEP_SECONDS
            if self._landed() and self._is_sound():
                self._keep()
        measured = self._measured_at == self.step
        if self.plan.measure_steps and self.step % self.plan.measure_steps == 0 and not measured:
            self._measure()
        self._settled = True
        due = [i for i, one in enumerate(self.plan.callbacks) if self._is_due(i, one, now)]
        if due and not (self._over or self._moved) and self._landed() and self._is_sound():
            self._fire("step", due)

    def _end_epoch(self) -> None:
        # Counted by its number: a run that was rolled back ends epochs twice.
        self._ended = self.epoch + 1 - (self._first_epoch or 0)
        self._close_epoch()
        if self._ended == self.plan.epochs and not self._moved:
            self._over = True

    def _close_epoch(self) -> None:
        """Validate, and tell that an epoch is over."""
        self._ends_epoch = True
        every_epoch = self.plan.measure is not None and self.plan.measure_steps is None
        if every_epoch and self._measured_at != self.step:
            self._measure()
        if not (self._over or self._moved):
            self._ends_epoch = False
            self._fire("epoch")

    # Its parts.

    def _compile(self, stretch: Stretch) -> None:
        """Compile the program of a stretch, unless that was done."""
        program = stretch.order.shape, tuple(a.shape for a in jax.tree.leaves(stretch.data))
        if program in self._programs:
            return
        self._programs.add(program)
        jax.block_until_ready(self.train_state)
        began = time.perf_counter()
        # Running no step compiles the program.
        self.train_state, _, self._alive = run(
            self.plan.step, self.plan.transform, self.train_state, stretch.data, stretch.order,
            self._put(no_losses(len(stretch.order))), self.plan.watched, self._alive, 0, 0, False,
            self.plan.layout,
        )  # fmt: skip
        jax.block_until_ready(self.train_state)
        self.compile_seconds += time.perf_counter() - began

    def _copy(self, train_state: TrainState) -> TrainState:
        return copied(train_state) if self.is_shared else copies(train_state, self.plan.layout)

    def _put(self, array: Unchecked) -> Unchecked:
        """Return an array where the program expects it: one elsewhere is another program."""
        return array if self.plan.layout is None else self.plan.layout.put_whole(array)

    def _other_signal(self) -> str:
        return "a signal to another process" if self._is_asked else "KeyboardInterrupt"

    def _free_steps(self) -> int:
        """Return how many steps there are before something is to be done."""
        ends = [] if self.plan.until is None else [self.plan.until - self.step]
        periods = [one.steps for one in self.plan.callbacks if isinstance(one, Timed)]
        for period in (self.plan.measure_steps, *periods):
            if period:
                ends.append(period - self.step % period)
        return max(1, min(ends, default=_NEVER))

    def _is_due(self, i: int, callback: Callback, now: float) -> bool:
        if not isinstance(callback, Timed):
            return False
        if callback.steps:
            return self.step % callback.steps == 0
        if now < self._due[i]:
            return False
        self._due[i] = now + (callback.seconds or 0.0)
        return True

    def _landed(self) -> bool:
        """Wait for all steps, and say whether the run still has its numbers."""
        if not self.dead and not self._pace.land(leaving=0):
            self._lose()
        return not self.dead and not self._moved

    def _lose(self) -> None:
        """Note that parameters are not finite; a callback may know others."""
        self._settle()
        self.dead = True
        self._fire("nonfinite")
        self._over = not self._moved
        if self._over:
            self.stopped = self.stopped or NONFINITE

    def _is_sound(self) -> bool:
        """Look at the parameters, which the steps do not where chance put the end of a dispatch."""
        if self._looked:
            return not self.dead
        return bool(all_sound(self.train_state.params, self.plan.watched))

    def _settle(self) -> None:
        """Wait for all steps, and forget those that were not taken."""
        if not self._pace.land(leaving=0):
            self.dead = True
        self._pace.flying.clear()
        taken = int(self.train_state.step)
        if self.dead and taken < self.step:
            self._at -= self.step - taken
            self.step = taken
            self.record.cut(taken)

    def _unmeasured(self) -> bool:
        """Say whether a validation is due at the end: in the middle of an epoch."""
        plan = self.plan
        if plan.measure is None or plan.measure_steps or self.stopped or self.dead:
            return False
        return self.first < self.step != self._measured_at

    def _measure(self) -> None:
        """Evaluate on the validation data."""
        if self.plan.measure is None or not self._landed():
            return
        with self.interrupt.at_once():
            self.metrics = self.plan.measure(self.train_state)
        self._measured_at = self.step
        self.record.measured.append(self.metrics)
        self._fire("validation")

    def _keep(self) -> None:
        self.kept = Kept(copies(self.train_state, self.plan.layout), self._place_now())

    def _place_now(self) -> bytes | None:
        """Return where the data stand."""
        return self.place if self._stretch is None else self._stretch.place(self._at)

    def data_state(self) -> bytes | None:
        """Return what is to be known beside the train state to go on from here."""
        if self._passing is not None:
            return self._passing
        callbacks, place = self.plan.callbacks, self._place_now()
        if not callbacks:
            return pack(Memory(place, settled=self._settled, ends_epoch=self._ends_epoch))
        kinds: tuple[Kind, ...] = ("epoch", "validation") if self.plan.measure else ("epoch",)
        seen: dict[str, int] = {kind: self._since(0, kind) for kind in kinds}
        stepped = tuple(self._since(i, "step") for i in range(len(callbacks)))
        timed = [
            step for step, one in zip(stepped, callbacks, strict=True) if isinstance(one, Timed)
        ]
        losses = self.record.losses(min([*seen.values(), *timed]), self.step)
        states = {i: state_of(callbacks[i]) for i in self._remembering}
        begun = marks_of(self.given) if self.changed or self.memory.begun else {}
        return pack(Memory(
            place, self._names, states, seen, stepped, losses, self.metrics, self._settled,
            self._ends_epoch, begun,
        ))  # fmt: skip

    def _since(self, i: int, kind: Kind) -> int:
        """Return the step of the last event of a kind that a callback was called at."""
        return self._seen.get((i, kind), self.first)

    def _fire(self, kind: Kind, which: Sequence[int] | None = None) -> None:
        """Call callbacks, and heed their answers."""
        if not self.plan.callbacks:
            return
        if kind in ("step", "epoch") and not self._landed():
            return
        chosen = range(len(self.plan.callbacks)) if which is None else which
        since = {i: self._since(i, kind) for i in chosen}
        # Known before it is told: what is saved meanwhile has it behind it.
        self._seen |= dict.fromkeys(((i, kind) for i in chosen), self.step)
        for i in self._in_order(kind, chosen):
            callback = self.plan.callbacks[i]
            event = Event(
                kind, self.step, self.epoch, dict(self.metrics), self.stopped,
                functools.partial(self._copy, self.train_state),
                functools.partial(self.record.losses, min(since[i], self.step), self.step),
                self.data_state,
            )  # fmt: skip
            with self.interrupt.at_once():
                answer = callback(event)
            self._heed(kind, callback, answer)

    def _in_order(self, kind: Kind, which: Sequence[int]) -> list[int]:
        """Return callbacks in the order that they are called in.

        Those that save come last, when the others have counted and answered; at the end they come
        first, before another gives the run the parameters of an earlier step.
        """
        last = {i: saves(self.plan.callbacks[i]) for i in which}
        return sorted(which, key=lambda i: last[i] != (kind == "end"))

    def _heed(self, kind: Kind, callback: Callback, answer: Unchecked) -> None:
        """Take over what a callback answered."""
        if answer is None:
            return
        name, ending = name_of(callback), self._over and self.stopped
        train_state, reason = checked_answer(answer, self.train_state, name)
        if ending and not reason and kind != "end":
            # Another stopped the run: what it ends with is not gone on from.
            return
        if reason:
            self.stopped, self._over = self.stopped or reason, True
        if train_state is None:
            return
        layout = self.plan.layout
        self.train_state = train_state if layout is None else layout.put(train_state)
        if reason or kind == "end":
            return
        self._go_on_from(int(train_state.step), kind, name)

    def _go_on_from(self, step: int, kind: Kind, name: str) -> None:
        """Go on with a train state that a callback gave."""
        if not self.first <= step <= self.step:
            expected = f"a train state of {name} at a step in [{self.first}, {self.step}]"
            raise InputError(expected, f"step {step}", "return one of this run")
        self.changed, self.kept = True, None
        if step != self.step or kind == "nonfinite":
            self.record.cut(step)
            self._seen = {at: min(seen, step) for at, seen in self._seen.items()}
            self._measured_at, self._settled, self._ends_epoch = -1, True, False
            self.step, self.place, self._stretch = step, None, None
            self._moved, self.dead, self._over = True, False, False
            self._alive = self._put(jnp.ones((), bool))
        if self._keeps:
            self._keep()


class _Pace:
    """How long dispatches take, and those that are on their way.

    Args:
        seconds: how long one should take.
    """

    def __init__(self, seconds: float):
        self.seconds, self.steps = seconds, 1
        self.flying: deque[tuple[Array, int, float]] = deque()
        self._known, self._landed = False, 0.0

    def launch(self, alive: Array, steps: int, began: float) -> None:
        """Note a dispatch."""
        self.flying.append((alive, steps, began))

    def land(self, leaving: int) -> bool:
        """Wait for all but the last `leaving` dispatches, and say whether all was finite."""
        fine = True
        while len(self.flying) > (leaving if self._known else 0):
            alive, steps, began = self.flying.popleft()
            fine = bool(alive) and fine
            now = time.perf_counter()
            seconds = max(now - max(began, self._landed), 1e-9)
            self._landed, self._known = now, True
            self.steps = max(1, int(steps * self.seconds / seconds))
        return fine
