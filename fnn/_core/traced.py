"""Equations of traced programs, for those who go through one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from fnn._core.types import Array, Unchecked


def alone(jaxpr: Jaxpr, equation: JaxprEqn) -> Callable[..., Sequence[Array]]:
    """Return one equation as a function of its operands.

    Args:
        jaxpr: the program that it is in.
        equation: one of its equations.
    """
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


def called(equation: JaxprEqn) -> Unchecked:
    """Return the program that an equation calls, a `ClosedJaxpr`, or None.

    Args:
        equation: of a traced program.
    """
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = equation.params.get(name)
        if isinstance(found, ClosedJaxpr):
            return found
        if isinstance(found, Jaxpr):
            return ClosedJaxpr(found, ())
    return None


def carried(loop: JaxprEqn) -> tuple[int, int]:
    """Return at which of the operands of a `scan` the carry begins, and at which the rows.

    Releases of JAX name the counts otherwise; what is no row has as many axes inside as outside.

    Args:
        loop: the equation.

    >>> import jax, jax.numpy as jnp
    >>> total = lambda x: jax.lax.scan(lambda c, row: (c + x[0] * row, row), 0.0, x)
    >>> (loop,) = (e for e in jax.make_jaxpr(total)(jnp.ones(3)).eqns if e.primitive.name == "scan")
    >>> carried(loop)
    (1, 2)
    """
    body = called(loop)
    rows = sum(map(_of_same_rank, loop.invars, body.jaxpr.invars))
    return rows - sum(map(_of_same_rank, loop.outvars, body.jaxpr.outvars)), rows


def _of_same_rank(outside: Unchecked, inside: Unchecked) -> bool:
    return len(outside.aval.shape) == len(inside.aval.shape)
