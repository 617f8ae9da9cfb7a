"""Connectionist temporal classification: labels in order, their times unknown."""

from __future__ import annotations

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.arrays import as_labels, larger
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.mesh import scan
from fnn._core.precision import downcast, upcast
from fnn._core.tree import inexact_leaves, shape_witness
from fnn._core.types import Array, Cotangent, Prediction, Residuals, Target
from fnn.combinators.sequence import Sequence, step_mask
from fnn.losses._loss import Loss, check_real, scaled

# The logarithm of an impossibility: low enough to be nothing beside any other, and finite, since
# the difference of two infinities is no number.
_NEVER = -1e30


class _Problem(NamedTuple):
    """What the recursion runs on, for E = 2 S + 1 states: a blank around every label."""

    log_probability: Array  # (B, T, K), 0 at steps that are not there
    states: Array  # (B, E), the class that each state emits
    skips: Array  # (B, E), True where the blank before a state may be left out
    ends: Array  # (B,), the last state: the blank after the last label
    there: Array  # (B, T), True where there is a step


@constructor
def ctc(blank: int = 0) -> Loss:
    """Connectionist temporal classification: a sequence of logits spells a shorter one of labels.

    A path is one class at each step; it spells what is left when repeats are merged and blanks are
    struck out. With e the labels, a blank before, between and after them, and alpha_t(s) the
    probability of all beginnings of paths that reach e_s at step t,
    alpha_t(s) = p_t,e(s) (alpha_t-1(s) + alpha_t-1(s - 1) + alpha_t-1(s - 2)), the last term only
    where e_s is a label other than e_s-2. The same recursion from the end gives beta_t(s); both in
    logarithms, in float32 or better, in one scan over two batches.

    Forward:   v = -log sum_paths prod_t p_t,path(t), over the paths that spell the labels,
        p_t = softmax(y_t); not divided by any length (PyTorch's ``reduction="none"``)
    Backward:  dy_tk = (p_tk - sum_{s: e(s) = k} alpha_t(s) beta_t(s) / (p_t,k exp(-v))) dv, and 0
        at padded steps

    Args:
        blank: the class that stands for none, 0 or more; it pads the labels at their ends too, so
            that a row of blanks alone spells nothing.
    Shapes:    y (B, T, K), or a `fnn.Sequence` of it with lengths, t (B, S) of integers in 0..K-1,
        v (B,)
    Saves:     the slope
    Raises:    InputError for a blank outside 0..K-1, other shapes and dtypes, and outside jit for
        labels out of range, labels behind a blank, and sequences with fewer steps than their labels
        need: one for each label, and one for each pair of equal neighbors. Under jit those have an
        infinite value and a zero gradient, and labels out of range give NaN.
    Source:    Graves et al. 2006, doi:10.1145/1143844.1143891, eqs. 6 to 16.

    >>> import jax.numpy as jnp
    >>> # Two steps of three equal classes: of 9 paths, "a_", "_a" and "aa" spell "a".
    >>> ctc().apply(jnp.zeros((1, 2, 3)), jnp.array([[1]]))  # -log(3 / 9)
    Array([1.0986123], dtype=float32)

    """
    check.count(blank, "blank", 0, remedy="pass the class that stands for none")

    def check_pair(prediction: Prediction, target: Target) -> None:
        logits = _logits(prediction)
        check.floating(logits)
        if logits.ndim != 3 or logits.shape[-1] <= blank:
            raise InputError(
                f"logits of shape (B, T, K) with K above the blank, {blank}",
                describe(logits),
                "give the last layer one class more than there are labels",
            )
        _check_labels(logits, target, blank)
        _check_lengths(prediction, target, blank)

    def apply(prediction: Prediction, target: Target, /) -> Array:
        check_pair(prediction, target)
        p = _problem(prediction, target, blank)
        last, _ = _recursion(_emissions(p), p.skips, jnp.zeros_like(p.ends), p.there)
        return _value(p, last)

    def forward(prediction: Prediction, target: Target, /) -> tuple[Array, Residuals]:
        check_pair(prediction, target)
        value, slope = _value_and_slope(_problem(prediction, target, blank))
        rest = ()
        if isinstance(prediction, Sequence):
            rest = inexact_leaves(prediction._replace(values=None))
            rest = jax.tree.map(shape_witness, rest)
        return value, (downcast(slope, _logits(prediction)), rest)

    return Loss(apply, forward, _backward, check_pair)


def _backward(residuals: Residuals, dvalues: Array, /) -> Cotangent:
    """Return the slope times dv, for a sequence as one of it."""
    slope, rest = residuals
    dlogits = downcast(scaled(slope, dvalues), slope)
    if not isinstance(rest, Sequence):
        return dlogits
    zeros = jax.tree.map(lambda witness: jnp.zeros(witness.shape[1:], witness.dtype), rest)
    return zeros._replace(values=dlogits)


def _logits(prediction: Prediction) -> Array:
    """Return the logits (B, T, K) of an array or a sequence."""
    logits: Array = prediction.values if isinstance(prediction, Sequence) else prediction
    return logits


def _problem(prediction: Prediction, target: Target, blank: int) -> _Problem:
    """Set up the recursion."""
    logits = upcast(_logits(prediction))
    there = step_mask(prediction)
    if there is None:
        there = jnp.ones(logits.shape[:2], bool)
    # What stands at a step that is not there may be NaN: it is kept away from the derivative too.
    log_probability = jax.nn.log_softmax(jnp.where(there[..., None], logits, 0), -1)
    label = as_labels(target)
    batch, length = label.shape
    states = jnp.full((batch, 2 * length + 1), blank, label.dtype).at[:, 1::2].set(label)
    before = jnp.pad(states, ((0, 0), (2, 0)), constant_values=blank)[:, : 2 * length + 1]
    skips = (states != blank) & (states != before)
    ends = 2 * (label != blank).sum(-1)
    return _Problem(jnp.where(there[..., None], log_probability, 0), states, skips, ends, there)


def _value_and_slope(p: _Problem) -> tuple[Array, Array]:
    """Return the values (B,) and their derivatives (B, T, K), by the recursion from both ends."""
    emitted, size = _emissions(p), p.states.shape[1] - 1
    # From the end, the states are passed in reverse; what may be left out on the way from s to
    # s + 2 may be so on the way back.
    back = jnp.pad(p.skips, ((0, 0), (0, 2)))[:, 2:]
    last, reached = _recursion(
        jnp.concatenate([emitted, jnp.flip(emitted, (1, 2))]),
        jnp.concatenate([p.skips, jnp.flip(back, 1)]),
        jnp.concatenate([jnp.zeros_like(p.ends), size - p.ends]),
        jnp.concatenate([p.there, jnp.flip(p.there, 1)]),
    )
    batch = p.ends.shape[0]
    value = _value(p, last[:batch])
    spelt = jnp.isfinite(value)
    # Neither `reached` holds the emission of its own step: both together need it once.
    through = reached[:batch] + emitted + jnp.flip(reached[batch:], (1, 2))
    share = jnp.exp(through + jnp.where(spelt, value, 0)[:, None, None])
    slope = _spread(jnp.exp(p.log_probability), share, p)
    return value, jnp.where((spelt[:, None] & p.there)[..., None], slope, 0)


def _emissions(p: _Problem) -> Array:
    """Return the log-probability (B, T, E) that each step emits what each state does."""
    # A label out of range is NaN; a negative one would count from the end.
    classes = p.log_probability.shape[-1]
    states = jnp.where(p.states < 0, classes, p.states)
    return jnp.take_along_axis(p.log_probability, states[:, None, :], -1, mode="fill")


def _recursion(emitted: Array, skips: Array, start: Array, there: Array) -> tuple[Array, Array]:
    """Run over all steps, from standing at one state for sure before the first of them.

    Returns the log-probability (B, E) of all paths to every state after the last step, and the one
    (B, T, E) at every step, without what that step emits.
    """
    size = emitted.shape[-1]
    never = jnp.asarray(_NEVER, emitted.dtype)
    begin = jnp.where(jnp.arange(size)[None, :] == start[:, None], 0, never)

    def step(log_alpha: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        emission, is_there = now
        # The three ways in, behind a padding that nothing comes from.
        padded = jnp.pad(log_alpha, ((0, 0), (2, 0)), constant_values=_NEVER)
        leap = jnp.where(skips, padded[:, :size], never)
        reached = _log_sum(log_alpha, padded[:, 1:-1], leap)
        # A class that is masked, with a logit of -inf, is an impossibility like the others.
        alpha = larger(reached + emission, never)
        return jnp.where(is_there[:, None], alpha, log_alpha), reached

    steps = jnp.moveaxis(emitted, 1, 0), there.T
    last, reached = scan(step, begin, steps)
    return last, jnp.moveaxis(reached, 0, 1)


def _log_sum(*terms: Array) -> Array:
    """Return the log of the sum of the exponentials of finite terms.

    Of a stack of the terms XLA for CPUs would make a kernel for each maximum and sum.
    """
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, terms))
    return top + jnp.log(functools.reduce(operator.add, [jnp.exp(term - top) for term in terms]))


def _value(p: _Problem, last: Array) -> Array:
    """Return ``-log`` of the probability to end at the last blank or the label before it."""
    ends = jnp.stack([p.ends, jnp.maximum(p.ends - 1, 0)], -1)
    blank, label = jnp.moveaxis(jnp.take_along_axis(last, ends, -1), -1, 0)
    log_sum = jnp.logaddexp(blank, jnp.where(p.ends > 0, label, _NEVER))
    return jnp.where(log_sum < _NEVER / 2, jnp.inf, -log_sum)


def _spread(probability: Array, share: Array, p: _Problem) -> Array:
    """Return the probability of every class, less the share of its states on all good paths."""

    def one(probability: Array, share: Array, states: Array) -> Array:
        return probability.at[:, states].add(-share, mode="drop")

    return jax.vmap(one)(probability, share, p.states)


def _check_labels(logits: Array, target: Target, blank: int) -> None:
    """Raise unless the target is labels (B, S), each row padded with the blank."""
    batch, classes = logits.shape[0], logits.shape[-1]
    dtype, shape = check_real(target, "target"), np.shape(target)
    if len(shape) != 2 or shape[0] != batch or not jnp.issubdtype(dtype, jnp.integer):
        raise InputError(
            f"integer labels of shape ({batch}, S)",
            f"a target {dtype} of shape {shape}",
            f"pad the shorter rows at their ends with the blank, {blank}",
        )
    check.values(
        target,
        lambda t: (t < 0) | (t >= classes),
        f"labels in 0..{classes - 1}",
        f"widen the last layer, or pad with the blank, {blank}",
    )
    check.values(
        target,
        lambda t: (t != blank) & (np.cumsum(t == blank, -1) > 0),
        f"rows that end at their first blank, {blank}",
        "blanks are padding only: the loss puts them between the labels by itself",
    )


def _check_lengths(prediction: Prediction, target: Target, blank: int) -> None:
    """Raise where steps are too few for the labels, so far as lengths and labels are known."""
    padded = isinstance(prediction, Sequence)
    lengths = prediction.lengths if padded else None
    if any(isinstance(a, jax.core.Tracer | jax.ShapeDtypeStruct) for a in (lengths, target)):
        return
    label = np.asarray(target)
    repeats = (label[:, 1:] == label[:, :-1]) & (label[:, 1:] != blank)
    needed = (label != blank).sum(-1) + repeats.sum(-1)
    batch, time = (prediction.values if padded else prediction).shape[:2]
    if lengths is None:
        steps = np.full(batch, time)
    else:
        step_mask(prediction)  # for its checks
        known = np.asarray(lengths)
        steps = known.sum(-1) if known.ndim == 2 else known
    check.values(
        steps,
        lambda n: n < needed,
        "a step for each label, and one between equal neighbors",
        "shorten the labels, or stride less over time",
        name="lengths",
    )
