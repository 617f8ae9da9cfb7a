"""Normalization: what the table of layers cannot say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st

import fnn
from fnn.lab.check import moved_place
from tests.cases.norm import EPSILON, MOMENTUM
from tests.core.test_errors import Bad, assert_complains, initialized, ones, parametrize
from tests.layers.test_laws import assert_close
from tests.tolerance import rounding

SHAPES = {"plain": (4, 5), "batch-1": (1, 5), "images": (2, 3, 4, 5)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_batch_norm_in_training_is_the_formula_of_the_docstring(shape):
    with jax.enable_x64(True):
        layer = fnn.batch_norm(momentum=MOMENTUM, epsilon=EPSILON)
        x = jax.random.normal(jax.random.key(3), shape, "float64")
        params, state = moved_place(layer, x, jax.random.key(5))
        results = layer.apply(params, state, x, train=True)
        p, s, x = jax.tree.map(np.asarray, (params, state, x))
        axes, m = tuple(range(x.ndim - 1)), MOMENTUM
        mean = x.sum(axes) / x[..., 0].size
        var = ((x - mean) ** 2).sum(axes) / x[..., 0].size
        y = p["scale"] * (x - mean) / np.sqrt(var + EPSILON) + p["shift"]
        running = {"mean": m * s["mean"] + (1 - m) * mean, "var": m * s["var"] + (1 - m) * var}
        assert_close(results, (y, running), x.dtype, x.size)


EXAMPLES = {
    "layer_norm": fnn.layer_norm(epsilon=EPSILON),
    "rms_norm": fnn.rms_norm(epsilon=EPSILON),
    "group_norm": fnn.group_norm(2, epsilon=EPSILON),
    "instance_norm": fnn.instance_norm(epsilon=EPSILON),
}


@pytest.mark.parametrize("scale", [1e-30, 1e-5, 1e-3, 1e12, 1e19, 1e30])
@pytest.mark.parametrize("layer", EXAMPLES.values(), ids=EXAMPLES)
def test_numbers_of_any_size_are_normalized_as_in_float64(layer, scale):
    assert_as_in_float64(layer, scale, mean=0, error=1)


@pytest.mark.parametrize("layer", EXAMPLES.values(), ids=EXAMPLES)
def test_a_mean_far_above_the_deviation_costs_its_own_digits_and_no_more(layer):
    """As the difference of two mean squares a variance would lose twice as many: all of them."""
    assert_as_in_float64(layer, 1.0, mean=1e4, error=1e4)


def assert_as_in_float64(layer, scale, mean, error):
    """Output and both gradients of the same numbers, in multiples of a rounding of the largest."""
    random = np.random.default_rng(2)
    x = (mean + scale * random.normal(size=(3, 4, 6))).astype("float32")
    dy = random.normal(size=x.shape).astype("float32")
    params, _ = layer.init(jax.random.key(0), jnp.asarray(x))

    # Whole: XLA multiplies constants of several operations, to 0 of small ones.
    @jax.jit
    def results(x, dy):
        y, _, residuals = layer.forward(params, (), x)
        by_hand = layer.backward(params, residuals, dy)[1]
        auto = jax.vjp(lambda x: layer.apply(params, (), x)[0], x)[1](dy)[0]
        return y, by_hand, auto

    narrow = results(jnp.asarray(x), jnp.asarray(dy))
    with jax.enable_x64(True):
        wide = results(jnp.asarray(x, "float64"), jnp.asarray(dy, "float64"))
    for one, other in zip(narrow, wide, strict=True):
        bound = error * rounding("float32", x.size) * np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=bound)


examples = pytest.mark.parametrize("layer", EXAMPLES.values(), ids=EXAMPLES)


@examples
def test_no_example_sees_another(layer):
    x = jax.random.normal(jax.random.key(3), (3, 2, 4))
    params, state = moved_place(layer, x, jax.random.key(5))

    def run(x):
        y, _, residuals = layer.forward(params, state, x, train=True)
        return y, layer.backward(params, residuals, jnp.cos(x))[1]

    for alone, among in zip(run(x), run(x.at[1].set(jnp.nan)), strict=True):
        np.testing.assert_array_equal(alone[::2], among[::2])
        assert np.isnan(among[1]).all()


@pytest.mark.parametrize(
    ("layer", "axes"),
    [
        (fnn.layer_norm(epsilon=0.0), -1),
        (fnn.instance_norm(epsilon=0.0), (1, 2)),
        (fnn.group_norm(1, epsilon=0.0), (1, 2, 3)),
    ],
    ids=["layer_norm", "instance_norm", "group_norm"],
)
def test_neither_scaling_nor_shifting_x_changes_y_so_dx_is_orthogonal_to_both(layer, axes):
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(3), (2, 3, 4, 5), "float64")
        params, state = moved_place(layer, x, jax.random.key(5))
        y, _, residuals = layer.forward(params, state, x)
        assert_close(layer.apply(params, state, 3 * x + 2)[0], y, "float64", x.size)
        dx = layer.backward(params, residuals, jnp.cos(x))[1]
        sums = dx.sum(axes), (dx * x).sum(axes)
        assert_close((dx, *sums), (dx, *map(jnp.zeros_like, sums)), "float64", x.size)


def test_groups_are_between_a_norm_of_all_and_one_of_each_channel():
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(3), (2, 3, 4), "float64")
        params, state = moved_place(fnn.instance_norm(epsilon=EPSILON), x, jax.random.key(5))
        each = fnn.group_norm(4, epsilon=EPSILON).apply(params, state, x)
        assert_close(
            each, fnn.instance_norm(epsilon=EPSILON).apply(params, state, x), "float64", x.size
        )
        plain = {"scale": False, "shift": False}
        all_, _ = fnn.group_norm(1, epsilon=EPSILON, **plain).apply((), (), x)
        rows, _ = fnn.layer_norm(epsilon=EPSILON, **plain).apply((), (), x.reshape(2, 12))
        assert_close(all_.reshape(2, 12), rows, "float64", x.size)


def test_a_norm_of_one_number_is_its_shift_and_has_no_gradient():
    x = jnp.array([[3.0], [-4.0]])
    for layer, z in (
        (fnn.layer_norm(), x),
        (fnn.group_norm(1), x),
        (fnn.instance_norm(), x[:, None]),
        (fnn.batch_norm(), x[:1]),
    ):
        params, state = moved_place(layer, z, jax.random.key(5))
        y, _, residuals = layer.forward(params, state, z, train=True)
        np.testing.assert_array_equal(y, jnp.broadcast_to(params["shift"], y.shape))
        np.testing.assert_array_equal(layer.backward(params, residuals, z)[1], 0 * z)


@pytest.mark.parametrize(("layer", "numbers"), [(fnn.layer_norm(), 2), (fnn.rms_norm(), 1)])
def test_a_norm_saves_its_input_and_a_number_or_two_of_each_row(layer, numbers):
    x = jnp.ones((4, 5))
    _, _, residuals = layer.forward(*layer.init(jax.random.key(0), x), x)
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(residuals))
    assert shapes == [*[(4, 1)] * numbers, (4, 5)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_state_of_a_batch_norm_is_float32_in_half_precision(dtype):
    layer, x = fnn.batch_norm(), jnp.ones((4, 2), dtype)
    params, state = layer.init(jax.random.key(0), x)
    y, new_state = layer.apply(params, state, x, train=True)
    assert y.dtype == dtype
    assert {leaf.dtype.name for leaf in jax.tree.leaves((state, new_state))} == {"float32"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {dtype}


sizes = st.integers(1, 4)


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    name=st.sampled_from(["layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm"]),
    space=st.lists(sizes, min_size=1, max_size=2),
    batch=sizes,
    groups=sizes,
    width=sizes,
    options=st.fixed_dictionaries({"scale": st.booleans(), "shift": st.booleans()}),
)
def test_gradients_are_those_of_autodiff_at_any_shape(name, space, batch, groups, width, options):
    if name == "rms_norm":
        del options["shift"]
        # Of one channel see below.
        width += 1
    first = (groups,) if name == "group_norm" else ()
    momentum = {"momentum": MOMENTUM} if name == "batch_norm" else {}
    layer = getattr(fnn, name)(*first, **momentum, epsilon=EPSILON, **options)
    x = jax.random.normal(jax.random.key(3), (batch, *space, groups * width))
    fnn.check_layer(layer, x, numeric=False)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    wanted = {
        our for our, option in (("scale", "scale"), ("shift", "shift")) if options.get(option)
    }
    assert set(params) == wanted
    assert {leaf.shape for leaf in jax.tree.leaves(params)} <= {(groups * width,)}
    y = jax.eval_shape(lambda p, s: layer.apply(p, s, x)[0], params, state)
    assert y.shape == x.shape


@pytest.mark.parametrize("scale", [True, False])
def test_the_gradient_of_an_rms_norm_of_one_channel_is_that_of_its_closed_form(scale):
    """The norm is nearly a sign: dx is what two terms leave, and as exact as those are."""
    layer = fnn.rms_norm(epsilon=EPSILON, scale=scale)
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(3), (4, 1), "float64")
        params, state = moved_place(layer, x, jax.random.key(5))
        dy = jnp.cos(x)
        dx = layer.backward(params, layer.forward(params, state, x)[2], dy)[1]
        inverse = 1 / np.sqrt(np.square(x) + EPSILON)
        term = dy * (params["scale"][0] if scale else 1) * inverse
        expected = EPSILON * inverse**2 * term
        assert np.abs(dx - expected).max() <= rounding("float64", 1) * np.abs(term).max()


def wrong_epsilon(name, make):
    return Bad(f"{name}-epsilon", make, name, "an epsilon of 0 or more", "-1")


def applied_to(layer, shape):
    """Initialize a layer for x of one shape, then apply it to another."""

    def call(x):
        params, state = layer.init(jax.random.key(0), jnp.ones(shape))
        return layer.apply(params, state, x)

    return call


@parametrize(
    [
        wrong_epsilon("layer_norm", lambda: fnn.layer_norm(epsilon=-1)),
        wrong_epsilon("rms_norm", lambda: fnn.rms_norm(epsilon=-1)),
        wrong_epsilon("group_norm", lambda: fnn.group_norm(2, epsilon=-1)),
        wrong_epsilon("instance_norm", lambda: fnn.instance_norm(epsilon=-1)),
        Bad(
            "nan",
            lambda: fnn.rms_norm(epsilon=np.nan),
            "rms_norm",
            "an epsilon of 0 or more",
            "nan",
        ),
        Bad("groups-0", lambda: fnn.group_norm(0), "group_norm", "groups of 1 or more", "0"),
        Bad(
            "groups-float",
            lambda: fnn.group_norm(2.0),
            "group_norm",
            "groups of 1 or more",
            r"2\.0",
        ),
    ]
)
def test_norms_refuse_options(bad):
    assert_complains(bad, bad.call)


@pytest.mark.parametrize(
    ("x", "bad"),
    [
        *(
            pytest.param(
                ones(2, 3, 5),
                Bad(name, applied_to(layer, (2, 3, 4)), name, expected, r"\(2, 3, 5\)"),
                id=f"{name}-channels",
            )
            for name, layer, expected in (
                ("layer_norm", fnn.layer_norm(), r"x of shape \(\.\.\., 4\)"),
                ("rms_norm", fnn.rms_norm(), r"x of shape \(\.\.\., 4\)"),
                ("group_norm", fnn.group_norm(2), r"x of shape \(B, \.\.\., 4\)"),
                ("instance_norm", fnn.instance_norm(), r"x of shape \(B, H, \.\.\., 4\)"),
            )
        ),
        *(
            pytest.param(
                ones(*shape),
                Bad(name, initialized(layer), name, expected, got),
                id=f"{name}-axes",
            )
            for name, layer, shape, expected, got in (
                ("layer_norm", fnn.layer_norm(), (), r"x of shape \(\.\.\., C\)", r"\(\)"),
                ("rms_norm", fnn.rms_norm(), (), r"x of shape \(\.\.\., C\)", r"\(\)"),
                ("group_norm", fnn.group_norm(2), (4,), r"x of .* \(B, \.\.\., C\)", r"\(4,\)"),
                (
                    "instance_norm",
                    fnn.instance_norm(),
                    (3, 4),
                    r"x of shape \(B, H, \.\.\., C\)",
                    r"\(3, 4\)",
                ),
            )
        ),
        pytest.param(
            ones(3, 5),
            Bad(
                "group_norm",
                initialized(fnn.group_norm(2)),
                "group_norm",
                "channels in 2 equal groups",
                "5 channels",
            ),
            id="group_norm-odd",
        ),
        pytest.param(
            ones(2, 6),
            Bad(
                "batch_norm-plain",
                applied_to(fnn.batch_norm(scale=False, shift=False), (2, 5)),
                "batch_norm",
                r"x of shape \(B, \.\.\., 5\)",
                r"\(2, 6\)",
            ),
            id="batch_norm-plain",
        ),
        *(
            pytest.param(
                ones(2, 3, 4, dtype="int32"),
                Bad(name, initialized(layer), name, "x of a floating dtype", "int32 of shape .*"),
                id=f"{name}-integers",
            )
            for name, layer in EXAMPLES.items()
        ),
    ],
)
def test_norms_refuse_arrays(x, bad):
    assert_complains(bad, bad.call, x)
    assert_complains(bad, jax.jit(bad.call), x)
