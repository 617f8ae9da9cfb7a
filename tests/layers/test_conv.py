"""Convolutions: what the table of layers cannot say."""

from __future__ import annotations

import itertools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st

import fnn
from fnn._core.mesh import batch_in_parts
from fnn.lab.check import moved_place
from fnn.layers._window import Window
from fnn.layers.conv import (
    _fast as fast,
    _reference as plain,
    _weight_gradient as fast_weight,
    _winograd as winograd,
)
from tests.core.test_errors import Bad, assert_complains, initialized, ones, parametrize
from tests.layers.test_laws import assert_close

KEY = jax.random.key(5)


def geometry_of(x, kernel, **options):
    return Window(kernel, **options).over(x)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, "float64")


sizes = st.integers(1, 3)


@settings(max_examples=5, deadline=None, derandomize=True, phases=[Phase.generate])
@given(data=st.data(), rank=sizes, groups=sizes, inputs=sizes, outputs=sizes, batch=sizes)
def test_gradients_are_those_of_autodiff_for_any_options(
    data, rank, groups, inputs, outputs, batch
):
    def each(strategy):
        return data.draw(st.tuples(*[strategy] * rank))

    kernel, stride, dilation = each(sizes), each(sizes), each(st.integers(1, 2))
    pads = each(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    extra = tuple(data.draw(st.integers(0, s - 1)) for s in stride)
    space = [
        data.draw(st.integers(max(1, (k - 1) * d + 1 - sum(pad)), 6))
        for k, d, pad in zip(kernel, dilation, pads, strict=True)
    ]
    options = {"stride": stride, "padding": pads, "dilation": dilation, "groups": groups}
    x = jax.random.normal(KEY, (batch, *space, groups * inputs))
    fnn.check_layer(fnn.conv(groups * outputs, kernel, **options), x, numeric=False)
    roomy = tuple((0, 0) for _ in pads)
    transposed = fnn.conv_transpose(
        groups * outputs, kernel, output_padding=extra, **options | {"padding": roomy}
    )
    fnn.check_layer(transposed, x, numeric=False)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": "SAME"},
        {"stride": (1, 3), "padding": "VALID", "dilation": 2},
        {"stride": 2, "padding": ((0, 1), (2, 1)), "groups": 2},
    ],
    ids=["same", "valid", "pairs"],
)
def test_a_transposed_convolution_is_the_dx_of_the_convolution_of_its_weight(options):
    with jax.enable_x64(True):
        x = normal(3, 2, 6, 8, 4)
        layer = fnn.conv(6, 3, bias=False, **options)
        params, _ = moved_place(layer, x, KEY)
        y, _, residuals = layer.forward(params, (), x)
        dy = jnp.cos(y)
        dx = layer.backward(params, residuals, dy)[1]
        free = options["padding"] != "SAME"
        rest = {}
        if free:
            geometry = geometry_of(x, 3, **{k: v for k, v in options.items() if k != "groups"})
            fits = zip(geometry.padded((6, 8)), geometry.span, geometry.stride, strict=True)
            rest["output_padding"] = tuple((n - k) % s for n, k, s in fits)
        back = fnn.conv_transpose(4, 3, bias=False, **options, **rest)
        assert_close(back.apply(params, (), dy)[0], dx, "float64", x.size)


def test_the_weight_of_a_transposed_convolution_is_drawn_by_what_goes_in():
    def fans(key, shape, dtype):
        return jnp.full(shape, shape[-2], dtype)

    layer = fnn.conv_transpose(6, 3, groups=2, initializer=fans)
    params, _ = layer.init(KEY, jnp.ones((1, 5, 8)))
    np.testing.assert_array_equal(params["weight"], jnp.full((3, 3, 8), 4))


@pytest.mark.parametrize(
    ("kernel", "padding", "pairs"),
    [(3, 1, ((1, 1), (1, 1))), (3, "VALID", ((0, 0), (0, 0))), ((3, 5), "SAME", ((1, 1), (2, 2)))],
)
def test_a_padding_is_a_short_name_for_pairs(kernel, padding, pairs):
    x = jax.random.normal(KEY, (2, 5, 6, 3))
    layer = fnn.conv(2, kernel, padding=padding)
    params, _ = layer.init(KEY, x)
    other = fnn.conv(2, kernel, padding=pairs)
    np.testing.assert_array_equal(layer.apply(params, (), x)[0], other.apply(params, (), x)[0])


def test_same_has_as_many_positions_as_strides_begin():
    for size, stride, kernel in itertools.product(range(1, 7), (1, 2, 3), (2, 3)):
        x, params = jnp.ones((1, size, 1)), {"weight": jnp.ones((kernel, 1, 1))}
        y, _ = fnn.conv(1, kernel, stride=stride).apply(params, (), x)
        assert y.shape[1] == -(-size // stride)
        back, _ = fnn.conv_transpose(1, kernel, stride=stride).apply(params, (), x)
        assert back.shape[1] == size * stride


def test_a_depthwise_convolution_is_one_in_as_many_groups():
    x = jax.random.normal(KEY, (2, 5, 4, 3))
    layer, grouped = fnn.depthwise_conv(3, multiplier=2), fnn.conv(6, 3, groups=3)
    params, _ = layer.init(KEY, x)
    np.testing.assert_array_equal(layer.apply(params, (), x)[0], grouped.apply(params, (), x)[0])
    assert params["weight"].shape == (3, 3, 1, 6)


# One shape for every way of computing a sum on CPU: groups, channels, kernel, examples, axes.
WAYS = {
    "one-group": (1, 3, 4, (3, 2), 5, (6, 7)),
    "one-channel": (1, 1, 4, (3, 2), 3, (6, 7)),
    "depthwise": (4, 1, 1, (2, 2), 3, (4, 5)),
    "two-outputs-a-channel": (3, 1, 2, (2, 2), 4, (4, 5)),
    "small-groups": (6, 2, 3, (3,), 4, (7,)),
    "large-groups": (2, 20, 20, (3,), 4, (5,)),
    "many-large-groups": (5, 17, 17, (3,), 2, (4,)),
    "many-bytes": (1, 3, 4, (3, 3), 7, (64, 64)),
    "kernel-1": (1, 3, 4, (1, 1), 4, (4, 5)),
    "many-terms": (1, 1, 2, (70,), 2, (80,)),
    "few-numbers-in": (1, 2, 13, (3, 2), 3, (6, 7)),
    "few-numbers-out": (1, 13, 2, (3, 2), 3, (6, 7)),
    "spread": (1, 32, 33, (3, 2), 3, (6, 5)),
    "three-axes": (1, 2, 3, (2, 2, 2), 2, (3, 3, 3)),
    "three-axes-in-groups": (3, 2, 2, (3, 2, 1), 2, (5, 3, 4)),
    "three-axes-spread": (1, 32, 33, (3, 2, 2), 2, (5, 4, 3)),
    "three-axes-of-depth": (1, 1, 2, (70, 1, 1), 1, (80, 2, 2)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_platform_computes_the_same_sums(way):
    """On CPU other formulations are chosen than on GPU: both are run here."""
    groups, inputs, outputs, kernel, batch, space = way
    with jax.enable_x64(True):
        x = normal(3, batch, *space, groups * inputs)
        weight = normal(4, *kernel, inputs, groups * outputs)
        geometry = geometry_of(x, kernel, stride=2, padding=1)

        @jax.jit
        def both(x, weight):
            y = fast.convolve(x, weight, geometry), plain.convolve(x, weight, geometry)
            dy = jnp.cos(y[1])
            dweight = (
                fast_weight.weight_gradient(x, dy, geometry, groups),
                plain.weight_gradient(x, dy, geometry, groups),
            )
            flipped = plain.flip_kernel(weight, geometry, space, dy.shape[1:-1], groups)
            dx = (
                fast.input_gradient(dy, weight, geometry, space, groups),
                plain.convolve(dy, *flipped),
            )
            pull_back = jax.vjp(lambda x, w: plain.convolve(x, w, geometry), x, weight)[1]
            return y, dx, dweight, pull_back(dy)

        y, dx, dweight, auto = both(x, weight)
        for one, other in (y, dx, dweight, (dx[1], auto[0]), (dweight[1], auto[1])):
            assert_close(one, other, "float64", x.size)


@pytest.mark.parametrize(
    ("way", "space", "stride", "inputs", "outputs"),
    [
        ("_in_products", (5, 6), 1, 32, 2),
        ("_in_products", (5, 6), (1, 2), 32, 2),
        ("_in_products", (3, 4, 5), 1, 32, 2),
        ("_in_columns", (5, 6), (1, 2), 3, 32),
    ],
    ids=["two-axes", "strided", "three-axes", "few-numbers"],
)
def test_a_weight_gradient_in_matrix_products_is_the_same_sum(
    way, space, stride, inputs, outputs, monkeypatch
):
    """And so are the derivatives of it, for examples in parts of 2."""
    used = []
    products = getattr(fast_weight, way)
    monkeypatch.setattr(
        fast_weight, way, lambda x, *rest: used.append(len(x)) or products(x, *rest)
    )
    with jax.enable_x64(True):
        x = normal(3, 6, *space, inputs)
        options = {"stride": stride, "dilation": 2, "padding": ((1, 2),) * len(space)}
        geometry = geometry_of(x, (3,) * len(space), **options)
        dy = normal(4, 6, *geometry.positions(space), outputs)
        monkeypatch.setattr(fast_weight, "_BYTES", (x.nbytes + dy.nbytes) // 3)
        v = normal(5, *geometry.size, inputs, outputs)

        def both(module):
            def sums(x, dy):
                return module.weight_gradient(x, dy, geometry, 1)

            value, pull_back = jax.vjp(sums, x, dy)
            many = jax.vmap(sums)(jnp.stack([x, -x]), jnp.stack([dy, dy]))
            return value, pull_back(v), many

        one, other = jax.jit(lambda: (both(fast_weight), both(plain)))()
        assert set(used) == {2}
        assert_close(one, other, "float64", x.size)


def test_a_weight_gradient_over_three_axes_in_one_product_is_the_same_sum(monkeypatch):
    used = []
    products = fast_weight._in_products
    monkeypatch.setattr(
        fast_weight, "_in_products", lambda x, *rest: used.append(x.ndim) or products(x, *rest)
    )
    with jax.enable_x64(True):
        x = normal(3, 2, 3, 4, 5, 11)
        geometry = geometry_of(x, 3, stride=1, padding=((1, 0), (0, 2), (2, 1)))
        dy = normal(4, 2, *geometry.positions((3, 4, 5)), 3)
        one, other = (
            jax.jit(lambda x, dy, of=of: of.weight_gradient(x, dy, geometry, 1))(x, dy)
            for of in (fast_weight, plain)
        )
        assert_close(one, other, "float64", x.size)
    assert used == [5]


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (1, 3))])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_weight_gradient_in_tiles_is_the_same_sum(dtype, padding, monkeypatch):
    """And so are the derivatives of it, for two parts of 3 examples of odd sizes."""
    used = []
    tiles = winograd.tile_sums
    monkeypatch.setattr(
        winograd, "tile_sums", lambda x, *rest: used.append(len(x)) or tiles(x, *rest)
    )
    monkeypatch.setattr(winograd, "_FEW", 1)
    with jax.enable_x64(True):
        x = normal(3, 6, 5, 4, 64).astype(dtype)
        geometry = geometry_of(x, 3, stride=1, padding=padding)
        dy = normal(4, 6, *geometry.positions((5, 4)), 65).astype(dtype)
        monkeypatch.setattr(fast_weight, "_BYTES", (x.nbytes + dy.nbytes) // 2)
        v = normal(5, 3, 3, 64, 65).astype(dtype)

        def both(module):
            value, pull_back = jax.vjp(
                lambda x, dy: module.weight_gradient(x, dy, geometry, 1), x, dy
            )
            return value, pull_back(v)

        one, other = jax.jit(lambda: (both(fast_weight), both(plain)))()
        assert set(used) == {3}
        assert_close(one, other, dtype, x.size)


@pytest.mark.parametrize(("batch", "taken"), [(12, {6}), (15, {6, 3}), (10, {2})])
def test_a_weight_gradient_of_a_batch_in_three_parts_takes_as_many_examples_of_each(
    batch, taken, monkeypatch
):
    """Two of each at a time; a batch that has no three equal parts is taken as a whole."""
    used, in_order = [], fast_weight._in_order
    monkeypatch.setattr(
        fast_weight, "_in_order", lambda x, *rest: used.append(len(x)) or in_order(x, *rest)
    )
    with jax.enable_x64(True), batch_in_parts(3):
        x, dy = normal(3, batch, 7, 2), normal(4, batch, 5, 3)
        geometry = geometry_of(x, (3,), stride=1, padding="VALID")
        monkeypatch.setattr(fast_weight, "_BYTES", 2 * (x.nbytes + dy.nbytes) // batch)
        one, other = (
            jax.jit(lambda x, dy, of=of: of.weight_gradient(x, dy, geometry, 1))(x, dy)
            for of in (fast_weight, plain)
        )
        assert_close(one, other, "float64", x.size)
    assert set(used) == taken


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": "SAME"},
        {"stride": (1, 2), "padding": ((2, 0), (0, 3)), "dilation": (1, 2)},
        {"stride": (2, 3), "padding": "VALID"},
    ],
    ids=["same", "dilated", "valid"],
)
def test_examples_side_by_side_do_not_see_each_other(options, monkeypatch):
    monkeypatch.setattr(fast, "_YNNPACK", True)
    monkeypatch.setattr(fast, "_SUMMED", range(1, 100))
    monkeypatch.setattr(fast, "_LONG", 12)
    monkeypatch.setattr(fast, "_FEW", 1)
    with jax.enable_x64(True):
        x, weight = normal(3, 6, 5, 7, 2), normal(4, 3, 3, 2, 3)
        geometry = geometry_of(x, 3, **options)
        assert fast._rows_pay(x, weight, geometry)

        def both(module):
            y, pull_back = jax.vjp(lambda x, w: module.convolve(x, w, geometry), x, weight)
            return y, pull_back(jnp.cos(y))

        one, other = jax.jit(lambda: (both(fast), both(plain)))()
        assert_close(one, other, "float64", x.size)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((3,), (2,), "SAME"),
        ((2, 5), (3, 2), ((1, 0), (3, 1))),
        ((1, 3), (2, 1), "VALID"),
        ((3, 2, 2), (1, 2, 3), ((0, 2), (1, 1), (2, 0))),
    ],
    ids=["one-axis", "kernel-below-stride", "valid", "three-axes"],
)
def test_the_phases_of_a_dilated_array_make_its_convolution(kernel, stride, padding, monkeypatch):
    monkeypatch.setattr(fast, "WIDE", 1)
    space = (7, 8, 5)[: len(kernel)]
    with jax.enable_x64(True):
        x, weight = normal(3, 2, *space, 2), normal(4, *kernel, 2, 3)
        geometry = geometry_of(x, kernel, stride=stride, padding=padding)
        positions = geometry.positions(space)
        dy = normal(5, 2, *positions, 3)
        flipped, back = plain.flip_kernel(weight, geometry, space, positions, 1)
        assert fast._way_on_cpu(dy, flipped, back) is fast._by_phase
        dx = jax.jit(lambda: fast.input_gradient(dy, weight, geometry, space, 1))()
        assert_close(dx, plain.convolve(dy, flipped, back), "float64", x.size)


@pytest.mark.parametrize(
    ("stride", "padding", "rows"),
    [(1, "VALID", 3), (1, ((2, 0), (1, 1)), 1), (1, ((1, 2), (0, 0)), 0), (2, "VALID", 1)],
)
def test_rows_of_padding_after_x_change_nothing(stride, padding, rows, monkeypatch):
    monkeypatch.setattr(fast, "_YNNPACK", True)
    with jax.enable_x64(True):
        drawn = normal(3, 2, 8, 7, 9), normal(4, 3, 3, 9, 12)
        x, weight = (a.astype("float32") for a in drawn)
        geometry = geometry_of(x, 3, stride=stride, padding=padding)
        assert fast._more_rows(x, weight, geometry) == rows
        y = jax.jit(lambda: fast.convolve(x, weight, geometry))()
        assert_close(y, plain.convolve(x, weight, geometry), "float32", x.size)


@pytest.mark.parametrize(("batch", "parts"), [(6, 2), (8, 8), (5, 1), (0, 8)])
def test_parts_of_a_sum_over_examples_add_up_to_it(batch, parts, monkeypatch):
    monkeypatch.setattr(fast_weight, "_ENTRIES", range(1, 100))
    with jax.enable_x64(True):
        x, dy = normal(3, batch, 5, 2), normal(4, batch, 5, 3)
        whole = fast_weight._shared_sum(x, dy)
        assert_close(whole, fast_weight.outer_sum(x, dy), "float64", 5 * batch)
        each = f"f64[{parts},2,3]" in str(jax.make_jaxpr(fast_weight._shared_sum)(x, dy))
    assert each == (parts > 1)


GROUPED = {
    "one-axis": (lambda: fnn.conv(12, 3, groups=4), (7, 8), 4),
    "two-axes": (lambda: fnn.conv(8, (3, 2), groups=4, stride=2), (6, 5, 12), 4),
    "three-axes": (lambda: fnn.conv(6, 2, groups=3), (3, 4, 3, 6), 3),
    "many-bundles": (lambda: fnn.conv(80, 2, groups=20), (3, 40), 20),
    "transposed": (lambda: fnn.conv_transpose(8, 3, groups=4, stride=2), (5, 8), 4),
    "depthwise": (lambda: fnn.depthwise_conv(3), (5, 6, 4), 4),
}


def assert_stays_in_its_group(layer, shape, groups, bad):
    """Of the three results, those of other groups are as without it, those of its own are not."""
    x = jax.random.normal(KEY, (2, *shape))
    params, _ = layer.init(KEY, x)

    @jax.jit
    def by_group(x, dy):
        y, _, residuals = layer.forward(params, (), x)
        dparams, dx = layer.backward(params, residuals, dy)
        # Of a transposed one the last axis of the weight is that of x, in the same groups.
        arrays = [y, dx, *dparams.values()]
        return [a.reshape(-1, groups, a.shape[-1] // groups) for a in arrays]

    dy = jax.random.normal(jax.random.key(1), layer.apply(params, (), x)[0].shape)
    places = tuple(n // 2 for n in x.shape[:-1])
    one_x, one_dy = x.shape[-1] // groups, dy.shape[-1] // groups
    wrong_x = x.at[(*places, one_x)].set(bad)
    wrong_dy = dy.at[(*(n // 2 for n in dy.shape[:-1]), one_dy)].set(bad)
    clean = by_group(x, dy)
    for found, reached in ((by_group(wrong_x, dy), {0, 2}), (by_group(x, wrong_dy), {1, 2, 3})):
        for i, (one, other) in enumerate(zip(found, clean, strict=True)):
            np.testing.assert_allclose(
                *(np.delete(a, 1, axis=1) for a in (one, other)), rtol=1e-4, atol=1e-4
            )
            assert np.isfinite(one[:, 1]).all() == (i not in reached)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("make", "shape", "groups"), GROUPED.values(), ids=GROUPED)
def test_what_is_not_finite_reaches_no_other_group(make, shape, groups, bad):
    assert_stays_in_its_group(make(), shape, groups, bad)


def test_groups_that_reach_each_other_are_seen(monkeypatch):
    monkeypatch.setattr(fast, "bundles_of", lambda groups, *rest: groups)
    in_bundles = fast._in_bundles_of_groups
    monkeypatch.setattr(fast, "_in_bundles_of_groups", lambda *rest: in_bundles(*rest[:3], 1))
    make, shape, groups = GROUPED["two-axes"]
    with pytest.raises(AssertionError):
        assert_stays_in_its_group(make(), shape, groups, np.nan)


def test_a_layer_saves_its_input_alone():
    x = jnp.ones((2, 5, 4, 3))
    for layer in (fnn.conv(2, 3), fnn.depthwise_conv(3), fnn.conv_transpose(2, 3)):
        params, _ = layer.init(KEY, x)
        residuals = layer.forward(params, (), x)[2]
        assert [leaf.shape for leaf in jax.tree.leaves(residuals)] == [x.shape]


ANY_BATCH = {
    "conv": (fnn.conv(4, 3), (8, 8, 3)),
    "strided": (fnn.conv(4, 5, stride=2), (9, 9, 3)),
    "many-channels": (fnn.conv(40, 3), (9, 9, 32)),
    "groups": (fnn.conv(4, 3, groups=2), (9, 4)),
    "kernel-1": (fnn.conv(4, 1), (5, 5, 3)),
    "depthwise_conv": (fnn.depthwise_conv(3), (9, 9, 3)),
    "conv_transpose": (fnn.conv_transpose(40, 3, stride=2), (5, 5, 32)),
}


def assert_takes_any_batch(layer, shape):
    """Of a batch exported as a symbol each size has its results; of no example there are none."""
    params, _ = layer.init(KEY, jnp.ones((1, *shape)))

    @jax.jit
    def both(params, x):
        y, _, residuals = layer.forward(params, (), x)
        return y, layer.backward(params, residuals, jnp.cos(y))

    symbol = jax.export.symbolic_shape("b")[0]
    x = jax.random.normal(jax.random.key(1), (3, *shape))
    exported = jax.export.export(both)(params, jax.ShapeDtypeStruct((symbol, *shape), x.dtype))
    assert_close(exported.call(params, x), both(params, x), "float32", x.size)
    y, (dparams, dx) = both(params, x[:0])
    assert (len(y), dx.shape) == (0, (0, *shape))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(dparams))
    assert y.shape[1:] == jax.eval_shape(both, params, x)[0].shape[1:]


def test_a_layer_that_does_not_take_any_batch_is_seen():
    def layer(forward):
        return fnn.stateless(lambda key, x: (), forward, lambda params, x, dy: ((), dy + x))

    with pytest.raises(AssertionError):
        assert_takes_any_batch(layer(lambda params, x: (x.sum(0, keepdims=True), x)), (4, 2))
    with pytest.raises(Exception, match="inconclusive"):
        assert_takes_any_batch(layer(lambda p, x: (x if x.shape[0] > 2 else -x, x)), (4, 2))


@pytest.mark.parametrize(("layer", "shape"), ANY_BATCH.values(), ids=ANY_BATCH)
def test_a_convolution_takes_a_symbolic_and_an_empty_batch(layer, shape):
    assert_takes_any_batch(layer, shape)


MAKERS = {
    "conv": lambda kernel, **options: fnn.conv(4, kernel, **options),
    "depthwise_conv": fnn.depthwise_conv,
    "conv_transpose": lambda kernel, **options: fnn.conv_transpose(4, kernel, **options),
}


def refused(name, options, expected, got, kernel=3, only=MAKERS):
    return [
        Bad(f"{maker}-{name}", lambda m=maker: MAKERS[m](kernel, **options), maker, expected, got)
        for maker in only
    ]


BOTH = ("conv", "conv_transpose")
numbers = "of 1 or more, one int or a tuple of them"
pairs = "padding 'SAME', 'VALID', an int of 0 or more, or a pair of them for each axis"
extra = "output_padding of 0 or more and less than the stride, an int or one for each axis"


@parametrize(
    [
        *refused("kernel-0", {}, f"kernel {numbers}", "0", 0),
        *refused("kernel-empty", {}, f"kernel {numbers}", r"\(\)", ()),
        *refused("kernel-float", {}, f"kernel {numbers}", r"\(3, 2\.0\)", (3, 2.0)),
        *refused(
            "kernel-huge", {}, "kernel of 2147483647 at most, .*", r"\(65536, 65536\)", (2**16,) * 2
        ),
        *refused("stride-0", {"stride": 0}, f"stride {numbers}", "0"),
        *refused("dilation-negative", {"dilation": (1, -1)}, f"dilation {numbers}", r"\(1, -1\)"),
        *refused("padding-name", {"padding": "same"}, pairs, "'same'"),
        *refused("padding-negative", {"padding": -1}, pairs, "-1"),
        *refused("padding-ints", {"padding": (1, 1)}, pairs, r"\(1, 1\)"),
        *refused("padding-pair", {"padding": ((0, -1),)}, pairs, r"\(\(0, -1\),\)"),
        *refused(
            "axes",
            {"stride": (1, 2), "padding": ((1, 1),)},
            "options for one number of axes",
            "stride for 2, padding for 1",
        ),
        *refused("padding-empty", {"padding": ()}, pairs, r"\(\)"),
        *refused("axes-4", {}, "1 to 3 spatial axes", "4", (1, 1, 1, 1)),
        *refused("bias", {"bias": "False"}, "bias of True or False", "'False'"),
        *refused("initializer", {"initializer": "he"}, "initializer to be a function", "'he'"),
        *refused("groups-0", {"groups": 0}, "groups of 1 or more", "0", only=BOTH),
        *refused("groups-3", {"groups": 3}, "channels in 3 equal groups", "4 channels", only=BOTH),
        Bad("channels", lambda: fnn.conv(0, 3), "conv", "channels of 1 or more", "0"),
        Bad(
            "multiplier",
            lambda: fnn.depthwise_conv(3, multiplier=1.5),
            "depthwise_conv",
            "multiplier of 1 or more",
            r"1\.5",
        ),
        Bad(
            "output_padding",
            lambda: fnn.conv_transpose(1, 3, stride=2, padding=1, output_padding=2),
            "conv_transpose",
            extra,
            "2 with stride 2",
        ),
        Bad(
            "output_padding-axes",
            lambda: fnn.conv_transpose(1, (3, 3), stride=2, padding=1, output_padding=(1,)),
            "conv_transpose",
            "options for one number of axes",
            "kernel for 2, output_padding for 1",
        ),
        Bad(
            "output_padding-same",
            lambda: fnn.conv_transpose(1, 3, stride=2, output_padding=1),
            "conv_transpose",
            "no output_padding where padding is 'SAME'",
            "1",
        ),
    ]
)
def test_convolutions_refuse_options(bad):
    assert_complains(bad, bad.call)


def applied_to(layer, shape):
    def call(x):
        return layer.forward(*layer.init(KEY, jnp.ones(shape)), x)

    return call


two = r"x of shape \(B, H, W, C\)"
one_or_more = "x whose spatial axes and channels are 1 or more"
any_space = r"x of shape \(B, W, C\), \(B, H, W, C\) or \(B, D, H, W, C\)"
ARRAYS = [
    *(
        (x, Bad(f"{name}-{what}", initialized(MAKERS[name](kernel)), name, expected, got))
        for name in MAKERS
        for what, kernel, x, expected, got in (
            ("axes", (3, 3), ones(2, 5, 4), two, r"\(2, 5, 4\)"),
            ("no-space", 3, ones(2, 5), any_space, r"\(2, 5\)"),
            ("4-axes", 1, ones(1, 1, 1, 1, 1, 1), any_space, r"\(1, 1, 1, 1, 1, 1\)"),
            ("integers", 3, ones(2, 5, 4, dtype="int32"), "x of a floating dtype", "int32 of .*"),
            ("empty", 3, ones(2, 0, 4), one_or_more, r"\(2, 0, 4\)"),
            ("no-channels", 3, ones(2, 5, 0), one_or_more, r"\(2, 5, 0\)"),
        )
    ),
    *(
        (
            ones(2, 5, 3),
            Bad(
                f"{name}-channels",
                applied_to(MAKERS[name](3), (2, 5, 4)),
                name,
                r"x of shape \(B, \.\.\., 4\)",
                r"\(2, 5, 3\)",
            ),
        )
        for name in MAKERS
    ),
    *(
        (
            ones(2, 3, 4),
            Bad(
                f"{name}-window",
                initialized(MAKERS[name](3, padding=((0, 1),), dilation=2)),
                name,
                r"x of spatial size \(5,\) or more, padding included",
                r"\(4,\)",
            ),
        )
        for name in ("conv", "depthwise_conv")
    ),
    *(
        (
            ones(2, 5, 3),
            Bad(
                f"{name}-groups",
                initialized(MAKERS[name](3, groups=2)),
                name,
                "channels in 2 equal groups",
                "x of 3 channels",
            ),
        )
        for name in BOTH
    ),
    (
        ones(2, 1, 4),
        Bad(
            "conv_transpose-padding",
            initialized(fnn.conv_transpose(4, 3, padding=((2, 1),))),
            "conv_transpose",
            "a y of 1 position or more on every axis",
            r"\(0,\)",
        ),
    ),
    (
        ones(2, 5, 5, 4),
        Bad(
            "conv_transpose-output_padding-axes",
            initialized(fnn.conv_transpose(4, 3, stride=2, padding=1, output_padding=(1,))),
            "conv_transpose",
            r"x of shape \(B, W, C\)",
            r"\(2, 5, 5, 4\)",
        ),
    ),
]


@pytest.mark.parametrize(("x", "bad"), [pytest.param(*case, id=case[1].name) for case in ARRAYS])
def test_convolutions_refuse_arrays(x, bad):
    assert_complains(bad, bad.call, x)
    assert_complains(bad, jax.jit(bad.call), x)
