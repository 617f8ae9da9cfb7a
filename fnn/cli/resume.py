"""``python -m fnn resume``: go on with a run that was interrupted, to the same bits."""

from __future__ import annotations

from pathlib import Path

from fnn._core.errors import InputError
from fnn.cli import checkpoints
from fnn.cli.compare_runs import read_record
from fnn.cli.data import described, problem
from fnn.cli.folder import COMMAND
from fnn.cli.run import Outcome, finish, prepare, start
from fnn.cli.settings import Settings, from_plain
from fnn.train.files.checkpoint import checkpoint_info, load_train_state
from fnn.train.files.checkpoint_folder import latest_checkpoint


def begun(folder: Path) -> Settings:
    """Return the settings that a run in a folder began with.

    Args:
        folder: of the run.
    Raises:    InputError where there is no run.
    """
    if (folder / COMMAND).exists():
        remedy = "a sweep goes on by the command that began it"
        raise InputError("the folder of a run", f"{folder}, that of a sweep", remedy)
    return from_plain(read_record(folder)["settings"])._replace(output=folder)


def resume(folder: Path) -> Outcome:
    """Go on from the last epoch that was kept, and end as the run would have.

    Args:
        folder: of the run, with its settings and its checkpoints.
    Raises:    InputError where there is no run, none that was interrupted, or its data has changed.
    """
    settings = begun(folder)
    file = latest_checkpoint(folder / checkpoints.FOLDER)
    if file is None:
        raise InputError(
            "the folder of an interrupted run",
            f"{folder} (with no checkpoint in it)",
            "a run that is done has none: start another one",
        )
    learned = problem(settings.data, settings.data_folder, settings.seed)
    if described(learned) != read_record(folder)["data"]:
        raise InputError(
            f"the {learned.name} that the run began with",
            "another, which was changed since",
            "bring it back, or start another run",
        )
    job = prepare(learned, settings)
    begin = load_train_state(file, like=start(job))
    past = checkpoints.from_plain(checkpoint_info(file).data_state)
    print(f"goes on after epoch {past.epochs}, with {file}\n")
    return finish(job, begin, past)
