"""The privacy that is spent, against the closed form of the Gaussian mechanism."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from fnn.gradient.estimators.dp_sgd import privacy_spent

CHANCE = NormalDist().cdf


@pytest.mark.parametrize(("noise", "steps"), [(2.0, 1), (5.0, 7), (1.3, 2)])
def test_the_whole_data_in_every_batch_spends_what_the_gaussian_mechanism_does(noise, steps):
    # Some steps of deviation s are one of s / sqrt(steps); Balle and Wang 2018, theorem 8.
    epsilon, s = privacy_spent(noise, 50, 50, steps, 1e-5), noise / math.sqrt(steps)
    delta = CHANCE(1 / (2 * s) - epsilon * s) - math.exp(epsilon) * CHANCE(
        -1 / (2 * s) - epsilon * s
    )
    assert 0.95 * 1e-5 < delta <= 1.001 * 1e-5


def test_smaller_batches_spend_less_and_more_steps_more():
    spent = [privacy_spent(1.1, b, 1000, n, 1e-4) for b, n in ((10, 50), (100, 50), (10, 500))]
    assert spent[0] < spent[2] < spent[1]
