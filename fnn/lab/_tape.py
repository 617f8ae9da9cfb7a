"""A traced function run operation by operation, each result being a node of the graph.

A second run adds a zero, the probe, to every result, and to every node once more where an operation
reads it: the derivatives of the value in the probes are those in the nodes and what comes back
along each edge, all of them in one backward pass.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from fnn._core.traced import alone, called, carried
from fnn._core.types import Array, Unchecked

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
# How the name of a call begins that is a layer, with its path, or a loss.
LAYER, LOSS = "layer:", "loss:|"
# What turns the logarithm of a softmax into the negative log-likelihood of a target.
_PICKS = {"mul", "neg", "reduce_sum", "mean", "div", "gather", "take_along_axis", "dot_general"}


class Operand(NamedTuple):
    """What an operation reads: the node, None of a constant, its results, and the value read.

    `key` is that of the probe that is added to the node's results on this way alone.
    """

    node: str | None
    results: tuple[Array, ...]
    value: Array
    key: str


class Step(NamedTuple):
    """One operation: its node, what it is called, its operands and its results.

    `run` computes the results of the operands; it is None of several operations folded into one.
    """

    node: str
    name: str
    operands: tuple[Operand, ...]
    results: tuple[Array, ...]
    run: Callable[..., Sequence[Array]] | None

    @property
    def sources(self) -> list[str]:
        """The nodes that it reads."""
        return [operand.node for operand in self.operands if operand.node is not None]


class _Value(NamedTuple):
    """A value on its way, the node that it comes from, and how it is made of that one's results."""

    array: Unchecked
    node: str | None = None
    results: tuple[Unchecked, ...] = ()
    read: Callable[[Sequence[Unchecked]], Unchecked] | None = None

    def then(self, function: Callable[[Unchecked], Unchecked]) -> _Value:
        """Return what a function that nobody draws makes of it."""
        before = self.read
        if before is None:
            return _Value(function(self.array))
        return self._replace(
            array=function(self.array), read=lambda results: function(before(results))
        )

    def probed(self, probe: Sequence[Array]) -> Unchecked:
        """Return the value where a probe is added to the results of its node."""
        pairs = zip(self.results, probe, strict=True)
        results = [r + zero if _is_floating(r) else r for r, zero in pairs]
        return self.array if self.read is None else self.read(results)


class Tape:
    """The run of a traced function, from `jax.make_jaxpr`, whose calls are opened or kept.

    Args:
        traced: the function.
        kept: says of the name of a call whether it is one node.
        unrolled: how many turns of a loop are drawn one by one; a longer one is a node.
    """

    def __init__(self, traced: ClosedJaxpr, kept: Callable[[str], bool], unrolled: int = _UNROLLED):
        self._traced, self._kept, self._unrolled = traced, kept, unrolled

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
            probes: arrays like the results of each node, by its name; and of what operations read,
                by the key of the operand.
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
        player = _Player(self._kept, note, probes, numbers, self._unrolled)
        inputs = [
            _Value(value, node, (value,), lambda results: results[0])
            for value, node in zip(values, nodes, strict=True)
        ]
        return player.play(self._traced.jaxpr, self._traced.consts, inputs)


class _Player(NamedTuple):
    """What goes through the equations of a program: its settings are those of the tape."""

    kept: Callable[[str], bool]
    note: Callable[[Step], None]
    probes: dict[str, list[Array]]
    numbers: Iterator[int]
    unrolled: int

    def play(
        self, jaxpr: Jaxpr, constants: Sequence[Array], inputs: Sequence[_Value]
    ) -> list[_Value]:
        """Return the outputs of a program."""
        known: dict[Unchecked, _Value] = {}
        known |= {v: _Value(c) for v, c in zip(jaxpr.constvars, constants, strict=True)}
        known |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Unchecked) -> _Value:
            return _Value(atom.val) if isinstance(atom, Literal) else known[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            results = self.equation(equation, operands, alone(jaxpr, equation))
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
        inside = called(equation)
        if inside is not None and not self._is_node(name) and _opens(primitive, inside):
            return self.play(inside.jaxpr, inside.consts, operands)
        if primitive == "scan" and equation.params["length"] <= self.unrolled:
            return self.loop(equation, operands)
        if all(operand.node is None for operand in operands):
            return [_Value(result) for result in run(*_arrays(operands))]
        if primitive in _HIDDEN:
            _, *others = _arrays(operands)

            def hidden(first: Array) -> Array:
                return run(first, *others)[0]

            return [operands[0].then(hidden)]
        if _is_index(equation, operands):
            one = next(operand for operand in operands if operand.node is not None)
            return [one._replace(array=a, read=_always(a)) for a in run(*_arrays(operands))]
        return self.node(name, operands, run)

    def _is_node(self, name: str) -> bool:
        return name in _NAMED or self.kept(name)

    def node(
        self, name: str, operands: list[_Value], run: Callable[..., Sequence[Array]]
    ) -> list[_Value]:
        """Return the results of an operation as those of a new node."""
        node = f"{name}#{next(self.numbers)}"
        keys = [f"{node}<{i}" for i in range(len(operands))]
        inputs = [
            operand.probed(self.probes[key]) if key in self.probes else operand.array
            for key, operand in zip(keys, operands, strict=True)
        ]
        results = list(run(*inputs))
        reads = [
            Operand(operand.node, operand.results, operand.array, key)
            for key, operand in zip(keys, operands, strict=True)
        ]
        self.note(Step(node, name, tuple(reads), tuple(results), run))
        if node in self.probes:
            pairs = zip(results, self.probes[node], strict=True)
            results = [r + probe if _is_floating(r) else r for r, probe in pairs]
        return [
            _Value(result, node, tuple(results), operator.itemgetter(i))
            for i, result in enumerate(results)
        ]

    def loop(self, equation: JaxprEqn, operands: list[_Value]) -> list[_Value]:
        """Return the results of a loop, turn after turn."""
        settings, body, (first, second) = equation.params, called(equation), carried(equation)
        constants, carry, rows = operands[:first], operands[first:second], operands[second:]
        turns: list[list[_Value]] = []
        steps = range(settings["length"])
        for i in reversed(steps) if settings["reverse"] else steps:
            row = [value.then(operator.itemgetter(i)) for value in rows]
            results = self.play(body.jaxpr, body.consts, [*constants, *carry, *row])
            carry, turn = results[: len(carry)], results[len(carry) :]
            turns.append(turn)
        turns = turns[::-1] if settings["reverse"] else turns
        return [*carry, *(self.stack(list(column)) for column in zip(*turns, strict=True))]

    def stack(self, column: list[_Value]) -> _Value:
        """Return the rows of all turns as one array."""
        if all(value.node is None for value in column):
            return _Value(jnp.stack(_arrays(column)))
        return self.node("stack", column, lambda *rows: [jnp.stack(rows)])[0]


def _opens(primitive: str, inside: ClosedJaxpr) -> bool:
    """Say whether what an equation calls is shown: not where it has a derivative of its own.

    Unless that is a name around a call.
    """
    only_calls = [e.primitive.name in _CALLS for e in inside.jaxpr.eqns] == [True]
    return primitive in _CALLS or (primitive in _CUSTOM and only_calls)


def _arrays(values: Sequence[_Value]) -> list[Array]:
    return [value.array for value in values]


def _is_floating(array: Array) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def _always(array: Array) -> Callable[[Sequence[Array]], Array]:
    return lambda results: array


def _is_index(equation: JaxprEqn, operands: Sequence[_Value]) -> bool:
    """Say whether an operation counts with integers of one node, as what picks entries does."""
    known = [operand for operand in operands if operand.node is not None]
    arrays = [value.array for value in known] + [var.aval for var in equation.outvars]
    one = len({operand.node for operand in known}) == 1
    return one and not any(map(_is_floating, arrays))


def fold_likelihood(steps: list[Step]) -> list[Step]:
    """Return the steps with log-softmax, and what picks and sums the target's, as one loss.

    Only where nothing else reads what is between, and the sum is negated.
    """
    for first in [step for step in steps if step.name in ("log_softmax", "softmax")]:
        chain = [first]
        while len(users := [s for s in steps if chain[-1].node in s.sources]) == 1:
            logarithm = chain == [first] and first.name == "softmax"
            if users[0].name not in ({"log"} if logarithm else _PICKS):
                break
            chain += users
        scalars = [i for i, step in enumerate(chain) if step.results[0].ndim == 0]
        chain = chain[: max(scalars, default=-1) + 1]
        if "neg" in {step.name for step in chain}:
            inside = {step.node for step in chain}
            operands = [o for step in chain for o in step.operands if o.node not in inside]
            known = tuple(o for o in operands if o.node is not None)
            last = chain[-1]
            one = Step(last.node, f"{LOSS}softmax + NLL", known, last.results, None)
            steps = [one if s is last else s for s in steps if s is last or s.node not in inside]
    return steps
