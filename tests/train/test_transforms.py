"""Transforms of batches: what they draw and leave alone, and that a run goes on with them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import optim
from fnn.train import transforms
from tests.train.test_fit import bits, compiled

KEY = jax.random.key(5)
# Different in every pixel, and 0 in none: what comes in from outside is told from what was there.
IMAGES = np.arange(1, 6 * 4 * 5 + 1, dtype="float32").reshape(6, 4, 5)
COLORED = np.stack([IMAGES, 1000 + IMAGES], -1)
TARGETS, WEIGHTS = np.arange(6, dtype="int32"), np.arange(6, dtype="float32")

CASES = {
    "random_flip": transforms.random_flip(),
    "random_flip upside down": transforms.random_flip(0.3, axis="height"),
    "random_crop": transforms.random_crop(2),
    "cutout": transforms.cutout(2),
    "input_noise": transforms.input_noise(0.5),
    "compose": transforms.compose(transforms.random_crop(1), transforms.random_flip()),
}
cases = pytest.mark.parametrize("name", CASES)


def applied(name, x=IMAGES, key=KEY, step=3):
    return CASES[name]((x, TARGETS, WEIGHTS), key, jnp.int32(step))


@cases
@pytest.mark.parametrize("x", [IMAGES, COLORED], ids=["gray", "colored"])
def test_shapes_and_dtypes_are_kept_and_targets_and_weights_untouched(name, x):
    batch = applied(name, x)
    assert (batch.x.shape, batch.x.dtype) == (x.shape, x.dtype)
    assert batch.target is TARGETS
    assert batch.weights is WEIGHTS


@cases
def test_the_same_key_gives_the_same_bits_and_another_one_others(name):
    jitted = jax.jit(lambda key: applied(name, key=key).x)
    assert bits(applied(name).x) == bits(applied(name).x) == bits(jitted(KEY))
    assert bits(applied(name).x) != bits(applied(name, key=jax.random.key(6)).x)


@pytest.mark.parametrize("name", [name for name in CASES if name != "input_noise"])
def test_every_channel_moves_with_the_others(name):
    gray, colored = (np.asarray(applied(name, x).x) for x in (IMAGES, COLORED))
    np.testing.assert_array_equal(colored[..., 0], gray)
    np.testing.assert_array_equal(colored[..., 1], np.where(gray, 1000 + gray, 0))


@cases
def test_examples_are_drawn_independently(name):
    same = np.repeat(IMAGES[:1], 6, 0)
    found = {one.tobytes() for one in np.asarray(applied(name, same).x)}
    assert len(found) > 1


def many(transform, count=400):
    """The images that a transform makes of one."""
    x = np.repeat(IMAGES[:1], count, 0)
    return np.asarray(transform((x, np.zeros(count)), KEY, 0).x)


@pytest.mark.parametrize(("axis", "number"), [("width", 1), ("height", 0)])
def test_an_image_is_mirrored_as_often_as_was_asked_for(axis, number):
    found = many(transforms.random_flip(0.25, axis=axis))
    mirrored = (found == np.flip(IMAGES[0], number)).all((1, 2))
    assert (mirrored | (found == IMAGES[0]).all((1, 2))).all()
    # Four standard deviations of a share among 400.
    assert abs(mirrored.mean() - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5
    assert (many(transforms.random_flip(0.0)) == IMAGES[0]).all()


def test_a_crop_is_the_image_at_one_of_all_places():
    around = np.pad(IMAGES[0], 1)
    places = {around[i : i + 4, j : j + 5].tobytes() for i in range(3) for j in range(3)}
    assert {one.tobytes() for one in many(transforms.random_crop(1))} == places


@pytest.mark.parametrize("size", [1, 2, 3, 99])
def test_a_cutout_is_a_square_about_every_pixel_cut_off_at_the_borders(size):
    expected = set()
    for i in range(4):
        for j in range(5):
            image = IMAGES[0].copy()
            top, left = i - size // 2, j - size // 2
            image[max(top, 0) : top + size, max(left, 0) : left + size] = 0
            expected.add(image.tobytes())
    found = many(transforms.cutout(size))
    assert {one.tobytes() for one in found} == expected


def test_noise_has_its_mean_and_its_standard_deviation():
    noise = many(transforms.input_noise(0.5)) - IMAGES[0]
    # Four standard errors.
    assert abs(noise.mean()) < 4 * 0.5 / noise.size**0.5
    assert abs(noise.std() - 0.5) < 4 * 0.5 / (2 * noise.size) ** 0.5


def test_a_composition_takes_functions_of_ones_own_and_gives_each_a_key():
    seen = []

    def look(batch, key, step):
        seen.append(jax.random.key_data(key).tolist())
        return batch._replace(target=batch.target + step)

    batch = transforms.compose(look, look)((IMAGES, TARGETS), KEY, 3)
    assert seen[0] != seen[1]
    assert batch.target.tolist() == (TARGETS + 6).tolist()


def train(transform, **options):
    model = fnn.serial(fnn.flatten(), fnn.dense(3))
    options = {"key": KEY} | options if "start" not in options else options
    data = IMAGES / 100, TARGETS % 3
    loss, optimizer = fnn.losses.cross_entropy(), optim.sgd(0.1)
    return fnn.fit(model, loss, optimizer, data, batch_size=4, transform=transform, **options)


def test_a_run_goes_on_with_the_same_images_and_equal_transforms_share_a_program(caplog):
    def made():
        return transforms.compose(
            transforms.random_crop(1), transforms.random_flip(), transforms.cutout(1),
            transforms.input_noise(0.1),
        )  # fmt: skip

    whole, history = train(made(), steps=7)
    part, first = train(made(), steps=3)
    (end, rest), programs = compiled(caplog, lambda: train(made(), steps=4, start=part))
    assert bits(end) == bits(whole)
    assert bits(np.concatenate([first.loss, rest.loss])) == bits(history.loss)
    assert programs == []
    assert bits(train(None, steps=7)[1].loss) != bits(history.loss)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: transforms.random_flip(1.5), r"random_flip: expected probability in \[0, 1\]"),
        (lambda: transforms.random_flip(axis=1), "random_flip: expected axis of 'width'"),
        (lambda: transforms.random_crop(0), "random_crop: expected padding of 1 or more"),
        (lambda: transforms.cutout(0.5), "cutout: expected size"),
        (lambda: transforms.input_noise(-1.0), "input_noise: expected std of 0 or more"),
        (lambda: transforms.compose(), "compose: expected one transform or more"),
        (lambda: transforms.compose(3), "compose: expected transforms to be a function"),
        (lambda: transforms.BatchTransform(3), "expected change to be a function"),
        (lambda: transforms.cutout(2)((IMAGES[0], TARGETS), KEY, 0), r"x of shape \(B, H, W\)"),
        (lambda: transforms.input_noise(1.0)((TARGETS, TARGETS), KEY, 0), "x of a floating dtype"),
        (lambda: transforms.cutout(2)((IMAGES, TARGETS), 3, 0), "a key"),
    ],
)
def test_what_is_no_such_argument_is_refused(make, match):
    with pytest.raises(fnn.InputError, match=match):
        make()
