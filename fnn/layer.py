"""The unit of everything: a layer is four pure functions.

A layer is a node of the computation graph that can go forwards and backwards::

    init     :: (key, x)                                       -> params, state
    apply    :: (params, state, x, *, key=None, train=False)   -> y, state
    forward  :: (params, state, x, *, key=None, train=False)   -> y, state, residuals
    backward :: (params, residuals, dy)                        -> dparams, dx

    prefill  :: (params, state, x, *, window, lengths=None)    -> y, cache
    decode   :: (params, state, cache, x, position)            -> y, cache

`init` and `apply` are what a user writes and calls; `forward` and `backward` are the gradient
derived by hand. `backward` is the exact vector-Jacobian product of `apply`, for any cotangent
``dy``. Residuals are what forward saves for backward, a pytree of arrays and nothing else: a mode
(training or not) is told by the structure of the tree, since a Python flag would turn into a
traced value inside `jax.lax.scan`. `state` is what a layer remembers between steps, ``()`` for
most. x and y are arrays or trees of them; the cotangent of an array of integers or booleans is
None.

`apply` has two faces. Where it is only evaluated it is `forward` without the residuals: the fast
algorithm. Where it is differentiated, in any mode and to any order, it is the `reference`: the
plain formula that a JAX user would write, so that `jax.grad` of a model is what autodiff gives.

A layer over time that looks back has two more, for `fnn.generate`: `prefill` is `apply` out of
training over the T steps of x (B, T, ...), and returns a cache with room for `window` steps, from
which `decode` makes y of the step at `position`, x and y (B, 1, ...). Of a pair ``(x, memory)`` of
an encoder-decoder `prefill` is given both, and `decode` ``(x, None)``: what the layer needs of the
memory it keeps in its cache. A layer that looks at every step by itself needs no cache, and says so
by ``positionwise=True``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, get_args

import jax

from fnn._core import check
from fnn._core.description import Described, constructor
from fnn._core.errors import InputError, describe, entry
from fnn._core.mesh import automatic, layouts, vary_over, varying_axes
from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import (
    Array,
    Cache,
    Cotangent,
    Input,
    Key,
    Output,
    Params,
    Residuals,
    State,
    Unchecked,
)

Derivation: TypeAlias = Literal["manual", "auto"]


class Init(Protocol):
    """``(key, x) -> params, state``; `x` is an array or a `jax.ShapeDtypeStruct`."""

    def __call__(self, key: Array, x: Input, /) -> tuple[Params, State]: ...


class Apply(Protocol):
    """``(params, state, x, *, key=None, train=False) -> y, state``."""

    def __call__(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]: ...


class Forward(Protocol):
    """``(params, state, x, *, key=None, train=False) -> y, state, residuals``."""

    def __call__(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]: ...


class Backward(Protocol):
    """``(params, residuals, dy) -> dparams, dx``: the vector-Jacobian product of `Apply`."""

    def __call__(
        self, params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]: ...


class Prefill(Protocol):
    """``(params, state, x, *, window, lengths=None) -> y, cache``: `Apply` of a prompt (B, T, ...).

    Row b of x has ``lengths[b]`` steps, the first ones; None means T of them. The cache has room
    for `window` steps, T included.
    """

    def __call__(
        self,
        params: Params,
        state: State,
        x: Input,
        /,
        *,
        window: int,
        lengths: Array | None = None,
    ) -> tuple[Output, Cache]: ...


class Decode(Protocol):
    """``(params, state, cache, x, position) -> y, cache``: `Apply` of one more step (B, 1, ...).

    `position` counts the steps before it: an integer (), or (B,) where rows differ.
    """

    def __call__(
        self, params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]: ...


def _no_prefill(
    params: Params, state: State, x: Input, /, *, window: int, lengths: Array | None = None
) -> tuple[Output, Cache]:
    """Raise: what every layer does that was given no other function."""
    del params, state, x, window, lengths
    raise InputError(
        "a layer that generates from a cache",
        "one without",
        "wrap it in fnn.positionwise if it looks at every time step by itself, give it prefill "
        "and decode, or pass cache=False to fnn.generate, which then reads all again",
    )


def _no_decode(
    params: Params, state: State, cache: Cache, x: Input, position: Array, /
) -> tuple[Output, Cache]:
    """Raise: what every layer does that was given no other function."""
    del cache, position
    return _no_prefill(params, state, x, window=1)


# What the functions of a layer are called with.
_TAKES = {
    "init": "key, x",
    "apply": "params, state, x, *, key, train",
    "forward": "params, state, x, *, key, train",
    "backward": "params, residuals, dy",
    "reference": "params, state, x, *, key, train",
    "prefill": "params, state, x, *, window, lengths",
    "decode": "params, state, cache, x, position",
}


@dataclass(frozen=True, eq=False, repr=False)
class Layer(Described):
    """Layer: an immutable record of four pure functions; see the module's docstring.

    Args:
        init: ``(key, x) -> params, state``.
        apply: ``(params, state, x, *, key=None, train=False) -> y, state``.
        forward: the same, and the residuals that `backward` needs.
        backward: ``(params, residuals, dy) -> dparams, dx``.
        children: of a combinator, the layers inside by the step from its path to theirs, which is
            also the step in its parameters: ``"0"`` of a tuple, ``"hidden"`` of a dict, ``""``
            where the parameters are those of the child.
        rebuild: of a combinator, the function that makes it of other children, in their order.
        copies: how many copies of the children there are, along a leading axis of their parameters;
            None where they have no such axis.
        derivation: ``"manual"``, or ``"auto"`` where `backward` comes from autodiff.
        reference: the plain formula in the form of `apply`, where that is another algorithm.
        manual: of `use_auto`, the layer whose gradient by hand it gives up.
        prefill: ``(params, state, x, *, window, lengths=None) -> y, cache``; without it the layer
            has no cache, and it raises.
        decode: ``(params, state, cache, x, position) -> y, cache``, one time step.
        title: the name in tables, where it is not that of the constructor.
        call: the call of the `constructor` that made it.
    Raises:    InputError for what is no function of such arguments, and for another description.

    >>> import fnn
    >>> init, apply, forward, backward = fnn.dense(3)

    """

    functions: ClassVar[tuple[str, ...]] = (
        "init",
        "apply",
        "forward",
        "backward",
        "reference",
        "prefill",
        "decode",
    )
    init: Init
    apply: Apply
    forward: Forward
    backward: Backward
    _: KW_ONLY
    children: Mapping[str, Layer] = field(default_factory=lambda: MappingProxyType({}))
    rebuild: Callable[..., Layer] | None = None
    copies: int | None = None
    derivation: Derivation = "manual"
    reference: Apply | None = None
    manual: Layer | None = None
    prefill: Prefill = _no_prefill
    decode: Decode = _no_decode
    title: str = ""

    def __post_init__(self) -> None:
        for name, takes in _TAKES.items() if self.call is None else ():
            if name != "reference" or self.reference is not None:
                remedy = "pass a function, see fnn.Layer"
                check.function(getattr(self, name), name, remedy, takes=takes)
        if self.call is None:
            self._check_description()

    def _check_description(self) -> None:
        """Raise unless what the layer says of itself is of the kind that is read."""
        known = isinstance(self.children, Mapping)
        if not known or not all(isinstance(one, Layer) for one in self.children.values()):
            remedy = "pass a mapping from the step of each path to a layer"
            raise InputError("children, layers by name", describe(self.children), remedy)
        if self.rebuild is not None:
            check.function(self.rebuild, "rebuild")
        if self.copies is not None:
            check.count(self.copies, "copies", 0)
        check.one_of(self.derivation, "derivation", get_args(Derivation))
        if self.manual is not None:
            require_layer(self.manual)
        check.text(self.title, "title")

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.apply, self.forward, self.backward))

    @entry
    def __call__(self, x: Input, *, key: Key = None, train: bool = False) -> Output:
        """Return y, of a layer without parameters: ``fnn.sigmoid()(x)``.

        >>> import fnn, jax.numpy as jnp
        >>> fnn.sigmoid()(jnp.zeros(1))
        Array([0.5], dtype=float32)
        """
        params, state = jax.eval_shape(self.init, jax.random.key(0), x)
        if jax.tree.leaves((params, state)):
            raise InputError(
                "a layer without parameters and state",
                describe(self),
                "call layer.apply(params, state, x)",
            )
        return self.apply(params, state, x, key=key, train=train)[0]

    @property
    def name(self) -> str:
        """The name of the layer in tables, marked where no gradient by hand stands behind it."""
        name = self.title or ("layer" if self.call is None else self.call.name)
        return f"{name} (auto)" if self.derivation == "auto" else name

    @property
    def plain(self) -> Apply:
        """The plain formula: `reference`, or `apply` where that is it."""
        return self.apply if self.reference is None else self.reference


@constructor
def stateful(
    init: Init,
    forward: Forward,
    backward: Backward,
    *,
    reference: Apply | None = None,
    positionwise: bool = False,
    prefill: Prefill | None = None,
    decode: Decode | None = None,
) -> Layer:
    """Layer of three functions, with state, randomness and a training mode.

    Args:
        init: ``(key, x) -> params, state``.
        forward: ``(params, state, x, *, key=None, train=False) -> y, state, residuals``.
        backward: ``(params, residuals, dy) -> dparams, dx``.
        reference: the plain formula, ``(params, state, x, *, key=None, train=False) -> y, state``,
            where `forward` is another algorithm: what autodiff differentiates. Without it that is
            `forward`.
        positionwise: whether out of training y[b, t] depends on x[b, t] alone, for any axes (B, T)
            in front: then `fnn.generate` needs no cache of the layer.
        prefill: of a layer that looks back, ``(params, state, x, *, window, lengths=None) -> y,
            cache``, see `fnn.Layer`.
        decode: with it, ``(params, state, cache, x, position) -> y, cache``.
    Raises:    InputError for what is no function, one of `prefill` and `decode` without the other,
        for both beside `positionwise`, and from the layer where a function returns something else.

    >>> import fnn, jax, jax.numpy as jnp
    >>> count = stateful(
    ...     lambda key, x: ((), jnp.int32(0)),
    ...     lambda params, state, x, *, key=None, train=False: (x, state + 1, ()),
    ...     lambda params, residuals, dy: ((), dy),
    ... )
    >>> count.apply((), jnp.int32(0), jnp.ones(1))[1]
    Array(1, dtype=int32)

    """
    for name, function in (("init", init), ("forward", forward), ("backward", backward)):
        check.function(function, name, "pass a function, see fnn.stateful", takes=_TAKES[name])

    def whole_init(key: Array, x: Input, /) -> tuple[Params, State]:
        return check.returned(init(key, x), "params, state", "init")

    def evaluated(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        y, state, _ = whole_forward(params, state, x, key=key, train=train)
        return y, state

    def whole_forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        made = forward(params, state, x, key=key, train=train)
        y, state, residuals = check.returned(made, "y, state, residuals", "forward")
        return y, state, _with_layout(residuals, params, x)

    def whole_backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        return _backward_in_layout(backward, params, residuals, dy)

    apply = evaluated if reference is None else _two_faced(evaluated, reference)
    layer = Layer(whole_init, apply, whole_forward, whole_backward, reference=reference)
    return _with_cache(layer, positionwise, prefill, decode)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _LaidOut:
    """Residuals, and the layout of the dx that backward makes of them: that of x."""

    residuals: Residuals
    layout: Unchecked = field(metadata={"static": True})


def _with_layout(residuals: Residuals, params: Params, x: Input) -> Residuals:
    """Return residuals that tell how x lies on a mesh, in the mode where types must."""
    layout = layouts((inexact_leaves(x),), x, params)
    return residuals if layout is None else _LaidOut(residuals, layout)


def _backward_in_layout(
    backward: Backward, params: Params, residuals: Residuals, dy: Cotangent
) -> tuple[Params, Cotangent]:
    """Return dparams and dx, which lie on a mesh as params and x do."""
    layout = None
    if isinstance(residuals, _LaidOut):
        residuals, layout = residuals.residuals, (layouts(params, dy), *residuals.layout)

    def checked(*arguments: Unchecked) -> tuple[Params, Cotangent]:
        return check.returned(backward(*arguments), "dparams, dx", "backward")

    return automatic(checked, layout, params, residuals, dy)


def _with_cache(
    layer: Layer, positionwise: bool, prefill: Prefill | None, decode: Decode | None
) -> Layer:
    """Return the layer with its functions for `fnn.generate`, if there are any."""
    check.flag(positionwise, "positionwise")
    given = [name for name, one in (("prefill", prefill), ("decode", decode)) if one is not None]
    if len(given) == 1 or (given and positionwise):
        raise InputError(
            "prefill and decode, or positionwise=True, or none of them",
            " and ".join(given + ["positionwise=True"] * positionwise),
            "pass both functions for a layer that looks back, see fnn.Layer",
        )
    if prefill is not None and decode is not None:
        return dataclasses.replace(layer, prefill=prefill, decode=decode)
    if not positionwise:
        return layer

    def at_every_step(
        params: Params, state: State, x: Input, /, *, window: int, lengths: Array | None = None
    ) -> tuple[Output, Cache]:
        del window, lengths
        return layer.apply(params, state, x)[0], ()

    def at_one_step(
        params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        del position
        return layer.apply(params, state, x)[0], cache

    return dataclasses.replace(layer, prefill=at_every_step, decode=at_one_step)


@constructor
def positionwise(layer: Layer, /) -> Layer:
    """Position-wise layer: declared to look at every time step by itself.

    The layer computes the same. `fnn.generate` takes the word for it, and runs the layer on the
    newest step alone: so a function of one's own takes part in generation with a cache.

    Args:
        layer: any layer of which, out of training, y[b, t] depends on x[b, t] alone.
    Raises:    InputError for what is no layer.

    >>> import fnn, jax.numpy as jnp
    >>> doubled = positionwise(fnn.from_function(lambda x: 2 * x))
    >>> doubled.decode((), (), (), jnp.ones((1, 1)), jnp.int32(7))[0]
    Array([[2.]], dtype=float32)

    """
    require_layer(layer)
    wrapped = wrapping(positionwise, layer, (*layer,))
    wrapped = dataclasses.replace(wrapped, derivation=layer.derivation, reference=layer.reference)
    return _with_cache(wrapped, True, None, None)


def require_layer(value: Unchecked, expected: str = "a layer") -> None:
    """Raise unless a value is a layer.

    Args:
        value: what may be one.
        expected: what is asked for, in the words of the error.

    >>> require_layer(len)
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected a layer, got <built-in function len>; call the \
    constructor, as in fnn.relu(), or wrap a pair in fnn.autodiff
    """
    if not isinstance(value, Layer):
        remedy = "call the constructor, as in fnn.relu(), or wrap a pair in fnn.autodiff"
        raise InputError(expected, describe(value), remedy)


def wrapping(
    combinator: Callable[[Layer], Layer],
    layer: Layer,
    functions: tuple[Init, Apply, Forward, Backward],
    caching: tuple[Prefill, Decode] = (_no_prefill, _no_decode),
) -> Layer:
    """Return the layer that a combinator makes of one layer, whose parameters are its own.

    Args:
        combinator: what makes it again of another layer.
        layer: the layer inside.
        functions: those of the layer outside, ``(init, apply, forward, backward)``.
        caching: its ``(prefill, decode)``, where it can generate from a cache.

    >>> import fnn
    >>> relu = fnn.relu()
    >>> wrapping(fnn.residual, relu, tuple(relu)).children
    mappingproxy({'': relu()})

    """
    prefill, decode = caching
    return Layer(
        *functions,
        children=MappingProxyType({"": layer}),
        rebuild=combinator,
        prefill=prefill,
        decode=decode,
    )


def _two_faced(evaluated: Apply, differentiated: Apply) -> Apply:
    """Return the function that is one where it is evaluated, and the other where differentiated."""

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        y_and_state: tuple[Output, State] = _either(
            evaluated, differentiated, train, params, state, x, key
        )
        return y_and_state

    return apply


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _either(
    evaluated: Apply, differentiated: Apply, train: bool, *inputs: Unchecked
) -> tuple[Output, State]:
    del differentiated
    params, state, x, key = inputs
    return evaluated(params, state, x, key=key, train=train)


@_either.defjvp
def _either_jvp(
    evaluated: Apply,
    differentiated: Apply,
    train: bool,
    primals: tuple[Input, ...],
    tangents: tuple[Cotangent, ...],
) -> tuple[tuple[Output, State], Cotangent]:
    del evaluated

    def plain(params: Params, state: State, x: Input, key: Key) -> tuple[Output, State]:
        return differentiated(params, state, x, key=key, train=train)

    return jax.jvp(plain, primals, tangents)


@constructor
def stateless(
    init: Callable[[Array, Input], Params],
    forward: Callable[[Params, Input], tuple[Output, Residuals]],
    backward: Callable[[Params, Residuals, Cotangent], tuple[Params, Cotangent]],
    *,
    reference: Callable[[Params, Input], Output] | None = None,
    positionwise: bool = False,
) -> Layer:
    """Layer of three small functions: no state, no randomness, no training mode.

    Args:
        init: ``(key, x) -> params``.
        forward: ``(params, x) -> y, residuals``.
        backward: ``(params, residuals, dy) -> dparams, dx``.
        reference: the plain formula, ``(params, x) -> y``, where `forward` is another algorithm:
            what autodiff differentiates. Without it that is `forward`.
        positionwise: whether y[b, t] depends on x[b, t] alone, for any axes (B, T) in front: then
            `fnn.generate` needs no cache of the layer.

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
    given = {"key, x": init, "params, x": forward, "params, residuals, dy": backward}
    for name, (takes, function) in zip(("init", "forward", "backward"), given.items(), strict=True):
        check.function(function, name, "pass a function, see fnn.stateless", takes=takes)
    if reference is not None:
        check.function(reference, "reference", "pass the formula, or None", takes="params, x")

    def layer_init(key: Array, x: Input, /) -> tuple[Params, State]:
        return init(key, x), ()

    def layer_forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        del key, train
        y, residuals = check.returned(forward(params, x), "y, residuals", "forward")
        return y, state, residuals

    if reference is None:
        return stateful(layer_init, layer_forward, backward, positionwise=positionwise)
    plain = reference

    def layer_reference(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        del key, train
        return plain(params, x), state

    return stateful(
        layer_init, layer_forward, backward, reference=layer_reference, positionwise=positionwise
    )


@constructor
def autodiff(
    init: Init,
    apply: Apply,
    *,
    prefill: Prefill | None = None,
    decode: Decode | None = None,
) -> Layer:
    """Layer of a plain ``(init, apply)`` pair, whose gradient `jax.vjp` supplies.

    So every model composes, whether or not somebody derived its gradient; tables mark the layer
    ``(auto)``. The residuals are what `jax.vjp` saves: a pytree of arrays.

    Args:
        init: ``(key, x) -> params, state``.
        apply: ``(params, state, x, *, key=None, train=False) -> y, state``.
        prefill: of a layer over time that looks back, ``(params, state, x, *, window, lengths=None)
            -> y, cache``, see `fnn.Layer`; `fnn.positionwise` is for one that does not.
        decode: with it, ``(params, state, cache, x, position) -> y, cache``.
    Raises:    InputError for what is no function, one of `prefill` and `decode` without the other,
        and from the layer where `init` or `apply` return something else.

    >>> import jax, jax.numpy as jnp
    >>> sine = autodiff(
    ...     lambda key, x: ((), ()),
    ...     lambda params, state, x, *, key=None, train=False: (jnp.sin(x), state),
    ... )
    >>> y, state, residuals = sine.forward((), (), jnp.array([0.0]))
    >>> sine.backward((), residuals, jnp.array([3.0]))[1]
    Array([3.], dtype=float32)

    """
    for name, function in (("init", init), ("apply", apply)):
        check.function(function, name, "pass a function, see fnn.autodiff", takes=_TAKES[name])

    def whole_init(key: Array, x: Input, /) -> tuple[Params, State]:
        return check.returned(init(key, x), "params, state", "init")

    def whole_apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        made = apply(params, state, x, key=key, train=train)
        return check.returned(made, "y, state", "apply")

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        at_rest = functools.partial(whole_apply, key=key, train=train)
        return _linearized(at_rest, params, state, x)

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        del params
        dparams, dx = residuals(dy)
        return dparams, dx

    layer = Layer(whole_init, whole_apply, forward, backward, derivation="auto")
    return _with_cache(layer, False, prefill, decode)


def _linearized(
    apply: Callable[..., tuple[Output, State]], params: Params, state: State, x: Input
) -> tuple[Output, State, Residuals]:
    """Return y, the new state, and the vector-Jacobian product in the floating-point leaves."""

    def function(params: Params, floats: Input) -> tuple[Output, tuple[Output, State]]:
        y, new_state = apply(params, state, combine(floats, x))
        return inexact_leaves(y), (y, new_state)

    # Under `jax.shard_map` the gradient is that of each device, as a backward by hand is.
    axes = varying_axes(params, state, x)
    given = vary_over(params, axes), vary_over(inexact_leaves(x), axes)
    _, vjp, (y, state) = jax.vjp(function, *given, has_aux=True)
    return y, state, vjp


@constructor
def use_manual(layer: Layer, /) -> Layer:
    """Manual gradient for `jax.grad`: a layer's `backward`, through `jax.custom_vjp`.

    The layer computes the same; only what autodiff does with it changes. Any script that calls
    `jax.grad` on the wrapped layer, or on a whole wrapped model, runs the gradients by hand. As
    with every `jax.custom_vjp`, reverse over reverse mode works and forward mode does not. Under
    `jax.shard_map` `jax.grad` means what it does without: in parameters that all devices hold alike
    the sum over them with ``check_vma``, and a device's own without; `fnn.value_and_grad` is local.

    Args:
        layer: any layer or model.

    >>> import fnn, jax, jax.numpy as jnp
    >>> tanh = use_manual(fnn.tanh())
    >>> jax.grad(lambda x: tanh.apply((), (), x)[0])(jnp.zeros(()))
    Array(1., dtype=float32)

    """
    require_layer(layer)

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        # Outside of the rule: what JAX makes of it adds up what it should over a mesh.
        axes = varying_axes(params, state, x, key)
        inputs = vary_over(params, axes), state, vary_over(x, axes), key
        y_and_state: tuple[Output, State] = _manual(layer, train, *inputs)
        return y_and_state

    functions = layer.init, apply, layer.forward, layer.backward
    wrapped = wrapping(use_manual, layer, functions, (layer.prefill, layer.decode))
    return dataclasses.replace(wrapped, derivation=layer.derivation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _manual(
    layer: Layer, train: bool, params: Params, state: State, x: Input, key: Key
) -> tuple[Output, State]:
    return layer.apply(params, state, x, key=key, train=train)


def _manual_forward(
    layer: Layer, train: bool, params: Params, state: State, x: Input, key: Key
) -> tuple[tuple[Output, State], Residuals]:
    y, state, residuals = layer.forward(params, state, x, key=key, train=train)
    return (y, state), (params, residuals)


def _manual_backward(
    layer: Layer, train: bool, saved: Residuals, cotangents: Cotangent
) -> tuple[Cotangent, ...]:
    del train
    params, residuals = saved
    dparams, dx = layer.backward(params, residuals, inexact_leaves(cotangents[0]))
    return dparams, None, dx, None


_manual.defvjp(_manual_forward, _manual_backward)


@constructor
def use_auto(layer: Layer, /) -> Layer:
    """Automatic gradient in place of the manual one: `jax.vjp` of the layer's plain formula.

    The other way round than `use_manual`: forward and backward of a model run autodiff in this
    layer. Parameters, state and gradient are the same, so that a trained model goes on with its
    weights. `fnn.tune` does so wherever autodiff measures faster.

    Args:
        layer: any layer or model.

    >>> import fnn, jax.numpy as jnp
    >>> tanh = use_auto(fnn.tanh())
    >>> y, state, residuals = tanh.forward((), (), jnp.zeros(1))
    >>> tanh.derivation, tanh.backward((), residuals, jnp.ones(1))[1]
    ('auto', Array([1.], dtype=float32))

    """
    require_layer(layer)
    automatic = autodiff(layer.init, layer.apply)
    title = layer.name.removesuffix(" (auto)")
    return dataclasses.replace(
        automatic,
        title=title,
        manual=layer.manual or layer,
        prefill=layer.prefill,
        decode=layer.decode,
    )


def output_shape(layer: Layer, params: Params, state: State, x: Input) -> Output:
    """Return the `jax.ShapeDtypeStruct` of ``layer.apply(params, state, x)``; nothing is computed.

    >>> import fnn, jax
    >>> x = jax.ShapeDtypeStruct((32, 784), "float32")
    >>> dense = fnn.dense(10)
    >>> params, state = jax.eval_shape(dense.init, jax.random.key(0), x)
    >>> output_shape(dense, params, state, x).shape
    (32, 10)
    """
    return jax.eval_shape(lambda p, s, x: layer.apply(p, s, x)[0], params, state, x)
