"""``python -m fnn --processes``: a run in several processes of this machine, started and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from fnn._core import check
from fnn._core.errors import InputError
from fnn._core.types import Unchecked
from fnn.cli import checkpoints
from fnn.cli.run import StoppedError
from fnn.cli.settings import Settings
from fnn.train.files.checkpoint_folder import latest_checkpoint

# More processes of one machine than these share no batch that is worth it.
_MOST = 64
# So long the others may take to end by themselves, once one was lost: the first may write still.
_GRACE = 10.0
_POLL = 0.02
# The status of a process whose device failed, as it does where another process is gone.
LOST = 70
# No process ends with a larger status.
_LARGEST = 255


class LostError(Exception):
    """A process that ended before its run did."""


def check_processes(settings: Settings, several: bool) -> None:
    """Raise unless a run can be shared by so many processes.

    Args:
        settings: of the run.
        several: whether there are several runs.
    Raises:    InputError for no or too many processes, and for what needs one alone.
    """
    check.count(settings.processes, "processes")
    if settings.processes > _MOST:
        raise InputError(f"processes from 1 to {_MOST}", str(settings.processes), "start fewer")
    if settings.processes > 1 and several:
        raise InputError("one run for several processes", "several", "give one value of each")
    if settings.processes > 1 and settings.costs:
        raise InputError("costs of one process", str(settings.processes), "leave one of them out")


def run_in_processes(count: int, task: Mapping[str, Unchecked], folder: Path) -> int:
    """Run a task of `fnn.cli.worker` in several processes, and return the exit status.

    The first of them writes, to the terminal and to the disk. Ctrl-C and SIGTERM reach all of them;
    where one fails all are ended, and where this process is killed they end by themselves.

    Args:
        count: how many processes.
        task: what each of them does.
        folder: of the run.
    Raises:    `LostError` where one of them failed and the first has not said why, and
        `StoppedError` where they were interrupted so.
    """
    with tempfile.TemporaryDirectory(prefix="fnn-") as logs:
        group = _Group(count, Path(logs))
        try:
            with group.forwarding():
                group.start(task)
                group.wait()
        finally:
            statuses = group.end()
        # What the first one wrote is whole by then, whatever became of the others.
        if statuses[0] is not None and statuses[0] >= 0 and statuses[0] != LOST:
            return statuses[0]
        go_on = ""
        if latest_checkpoint(folder / checkpoints.FOLDER) is not None:
            go_on = f"; go on with python -m fnn resume {folder}"
        if group.signals:
            raise StoppedError(f"interrupted{go_on}")
        # Where the system ended one, the others fail for want of it.
        lost = min(range(count), key=lambda i: statuses[i] or _LARGEST + 1)
        raise LostError(f"process {lost} of {count} {group.end_of(lost)}{go_on}")


class _Group:
    """Processes of one run, and what the system asked them to do.

    Args:
        count: how many.
        logs: a folder for what they say, but for the first one's own lines.
    """

    def __init__(self, count: int, logs: Path):
        self.count, self.signals = count, 0
        self._logs = [logs / f"{i}.txt" for i in range(count)]
        self._children: list[subprocess.Popen[bytes]] = []
        self._statuses: list[int | None] = []

    def start(self, task: Mapping[str, Unchecked]) -> None:
        """Start all of them, each with its task in a pipe that stays open as long as this lives."""
        address = f"127.0.0.1:{_free_port()}"
        for i, log in enumerate(self._logs):
            with log.open("wb") as said:
                # In sessions of their own: of a Ctrl-C at the terminal they hear by this process.
                child = subprocess.Popen(
                    [sys.executable, "-m", "fnn.cli.worker"], stdin=subprocess.PIPE,
                    stdout=said if i else None, stderr=said if i else None,
                    env=os.environ | {"JAX_PLATFORMS": "cpu"}, start_new_session=True,
                )  # fmt: skip
            self._children.append(child)
            place = {"address": address, "count": self.count, "index": i, "log": str(log)}
            # One that ended already is seen by its status.
            with contextlib.suppress(BrokenPipeError):
                if child.stdin is not None:
                    child.stdin.write(json.dumps(place | dict(task)).encode() + b"\n")
                    child.stdin.flush()

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[None]:
        """Hand Ctrl-C and SIGTERM on; only the main thread of Python gets any."""
        main = threading.current_thread() is threading.main_thread()
        ours = (signal.SIGINT, signal.SIGTERM) if main else ()
        before = {one: signal.signal(one, self._forward) for one in ours}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signals += 1
        for child in self._children:
            if child.poll() is None:
                child.send_signal(number)

    def wait(self) -> None:
        """Wait until all have ended, or until one has failed and the others had time to."""
        end = float("inf")
        while any(child.poll() is None for child in self._children):
            statuses = [child.poll() for child in self._children]
            if statuses[0]:
                return
            # After a second Ctrl-C nobody waits for long either.
            if end == float("inf") and (self.signals > 1 or any(s is not None for s in statuses)):
                end = time.monotonic() + _GRACE
            if time.monotonic() > end:
                return
            time.sleep(_POLL)

    def end(self) -> list[int | None]:
        """End those that still run; return how each ended by itself, None where it did not."""
        self._statuses = [child.poll() for child in self._children]
        for child in self._children:
            child.kill()
        for child in self._children:
            child.communicate()
        return self._statuses

    def end_of(self, i: int) -> str:
        """Say how one of them ended, in words."""
        status = self._statuses[i] or 0
        how = f"ended with status {status}"
        if status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        said = self._logs[i].read_text("utf-8", "replace").strip().splitlines()
        last = f" ({said[-1].removeprefix('Error: ')})" if said and status > 0 else ""
        return f"{how}{last}, and so were the others"


def _free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
