"""A bar that moves while a compiled program runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from fnn._core import check
from fnn._core.extras import require

Progress: TypeAlias = Callable[[int, int, float], None]
Report: TypeAlias = Callable[[int, float], None]


@contextmanager
def progress_bar(progress: bool | Progress, steps: int) -> Iterator[Report | None]:
    """Yield a function ``(done, loss)`` to call after `done` more steps, or None for no reports.

    Args:
        progress: whether to show a bar, or a function ``(step, steps, loss)``.
        steps: how many there will be, 0 where that is not known.
    Raises:    ImportError when a bar is wanted and tqdm is not installed.
    """
    if callable(progress):
        total = 0

        def count(done: int, loss: float) -> None:
            nonlocal total
            total += done
            progress(total, steps, loss)

        yield count
    elif progress:
        with require("tqdm", "fit").tqdm(
            total=steps or None, unit="step", dynamic_ncols=True
        ) as bar:

            def show(done: int, loss: float) -> None:
                bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
                bar.update(done)

            yield show
    else:
        yield None


def check_progress(progress: bool | Progress) -> None:
    """Raise unless this is True, False or a function."""
    remedy = "or pass a function (step, steps, loss)"
    if callable(progress):
        check.function(progress, "progress", remedy, takes="step, steps, loss")
    else:
        check.flag(progress, "progress", remedy)
