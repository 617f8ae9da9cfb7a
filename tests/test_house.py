"""The house in numbers: what a reader can take in, and what every docstring must say."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from tests.test_import import MODULES, PACKAGES

LINES = 60
DEPTH = 2
SECTIONS = ("Forward", "Backward", "Update", "Args", "Shapes", "Saves", "Raises", "Source")


def functions(tree, depth=1):
    """Every function of a module with its depth: 1 at the top, 2 inside of one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, depth
            yield from functions(node, depth + 1)
        else:
            yield from functions(node, depth)


def length(node):
    """The lines of a function, those of its docstring left out."""
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    return node.end_lineno - node.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)


@pytest.mark.parametrize("module", MODULES)
def test_functions_fit_a_screen_and_nest_two_deep(module):
    found = list(functions(ast.parse(MODULES[module].read_text())))
    assert [node.name for node, _ in found if length(node) > LINES] == []
    assert [node.name for node, depth in found if depth > DEPTH] == []


# What stands in one module alone: elsewhere its function is called.
IN_ONE_PLACE = {
    # A carry that varies over a mesh of devices.
    "lax.scan": ("fnn._core.mesh", "fnn._core.mesh.scan"),
    # XLA loses a NaN in it on CPUs.
    "nn.relu": ("fnn._core.arrays", "fnn._core.arrays.rectified"),
}


def called_by_path(tree):
    """The last two words of every path of names in a module: ``lax.scan`` of ``jax.lax.scan``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            inside = node.value
            word = getattr(inside, "attr", getattr(inside, "id", ""))
            yield f"{word}.{node.attr}"


def test_what_jax_does_otherwise_than_fnn_needs_is_called_in_one_place():
    found = {
        (path, name)
        for name in MODULES
        for path in called_by_path(ast.parse(MODULES[name].read_text()))
        if path in IN_ONE_PLACE and name != IN_ONE_PLACE[path][0]
    }
    assert found == set()
    planted = ast.parse("def run(x):\n    return jax.lax.scan(step, x, nn.relu(x))")
    assert set(called_by_path(planted)) & set(IN_ONE_PLACE) == set(IN_ONE_PLACE)


PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in PACKAGES
    for name in package.__all__
    if inspect.isfunction(inspect.unwrap(getattr(package, name)))
    or inspect.isclass(getattr(package, name))
}


def parameters(thing):
    """The names that Args must list: not those of exceptions, whose users catch them."""
    left_out = inspect.isclass(thing) and issubclass(thing, Exception)
    if left_out or getattr(thing, "_is_protocol", False):
        return []
    names = inspect.signature(inspect.unwrap(thing)).parameters
    return [name for name in names if name not in ("self", "_")]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_names_every_parameter_under_args(name):
    doc = inspect.getdoc(PUBLIC[name]) or ""
    args = re.search(r"^Args:\n((?: .*\n?|\n(?= ))*)", doc, re.MULTILINE)
    listed = set(re.findall(r"^ {4}\*{0,2}(\w+)[:,]", args[1], re.MULTILINE)) if args else set()
    assert [one for one in parameters(PUBLIC[name]) if one not in listed] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_the_sections_of_a_docstring_come_in_the_order_of_the_template(name):
    doc = inspect.getdoc(PUBLIC[name]) or ""
    assert doc.split("\n")[0].rstrip().endswith((".", ":"))
    found = re.findall(rf"^({'|'.join(SECTIONS)}):", doc, re.MULTILINE)
    assert found == sorted(set(found), key=SECTIONS.index)


@pytest.mark.parametrize(
    "name", [name for name, thing in PUBLIC.items() if hasattr(thing, "__wrapped__")]
)
def test_signatures_say_something(name):
    signature = inspect.signature(inspect.unwrap(PUBLIC[name]))
    said = [one.annotation for one in signature.parameters.values()]
    assert not [one for one in said if re.search(r"\bAny\b", str(one))]


def test_tests_are_collected_without_pytorch():
    """It is an extra of its own: what cannot do without it stands in interop and twins."""
    root = Path(__file__).parent
    at_the_top = {
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if name.partition(".")[0] == "torch"
    }
    assert at_the_top, "PyTorch is compared with somewhere"
    assert {name.partition("/")[0] for name in at_the_top} <= {"interop", "twins"}
