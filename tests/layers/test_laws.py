"""The laws of layers: every case of the table under every law."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn._core.precision import wide_dtype
from fnn._core.tree import combine, inexact_leaves
from fnn.combinators.walk import layers_by_path
from fnn.lab.check import agreements, gradients, moved_place, normal_like
from fnn.lab.summary import residual_bytes
from tests import cases
from tests.operations import same_operations
from tests.tolerance import rounding
from tests.xla import AS_USERS

SEED = 5
KEY = jax.random.key(SEED)
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
    dy = normal_like(DY_KEY, inexact_leaves(y))
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
    double = combine(jax.tree.map(lambda a: 2 * a, inexact_leaves(x)), x)
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
            y, _ = apply(params, state, combine(floats, x), key=RUN_KEY, train=train)
            dy = normal_like(DY_KEY, inexact_leaves(y))
            return sum(
                jax.tree.leaves(jax.tree.map(jnp.vdot, inexact_leaves(y), dy)), jnp.float32(0)
            )

        def forward(carry, x):
            y, new_state, residuals = layer.forward(params, state, x, key=RUN_KEY, train=train)
            dy = normal_like(DY_KEY, inexact_leaves(y))
            return carry, (y, new_state, dy, residuals)

        def backward(carry, saved):
            dy, residuals = saved
            return carry, layer.backward(params, residuals, dy)

        _, (ys, states, dys, residuals) = jax.lax.scan(forward, None, twice(x))
        _, pulled = jax.lax.scan(backward, None, (dys, residuals))
        manual = functools.partial(objective, fnn.use_manual(layer).apply)
        return {
            "jit": one(x),
            "apply": layer.apply(params, state, x, key=RUN_KEY, train=train),
            "vmap": jax.vmap(one)(twice(x)),
            "scan": (ys, states, pulled),
            "use_manual": jax.grad(manual, (0, 1))(params, inexact_leaves(x)),
        }

    return jax.tree.map(np.asarray, run(*place(name), inputs(case)))


def first(stacked):
    return jax.tree.map(lambda a: a[0], stacked)


def widen(tree):
    floats = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), "float64"), inexact_leaves(tree))
    return combine(floats, tree)


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
    # One that rounds on purpose has laws of its own, in tests/train/test_precision.py.
    assert cases.public(fnn, fnn.Layer) - {"mixed_precision"} <= covered


def exact(case, train):
    """What the checker computes of a case, in float64."""
    params, state = place(case.name)
    return gradients(
        case.make(),
        inputs(case),
        params=params,
        state=state,
        seed=SEED,
        train=train,
        numeric=not case.surrogate,
    )


def check(case, x, train, numeric):
    params, state = place(case.name)
    fnn.check_layer(
        case.make(), x, params=params, state=state, seed=SEED, train=train, numeric=numeric
    )


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
    params, state = place(case.name, variant)
    fnn.check_layer(case.make(), x, params=params, state=state, train=train, numeric=False)


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
def test_jax_grad_through_use_manual_is_the_manual_gradient(case, train):
    seen = views(case.name, train)
    terms = longest(place(case.name), seen["jit"])
    assert_close(seen["use_manual"], seen["jit"][2], jnp.float32, terms)


@once
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
        dy = normal_like(KEY, inexact_leaves(y))
        return params, state, y, new_state, layer.backward(params, residuals, dy)

    return jax.eval_shape(run, x)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@in_modes
def test_dtype_is_kept_and_residuals_are_arrays(case, train, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = inputs(case, dtype=dtype)
        params, state, y, new_state, grads = inexact_leaves(abstract(case.make(), train, x))
        expected = dtype if jax.tree.leaves(inexact_leaves(x)) else jnp.result_type(float).name
        assert {leaf.dtype.name for leaf in jax.tree.leaves((params, y, grads))} == {expected}
        # Running state of norms gathers over many steps; what a user's layer keeps is the user's.
        own = {"autodiff", "repeat-autodiff", "stateful"}
        kept = {leaf.dtype for leaf in jax.tree.leaves((state, new_state))}
        assert kept <= {jnp.dtype(expected) if case.name in own else wide_dtype(expected)}


@each()
def test_gradients_have_the_structure_of_what_they_belong_to(case):
    x = inputs(case)
    params, state, _, new_state, (dparams, dx) = abstract(case.make(), True, x)

    def shapes(tree):
        return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

    assert shapes(new_state) == shapes(state)
    assert shapes((dparams, dx)) == shapes((params, inexact_leaves(x)))


@once
@each()
def test_init_needs_the_shape_only(case):
    x = inputs(case)
    spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    from_shape = jax.eval_shape(lambda key: case.make().init(key, spec), KEY)
    from_values = jax.eval_shape(case.make().init, KEY, x)
    assert from_shape == from_values


def plain(model):
    """The model of plain formulas alone: every layer is evaluated by what autodiff sees of it."""
    return fnn.map_layers(
        lambda path, layer: dataclasses.replace(layer, apply=layer.plain, reference=None), model
    )


TWO_FACED = [
    case
    for case in cases.LAYERS
    if any(layer.reference for layer in layers_by_path(case.make()).values())
]


@once
@each(TWO_FACED)
def test_every_derivative_of_apply_is_that_of_the_plain_formula_to_the_last_bit(case):
    """By `jax.grad`, `jax.jvp` of it, and under `jax.vmap`, `jax.checkpoint` and `jax.lax.scan`."""
    (params, state), x = place(case.name), inputs(case)
    direction = normal_like(jax.random.key(6), (params, inexact_leaves(x)))

    def derivatives(layer, params, state, x):
        def objective(here, x=x):
            params, floats = here
            y, new_state = layer.apply(params, state, combine(floats, x), key=RUN_KEY, train=True)
            dy = normal_like(DY_KEY, inexact_leaves(y))
            terms = jax.tree.map(lambda a, b: (a * a * b).sum(), inexact_leaves(y), dy)
            return sum(jax.tree.leaves(terms), jnp.float32(0)), new_state

        here, grad = (params, inexact_leaves(x)), jax.grad(objective, has_aux=True)
        xs = twice(x)

        def of(x):
            return grad((params, inexact_leaves(x)), x)

        return {
            "grad": grad(here),
            "jvp of grad": jax.jvp(lambda here: grad(here)[0], (here,), (direction,)),
            "checkpoint": jax.grad(jax.checkpoint(objective), has_aux=True)(here),
            "vmap": jax.vmap(of)(xs),
            "scan": jax.lax.scan(lambda carry, x: (carry, of(x)), None, xs)[1],
        }

    one, other = (
        jax.jit(functools.partial(derivatives, layer)).trace(params, state, x)
        for layer in (case.make(), plain(case.make()))
    )
    # The same operations have one result, whatever the order of the residuals of a scan.
    if same_operations(one.jaxpr, other.jaxpr):
        return
    results = (
        program.lower().compile(compiler_options=AS_USERS)(params, state, x)
        for program in (one, other)
    )
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture
def optimized():
    """Programs as users get them: the suite does without the optimizations that plan memory."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def temporary(function, *args):
    """The bytes that a compiled program takes beside its inputs and outputs."""
    compiled = jax.jit(function).lower(*args).compile(compiler_options=AS_USERS)
    return compiled.memory_analysis().temp_size_in_bytes


def instructions(layer, face, case):
    """What a compiled program does, its names left out: shape and operation of each instruction."""
    (params, state), x = place(case.name), inputs(case)
    function = jax.jit(lambda params, state, x: getattr(layer, face)(params, state, x)[0])
    text = function.lower(params, state, x).compile(compiler_options=AS_USERS).as_text()
    found = re.findall(r"^ *(?:ROOT )?%\S+ = (\S+ [\w-]+)\(", text, re.MULTILINE)
    # An input that nothing reads stays a parameter of a program that hands it to a call.
    return sorted(line for line in found if not line.endswith(" parameter"))


@once
@each(TWO_FACED)
def test_apply_where_it_is_evaluated_compiles_to_the_program_of_forward(case, optimized):
    """So it takes the same time and memory, not the same within the noise of a clock."""
    layer = case.make()
    assert instructions(layer, "apply", case) == instructions(layer, "forward", case)


@once
def test_the_program_of_a_plain_formula_is_told_from_that_of_forward(optimized):
    case = next(case for case in TWO_FACED if case.name == "lstm")
    layer = case.make()
    assert instructions(layer, "plain", case) != instructions(layer, "forward", case)


WRAPPED = {
    "eval_mode": fnn.eval_mode,
    "remat": fnn.remat,
    "residual": fnn.residual,
    "over_sequence": fnn.over_sequence,
    "serial": lambda layer: fnn.serial(layer, layer),
    "shared": lambda layer: fnn.shared(fnn.serial(layer, layer), {"1": "0"}),
    "repeat": lambda layer: fnn.repeat(layer, 2),
    "reversible": lambda layer: fnn.reversible(layer, layer),
}


@once
@pytest.mark.parametrize("name", WRAPPED)
def test_a_combinator_evaluates_with_the_memory_of_the_layers_in_it(name, optimized):
    """Not with that of their plain formula, which for attention grows with the square of T."""
    layer = fnn.attention(2)
    x = jax.ShapeDtypeStruct((1, 2048, 16 if name == "reversible" else 8), "float32")
    one = jax.ShapeDtypeStruct((1, 2048, 8), "float32")

    def needed(layer, x):
        params, state = jax.eval_shape(layer.init, KEY, x)
        return temporary(lambda p, s, x: layer.apply(p, s, x)[0], params, state, x)

    inside, plain_inside = needed(layer, one), needed(plain(layer), one)
    assert plain_inside > 3 * inside
    # An input and an output of the layers inside may be alive beside each other.
    assert needed(WRAPPED[name](layer), x) <= inside + 8 * one.size * 4


@once
def test_remat_and_reversible_keep_the_bytes_of_their_ends_alone():
    """Whatever the depth and the layers inside, which keep their own."""
    x = jax.ShapeDtypeStruct((4, 64, 8), "float32")

    def kept(layer):
        params, state = jax.eval_shape(layer.init, KEY, x)
        return sum(residual_bytes(layer, params, state, x, KEY).values())

    block = fnn.transformer_block(2)
    half = fnn.mlp()
    assert kept(fnn.remat(block)) <= x.size * 4 + 64
    assert kept(fnn.repeat(fnn.remat(block), 5)) <= 5 * (x.size * 4 + 64)
    assert kept(block) > 5 * x.size * 4
    assert kept(fnn.reversible(half, half, depth=2)) == kept(fnn.reversible(half, half, depth=20))


# From functions that fnn does not know, which may read what changes: equal to themselves alone.
OF_FUNCTIONS = {"stateless", "stateful", "autodiff", "from_function"}


@each(
    [
        case
        for case in cases.LAYERS
        if not OF_FUNCTIONS & cases.makers(case.make()) and case.name != "attention-cross-blocks"
    ]
)
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
def test_second_derivatives_through_use_manual_are_those_of_apply(case, train):
    """Reverse over reverse, and forward over reverse as in `jax.hessian`, along a direction."""
    layer, x = case.make(), inputs(case)
    manual = fnn.use_manual(layer)

    @jax.jit
    def run(params, state, x, direction):
        here = params, inexact_leaves(x)

        def gradient(apply):
            def objective(here):
                params, floats = here
                y, _ = apply(params, state, combine(floats, x), key=RUN_KEY, train=train)
                dy = normal_like(DY_KEY, inexact_leaves(y))
                # A square, lest the second derivative of a linear layer be zero.
                terms = jax.tree.map(lambda a, b: (a * a * b).sum(), inexact_leaves(y), dy)
                return sum(jax.tree.leaves(terms), jnp.float64(0))

            return jax.grad(objective)

        def along(here, apply):
            return sum(
                jax.tree.leaves(jax.tree.map(jnp.vdot, gradient(apply)(here), direction)),
                jnp.float64(0),
            )

        return (
            jax.grad(along)(here, manual.apply),
            jax.jvp(gradient(manual.apply), (here,), (direction,))[1],
            jax.jvp(gradient(layer.apply), (here,), (direction,))[1],
        )

    with jax.enable_x64(True):
        (params, state), x = widen(place(case.name)), widen(x)
        # Drawn outside of the program, where one draw may be worked out twice, rounded otherwise.
        direction = normal_like(jax.random.key(6), (params, inexact_leaves(x)))
        results = run(params, state, x, direction)
        terms = longest(results)
        if not case.surrogate:
            assert_close(results[0], results[2], "float64", terms)
        assert_close(results[1], results[0], "float64", terms)


def test_forward_mode_through_use_manual_says_that_it_does_not_work():
    manual = fnn.use_manual(fnn.tanh())
    with pytest.raises(TypeError, match=r"forward-mode .* custom_vjp"):
        jax.jvp(lambda x: manual.apply((), (), x)[0], (jnp.ones(()),), (jnp.ones(()),))


def test_use_manual_runs_the_manual_gradient_and_not_autodiff():
    wrong = fnn.stateless(lambda key, x: (), lambda p, x: (x, ()), lambda p, r, dy: ((), 7 * dy))
    manual = fnn.use_manual(wrong)
    assert jax.grad(lambda x: manual.apply((), (), x)[0])(1.0) == 7
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
