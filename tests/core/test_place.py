"""Parameters and state of a model, and what is nearly so: taken, or refused in words."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn._core.place import check_place, first_difference
from tests.attack.calls import ALTERED
from tests.tolerance import rounding

MODEL = fnn.serial(fnn.dense(3), fnn.batch_norm())
X = jax.random.normal(jax.random.key(1), (4, 2))
PARAMS, STATE = MODEL.init(jax.random.key(0), X)
TAKEN = {"lists for tuples", "a leaf of NumPy", "a leaf in bfloat16"}


def predicted(params, state):
    return fnn.predict(MODEL, params, state, X)


@pytest.mark.parametrize("name", sorted(TAKEN))
def test_other_containers_and_precisions_give_what_the_models_own_give(name):
    change = ALTERED[name]
    loss = 4 * rounding(jnp.bfloat16, 2) if "bfloat16" in name else 0.0
    with jax.numpy_dtype_promotion("standard"):
        y = predicted(change(PARAMS), change(STATE))
    assert jnp.abs(y - predicted(PARAMS, STATE)).max() <= loss * jnp.abs(X).max()


@pytest.mark.parametrize("name", sorted(ALTERED.keys() - TAKEN))
def test_trees_that_are_nearly_those_of_the_model_are_refused(name):
    change = ALTERED[name]
    # Of other sizes the layer cannot tell whether they are at fault, or x.
    with pytest.raises(fnn.InputError, match=r"params as layer\.init makes them|x of shape"):
        predicted(change(PARAMS), STATE)
    if name != "a leaf transposed":  # That of a vector is the same.
        with pytest.raises(fnn.InputError, match=r"state as layer\.init makes them|x of shape"):
            predicted(PARAMS, change(STATE))


def test_where_x_is_at_fault_the_layer_says_so():
    with pytest.raises(fnn.InputError, match=r"fnn.dense: expected x of shape \(\.\.\., 2\)"):
        fnn.predict(MODEL, PARAMS, STATE, X[:, :1])


def test_shapes_stand_for_arrays_only_where_nothing_is_computed():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), X)
    check_place(MODEL, *shapes, X, shapes=True)
    with pytest.raises(fnn.InputError, match="shapes alone"):
        check_place(MODEL, *shapes, X)


@pytest.mark.parametrize(
    ("got", "difference"),
    [
        ({"a": jnp.ones(2), "b": 1.0}, ""),
        ({"a": jnp.ones(2)}, "nothing at b, where"),
        ({"a": jnp.ones(2), "b": 1.0, "c": 0}, "0 at c, where nothing"),
        ({"a": np.ones((2, 1)), "b": 1.0}, r"float64 of shape \(2, 1\) at a, where"),
        ({"a": "text", "b": 1.0}, "'text' at a, where"),
        (None, "nothing at a, where"),
        (3, "3 in place of the tree with 'a'"),
    ],
)
def test_the_first_difference_is_named(got, difference):

    found = first_difference({"a": jnp.ones(2), "b": 1.0}, got, dtypes=False)
    assert re.match(difference + (".*" if difference else "$"), found)
