"""Gates: what they are made of, and what they refuse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st

import fnn
from fnn.lab.check import moved_place
from tests.core.test_errors import Applied, Bad, assert_complains, initialized, ones, parametrize
from tests.layers.test_laws import assert_close

KEY = jax.random.key(5)


@pytest.mark.parametrize(
    ("make", "activation"),
    [
        (fnn.swiglu, fnn.silu()),
        (fnn.geglu, fnn.gelu()),
        (lambda width: fnn.geglu(width, approximate=True), fnn.gelu(approximate=True)),
    ],
    ids=["swiglu", "geglu", "geglu-tanh"],
)
def test_a_gated_dense_layer_is_two_dense_layers_one_through_an_activation(make, activation):
    with jax.enable_x64(True):
        x = jax.random.normal(KEY, (2, 3, 4), "float64")
        params, _ = moved_place(make(5), x, KEY)
        dense = fnn.dense(5, bias=False)
        gate, up = (
            dense.apply({"weight": weight}, (), x)[0]
            for weight in jnp.split(params["weight"], 2, 1)
        )
        expected = activation.apply((), (), gate)[0] * up
        assert_close(make(5).apply(params, (), x)[0], expected, "float64", 20)


def test_a_gated_dense_layer_draws_both_halves_as_a_dense_layer_of_its_inputs():
    # k = 5 standard errors of a variance, sqrt(2 / n): LeCun's is 1 / I. It is cut off at two
    # deviations, which makes its fourth moment smaller, and the error with it.
    params, _ = fnn.swiglu(100).init(KEY, jnp.ones((1, 50)))
    for half in jnp.split(params["weight"], 2, 1):
        assert abs(50 * float(half.var()) - 1) < 5 * (2 / 5000) ** 0.5


def test_prelu_bends_at_zero_with_its_own_slope_and_knows_x_under_a_negative_one():
    layer, params = fnn.prelu(), {"slope": jnp.array([-0.5, 0.0, 2.0])}
    x = jnp.array([[-2.0, -2.0, -2.0], [0.0, 0.0, 0.0], [3.0, 3.0, 3.0]])
    y, _, residuals = layer.forward(params, (), x)
    np.testing.assert_array_equal(y, [[1, 0, -4], [0, 0, 0], [3, 3, 3]])
    dparams, dx = layer.backward(params, residuals, jnp.ones_like(x))
    np.testing.assert_array_equal(dx, [[-0.5, 0, 2], [-0.5, 0, 2], [1, 1, 1]])
    np.testing.assert_array_equal(dparams["slope"], [-2, -2, -2])


def test_prelu_starts_as_a_leaky_relu_of_a_quarter():
    x = jax.random.normal(KEY, (4, 3))
    params, _ = fnn.prelu().init(KEY, x)
    leaky, _ = fnn.leaky_relu(0.25).apply((), (), x)
    np.testing.assert_array_equal(fnn.prelu().apply(params, (), x)[0], leaky)


def test_glu_gates_the_first_half_by_the_second():
    y, _ = fnn.glu().apply((), (), jnp.array([3.0, 5.0, -1000.0, 1000.0]))
    np.testing.assert_array_equal(y, [0, 5])


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    name=st.sampled_from(["prelu", "glu", "swiglu", "geglu"]),
    leading=st.lists(st.integers(1, 3), max_size=2),
    inputs=st.integers(1, 4),
    width=st.integers(1, 4),
)
def test_gradients_are_those_of_autodiff_at_any_shape(name, leading, inputs, width):
    gated = name in ("swiglu", "geglu")
    layer = getattr(fnn, name)(*((width,) if gated else ()))
    x = jax.random.normal(KEY, (*leading, 2 * inputs))
    fnn.check_layer(layer, x, numeric=False)
    params, _ = layer.init(KEY, x)
    y, _ = layer.apply(params, (), x)
    outputs = {"prelu": 2 * inputs, "glu": inputs}.get(name, width)
    assert y.shape == (*leading, outputs)
    assert {name: leaf.shape for name, leaf in dict(params).items()} == (
        {"weight": (2 * inputs, 2 * width)}
        if gated
        else {"slope": (2 * inputs,)}
        if name == "prelu"
        else {}
    )


LAYERS = {"prelu": fnn.prelu(), "swiglu": fnn.swiglu(3), "geglu": fnn.geglu(3)}
flag = "approximate of True or False"


@parametrize(
    [
        Bad("swiglu-0", lambda: fnn.swiglu(0), "swiglu", "a width of 1 or more", "0"),
        Bad("geglu-float", lambda: fnn.geglu(2.0), "geglu", "a width of 1 or more", r"2\.0"),
        Bad("geglu-none", lambda: fnn.geglu(2, approximate="none"), "geglu", flag, "'none'"),
        Bad("gelu-none", lambda: fnn.gelu("none"), "gelu", flag, "'none'"),
    ]
)
def test_gates_refuse_options(bad):
    assert_complains(bad, bad.call)


@pytest.mark.parametrize(
    ("x", "bad"),
    [
        *(
            pytest.param(
                ones(2, 6),
                Bad(name, Applied(layer), name, r"x of shape \(\.\.\., 5\)", r"\(2, 6\)"),
                id=f"{name}-width",
            )
            for name, layer in LAYERS.items()
        ),
        *(
            pytest.param(
                ones(),
                Bad(name, initialized(layer), name, r"x of shape \(\.\.\., C\)", r"\(\)"),
                id=f"{name}-axes",
            )
            for name, layer in LAYERS.items()
        ),
        *(
            pytest.param(
                ones(2, 5, dtype="uint8"),
                Bad(name, Applied(layer), name, "x of a floating dtype", "uint8 of shape .*"),
                id=f"{name}-integers",
            )
            for name, layer in (LAYERS | {"glu": fnn.glu()}).items()
        ),
        pytest.param(
            ones(2, 5),
            Bad("glu", Applied(fnn.glu()), "glu", r"x of shape \(\.\.\., 2C\)", r"\(2, 5\)"),
            id="glu-odd",
        ),
    ],
)
def test_gates_refuse_arrays(x, bad):
    assert_complains(bad, bad.call, x)
