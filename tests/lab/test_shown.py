"""What the laboratory finds is a table in a session, without print."""

import jax
import jax.numpy as jnp
import pytest

import fnn
from fnn.lab import Plan

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 2))
MODEL, LOSS = fnn.dense(2), fnn.losses.squared_error()
PARAMS, STATE = MODEL.init(KEY, X)
# By name: how it is found, and a line of its table.
FOUND = {
    "Summary": (lambda: fnn.summary(MODEL, X), "path   layer  output  parameters  residuals"),
    "Report": (lambda: fnn.check_layer(MODEL, X), "leaf"),
    "Comparison": (
        lambda: fnn.compare(MODEL, LOSS, PARAMS, STATE, (X, jnp.zeros((3, 2))), key=KEY),
        "gradient",
    ),
    "Activations": (
        lambda: fnn.trace_activations(MODEL, LOSS, PARAMS, STATE, (X, X), key=KEY),
        "path",
    ),
    "Plan": (lambda: Plan(1, 8, 0, 0, 4, 12, 0, 12, 0, {}), "1 device"),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_record_is_shown_as_its_table(name):
    make, head = FOUND[name]
    found = make()
    assert type(found).__name__ == name
    lines = repr(found).splitlines()
    assert lines[0].startswith(head)
    assert len(lines) > 2
    assert str(found) == repr(found)
