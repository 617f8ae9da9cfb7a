"""Layers that move numbers, plain functions, and softmax along an axis that is not there."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st

import fnn
from tests.core.test_errors import Bad, assert_complains, ones, parametrize

KEY = jax.random.key(5)


@settings(max_examples=15, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    old=st.lists(st.integers(1, 4), max_size=3),
    batch=st.integers(0, 3),
    place=st.integers(0, 3),
    data=st.data(),
)
def test_a_free_axis_is_what_the_others_leave(old, batch, place, data):
    numbers = math.prod(old)
    divisor = data.draw(st.sampled_from([d for d in range(1, numbers + 1) if numbers % d == 0]))
    shape = [divisor, 1]
    shape.insert(place, -1)
    x = jax.random.normal(KEY, (batch, *old))
    layer = fnn.reshape(*shape)
    y, _, residuals = layer.forward((), (), x)
    expected = [numbers // divisor if size == -1 else size for size in shape]
    assert y.shape == (batch, *expected)
    np.testing.assert_array_equal(y.ravel(), x.ravel())
    np.testing.assert_array_equal(layer.backward((), residuals, y)[1], x)


def test_flatten_undoes_reshape():
    x = jax.random.normal(KEY, (3, 12))
    model = fnn.serial(fnn.reshape(2, 3, 2), fnn.flatten())
    np.testing.assert_array_equal(model.apply(((), ()), ((), ()), x)[0], x)


sizes = "integers of 1 or more, and at most one -1"


@parametrize(
    [
        Bad("tuple", lambda: fnn.reshape((2, 3)), "reshape", sizes, r"\(\(2, 3\),\)"),
        Bad("zero", lambda: fnn.reshape(2, 0), "reshape", sizes, r"\(2, 0\)"),
        Bad("two-free", lambda: fnn.reshape(-1, 2, -1), "reshape", sizes, r"\(-1, 2, -1\)"),
        Bad("minus-2", lambda: fnn.reshape(-2), "reshape", sizes, r"\(-2,\)"),
        Bad("float", lambda: fnn.reshape(2.0), "reshape", sizes, r"\(2\.0,\)"),
        Bad("float-free", lambda: fnn.reshape(-1, -1.0), "reshape", sizes, r"\(-1, -1\.0\)"),
        Bad("function", lambda: fnn.from_function(3), "from_function", "f to be a function", "3"),
        Bad(
            "layer",
            lambda: fnn.from_function(fnn.relu()),
            "from_function",
            "f to be a function",
            r"relu\(\)",
        ),
        Bad(
            "backward",
            lambda: fnn.from_function(jnp.sin, "cos"),
            "from_function",
            "backward to be a function",
            "'cos'",
        ),
    ]
)
def test_constructors_refuse(bad):
    assert_complains(bad, bad.call)


def applied(layer):
    return lambda x: layer.apply((), (), x)


def there_and_back(layer):
    def call(x):
        y, _, residuals = layer.forward((), (), x)
        return layer.backward((), residuals, y)

    return call


@pytest.mark.parametrize(
    ("x", "bad"),
    [
        pytest.param(x, bad, id=bad.name)
        for x, bad in (
            (
                ones(2, 5),
                Bad(
                    "reshape-whole",
                    applied(fnn.reshape(2, 3)),
                    "reshape",
                    "examples of 6 elements",
                    r"\(2, 5\)",
                ),
            ),
            (
                ones(2, 5),
                Bad(
                    "reshape-free",
                    applied(fnn.reshape(2, -1)),
                    "reshape",
                    "examples of a multiple of 2 elements",
                    r"\(2, 5\)",
                ),
            ),
            (
                ones(),
                Bad(
                    "reshape-axes",
                    applied(fnn.reshape(1)),
                    "reshape",
                    r"x of shape \(B, \.\.\.\)",
                    r"\(\)",
                ),
            ),
            (
                ones(2, 5),
                Bad(
                    "function-dx",
                    there_and_back(fnn.from_function(lambda x: x.sum(1), lambda x, dy: dy)),
                    "from_function",
                    r"shapes \(2, 5\) in and out",
                    r"\(2,\)",
                ),
            ),
            *(
                (
                    ones(2, 5),
                    Bad(
                        f"{name}-{axis}",
                        applied(getattr(fnn, name)(axis)),
                        name,
                        r"an axis in -2\.\.1",
                        got,
                    ),
                )
                for name in ("softmax", "log_softmax")
                for axis, got in ((2, "2"), (-3, "-3"))
            ),
        )
    ],
)
def test_arrays_are_refused(x, bad):
    assert_complains(bad, bad.call, x)
    assert_complains(bad, jax.jit(bad.call), x)


def test_a_function_says_where_its_gradient_comes_from():
    assert fnn.from_function(jnp.sin).derivation == "auto"
    assert fnn.from_function(jnp.sin, lambda x, dy: jnp.cos(x) * dy).derivation == "manual"


def test_a_function_passes_integers_on_and_gives_them_no_gradient():
    layer = fnn.from_function(
        lambda x: x[0] * x[1].astype("float32"), lambda x, dy: (dy * x[1].astype("float32"), None)
    )
    x = jnp.array([2.0, 3.0]), jnp.array([4, 5])
    y, _, residuals = layer.forward((), (), x)
    dx, none = layer.backward((), residuals, jnp.ones(2))[1]
    np.testing.assert_array_equal((y, dx), [[8, 15], [4, 5]])
    assert none is None
