"""The unit of everything: a layer is four pure functions.

A layer is a node of the computation graph that can go forwards and backwards::

    init     :: (key, x)                                       -> params, state
    apply    :: (params, state, x, *, key=None, train=False)   -> y, state
    forward  :: (params, state, x, *, key=None, train=False)   -> y, state, residuals
    backward :: (params, residuals, dy)                        -> dparams, dx

`init` and `apply` are what a user writes and calls; `forward` and `backward` are the gradient
derived by hand. `backward` is the exact vector-Jacobian product of `apply`, for any cotangent
``dy``. Residuals are what forward saves for backward, a pytree of arrays and nothing else: a mode
(training or not) is told by the structure of the tree, since a Python flag would turn into a
traced value inside `jax.lax.scan`. `state` is what a layer remembers between steps, ``()`` for
most. x and y are arrays or trees of them; the cotangent of an array of integers or booleans is
None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.origin import Made, constructor

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array | None
PyTree: TypeAlias = Any


class Init(Protocol):
    """``(key, x) -> params, state``; `x` is an array or a `jax.ShapeDtypeStruct`."""

    def __call__(self, key: Array, x: Any, /) -> tuple[PyTree, PyTree]: ...


class Apply(Protocol):
    """``(params, state, x, *, key=None, train=False) -> y, state``."""

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        x: Any,
        /,
        *,
        key: Key = None,
        train: bool = False,
    ) -> tuple[Any, PyTree]: ...


class Forward(Protocol):
    """``(params, state, x, *, key=None, train=False) -> y, state, residuals``."""

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        x: Any,
        /,
        *,
        key: Key = None,
        train: bool = False,
    ) -> tuple[Any, PyTree, PyTree]: ...


class Backward(Protocol):
    """``(params, residuals, dy) -> dparams, dx``: the vector-Jacobian product of `Apply`."""

    def __call__(self, params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]: ...


class _Functions(NamedTuple):
    init: Init
    apply: Apply
    forward: Forward
    backward: Backward


class Layer(Made, _Functions):
    """Four pure functions, ``(init, apply, forward, backward)``; see the module's docstring.

    `derivation` says where `backward` comes from: ``"hand"``, or ``"auto"`` for `autodiff`. It and
    the origin belong to the layer as it was made: `_replace` gives a layer by hand without origin.
    """

    derivation: Literal["hand", "auto"] = "hand"


def from_forward(init: Init, forward: Forward, backward: Backward) -> Layer:
    """Make the layer whose `apply` is `forward` without the residuals: the forward written once.

    >>> import fnn
    >>> fnn.dense(3).apply.__qualname__
    'from_forward.<locals>.apply'
    """

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        y, state, _ = forward(params, state, x, key=key, train=train)
        return y, state

    return Layer(init, apply, forward, backward)


@constructor
def stateless(
    init: Callable[[Array, Any], PyTree],
    forward: Callable[[PyTree, Any], tuple[Any, PyTree]],
    backward: Callable[[PyTree, PyTree, Any], tuple[PyTree, Any]],
) -> Layer:
    """Lift three small functions to a layer: no state, no randomness, no training mode.

    ``init :: (key, x) -> params``, ``forward :: (params, x) -> y, residuals``,
    ``backward :: (params, residuals, dy) -> dparams, dx``.

    >>> import jax, jax.numpy as jnp
    >>> cube = stateless(
    ...     lambda key, x: (),
    ...     lambda params, x: (x**3, x),
    ...     lambda params, x, dy: ((), 3 * x**2 * dy),
    ... )
    >>> y, state, residuals = cube.forward((), (), jnp.array([2.0]))
    >>> cube.backward((), residuals, jnp.array([1.0]))
    ((), Array([12.], dtype=float32))
    """

    def layer_init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        return init(key, x), ()

    def layer_forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        del key, train
        y, residuals = forward(params, x)
        return y, state, residuals

    return from_forward(layer_init, layer_forward, backward)


@constructor
def autodiff(init: Init, apply: Apply) -> Layer:
    """Make a layer of a plain ``(init, apply)`` pair; `jax.vjp` supplies the gradient.

    So every model composes, whether or not somebody derived the rule; reports mark the layer
    ``auto``. The residuals are what `jax.vjp` saves: a pytree of arrays.

    >>> import jax, jax.numpy as jnp
    >>> sine = autodiff(
    ...     lambda key, x: ((), ()),
    ...     lambda params, state, x, *, key=None, train=False: (jnp.sin(x), state),
    ... )
    >>> y, state, residuals = sine.forward((), (), jnp.array([0.0]))
    >>> sine.backward((), residuals, jnp.array([3.0]))[1]
    Array([3.], dtype=float32)
    """

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        def function(params: PyTree, floats: Any) -> tuple[Any, tuple[Any, PyTree]]:
            y, new_state = apply(params, state, merged(floats, x), key=key, train=train)
            return floating(y), (y, new_state)

        _, pull_back, (y, state) = jax.vjp(function, params, floating(x), has_aux=True)
        return y, state, pull_back

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        del params
        dparams, dx = residuals(dy)
        return dparams, dx

    layer = Layer(init, apply, forward, backward)
    layer.derivation = "auto"
    return layer


@constructor
def use_rules(layer: Layer, /) -> Layer:
    """Give a layer's hand-derived gradient to `jax.grad`, through `jax.custom_vjp`.

    The layer computes the same; only what autodiff does with it changes. Any script that calls
    `jax.grad` on the wrapped layer, or on a whole wrapped model, runs the hand rules. As with every
    `jax.custom_vjp`, reverse over reverse mode works and forward mode (`jax.jvp`) does not.

    >>> import fnn, jax, jax.numpy as jnp
    >>> tanh = use_rules(fnn.tanh())
    >>> jax.grad(lambda x: tanh.apply((), (), x)[0])(0.0)
    Array(1., dtype=float32, weak_type=True)
    """

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        @jax.custom_vjp
        def function(params: PyTree, state: PyTree, x: Any, key: Key) -> tuple[Any, PyTree]:
            return layer.apply(params, state, x, key=key, train=train)

        def function_forward(
            params: PyTree, state: PyTree, x: Any, key: Key
        ) -> tuple[tuple[Any, PyTree], PyTree]:
            y, state, residuals = layer.forward(params, state, x, key=key, train=train)
            return (y, state), (params, residuals)

        def function_backward(saved: PyTree, cotangents: PyTree) -> tuple[PyTree, ...]:
            params, residuals = saved
            dparams, dx = layer.backward(params, residuals, floating(cotangents[0]))
            return dparams, None, dx, None

        function.defvjp(function_forward, function_backward)
        y_and_state: tuple[Any, PyTree] = function(params, state, x, key)
        return y_and_state

    wrapped = Layer(layer.init, apply, layer.forward, layer.backward)
    wrapped.derivation = layer.derivation
    return wrapped


@constructor
def use_autodiff(layer: Layer, /) -> Layer:
    """Give up a layer's hand rule, and take the gradient of its `apply` from `jax.vjp`.

    The other way round than `use_rules`: forward and backward of a model run autodiff in this
    layer. Parameters, state and gradient are the same, so that a trained model goes on with its
    weights. `fnn.tune` does so wherever autodiff measures faster.

    >>> import fnn, jax.numpy as jnp
    >>> tanh = use_autodiff(fnn.tanh())
    >>> y, state, residuals = tanh.forward((), (), jnp.zeros(1))
    >>> tanh.derivation, tanh.backward((), residuals, jnp.ones(1))[1]
    ('auto', Array([1.], dtype=float32))
    """
    return autodiff(layer.init, layer.apply)


def floating(tree: PyTree) -> PyTree:
    """Return the part of a tree that has a derivative: None in place of all other arrays.

    >>> import jax.numpy as jnp
    >>> floating((jnp.ones(1), jnp.array([3])))
    (Array([1.], dtype=float32), None)
    """
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) else None, tree)


def merged(floats: PyTree, tree: PyTree) -> PyTree:
    """Put floating numbers back in their places: ``merged(floating(tree), tree)`` is the tree."""
    return jax.tree.map(
        lambda f, a: a if f is None else f, floats, tree, is_leaf=lambda node: node is None
    )


def shape_witness(x: Any) -> Array:
    """Return an array of no bytes that carries the shape and dtype of `x` through residuals.

    Residuals hold arrays only, and a backward pass sometimes needs nothing but a shape: read it
    back as ``witness.shape[1:]``.

    >>> import jax.numpy as jnp
    >>> witness = shape_witness(jnp.ones((2, 3)))
    >>> witness.nbytes, witness.shape[1:]
    (0, (2, 3))
    """
    return jnp.zeros((0, *x.shape), x.dtype)


def output_shape(layer: Layer, params: PyTree, state: PyTree, x: Any) -> Any:
    """Return the `jax.ShapeDtypeStruct` of ``layer.apply(params, state, x)``; nothing is computed.

    >>> import fnn, jax
    >>> x = jax.ShapeDtypeStruct((32, 784), "float32")
    >>> dense = fnn.dense(10)
    >>> params, state = jax.eval_shape(dense.init, jax.random.key(0), x)
    >>> output_shape(dense, params, state, x).shape
    (32, 10)
    """
    return jax.eval_shape(lambda p, s, x: layer.apply(p, s, x)[0], params, state, x)


def check_same_shape(where: str, x: Any, y: Any) -> None:
    """Raise `InputError` unless two trees of arrays have the same structure and shapes."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in (x, y)]
    if structures[0] != structures[1] or any(
        a.shape != b.shape for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    ):
        shapes = [str(jax.tree.map(lambda a: tuple(a.shape), tree)) for tree in (x, y)]
        raise InputError(
            where, f"shapes {shapes[0]} in and out", shapes[1], "make the widths equal"
        )


def check_floating(where: str, x: Any) -> None:
    """Raise `InputError` unless `x` is an array of floating-point numbers."""
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            where,
            "x of a floating dtype",
            describe(x),
            "convert it first, as in jnp.asarray(x, 'float32') / 255 for images",
        )
