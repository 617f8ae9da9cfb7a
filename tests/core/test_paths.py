"""Values by paths: the path itself counts before every pattern, wherever a mapping has paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import fnn
from fnn._core import paths
from fnn.train.sharding import layout_of

KEY = jax.random.key(0)
LAYERS = {"hidden": fnn.dense(3), "out": fnn.dense(3)}
MODEL = fnn.serial(**LAYERS)
X = jax.ShapeDtypeStruct((2, 3), "float32")
PARAMS, _ = MODEL.init(KEY, jnp.ones((2, 3)))
GRADS = jax.tree.map(jnp.ones_like, PARAMS)
# It stands behind a pattern that means it too.
PATH = "out/bias"


def moved(optimizer):
    """Which leaves an optimizer moves, by path."""
    updates, _ = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    return {fnn_path(at): bool((u != 0).any()) for at, u in jax.tree.leaves_with_path(updates)}


def fnn_path(at):
    return jax.tree_util.keystr(at, simple=True, separator="/")


def by_path(values):
    none, some = fnn.optim.sgd(0.0), fnn.optim.sgd(0.1)
    return moved(fnn.optim.by_path({p: some if one else none for p, one in values.items()}))


def noise(values):
    # Variances; the gradient is taken off again.
    made = fnn.optim.gradient_noise({p: float(one) for p, one in values.items()}, key=KEY)
    updates, _ = made.update(GRADS, made.init(PARAMS), PARAMS)
    return {fnn_path(at): bool((u != 1).any()) for at, u in jax.tree.leaves_with_path(updates)}


def constraint(values):
    keep, far = (lambda p: p), (lambda p: p + 1)
    project = fnn.optim.project({p: far if one else keep for p, one in values.items()})
    updates, _ = project.update(GRADS, project.init(PARAMS), PARAMS)
    return {fnn_path(at): bool((u != 1).any()) for at, u in jax.tree.leaves_with_path(updates)}


def sharding(values):
    split = {p: PartitionSpec("data") if one else "data" for p, one in values.items()}
    layout = layout_of(jax.make_mesh((1,), ("data",)), split)
    specs = layout.params_specs(PARAMS)
    leaves = jax.tree.leaves_with_path(PARAMS)
    return {fnn_path(at): bool(spec) for (at, _), spec in zip(leaves, specs, strict=True)}


MAPPINGS = {f.__name__: f for f in (by_path, noise, constraint, sharding)}


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_path_counts_before_the_patterns_that_stand_before_it(mapping):
    found = MAPPINGS[mapping]({"*": False, PATH: True})
    assert found == {path: path == PATH for path in found}
    assert len(found) == 4


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_of_patterns_the_first_match_counts(mapping):
    found = MAPPINGS[mapping]({"out/*": True, "*": False})
    assert found == {path: path.startswith("out/") for path in found}


def test_the_path_of_a_layer_counts_before_patterns_in_mixed_precision():
    x = jnp.full((2, 3), 1 / 3)

    def trained(precision):
        half = fnn.mixed_precision(MODEL, precision)
        return np.asarray(half.apply(*half.init(KEY, x), x, train=True)[0])

    wide, half = trained({"*": "float32"}), trained({"hidden": "float32", "out": "bfloat16"})
    assert (wide != half).any()
    np.testing.assert_array_equal(trained({"*": "float32", "out": "bfloat16"}), half)


def test_a_name_of_a_file_counts_before_patterns_when_weights_are_renamed(tmp_path):
    other = fnn.serial(first=LAYERS["hidden"], last=LAYERS["out"])
    place = other.init(KEY, jnp.ones((2, 3)))
    fnn.save_weights(tmp_path / "weights", *place)
    rename = {"first/*": "hidden/*", "last/*": "hidden/*", "last/weight": "out/weight"}
    rename |= {"last/bias": "out/bias"}
    read, _ = fnn.load_weights(tmp_path / "weights", MODEL.init(KEY, X), rename=rename)
    np.testing.assert_array_equal(read["out"]["weight"], place[0]["last"]["weight"])


def test_a_path_with_the_characters_of_patterns_is_itself():
    assert paths.matches("a[0]", "a[0]")
    assert not paths.matches("a[0]", "a[1]")
    assert paths.value_at("a[0]", {"*": 1, "a[0]": 2}, 0) == 2
