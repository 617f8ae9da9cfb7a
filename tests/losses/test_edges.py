"""Losses where numbers end: masked classes, extremes, small integers, half precision, kinks."""

from __future__ import annotations

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.layers.test_laws import assert_close
from tests.tolerance import rounding

INF = jnp.inf
ONE_HOT = jnp.array([[0.0, 1.0, 0.0]])


def both(loss, y, target):
    """The value, and the gradient by hand and by autodiff, for a cotangent of 1."""

    @jax.jit
    def run(y, target):
        values, residuals = loss.forward(y, target)
        by_hand = loss.backward(residuals, jnp.ones_like(values))
        return values, by_hand, jax.grad(lambda y: loss.apply(y, target).sum())(y)

    values, by_hand, auto = run(y, target)
    assert_close(by_hand, auto, jnp.float32, 8)
    return values, by_hand


def cross_entropy_of_head(smoothing=0.0):
    """`linear_cross_entropy` as a loss of logits, which are its bias."""
    loss = losses.linear_cross_entropy(2, smoothing)

    def head(y):
        # 0 times -inf would be NaN in the product.
        return fnn.LinearHead(jnp.ones((1, 1)), jnp.zeros((1, y.shape[-1])), y[0])

    def forward(y, target):
        return loss.forward(head(y), target)

    def backward(residuals, dvalues):
        return loss.backward(residuals, dvalues).bias[None]

    def apply(y, target):
        return loss.apply(head(y), target)

    return losses.Loss(apply, forward, backward, lambda y, target: None)


LABEL = jnp.array([1])
MASKED = {
    "cross_entropy": (losses.cross_entropy(), LABEL),
    "cross_entropy-soft": (losses.cross_entropy(), ONE_HOT),
    "cross_entropy-smooth": (losses.cross_entropy(0.1), LABEL),
    "kl_divergence": (losses.kl_divergence(), ONE_HOT),
    "focal": (losses.focal(), LABEL),
    "focal-soft": (losses.focal(0.5), ONE_HOT),
    "multiclass_hinge": (losses.multiclass_hinge(), LABEL),
    "multiclass_hinge-best": (losses.multiclass_hinge(rivals="best"), LABEL),
    "zero_one": (losses.zero_one(), LABEL),
    "linear_cross_entropy": (cross_entropy_of_head(), LABEL),
    "linear_cross_entropy-smooth": (cross_entropy_of_head(0.1), LABEL),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_class_is_as_good_as_none(name):
    loss, target = MASKED[name]
    y = jnp.array([[0.3, -0.4, 0.9]])
    values, gradient = both(loss, y.at[0, 0].set(-INF), target)
    target = target - 1 if target.ndim == 1 else target[:, 1:]
    expected, slope = both(loss, y[:, 1:], target)
    assert_close(values, expected, jnp.float32, 3)
    assert_close(gradient, jnp.pad(slope, ((0, 0), (1, 0))), jnp.float32, 3)


def test_a_masked_class_of_log_probabilities_costs_nothing():
    y = jax.nn.log_softmax(jnp.array([[-INF, 0.0, 1.0]]))
    values, gradient = both(losses.nll(), y, ONE_HOT)
    np.testing.assert_allclose(values, [np.log(1 + np.e)], rtol=rounding("float32", 3))
    np.testing.assert_array_equal(gradient, -ONE_HOT)


def test_a_label_that_is_masked_is_infinitely_wrong():
    values, gradient = both(losses.cross_entropy(), jnp.array([[0.0, -INF]]), jnp.array([1]))
    assert (float(values[0]), gradient.tolist()) == (float("inf"), [[1.0, -1.0]])


@pytest.mark.parametrize("steps", [20, 400])
def test_a_masked_blank_of_a_spelling_is_at_no_step(steps):
    y = jnp.asarray(np.random.default_rng(0).normal(size=(1, steps, 3)), "float32")
    y, labels = y.at[..., 0].set(-INF), jnp.array([[1]])
    values, residuals = losses.ctc().forward(y, labels)
    # Then one path is left, that of the label at every step.
    log_p = jax.nn.log_softmax(y[..., 1:])
    np.testing.assert_allclose(values, [-log_p[0, :, 0].sum()], rtol=rounding("float32", steps))
    gradient = losses.ctc().backward(residuals, jnp.ones(1))
    auto = jax.grad(lambda y: losses.ctc().apply(y, labels).sum())(y)
    assert (gradient[..., 0] == 0).all()
    assert jnp.isfinite(auto).all()
    # The exponential of a sum multiplies its error by the size of the sum.
    assert_close(gradient, auto, jnp.float32, steps**2)
    slope = jnp.exp(log_p) - jnp.array([1.0, 0.0])[None, None]
    assert_close(gradient[..., 1:], slope, jnp.float32, steps**2)


def test_a_spelling_of_masked_classes_is_impossible_and_has_no_slope():
    y, labels = jnp.zeros((1, 4, 4)).at[..., :3].set(-INF), jnp.array([[1, 2]])
    values, residuals = losses.ctc().forward(y, labels)
    auto = jax.grad(lambda y: losses.ctc().apply(y, labels).sum())(y)
    assert values[0] == INF
    assert (auto == 0).all()
    assert (losses.ctc().backward(residuals, jnp.ones(1)) == 0).all()


def test_padded_steps_of_a_spelling_may_be_nan():
    y = jnp.zeros((1, 3, 3)).at[0, 2].set(jnp.nan)
    padded = fnn.Sequence(y, jnp.array([2]))
    values, residuals = losses.ctc().forward(padded, jnp.array([[1, 0]]))
    assert_close(values, losses.ctc().apply(y[:, :2], jnp.array([[1, 0]])), jnp.float32, 3)
    by_hand = losses.ctc().backward(residuals, jnp.ones(1)).values
    auto = jax.grad(
        lambda v: losses.ctc().apply(padded._replace(values=v), jnp.array([[1, 0]])).sum()
    )(y)
    assert (by_hand[0, 2] == 0).all()
    assert_close(by_hand, auto, jnp.float32, 3)


@pytest.mark.parametrize(
    ("loss", "y", "target", "value", "slope"),
    [
        (losses.binary_cross_entropy(), -INF, 0.0, 0.0, 0.0),
        (losses.binary_cross_entropy(), INF, 1.0, 0.0, 0.0),
        (losses.binary_cross_entropy(), INF, 0.0, np.inf, 1.0),
        (losses.binary_cross_entropy(), 1e30, 0.0, 1e30, 1.0),
        (losses.poisson(), -INF, 0.0, 0.0, 0.0),
        (losses.huber(0.5), 1e30, 0.0, 5e29, 0.5),
        (losses.huber(0.5), -INF, 0.0, np.inf, -0.5),
        (losses.logistic(), 1e30, -1.0, 1e30, 1.0),
        (losses.hinge(), -1e30, 1.0, 1e30, -1.0),
        (losses.hinge(), 1.0, 1.0, 0.0, 0.0),
        (losses.absolute_error(), 1e30, 0.0, 1e30, 1.0),
    ],
    ids=lambda value: repr(value),
)
def test_the_ends_of_the_numbers_are_right(loss, y, target, value, slope):
    values, gradient = both(loss, jnp.array([[y]]), jnp.array([[target]]))
    np.testing.assert_allclose(values, [value], rtol=rounding("float32", 1))
    np.testing.assert_allclose(gradient, [[slope]], rtol=rounding("float32", 1))


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_of_a_spelling_out_of_range_is_nan_under_jit(label):
    # Fewer steps than classes: a label may not be taken for one that the steps would allow.
    values = jax.jit(losses.ctc().apply)(jnp.zeros((2, 2, 5)), jnp.array([[1], [label]]))
    assert jnp.isnan(values).tolist() == [False, True]


@pytest.mark.parametrize("kind", ["int32", "bool"])
def test_a_function_to_values_that_are_not_floating_is_no_loss(kind):
    loss = losses.autodiff(lambda y, t: (y > t).any(-1).astype(kind))
    with pytest.raises(fnn.InputError, match="a function to floating values"):
        loss.apply(jnp.ones((2, 3)), jnp.zeros((2, 3)))


def test_two_classes_are_rivals():
    assert losses.multiclass_hinge().apply(jnp.array([[0.0, 0.5]]), jnp.array([0])) == 1.5


def test_large_logits_are_compared_before_the_margin_is_added():
    y = jnp.array([[1e8, 1e8, 0.0]])
    assert losses.multiclass_hinge().apply(y, jnp.array([1]))[0] == 1
    values, gradient = both(losses.cross_entropy(), jnp.array([[1e30, -1e30]]), jnp.array([1]))
    assert (float(values[0]), gradient.tolist()) == (float(np.float32(2e30)), [[1.0, -1.0]])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_angle_between_vectors_does_not_depend_on_their_size(size):
    y, t = jnp.array([[size, size]]), jnp.array([[size, 0.0]])
    values = losses.cosine_distance().apply(y, t)
    np.testing.assert_allclose(values, [1 - np.sqrt(0.5)], rtol=rounding("float32", 4))


NAN_TARGETS = {
    "zero_one": jnp.array([1]),
    "cross_entropy": jnp.array([1]),
    "focal": jnp.array([1]),
    "multiclass_hinge": jnp.array([1]),
    "cosine_distance": jnp.array([[1.0, 2.0, 3.0]]),
    "hinge": jnp.array([[1, -1, 1]]),
    "huber": jnp.array([[1.0, 2.0, 3.0]]),
    "absolute_error": jnp.array([[1.0, 2.0, 3.0]]),
    "logistic": jnp.array([[1, -1, 1]]),
    "kl_divergence": jnp.array([[0.2, 0.3, 0.5]]),
}


@pytest.mark.parametrize("name", NAN_TARGETS)
def test_a_prediction_of_nan_has_a_value_and_a_gradient_of_nan(name):
    y = jnp.array([[0.5, jnp.nan, 0.1]])
    values, residuals = getattr(losses, name)().forward(y, NAN_TARGETS[name])
    assert jnp.isnan(values).all()
    gradient = getattr(losses, name)().backward(residuals, jnp.ones(1))
    assert jnp.isnan(gradient).any() or name == "zero_one"


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
@pytest.mark.parametrize(
    "loss",
    [
        losses.zero_one(),
        losses.nll(),
        losses.cross_entropy(0.1),
        losses.focal(),
        losses.multiclass_hinge(),
        losses.linear_cross_entropy(64),
        losses.cross_entropy(ignore_index=-100),
        losses.linear_cross_entropy(64, ignore_index=300),
    ],
    ids=repr,
)
def test_labels_of_few_bits_are_those_of_many(loss, dtype):
    y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 300)), "float32")
    if "linear" in repr(loss):
        y = fnn.LinearHead(jnp.ones((2, 1)), y[:1], y[1])

    @jax.jit
    def run(label):
        values, residuals = loss.forward(y, label)
        return values, loss.backward(residuals, jnp.ones(2))

    few, many = run(jnp.array([0, 97], dtype)), run(jnp.array([0, 97]))
    jax.tree.map(np.testing.assert_array_equal, few, many)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_spellings_of_few_bits_are_those_of_many(dtype):
    loss, y = losses.ctc(blank=299), jnp.zeros((1, 3, 300))
    few, many = jnp.array([[97, 98]], dtype), jnp.array([[97, 98]])
    np.testing.assert_array_equal(jax.jit(loss.apply)(y, few), loss.apply(y, many))


HALF = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


@HALF
def test_sums_of_half_precision_are_those_of_float32(dtype):
    ones = jnp.ones((1, 70_000), dtype)
    assert losses.squared_error().apply(ones, jnp.zeros_like(ones))[0] == 70_000
    values = jnp.full(70_000, 2.0, dtype)
    assert losses.mean(values)[0] == losses.mean(values, jnp.ones(70_000))[0] == 2
    share = losses.mean(values, jnp.ones(70_000))[1]
    np.testing.assert_allclose(share[0].astype("float32"), 1 / 70_000, rtol=2**-7)


@HALF
@pytest.mark.parametrize(
    "name", ["cross_entropy", "kl_divergence", "focal", "linear_cross_entropy"]
)
def test_slopes_of_half_precision_are_rounded_once(dtype, name):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(1, 500)), dtype)
    loss = getattr(losses, name)()
    target = jnp.array([7])
    if name == "kl_divergence":
        target = jax.nn.softmax(jnp.asarray(np.random.default_rng(1).normal(size=(1, 500)), dtype))

    def slope(dtype):
        y = z.astype(dtype)
        if name == "linear_cross_entropy":
            y = fnn.LinearHead(jnp.ones((1, 1), dtype), jnp.zeros((1, 500), dtype), y[0])
        _, residuals = loss.forward(y, target)
        # A mean over many: float16 has no numbers as small as its share of a slope.
        return jax.tree.leaves(loss.backward(residuals, jnp.full(1, 2.0**-6)))[-1].ravel()

    half, wide = slope(dtype).astype("float32"), slope("float32")
    small = float(jnp.finfo(dtype).smallest_subnormal)
    bound = 2 * float(jnp.finfo(dtype).eps) * jnp.abs(wide) + small
    assert (jnp.abs(half - wide) <= bound).all()


@HALF
def test_the_gradient_of_a_head_in_half_precision_is_that_of_float32_at_any_share(dtype):
    random, loss = np.random.default_rng(5), losses.linear_cross_entropy(3, 0.1)
    arrays = [jnp.asarray(random.normal(size=n), dtype) for n in ((5, 3), (3, 7), (7,))]
    # The shares of a mean over many, of which one does not count.
    shares = jnp.array([1.0, 2, 0, 4, 8]) * 2.0**-9

    def gradient(dtype, shares):
        head = fnn.LinearHead(*(a.astype(dtype) for a in arrays))
        _, residuals = loss.forward(head, jnp.array([0, 6, 3, 3, 1]))
        return loss.backward(residuals, shares)

    for half, wide in zip(gradient(dtype, shares), gradient("float32", shares), strict=True):
        bound = rounding(dtype, 7) * float(jnp.abs(wide).max())
        np.testing.assert_allclose(half.astype("float32"), wide, rtol=0, atol=bound)
    assert not any(leaf.any() for leaf in gradient(dtype, 0 * shares))


# Ignored labels.


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("name", ["cross_entropy", "nll", "focal", "linear_cross_entropy"])
def test_what_is_ignored_may_be_nan_and_the_objective_is_the_mean_over_the_rest(name, run):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(5, 3)), "float32").at[1].set(jnp.nan)
    labels = jnp.array([2, -100, 0, 1, -100])
    model = fnn.linear_head(3) if name == "linear_cross_entropy" else fnn.dense(3)
    params, state = model.init(jax.random.key(0), x)
    make = getattr(losses, name)
    rest = jnp.array([0, 2, 3])
    for gradient in ("manual", "auto"):
        part = fnn.value_and_grad(model, make(), gradient)(params, state, (x[rest], labels[rest]))
        of = fnn.value_and_grad(model, make(ignore_index=-100), gradient)
        assert_close(run(of)(params, state, (x, labels)), part, jnp.float32, x.size)
        # The weight of an example counts as well, and that of an ignored one does not.
        weights = jnp.array([1.0, 7.0, 2.0, 0.5, 7.0])
        part = fnn.value_and_grad(model, make(), gradient)(
            params, state, (x[rest], labels[rest], weights[rest])
        )
        assert_close(run(of)(params, state, (x, labels, weights)), part, jnp.float32, x.size)


@pytest.mark.parametrize(
    "loss",
    [
        losses.cross_entropy(0.1, ignore_index=-1),
        losses.nll(ignore_index=-1),
        losses.focal(ignore_index=-1),
        losses.multiclass_hinge(ignore_index=-1),
    ],
    ids=repr,
)
def test_a_prediction_of_nan_that_is_ignored_has_a_value_and_a_slope_of_0(loss):
    y, labels = jnp.array([[0.5, 0.2], [jnp.nan, 0.1]]), jnp.array([1, -1])
    values, gradient = both(loss, y, labels)
    assert jnp.isfinite(gradient).all()
    assert (float(values[1]), gradient[1].tolist()) == (0.0, [0.0, 0.0])


def test_all_labels_ignored_is_a_value_and_a_gradient_of_0():
    loss = losses.cross_entropy(ignore_index=0)
    of = fnn.value_and_grad(fnn.dense(3), loss)
    params, state = fnn.dense(3).init(jax.random.key(0), jnp.ones((2, 4)))
    (value, _), grads = of(params, state, (jnp.ones((2, 4)), jnp.zeros(2, int)))
    assert (float(value), [bool((g == 0).all()) for g in grads.values()]) == (0.0, [True, True])


def test_steps_of_sequences_are_ignored_one_by_one():
    y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), "float32")
    labels = jnp.array([[0, 1, 9], [3, 9, 9]])
    loss = losses.cross_entropy(ignore_index=9)
    values = loss.apply(y, labels)
    assert (values[labels == 9] == 0).all()
    mean = losses.mean(values, loss.counted(labels))[0]
    plain = losses.cross_entropy().apply(y[labels != 9], labels[labels != 9])
    assert_close(mean, plain.mean(), jnp.float32, 3)


# Refusals.

LOGITS = jnp.zeros((2, 3))
SPELLING = jnp.zeros((1, 2, 3))


def ctc(labels, y=SPELLING, **options):
    return losses.ctc(**options).apply(y, jnp.asarray(labels))


@parametrize(
    [
        *(
            Bad(f"poisson-{count}", lambda count=count: losses.poisson().apply(
                jnp.zeros((1, 1)), jnp.array([[count]])), "losses.poisson", "counts of 0 or more",
                rf"{count} at target\[0, 0\]")
            for count in (-1, -0.5, np.nan)
        ),
        Bad("probability-nan", lambda: losses.binary_cross_entropy().apply(
            jnp.zeros((1, 1)), jnp.array([[np.nan]])), "losses.binary_cross_entropy",
            r"targets in \[0, 1\]", r"nan at target\[0, 0\]"),
        Bad("equal-neighbors", lambda: ctc([[1, 1]]), "losses.ctc",
            "step for each label, and one between equal neighbors", r"2 at lengths\[0\]"),
        Bad("equal-neighbors-length", lambda: ctc(
            [[1, 1]], fnn.Sequence(jnp.zeros((1, 3, 3)), jnp.array([2]))), "losses.ctc",
            "step for each label, and one between equal neighbors", r"2 at lengths\[0\]"),
        Bad("equal-neighbors-mask", lambda: ctc(
            [[1, 1]], fnn.Sequence(jnp.zeros((1, 3, 3)), jnp.array([[True, False, True]]))),
            "losses.ctc", "step for each label, and one between equal neighbors",
            r"2 at lengths\[0\]"),
        Bad("behind-a-blank", lambda: ctc([[0, 1]]), "losses.ctc",
            "rows that end at their first blank, 0", r"1 at target\[0, 1\]"),
        Bad("blank", lambda: ctc([[1, 2]], blank=3), "losses.ctc",
            r"logits of shape \(B, T, K\) with K above the blank, 3",
            r"float32 of shape \(1, 2, 3\)"),
        Bad("blank-of-many-steps",
            lambda: losses.ctc(3).apply(jnp.zeros((1, 5, 3)), jnp.array([[1, 2]])), "losses.ctc",
            r"logits of shape \(B, T, K\) with K above the blank, 3",
            r"float32 of shape \(1, 5, 3\)"),
        *(
            Bad(f"ignore_index-{value}", lambda value=value: losses.nll(ignore_index=value),
                "losses.nll", expected, got)
            for value, expected, got in (
                (1.5, "ignore_index of an int", r"1\.5"),
                (True, "ignore_index of an int", "True"),
                (2**40, "ignore_index of 32 bits", str(2**40)),
            )
        ),
        Bad("ignore-distributions", lambda: losses.cross_entropy(ignore_index=0).apply(
            LOGITS, jnp.ones((2, 3)) / 3), "losses.cross_entropy",
            r"integer labels of shape \(2,\)", r"a target float32 of shape \(2, 3\)"),
        Bad("not-the-ignored", lambda: losses.cross_entropy(ignore_index=-1).apply(
            LOGITS, jnp.array([-1, -2])), "losses.cross_entropy", r"labels in 0\.\.2",
            r"-2 at target\[1\]"),
        Bad("complex", lambda: losses.squared_error().apply(LOGITS, LOGITS.astype("complex64")),
            "losses.squared_error", "target of real numbers", r"complex64 of shape \(2, 3\)"),
        Bad("text", lambda: losses.squared_error().apply(LOGITS[:1, :1], [["a"]]),
            "losses.squared_error", "target of numbers", r"<U1 of shape \(1, 1\)"),
        *(
            Bad(f"ragged-{name}", lambda name=name: getattr(losses, name)().apply(
                LOGITS, [[1], [1, 2]]), f"losses.{name}", "target of one shape",
                "list of rows that differ")
            for name in ("cross_entropy", "squared_error", "zero_one")
        ),
        Bad("masked", lambda: losses.squared_error().apply(
            LOGITS, np.ma.masked_array(np.zeros((2, 3)), np.eye(2, 3))), "losses.squared_error",
            "target without masked entries", "2 of 6 masked"),
        Bad("signs-or-shares", lambda: losses.zero_one().apply(
            LOGITS, jnp.array([[1.0, -1, 1], [0.5, 0.7, -0.2]])), "losses.zero_one",
            r"labels -1 and \+1, or probabilities of 0 or more", r"-0\.2.* at target\[1, 2\]"),
        Bad("head", lambda: losses.linear_cross_entropy().apply(
            fnn.LinearHead(jnp.ones((2, 3)), jnp.ones((4, 5))), jnp.array([0, 1])),
            "losses.linear_cross_entropy", r"weight of shape \(3, K\)", r"\(4, 5\)"),
        *(
            Bad(f"{name}-{value!r}", functools.partial(getattr(losses, make), value),
                f"losses.{make}", rf"{name} .*", ".*")
            for make, name in (("huber", "delta"), ("cross_entropy", "label_smoothing"),
                               ("focal", "gamma"), ("multiclass_hinge", "margin"))
            for value in (np.float32(np.nan), jnp.array(-1.0), np.inf, 1j, "1", True)
        ),
        Bad("weight-of-class", lambda: losses.focal(2.0, (1.0, np.inf)), "losses.focal",
            "weights of 0 or more", "inf"),
        Bad("weights-negative", lambda: losses.mean(jnp.ones(2), jnp.array([1.0, -2.0])),
            "losses.mean", "finite weights of 0 or more", r"-2\.0 at weights\[1\]"),
        Bad("weights-nan", lambda: losses.mean(jnp.ones(2), jnp.array([1.0, jnp.nan])),
            "losses.mean", "finite weights of 0 or more", r"nan at weights\[1\]"),
        Bad("weights-complex", lambda: losses.mean(jnp.ones(2), jnp.ones(2, "complex64")),
            "losses.mean", "weights of real numbers", r"complex64 of shape \(2,\)"),
        Bad("no-values", lambda: losses.mean(jnp.ones(0)), "losses.mean", "at least one value",
            r"float32 of shape \(0,\)"),
    ]
)  # fmt: skip
def test_losses_refuse(bad):
    assert_complains(bad, bad.call)


def test_enough_steps_for_equal_neighbors_are_taken():
    # Of 27 paths "a_a" alone spells "aa".
    values = ctc([[1, 1]], jnp.zeros((1, 3, 3)))
    np.testing.assert_allclose(values, [np.log(27)], rtol=rounding("float32", 3))


def test_counts_of_0_are_taken():
    assert losses.poisson().apply(jnp.zeros((1, 1)), jnp.array([[0]]))[0] == 1


def test_no_labels_and_no_steps_are_sure():
    assert ctc(np.zeros((1, 0), "int32"), jnp.zeros((1, 0, 3)))[0] == 0
    values = ctc(np.zeros((1, 0), "int32"), jnp.zeros((1, 2, 3)))
    np.testing.assert_allclose(values, [np.log(9)], rtol=rounding("float32", 2))


@pytest.mark.parametrize("negative", [-1.0, np.nan])
def test_a_bad_weight_makes_the_mean_nan_under_jit(negative):
    weights = jnp.array([1.0, negative])
    assert jnp.isnan(jax.jit(losses.mean)(jnp.ones(2), weights)[0])


def test_weights_beyond_the_sum_of_float32_share_alike():
    value, share = losses.mean(jnp.array([1.0, 3.0]), jnp.full(2, 3e38))
    assert (float(value), share.tolist()) == (2.0, [0.5, 0.5])


def test_targets_of_other_orders_and_sizes_are_converted():
    labels = np.array([0, 2])
    expected = losses.cross_entropy().apply(LOGITS, labels)
    for other in (labels.astype(">i8"), np.ma.masked_array(labels), labels.tolist()):
        np.testing.assert_array_equal(losses.cross_entropy().apply(LOGITS, other), expected)


def test_a_loss_is_immutable_and_copies():
    loss = losses.cross_entropy(0.1, ignore_index=-1)
    assert copy.copy(loss) == loss
