"""Files for where neither fnn nor JAX is: ONNX, which runtimes of many languages run."""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from fnn._core import check
from fnn._core.arrays import require_arrays
from fnn._core.atomic_write import atomic_write, check_file
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.keys import is_key
from fnn._core.place import check_place
from fnn._core.types import Array, Input, Output, Params, PyTree, State, Unchecked
from fnn.interop._by_path import by_path, of_path, repeated, shapes_of
from fnn.interop._program import Operation, plain_model, simplified
from fnn.lab.tolerance import rounding
from fnn.layer import Layer, output_shape, require_layer

# What the format of the file, protobuf, is read up to.
_MOST = 2**31
_ELSEWHERE = "export it as StableHLO with fnn.export_forward"
_AT_ONE_SIZE = "pass any_batch=False to export it for the size of the example alone"


@entry
def export_onnx(
    file: Path | str,
    model: Layer,
    params: Params,
    state: State,
    x: Input,
    *,
    any_batch: bool = True,
) -> None:
    """Write a model out of training as ONNX, parameters and all, in one file.

    Written are the plain formulas of its layers, through jax2onnx: where a layer of fnn has another
    algorithm for CPUs, a runtime has its own. The file has been run by ONNX Runtime on the example,
    and with `any_batch` on it twice, and gave what the model gives. It is served so::

        session = onnxruntime.InferenceSession("model.onnx")
        (y,) = session.run(["y"], {"x": x})

    Inputs and outputs are called ``x`` and ``y`` where that is one array; of a tree every array has
    its path behind it, as in ``x/values``.

    Args:
        file: where to; its folder must exist.
        model: any layer.
        params: its parameters.
        state: what its layers remember.
        x: an example input (B, ...): an array, or a tree.
        any_batch: whether the file takes batches of any size, and not of B alone.
    Raises:    ImportError without the extra ``onnx``; InputError for parameters of another model,
        an operation of JAX that jax2onnx lacks, with the path of its layer, a model of which ONNX
        Runtime gives another y, one of 2 GiB or more, and a file that cannot be written to; OSError
        where writing fails.

    >>> import fnn
    >>> export_onnx("model.onnx", fnn.dense(2), (), (), jnp.ones((4, 3)))
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn.export_onnx: expected params as layer.init makes them for \
    this x, got nothing at bias, where float32 of shape (2,) should be; pass those of this model

    """
    check_file(file)
    require_layer(model)
    x = require_arrays(x)
    check_place(model, params, state, x)
    check.flag(any_batch, "any_batch")
    require("jax2onnx", "export_onnx", "onnx")
    params, state, x = jax.tree.map(jnp.asarray, (params, state, x))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((params, state)) if not is_key(leaf))
    if size >= _MOST:
        raise InputError("a model below 2 GiB", f"parameters of {size} bytes", _ELSEWHERE)
    written = _file_of(model, params, state, x, any_batch)
    with atomic_write(file) as temporary:
        temporary.write_bytes(written)


def _file_of(model: Layer, params: Params, state: State, x: Input, any_batch: bool) -> bytes:
    """Return the file, which has been run."""
    y = by_path(output_shape(model, params, state, x))
    named = by_path(x)
    names = _names("x", named), _names("y", y)
    plain = functools.partial(_leaves, plain_model(model).apply, params, state, x)
    traced = _traced(plain, named, any_batch)
    try:
        written = _converted(simplified(traced), _shapes(traced), names)
        run = _loaded(written, names)
    except Exception as error:
        fixed = _traced(plain, named, False)
        at_one_size = any_batch and _error(simplified(fixed), _shapes(fixed)) is None
        raise _complaint(traced, error, _AT_ONE_SIZE if at_one_size else _ELSEWHERE) from error
    terms = sum(leaf.size for leaf in jax.tree.leaves((params, named, y)))
    for times in (1, 2) if any_batch else (1,):
        inputs = jax.tree.leaves(repeated(named, times))
        right = jax.jit(functools.partial(_leaves, model.apply, params, state, x))(*inputs)
        try:
            found = run(inputs)
        except Exception as error:
            remedy = _AT_ONE_SIZE if times == 2 else _ELSEWHERE
            raise InputError("a file that ONNX Runtime runs", _words(error), remedy) from error
        _compare(found, right, terms)
    return written


def _leaves(
    apply: Callable[..., tuple[Output, State]],
    params: Params,
    state: State,
    like: Input,
    *leaves: Array,
) -> list[Array]:
    """Return the arrays of y, of those of x, in the order of their names."""
    x = of_path(like, jax.tree.unflatten(jax.tree.structure(by_path(like)), leaves))
    found: list[Array] = jax.tree.leaves(by_path(apply(params, state, x)[0]))
    return found


def _traced(function: Callable[..., list[Array]], named: PyTree, any_batch: bool) -> ClosedJaxpr:
    """Return the program of a function of the arrays of x."""
    try:
        return jax.make_jaxpr(function)(*jax.tree.leaves(shapes_of(named, any_batch)))
    except InputError:
        raise
    except Exception as error:
        if not any_batch:
            raise
        raise InputError("a program for any batch size", _words(error), _AT_ONE_SIZE) from error


def _names(root: str, named: PyTree) -> list[str]:
    """Return the names of the arrays that `by_path` made, in the order of JAX."""
    return [f"{root}/{name}" for name in sorted(named)] if isinstance(named, dict) else [root]


def _converted(
    function: Callable[..., Sequence[Array]],
    shapes: Sequence[jax.ShapeDtypeStruct],
    names: tuple[list[str], list[str]] | None = None,
) -> bytes:
    """Return a function as an ONNX file."""
    convert = require("jax2onnx", "export_onnx", "onnx").to_onnx
    wide = any(shape.dtype == jnp.float64 for shape in shapes)
    inputs, outputs = names or (None, None)
    with _alone():
        made = convert(
            jaxpr_as_fun(jax.make_jaxpr(function)(*shapes)),
            shapes,
            model_name="fnn",
            enable_double_precision=wide,
            input_names=inputs,
            output_names=outputs,
            return_mode="ir",
        )
        _tidy(made)
        return bytes(require("onnx_ir", "export_onnx", "onnx").to_proto(made).SerializeToString())


def _tidy(made: Unchecked) -> None:
    """Remove constants that nothing reads: a runtime warns of each whenever it loads the file."""
    for graph in made.graphs():
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del graph.initializers[name]


def _loaded(
    written: bytes, names: tuple[list[str], list[str]] | None = None
) -> Callable[[Sequence[Array]], list[np.ndarray]]:
    """Return what ONNX Runtime makes of a file: a function of the inputs."""
    runtime = require("onnxruntime", "export_onnx", "onnx")
    options = runtime.SessionOptions()
    # Nothing but what ends the process: all else is raised too.
    options.log_severity_level = 4
    session = runtime.InferenceSession(written, options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Array]) -> list[np.ndarray]:
        ins, outs = names or ([], [])
        found: list[np.ndarray] = session.run(
            outs, {name: np.asarray(a) for name, a in zip(ins, inputs, strict=True)}
        )
        return found

    return run


@contextmanager
def _alone() -> Iterator[None]:
    """Keep from all else what a conversion does to its process.

    What is no error stays off the screen, and `logging.info` sets up no handler. jax2onnx puts
    functions of its own in the place of those of JAX while it traces, and leaves some there.
    """
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    modules = [m for name, m in sys.modules.items() if re.fullmatch(r"jax(\.[a-z]\w*)*", name)]
    before = [(module, name, one) for module in modules for name, one in vars(module).items()]
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for module, name, value in before:
            if vars(module).get(name, before) is not value:
                setattr(module, name, value)


def _shapes(traced: ClosedJaxpr) -> list[jax.ShapeDtypeStruct]:
    """Return the shapes that a program was traced with."""
    return [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in traced.in_avals]


def _complaint(traced: ClosedJaxpr, error: Exception, remedy: str) -> InputError:
    """Return what is said where the conversion fails: the layer and the operation at fault."""
    operations: list[Operation] = []
    shapes = _shapes(traced)
    jax.eval_shape(simplified(traced, operations.append), *shapes)
    for operation in operations:
        reason = _fault(operation, shapes)
        if reason is not None:
            got = f"{operation.primitive} of {operation.layer or 'the model'} ({_words(reason)})"
            told = InputError("operations that jax2onnx knows", got, remedy)
            told.path = (operation.path,) if operation.path else ()
            return told
    return InputError("a model that jax2onnx can convert", _words(error), remedy)


def _fault(operation: Operation, x: Sequence[jax.ShapeDtypeStruct]) -> Exception | None:
    """Return what is wrong where one operation is converted by itself, for an x of such shapes."""
    operands = operation.operands
    shapes = [one for one in operands if isinstance(one, jax.ShapeDtypeStruct)]

    def function(*given: Array) -> Sequence[Array]:
        rest = iter(given)
        return operation.run(
            *(next(rest) if isinstance(one, jax.ShapeDtypeStruct) else one for one in operands)
        )

    return _error(function, [*shapes, *x])


def _error(
    function: Callable[..., Sequence[Array]], shapes: Sequence[jax.ShapeDtypeStruct]
) -> Exception | None:
    """Return what is wrong where a function is converted, None where nothing is."""
    try:
        _loaded(_converted(function, shapes))
    except Exception as error:
        return error
    return None


def _words(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def _compare(found: Sequence[np.ndarray], expected: Sequence[Array], terms: int) -> None:
    """Raise unless ONNX Runtime gave what the model gives, up to the rounding of its sums."""
    for given, right in zip(found, map(np.asarray, expected), strict=True):
        bound = 0.0
        if jnp.issubdtype(right.dtype, jnp.floating):
            scale = np.abs(right, where=np.isfinite(right), out=np.zeros_like(right))
            bound = rounding(right.dtype, terms) * float(scale.max(initial=0))
        same = given.shape == right.shape and given.dtype == right.dtype
        if not same or not np.allclose(given, right, rtol=0, atol=bound, equal_nan=True):
            apart = f", {_apart(given, right):.3g} apart" if same else ""
            got = f"{describe(given)} for {describe(right)}{apart}"
            raise InputError("the y of the model from ONNX Runtime too", got, _ELSEWHERE)


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of two arrays, of what is finite in both."""
    finite = np.isfinite(one) & np.isfinite(other)
    return float(np.abs(one[finite].astype(float) - other[finite]).max(initial=0))
