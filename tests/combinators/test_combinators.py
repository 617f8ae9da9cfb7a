"""Combinators: what they refuse, and the same for all of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import fnn
from tests.core.test_errors import Bad, assert_complains, ones, parametrize

WRAPPERS = {
    "eval_mode": fnn.eval_mode,
    "remat": fnn.remat,
    "residual": fnn.residual,
    "residual_cross": fnn.residual_cross,
    "over_query": fnn.over_query,
    "over_memory": fnn.over_memory,
    "over_sequence": fnn.over_sequence,
    "repeat": lambda layer: fnn.repeat(layer, 2),
    "reversible": lambda layer: fnn.reversible(fnn.relu(), layer),
    "children": fnn.children,
    "map_layers": lambda layer: fnn.map_layers(lambda path, layer: layer, layer),
}


@pytest.mark.parametrize("value", [fnn.relu, "relu", None], ids=["uncalled", "text", "none"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_what_is_no_layer_is_refused(name, value):
    bad = Bad(name, WRAPPERS[name], name, "a layer.*", ".*")
    assert_complains(bad, bad.call, value)


@parametrize(
    [
        Bad("repeat-0", lambda: fnn.repeat(fnn.relu(), 0), "repeat", "times of 1 or more", "0"),
        Bad("repeat-true", lambda: fnn.repeat(fnn.relu(), True), "repeat", "times of .*", "True"),
        Bad(
            "reversible-float",
            lambda: fnn.reversible(fnn.relu(), fnn.relu(), 2.0),
            "reversible",
            "depth of 1 or more",
            r"2\.0",
        ),
        Bad("add-none", lambda: fnn.add()(()), "add", "one array or more", r"\(\)"),
        Bad("concatenate-none", lambda: fnn.concatenate()({}), "concatenate", "one .*", r"\{\}"),
        *(
            Bad(
                f"concatenate-{axis}",
                lambda axis=axis: fnn.concatenate(axis)((ones(2, 3), ones(2, 3))),
                "concatenate",
                r"an axis in -2\.\.1",
                ".*",
            )
            for axis in (2, -3)
        ),
        Bad(
            "concatenate-scalars",
            lambda: fnn.concatenate()((ones(), ones())),
            "concatenate",
            "x with axes",
            r"float32 of shape \(\)",
        ),
        *(
            Bad(
                f"reversible-{name}",
                lambda x=x: fnn.reversible(fnn.relu(), fnn.relu(), 1).init(jax.random.key(0), x),
                "reversible",
                r"x \(\.\.\., 2C\)",
                shape,
            )
            for name, x, shape in (
                ("odd", ones(2, 3), r"float32 of shape \(2, 3\)"),
                ("scalar", ones(), r"float32 of shape \(\)"),
            )
        ),
    ]
)
def test_options_and_inputs_are_refused(bad):
    assert_complains(bad, bad.call)


def test_no_two_layers_of_a_model_draw_from_the_same_key():
    """Siblings, copies, and a layer in a layer: each mask of a dropout is another."""
    drop = fnn.dropout(0.5)
    nested = fnn.serial(fnn.serial(drop), fnn.residual(fnn.serial(drop)))
    model = fnn.parallel(drop, drop, nested, fnn.repeat(drop, 2), fnn.repeat(fnn.serial(drop), 2))
    x = jnp.ones(64)
    params, state = model.init(jax.random.key(0), x)
    _, _, residuals = model.forward(params, state, x, key=jax.random.key(1), train=True)
    masks = [mask.reshape(-1, 64) for mask in jax.tree.leaves(residuals)]
    drawn = {row.tobytes() for mask in masks for row in jax.device_get(mask)}
    assert len(drawn) == sum(len(mask) for mask in masks) == 8


def test_concatenate_looks_at_every_time_step_by_itself_along_the_last_axis_alone():
    steps = ones(2, 1, 3), ones(2, 1, 4)
    y, _ = fnn.concatenate().decode((), (), (), steps, 0)
    assert y.shape == (2, 1, 7)
    with pytest.raises(fnn.InputError):
        fnn.concatenate(-2).decode((), (), (), (steps[0], steps[0]), 0)
