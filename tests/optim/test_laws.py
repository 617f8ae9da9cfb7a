"""Laws of optimizers: each of the table against its paper, against optax, and under JAX."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from fnn import InputError, optim
from fnn.optim import schedule
from tests.cases import makers, public
from tests.cases.optimizers import OPTIMIZERS
from tests.optim.test_noise import CASES as NOISES
from tests.tolerance import rounding

STEPS = 10
# Optimizers made with a schedule inside, which cannot be one.
SCHEDULED = {"scheduled", "schedule_free_sgd-warm_up"}
# Numbers that do nothing: for the sake of optax, or because other tests look at what they do.
TOOTHLESS = {
    "adagrad-start": {1e-30},
    "adafactor-floor": {1e-3},
    "ema": {0.6},
    "reduce_on_plateau": {0.2, 0.3},
    "muon-without-nesterov": {1e-30},
}
all_optimizers = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)
with_optax = pytest.mark.parametrize(
    "case", [c for c in OPTIMIZERS if c.optax], ids=lambda c: c.name
)


def tree(seed, dtype="float64"):
    random = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape), dtype)

    return {"a": draw(2, 3), "b": (draw(4), draw())}


def flat(values):
    return np.asarray(ravel_pytree(values)[0], np.float64)


def objective(params, slopes):
    """Return ``sum g p + sin p``: another slope g every step, and a Hessian that is diagonal."""
    terms = jax.tree.map(lambda p, g: (g * p + jnp.sin(p)).sum(), params, slopes)
    return sum(jax.tree.leaves(terms))


def at(slopes):
    """Return what optimizers are handed: the gradient of step t as a function of the parameters."""

    def gradient_at(params):
        grads = jax.tree.map(lambda p, g: g + jnp.cos(p), params, slopes)
        return (objective(params, slopes), ()), grads

    return gradient_at


def scanned(optimizer, take=optim.take_step):
    """Take the steps in one scan, each under a condition; return the updates of each, flat."""
    slopes = jax.tree.map(lambda *a: jnp.stack(a), *(tree(t + 1) for t in range(STEPS)))

    def step(carry, given):
        params, state = carry
        slope, wanted = given

        def taken():
            return take(optimizer, at(slope), params, state)[1:]

        still = jax.tree.map(jnp.zeros_like, params), state
        update, state = jax.lax.cond(wanted, taken, lambda: still)
        return (jax.tree.map(jnp.add, params, update), state), ravel_pytree(update)[0]

    start = tree(0)
    given = slopes, jnp.ones(STEPS, bool)
    return jax.lax.scan(step, (start, optimizer.init(start)), given)[1]


@functools.cache
def ours(name):
    """Return the ten updates of an optimizer of the table: compiled, scanned, under conditions."""
    case = next(case for case in OPTIMIZERS if case.name == name)
    with jax.enable_x64(True):
        return np.asarray(jax.jit(lambda: scanned(case.make(case.value)))())


def take_optax(optimizer, gradient_at, params, state):
    """Take a step with optax, which asks for what else it wants by name."""
    (value, _), grads = gradient_at(params)
    more = {"value": value, "grad_fn": lambda p, i: gradient_at(p)[1]}
    asked = inspect.signature(optimizer.update).parameters
    if "extra_args" not in asked:
        more = {name: more[name] for name in more if name in asked}
    updates, state = optimizer.update(grads, state, params, **more)
    return (value, ()), updates, state


def on_paper(case, steps=STEPS):
    """Return the updates that the paper makes of the same steps, in numpy."""
    params, structure = jax.tree.flatten(tree(0))
    params, memory, updates = [np.asarray(p) for p in params], None, []
    for t in range(steps):
        slopes = [np.asarray(g) for g in jax.tree.leaves(tree(t + 1))]

        def gradient_at(params, slopes=slopes):
            pairs = list(zip(params, slopes, strict=True))
            value = sum((g * p + np.sin(p)).sum() for p, g in pairs)
            return value, [g + np.cos(p) for p, g in pairs]

        update, memory = case.paper(t, gradient_at, params, memory)
        params = [p + u for p, u in zip(params, update, strict=True)]
        updates.append(flat(jax.tree.unflatten(structure, update)))
    return np.stack(updates)


def assert_close(one, other, precision="float64"):
    """Equal within the rounding of ten steps on the numbers of the tree, by the largest."""
    bound = rounding(precision, flat(tree(0)).size * STEPS) * np.abs(other).max()
    np.testing.assert_allclose(one, other, rtol=0, atol=bound)


def plain(case):
    return case.make(case.value).step is None


def program(optimizer):
    """Return what a step compiles to, in the words of JAX."""
    params = tree(0, "float32")

    def step(params, state):
        return optim.take_step(optimizer, at(params), params, state)

    return str(jax.make_jaxpr(step)(params, optimizer.init(params)))


def numbers(optimizer):
    """Return what a step is lowered to, the counting aside, which is left out where none asks."""
    params = tree(0, "float32")

    def step(params, state):
        _, updates, state = optim.take_step(optimizer, at(params), params, state)
        floats = [a for a in jax.tree.leaves(state) if jnp.issubdtype(a.dtype, jnp.floating)]
        return updates, floats

    return jax.jit(step).lower(params, optimizer.init(params)).as_text()


def specs(values):
    return jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), values)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@all_optimizers
def test_ten_steps_in_float64_are_those_of_the_paper(case, float64):
    assert_close(ours(case.name), on_paper(case))


@with_optax
def test_ten_steps_are_those_of_optax(case, float64):
    # Optax promotes dtypes and ranks; the optimizers of fnn under test stay strict.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = jax.jit(lambda: scanned(case.optax(), take_optax))()
    assert_close(ours(case.name), expected, case.peer)


def changed(call):
    """Return a call that made an optimizer with its numbers to be set, and their values.

    Counts and flags, which shape the program, are left as they are.
    """
    args, kwargs = list(call.args), dict(call.kwargs)
    parts = [(args, i) for i in range(len(args))] + [(kwargs, name) for name in kwargs]
    values, rebuilds = [], []
    for place, name in parts:
        value = place[name]
        if isinstance(value, Mapping):
            value = dict(value)
            place[name] = value
            parts += [(value, key) for key in value]
        elif isinstance(value, float):
            values.append(value)
            rebuilds.append((place, name, next))
        elif getattr(value, "call", None) is not None:
            rebuild, inner = changed(value.call)
            values += inner
            rebuilds.append((place, name, rebuild))

    def rebuild(numbers):
        for place, name, make in rebuilds:
            place[name] = make(numbers)
        return call.make(*args, **kwargs)

    return rebuild, values


def test_public_optimizers_all_stand_in_the_table():
    made = set().union(*(makers(case.make(case.value)) for case in OPTIMIZERS))
    # Noise has a table and laws of its own, and so have constraints.
    noises = {case.name for case in NOISES} | {"perturbed", "weight_noise", "project"}
    assert public(optim, optim.Optimizer) - made == noises


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@all_optimizers
def test_updates_look_like_gradients_and_the_state_keeps_its_looks(case, dtype):
    with jax.enable_x64(dtype == "float64"):

        def twice(params, slopes):
            optimizer, looks = case.make(case.value), []
            state = optimizer.init(params)
            for _ in range(2):
                looks.append(state)
                _, updates, state = optim.take_step(optimizer, at(slopes), params, state)
            return updates, looks[0], looks[1], state

        params = tree(0, dtype)
        updates, *states = jax.eval_shape(twice, params, tree(1, dtype))

        def form(values):
            return jax.tree.map(lambda a: (a.shape, a.dtype), values)

        assert form(updates) == form(params)
        assert specs(states[0]) == specs(states[1]) == specs(states[2])


@pytest.mark.once
@all_optimizers
def test_every_number_of_a_optimizer_may_be_traced_and_mapped_over_and_bites(case, float64):
    # Were one of them neutral in the table, or not used, its row would be the first once more.
    rebuild, values = changed(case.make(case.value).call)
    others = np.array([values, *(np.array(values) + np.diag(values) * -0.1)])
    rows = jax.jit(jax.vmap(lambda numbers: scanned(rebuild(iter(numbers)))))(jnp.array(others))
    assert_close(rows[0], ours(case.name))
    for row, value in zip(rows[1:], values, strict=True):
        if value not in TOOTHLESS.get(case.name, ()):
            with pytest.raises(AssertionError):
                assert_close(row, rows[0])


BAD_NUMBERS = {
    "nan": float("nan"),
    "inf": float("inf"),
    "numpy's nan": np.float32("nan"),
    "jax's inf": jnp.float32(jnp.inf),
    "beyond float32": 1e300,
    "below": np.float32(-1),
    "complex": 1j,
    "text": "0.5",
    "flag": True,
    "nothing": None,
    "several": np.ones(2),
}


@pytest.mark.parametrize("bad", BAD_NUMBERS)
@all_optimizers
def test_every_number_of_an_optimizer_is_judged_by_its_value(case, bad):
    rebuild, values = changed(case.make(case.value).call)
    for i in range(len(values)):
        others = [*values[:i], BAD_NUMBERS[bad], *values[i + 1 :]]
        with pytest.raises(InputError, match="expected"):
            rebuild(iter(others))


@all_optimizers
def test_a_hyper_parameter_may_be_a_schedule(case):
    if case.name in SCHEDULED:
        return
    assert numbers(case.make(lambda step: case.value)) == numbers(case.make(case.value))


@all_optimizers
def test_a_schedule_is_asked_for_the_number_of_the_step(case):
    if case.name in SCHEDULED:
        return
    asked, params = [], tree(0, "float32")

    def schedule(step):
        asked.append(step)
        return case.value

    optimizer = case.make(schedule)
    asked.clear()
    # Traced, not compiled.
    jax.eval_shape(lambda p: optim.take_step(optimizer, at(p), p, optimizer.init(p)), params)
    assert asked
    assert {(jnp.shape(step), jnp.result_type(step).kind) for step in asked} == {((), "i")}


@pytest.mark.parametrize("case", [c for c in OPTIMIZERS if plain(c)], ids=lambda c: c.name)
def test_optimizers_mix_with_optax_both_ways(case):
    optimizer, half = case.make(case.value), optax.scale(0.5)
    mixed = program(optim.chain(half, optimizer, half))
    assert mixed == program(optax.chain(half, optimizer, half)) != program(optimizer)


@all_optimizers
def test_an_equal_optimizer_and_a_later_step_need_no_second_compilation(case):
    params, traces = tree(0, "float32"), []

    @functools.partial(jax.jit, static_argnums=0)
    def step(optimizer, params, state):
        traces.append(optimizer)
        _, updates, state = optim.take_step(optimizer, at(params), params, state)
        return jax.tree.map(jnp.add, params, updates), state

    made = case.make(case.value)
    state = made.init(params)
    for _ in range(3):
        # A function of the test's own is equal to itself alone, and so is what is made of it.
        again = made if case.name == "masked" else case.make(case.value)
        params, state = step.eval_shape(again, params, state)
    assert len(traces) == 1


def minimized(optimizer, slope_of, start, steps):
    """Return where an optimizer leads from the start, by the objective's gradient."""

    def gradient_at(params):
        value, grads = jax.value_and_grad(slope_of)(params)
        return (value, ()), grads

    def step(_, carry):
        params, state = carry
        _, updates, state = optim.take_step(optimizer, gradient_at, params, state)
        return jax.tree.map(jnp.add, params, updates), state

    params, state = jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))
    return optim.eval_params(state, params)


def quadratic(p):
    return (jnp.linspace(0.5, 2.0, 6).reshape(2, 3) * (p - 1) ** 2).sum() / 2


def rosenbrock(p):
    return ((1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2).sum()


# Optimizers by name, and learning rates for the two functions. All but the schedule-free ones take
# one that falls to 0, for the sake of those that step by the sign or the norm of the gradient.
DESCENTS = {
    "sgd": (optim.sgd, 0.5, 1e-3),
    "momentum": (optim.momentum, 0.2, 1e-3),
    "nesterov": (optim.nesterov, 0.2, 1e-3),
    "adagrad": (optim.adagrad, 1.0, 0.5),
    "adadelta": (optim.adadelta, 30.0, 10.0),
    "rmsprop": (optim.rmsprop, 0.05, 2e-3),
    "adam": (optim.adam, 0.05, 0.01),
    "adamw": (functools.partial(optim.adamw, weight_decay=1e-4), 0.05, 0.01),
    "nadam": (optim.nadam, 0.05, 0.01),
    "radam": (optim.radam, 0.2, 1e-3),
    "amsgrad": (optim.amsgrad, 0.5, 0.5),
    "adamax": (optim.adamax, 0.05, 0.01),
    "lion": (optim.lion, 0.02, 2e-3),
    "lars": (functools.partial(optim.lars, trust=1.0), 0.02, 0.01),
    "lamb": (optim.lamb, 0.01, 0.01),
    "adafactor": (optim.adafactor, 0.02, 0.02),
    "muon": (optim.muon, 0.05, 0.01),
    "schedule_free_sgd": (optim.schedule_free_sgd, 1.0, 2e-3),
    "schedule_free_adamw": (optim.schedule_free_adamw, 0.2, 0.02),
    "lbfgs": (optim.lbfgs, 1.0, 0.1),
    "backtracking": (lambda lr: optim.backtracking(optim.lbfgs(lr)), 1.0, 1.0),
    "sophia": (functools.partial(optim.sophia, key=jax.random.key(0)), 0.1, 0.01),
    "sam": (lambda lr: optim.chain(optim.sam(1e-3), optim.sgd(lr)), 0.5, 1e-3),
    "ema": (lambda lr: optim.chain(optim.sgd(lr), optim.ema(0.9)), 0.5, 1e-3),
    "lookahead": (lambda lr: optim.chain(optim.momentum(lr), optim.lookahead()), 0.2, 1e-3),
    "accumulate": (lambda lr: optim.accumulate(optim.momentum(lr), 2), 0.2, 1e-3),
}


@pytest.mark.parametrize("name", DESCENTS)
def test_optimizers_find_the_minimum_of_a_quadratic_and_of_rosenbrocks_function(name, float64):
    make, *rates = DESCENTS[name]
    starts = jnp.full((2, 3), 3.0), jnp.array([[-1.2], [1.0]])
    for rate, function, start, steps in zip(
        rates, (quadratic, rosenbrock), starts, (500, 20_000), strict=True
    ):
        falling = schedule.polynomial(rate, 0.0, steps)
        optimizer = make(rate if name.startswith("schedule_free") else falling)
        end = jax.jit(functools.partial(minimized, optimizer, function, steps=steps))(start)
        assert function(end) <= 1e-4 * function(start)
