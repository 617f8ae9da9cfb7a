"""Plant small faults in the package, and see whether the tests fail.

``python -m tests.mutation --count 300 --seed 0`` plants so many in memory, drawn by the seed, as
many in one room as in another; with `--only` those of files with that in their path. First come the
faults that once survived, of `known.toml`. A test that sees a fault is run without it too, and
counts only where it passes then. A fault that no test of its room sees survives; it must be
explained in `survivors.toml`, and the exit code is 1 where one is not.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax

from fnn.lab import machine
from tests.mutation import run, select
from tests.mutation.plant import Mutant, mutants

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
# The longest that a single test may take on a busy machine.
SECONDS = 300.0
FATES = ("killed", "explained", "unexplained")


class Verdict(NamedTuple):
    """What became of a mutant: "killed" or "survived"; by which test, and after how long."""

    name: str
    fate: str
    by: str
    seconds: float


def drawn(count: int, seed: int, only: list[str], root: Path = ROOT) -> list[Mutant]:
    """Return so many of all mutants of a package: of each room in turn, in an order of chance."""
    turns: Counter[str] = Counter()
    dealt = []
    for mutant in sorted(possible(only, root), key=lambda mutant: mutant.rank(seed)):
        turns[mutant.room] += 1
        dealt.append((turns[mutant.room], mutant))
    return [mutant for _, mutant in sorted(dealt, key=lambda one: one[0])][:count]


def possible(only: list[str], root: Path = ROOT) -> list[Mutant]:
    """Return all mutants of a package, or of those files that have one of some words in their path.

    What stands outside of all functions is left out: it has run when a fault is planted.
    """
    chosen = [p for p in select.in_package(root) if not only or any(o in p for o in only)]
    return [m for path in chosen for m in mutants(path, (root / path).read_text()) if m.function]


def known(root: Path = ROOT) -> list[Mutant]:
    """Return the faults that once survived, written out by hand."""
    found = []
    for entry in tomllib.loads((HERE / "known.toml").read_text())["fault"]:
        path, old, new = entry["path"], entry["old"], entry["new"]
        source = (root / path).read_text()
        if source.count(old) != 1:
            raise LookupError(f"{path} holds {source.count(old)} times {old!r}, not once")
        line = source[: source.index(old)].count("\n") + 1
        change = f"`{old}` -> `{new}` ({entry['what']})"
        changed, function, seen_by = source.replace(old, new), entry["function"], entry["seen_by"]
        found.append(Mutant(path, function, line, change, False, changed, seen_by))
    return found


def explained() -> dict[str, str]:
    """Return why some mutants survive, by their names."""
    entries = tomllib.loads((HERE / "survivors.toml").read_text()).get("survivor", [])
    return {f"{e['path']}::{e['function']}: {e['change']}": e["why"] for e in entries}


class Judge:
    """Runs the tests that concern a mutant until one fails, for at most `budget` seconds."""

    def __init__(self, tests: run.Tests, budget: float) -> None:
        self.tests, self.budget = tests, budget
        self.sound: dict[str, bool] = {}

    def __call__(self, mutant: Mutant, source: str) -> Verdict:
        start, waiting = time.process_time(), select.chosen(mutant, [*self.tests.items], ROOT)
        if not waiting:
            raise LookupError(f"no test was chosen for {mutant.name}")
        while waiting:
            failed = self._first_failure(mutant, source, waiting, start)
            if failed is None:
                break
            test, by = failed
            if test not in self.sound:
                self.sound[test] = self._passes(test)
            if self.sound[test]:
                return Verdict(mutant.name, "killed", by, run.seconds(start))
            waiting = waiting[waiting.index(test) + 1 :]
        return Verdict(mutant.name, "survived", "", run.seconds(start))

    def _first_failure(
        self, mutant: Mutant, source: str, names: list[str], start: float
    ) -> tuple[str, str] | None:
        with run.planted(mutant.path, source, mutant.source) as changed:
            if not changed:
                raise LookupError(f"no function changed with {mutant.name}")
            for name in names:
                if run.seconds(start) > self.budget:
                    return None
                try:
                    if not self.tests.passes(name, SECONDS):
                        return name, name
                except run.OutOfTime:
                    return name, f"{name}, out of time"
        return None

    def _passes(self, name: str) -> bool:
        run.forget()
        try:
            return self.tests.passes(name, SECONDS)
        except run.OutOfTime:
            return False


def tally(verdicts: list[Verdict], reasons: dict[str, str]) -> dict[str, Counter[str]]:
    """Count what became of all, room by room."""
    rooms: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        room = verdict.name.partition("::")[0].rpartition("/")[0]
        fate = verdict.fate
        if fate == "survived":
            fate = "explained" if verdict.name in reasons else "unexplained"
        rooms.setdefault(room, Counter())[fate] += 1
    return rooms


def report(verdicts: list[Verdict], reasons: dict[str, str]) -> bool:
    """Print what became of all, room by room; say whether every survivor is explained."""
    rooms = tally(verdicts, reasons)
    total = sum(rooms.values(), Counter())
    print(f"\n{'room':<25}{'planted':>9}" + "".join(f"{fate:>13}" for fate in FATES))
    for room, counts in [*sorted(rooms.items()), ("all", total)]:
        cells = "".join(f"{counts[fate]:>13}" for fate in FATES)
        print(f"{room:<25}{counts.total():>9}{cells}")
    for verdict in verdicts:
        if verdict.fate == "survived":
            print(f"survived: {verdict.name}\n    {reasons.get(verdict.name, 'UNEXPLAINED')}")
    return not total["unexplained"]


def write_table(file: Path, rooms: dict[str, Counter[str]], possible: Counter[str]) -> None:
    """Write what became of all, of how many there are, and leave what the file says of other rooms.

    The page of proofs is made of it.
    """
    found = json.loads(file.read_text("utf-8")) if file.exists() else {}
    when = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "machine": machine()}
    for room, counts in rooms.items():
        fates = {fate: counts[fate] for fate in FATES}
        found[room] = {"possible": possible[room], **fates, **when}
    rows = [f"{json.dumps(room)}: {json.dumps(found[room])}" for room in sorted(found)]
    file.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")


def remembered(file: Path | None) -> dict[str, Verdict]:
    """Return the verdicts of an earlier run that was cut off."""
    if file is None or not file.exists():
        return {}
    rows = [Verdict(**json.loads(line)) for line in file.read_text().splitlines()]
    return {row.name: row for row in rows}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], metavar="PATH")
    budget = "of computing for one fault (%(default)s)"
    parser.add_argument("--budget", type=float, default=300.0, metavar="SECONDS", help=budget)
    lines = "a line for every verdict; what stands there is not sought again"
    parser.add_argument("--json", type=Path, metavar="FILE", help=lines)
    where = "what became of all, room by room, as the page of proofs shows it"
    parser.add_argument("--table", type=Path, metavar="FILE", help=where)
    return parser.parse_args()


def judged(planned: list[Mutant], before: dict[str, Verdict], asked: argparse.Namespace) -> None:
    """Judge all mutants that have no verdict yet, and write each where it is remembered."""
    waiting = [mutant for mutant in planned if mutant.name not in before]

    def judge_all(tests: run.Tests) -> None:
        judge = Judge(tests, asked.budget)
        for place, mutant in enumerate(waiting, 1):
            verdict = judge(mutant, (ROOT / mutant.path).read_text())
            before[mutant.name] = verdict
            print(
                f"{time.strftime('%H:%M:%S')} {place}/{len(waiting)} {verdict.fate} "
                f"({verdict.seconds:.0f} s) {mutant.path}:{mutant.line} {mutant.change[:120]} "
                f"{verdict.by[-100:]}",
                flush=True,
            )
            if asked.json:
                with asked.json.open("a") as file:
                    file.write(json.dumps(verdict._asdict()) + "\n")

    wanted = {file for mutant in waiting for file in select.files(mutant.path)}
    paths = sorted(file for file in wanted if (ROOT / file).exists())
    if waiting:
        run.session(paths, judge_all)


def main() -> None:
    asked = options()
    planned = drawn(asked.count, asked.seed, asked.only)
    if not asked.only:
        planned = known() + planned
    before = remembered(asked.json)
    judged(planned, before, asked)
    verdicts = [before[mutant.name] for mutant in planned]
    fine = report(verdicts, explained())
    if asked.table:
        counts = Counter(mutant.room for mutant in possible(asked.only))
        write_table(asked.table, tally(verdicts, explained()), counts)
    sys.exit(not fine)


if __name__ == "__main__":
    # What a program compiles to is remembered on disk: a fault changes few of those of a test.
    with tempfile.TemporaryDirectory() as programs:
        jax.config.update("jax_compilation_cache_dir", programs)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        main()
