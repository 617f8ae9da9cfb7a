"""Which tests concern a mutant: a few quick ones first, then all of its room."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.mutation.plant import Mutant

# The laws of a layer that judge what it computes, and compile little; the quickest first.
LAWS = (
    "formula", "by_autodiff", "float64_but", "dtype_is_kept", "zero_or_large", "other_shapes",
    "without_residuals",
)  # fmt: skip
LAYER_LAWS = "layers/test_laws.py"


class Room(NamedTuple):
    """The tests of the files below a path.

    `laws` is the file of the table of cases, `filter` chooses among its tests, and `cases` are the
    beginnings of names in it for what has none itself. `files` are all others, the likeliest first.
    """

    laws: str
    filter: Sequence[str]
    cases: str
    files: str


def _layers(cases: str, files: str) -> Room:
    return Room(LAYER_LAWS, LAWS, cases, files)


def _optim(files: str, cases: str = "") -> Room:
    return Room("optim/test_laws.py", ("paper", "of_optax"), cases, files)


def _only(files: str) -> Room:
    return Room("", (), "", files)


# The longest path that fits counts.
ROOMS: dict[str, Room | None] = {
    "fnn/layers/": _layers("", "layers/shape layers/noise layers/embedding layers/precision"),
    "fnn/layers/_window.py": _layers("conv max_pool avg_pool", "layers/conv layers/pool"),
    "fnn/layers/activation/": _layers("", "layers/extremes layers/hard layers/gated layers/empty"),
    "fnn/layers/attention/": _layers("attention transformer", "layers/attention layers/embedding"),
    "fnn/layers/attention/position.py": _layers("rotary", "layers/embedding layers/attention"),
    "fnn/layers/conv/": _layers("conv", "layers/conv layers/empty layers/precision"),
    "fnn/layers/norm/": _layers("layer_norm rms_norm group_norm instance_norm batch_norm",
                                "layers/norm layers/batch_norm layers/precision"),
    "fnn/layers/pool/": _layers("max_pool avg_pool", "layers/pool layers/empty layers/precision"),
    "fnn/layers/recurrent/": _layers("rnn gru lstm", "layers/recurrent layers/empty"),
    "fnn/combinators/": _layers("serial repeat reversible remat residual", "combinators/"),
    "fnn/combinators/sequence.py": _layers("over_sequence", "combinators/"),
    "fnn/losses/": Room("losses/test_laws.py", ("formula", "by_autodiff", ""), "",
                        "losses/edges train/weights train/metrics"),
    "fnn/losses/_loss.py": _only("losses/edges losses/laws train/weights train/metrics"),
    "fnn/optim/": _optim("optim/optimizer optim/extremes optim/transforms"),
    "fnn/optim/optimizers/": _optim("optim/optimizer optim/extremes optim/transforms"),
    "fnn/optim/transforms/": _optim("optim/transforms optim/optimizer optim/extremes"),
    "fnn/optim/transforms/groups.py": _only("optim/unstack optim/optimizer optim/transforms"),
    "fnn/optim/transforms/constraint.py": _only("optim/constraint"),
    "fnn/optim/_norms.py": _only("optim/extremes optim/transforms"),
    "fnn/optim/schedule.py": _only("optim/schedule"),
    "fnn/optim/noise/": _only("optim/noise optim/weight_noise"),
    "fnn/optim/noise/distributions.py": _only("optim/distributions optim/noise"),
    "fnn/optim/noise/_random_bits.py": _only("optim/distributions optim/noise"),
    "fnn/gradient/": _only("gradient/objective train/weights"),
    "fnn/gradient/estimators/": _only("gradient/estimators"),
    "fnn/train/": _only("train/fit train/weights train/metrics"),
    "fnn/train/files/_safetensors.py": _only("train/files attack/damage"),
    "fnn/train/files/checkpoint.py": _only("train/files"),
    "fnn/train/metrics.py": _only("train/metrics"),
    "fnn/train/evaluate.py": _only("train/metrics train/weights train/fit"),
    # What many devices see runs in processes of their own, in whose memory nothing is planted.
    "fnn/train/sharding.py": None,
    "fnn/train/_gathering.py": None,
    "fnn/train/files/sharded_checkpoints.py": None,
    "fnn/train/transforms.py": _only("train/transforms"),
    "fnn/train/callbacks.py": _only("train/callbacks"),
    "fnn/train/sweep/": _only("train/sweep"),
    "fnn/train/generation/": _only("train/generate train/generate_cache"),
    "fnn/_core/atomic_write.py": _only("core/atomic_write"),
    "fnn/datasets/": _only("datasets/ attack/damage"),
}  # fmt: skip
REFUSALS = "tests/core/test_errors.py"


def room(path: str) -> Room | None:
    """Return the room of a file, None for one whose faults are not looked for."""
    found = [prefix for prefix in ROOMS if path.startswith(prefix)]
    return ROOMS[max(found, key=len)] if found else None


def files(path: str) -> list[str]:
    """Return the beginnings of the names of all tests that concern a file."""
    of = room(path)
    assert of is not None
    laws = [f"tests/{of.laws}"] if of.laws else []
    others = [
        f"tests/{name}" if name.endswith("/") else "tests/{}/test_{}.py".format(*name.split("/"))
        for name in of.files.split()
    ]
    folder, _, name = path.removeprefix("fnn/").removesuffix(".py").rpartition("/")
    own = f"tests/{folder.strip('_')}/test_{name.strip('_')}.py"
    return list(dict.fromkeys([*laws, own, *others, REFUSALS]))


def chosen(mutant: Mutant, names: Sequence[str], root: Path) -> list[str]:
    """Return those of the tests of some names that concern a mutant, the likeliest first."""
    if mutant.seen_by:
        return [name for name in names if name.startswith(mutant.seen_by)]
    of = room(mutant.path)
    assert of is not None
    words = _users(ast.parse((root / mutant.path).read_text()), mutant.function)
    ranked = []
    for name in names:
        places = [i for i, file in enumerate(files(mutant.path)) if name.startswith(file)]
        if places:
            ranked.append((*_rank(of, mutant, words, name), places[0], len(ranked), name))
    return [name for *_, name in sorted(r for r in ranked if r[0] < _NEVER)]


_NEVER = 9


def _rank(of: Room, mutant: Mutant, words: Sequence[str], name: str) -> tuple[int, int]:
    """Return how soon a test is to be run."""
    case = name.partition("[")[2]
    about = any(re.match(rf"{word}\b", case.replace("-", " ")) for word in words)
    if name.startswith(REFUSALS):
        named = any(word in name for word in words)
        return (0 if mutant.guard else 4, 0) if named else (_NEVER, 0)
    if mutant.guard and "refuse" in name and about:
        return 0, 0
    if of.laws and name.startswith(f"tests/{of.laws}"):
        law = next((i for i, part in enumerate(of.filter) if part in name), None)
        related = about or any(case.startswith(word) for word in of.cases.split())
        if law is None or not related:
            return _NEVER, 0
        # Of all cases the two laws that judge both directions, and then the others.
        return (1 if about else 2), law > 1
    return 3, not (about or any(word in name for word in words))


def _users(tree: ast.Module, function: str) -> list[str]:
    """Return the public functions of a module that one of it is, or that it works for."""
    parts = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    names = {
        name: {node.id for node in ast.walk(part) if isinstance(node, ast.Name)} & set(parts)
        for name, part in parts.items()
    }
    found = {function}
    for _ in parts:
        found |= {name for name, used in names.items() if used & found}
    public = [n for n, p in parts.items() if isinstance(p, ast.FunctionDef) and n[0] != "_"]
    return [name for name in public if name in found] or public


def in_package(root: Path) -> Iterator[str]:
    """Yield the paths of the files whose faults are looked for."""
    for file in sorted((root / "fnn").rglob("*.py")):
        path = str(file.relative_to(root))
        if room(path):
            yield path
