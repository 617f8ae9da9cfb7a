"""What the trial of a loss says of a wrong one: what is wrong, and a guess at the mistake."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn

B = 5
Y, T = jax.random.normal(jax.random.key(1), (2, B, 3))


def values(y, t):
    return ((y - t) ** 2).sum(-1)


def over_examples(slope, dvalues):
    return slope * dvalues[:, None]


def loss(apply=values, slope=lambda y, t: 2 * (y - t), backward=over_examples, forward=None):
    """A squared error with a mistake in one of its functions."""
    forward = forward or (lambda y, t: (apply(y, t), slope(y, t)))
    return fnn.losses.Loss(apply, forward, backward, lambda y, t: None)


def centered(y, t):
    return ((y - y.mean(0, keepdims=True) - t) ** 2).sum(-1)


WRONG = {
    "sign": (loss(slope=lambda y, t: 2 * (t - y)), "dprediction is .* guess: sign"),
    "factor": (loss(slope=lambda y, t: y - t), "dprediction is .* guess: factor 0.5"),
    "mean in backward": (
        loss(slope=lambda y, t: 2 * (y - t) / B), "factor 0.2: mean over batch instead of a sum",
    ),
    "no dvalues": (loss(backward=lambda slope, dv: slope), "dvalues are left out"),
    "mean of dvalues": (
        loss(backward=lambda slope, dv: slope * dv.mean()), "of weight 0 is .* should be zero",
    ),
    "mean in values": (
        loss(lambda y, t: values(y, t) / len(y), lambda y, t: 2 * (y - t) / len(y)),
        "values of two batches in one is .* a value depends on other examples",
    ),
    "statistics of the batch": (
        fnn.losses.autodiff(centered), "derivative in other examples is .* depends on other",
    ),
    "forward and apply": (
        loss(forward=lambda y, t: (2 * values(y, t), 2 * (y - t))), "values is .* factor 2",
    ),
    "scalar": (loss(lambda y, t: values(y, t).mean()), r"one for each example, and gives float32"),
    "shape of the gradient": (
        loss(slope=lambda y, t: 2 * (y - t)[:, :1]), "a gradient like the prediction",
    ),
    "overflow": (
        fnn.losses.autodiff(lambda y, t: jnp.log(jnp.exp(y).sum(-1)) - (y * t).sum(-1)),
        "not finite at .* 100 times as large: use log-sum-exp",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_found_and_named(wrong, message):
    with pytest.raises(fnn.GradientError) as caught:
        fnn.check_loss(wrong, Y, T, numeric=False)
    assert re.search(message, " ".join(str(caught.value).split()))


def test_a_right_loss_passes_and_its_table_says_what_was_compared():
    report = fnn.check_loss(loss(), Y, T)
    assert report.agrees
    assert {row.against for row in report.rows} == {"auto", "numeric", "apply", "one batch", "zero"}
    assert max(map(len, str(report).splitlines())) <= 80


def test_a_loss_of_several_heads_is_told_by_the_head():
    heads = {"a": fnn.losses.squared_error(), "b": loss(slope=lambda y, t: 2 * (t - y))}
    both = fnn.losses.weighted_sum(heads, {"a": 0.5})
    with pytest.raises(fnn.GradientError, match=r"dprediction/b is .*guess: sign"):
        fnn.check_loss(both, {"a": Y, "b": Y}, {"a": T, "b": T}, numeric=False, large=None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fnn.check_loss(values, Y, T), r"check_loss: expected a Loss.*losses\.autodiff"),
        (lambda: fnn.check_loss(loss(), Y[:1], T[:1]), "two examples or more, got 1"),
        (lambda: fnn.check_loss(loss(), Y, T, seed=-1), "seed of 0 or more"),
        (lambda: fnn.check_loss(loss(), Y, T, large=0), "large above 0"),
        (
            lambda: fnn.check_loss(fnn.losses.squared_error(), Y, T[:, :2]),
            "prediction and target of one shape",
        ),
        (lambda: fnn.losses.autodiff(3), "losses.autodiff: expected function to be a function"),
        (
            lambda: fnn.losses.autodiff(lambda y, t: values(y, t).sum()).apply(Y, T),
            r"one for each example, got float32 of shape \(\)",
        ),
        (
            lambda: fnn.losses.autodiff(values).apply(jnp.arange(3), jnp.arange(3)),
            "a prediction of floating values",
        ),
        (lambda: fnn.losses.weighted_sum({}), "losses by the names of their heads"),
        (lambda: fnn.losses.weighted_sum({"a": values}), "expected a Loss"),
        (lambda: fnn.losses.weighted_sum({"a": loss()}, {"b": 1.0}), r"weights of a, got \['b'\]"),
        (lambda: fnn.losses.weighted_sum({"a": loss()}, {"a": "1"}), "the weight of 'a'"),
        (
            lambda: fnn.losses.weighted_sum({"a": loss()}).apply({"b": Y}, {}),
            "a prediction that is a dict of a, got a dict of b",
        ),
        (
            lambda: fnn.losses.weighted_sum({"a": loss()}).apply({"a": Y}, {"a": T, "c": T}),
            "a target that is a dict of a, got a dict of a, c",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(fnn.InputError) as caught:
        call()
    assert re.search(message, str(caught.value))


def test_fit_trains_several_heads_by_hand_as_by_autodiff():
    x = jax.random.normal(jax.random.key(2), (32, 3))
    target = {"size": (x**2).sum(-1, keepdims=True), "label": (x[:, 0] > 0).astype("int32")}
    model = fnn.serial(
        fnn.dense(8), fnn.tanh(), fnn.parallel(size=fnn.dense(1), label=fnn.dense(2))
    )
    heads = {"size": fnn.losses.squared_error(), "label": fnn.losses.cross_entropy()}
    curves = [
        fnn.fit(
            model, fnn.losses.weighted_sum(heads, {"size": 0.1}), fnn.optim.adam(0.03), (x, target),
            epochs=4, batch_size=8, key=jax.random.key(0), gradient=gradient,
        )[1].loss
        for gradient in ("manual", "auto")
    ]  # fmt: skip
    np.testing.assert_allclose(*curves, rtol=1e-4)
    assert curves[0][-4:].mean() < 0.7 * curves[0][:4].mean()
