"""What programs compute: whether two do the same operations on the same numbers."""

from __future__ import annotations

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# What they hold could stand in their place.
CALLS = {"jit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2"}


def same_operations(one: ClosedJaxpr, other: ClosedJaxpr) -> bool:
    """Whether two programs are one but for order, repetition and what is moved out of scans.

    False where it isn't known.
    """
    graph = Graph()
    inputs = [graph.node("input", i) for i in range(len(one.jaxpr.invars))]
    return graph.outputs(one, inputs, 0) == graph.outputs(other, inputs, 0)


class Node:
    """What an operation returns; `depth` is that of the innermost scan whose steps change it."""

    def __init__(self, key, depth):
        self.key, self.depth = key, depth


class Graph:
    """All operations of some programs, each once."""

    def __init__(self):
        self.nodes = {}

    def node(self, *key, depth=None):
        if key not in self.nodes:
            of = [part.depth for part in jax.tree.leaves(key) if isinstance(part, Node)]
            self.nodes[key] = Node(key, max(of, default=0) if depth is None else depth)
        return self.nodes[key]

    def constant(self, value, kind=""):
        if jax.dtypes.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        return self.node("constant", kind, array.dtype.name, array.shape, array.tobytes())

    def outputs(self, program, inputs, depth):
        """Go through a program that stands in so many scans."""
        closed = isinstance(program, ClosedJaxpr)
        jaxpr = program.jaxpr if closed else program
        known = dict(zip(jaxpr.invars, inputs, strict=True))
        consts = map(self.constant, program.consts if closed else ())
        known |= zip(jaxpr.constvars, consts, strict=True)

        def read(atom):
            literal = isinstance(atom, Literal)
            return self.constant(atom.val, str(atom.aval)) if literal else known[atom]

        for equation in jaxpr.eqns:
            results = self.results(equation, [*map(read, equation.invars)], depth)
            known |= zip(equation.outvars, results, strict=True)
        return [*map(read, jaxpr.outvars)]

    def results(self, equation, inputs, depth):
        name, params = equation.primitive.name, equation.params
        if name == "scan":
            return self.scan(inputs, depth, **params)
        if name in CALLS:
            inner = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
            return self.outputs(inner, inputs, depth)
        if name == "optimization_barrier":
            return [self.node(name, one) for one in inputs]
        settings = tuple((key, self.setting(params[key], depth)) for key in sorted(params))
        whole = self.node(name, settings, tuple(inputs))
        return [self.node("result", whole, i) for i in range(len(equation.outvars))]

    def setting(self, value, depth):
        if isinstance(value, ClosedJaxpr | Jaxpr):
            count = len(getattr(value, "jaxpr", value).invars)
            inputs = [self.node("argument", depth, i, depth=depth + 1) for i in range(count)]
            return tuple(self.outputs(value, inputs, depth + 1))
        if isinstance(value, tuple | list):
            return tuple(self.setting(part, depth) for part in value)
        # What cannot be looked up is equal to nothing.
        return value if getattr(value, "__hash__", None) else object()

    def scan(self, inputs, depth, *, jaxpr, length, reverse, num_consts, num_carry, **_):
        end = num_consts + num_carry
        consts, init = inputs[:num_consts], inputs[num_consts:end]
        rows = [self.row(x, length, depth) for x in inputs[end:]]
        # What every step hands on as it is, is one with what the scan begins with.
        still, found = None, set()
        while found != still:
            still = found
            moving = [i for i in range(num_carry) if i not in still]
            carry = list(init)
            for place, i in enumerate(moving):
                carry[i] = self.node("carry", depth, place, init[i], depth=depth + 1)
            outs = self.outputs(jaxpr, [*consts, *carry, *rows], depth + 1)
            found = {i for i in range(num_carry) if outs[i] is carry[i]}
        steps = tuple((init[i], outs[i]) for i in moving)
        loop = self.node("scan", length, reverse, steps, depth=depth)
        ends = list(init)
        for place, i in enumerate(moving):
            ends[i] = self.node("end", loop, place)
        return ends + [self.stack(y, loop, length, depth) for y in outs[num_carry:]]

    def row(self, stacked, length, depth):
        """What a step reads of an array of what is for every step."""
        if stacked.key[:2] == ("copies", length):
            return stacked.key[2]
        return self.node("row", depth, stacked, depth=depth + 1)

    def stack(self, y, loop, length, depth):
        """What the steps write, side by side."""
        if y.depth <= depth:
            return self.node("copies", length, y)
        return self.node("stack", loop, y, depth=depth)
