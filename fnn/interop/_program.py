"""A traced program in fewer words, for those who know few of the operations of JAX.

Calls are opened, and what no output needs is left out. A loop from the last row to the first is one
from the first to the last of turned rows, what is padded is joined with the padding, and a
remainder of integers computed of the quotient. Of what is written for several platforms the one for
all others is taken. Every output is a value of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from fnn._core.mesh import scan
from fnn._core.traced import alone, called, carried
from fnn._core.types import Array, Input, Output, Params, State, Unchecked
from fnn.combinators.walk import map_layers
from fnn.layer import Layer

_CALLS = {
    "checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr", "jit", "pjit", "remat", "remat2",
}  # fmt: skip
# How the name of a call begins that is a layer, behind it its path and its name.
_LAYER = "layer:"


class Operation(NamedTuple):
    """One operation: its primitive, the path and the name of its layer, and how it is run alone.

    Args:
        primitive: its name.
        path: that of the layer.
        layer: the name of the layer.
        run: computes the results of the operands.
        operands: what it was run on: constants, and the shapes of all else.
    """

    primitive: str
    path: str
    layer: str
    run: Callable[..., Sequence[Unchecked]]
    operands: list[Unchecked]


Note: TypeAlias = Callable[[Operation], None]


def plain_model(model: Layer) -> Layer:
    """Return a model of the plain formulas of its layers, each a call with a name.

    Args:
        model: any layer or model.
    """
    return map_layers(_plain_layer, model)


def _plain_layer(path: str, layer: Layer) -> Layer:
    by_hand = layer.manual
    apply = layer.plain if by_hand is None else plain_model(by_hand).apply

    def named(params: Params, state: State, x: Input) -> tuple[Output, State]:
        return apply(params, state, x)

    named.__name__ = f"{_LAYER}{path}|{layer.name}"
    called = jax.jit(named)

    def evaluated(
        params: Params, state: State, x: Input, /, *, key: Unchecked = None, train: bool = False
    ) -> tuple[Output, State]:
        del key, train
        return called(params, state, x)

    return Layer(layer.init, evaluated, layer.forward, layer.backward)


def simplified(
    traced: ClosedJaxpr, note: Note = lambda operation: None
) -> Callable[..., list[Unchecked]]:
    """Return the function that a program computes, of fewer operations.

    Args:
        traced: the program, from `jax.make_jaxpr`.
        note: is told every operation that is run, a loop after those inside.

    >>> traced = jax.make_jaxpr(jax.jit(lambda x: (2 * x, jnp.sin(x))[0]))(1.0)
    >>> [e.primitive.name for e in jax.make_jaxpr(simplified(traced))(1.0).eqns]
    ['mul']
    """

    def run(*inputs: Unchecked) -> list[Unchecked]:
        wanted = [True] * len(traced.jaxpr.outvars)
        taken: list[Unchecked] = list(inputs)
        for output in _Player(note, "", "").play(traced, inputs, wanted):
            known = not isinstance(output, jax.core.Tracer) or any(output is one for one in taken)
            taken.append(jax.lax.optimization_barrier(output) if known else output)
        return taken[len(inputs) :]

    return run


class _Player(NamedTuple):
    """What goes through the equations of a program, and the layer that it is in."""

    note: Note
    path: str
    layer: str

    def play(
        self, program: ClosedJaxpr, inputs: Sequence[Unchecked], wanted: Sequence[bool]
    ) -> list[Unchecked]:
        """Return the outputs of a program, and None for those that nobody wants."""
        jaxpr = program.jaxpr
        known: dict[Unchecked, Unchecked] = dict(zip(jaxpr.constvars, program.consts, strict=True))
        known |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Unchecked) -> Unchecked:
            return atom.val if isinstance(atom, Literal) else known[atom]

        for equation, used in _needed(jaxpr, wanted):
            results = self.equation(jaxpr, equation, [read(atom) for atom in equation.invars], used)
            known |= dict(zip(equation.outvars, results, strict=True))
        pairs = zip(jaxpr.outvars, wanted, strict=True)
        return [read(atom) if want else None for atom, want in pairs]

    def equation(
        self, jaxpr: Jaxpr, equation: JaxprEqn, operands: list[Unchecked], wanted: list[bool]
    ) -> list[Unchecked]:
        """Return the results of one equation: opened, or run."""
        primitive, settings = equation.primitive.name, equation.params
        if primitive in _CALLS:
            return self._inside(str(settings.get("name"))).play(called(equation), operands, wanted)
        platforms = settings.get("branches_platforms")
        if platforms is not None:
            chosen = platforms.index(None) if None in platforms else -1
            return self.play(settings["branches"][chosen], operands[1:], wanted)
        if primitive == "platform_index":
            # Read by nobody: the branch is chosen.
            return [0]
        if primitive == "scan":
            return self.loop(equation, operands, wanted)
        if primitive == "pad" and all(
            min(one) >= 0 == one[2] for one in settings["padding_config"]
        ):
            return [_padded(operands[0], operands[1], settings["padding_config"])]
        if primitive == "rem" and jnp.issubdtype(operands[0].dtype, jnp.integer):
            x, divisor = operands
            return [x - jax.lax.div(x, divisor) * divisor]

        run = alone(jaxpr, equation)
        self.note(Operation(primitive, self.path, self.layer, run, list(map(_shape, operands))))
        return list(run(*operands))

    def loop(
        self, equation: JaxprEqn, operands: list[Unchecked], wanted: list[bool]
    ) -> list[Unchecked]:
        """Return the results of a loop over rows, run from the first to the last."""
        settings, body, (first, second) = equation.params, called(equation), carried(equation)
        constants, carry, rows = operands[:first], operands[first:second], operands[second:]
        inside = [True] * len(carry) + wanted[len(carry) :]

        def ordered(row: Unchecked) -> Unchecked:
            return jnp.flip(row, 0) if settings["reverse"] else row

        def turn(
            carry: list[Unchecked], row: list[Unchecked]
        ) -> tuple[list[Unchecked], list[Unchecked]]:
            results = self.play(body, [*constants, *carry, *row], inside)
            return results[: len(carry)], results[len(carry) :]

        # Rows in a list whose entries that nobody wants are None: no leaves.
        carry, columns = scan(
            turn, carry, [ordered(row) for row in rows], length=settings["length"]
        )
        return [*carry, *(None if column is None else ordered(column) for column in columns)]

    def _inside(self, name: str) -> _Player:
        if not name.startswith(_LAYER):
            return self
        path, _, layer = name.removeprefix(_LAYER).partition("|")
        return self._replace(path="/".join(filter(None, (self.path, path))), layer=layer)


def _padded(x: Array, value: Array, padding: Sequence[tuple[int, int, int]]) -> Array:
    """Return an array with a value before and behind it, along every axis."""
    for axis, (before, behind, _) in enumerate(padding):
        sizes = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in (before, behind)]
        first, last = (jnp.broadcast_to(value, size) for size in sizes)
        parts = [*([first] if before else []), x, *([last] if behind else [])]
        x = jnp.concatenate(parts, axis) if len(parts) > 1 else x
    return x


def _shape(operand: Unchecked) -> Unchecked:
    """Return the shape of what is traced, a constant as it is."""
    if isinstance(operand, jax.core.Tracer):
        return jax.ShapeDtypeStruct(operand.shape, operand.dtype)
    return operand


def _needed(jaxpr: Jaxpr, wanted: Sequence[bool]) -> list[tuple[JaxprEqn, list[bool]]]:
    """Return the equations that some output needs, and which of their results."""
    pairs = zip(jaxpr.outvars, wanted, strict=True)
    live = {atom for atom, want in pairs if want and not isinstance(atom, Literal)}
    found = []
    for equation in reversed(jaxpr.eqns):
        used = [result in live for result in equation.outvars]
        if any(used):
            found.append((equation, used))
            live |= {atom for atom in equation.invars if not isinstance(atom, Literal)}
    return found[::-1]
