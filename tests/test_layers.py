"""The laws of layers: every case of the table under every law."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.gradient.check import agreements, gradients, moved, normal_like
from tests import cases
from tests.tolerance import rounding

KEY = jax.random.key(5)
SHAPES = {
    "plain": (4, cases.WIDTH),
    "batch-1": (1, cases.WIDTH),
    "width-1": (4, 1),
    "leading-axes": (2, 3, cases.WIDTH),
}
all_cases = pytest.mark.parametrize("case", cases.LAYERS, ids=lambda case: case.name)
# Both modes where they differ: with chance or a state.
PAIRS = [
    pytest.param(case, train, id=f"{case.name}-{'train' if train else 'eval'}")
    for case in cases.LAYERS
    for train in (True, False)
    if train or {"dropout", "batch_norm", "autodiff"} & cases.makers(case.make())
]
# Combinators hand the mode on: that they do is seen in the law of the derivative.
in_modes = pytest.mark.parametrize(
    ("case", "train"), [pair for pair in PAIRS if pair.values[0].formula or pair.values[1]]
)


def inputs(variant, dtype="float32"):
    x = np.random.default_rng(3).normal(size=SHAPES.get(variant, SHAPES["plain"]))
    factor = {"zeros": 0, "large": 100}.get(variant, 1)
    return jnp.asarray(factor * x, dtype)


@functools.partial(jax.jit, static_argnums=0)
def prepared(layer, x):
    """Parameters and state away from where they start."""
    params, state = layer.init(KEY, x)
    params = moved(jax.random.key(1), params)
    return params, jax.tree.map(jnp.abs, moved(jax.random.key(2), state))


def there_and_back(layer, train, params, state, x, key=KEY):
    """Run forward and, for a random cotangent, backward."""
    y, new_state, residuals = layer.forward(params, state, x, key=key, train=train)
    dy = normal_like(jax.random.key(4), y)
    return y, new_state, layer.backward(params, residuals, dy)


compiled = jax.jit(there_and_back, static_argnums=(0, 1))


def abstract(layer, train, x):
    """Shapes and dtypes of all that init, forward and backward return; nothing is compiled."""

    def run(x):
        params, state = layer.init(KEY, x)
        return params, state, there_and_back(layer, train, params, state, x)

    return jax.eval_shape(run, x)


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def assert_close(one, other, dtype, terms):
    """Equal within the rounding of a sum of `terms`, relative to the largest number of all."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    left = [np.asarray(a, np.float64) for a in jax.tree.leaves(one)]
    right = [np.asarray(a, np.float64) for a in jax.tree.leaves(other)]
    scale = max([np.abs(a).max(initial=0) for a in right], default=0) or 1
    for a, b in zip(left, right, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max(initial=0) <= rounding(dtype, terms) * scale


def test_the_table_has_every_public_layer():
    covered = set().union(*(cases.makers(case.make()) for case in cases.LAYERS))
    assert cases.public(fnn, fnn.Layer) <= covered


VARIANTS = [*SHAPES, "zeros", "large"]
# What holds for its layers at any size and shape holds for a combinator of them.
FEWER = ["plain", "batch-1", "leading-axes"]


@pytest.mark.parametrize(
    ("case", "train", "variant"),
    [
        pytest.param(*pair.values, variant, id=f"{pair.id}-{variant}")
        for pair in PAIRS
        for variant in (VARIANTS if pair.values[0].formula else FEWER)
    ],
)
def test_backward_is_the_derivative_by_autodiff_and_by_differences(case, train, variant):
    # Where all inputs are equal a batch norm bends within sqrt(epsilon), the step of a difference.
    bent = case.kink or (train and "batch_norm" in cases.makers(case.make()))
    numeric = not case.surrogate and not (bent and variant == "zeros")
    fnn.check_layer(case.make(), inputs(variant), train=train, numeric=numeric)


@in_modes
def test_apply_is_forward_without_residuals(case, train):
    layer, x = case.make(), inputs("leading-axes")
    params, state = prepared(layer, x)
    y, new_state, _ = compiled(layer, train, params, state, x)
    apply = jax.jit(layer.apply, static_argnames="train")
    applied = apply(params, state, x, key=KEY, train=train)
    assert_close(applied, (y, new_state), x.dtype, 1)


@pytest.mark.parametrize(
    "case", [case for case in cases.LAYERS if case.formula], ids=lambda case: case.name
)
def test_apply_is_the_formula_of_the_docstring(case):
    with jax.enable_x64(True):
        layer, x = case.make(), inputs("leading-axes", "float64")
        params, state = prepared(layer, x)
        y, _ = layer.apply(params, state, x)
        plain = jax.tree.map(np.asarray, (params, state, x))
        assert_close(y, case.formula(*plain), y.dtype, x.size)


@pytest.mark.parametrize("variant", ["plain", "leading-axes"])
def test_batch_norm_in_training_is_the_formula_of_the_docstring(variant):
    with jax.enable_x64(True):
        layer = fnn.batch_norm(cases.MOMENTUM, cases.EPSILON)
        x = inputs(variant, "float64")
        params, state = prepared(layer, x)
        results = layer.apply(params, state, x, train=True)
        p, s, x = jax.tree.map(np.asarray, (params, state, x))
        axes, m = tuple(range(x.ndim - 1)), cases.MOMENTUM
        mean = x.sum(axes) / x[..., 0].size
        var = ((x - mean) ** 2).sum(axes) / x[..., 0].size
        y = p["scale"] * (x - mean) / np.sqrt(var + cases.EPSILON) + p["shift"]
        running = {"mean": m * s["mean"] + (1 - m) * mean, "var": m * s["var"] + (1 - m) * var}
        assert_close(results, (y, running), x.dtype, x.size)


def test_dropout_drops_its_rate_and_keeps_the_mean():
    # k = 5 standard errors: a false alarm once in 1.7 million seeds, and the seed is fixed.
    n, rate = 40_000, cases.RATE
    y, _ = fnn.dropout(rate).apply((), (), jnp.ones(n), key=KEY, train=True)
    error = 5 * (rate * (1 - rate) / n) ** 0.5
    assert abs(float((y == 0).mean()) - rate) < error
    assert abs(float(y.mean()) - 1) < error / (1 - rate)


@in_modes
def test_jit_agrees_with_eager(case, train):
    layer, x = case.make(), inputs("plain")
    args = (*prepared(layer, x), x)
    eager = there_and_back(layer, train, *args)
    assert_close(compiled(layer, train, *args), eager, x.dtype, x.size)


@in_modes
def test_vmap_and_scan_agree_with_one_after_the_other(case, train):
    layer, x = case.make(), inputs("plain")
    xs = jnp.stack([x, 2 * x, x - 1])
    keys = jax.random.split(KEY, 3)
    params, state = prepared(layer, x)

    def one(x, key):
        return compiled(layer, train, params, state, x, key)

    expected = stacked([one(x, key) for x, key in zip(xs, keys, strict=True)])
    assert_close(jax.jit(jax.vmap(one))(xs, keys), expected, x.dtype, x.size)
    _, scanned = jax.lax.scan(lambda carry, both: (carry, one(*both)), None, (xs, keys))
    assert_close(scanned, expected, x.dtype, x.size)


@in_modes
def test_residuals_cross_a_scan(case, train):
    """Forward in one scan and backward in another, as `fnn.repeat` does."""
    layer, x = case.make(), inputs("plain")
    xs = jnp.stack([x, 2 * x])
    params, state = prepared(layer, x)

    def forward(carry, x):
        y, _, residuals = layer.forward(params, state, x, key=KEY, train=train)
        return carry, (normal_like(jax.random.key(4), y), residuals)

    def backward(carry, saved):
        dy, residuals = saved
        return carry, layer.backward(params, residuals, dy)

    _, saved = jax.lax.scan(forward, None, xs)
    _, found = jax.lax.scan(backward, None, saved)
    expected = stacked([compiled(layer, train, params, state, x)[2] for x in xs])
    assert_close(found, expected, x.dtype, x.size)


@in_modes
def test_float32_is_float64_but_for_rounding(case, train):
    x = inputs("plain")
    layer = case.make()
    params, state = prepared(layer, x)
    narrow = compiled(layer, train, params, state, x)
    with jax.enable_x64(True):
        widen = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, "float64"), tree)  # noqa: E731
        dy = widen(normal_like(jax.random.key(4), narrow[0]))

        @jax.jit
        def run(params, state, x, dy):
            y, state, residuals = layer.forward(params, state, x, key=KEY, train=train)
            return y, state, layer.backward(params, residuals, dy)

        reference = run(widen(params), widen(state), widen(x), dy)
        for one, other in zip(narrow, reference, strict=True):
            assert_close(one, other, jnp.float32, x.size)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@in_modes
def test_dtype_is_kept(case, train, dtype):
    with jax.enable_x64(dtype == "float64"):
        results = abstract(case.make(), train, inputs("plain", dtype))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(results)} == {dtype}


@all_cases
def test_init_needs_the_shape_only(case):
    layer, x = case.make(), inputs("leading-axes")
    from_shape = layer.init(KEY, jax.ShapeDtypeStruct(x.shape, x.dtype))
    jax.tree.map(np.testing.assert_array_equal, from_shape, layer.init(KEY, x))


@in_modes
def test_residuals_are_arrays_only(case, train):
    layer, x = case.make(), inputs("plain")
    _, _, residuals = layer.forward(*prepared(layer, x), x, key=KEY, train=train)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(residuals))


@all_cases
def test_gradients_have_the_structure_of_what_they_belong_to(case):
    x = inputs("plain")
    params, state, (_, new_state, (dparams, dx)) = abstract(case.make(), True, x)
    shapes = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
    assert shapes(new_state) == shapes(state)
    assert shapes((dparams, dx)) == shapes((params, x))


@pytest.mark.parametrize(
    "case",
    [
        c
        for c in cases.LAYERS
        if c.name not in ("dense", "stateless", "autodiff", "repeat-autodiff")
    ],
    ids=lambda case: case.name,
)
def test_an_equal_layer_is_not_compiled_again(case):
    x = inputs("plain")
    args = (*prepared(case.make(), x), x)
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(layer, params, state, x):
        traced.append(layer)
        return there_and_back(layer, True, params, state, x)

    for _ in range(2):
        run(case.make(), *args)
    assert len(traced) == 1


@in_modes
def test_jax_grad_through_use_rules_is_the_hand_rule(case, train):
    layer, x = case.make(), inputs("plain")
    params, state = prepared(layer, x)
    y, _, by_hand = compiled(layer, train, params, state, x)
    dy = normal_like(jax.random.key(4), y)
    ruled = fnn.use_rules(layer)

    def objective(params, x):
        y, _ = ruled.apply(params, state, x, key=KEY, train=train)
        return jnp.vdot(y, dy)

    assert_close(jax.jit(jax.grad(objective, (0, 1)))(params, x), by_hand, x.dtype, x.size)


def test_use_rules_runs_the_hand_rule_and_not_autodiff():
    wrong = fnn.stateless(lambda key, x: (), lambda p, x: (x, ()), lambda p, r, dy: ((), 7 * dy))
    ruled = fnn.use_rules(wrong)
    assert jax.grad(lambda x: ruled.apply((), (), x)[0])(1.0) == 7
    assert jax.grad(lambda x: wrong.apply((), (), x)[0])(1.0) == 1


def dropped(leaf):
    changed = leaf.copy()
    changed[(0,) * leaf.ndim] = 0
    return changed


def reversed_order(leaf):
    square = leaf.ndim == 2 and leaf.shape[0] == leaf.shape[1]
    return leaf.T if square else leaf.ravel()[::-1].reshape(leaf.shape)


MUTATIONS = {
    "a dropped term": dropped,
    "1.001 times": lambda leaf: 1.001 * leaf,
    "a flipped sign": lambda leaf: -leaf,
    "a transpose": reversed_order,
    "a constant more": lambda leaf: leaf + 1e-3,
}


def planted(layer, mutation):
    """The layer with a mistake in the gradient of its input."""

    def backward(params, residuals, dy, /):
        dparams, dx = layer.backward(params, residuals, dy)
        return dparams, mutation(dx)

    return fnn.Layer(layer.init, layer.apply, layer.forward, backward)


def mistakes(gradient):
    """Every mutation of every leaf of a gradient that changes it.

    A leaf that is zero by symmetry, as that of a bias in front of a batch norm, has rounding errors
    for a gradient: no multiple of them is a mistake, and only the added constant is planted there.
    """
    leaves, structure = jax.tree.flatten(gradient)
    scale = max(float(np.abs(leaf).max()) for leaf in leaves)
    for i, leaf in enumerate(leaves):
        zero = float(np.abs(leaf).max()) <= 1e-9 * scale
        for name, mutation in MUTATIONS.items():
            mutant = mutation(leaf)
            if (zero and name != "a constant more") or np.array_equal(mutant, leaf):
                continue
            changed = [*leaves[:i], mutant, *leaves[i + 1 :]]
            yield f"{name} in leaf {i}", jax.tree.unflatten(structure, changed)


def assert_mistakes_are_caught(layer, x):
    """Plant every mistake in what the checker compares, and one in the layer that it runs."""
    with jax.enable_x64(True):
        x64 = jnp.asarray(x, jnp.float64)
        result = gradients(layer, True, False, x64, KEY)
        by_hand, reference, _, terms = jax.tree.map(np.asarray, result)
        bound = rounding(jnp.float64, int(terms))
        assert all(row.agrees for row in agreements(by_hand, reference, "auto", bound))
        planted_mistakes = dict(mistakes(by_hand))
        for name, wrong in planted_mistakes.items():
            rows = agreements(wrong, reference, "auto", bound)
            assert not all(row.agrees for row in rows), f"{name} went unnoticed"
    assert planted_mistakes
    with pytest.raises(fnn.GradientError, match="dx is"):
        fnn.check_layer(planted(layer, lambda dx: 1e-3 - 1.001 * dx), x, numeric=False)


@all_cases
def test_every_planted_mistake_is_caught(case):
    assert_mistakes_are_caught(case.make(), inputs("plain"))
