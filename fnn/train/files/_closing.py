"""What is closed at the end of its ``with`` statement, however that ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Base of what a ``with`` statement hands out as it is, and closes at its end."""

    @abstractmethod
    def close(self) -> None:
        """End what goes on in the background."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
