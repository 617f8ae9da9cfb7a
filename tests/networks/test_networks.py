"""ResNets and vision transformers: right gradients, the sizes of the papers, bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import fnn
from fnn import networks
from tests.core.test_errors import Bad, assert_complains, parametrize

IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 8, 2))
SMALL = {
    "resnet": lambda: networks.resnet((2,), 4, width=2, bottleneck=True, stem="cifar"),
    "vit": lambda: networks.vit(4, image=8, patch=4, width=6, depth=2, heads=2),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_is_right(name):
    fnn.check_layer(SMALL[name](), IMAGES, numeric=False)


def parameters(model, size):
    x = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: networks.resnet(18), 11_689_512),
        (lambda: networks.resnet(34), 21_797_672),
        (lambda: networks.resnet(50), 25_557_032),
        (lambda: networks.vit(), 86_567_656),
    ],
    ids=["resnet-18", "resnet-34", "resnet-50", "vit-b-16"],
)
def test_it_has_as_many_parameters_as_the_published_network(make, count):
    assert parameters(make(), 224) == count


def test_equal_networks_are_equal_and_can_be_read_back():
    for make in SMALL.values():
        assert make() == make()
        assert eval(repr(make()), vars(networks)) == make()


@parametrize(
    [
        Bad("depth", lambda: networks.resnet(20), "networks.resnet", "a depth of 18, .*", "20"),
        Bad("none", lambda: networks.resnet(()), "networks.resnet", "a depth of 18, .*", r"\(\)"),
        Bad("blocks", lambda: networks.resnet((2, 0)), "networks.resnet", "blocks of .*", "0"),
        Bad("stem", lambda: networks.resnet(stem="big"), "networks.resnet", "stem of .*", "'big'"),
        Bad("patch", lambda: networks.vit(image=225), "networks.vit", ".* multiple of 16", "225"),
        Bad(
            "token",
            lambda: networks.class_token().init(jax.random.key(0), jnp.ones((2, 3))),
            "networks.class_token",
            r"x of shape \(B, T, C\)",
            r"\(2, 3\)",
        ),
        Bad(
            "empty",
            lambda: networks.first_token()(jnp.ones((2, 0, 3))),
            "networks.first_token",
            "one token or more",
            r"\(2, 0, 3\)",
        ),
    ]
)
def test_bad_input_is_refused(bad):
    assert_complains(bad, bad.call)
