"""Ctrl-C and SIGTERM while a program runs: noted, and heeded where nothing is lost by it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupt:
    """What asked the run to stop: the name of a signal, or ``""``.

    Args:
        is_shared: whether several processes have to stop together, so that none does at once.
    """

    def __init__(self, is_shared: bool = False) -> None:
        self.by, self.is_shared = "", is_shared
        self._at_once = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Note signals that would end the process; only the main thread of Python gets any."""
        defaults = {
            signal.SIGINT: signal.default_int_handler,
            signal.SIGTERM: signal.SIG_DFL,
        }
        main = threading.current_thread() is threading.main_thread()
        # A handler of the user's stays.
        ours = [one for one, handler in defaults.items() if signal.getsignal(one) == handler]
        before = {one: signal.signal(one, self._note) for one in ours} if main else {}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Run the user's code, which a signal interrupts by a KeyboardInterrupt."""
        if self.by and not self.is_shared:
            raise KeyboardInterrupt(self.by)
        self._at_once = not self.is_shared
        try:
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        # The second one does not wait.
        at_once, self.by = self._at_once or bool(self.by), signal.Signals(number).name
        if at_once:
            raise KeyboardInterrupt(self.by)
