"""Gradients by autodiff of convolutions in a loop: in the order that XLA for CPUs has fast."""

import jax
import jax.numpy as jnp
import pytest

import fnn
from fnn._core.traced import called
from tests.tolerance import rounding

LAYERS = {
    "conv": fnn.conv(3, 3),
    "stride": fnn.serial(fnn.conv(3, 3, stride=2), fnn.conv_transpose(3, 3, stride=2)),
    "dilation": fnn.conv(3, (2, 3), dilation=2, bias=False),
    "1 axis": fnn.conv(3, 4),
    "3 axes": fnn.conv(3, 2),
    "bottleneck": fnn.serial(fnn.conv(2, 1), fnn.relu(), fnn.conv(3, 3, padding=1)),
}
AXES = {"1 axis": 1, "3 axes": 3}


def plain(params, state, x, **kwargs):
    """A convolution whose derivatives are those of JAX."""
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, params["weight"], (1, 1), "SAME", dimension_numbers=numbers)
    return y, state


def repeated_slope(layer, axes=2):
    """The traced gradient of three copies, with sums in front so that none is left out."""
    x = jnp.ones((2, *(6,) * axes, 3))
    model = fnn.repeat(layer, 3)
    params, state = model.init(jax.random.key(0), x)

    def objective(params, x):
        return jnp.sin(model.apply(params, state, x)[0]).sum()

    return jax.make_jaxpr(jax.jit(jax.grad(objective, (0, 1))))(params, x)


def convolutions(program, inside=False):
    """The orders of axes of every convolution inside of a loop."""
    for equation in program.jaxpr.eqns:
        name = equation.primitive.name
        if name == "conv_general_dilated" and inside:
            yield tuple(map(tuple, equation.params["dimension_numbers"]))
        within = called(equation)
        if within is not None:
            yield from convolutions(within, inside or name in ("scan", "while"))


def fast(axes):
    """Examples, axes, channels; axes, channels going in, channels coming out; as the first."""
    images = (0, axes + 1, *range(1, axes + 1))
    return images, (axes + 1, axes, *range(axes)), images


@pytest.mark.parametrize("name", LAYERS)
def test_convolutions_inside_of_a_loop_have_the_order_that_is_fast(name):
    axes = AXES.get(name, 2)
    found = list(convolutions(repeated_slope(LAYERS[name], axes)))
    # Forward, in x and in the weight.
    assert len(found) == 3 * sum(layer.name.startswith("conv") for layer in parts(LAYERS[name]))
    assert set(found) == {fast(axes)}


def parts(layer):
    return layer.children.values() or (layer,)


def test_derivatives_of_jax_have_another():
    given = fnn.conv(3, 3, bias=False)
    orders = list(convolutions(repeated_slope(fnn.autodiff(given.init, plain))))
    assert len(orders) == 3
    assert len(set(orders) - {fast(2)}) == 2


@pytest.mark.parametrize("way", ["jvp", "grad", "vmap"])
def test_second_derivatives_are_those_of_the_derivatives_of_jax(way):
    with jax.enable_x64(True):
        layer, x = fnn.conv(3, 3, bias=False), jax.random.normal(jax.random.key(1), (2, 5, 5, 3))
        params, state = layer.init(jax.random.key(0), x)
        along = jax.tree.map(jnp.cos, (params, x))

        def second(apply):
            def slope(*at):
                return jax.grad(lambda p, x: (apply(p, state, x)[0] ** 3).sum(), (0, 1))(*at)

            if way == "grad":
                return jax.grad(lambda at: sums(slope(*at), along))((params, x))
            if way == "jvp":
                return jax.jvp(slope, (params, x), along)[1]
            return jax.vmap(slope)(
                *jax.tree.map(lambda a, b: jnp.stack([a, b]), (params, x), along)
            )

        ours, theirs = map(jax.tree.leaves, (second(layer.apply), second(plain)))
        for a, b in zip(ours, theirs, strict=True):
            assert jnp.abs(a - b).max() <= rounding("float64", x.size) * jnp.abs(b).max()


def sums(tree, other):
    return sum(map(jnp.vdot, *map(jax.tree.leaves, (tree, other))))
