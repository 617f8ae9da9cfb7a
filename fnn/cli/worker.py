"""One of the processes that share a run: what `fnn.cli.processes` starts, and tells what to do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from fnn._core.types import Unchecked

# So long a run may take to end by itself when nobody waits for it any more.
_GRACE = 10.0


def main() -> None:
    """Read a task from standard input, and do it; the exit status is that of the command."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _part_from_libraries(task["log"])
    status = _do(task)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if status:
        # At once: on their way out the processes of JAX wait for each other.
        os._exit(status)


def _do(task: Mapping[str, Unchecked]) -> int:
    """Do a task and return the exit status."""
    first = task["index"] == 0
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            task["address"], task["count"], task["index"],
            coordinator_bind_address=task["address"] if first else None,
        )  # fmt: skip
        return _run(task, first)
    except KeyboardInterrupt:
        print("Error: interrupted", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    return 1


def _run(task: Mapping[str, Unchecked], first: bool) -> int:
    """Run what the command names, once the processes know each other."""
    from fnn.cli.data import problem
    from fnn.cli.main import explained, typer
    from fnn.cli.processes import LOST
    from fnn.cli.resume import resume
    from fnn.cli.run import DivergedError, StoppedError, run
    from fnn.cli.settings import from_plain

    # These come in all processes alike, and the first one tells of them.
    told = contextlib.nullcontext() if first else contextlib.suppress(StoppedError, DivergedError)
    try:
        with explained(), told, _lost(LOST):
            if "folder" in task:
                resume(Path(task["folder"]))
            else:
                settings = from_plain(task["settings"])
                run(problem(settings.data, settings.data_folder, settings.seed), settings)
    except typer.Exit as error:
        return int(error.exit_code)
    return 0


@contextlib.contextmanager
def _lost(status: int) -> Iterator[None]:
    """End a process whose device fails, as it does where another process is gone, and log why."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        os.write(2, " ".join(str(error).split()).encode())
        os._exit(status)


def _part_from_libraries(log: str) -> None:
    """Write what Python prints where it was to go, and into a log what libraries in C++ print."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        own = os.fdopen(os.dup(number), "w", encoding=sys.stdout.encoding, buffering=1)
        setattr(sys, name, own)
    with Path(log).open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)


def _end_with_parent() -> None:
    """End this process when that which started it is gone: its pipe is closed then."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)


if __name__ == "__main__":
    main()
