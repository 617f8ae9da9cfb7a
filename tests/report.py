"""Every public layer and loss, and what is proven of it: ``python -m tests.report``.

A row for each: the largest error of the manual gradient against the automatic and the numeric one,
in float64 and relative to the gradient's largest number; that of the manual gradient in float32,
against the automatic one in float64, and beside it that of the automatic one in float32; the module
of PyTorch that outputs and gradients agree with; and how many planted mistakes the checker catches.
Errors stand beside their bounds. The exit code is 1 when a gradient differs, a mistake passes, or a
layer has no row.

``--json FILE`` writes what was measured of every case, with date and machine, and leaves what the
file says of cases that were not asked for. The page of proofs is made of
`docs/measured/gradients.json`: ``python -m tests.report --only gelu --json`` that file measures a
layer anew.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

import fnn
from fnn._core.table import table
from fnn._core.tree import combine, inexact_leaves
from fnn.lab import machine
from fnn.lab.agreement import Agreement, agreements, leafwise
from fnn.lab.check import Gradients, compare_layer, gradients, normal_like
from fnn.lab.tolerance import rounding
from fnn.train import atomic_write
from tests import cases, conftest
from tests.layers.test_laws import SEED, exact, inputs, named, place, unnoticed
from tests.losses.test_laws import as_layer, prediction

MEASURED = Path(__file__).parents[1] / "docs/measured/gradients.json"
HEADER = (
    "name", "cases", "auto", "numeric", "float32", "auto in float32", "PyTorch",
    "mutants killed", "proven",
)  # fmt: skip


class Error(NamedTuple):
    """The largest error of some comparisons, on the scale of its bound."""

    error: float
    bound: float

    @property
    def agrees(self) -> bool:
        return self.error <= self.bound < math.inf


class Finding(NamedTuple):
    """What one case shows; `numeric` is None at a kink, `twin` is "" where PyTorch has none.

    `auto_float32` is what autodiff gives in float32, which nothing of fnn has to answer for.
    """

    auto: Error
    numeric: Error | None
    float32: Error
    auto_float32: float
    twin: str
    pytorch: Error | None
    planted: int
    caught: int

    @property
    def proven(self) -> bool:
        errors = (self.auto, self.numeric, self.float32, self.pytorch)
        agree = all(one.agrees for one in errors if one is not None)
        return agree and self.caught == self.planted > 0


def worst(rows: Iterable[Error | Agreement | None]) -> Error | None:
    """Return the error that comes nearest to its bound, or goes furthest beyond; a NaN is that."""
    found = [Error(row.error, row.bound) for row in rows if row is not None]
    wrong = [one for one in found if not one.agrees]
    return max(wrong or found, key=lambda one: one.error / (one.bound or 1), default=None)


def of_layer(case: cases.LayerCase) -> Finding:
    params, state = place(case.name)
    report = compare_layer(
        case.make(), inputs(case), params=params, state=state, seed=SEED, numeric=not case.surrogate
    )
    wide = exact(case, True)
    narrow = in_float32(case.make(), params, state, inputs(case), SEED)
    return finding(case.name, report.rows, wide, narrow)


def of_loss(case: cases.LossCase) -> Finding:
    layer, y = as_layer(case.make(), case.target), prediction(case)
    narrow = in_float32(layer, (), (), y, 0)
    return finding(case.name, compare_layer(layer, y).rows, gradients(layer, y), narrow)


def in_float32(layer: fnn.Layer, params: Any, state: Any, x: Any, seed: int) -> tuple[Any, Any]:
    """Return the manual and the automatic gradient in float32, for the checker's cotangent."""
    _, dy_key, run_key = jax.random.split(jax.random.key(seed), 3)

    @jax.jit
    def run(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        def apply(params: Any, floats: Any) -> Any:
            y, _ = layer.apply(params, state, combine(floats, x), key=run_key, train=True)
            return inexact_leaves(y)

        y, pull_back = jax.vjp(apply, params, inexact_leaves(x))
        dy = normal_like(dy_key, y)
        _, _, residuals = layer.forward(params, state, x, key=run_key, train=True)
        return layer.backward(params, residuals, dy), pull_back(dy)

    by_hand, auto = run(params, state, x)
    return by_hand, auto


def finding(
    name: str, rows: tuple[Agreement, ...], wide: Gradients, narrow: tuple[Any, Any]
) -> Finding:
    """Return what was measured of a case, of which all gradients are there."""
    bound = rounding("float32", int(wide.terms))
    by_hand, auto = (worst(agreements(one, wide.auto, "float64", bound)) for one in narrow)
    planted, missed = unnoticed(wide)
    twin, pytorch = beside_pytorch(name)
    nothing = Error(0.0, bound)
    return Finding(
        # Where nothing is to be differentiated there is no error.
        worst(row for row in rows if row.against != "numeric") or nothing,
        worst(row for row in rows if row.against == "numeric"),
        by_hand or nothing, (auto or nothing).error,
        twin, pytorch, planted, planted - len(missed),
    )  # fmt: skip


def beside_pytorch(name: str) -> tuple[str, Error | None]:
    """Return the module of PyTorch that a case is compared with, and how far both are apart."""
    if conftest.WITHOUT_TORCH:
        return "", None
    from tests.interop import test_torch
    from tests.twins.twin import Twin

    for twin in test_torch.ALL:
        if twin.case != name:
            continue
        if isinstance(twin, Twin):
            compared = [test_torch.beside_layer(twin, train) for train in twin.train]
            called = type(twin.module(inputs(named(name)))).__name__
        else:
            compared = [test_torch.beside_loss(twin)]
            called = getattr(twin.function, "__name__", "").replace("<lambda>", "") or "yes"
        rows = [
            row
            for pairs, terms in compared
            for ours, theirs in pairs
            for row in leafwise(
                {"": ours}, {"": theirs}, "PyTorch", rounding("float64", terms)
            )
        ]  # fmt: skip
        return called, worst(rows)
    return "", None


def cases_of(name: str, table_of_cases: list[Any]) -> list[Any]:
    """Return the cases named after a layer, or else those that it is a part of."""
    own = [case for case in table_of_cases if case.name.split("-")[0] == name]
    return own or [case for case in table_of_cases if name in cases.makers(case.make())]


def names(public: set[str], table_of_cases: list[Any]) -> list[str]:
    """Return what has a row: what is public, and cases of what is not."""
    # One that rounds on purpose has laws of its own, in tests/train/test_precision.py.
    public = public - {"mixed_precision"}
    reached = {case.name for name in public for case in cases_of(name, table_of_cases)}
    return sorted(public | {case.name for case in table_of_cases if case.name not in reached})


def row(name: str, findings: list[Finding]) -> tuple[str, ...]:
    def shown(errors: Iterable[Error | None]) -> str:
        found = worst(errors)
        if found is None:
            return "-"
        return f"{found.error:.0e} <= {found.bound:.0e}" if found.agrees else "DIFFERS"

    twins = sorted({f.twin for f in findings} - {""})
    return (
        name,
        str(len(findings)),
        shown(f.auto for f in findings),
        shown(f.numeric for f in findings),
        shown(f.float32 for f in findings),
        f"{max(f.auto_float32 for f in findings):.0e}",
        ", ".join([*twins, shown(f.pytorch for f in findings)]) if twins else "none",
        f"{sum(f.caught for f in findings)}/{sum(f.planted for f in findings)}",
        "yes" if all(f.proven for f in findings) else "NO",
    )


def record(measured: Finding) -> dict[str, Any]:
    """Return what was measured of a case as JSON keeps it: two digits say enough of an error."""

    def rounded(value: Any) -> Any:
        if isinstance(value, Error):
            return [rounded(value.error), rounded(value.bound)]
        return float(f"{value:.1e}") if isinstance(value, float) else value

    kept = {name: rounded(value) for name, value in measured._asdict().items()}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return kept | {"date": today, "machine": machine()}


def write(found: dict[str, dict[str, Finding]], file: Path) -> None:
    """Write what was measured into a file of JSON, a line for each case.

    What stands there of other cases stays, and goes where there is no such case any more.
    """
    before = json.loads(file.read_text("utf-8")) if file.exists() else {}
    parts = []
    for kind, listed in (("layers", cases.LAYERS), ("losses", cases.LOSSES)):
        new = {name: record(measured) for name, measured in found[kind].items()}
        rows = before.get(kind, {}) | new
        names = sorted(case.name for case in listed if case.name in rows)
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows[name])}" for name in names)
        parts.append(f"{json.dumps(kind)}: {{\n{lines}\n}}")
    with atomic_write(file) as temporary:
        temporary.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="NAME", help="show the rows with NAME in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    return parser.parse_args()


def main() -> None:
    asked = options()
    only, rows = asked.only or "", []
    found: dict[str, dict[str, Finding]] = {"layers": {}, "losses": {}}
    for kind, module, of in (("layers", fnn, of_layer), ("losses", fnn.losses, of_loss)):
        listed: Any = cases.LAYERS if kind == "layers" else cases.LOSSES
        result = fnn.Layer if kind == "layers" else fnn.losses.Loss
        prefix = "" if kind == "layers" else "losses."
        for name in names(cases.public(module, result), listed):
            if only in name:
                print(f"{prefix}{name} ...", file=sys.stderr, flush=True)
                for case in cases_of(name, listed):
                    if case.name not in found[kind]:
                        found[kind][case.name] = of(case)
                own = [found[kind][case.name] for case in cases_of(name, listed)]
                rows.append(row(prefix + name, own))
                # At once: it takes long, and may be cut off.
                if asked.json:
                    write(found, asked.json)
    print(table(HEADER, rows))
    unproven = [row[0] for row in rows if row[-1] != "yes"]
    print(f"\n{len(rows)} layers and losses, {len(unproven)} not proven: {unproven or 'none'}")
    sys.exit(bool(unproven))


if __name__ == "__main__":
    main()
