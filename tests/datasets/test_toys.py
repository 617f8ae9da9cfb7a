"""Toy data: what the formula says, reproducible by key."""

import jax
import numpy as np
import pytest

import fnn

TOYS = ("spirals", "clouds", "xor", "sine")
KEY = jax.random.key(5)


@pytest.mark.parametrize("name", TOYS)
def test_the_same_key_gives_the_same_bits_and_another_other_ones(name):
    make = getattr(fnn.datasets, name)
    once, again, other = (make(50, key=jax.random.key(seed)) for seed in (1, 1, 2))
    legacy = make(50, key=jax.random.PRNGKey(1))
    for part in range(2):
        assert np.array_equal(once[part][0], again[part][0])
        assert np.array_equal(once[part][0], legacy[part][0])
        assert not np.array_equal(once[part][0], other[part][0])
    assert not np.array_equal(once.train[0], once.test[0])


@pytest.mark.parametrize("name", TOYS)
def test_the_noise_has_the_standard_deviation_that_is_asked_for(name):
    make = getattr(fnn.datasets, name)
    (x, y), _ = make(4000, key=KEY, std=0.3)
    if name == "sine":
        noise = y - np.sin(x)
    else:
        # The same key puts the points in the same places, before the noise.
        noise = x - make(4000, key=KEY, std=0.0).train[0]
    k, n = 5, noise.size
    assert abs(noise.std() - 0.3) < k * 0.3 / np.sqrt(2 * n)
    assert abs(noise.mean()) < k * 0.3 / np.sqrt(n)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_point_of_a_spiral_lies_on_the_arm_of_its_label(classes):
    x, label = fnn.datasets.spirals(300, key=KEY, classes=classes, turns=1.5, std=0.0).train
    radius = np.hypot(*x.T)
    arm = (np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) - 1.5 * radius / 3) % 1
    off = np.abs((arm - label / classes + 0.5) % 1 - 0.5)
    assert off.max() < 1e-6
    assert radius.min() > 0.29
    assert radius.max() < 3.001


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_clouds_stand_evenly_around_the_origin_in_the_order_of_their_labels(classes):
    x, label = fnn.datasets.clouds(4 * classes, key=KEY, classes=classes, std=0.0).train
    angle = 2 * np.pi * (label / classes + 1 / 8)
    expected = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], -1)
    np.testing.assert_allclose(x, expected, rtol=0, atol=2 * np.finfo(np.float32).eps)
    assert np.bincount(label).tolist() == [4] * classes


def test_the_clouds_of_xor_take_turns_around_the_square_and_its_labels_say_whether_signs_differ():
    x, label = fnn.datasets.xor(8, key=KEY, std=0.0).train
    np.testing.assert_array_equal(x, 2 * [[1, 1], [-1, 1], [-1, -1], [1, -1]])
    np.testing.assert_array_equal(label, x[:, 0] != x[:, 1])


def test_no_line_does_xor_and_one_parts_two_clouds():
    def best_line(name):
        x, label = getattr(fnn.datasets, name)(800, key=KEY).train
        angles = np.linspace(0, 2 * np.pi, 60)[:, None, None]
        at = x[:, 0] * np.cos(angles) + x[:, 1] * np.sin(angles)
        sides = at > np.linspace(-3, 3, 61)[:, None]
        return (sides != label).mean(-1).min()

    assert 0.2 < best_line("xor") <= 0.3
    assert best_line("clouds") < 0.02


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"examples": 0}, "expected examples of 1 or more, got 0"),
        ({"std": -0.1}, "expected std of 0 or more, got -0.1"),
        ({"std": float("nan")}, "expected std of 0 or more"),
        ({"key": None}, "expected a key, got None"),
        ({"key": jax.random.split(KEY)}, "expected one key, got 2 keys"),
    ],
)
def test_bad_arguments_are_refused_in_words(name, arguments, message):
    with pytest.raises(fnn.InputError, match=f"fnn.datasets.{name}: {message}"):
        getattr(fnn.datasets, name)(**({"key": KEY} | arguments))


def test_no_arms_and_no_turns_are_refused():
    for arguments in ({"classes": 0}, {"turns": 0.0}):
        with pytest.raises(fnn.InputError, match=r"fnn\.datasets\.spirals: expected"):
            fnn.datasets.spirals(key=KEY, **arguments)
