"""``python -m fnn``: train on real images by hand-derived gradients, and see them proven."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_args

import jax

from fnn._core.errors import InputError, naming
from fnn._core.extras import require
from fnn._core.types import Unchecked
from fnn.cli import CALLED
from fnn.cli.cache import keep_programs
from fnn.cli.compare_runs import compare_runs
from fnn.cli.data import IMAGES, TOYS, problem
from fnn.cli.networks import INITIALIZERS, Activation, Model
from fnn.cli.optimizers import NOISES, OPTIMIZERS, SCHEDULES
from fnn.cli.predict import predict
from fnn.cli.processes import LostError, check_processes, run_in_processes
from fnn.cli.ranges import NAMES, read_settings, read_values
from fnn.cli.resume import begun, resume
from fnn.cli.run import DivergedError, NotWrittenError, StoppedError, run
from fnn.cli.settings import CHANNELS, HIDDEN, HIDDEN_OF_POINTS, LossName, Settings, to_plain
from fnn.cli.sweep import run_sweep

typer: Any = require("typer", CALLED)
for _package in ("matplotlib", "safetensors", "tqdm"):
    # Known before a run, and not where its results would be written; importing them takes a while.
    if find_spec(_package) is None:
        require(_package, CALLED)
DEFAULT = Settings()
# A width that is larger fits no index.
_WIDEST = 2**31 - 1
# In the order of the help.
PANELS = ("Data", "Model", "Loss and gradient", "Optimizer", "Noise", "Training", "Results")


def _option(panel: str, words: str, default: str = "", metavar: str = "") -> Any:
    """Return an option of a group of the help; `default` says what None stands for."""
    shown: dict[str, Unchecked] = {"show_default": default} if default else {}
    if metavar:
        shown["metavar"] = metavar
    return typer.Option(rich_help_panel=panel, help=words, **shown)


def _names(values: Sequence[str]) -> str:
    return ", ".join(values)


_USUAL = "images: {}; points: {}".format
_Data = Annotated[
    str,
    _option(
        "Data",
        f"What to learn: {_names((*IMAGES, *TOYS))}, FILE.npz (arrays x and y) or FILE.csv (the"
        " target in the last column).",
        metavar="NAME",
    ),
]
_DataFolder = Annotated[
    Path | None, _option("Data", "Where the four files of fashion_mnist are.", metavar="FOLDER")
]
_Model = Annotated[
    Model,
    _option(
        "Model", "mlp, cnn (convolutions), rnn or lstm (read the image row by row).", metavar="NAME"
    ),
]
_Hidden = Annotated[
    str | None,
    _option(
        "Model",
        "Neurons of each hidden layer; '' for none.",
        _names([f"{name}: {','.join(map(str, widths))}" for name, widths in HIDDEN.items()])
        + f"; points: {','.join(map(str, HIDDEN_OF_POINTS))}",
        "WIDTHS",
    ),
]
_Channels = Annotated[
    str | None,
    _option(
        "Model", "Filters of each convolution of a cnn.", ",".join(map(str, CHANNELS)), "WIDTHS"
    ),
]
_Activation = Annotated[
    str | None,
    _option("Model", f"Of the hidden layers: {_names(get_args(Activation))}.", "relu", "NAME,..."),
]
_Initializer = Annotated[
    str | None,
    _option(
        "Model",
        f"Of the weights: {_names(list(INITIALIZERS))}.",
        "he_normal before an activation, lecun_normal elsewhere",
        "NAME,...",
    ),
]
_BatchNorm = Annotated[
    bool | None, _option("Model", "Batch normalization.", _USUAL("yes in mlp and cnn", "no"))
]
_Dropout = Annotated[
    str | None,
    _option("Model", "Fraction of neurons dropped in training.", _USUAL(0.3, 0), "NUMBER,..."),
]
_Loss = Annotated[
    str | None,
    _option(
        "Loss and gradient",
        f"{_names(get_args(LossName))}.",
        "cross_entropy; of values: squared_error",
        "NAME,...",
    ),
]
_Gradient = Annotated[
    str,
    _option(
        "Loss and gradient",
        "manual (derived by hand), auto (jax.grad) or numeric (differences, for tiny networks).",
        metavar="NAME,...",
    ),
]
_Compare = Annotated[
    bool,
    _option("Loss and gradient", "Show that the manual gradient equals the automatic one, first."),
]
_Costs = Annotated[
    bool, _option("Loss and gradient", "Measure time and memory of both gradients as well.")
]
_Optimizer = Annotated[
    str | None,
    _option(
        "Optimizer",
        f"{_names(list(OPTIMIZERS))}.",
        "momentum; rnn, lstm and points: adam",
        "NAME,...",
    ),
]
_LearningRate = Annotated[
    str | None,
    _option("Optimizer", "The size of a step, 0 or more.", "by optimizer and loss", "NUMBER,..."),
]
_Schedule = Annotated[
    str | None,
    _option(
        "Optimizer",
        f"Of the learning rate: {_names(list(SCHEDULES))} (then cosine).",
        "cosine for most",
        "NAME,...",
    ),
]
_Momentum = Annotated[
    str | None,
    _option(
        "Optimizer", "Share of the last step kept in the next, in [0, 1).", "by optimizer",
        "NUMBER,...",
    ),
]  # fmt: skip
_Noise = Annotated[
    str | None,
    _option("Noise", f"{_names(list(NOISES))}.", _USUAL("gradient_noise", "none"), "NAME,..."),
]
_NoiseScale = Annotated[
    str | None,
    _option(
        "Noise",
        "Variance of gradient_noise; radius of sphere_noise, perturbed; standard deviation of"
        " anticorrelated_noise, weight_noise; share of labels; temperature of sgld, psgld, sghmc,"
        " baoab; multiple of the clipping norm of dp_sgd.",
        "by noise",
        "NUMBER,...",
    ),
]
_Epochs = Annotated[
    int | None, _option("Training", "Passes through all examples.", _USUAL(20, 200), "INT")
]
_BatchSize = Annotated[
    str | None,
    _option(
        "Training", "Examples a step; 1 is stochastic gradient descent.", _USUAL(100, 40), "INT,..."
    ),
]
_Seed = Annotated[
    str, _option("Training", "All randomness; the same seed gives the same bits.", "", "INT,...")
]
_Plain = Annotated[
    bool,
    _option(
        "Training",
        "sgd at one learning rate; no norm, dropout, momentum or noise unless asked for.",
    ),
]
_Processes = Annotated[
    int,
    _option(
        "Training",
        "Processes on the CPUs of this machine that share every batch; one of them writes.",
        metavar="INT",
    ),
]
_Output = Annotated[
    Path,
    _option("Results", "Folder; files of an earlier run are replaced.", metavar="FOLDER"),
]
_Cache = Annotated[
    bool,
    typer.Option(
        help="Keep compiled programs in ~/.cache/fnn/programs, for this machine and release of JAX,"
        " so that the next start is faster; also before compare-runs, predict, resume and sweep."
    ),
]


# To mypy the group is Any, as what it inherits from has no types.
class _Grouped(typer.core.TyperGroup):  # type: ignore[misc]
    """A command whose help lists its options group by group."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group, the rest under Options, and the other commands."""
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in (*PANELS, "Options")}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                panel = getattr(parameter, "rich_help_panel", None) or "Options"
                groups[panel].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records, col_max=24)
        self.format_commands(ctx, formatter)


def main(
    ctx: typer.Context,
    data: _Data = DEFAULT.data,
    data_folder: _DataFolder = None,
    model: _Model = DEFAULT.model,
    hidden: _Hidden = None,
    channels: _Channels = None,
    activation: _Activation = None,
    initializer: _Initializer = None,
    batch_norm: _BatchNorm = None,
    dropout: _Dropout = None,
    loss: _Loss = None,
    gradient: _Gradient = DEFAULT.gradient,
    compare: _Compare = DEFAULT.compare,
    costs: _Costs = DEFAULT.costs,
    optimizer: _Optimizer = None,
    learning_rate: _LearningRate = None,
    schedule: _Schedule = None,
    momentum: _Momentum = None,
    noise: _Noise = None,
    noise_scale: _NoiseScale = None,
    epochs: _Epochs = None,
    batch_size: _BatchSize = None,
    seed: _Seed = str(DEFAULT.seed),
    plain: _Plain = DEFAULT.plain,
    processes: _Processes = DEFAULT.processes,
    output: _Output = DEFAULT.output,
    cache: _Cache = True,
) -> None:
    """Train a network with gradients derived by hand, and see them proven.

    Prints the layers, the manual gradient beside the automatic and the
    numeric one, and the accuracy on examples held out; writes pictures,
    metrics, weights and settings into a folder. Several values at once, as
    in --learning-rate 0.001,0.01,0.1, are several runs in one picture.
    The exit status is 1 where training diverged, 2 for bad options.
    """
    given = {name: value for name, value in locals().items() if name not in ("ctx", "cache")}
    if cache:
        keep_programs()
    with explained():
        if ctx.invoked_subcommand is not None:
            _refuse_options(ctx)
            return
        given["hidden"], given["channels"] = widths(hidden), widths(channels)
        lists = {n: read_values(n, given[n]) for n in _SEVERAL if given[n] is not None}
        settings = DEFAULT._replace(**given | {n: found[0] for n, found in lists.items()})
        several = {n: found for n, found in lists.items() if len(found) > 1}
        check_processes(settings, bool(several))
        if processes > 1:
            task = {"settings": to_plain(settings)}
            raise typer.Exit(run_in_processes(processes, task, output))
        if not several:
            run(problem(data, data_folder, settings.seed), settings)
            return
        if costs:
            raise InputError("costs of one run", "several", "give one value of each, or no costs")
        fixed = {n: [v] for n, v in settings._asdict().items() if n in NAMES and v is not None}
        run_sweep(fixed | several, output, replace=True)


def compare_runs_command(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Where the runs wrote to.")
    ],
) -> None:
    """Show in which settings runs differ, and how they ended."""
    with explained():
        print(compare_runs(folders))


def predict_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the run wrote to.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="FILE.csv (rows of numbers without the target; under names in the first row any"
            " columns in any order) or FILE.npz (array x).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write into this file, whole or not at all.",
            metavar="FILE",
            show_default="print",
        ),
    ] = None,
) -> None:
    """Predict new rows with the network of a run that has ended.

    Gives a row for each, as CSV: the class with the score of every class, or
    the values. The rows are scaled as those were that the run learned from,
    which it remembers.
    """
    with explained():
        predict(folder, file, out)


def resume_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the run wrote to.")],
) -> None:
    """Go on with a run that was interrupted, to the same bits."""
    with explained():
        processes = begun(folder).processes
        if processes > 1:
            raise typer.Exit(run_in_processes(processes, {"folder": str(folder)}, folder))
        resume(folder)


def sweep_command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SETTING=VALUES",
            help="Settings are the options of python -m fnn by their names, with _ for -.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="Folder; the same command goes on.", metavar="FOLDER")
    ] = Path("fnn-sweep"),
    halving: Annotated[
        str,
        typer.Option(
            help="Epochs after which the half of the runs that are behind end.",
            metavar="INT,...",
            show_default="never",
        ),
    ] = "",
    members: Annotated[
        int,
        typer.Option(
            help="Runs in a program; what is finished is written after each.", metavar="INT"
        ),
    ] = 64,
) -> None:
    """Train at every combination of settings, in few programs.

    Prints means over seeds, the best first; writes a table of all runs and
    pictures: curves, parallel coordinates and a heat map. A sweep that was
    interrupted goes on by the same command, to the same bits. The exit status
    is 1 where every run diverged or it was interrupted, 2 for bad settings.
    """
    with explained():
        epochs = widths(halving) or ()
        run_sweep(read_settings(words), output, epochs, members)


@contextmanager
def explained() -> Iterator[None]:
    """Leave with one line that says why, in place of a traceback, where something is wrong.

    Raises:    `typer.Exit` with the status.
    """
    try:
        with naming(CALLED):
            yield
    except InputError as error:
        _end(error, 2)
    except (
        DivergedError, StoppedError, NotWrittenError, LostError, OSError, MemoryError,
        jax.errors.JaxRuntimeError,
    ) as error:  # fmt: skip
        _end(error, 1)


def _end(error: Exception, status: int) -> None:
    """Leave with one line that says why."""
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"Error: {line}", file=sys.stderr)
    raise typer.Exit(status) from error


def _refuse_options(ctx: Any) -> None:
    """Raise where options of a training stand before another command."""
    given = [name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"]
    given = [name for name in given if name != "cache"]
    if given:
        raise InputError(f"no options before {ctx.invoked_subcommand}", given[0], "leave them out")


def widths(text: str | None) -> tuple[int, ...] | None:
    """Read widths such as ``256,128``; nothing between the commas means no hidden layer.

    Args:
        text: what stands after the option, None where it was not given.
    Raises:    InputError for anything else.

    >>> widths("256,128"), widths(""), widths(None)
    ((256, 128), (), None)
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise InputError("numbers such as 256,128", repr(text), "put commas between them")
    found = tuple(map(int, words))
    if any(width > _WIDEST for width in found):
        raise InputError(f"numbers up to {_WIDEST}", repr(text), "take smaller ones")
    return found


# The settings that may have several values.
_SEVERAL = (
    "activation", "initializer", "dropout", "loss", "gradient", "optimizer", "learning_rate",
    "schedule", "momentum", "noise", "noise_scale", "batch_size", "seed",
)  # fmt: skip


# The character \b keeps the lines of a paragraph as they are.
FORMS = """\b
Values are given as:
  learning_rate=0.1,0.2         these values
  learning_rate=0.001:10:log5   5 values of one ratio to the next
  momentum=0:0.9:lin4           4 values of one distance to the next
  seed=0:8                      the whole numbers from 0 to 7
  optimizer=sgd,adam            names
  hidden=64,32/128              widths of two networks
  batch_norm=yes,no             with and without
"""


app: Any = typer.Typer(
    cls=_Grouped,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
app.callback(invoke_without_command=True)(main)
app.command("compare-runs")(compare_runs_command)
app.command("predict")(predict_command)
app.command("resume")(resume_command)
app.command("sweep", epilog=FORMS)(sweep_command)
