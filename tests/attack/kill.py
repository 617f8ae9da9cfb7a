"""Kill a training run at random moments and go on: it must end bit for bit as one that was not.

``python -m tests.attack.kill --count 200`` kills so often with SIGKILL, between the steps, inside
of a write, and before the first one, over data and optimizers of every kind, and prints each run
that ended otherwise. Compared are the last checkpoint (parameters, running state, optimizer state
with its noise, keys, numbers, what early stopping counted) and the losses of all steps, which tell
the order of the data.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fnn.train import checkpoint_info, latest_checkpoint
from fnn.train.files import _safetensors
from fnn.train.files.checkpoint_folder import checkpoint_files
from fnn.train.loop._memory import unpack
from tests.xla import in_haste

EXAMPLES, INPUTS, BATCH = 23, 3, 5  # the last batch has 3
STEPS, EVERY = 48, 3
# How long a child stays inside of a write, so that it can be killed there.
INSIDE = 0.01


def arrays() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(EXAMPLES, INPUTS)).astype("float32")
    return x, random.integers(0, 2, EXAMPLES).astype("int32")


def mapped(folder: Path) -> Any:
    parts = []
    for name, array in zip(("x", "target"), arrays(), strict=True):
        file = folder.with_name(f"{name}.npy")
        if not file.exists():
            np.save(file, array)
        parts.append(np.load(file, mmap_mode="r"))
    return tuple(parts)


def batches(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    x, target = arrays()
    order = np.random.default_rng(epoch).permutation(EXAMPLES)
    for start in range(0, EXAMPLES, BATCH):
        rows = order[start : start + BATCH]
        yield x[rows], target[rows]


def of_grain(folder: Path) -> Any:
    import grain

    pairs = list(zip(*arrays(), strict=True))
    return grain.MapDataset.source(pairs).shuffle(seed=3).batch(BATCH).to_iter_dataset()


class Case(NamedTuple):
    """A run: its data, by the folder, its optimizer, and the size of its batches."""

    data: Callable[[Path], Any]
    optimizer: Callable[[Any, Any], Any]
    batch_size: int | None = BATCH


CASES = {
    "arrays-noise-ema": Case(
        lambda folder: arrays(),
        lambda o, key: o.chain(
            o.anticorrelated_noise(0.01, key=key), o.sgd(0.1, 0.9), o.ema(0.9)
        ),
    ),
    "arrays-accumulate": Case(
        lambda folder: arrays(), lambda o, key: o.accumulate(o.adam(0.05), 4)
    ),
    "arrays-schedule_free": Case(
        lambda folder: arrays(), lambda o, key: o.schedule_free_adamw(0.05)
    ),
    "arrays-sghmc": Case(lambda folder: arrays(), lambda o, key: o.sghmc(0.01, key=key)),
    "memory-mapped": Case(mapped, lambda o, key: o.adam(o.schedule.cosine(0.05, STEPS))),
    "batches-noise-ema": Case(
        lambda folder: batches,
        lambda o, key: o.chain(o.gradient_noise(0.01, key=key), o.adam(0.05), o.ema(0.9)),
        None,
    ),
}  # fmt: skip
if importlib.util.find_spec("grain") is not None:
    CASES["grain"] = Case(of_grain, lambda o, key: o.sgd(0.1, 0.9), None)


def train(name: str, folder: Path, fault: str) -> None:
    """Train in this process from the last checkpoint of the folder; say on the way what happens.

    Args:
        name: of the case.
        folder: of the checkpoints.
        fault: a mistake to be seen: ``"key"`` goes on with another key, ``"moments"`` with an
            optimizer that has forgotten everything.
    """
    import jax

    import fnn

    write = _safetensors.write

    def say(*words: object) -> None:
        # In one piece: two threads say something.
        os.write(1, f"{' '.join(map(str, words))}\n".encode())

    def slow_write(file: Any, *rest: Any) -> None:
        say("inside")
        write(file, *rest)
        file.flush()
        time.sleep(INSIDE)

    _safetensors.write = slow_write
    case, key = CASES[name], jax.random.key(3)
    model = fnn.serial(fnn.dense(4), fnn.batch_norm(), fnn.tanh(), fnn.dropout(0.2), fnn.dense(2))
    optimizer = case.optimizer(fnn.optim, jax.random.key(4))
    like = fnn.init_train_state(model, optimizer, arrays()[0][:BATCH], key=key)
    file, going_on, done = latest_checkpoint(folder), {"key": key}, 0
    if file is not None:
        start = fnn.load_train_state(file, like)
        start = start._replace(key=key) if fault == "key" else start
        start = start._replace(opt_state=like.opt_state) if fault == "moments" else start
        done = int(start.step)
        position = fnn.train.checkpoint_info(file).data_state
        going_on = {"start": start, "data_state": position}

    def tell(event: Any) -> None:
        if event.kind == "start":
            say("ready")
            return
        for step, loss in enumerate(event.losses, event.step - len(event.losses)):
            say("loss", step, float(loss).hex())

    every, checkpoint = fnn.train.callbacks.every, fnn.train.callbacks.checkpoint
    # It never stops, and counts: a part of what goes on.
    counting = fnn.train.callbacks.early_stopping(patience=STEPS)
    fnn.fit(
        model, fnn.losses.cross_entropy(), optimizer, case.data(folder), steps=STEPS - done,
        batch_size=case.batch_size, **going_on,
        callbacks=[every(tell, steps=EVERY), checkpoint(folder, steps=EVERY, keep=2), counting],
    )  # fmt: skip
    say("done")


class Moment(NamedTuple):
    """When to kill: so long after a line of the child, counted from its first of that kind."""

    word: str
    count: int
    delay: float


def moment(random: np.random.Generator) -> Moment:
    """Draw one: before the first step, inside of some write, or anywhere."""
    kind = random.integers(4)
    if kind == 0:
        return Moment("ready", 1, random.uniform(0, 0.05))
    if kind == 1:
        return Moment("ready", 1, random.uniform(0, 0.6))
    return Moment("inside", int(random.integers(1, 8)), random.uniform(0, INSIDE))


class Run:
    """A run in a folder, killed and gone on with until it is done."""

    def __init__(self, name: str, folder: Path, fault: str = ""):
        self.name, self.folder, self.fault = name, folder, fault
        self.losses: dict[int, set[str]] = {}
        self.kills: list[str] = []

    def go_on(self, when: Moment | None = None) -> bool:
        """Start a child, and kill it at a moment; say whether it was done before."""
        command = [sys.executable, "-m", "tests.attack.kill", "--child", self.name]
        cache = {
            # The suite does without.
            "JAX_ENABLE_COMPILATION_CACHE": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder.parent / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
        child = subprocess.Popen(
            [*command, "--folder", str(self.folder), "--fault", self.fault],
            stdout=subprocess.PIPE, text=True, env=os.environ | in_haste() | cache,
        )  # fmt: skip
        assert child.stdout is not None
        seen, done, inside = 0, False, False
        for line in child.stdout:
            words = line.split()
            done, inside = words == ["done"], words == ["inside"]
            if words[0] == "loss":
                self.losses.setdefault(int(words[1]), set()).add(words[2])
            seen += when is not None and words[0] == when.word
            if when is not None and seen == when.count and words[0] == when.word:
                time.sleep(when.delay)
                child.kill()
        child.stdout.close()
        if child.wait() < 0:
            self.kills.append("inside of a write" if inside else "elsewhere")
        elif not done:
            raise RuntimeError(f"{self.name}: the child failed")
        return done

    def state(self) -> dict[str, tuple[Any, ...]]:
        """Return what the last checkpoint holds, down to the last bit."""
        file = latest_checkpoint(self.folder)
        assert file is not None
        arrays = _safetensors.read(file).arrays
        found = {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in arrays.items()}
        # Where data stand may be told in several ways; what callbacks counted, in one.
        memory = unpack(checkpoint_info(file).data_state)
        counted = memory.losses.tobytes(), *memory.states.values(), repr(memory.seen)
        return found | {"what callbacks counted": counted}

    def differences(self, whole: Run) -> list[str]:
        """Say what is not as in a run that nobody killed."""
        bad = [f"{name} differs" for name, found in whole.state().items()
               if self.state().get(name) != found]  # fmt: skip
        for step, expected in whole.losses.items():
            seen = self.losses.get(step)
            if seen != expected:
                bad.append(f"the loss of step {step} is {seen}, where it was {expected}")
        return [f"{self.name}: {what}" for what in bad]


def unreadable(folder: Path) -> list[str]:
    """Return what is wrong with the checkpoints that a killed run left."""
    bad = []
    for file in checkpoint_files(folder) if folder.exists() else []:
        try:
            _safetensors.read(file)
        except ValueError as error:
            bad.append(f"after a kill: {error}")
    return bad


def attack(
    name: str, moments: Iterator[Moment], folder: Path, whole: Run, fault: str = ""
) -> tuple[Run, list[str]]:
    """Kill one run of a case at these moments, let it end, and return what is wrong with it."""
    run, bad = Run(name, folder, fault), []
    for when in moments:
        if run.go_on(when):
            break
        bad += unreadable(folder)
    else:
        run.go_on()
    return run, bad + run.differences(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="how often to kill")
    parser.add_argument("--only", choices=CASES, action="append", help="a case")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--fault", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train(options.child, options.folder, options.fault)
        return
    print(f"seed {options.seed}")
    random, bad, kills = np.random.default_rng(options.seed), [], []
    names = options.only or list(CASES)
    with tempfile.TemporaryDirectory() as place:
        wholes: dict[str, Run] = {}
        number = 0
        while len(kills) < options.count:
            number += 1
            name = names[number % len(names)]
            if name not in wholes:
                wholes[name] = Run(name, Path(place, f"whole-{name}"))
                wholes[name].go_on()
            left = min(options.count - len(kills), int(random.integers(1, 8)))
            moments = (moment(random) for _ in range(left))
            run, wrong = attack(name, moments, Path(place, f"run-{number}"), wholes[name])
            kills, bad = kills + run.kills, bad + wrong
            print(f"{name}: killed {len(run.kills)} times, {'; '.join(wrong) or 'the same'}")
    inside = kills.count("inside of a write")
    print(f"killed {len(kills)} times, {inside} of them inside of a write")
    print("\n".join(bad) or "all ended bit for bit as the run that was not killed")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
