"""The house: public names stand once, are loaded when asked for, and rooms import one way."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import fnn

PACKAGES = (
    fnn, fnn.datasets, fnn.lab, fnn.landscapes, fnn.losses, fnn.networks, fnn.optim,
    fnn.plot, fnn.train,
)  # fmt: skip
NAMES = {package.__name__: package for package in PACKAGES}
ROOT = Path(fnn.__file__).parent
MODULES = {
    ".".join(("fnn", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
# What a room may not load, whatever it is asked for by name.
FORBIDDEN = {
    "fnn.optim": ("layers", "layer", "combinators", "gradient", "losses", "train", "lab"),
    "fnn.losses": ("layers", "train", "lab", "optim"),
    "fnn.layers": ("losses", "train", "lab", "optim", "gradient"),
    "fnn.combinators": ("losses", "train", "lab", "optim", "gradient"),
    "fnn.gradient": ("train", "lab"),
    "fnn.train": ("lab", "cli", "plot"),
}


def imported(code):
    """Run code in a fresh interpreter, and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def imports_of(name):
    """Every module of fnn that a module imports, at the top or inside of a function."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {one if one in MODULES else node.module for one in full}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(MODULES) - {name}


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_every_public_name_is_listed_and_there(package):
    assert package.__all__
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is getattr(package, name)


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_importing_a_module_leaves_the_name_that_it_shares(package):
    folder = Path(package.__file__).parent
    for name in {path.stem for path in folder.iterdir()}.intersection(package.__all__):
        module = importlib.import_module(f"{package.__name__}.{name}")
        found = getattr(package, name)
        assert found is getattr(module, name, module)


def test_every_public_name_is_registered_once():
    places = [
        (name, getattr(getattr(package, name), "__module__", package.__name__))
        for package in PACKAGES
        for name in package.__all__
        if callable(getattr(package, name))
    ]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nil'"):
        package.nil  # noqa: B018 -- the look-up is the test


def test_import_leaves_to_those_who_ask_what_is_rarely_needed():
    loaded = "import sys; print(*[name for name in sys.modules if name.startswith('fnn.')])"
    found = set(imported(f"import fnn; fnn.dense; {loaded}").split())
    assert "fnn.layers.dense" in found
    for name in ("layers.attention", "layers.norm", "losses", "optim", "lab", "train", "plot"):
        assert f"fnn.{name}" not in found


def test_names_are_loaded_when_imported_by_name():
    code = "from fnn.optim import adam, schedule; from fnn.losses import ctc; from fnn import lstm"
    names = "(adam.__name__, schedule.__name__, ctc.__name__, lstm.__name__)"
    assert imported(f"{code}; print(*{names})").split() == [
        "adam", "fnn.optim.schedule", "ctc", "lstm",
    ]  # fmt: skip


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_none_above_it(room):
    beyond = tuple(f"fnn.{name}" for name in FORBIDDEN[room])
    wrong = [
        f"{name} -> {other}"
        for name in MODULES
        if f"{name}.".startswith(f"{room}.")
        for other in imports_of(name)
        if any(f"{other}.".startswith(f"{name}.") for name in beyond)
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle():
    state = {}

    def visit(name, path):
        assert state.get(name) != "open", " -> ".join([*path, name])
        if name not in state:
            state[name] = "open"
            for other in sorted(imports_of(name)):
                visit(other, [*path, name])
            state[name] = "done"

    for name in MODULES:
        visit(name, [])


@pytest.mark.parametrize("name", [name for name in MODULES if "__main__" not in name])
def test_every_module_can_be_imported_first(name):
    importlib.import_module(name)


def test_loading_the_optimizers_loads_no_layer_and_training_no_laboratory():
    loaded = "print(*sys.modules)"
    asked = "[getattr(fnn.optim, name) for name in fnn.optim.__all__]"
    found = set(imported(f"import sys, fnn; {asked}; {loaded}").split())
    assert not [name for name in found if name.startswith(("fnn.layer", "fnn.losses", "fnn.train"))]
    found = set(imported(f"import sys, fnn; fnn.fit; fnn.evaluate; {loaded}").split())
    assert not [name for name in found if name.startswith("fnn.lab")]
