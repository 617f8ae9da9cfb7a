"""Data on a mesh: what a source reads, on the devices that compute with it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fnn._core.errors import InputError
from fnn.gradient.objective import Batch
from fnn.train.data.batch import length
from fnn.train.data.stream import Arrays, Batches, CheckRows, MappedRows, Source, Stretch
from fnn.train.loop._processes import check_same
from fnn.train.loop._program import Steps
from fnn.train.sharding import Layout

_REMEDY = "give every process batches of one size, and equally many"


class Split:
    """A source whose examples lie on a mesh.

    Arrays lie on every device as a whole: each takes its rows of a step, in whatever order. What is
    read in portions is sent in parts, to each device its rows of every step. Where the mesh is that
    of several processes, each has the arrays, reads its rows of files, and has batches of its own,
    which side by side are those of a step.

    Args:
        source: where the examples come from.
        layout: where they are to lie.
    """

    def __init__(self, source: Source, layout: Layout):
        self.source, self.layout = source, layout
        self.spec, self.epoch_steps, self.again = source.spec, source.epoch_steps, source.again
        self.name = getattr(source, "name", "the data")
        self._whole: tuple[Batch, Batch] | None = None
        if layout.is_shared and isinstance(source, MappedRows):
            source.slots = layout.slots
        if layout.is_shared and isinstance(source, Batches):
            # A clock would end portions at another batch in every process.
            source.portion_seconds = math.inf

    def prepare(self, check_rows: CheckRows, seed: list[int]) -> None:
        self.source.prepare(check_rows, seed)

    def programs(self) -> list[Stretch]:
        return [self._placed(stretch) for stretch in self.source.programs()]

    def stretches(self, step: int, until: int | None, place: bytes | None) -> Iterator[Stretch]:
        stretches = self.source.stretches(step, until, place)
        while True:
            stretch = next(stretches, None)
            if self.layout.is_shared:
                counts = (0,) if stretch is None else _counts(stretch)
                check_same((*counts, *(0,) * (5 - len(counts))), "equal batches", _REMEDY)
            if stretch is None:
                return
            yield self._placed(stretch)

    def _placed(self, stretch: Stretch) -> Stretch:
        if stretch.end == stretch.begin:
            return stretch
        assert not isinstance(stretch.data, Steps)
        if not isinstance(self.source, Arrays):
            steps, size = stretch.order.shape
            if self.layout.is_shared and isinstance(self.source, Batches):
                size = self._size_of_all(size)
            return stretch._replace(data=Steps(self.layout.put_steps(stretch.data, steps, size)))
        if self._whole is None or self._whole[0] is not stretch.data:
            self._whole = stretch.data, self.layout.put_whole(stretch.data)
        return stretch._replace(data=self._whole[1])

    def _size_of_all(self, size: int) -> int:
        """Return the examples in a step of all processes, if this one has so many of them."""
        devices = self.layout.mesh.shape[self.layout.axis]
        here = len(self.layout.slots(devices))
        if size % here:
            raise InputError(
                f"batches that the {here} parts of the mesh in this process divide",
                f"one of {size} examples",
                "give them another batch size, and leave out a smaller last batch",
            )
        return size * devices // here


def _counts(stretch: Stretch) -> tuple[int, ...]:
    """Return what has to be the same in all processes."""
    size = length(stretch.data) if stretch.end > stretch.begin else 0
    return 1, stretch.begin, stretch.end, size, int(stretch.ends_epoch)
