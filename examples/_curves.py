"""What the examples of models beyond chains share: one run by each gradient, and their curves."""

from pathlib import Path

import numpy as np

from fnn.train import atomic_write


def by_both(train, first=100):
    """Run ``train(gradient) -> (result, losses)`` by both gradients; return the manual result.

    Prints both, and how far their loss curves are apart, relative to the largest loss: in the first
    steps, before rounding has had time to grow, and in all.
    """
    curves = {}
    for gradient in ("auto", "manual"):
        result, losses = train(gradient)
        curves[gradient] = losses = np.asarray(losses, np.float64)
        few = max(len(losses) // 20, 1)
        print(f"{gradient:<6} loss {losses[:few].mean():.4g} -> {losses[-few:].mean():.4g}")
    apart = np.abs(curves["manual"] - curves["auto"]) / np.abs(curves["auto"]).max()
    print(
        f"the two loss curves differ by {apart[:first].max():.1e} at most in the first {first}"
        f" steps, by {apart.max():.1e} in all {len(apart)}"
    )
    return result, curves


def draw(axes, curves, label="loss", log=False):
    """Draw both loss curves on top of each other."""
    axes.plot(curves["auto"], color="tab:orange", linewidth=4, alpha=0.5, label="autodiff")
    axes.plot(curves["manual"], color="black", linewidth=0.8, label="by hand")
    axes.set(xlabel="step", ylabel=label, title="Loss by both gradients")
    if log:
        axes.set_yscale("log")
    axes.legend(frameon=False)


def save(figure, folder, name):
    """Write a figure, and say so."""
    path = Path(folder) / name
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    print("wrote", path)
