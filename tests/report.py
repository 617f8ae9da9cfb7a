"""Every public layer and loss, and what is proven of it: ``python -m tests.report``.

A row for each: the largest error of the manual gradient against the automatic and the numeric one,
in float64 and relative to the gradient's largest number, each beside its bound; the module of
PyTorch that outputs and gradients agree with; and how many planted mistakes the checker catches.
The exit code is 1 when a gradient differs, a mistake passes, or a layer has no row.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NamedTuple

import fnn
from fnn._core.table import table
from fnn.lab.agreement import Report
from fnn.lab.check import compare_layer, gradients
from tests import cases, conftest
from tests.layers.test_laws import exact, inputs, named, place, unnoticed
from tests.losses.test_laws import as_layer, prediction

# That of the key of the laws.
SEED = 5
HEADER = ("name", "cases", "auto", "numeric", "PyTorch", "mutants killed", "proven")


class Finding(NamedTuple):
    """What one case shows."""

    report: Report
    planted: int
    missed: int
    twin: str


def of_layer(case: cases.LayerCase) -> Finding:
    numeric = not case.surrogate
    params, state = place(case.name)
    found = compare_layer(
        case.make(), inputs(case), params=params, state=state, seed=SEED, numeric=numeric
    )
    planted, missed = unnoticed(exact(case, True))
    return Finding(found, planted, len(missed), twin_of(case.name))


def of_loss(case: cases.LossCase) -> Finding:
    layer = as_layer(case.make(), case.target)
    y = prediction(case)
    planted, missed = unnoticed(gradients(layer, y))
    found = compare_layer(layer, y)
    return Finding(found, planted, len(missed), twin_of(case.name))


def twin_of(name: str) -> str:
    """Return the name of the module of PyTorch that a case agrees with, if it has one."""
    if conftest.WITHOUT_TORCH:
        return ""
    from tests.interop import test_torch
    from tests.twins.twin import Twin

    for twin in test_torch.ALL:
        if twin.case != name:
            continue
        if not isinstance(twin, Twin):
            test_torch.test_loss_agrees_with_its_twin(twin)
            return getattr(twin.function, "__name__", "").replace("<lambda>", "") or "yes"
        for train in twin.train:
            test_torch.test_layer_agrees_with_its_twin(twin, train)
        return type(twin.module(inputs(named(name)))).__name__
    return ""


def cases_of(name: str, table_of_cases: list[Any]) -> list[Any]:
    """Return the cases named after a layer, or else those that it is a part of."""
    own = [case for case in table_of_cases if case.name.split("-")[0] == name]
    return own or [case for case in table_of_cases if name in cases.makers(case.make())]


def row(name: str, findings: list[Finding]) -> tuple[str, ...]:
    def worst(against: str) -> str:
        rows = [row for f in findings for row in f.report.rows if row.against == against]
        if not rows:
            return "-"
        worst = max(rows, key=lambda row: row.error / row.bound if row.bound else row.error)
        return f"{worst.error:.0e} <= {worst.bound:.0e}" if worst.agrees else "DIFFERS"

    twins = sorted({f.twin for f in findings} - {""})
    planted, missed = sum(f.planted for f in findings), sum(f.missed for f in findings)
    proven = bool(planted) and not missed and all(f.report.agrees for f in findings)
    return (
        name,
        str(len(findings)),
        worst("auto"),
        worst("numeric"),
        ", ".join(twins) or "none",
        f"{planted - missed}/{planted}",
        "yes" if proven else "NO",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME", help="show the rows with NAME in their name")
    only = parser.parse_args().only or ""
    rows = []
    for module, kind, listed, of in (
        (fnn, fnn.Layer, cases.LAYERS, of_layer),
        (fnn.losses, fnn.losses.Loss, cases.LOSSES, of_loss),
    ):
        prefix = "" if kind is fnn.Layer else "losses."
        for name in sorted(cases.public(module, kind)):
            if only in name:
                print(f"{prefix}{name} ...", file=sys.stderr, flush=True)
                rows.append(row(prefix + name, [of(case) for case in cases_of(name, listed)]))
    print(table(HEADER, rows))
    unproven = [row[0] for row in rows if row[-1] != "yes"]
    print(f"\n{len(rows)} layers and losses, {len(unproven)} not proven: {unproven or 'none'}")
    sys.exit(bool(unproven))


if __name__ == "__main__":
    main()
