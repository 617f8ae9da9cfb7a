"""The page of what is proven, made of what the tests go over: ``python -m tests.proofs``.

It writes ``docs/pages/proofs.md``. A row says which comparisons the gate makes of a layer, a loss,
an optimizer or a noise; it is read off the cases, twins and tests themselves, and
`tests/interop/test_proofs.py` fails where the page says anything else. The errors are those that
``python -m tests.report --json docs/measured/gradients.json`` measured last, and the
mutants those that ``python -m tests.mutation --table docs/measured/mutants.json`` planted last.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path
from typing import Any

import fnn
from fnn import optim
from fnn.optim.optimizer import Optimizer
from tests import cases, twins
from tests.cases.optimizers import OPTIMIZERS
from tests.layers.test_laws import MUTATIONS, inputs, named
from tests.mutation.__main__ import FATES
from tests.optim.test_noise import CASES as NOISES
from tests.report import MEASURED, cases_of
from tests.twins.twin import Twin

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/pages/proofs.md"
MUTANTS = ROOT / "docs/measured/mutants.json"
TEXT = """\
---
hide: [toc]
---

# Proofs

[Layers](#layers), [losses](#losses), [optimizers](#optimizers), [noise](#noise),
[mutants](#mutants), [papers](#papers), [case by case](#case-by-case)

What is derived by hand can be wrong, and so can a test. This page says what each layer, loss,
optimizer and noise is compared with whenever the tests run, and how it is known that the tests
would see a mistake. It is written by `python -m tests.proofs` from the tables that the tests go
over, and a test holds it to them. The errors were measured by `python -m tests.report`, which runs
every comparison and prints each error beside its bound, {dates}, on {machines}.

## How a gradient is proven

Gradients are compared in float64, for a cotangent drawn at random, leaf by leaf and relative to
the largest entry of the whole gradient, at parameters moved off their initial values: a scale
that is 1, or a bias that is 0, would hide its factor.

- **Autodiff**: `backward` against `jax.vjp` of the plain formula. The bound is that of rounding,
  8 sqrt(terms) eps for a sum of so many terms, 1.8e-14 for a hundred; no layer has one of its
  own.
- **float32**: the manual gradient in float32 against that of autodiff in float64, which stands for
  the true one. The bound is the same, 9.5e-6 for a hundred terms. Beside it, and bound to nothing,
  how far autodiff in float32 is from it.
- **Differences**: against central differences, which share no rule with either. The bound is 8
  sqrt(terms) eps^(2/3), and what halving the step changes where a function bends more.
- **Formula**: the output against the formula of the docstring in plain numpy, written a second
  time.
- **PyTorch**: output, gradients of parameters and of input against its module of the name given,
  or against what is made of its parts, with the same weights, in float64.
- **Planted mistakes**: in every leaf of the gradient, one after the other: {mutations}. The
  checker has to object to each, in every case of the table: it caught {caught} of the {planted}
  that were planted. Beyond that [mutants](#mutants) of the package's own code are planted, a small
  fault at a time.

A case is a layer with settings that are not neutral; a layer without a case of its own stands in
those of layers made with it. An error is the largest of all cases of a row, each of which [stands
below](#case-by-case) with its bound; "1 of 3" says that 1 of its 3 cases is compared: gradients
that are meant to be no derivative are not those of differences, and PyTorch has not every setting.
No layer, loss, optimizer or noise is public and missing here: the tests of the tables fail
otherwise.

The laws that go over the cases, each over all those to which it applies (`fnn.mixed_precision`,
which rounds on purpose, has laws of its own):

{layer_laws}

## Layers

{layers}

## Losses

Their laws:

{loss_laws}

{losses}

## Optimizers

Ten steps in float64, with settings that are not neutral, are those of the paper, which stands
once more in numpy in `tests/papers/optimizers.py`, and, where optax has the optimizer, those of
optax.

{optimizers}

## Noise

Noise is held to its law by numbers drawn: moments within their standard errors, independence
between arrays, steps and keys, and for samplers the stationary distribution on a quadratic, whose
variance is known exactly. "Formula" says that every step is the docstring's formula in numpy,
with the standard noise put in.

{noises}

## Mutants

`python -m tests.mutation` changes one expression of the package at a time: another operator, a
constant one larger, arguments in another order, a term left out. A mutant is killed by a test that
fails with it and passes without it. Of the {possible} that there are in these rooms {mutants} were
drawn by chance, as many in one room as in another, and planted {mutated}. What
survived changes no result that could be told: `tests/mutation/survivors.toml` says of each why. To
every other survivor, of this run and of earlier ones, there is a test now that kills it.

{mutant_rooms}

## Papers

{papers}

## Case by case

Errors beside their bounds, all relative to the largest entry of the gradient.

### Cases of layers

{layer_cases}

### Cases of losses

{loss_cases}
"""
PAPERS = """\
- Neelakantan et al. 2015: gradient noise in 20 layers from a small or zero start, as two sweeps:
  `benchmarks/deep_noise.py`, which says what was needed for the noise to help.
- The update rules of the optimizers above, one by one.
- Each docstring names under Source the paper, and the equation, that its formula is from."""
# Where claims about noise stand, and what a noise is called there beside its name.
_CALLED = {
    "fnn.dp_sgd": "private_gradient|private_descent|privacy", "fnn.label_noise": "label",
    "fnn.optim.anticorrelated_noise": "anticorrelated",
}  # fmt: skip
_NOISE_TESTS = (
    "optim/test_noise.py", "optim/test_distributions.py", "optim/test_weight_noise.py",
    "gradient/test_estimators.py", "gradient/test_privacy.py",
)  # fmt: skip


@functools.cache
def mutated() -> dict[str, Any]:
    """Return what became of the mutants that were planted last, room by room."""
    found: dict[str, Any] = json.loads(MUTANTS.read_text("utf-8"))
    return found


@functools.cache
def measured() -> dict[str, Any]:
    """Return what was measured last of the cases of layers and losses, by their names."""
    found: dict[str, Any] = json.loads(MEASURED.read_text("utf-8"))
    return found


def page() -> str:
    """Return the page as it has to be."""
    rows = [row for kind in ("layers", "losses") for row in measured()[kind].values()]
    return TEXT.format(
        dates=dated(rows),
        caught=f"{sum(row['caught'] for row in rows):,}",
        planted=f"{sum(row['planted'] for row in rows):,}",
        machines=machines(rows),
        layer_cases=case_by_case("layers"),
        loss_cases=case_by_case("losses"),
        mutations=", ".join(MUTATIONS),
        layer_laws=laws("layers/test_laws.py"),
        layers=of_layers(),
        loss_laws=laws("losses/test_laws.py"),
        losses=of_losses(),
        optimizers=of_optimizers(),
        noises=of_noises(),
        mutants=f"{sum(map(planted, mutated().values())):,}",
        possible=f"{sum(row['possible'] for row in mutated().values()):,}",
        mutated=f"{dated([*mutated().values()])}, on {machines([*mutated().values()])}",
        mutant_rooms=of_mutants(),
        papers=PAPERS,
    )


def dated(rows: list[dict[str, Any]]) -> str:
    """Return when rows were measured."""
    dates = sorted({row["date"] for row in rows})
    return f"on {dates[0]}" if len(dates) == 1 else f"from {dates[0]} to {dates[-1]}"


def machines(rows: list[dict[str, Any]]) -> str:
    """Return where rows were measured."""
    return "; ".join(sorted({row["machine"] for row in rows}))


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def words(function: str) -> str:
    """Return the claim in the name of a test."""
    return function.removeprefix("test_").replace("_", " ")


def tests_of(file: str) -> dict[str, str]:
    """Return the source of every test of a file by its name."""
    text = (ROOT / "tests" / file).read_text("utf-8")
    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return {
        node.name: ast.get_source_segment(text, node) or ""
        for node in nodes
        if node.name.startswith("test_")
    }


def laws(file: str) -> str:
    """Return the claims of those tests that go over a table of cases."""
    over_cases = [name for name, code in tests_of(file).items() if "(case" in code.split("\n")[0]]
    return "\n".join(f"- {words(name)}" for name in over_cases)


@functools.cache
def twins_by_case() -> dict[str, Any]:
    """Return the twin of each case that has one."""
    modules = pkgutil.iter_modules(twins.__path__)
    loaded = [importlib.import_module(f"tests.twins.{one.name}") for one in modules]
    return {twin.case: twin for module in loaded for twin in getattr(module, "TWINS", [])}


def twin_of(name: str) -> str:
    """Return the module of PyTorch that a case is compared with, or nothing."""
    twin = twins_by_case().get(name)
    if twin is None:
        return ""
    if isinstance(twin, Twin):
        module = type(twin.module(inputs(named(name))))
        return (
            f"`{module.__name__}`"
            if module.__module__.startswith("torch.")
            else "made of its parts"
        )
    return "made of its parts"


HEADER = (
    "", "cases", "autodiff", "differences", "float32", "autodiff in float32", "PyTorch",
    "formula in numpy", "mistakes caught",
)  # fmt: skip


def short(error: float) -> str:
    return f"{error:.0e}" if error else "0"


def largest(errors: list[float], of: int) -> str:
    """Return the largest error, and of how many cases where not all of them have one."""
    if not errors:
        return "none"
    return short(max(errors)) + (f", {len(errors)} of {of}" if len(errors) < of else "")


def proofs_of(name: str, found: list[Any], kind: str) -> tuple[str, ...]:
    assert found, f"no case has {name} in it"
    rows = [measured()[kind][case.name] for case in found]

    def shown(what: str) -> str:
        return largest([row[what][0] for row in rows if row[what] is not None], len(rows))

    twin_names = sorted({twin_of(case.name) for case in found} - {""})
    formulas = sum(case.formula is not None for case in found)
    return (
        f"`{name}`",
        str(len(found)),
        shown("auto"),
        shown("numeric"),
        shown("float32"),
        short(max(row["auto_float32"] for row in rows)),
        f"{', '.join(twin_names)}: {shown('pytorch')}" if twin_names else "has none",
        str(formulas) if formulas else "that of its parts",
        f"{sum(row['caught'] for row in rows)} of {sum(row['planted'] for row in rows)}",
    )


def case_by_case(kind: str) -> str:
    """Return a table of every case: each error beside its bound."""

    def shown(pair: list[float] | None) -> str:
        return f"{short(pair[0])} <= {short(pair[1])}" if pair else ""

    rows = [
        (
            name,
            *(shown(row[what]) for what in ("auto", "numeric", "float32")),
            short(row["auto_float32"]),
            shown(row["pytorch"]),
            f"{row['caught']} of {row['planted']}",
        )
        for name, row in measured()[kind].items()
    ]
    return table(("case", *HEADER[2:7], HEADER[-1]), rows)


def of_layers() -> str:
    rows = []
    # One that rounds on purpose has laws of its own, in tests/train/test_precision.py.
    for name in sorted(cases.public(fnn, fnn.Layer) - {"mixed_precision"}):
        rows.append(proofs_of(f"fnn.{name}", cases_of(name, cases.LAYERS), "layers"))
    return table(HEADER, rows)


def of_losses() -> str:
    rows = []
    for name in sorted(cases.public(fnn.losses, fnn.losses.Loss)):
        rows.append(proofs_of(f"fnn.losses.{name}", cases_of(name, cases.LOSSES), "losses"))
    return table(HEADER, rows)


def noise_names() -> list[str]:
    """Return the names of the optimizers and estimators that add noise."""
    of_optim = [
        f"fnn.optim.{name}"
        for name in sorted(cases.public(optim, Optimizer))
        if inspect.unwrap(getattr(optim, name)).__module__.startswith("fnn.optim.noise")
    ]
    return of_optim + [f"fnn.{name}" for name in sorted(cases.public(fnn, fnn.Estimator))]


def of_optimizers() -> str:
    rows = []
    noises = {name.rpartition(".")[2] for name in noise_names()}
    for name in sorted(cases.public(optim, Optimizer) - noises):
        found = [one for one in OPTIMIZERS if name in cases.makers(one.make(one.value))]
        peers = sum(one.optax is not None for one in found)
        # What no paper updates by, such as a constraint, has laws of its own.
        counts = (str(len(found)), str(peers)) if found else ("laws of its own", "")
        rows.append((f"`fnn.optim.{name}`", *counts))
    return table(("", "cases against the paper", "of these against optax"), rows)


def of_noises() -> str:
    found = {case.name: case for case in NOISES}
    tests = {name: code for file in _NOISE_TESTS for name, code in tests_of(file).items()}
    rows = []
    for full in noise_names():
        name = full.rpartition(".")[2]
        called = re.compile(rf"\.{name}\(|^def test_\w*({_CALLED.get(full, name)})")
        own = [words(test) for test, code in tests.items() if called.search(code)]
        rows.append((f"`{full}`", "yes" if name in found else "", "; ".join(own)))
    return table(("", "formula", "claims that are tested of it"), rows)


def planted(row: dict[str, int]) -> int:
    """Return how many mutants were planted in a room."""
    return sum(row[fate] for fate in FATES)


def of_mutants() -> str:
    """Return a table of the mutants: a row for each room."""
    rows = [
        (
            f"`{room}`",
            f"{row['possible']:,}",
            *map(str, (planted(row), *(row[f] for f in FATES[:2]))),
        )
        for room, row in mutated().items()
    ]
    return table(("room", "mutants", "planted", "killed", "survived, explained"), rows)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print("wrote", PAGE.relative_to(ROOT))
