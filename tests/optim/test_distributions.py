"""Random bits and distributions: the counter generator, and the numbers that words become.

Chance moves an estimate by more than K standard errors once in 1.7 million comparisons; the seeds
are fixed, and the file makes about a thousand comparisons.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn.optim.noise import distributions as law
from fnn.optim.noise._random_bits import bits, streams
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.xla import in_haste

K = 5
DRAWS = 1_000_000
ORDERS = ("places", "keys", "steps", "leaves")


def drawn(made, generator="counter", draws=DRAWS, seed=3):
    keys = streams(jax.random.key(seed), 0, made.words, generator)
    words = (bits(key, (draws,), generator) for key in keys)
    return np.asarray(jax.jit(made.numbers)(*words), np.float64)


# Moments four and eight of a law with variance 1; the standard error of the fourth follows.
MOMENTS = {
    "gaussian": (3, 105),
    "uniform": (1.8, 9),
    "rademacher": (1, 1),
    "laplace": (6, 2520),
    # Of degrees v: E t^4 = 3 (v - 2) / (v - 4); the eighth wants more than eight degrees.
    "student": (3 * 18 / 16, 105 * 18**3 / (16 * 14 * 12)),
}
MADE = {name: law.DISTRIBUTIONS[name]() for name in MOMENTS} | {"student": law.student(20.0)}
all_laws = pytest.mark.parametrize("name", MOMENTS)
both_generators = pytest.mark.parametrize("generator", ["counter", "threefry"])


@both_generators
@all_laws
def test_a_law_has_mean_0_variance_1_and_its_kurtosis(name, generator):
    n = drawn(MADE[name], generator)
    fourth, eighth = MOMENTS[name]
    rounding = 1e-5
    assert abs(n.mean()) <= K * math.sqrt(1 / DRAWS)
    assert abs((n**2).mean() - 1) <= K * math.sqrt((fourth - 1) / DRAWS) + rounding
    assert abs((n**4).mean() - fourth) <= K * math.sqrt((eighth - fourth**2) / DRAWS) + rounding


def beyond_student(c, degrees):
    """Integrate the density of Student's law, scaled to variance 1, from c on."""
    x = np.linspace(c, 400, 4_000_001) * math.sqrt(degrees / (degrees - 2))
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    density = constant / math.sqrt(degrees * math.pi) * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    return 2 * (density.sum() - (density[0] + density[-1]) / 2) * (x[1] - x[0])


BEYOND = {
    "gaussian": (law.gaussian(), lambda c: math.erfc(c / math.sqrt(2))),
    "uniform": (law.uniform(), lambda c: max(0, 1 - c / math.sqrt(3))),
    "laplace": (law.laplace(), lambda c: math.exp(-math.sqrt(2) * c)),
    "student": (law.student(3.0), lambda c: beyond_student(c, 3.0)),
}


@pytest.mark.parametrize("name", BEYOND)
def test_a_law_has_its_share_beyond_every_bound_on_either_side(name):
    made, beyond = BEYOND[name]
    n = drawn(made)
    for c in (0.03, 0.5, 1.0, 1.7, 2.0, 3.0, 4.0):
        share = beyond(c)
        for side, count in ((share, (np.abs(n) > c).sum()), (share / 2, (n > c).sum())):
            assert abs(count - DRAWS * side) <= K * math.sqrt(DRAWS * side * (1 - side)) + 0.5


def test_the_gaussian_of_a_word_is_the_quantile_of_its_probability():
    # Words in order of size: from the rarest of all through the ordinary ones to the commonest.
    words = [2 * k for k in (*range(100), *(3**i for i in range(20)), *(2**30, 2**31 - 1))]
    shares = [(word // 2 + 0.5) / 2**31 for word in words]
    exact = np.array([-NormalDist().inv_cdf(share / 2) for share in shares])
    n = np.asarray(law.gaussian().numbers(jnp.asarray(words, jnp.uint32)), np.float64)
    opposite = law.gaussian().numbers(jnp.asarray(words, jnp.uint32) + 1)
    # 8.1e-6 of itself by the polynomial, and 1 - p has float32's digits.
    np.testing.assert_allclose(n, exact, rtol=1.2e-5, atol=2e-7)
    np.testing.assert_array_equal(opposite, -n)
    assert exact.max() > 6.3


def words_in(order, turns=64, length=2**14):
    """Words from one stream after another, or of neighboring streams in turns."""
    if order == "places":
        return np.asarray(bits(streams(jax.random.key(7), 0, 1, "counter")[0], (2**20,), "counter"))
    if order == "leaves":
        keys = streams(jax.random.key(7), 0, turns, "counter")
    elif order == "steps":
        keys = jax.vmap(lambda t: streams(jax.random.key(7), t, 1, "counter")[0])(jnp.arange(turns))
    else:
        keys = jax.vmap(lambda s: streams(jax.random.key(s), 0, 1, "counter")[0])(jnp.arange(turns))
    drawn = jax.jit(jax.vmap(lambda key: bits(key, (length,), "counter")))(keys)
    return np.asarray(drawn).T.ravel()


def assert_even(counts):
    """Pearson's chi-squared is near its degrees of freedom: within K of its deviations."""
    expected = counts.sum() / counts.size
    chi2, freedom = ((counts - expected) ** 2 / expected).sum(), counts.size - 1
    assert abs(chi2 - freedom) <= K * math.sqrt(2 * freedom)


@pytest.mark.parametrize("order", ORDERS)
def test_the_counters_words_are_even_in_every_bit_byte_and_pair(order):
    w = words_in(order)
    ones = np.unpackbits(w.view(np.uint8)).reshape(len(w), 32).sum(0, dtype=np.int64)
    assert np.abs(ones - len(w) / 2).max() <= K * math.sqrt(len(w) / 4)
    for byte in w.view(np.uint8).reshape(-1, 4).T:
        assert_even(np.bincount(byte, minlength=256))
    for shift in (0, 8, 16, 24):  # pairs of neighbors
        upper = (w >> shift) & 255
        assert_even(np.bincount(upper[:-1:2] * 256 + upper[1::2], minlength=65536))


@pytest.mark.parametrize("order", ORDERS)
def test_the_counters_words_are_uncorrelated_at_every_lag(order):
    u = (words_in(order) / 2**32 - 0.5) * math.sqrt(12)
    for lag in (1, 2, 3, 4, 8, 16, 32, 63, 64, 65, 128, 256, 784, 1024):
        for one, other in ((u, u), (u**2, u**2)):
            one, other = one - one.mean(), other - other.mean()
            r = (one[lag:] * other[:-lag]).mean() / (one.std() * other.std())
            assert abs(r) <= K / math.sqrt(len(u) - lag)


@pytest.mark.parametrize("order", ORDERS)
def test_the_counters_words_rise_in_runs_and_repeat_as_chance_has_it(order):
    w = words_in(order)
    rises = (w[1:] > w[:-1]).sum()
    assert abs(rises - (len(w) - 1) / 2) <= K * math.sqrt((len(w) + 1) / 12)
    # A shuffle would never repeat a word; n words at random do n^2 / 2^33 times.
    n = len(w)
    repeats, expected = n - len(np.unique(w)), n * (n - 1) / 2**33
    assert abs(repeats - expected) <= K * math.sqrt(expected)
    assert repeats > 0


def test_every_bit_of_the_place_and_of_the_key_turns_half_of_the_words_bits():
    # 96 bits in, 32 out, 4096 words: each pair is a coin tossed 4096 times.
    n = 4096
    random = np.random.default_rng(0)
    keys = random.integers(0, 2**32, (n, 2), dtype=np.uint32)
    place = random.integers(0, 2**16, n)

    @jax.jit
    @jax.vmap
    def word(key, place):
        return bits(key, (2**17,), "counter")[place]

    def turned(one, other):
        return np.unpackbits((one ^ other).view(np.uint8)).reshape(n, 32).mean(0)

    plain = np.asarray(word(keys, place))
    shares = [turned(plain, np.asarray(word(keys, place ^ (1 << b)))) for b in range(17)]
    for b in range(64):
        flip = np.uint32(1 << (b % 32)) * np.eye(2, dtype=np.uint32)[b // 32]
        shares.append(turned(plain, np.asarray(word(keys ^ flip, place))))
    assert np.abs(np.stack(shares) - 0.5).max() <= K * 0.5 / math.sqrt(n)


@both_generators
def test_words_are_the_same_under_vmap_and_in_any_split_of_the_shape(generator):
    keys = streams(jax.random.key(0), 5, 3, generator)
    mapped = jax.vmap(lambda key: bits(key, (3, 4), generator))(keys)
    for key, rows in zip(keys, mapped, strict=True):
        np.testing.assert_array_equal(rows, bits(key, (3, 4), generator))
        np.testing.assert_array_equal(rows.ravel(), bits(key, (12,), generator))


def test_noise_is_the_same_on_one_device_and_on_four(tmp_path):
    script = tmp_path / "sharded.py"
    script.write_text(
        """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from fnn import optim
assert jax.device_count() == 4
rule = optim.chain(optim.gradient_noise(0.3, key=jax.random.key(0)), optim.sgd(0.1))
params = {"a": jnp.ones((8, 12)), "b": jnp.ones(12)}
expected = jax.jit(rule.update)(params, rule.init(params), params)[0]
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))
for spec in (P("x"), P(None, "y"), P("x", "y"), P(("x", "y"))):
    place = {"a": NamedSharding(mesh, spec), "b": NamedSharding(mesh, P())}
    split = jax.device_put(params, place)
    updates = jax.jit(rule.update)(split, rule.init(split), split)[0]
    assert updates["a"].sharding.is_equivalent_to(place["a"], 2)
    for name in params:
        np.testing.assert_array_equal(updates[name], expected[name])
""",
        "utf-8",
    )
    flags = in_haste("--xla_force_host_platform_device_count=4")
    place = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment = os.environ | flags | place
    subprocess.run([sys.executable, script], env=environment, check=True, timeout=120)


def test_the_counter_stores_no_array_of_words():
    # The noise of the whole leaf is computed within the update: no temporary of its size.
    from fnn import optim

    optimizer = optim.chain(optim.gradient_noise(0.3, key=jax.random.key(0)), optim.sgd(0.1))
    params = jnp.ones((512, 512))
    compiled = jax.jit(optimizer.update).lower(params, optimizer.init(params), params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < params.nbytes / 10


def test_laws_print_and_compare_by_their_call():
    assert law.student(3.0) == law.student(3.0) != law.student(4.0)
    assert str(law.student(3.0)) == "student(3.0)"
    assert law.distribution_of("sphere") == law.sphere()


def test_students_distribution_of_many_degrees_is_the_gaussian():
    # Box's and Muller's, of which exp(-2 / degrees log u) - 1 would leave nothing.
    n = drawn(law.student(1e12))
    fourth, eighth = MOMENTS["gaussian"]
    assert abs((n**2).mean() - 1) <= K * math.sqrt((fourth - 1) / DRAWS) + 1e-5
    assert abs((n**4).mean() - fourth) <= K * math.sqrt((eighth - fourth**2) / DRAWS) + 1e-5


def test_degrees_may_be_numbers_of_numpy_and_of_jax():
    words = jnp.arange(5, dtype="uint32") * 7919, jnp.arange(5, dtype="uint32") * 104729
    expected = law.student(5.0).numbers(*words)
    for degrees in (5, np.float64(5), np.int64(5), jnp.float32(5), jnp.int32(5)):
        np.testing.assert_array_equal(law.student(degrees).numbers(*words), expected)


DEGREES = "degrees of freedom above 2"


@parametrize(
    [
        Bad("degrees", lambda: law.student(2.0), "optim.distributions.student", DEGREES, r"2\.0"),
        *(
            Bad(
                f"degrees-{got}",
                lambda value=value: law.student(value),
                "optim.distributions.student",
                DEGREES,
                got,
            )
            for value, got in (
                (np.float32(2), r"2\.0"),
                (math.inf, "inf"),
                ("x", "'x'"),
                (3j, "3j"),
            )
        ),
        Bad(
            "norm",
            lambda: law.Distribution(1, len, "cube"),
            "",
            "norm of 'free', 'sphere', 'ball'",
            "'cube'",
        ),
        Bad("no-words", lambda: law.Distribution(0, len, "free"), "", "words of 1 or more", "0"),
        Bad("numbers", lambda: law.Distribution(1, 3, "free"), "", "numbers to be a function", "3"),
        Bad(
            "law",
            lambda: law.distribution_of("cauchy"),
            "",
            "a distribution of .+",
            "'cauchy'",
        ),
        Bad(
            "places",
            lambda: bits(jnp.zeros(2, "uint32"), (2**16, 2**16, 2), "counter"),
            "",
            r"at most 2\^32 numbers in a leaf, the places that 32 bits count",
            str(2**33),
        ),
    ]
)
def test_laws_and_bits_refuse(bad):
    assert_complains(bad, bad.call)
