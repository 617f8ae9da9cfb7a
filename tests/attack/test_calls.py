"""A short attack in the suite; the long one is ``python -m tests.attack.calls``."""

import inspect

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings, strategies as st

import fnn
from tests.attack.calls import (
    ALTERED,
    BAD,
    Target,
    Verdict,
    WrongError,
    alike,
    attacks,
    attempt,
    constructors,
    finite_result,
    functions,
    of,
)
from tests.test_house import PUBLIC

# Calls of each kind: what makes a layer runs it, which compiles.
BUDGETS = {"layer": 25, "loss": 50, "optimizer": 40, "noise": 20, "other": 40, "function": 150}


# Modules whose names are public one by one.
LISTS = (
    *(fnn.optim.schedule, fnn.optim.distributions, fnn.optim.constraint),
    *(fnn.train.callbacks, fnn.train.transforms),
)
# Public, called with arguments, and yet not attacked.
EXCUSED = {
    "fnn.train.TrainStep": "made by `train_step`, which checks what goes into it",
    "fnn.optim.noise.distributions.distribution_of": "inside of fnn, for names that were checked",
}


def named_members(module):
    """The functions and classes that a module defines and does not hide, by their names."""
    return {
        f"{module.__name__}.{name}": value
        for name, value in vars(module).items()
        if name[0] != "_" and callable(value) and getattr(value, "__module__", "") in SOURCES
    }


SOURCES = {module.__name__ for module in LISTS}


def takes_something(thing):
    """Whether a call of it can go wrong: not of what fnn returns, which is read, and raises."""
    returned = hasattr(thing, "_fields") or (
        inspect.isclass(thing) and issubclass(thing, Exception)
    )
    return not returned and bool(inspect.signature(thing).parameters)


def unattacked(things, targets):
    """The names of what no target calls."""
    called = {inspect.unwrap(target.function) for target in targets}
    return {
        name
        for name, thing in things.items()
        if inspect.unwrap(thing) not in called and takes_something(thing)
    }


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    """Everything that is attacked by its kind, with the folder that takes what is written."""
    folder = tmp_path_factory.mktemp("attack")
    found = {kind: [] for kind in BUDGETS}
    for target in constructors():
        kind = target.name.partition(" ")[0]
        found[kind if kind in BUDGETS else "other"].append(target)
    found["function"] = functions(folder)
    return folder, found


def test_every_public_name_is_under_attack_or_excused_in_words(targets):
    things = dict(PUBLIC)
    for module in LISTS:
        things |= named_members(module)
    every = [target for some in targets[1].values() for target in some]
    assert unattacked(things, every) == set(EXCUSED)
    assert all(EXCUSED.values())


def test_a_public_name_that_nobody_attacks_is_seen():
    things = {"one": fnn.dense, "another": fnn.tanh, "many": careless, "record": fnn.History}
    assert unattacked(things, [of(fnn.dense, 2)]) == {"many"}


@pytest.fixture(scope="module")
def attacked(targets):
    """Every attack by the kind of its target, in a folder that takes what is written."""
    folder, found = targets
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield {kind: list(attacks(some)) for kind, some in found.items()}


@pytest.mark.parametrize("kind", BUDGETS)
def test_odd_arguments_are_refused_or_right(kind, attacked):
    @settings(max_examples=BUDGETS[kind], deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(attacked[kind]))
    def never_bad(attack):
        # As users have it: what is strict in the suite is an error of JAX.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            verdict, text = attempt(attack)
        assert verdict not in BAD, f"{attack}: {verdict.value}: {text}"

    never_bad()


# Quick enough to be given every odd value in every place.
WHOLLY = (
    *("Loss", "Estimator", "Landscape", "Schedule", "Constraint", "Distribution", "constructor"),
    *("BatchTransform", "Optimizer", "table", "choose", "interleaved", "concatenate", "eval_mode"),
    *("in_bytes", "rounding", "scale_learning_rate", "nonfinite_leaf"),
)


@pytest.mark.parametrize("name", WHOLLY)
def test_every_odd_argument_is_refused_or_right(name, attacked):
    chosen = [attack for attack in attacked["function"] if attack.target.name == name]
    assert len(chosen) > 50
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = {str(attack): attempt(attack) for attack in chosen}
    assert {name: one for name, one in found.items() if one[0] in BAD} == {}


def careless(size: float, params: dict = ()):
    if size == 2:
        raise TypeError
    if size == 3:
        raise fnn.InputError("size below 3", "3", "pass less")
    if size == 0.5:
        alike(jnp.ones(1), 2 * jnp.ones(1), "half")
    weight = params["weight"] if params else jnp.ones(1)
    return weight / (size if size is not None else 1)


VERDICTS = {
    "1": Verdict.RIGHT,
    "2": Verdict.OPAQUE,
    "3": Verdict.REFUSED,
    "0": Verdict.NOT_FINITE,
    "0.5": Verdict.WRONG,
    "None": Verdict.SILENT,
    "text": Verdict.OPAQUE,
}


@pytest.mark.parametrize("odd", VERDICTS)
def test_a_careless_function_is_told_from_a_careful_one(odd):
    target = Target("careless", careless, (1.0,), {}, finite_result)
    (attack,) = (a for a in attacks([target]) if a.parameter == "size" and a.odd == odd)
    assert attempt(attack)[0] is VERDICTS[odd]


def test_a_function_that_trusts_its_parameters_is_seen():
    target = of(careless, 1.0, {"weight": jnp.ones((2, 3))}, data="params")
    found = {a.odd: attempt(a)[0] for a in attacks([target]) if a.odd in ALTERED}
    assert found["a leaf in bfloat16"] is Verdict.RIGHT
    assert found["a leaf short"] is found["a leaf of text"] is Verdict.OPAQUE


def test_what_is_not_finite_in_the_numbers_of_the_user_is_theirs():
    target = of(jnp.sum, jnp.ones(2), data="a")
    (attack,) = (a for a in attacks([target]) if a.parameter == "a" and a.odd == "nan")
    assert attempt(attack)[0] is Verdict.RIGHT
    with pytest.raises(WrongError):
        finite_result(jnp.nan)
