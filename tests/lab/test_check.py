"""What the checker says of a wrong backward: leaf, index, ratio, and a guess at the mistake."""

import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.lab.diagnose import guess

X = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
RIGHT = fnn.dense(5)


def planted(mistake, right=RIGHT):
    """A layer with a mistake in the gradient of its parameters or of its input."""

    def backward(params, residuals, dy):
        return mistake(*right.backward(params, residuals, dy))

    return fnn.Layer(right.init, right.apply, right.forward, backward)


def in_weight(change):
    return planted(lambda p, dx: ({**p, "weight": change(p["weight"])}, dx))


def in_dx(change, right=RIGHT):
    return planted(lambda p, dx: (p, change(dx)), right)


def rolled(a):
    return jnp.roll(a, 2, 0)


PLANTED = [
    (in_weight(jnp.negative), "sign"),
    (in_weight(lambda a: 2 * a), "factor 2"),
    (in_weight(lambda a: a / 2), "factor 0.5"),
    (in_dx(lambda a: -3 * a), "sign and factor 3"),
    (in_dx(lambda a: 1.001 * a), "factor 1.001"),
    (in_weight(jnp.transpose), "transposed"),
    (in_weight(lambda a: -a.T), "sign, and transposed"),
    (in_weight(lambda a: 8 * a), "factor 8: missing mean over batch"),
    (in_weight(lambda a: a / 8), "factor 0.125: mean over batch instead of a sum"),
    (in_dx(lambda a: a + 0.25), "the same constant too much everywhere"),
    (in_dx(jnp.zeros_like), "zero: missing altogether"),
    (in_dx(lambda a: a.at[0, 0].set(jnp.inf)), "not finite at 1 of 40 entries"),
    (in_dx(lambda a: a.at[3, 2].multiply(0.5)), "right but for 1 of 40 entries"),
    (in_dx(lambda a: jnp.flip(a, 1)), "reversed along axis 1"),
    (in_dx(rolled), "rolled by 2 along axis 0"),
    (
        in_dx(lambda a: a - a.mean(0, keepdims=True)),
        "missing mean over batch, or another term constant along axis 0",
    ),
    (
        in_dx(lambda a: a + a.mean(1, keepdims=True)),
        "missing mean over the last axis, or another term constant along axis 1",
    ),
]


@pytest.mark.parametrize(("wrong", "mistake"), PLANTED, ids=[words for _, words in PLANTED])
def test_a_planted_mistake_is_guessed(wrong, mistake):
    with pytest.raises(fnn.GradientError) as caught:
        fnn.check_layer(wrong, X, numeric=False)
    message = " ".join(str(caught.value).split())
    assert message.endswith(f"guess: {mistake}")
    assert message.count("guess") == 1


@pytest.mark.parametrize(
    "mistake",
    [
        lambda a: a * jnp.abs(a),
        lambda a: a + jnp.sin(jnp.arange(40.0, dtype=a.dtype)).reshape(a.shape),
        lambda a: jnp.where(a > 0, a, 2 * a),
        lambda a: a + a.T.reshape(a.shape),
        lambda a: a.at[1].multiply(-1).at[2].multiply(-1).at[:, 1:3].add(1.0),
    ],
)
def test_nothing_is_guessed_of_a_mistake_of_another_kind(mistake):
    with pytest.raises(fnn.GradientError, match="dx is") as caught:
        fnn.check_layer(in_dx(mistake), X, numeric=False)
    assert "guess" not in str(caught.value)


def test_a_number_that_should_be_zero_is_no_factor():
    constant = fnn.stateless(
        lambda key, x: (), lambda p, x: (0 * x, ()), lambda p, r, dy: ((), 1e-3 * dy)
    )
    with pytest.raises(fnn.GradientError, match="guess: should be zero"):
        fnn.check_layer(constant, X)


@pytest.mark.parametrize(("factor", "said"), [(2, "factor 2"), (-1, "sign"), (1.37, "")])
def test_of_a_single_number_only_the_common_factors_are_guessed(factor, said):
    assert guess(np.array([factor * 3.0]), np.array([3.0]), 1e-9, (8, 5)) == said


def test_a_batch_of_two_is_named_beside_the_factor_that_it_cannot_be_told_from():
    right = np.array([[1.0, 2.0], [3.0, 5.0]])
    assert guess(2 * right, right, 1e-9, (2, 2)) == "factor 2: missing mean over batch"
    assert guess(6 * right, right, 1e-9, (2, 3, 2)).endswith("mean over all axes but the last")


def test_a_symmetric_gradient_is_not_called_transposed():
    symmetric = np.array([[1.0, 2.0], [2.0, 5.0]])
    assert guess(symmetric + np.eye(2), symmetric, 1e-9) != "transposed"


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (lambda p: {**p, "weight": p["weight"].T}, "transposed"),
        (lambda p: {**p, "bias": jnp.tile(p["bias"], (8, 1))}, "missing sum over batch"),
    ],
)
def test_a_gradient_of_another_shape_is_guessed_at(change, mistake):
    wrong = planted(lambda p, dx: (change(p), dx), fnn.dense(3))
    with pytest.raises(fnn.GradientError, match=rf"has shape .* guess: {mistake}"):
        fnn.check_layer(wrong, X)


def test_the_message_fits_80_columns():
    with pytest.raises(fnn.GradientError) as caught:
        fnn.check_layer(in_dx(lambda a: a - a.mean(0, keepdims=True)), X)
    _, *lines = str(caught.value).splitlines()
    assert max(map(len, lines)) <= 80


def test_a_forward_that_is_not_apply_is_caught():
    right = fnn.tanh()

    def forward(params, state, x, **options):
        y, state, residuals = right.forward(params, state, x, **options)
        return 1.001 * y, state, residuals

    wrong = fnn.Layer(right.init, right.apply, forward, right.backward)
    with pytest.raises(fnn.GradientError, match=r"y is .* by apply: ratio 1.001; guess: factor"):
        fnn.check_layer(wrong, X)


def test_what_is_no_layer_is_refused():
    with pytest.raises(fnn.InputError, match="check_layer: expected a layer, got"):
        fnn.check_layer(fnn.relu, X)
