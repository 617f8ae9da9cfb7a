"""Data on a mesh: what a source reads, on the devices that compute with it."""

from __future__ import annotations

from collections.abc import Iterator

from fnn.gradient.objective import Batch
from fnn.train.data.stream import Arrays, CheckRows, Source, Stretch
from fnn.train.loop._program import Steps
from fnn.train.sharding import Layout


class Split:
    """A source whose examples lie on a mesh.

    Arrays lie on every device as a whole: each takes its rows of a step, in whatever order. What is
    read in portions is sent in parts, to each device its rows of every step.

    Args:
        source: where the examples come from.
        layout: where they are to lie.
    """

    def __init__(self, source: Source, layout: Layout):
        self.source, self.layout = source, layout
        self.spec, self.epoch_steps, self.again = source.spec, source.epoch_steps, source.again
        self.name = getattr(source, "name", "the data")
        self._whole: tuple[Batch, Batch] | None = None

    def prepare(self, check_rows: CheckRows, seed: list[int]) -> None:
        self.source.prepare(check_rows, seed)

    def programs(self) -> list[Stretch]:
        return [self._placed(stretch) for stretch in self.source.programs()]

    def stretches(self, step: int, until: int | None, place: bytes | None) -> Iterator[Stretch]:
        for stretch in self.source.stretches(step, until, place):
            yield self._placed(stretch)

    def _placed(self, stretch: Stretch) -> Stretch:
        if stretch.end == stretch.begin:
            return stretch
        if not isinstance(self.source, Arrays):
            steps = len(stretch.order)
            return stretch._replace(data=Steps(self.layout.put_steps(stretch.data, steps)))
        assert not isinstance(stretch.data, Steps)
        if self._whole is None or self._whole[0] is not stretch.data:
            self._whole = stretch.data, self.layout.put_whole(stretch.data)
        return stretch._replace(data=self._whole[1])
