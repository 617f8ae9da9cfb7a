"""Mutants of a source file: each a copy of it in which one expression is another."""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
DROPPED = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.BitAnd, ast.BitXor)
PAIRS = (
    ("max", "min"),
    ("maximum", "minimum"),
    ("argmax", "argmin"),
    ("sum", "mean"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
    ("sin", "cos"),
    ("floor", "ceil"),
    ("all", "any"),
    ("exp", "expm1"),
    ("log", "log1p"),
)
TWINS = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}
# The order of what they are handed does not matter, or shapes the call alone.
SYMMETRIC = {
    "maximum", "minimum", "add", "multiply", "logaddexp", "allclose", "isinstance", "issubclass",
    "hasattr", "getattr", "zip", "issubdtype", "promote_types", "result_type",
    "broadcast_shapes", "astype", "reshape", "max", "min", "is_count",
    # A function comes first: the other way round nothing would run at all.
    "map", "scan", "vmap", "jit", "partial", "eval_shape", "fori_loop", "while_loop", "cond",
    "downcast", "upcast", "broadcast_to", "range", "slice", "setattr",
}  # fmt: skip
# Words for people, and types: the laws of the house read these.
WORDS = {"InputError", "describe", "warn", "TypeVar", "NamedTuple", "cast"}


class Mutant(NamedTuple):
    """One fault: where it stands, what it changes, and the source that holds it.

    `guard` says that it stands in a check of what a user passed. `seen_by` is the beginning of the
    names of the tests that are known to see it.
    """

    path: str
    function: str
    line: int
    change: str
    guard: bool
    source: str
    seen_by: str = ""

    @property
    def name(self) -> str:
        return f"{self.path}::{self.function}: {self.change}"

    @property
    def room(self) -> str:
        return self.path.rpartition("/")[0]

    def rank(self, seed: int) -> str:
        """Return where it stands among all mutants: by chance, whatever else changes."""
        return hashlib.sha256(f"{seed} {self.name}".encode()).hexdigest()


class _Place(NamedTuple):
    node: ast.expr | ast.AugAssign
    function: str
    guard: bool


def mutants(path: str, source: str) -> list[Mutant]:
    """Return all mutants of a source file, in the order of the file."""
    found, seen = [], Counter[str]()
    for place in _places(ast.parse(source)):
        for new in _changes(place):
            old_text, new_text = (" ".join(ast.unparse(n).split()) for n in (place.node, new))
            change = f"`{old_text}` -> `{new_text}`"
            where = f"{place.function}: {change}"
            seen[where] += 1
            if seen[where] > 1:
                change += f" #{seen[where]}"
            changed = _spliced(source, place.node, new)
            line = place.node.lineno
            found.append(Mutant(path, place.function, line, change, place.guard, changed))
    return found


def _places(tree: ast.Module) -> Iterator[_Place]:
    """Walk all expressions that compute something."""

    def walk(node: ast.AST, function: str, guard: bool) -> Iterator[_Place]:
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.Call) and _called(node) in WORDS:
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            function = function or node.name
            # Neither decorators nor bases, and of the arguments no default: they are documented.
            for statement in node.body:
                yield from walk(statement, function, guard)
            return
        if isinstance(node, ast.AnnAssign):
            if node.value:
                yield from walk(node.value, function, guard)
            return
        if isinstance(node, ast.Call) and _is_check(node):
            guard = True
        if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
            yield from walk(node.test, function, True)
            for statement in (*node.body, *node.orelse):
                yield from walk(statement, function, guard)
            return
        if isinstance(node, ast.expr | ast.AugAssign):
            yield _Place(node, function, guard)
        children = ast.iter_child_nodes(node)
        if isinstance(node, ast.Lambda):
            children = iter([node.body])
        for child in children:
            yield from walk(child, function, guard)

    yield from walk(tree, "", False)


def _changes(place: _Place) -> Iterator[ast.AST]:
    """Yield what may stand in the place of an expression."""
    node = place.node
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
        if any(_is_text_or_list(side) for side in sides):
            return
        if isinstance(node.op, ast.BitOr) and any(_is_type(side) for side in sides):
            return
        yield _with(node, op=OPERATORS[type(node.op)]())
        if isinstance(node, ast.BinOp) and isinstance(node.op, DROPPED):
            yield node.left
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=OPERATORS[type(node.op)]())
        yield node.values[0] if len(node.values) == 2 else _with(node, values=node.values[:-1])
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Compare):
        if type(node.ops[0]) in OPERATORS:
            yield _with(node, ops=[OPERATORS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.IfExp):
        yield _with(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Constant):
        yield from _other_constants(node)
    elif isinstance(node, ast.Call):
        yield from _other_calls(node)


def _other_constants(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield ast.Constant(node.value + 1)
    elif isinstance(node.value, float):
        yield ast.Constant(2 * node.value if node.value else 1.0)


def _other_calls(node: ast.Call) -> Iterator[ast.AST]:
    name, args = _called(node), node.args
    plain = not any(isinstance(a, ast.Starred) for a in args)
    if name == "where" and len(args) == 3:
        yield _with(node, args=[args[0], args[2], args[1]])
    elif len(args) > 1 and plain and name not in SYMMETRIC and not _is_check(node):
        first, second, *rest = args
        if ast.dump(first) != ast.dump(second):
            yield _with(node, args=[second, first, *rest])
    if name in TWINS:
        func = copy.deepcopy(node.func)
        if isinstance(func, ast.Attribute):
            func.attr = TWINS[name]
            yield _with(node, func=func)
        elif name in ("max", "min", "all", "any"):
            yield _with(node, func=ast.Name(TWINS[name], ast.Load()))


def _called(node: ast.Call) -> str:
    func = node.func
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")


def _is_check(node: ast.Call) -> bool:
    return ast.unparse(node.func).startswith("check.")


def _is_text_or_list(node: ast.AST) -> bool:
    text = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return text or isinstance(node, ast.JoinedStr | ast.List | ast.Tuple)


def _is_type(node: ast.AST) -> bool:
    words = ast.unparse(node).split(".")[-1]
    return words in {"int", "float", "bool", "str", "list", "tuple", "dict", "None"} or (
        words[:1].isupper() and isinstance(node, ast.Name | ast.Attribute)
    )


def _with(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _spliced(source: str, node: ast.expr | ast.AugAssign, new: ast.AST) -> str:
    """Return the source with one node written anew; columns are counted in bytes."""
    lines = source.encode().splitlines(keepends=True)
    before = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    assert node.end_lineno is not None
    end = lines[node.end_lineno - 1][node.end_col_offset :]
    text = ast.unparse(ast.fix_missing_locations(new))
    if isinstance(new, ast.expr):
        text = f"({text})"
    return (before + text.encode() + end + b"".join(lines[node.end_lineno :])).decode()
