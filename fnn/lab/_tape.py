"""A traced function run operation by operation, each result being a node of the graph.

A second run adds a zero, the probe, to every result: the derivative of the value in the probes is
that in the nodes, all of them in one backward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from fnn._core.types import Array, PyTree, Unchecked

# What changes the form of an array and not its values, and nobody draws.
_HIDDEN = {
    "broadcast_in_dim", "convert_element_type", "copy", "copy_p", "device_put", "expand_dims",
    "optimization_barrier", "pvary", "reshape", "sharding_constraint", "squeeze", "stop_gradient",
}  # fmt: skip
_CALLS = {"closed_call", "core_call", "jit", "pjit", "checkpoint", "remat", "remat2"}
_CUSTOM = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
# Functions of jax.nn and jax.numpy that are one operation to a reader.
_NAMED = {
    "relu", "relu6", "sigmoid", "silu", "gelu", "softplus", "softmax", "log_softmax", "logsumexp",
    "elu", "selu", "leaky_relu", "mish", "hard_tanh", "norm", "mean", "var", "std",
}  # fmt: skip
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# A loop of more turns is one node.
_UNROLLED = 8


class Step(NamedTuple):
    """One operation: its node, what it is called, where its operands come from, and its results.

    `operands` are the nodes of the operands, None for a constant; `inputs` are their values.
    """

    node: str
    name: str
    operands: tuple[str | None, ...]
    inputs: tuple[Array, ...]
    results: tuple[Array, ...]
    run: Callable[..., Sequence[Array]]


class _Value(NamedTuple):
    """A value on its way, and the node that it comes from."""

    array: Unchecked
    node: str | None


class Tape:
    """The run of a traced function, from `jax.make_jaxpr`, whose calls are opened or kept.

    Args:
        traced: the function.
        kept: says of the name of a call whether it is one node.
    """

    def __init__(self, traced: ClosedJaxpr, kept: Callable[[str], bool]):
        self._traced, self._kept = traced, kept

    def record(self, values: Sequence[Array], nodes: Sequence[str]) -> tuple[list[Step], str]:
        """Run it on values that are nodes themselves; return the steps and the node of the value.

        Args:
            values: one for each input.
            nodes: what they are called.
        """
        steps: list[Step] = []
        (root,) = self._run(values, nodes, steps.append, {})
        return steps, root.node or ""

    def value(
        self, probes: dict[str, list[Array]], values: Sequence[Array], nodes: Sequence[str]
    ) -> Array:
        """Return the value with the probes of each node added to its results.

        Args:
            probes: arrays like the results of each node.
            values: one for each input.
            nodes: what they are called.
        """
        (root,) = self._run(values, nodes, lambda step: None, probes)
        found: Array = root.array
        return found

    def _run(
        self,
        values: Sequence[Array],
        nodes: Sequence[str],
        note: Callable[[Step], None],
        probes: dict[str, list[Array]],
    ) -> list[_Value]:
        numbers = itertools.count()
        player = _Player(self._kept, note, probes, numbers)
        inputs = [_Value(*pair) for pair in zip(values, nodes, strict=True)]
        return player.play(self._traced.jaxpr, self._traced.consts, inputs)


class _Player(NamedTuple):
    """What goes through the equations of a program: its settings are those of the tape."""

    kept: Callable[[str], bool]
    note: Callable[[Step], None]
    probes: dict[str, list[Array]]
    numbers: Iterator[int]

    def play(
        self, jaxpr: Jaxpr, constants: Sequence[Array], inputs: Sequence[_Value]
    ) -> list[_Value]:
        """Return the outputs of a program."""
        known: dict[Unchecked, _Value] = {}
        known |= {v: _Value(c, None) for v, c in zip(jaxpr.constvars, constants, strict=True)}
        known |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Unchecked) -> _Value:
            return _Value(atom.val, None) if isinstance(atom, Literal) else known[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            results = self.equation(equation, operands, _alone(jaxpr, equation))
            known |= dict(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(
        self,
        equation: JaxprEqn,
        operands: list[_Value],
        run: Callable[..., Sequence[Array]],
    ) -> list[_Value]:
        """Return the results of one equation: opened, hidden, or a node."""
        primitive = equation.primitive.name
        name = str(equation.params.get("name") or primitive)
        if primitive == "integer_pow":
            name = "x" + str(equation.params["y"]).translate(_SUPERSCRIPT)
        inside = _inside(equation)
        if inside is not None and not self._is_node(name) and _opens(primitive, inside):
            return self.play(inside.jaxpr, inside.consts, operands)
        if primitive == "scan" and equation.params["length"] <= _UNROLLED:
            return self.loop(equation, operands)
        if all(operand.node is None for operand in operands):
            return [_Value(result, None) for result in run(*_arrays(operands))]
        if primitive in _HIDDEN:
            (result,) = run(*_arrays(operands))
            return [_Value(result, operands[0].node)]
        return self.node(name, operands, run)

    def _is_node(self, name: str) -> bool:
        return name in _NAMED or self.kept(name)

    def node(
        self, name: str, operands: list[_Value], run: Callable[..., Sequence[Array]]
    ) -> list[_Value]:
        """Return the results of an operation as those of a new node."""
        inputs = _arrays(operands)
        results = list(run(*inputs))
        node = f"{name}#{next(self.numbers)}"
        sources = tuple(operand.node for operand in operands)
        self.note(Step(node, name, sources, tuple(inputs), tuple(results), run))
        if node in self.probes:
            pairs = zip(results, self.probes[node], strict=True)
            results = [r + probe if _is_floating(r) else r for r, probe in pairs]
        return [_Value(result, node) for result in results]

    def loop(self, equation: JaxprEqn, operands: list[_Value]) -> list[_Value]:
        """Return the results of a loop, turn after turn."""
        settings = equation.params
        first, second = settings["num_consts"], settings["num_consts"] + settings["num_carry"]
        constants, carry, rows = operands[:first], operands[first:second], operands[second:]
        turns: list[list[_Value]] = []
        steps = range(settings["length"])
        for i in reversed(steps) if settings["reverse"] else steps:
            row = [_Value(value.array[i], value.node) for value in rows]
            body = settings["jaxpr"]
            results = self.play(body.jaxpr, body.consts, [*constants, *carry, *row])
            carry, turn = results[: len(carry)], results[len(carry) :]
            turns.append(turn)
        turns = turns[::-1] if settings["reverse"] else turns
        return [*carry, *(self.stack(list(column)) for column in zip(*turns, strict=True))]

    def stack(self, column: list[_Value]) -> _Value:
        """Return the rows of all turns as one array."""
        if all(value.node is None for value in column):
            return _Value(jnp.stack(_arrays(column)), None)
        return self.node("stack", column, lambda *rows: [jnp.stack(rows)])[0]


def _inside(equation: JaxprEqn) -> ClosedJaxpr | None:
    """Return the program that an equation calls."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = equation.params.get(name)
        if isinstance(found, ClosedJaxpr):
            return found
        if isinstance(found, Jaxpr):
            return ClosedJaxpr(found, ())
    return None


def _opens(primitive: str, inside: ClosedJaxpr) -> bool:
    """Say whether what an equation calls is shown: not where it has a derivative of its own.

    Unless that is a name around a call.
    """
    only_calls = [e.primitive.name in _CALLS for e in inside.jaxpr.eqns] == [True]
    return primitive in _CALLS or (primitive in _CUSTOM and only_calls)


def _alone(jaxpr: Jaxpr, equation: JaxprEqn) -> Callable[..., Sequence[Array]]:
    """Return one equation as a function of its operands."""
    invars = list(dict.fromkeys(v for v in equation.invars if not isinstance(v, Literal)))
    program = jaxpr.replace(
        constvars=[], invars=invars, outvars=list(equation.outvars), eqns=[equation]
    )
    function = jaxpr_as_fun(ClosedJaxpr(program, ()))

    def run(*operands: Array) -> Sequence[Array]:
        pairs = zip(equation.invars, operands, strict=True)
        known = {v: operand for v, operand in pairs if not isinstance(v, Literal)}
        results: Sequence[Array] = function(*(known[v] for v in invars))
        return results

    return run


def _arrays(values: Sequence[_Value]) -> list[Array]:
    return [value.array for value in values]


def _is_floating(array: Array) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def probes_of(steps: Sequence[Step]) -> dict[str, PyTree]:
    """Return a zero for every result of every step, by its node."""
    return {
        step.node: [jnp.zeros_like(a) if _is_floating(a) else jnp.zeros(()) for a in step.results]
        for step in steps
    }
