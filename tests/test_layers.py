"""The laws of layers: every case of the table under every law."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.gradient.check import agreements, gradients, moved_place, normal_like
from fnn.layer import floating, merged
from tests import cases
from tests.tolerance import rounding

KEY = jax.random.key(5)
# As the checker splits it, so that its float64 results are comparable.
PLACE_KEY, DY_KEY, RUN_KEY = jax.random.split(KEY, 3)
# What behaves otherwise in training than out of it: by chance, or by a state.
MODAL = {"dropout", "spatial_dropout", "gaussian_noise", "batch_norm", "autodiff"}


def pairs(chosen=cases.LAYERS):
    """Every case in training and, where that differs, out of it."""
    return [
        pytest.param(
            case,
            train,
            id=f"{case.name}-{'train' if train else 'eval'}",
            # All laws of a case in one process: they share its compiled programs.
            marks=pytest.mark.together(case.name),
        )
        for case in chosen
        for train in (True, False)
        if train or MODAL & cases.makers(case.make())
    ]


def each(chosen=cases.LAYERS):
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=case.name, marks=pytest.mark.together(case.name))
            for case in chosen
        ],
    )


in_modes = pytest.mark.parametrize(("case", "train"), pairs())
# .ci/run leaves these laws out with the oldest JAX.
once = pytest.mark.once


def inputs(case, variant="plain", dtype="float32"):
    shape = case.shapes.get(variant, case.shapes["plain"])
    factor = {"zeros": 0, "large": case.large}.get(variant, 1)
    x = case.draw(np.random.default_rng(3), shape)

    def convert(a):
        a = np.asarray(a)
        if np.issubdtype(a.dtype, np.floating):
            return jnp.asarray(factor * a, dtype)
        return jnp.asarray(a, a.dtype if a.dtype == bool else "int32")

    return jax.tree.map(convert, x)


def there_and_back(layer, train, params, state, x):
    """Run forward and, for a random cotangent, backward."""
    y, new_state, residuals = layer.forward(params, state, x, key=RUN_KEY, train=train)
    dy = normal_like(DY_KEY, floating(y))
    return y, new_state, layer.backward(params, residuals, dy)


@functools.cache
def place(name, variant="plain"):
    """Parameters and state of a case, away from where they start."""
    case = named(name)
    made = jax.jit(lambda x: moved_place(case.make(), x, PLACE_KEY))(inputs(case, variant))
    return jax.tree.map(np.asarray, made)


def named(name):
    return next(case for case in cases.LAYERS if case.name == name)


def twice(x):
    """Two inputs: x, and x with its numbers doubled."""
    double = merged(jax.tree.map(lambda a: 2 * a, floating(x)), x)
    return jax.tree.map(lambda a, b: jnp.stack([a, b]), x, double)


@functools.cache
def views(name, train):
    """One layer seen in every way, by one program: a dict of trees."""
    case = named(name)
    layer = case.make()

    @jax.jit
    def run(params, state, x):
        one = functools.partial(there_and_back, layer, train, params, state)

        def objective(apply, params, floats):
            y, _ = apply(params, state, merged(floats, x), key=RUN_KEY, train=train)
            dy = normal_like(DY_KEY, floating(y))
            return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, floating(y), dy)), jnp.float32(0))

        def forward(carry, x):
            y, new_state, residuals = layer.forward(params, state, x, key=RUN_KEY, train=train)
            dy = normal_like(DY_KEY, floating(y))
            return carry, (y, new_state, dy, residuals)

        def backward(carry, saved):
            dy, residuals = saved
            return carry, layer.backward(params, residuals, dy)

        _, (ys, states, dys, residuals) = jax.lax.scan(forward, None, twice(x))
        _, pulled = jax.lax.scan(backward, None, (dys, residuals))
        ruled = functools.partial(objective, fnn.use_rules(layer).apply)
        return {
            "jit": one(x),
            "apply": layer.apply(params, state, x, key=RUN_KEY, train=train),
            "vmap": jax.vmap(one)(twice(x)),
            "scan": (ys, states, pulled),
            "use_rules": jax.grad(ruled, (0, 1))(params, floating(x)),
        }

    return jax.tree.map(np.asarray, run(*place(name), inputs(case)))


def first(stacked):
    return jax.tree.map(lambda a: a[0], stacked)


def widen(tree):
    floats = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), "float64"), floating(tree))
    return merged(floats, tree)


def longest(*trees):
    """No sum is longer than the largest array."""
    return max(np.size(leaf) for leaf in jax.tree.leaves(trees))


def assert_close(one, other, dtype, terms):
    """Equal within the rounding of a sum of `terms`, relative to the largest number of all."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    left = [np.asarray(a, np.float64) for a in jax.tree.leaves(one)]
    right = [np.asarray(a, np.float64) for a in jax.tree.leaves(other)]
    scale = max([np.abs(a).max(initial=0) for a in right], default=0) or 1
    for a, b in zip(left, right, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max(initial=0) <= rounding(dtype, terms) * scale


def assert_results_close(one, other, terms):
    """Outputs, states and gradients agree, each on its own scale, within rounding of float32."""
    for left, right in zip(one, other, strict=True):
        assert_close(left, right, jnp.float32, terms)


def test_the_table_has_every_public_layer():
    covered = set().union(*(cases.makers(case.make()) for case in cases.LAYERS))
    assert cases.public(fnn, fnn.Layer) <= covered


def exact(case, train):
    """What the checker computes of a case, in float64."""
    numeric = not case.surrogate
    return gradients(
        case.make(), inputs(case), place=place(case.name), key=KEY, train=train, numeric=numeric
    )


def check(case, x, train, numeric):
    fnn.check_layer(case.make(), x, place=place(case.name), key=KEY, train=train, numeric=numeric)


@in_modes
def test_backward_is_the_derivative_by_autodiff_and_by_differences(case, train):
    x = inputs(case)
    check(case, x, train, not case.surrogate)


@once
@pytest.mark.parametrize("variant", ["zeros", "large"])
@in_modes
def test_backward_is_the_derivative_where_inputs_are_zero_or_large(case, train, variant):
    # At a kink, and where a norm bends within the step of a difference, autodiff alone is asked.
    sharp = variant == "zeros" and (case.kink or case.bent)
    x = inputs(case, variant)
    check(case, x, train, not (sharp or case.surrogate))


@once
@pytest.mark.parametrize(
    ("case", "train", "variant"),
    [
        pytest.param(*pair.values, variant, id=f"{pair.id}-{variant}", marks=pair.marks)
        # A layer made of others takes the shapes that they take.
        for pair in pairs([case for case in cases.LAYERS if case.formula])
        for variant in list(pair.values[0].shapes)[1:]
    ],
)
def test_backward_is_the_derivative_at_other_shapes(case, train, variant):
    x = inputs(case, variant)
    fnn.check_layer(case.make(), x, place=place(case.name, variant), train=train, numeric=False)


@each([case for case in cases.LAYERS if case.formula])
def test_apply_is_the_formula_of_the_docstring(case):
    with jax.enable_x64(True):
        (params, state), x = widen(place(case.name)), inputs(case, dtype="float64")
        y, _ = case.make().apply(params, state, x)
        expected = case.formula(*jax.tree.map(np.asarray, (params, state, x)))
        assert_close(y, expected, "float64", longest(params, x, y))


@once
@in_modes
def test_apply_is_forward_without_residuals(case, train):
    seen = views(case.name, train)
    assert_results_close(seen["apply"], seen["jit"][:2], longest(place(case.name), seen["jit"]))


@once
@in_modes
def test_vmap_agrees_with_one_after_the_other(case, train):
    seen = views(case.name, train)
    terms = longest(place(case.name), seen["jit"])
    assert_results_close(first(seen["vmap"]), seen["jit"], terms)
    assert_results_close(seen["vmap"], seen["scan"], terms)


@once
@in_modes
def test_residuals_cross_from_one_scan_to_another(case, train):
    """Forward in one scan and backward in the next, as `fnn.repeat` does."""
    seen = views(case.name, train)
    terms = longest(place(case.name), seen["jit"])
    assert_results_close(first(seen["scan"]), seen["jit"], terms)


@once
@in_modes
def test_jax_grad_through_use_rules_is_the_hand_rule(case, train):
    seen = views(case.name, train)
    terms = longest(place(case.name), seen["jit"])
    assert_close(seen["use_rules"], seen["jit"][2], jnp.float32, terms)


@in_modes
def test_float32_is_float64_but_for_rounding(case, train):
    seen = views(case.name, train)["jit"]
    wide = exact(case, train)
    results = wide.y, wide.state, wide.manual
    assert_results_close(seen, results, longest(place(case.name), seen))


def abstract(layer, train, x):
    """Shapes and dtypes of all that init, forward and backward return; nothing is compiled."""

    def run(x):
        params, state = layer.init(KEY, x)
        y, new_state, residuals = layer.forward(params, state, x, key=RUN_KEY, train=train)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(residuals))
        dy = normal_like(KEY, floating(y))
        return params, state, y, new_state, layer.backward(params, residuals, dy)

    return jax.eval_shape(run, x)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@in_modes
def test_dtype_is_kept_and_residuals_are_arrays(case, train, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = inputs(case, dtype=dtype)
        results = floating(abstract(case.make(), train, x))
        expected = dtype if jax.tree.leaves(floating(x)) else jnp.result_type(float).name
        assert {leaf.dtype.name for leaf in jax.tree.leaves(results)} == {expected}


@each()
def test_gradients_have_the_structure_of_what_they_belong_to(case):
    x = inputs(case)
    params, state, _, new_state, (dparams, dx) = abstract(case.make(), True, x)

    def shapes(tree):
        return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

    assert shapes(new_state) == shapes(state)
    assert shapes((dparams, dx)) == shapes((params, floating(x)))


@once
@each()
def test_init_needs_the_shape_only(case):
    x = inputs(case)
    spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    from_shape = jax.eval_shape(lambda key: case.make().init(key, spec), KEY)
    from_values = jax.eval_shape(case.make().init, KEY, x)
    assert from_shape == from_values


@each([case for case in cases.LAYERS if not {"stateless", "autodiff"} & cases.makers(case.make())])
def test_an_equal_layer_is_an_equal_static_argument(case):
    assert case.make() == case.make()
    assert hash(case.make()) == hash(case.make())


def test_an_equal_layer_is_not_compiled_again():
    traced = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(layer, x):
        traced.append(layer)
        return layer.apply(((), ()), ((), ()), x)[0]

    for _ in range(2):
        run(fnn.serial(fnn.relu(), fnn.leaky_relu(0.2)), jnp.ones(3))
    assert len(traced) == 1


@once
@pytest.mark.parametrize(
    ("case", "train"), [pair for pair in pairs() if pair.values[0].formula or pair.values[1]]
)
def test_second_derivatives_through_use_rules_are_those_of_apply(case, train):
    """Reverse over reverse, and forward over reverse as in `jax.hessian`, along a direction."""
    layer, x = case.make(), inputs(case)
    ruled = fnn.use_rules(layer)

    @jax.jit
    def run(params, state, x, direction):
        here = params, floating(x)

        def gradient(apply):
            def objective(here):
                params, floats = here
                y, _ = apply(params, state, merged(floats, x), key=RUN_KEY, train=train)
                dy = normal_like(DY_KEY, floating(y))
                # A square, lest the second derivative of a linear layer be zero.
                terms = jax.tree.map(lambda a, b: (a * a * b).sum(), floating(y), dy)
                return sum(jax.tree.leaves(terms), jnp.float64(0))

            return jax.grad(objective)

        def along(here, apply):
            return sum(
                jax.tree.leaves(jax.tree.map(jnp.vdot, gradient(apply)(here), direction)),
                jnp.float64(0),
            )

        return (
            jax.grad(along)(here, ruled.apply),
            jax.jvp(gradient(ruled.apply), (here,), (direction,))[1],
            jax.jvp(gradient(layer.apply), (here,), (direction,))[1],
        )

    with jax.enable_x64(True):
        (params, state), x = widen(place(case.name)), widen(x)
        # Drawn outside of the program, where one draw may be worked out twice, rounded otherwise.
        direction = normal_like(jax.random.key(6), (params, floating(x)))
        results = run(params, state, x, direction)
        terms = longest(results)
        if not case.surrogate:
            assert_close(results[0], results[2], "float64", terms)
        assert_close(results[1], results[0], "float64", terms)


def test_forward_mode_through_use_rules_says_that_it_does_not_work():
    ruled = fnn.use_rules(fnn.tanh())
    with pytest.raises(TypeError, match=r"forward-mode .* custom_vjp"):
        jax.jvp(lambda x: ruled.apply((), (), x)[0], (jnp.ones(()),), (jnp.ones(()),))


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


def mistakes(gradient):
    """Every mutation of every leaf of a gradient that changes it.

    A leaf that is zero by symmetry, as that of a bias in front of a batch norm, has rounding errors
    for a gradient: no multiple of them is a mistake, and only the added constant is planted there.
    """
    leaves, structure = jax.tree.flatten(gradient)
    scale = max((float(np.abs(leaf).max(initial=0)) for leaf in leaves), default=0)
    for i, leaf in enumerate(leaves):
        zero = float(np.abs(leaf).max(initial=0)) <= 1e-9 * scale
        for name, mutation in MUTATIONS.items():
            mutant = mutation(leaf) if leaf.size else leaf
            if (zero and name != "a constant more") or np.array_equal(mutant, leaf):
                continue
            changed = [*leaves[:i], mutant, *leaves[i + 1 :]]
            yield f"{name} in leaf {i}", jax.tree.unflatten(structure, changed)


def unnoticed(found):
    """Plant every mistake in what the checker compares: how many, and those that it misses."""
    by_hand, reference = jax.tree.map(np.asarray, (found.manual, found.auto))
    bound = rounding(jnp.float64, int(found.terms))
    assert all(row.agrees for row in agreements(by_hand, reference, "auto", bound))
    planted = dict(mistakes(by_hand))
    missed = [
        name
        for name, wrong in planted.items()
        if all(row.agrees for row in agreements(wrong, reference, "auto", bound))
    ]
    return len(planted), missed


@once
@each()
def test_every_planted_mistake_is_caught(case):
    planted, missed = unnoticed(exact(case, True))
    # A pool of indices or an embedding of integers alone has nothing to be mistaken about.
    assert planted
    assert missed == []


def planted_in(layer, mutation):
    """The layer with a mistake in the gradient of its input."""

    def backward(params, residuals, dy, /):
        dparams, dx = layer.backward(params, residuals, dy)
        return dparams, mutation(dx)

    return fnn.Layer(layer.init, layer.apply, layer.forward, backward)


@each([case for case in cases.LAYERS if case.name in ("dense", "gelu", "batch_norm", "serial")])
def test_the_checker_raises_for_a_mistake_in_a_layer(case):
    wrong = planted_in(case.make(), lambda dx: 1e-3 - 1.001 * dx)
    with pytest.raises(fnn.GradientError, match="dx is"):
        fnn.check_layer(wrong, inputs(case), numeric=False)
