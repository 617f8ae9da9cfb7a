"""Losses over the error, or over the margin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import jax.numpy as jnp

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn.losses import Loss
from fnn.plot._figure import legend, looks, new_figure, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Over: TypeAlias = Literal["error", "margin"]
_LABELS = {"error": "error, prediction minus target", "margin": "margin, target times prediction"}


@entry
def loss_functions(
    losses: Mapping[str, Loss], over: Over = "error", low: float = -3.0, high: float = 3.0
) -> Figure:
    """Draw losses and their slopes over the error, or over the margin of a class.

    Over the margin the fraction of mistakes is drawn too, gray: its slope is 0 nearly everywhere,
    so that nothing descends it.

    Args:
        losses: losses of one number by name, as ``{"squared": fnn.losses.squared_error()}``; over
            the margin those for labels -1 and +1, or `fnn.losses.binary_cross_entropy`.
        over: ``"error"``, the prediction with a target of 0, or ``"margin"``, the prediction with
            a target of +1.
        low: the smallest error or margin.
        high: the largest, above `low`.
    Raises:    InputError for no losses, another axis, and ends that are turned round.

    >>> import fnn
    >>> drawn = loss_functions({"hinge": fnn.losses.hinge()}, over="margin")
    >>> [text.get_text() for text in drawn.axes[0].get_legend().texts]
    ['hinge', '0/1: a mistake']

    """
    known = isinstance(losses, Mapping) and losses
    if not known or not all(isinstance(loss, Loss) for loss in losses.values()):
        raise InputError("losses by name", describe(losses), "pass {'hinge': fnn.losses.hinge()}")
    check.one_of(over, "over", _LABELS)
    check.number(low, "low")
    check.number(high, "high", above=low)
    x = jnp.linspace(low, high, 401)[:, None]
    target = jnp.zeros_like(x) if over == "error" else jnp.ones_like(x)
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2, sharex=True)
    for (name, loss), look in zip(losses.items(), looks(), strict=False):
        values, residuals = loss.forward(x, target)
        slope = loss.backward(residuals, jnp.ones_like(values))
        left.plot(x[:, 0], numbers(values, name), label=name, **look)
        right.plot(x[:, 0], numbers(slope, name)[:, 0], label=name, **look)
    if over == "margin":
        for axes, heights in ((left, (1, 0)), (right, (0, 0))):
            axes.plot([low, 0], heights[:1] * 2, color="0.5", label="0/1: a mistake", zorder=1)
            axes.plot([0, high], heights[1:] * 2, color="0.5", zorder=1)
    left.set(xlabel=_LABELS[over], ylabel="loss", title="Loss")
    right.set(xlabel=_LABELS[over], ylabel="slope", title="Its slope, where backpropagation begins")
    legend(left)
    figure.set_label(f"Losses over the {over} and their slopes: {', '.join(losses)}.")
    return figure
