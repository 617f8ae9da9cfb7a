"""``python -m fnn``: train on real images by hand-derived gradients, and see them proven."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import jax

from fnn._core.errors import InputError, naming
from fnn._core.extras import require
from fnn.cli.networks import CHANNELS, HIDDEN, Activation, Model
from fnn.cli.optimizers import NOISES, OPTIMIZERS
from fnn.cli.run import DEFAULT_OPTIMIZER, LossName, NotWrittenError, Settings, run
from fnn.datasets import Dataset, digits, fashion_mnist

typer: Any = require("typer", "main")
Option: Any = typer.Option
DEFAULT = Settings()
# A width that is larger fits no index.
_WIDEST = 2**31 - 1

DataName: TypeAlias = Literal["digits", "fashion_mnist"]
_Data = Annotated[DataName, Option(help="Images to learn from.")]
_DataFolder = Annotated[Path | None, Option(help="Where the four files of fashion_mnist are.")]
_Model = Annotated[
    Model,
    Option(
        metavar="NAME",
        help="mlp, cnn (convolutions), or rnn or lstm (reads the image row by row).",
    ),
]
_Hidden = Annotated[
    str | None,
    Option(
        metavar="WIDTHS",
        show_default=", ".join(f"{n}: {','.join(map(str, w))}" for n, w in HIDDEN.items()),
        help="Neurons of each hidden layer, with commas.",
    ),
]
_Channels = Annotated[
    str | None,
    Option(
        metavar="WIDTHS",
        show_default=f"cnn: {','.join(map(str, CHANNELS))}",
        help="Filters of each convolution of a cnn, with commas.",
    ),
]
_Activation = Annotated[
    Activation | None,
    Option(
        metavar="NAME",
        show_default="mlp, cnn: relu",
        help=f"Activation of the hidden layers: {', '.join(get_args(Activation))}.",
    ),
]
_BatchNorm = Annotated[
    bool | None,
    Option(show_default="mlp, cnn: yes", help="Normalize the inputs of every activation."),
]
_Dropout = Annotated[float, Option(help="Fraction of hidden neurons switched off while training.")]
_Loss = Annotated[LossName, Option(metavar="NAME", help=f"Loss: {', '.join(get_args(LossName))}.")]
_Epochs = Annotated[int, Option(help="How often to go through all images.")]
_BatchSize = Annotated[int, Option(help="Images a step; 1 is stochastic gradient descent.")]
_Optimizer = Annotated[
    str | None,
    Option(
        metavar="NAME",
        show_default=", ".join(f"{model}: {name}" for model, name in DEFAULT_OPTIMIZER.items()),
        help=f"Optimizer: {', '.join(OPTIMIZERS)}.",
    ),
]
_LearningRate = Annotated[
    float | None,
    Option(show_default="by optimizer", help="How far to step at first; for most falls to 0."),
]
_Momentum = Annotated[
    float | None,
    Option(show_default="by optimizer", help="Share of the last step kept in the next."),
]
_Noise = Annotated[str, Option(metavar="NAME", help=f"Noise injection: {', '.join(NOISES)}.")]
_NoiseScale = Annotated[
    float | None,
    Option(
        show_default="by noise",
        help="How much: variance of gradient_noise, radius, standard deviation, share of labels,"
        " temperature (sgld, psgld, sghmc, baoab), multiple of the limit (dp_sgd).",
    ),
]
_Gradient = Annotated[
    Literal["manual", "auto", "numeric"],
    Option(help="By hand, by jax.grad, or by differences (for tiny networks)."),
]
_Seed = Annotated[int, Option(help="All randomness; the same seed gives the same bits.")]
_Output = Annotated[Path, Option(help="Folder for the results; replaces those of an earlier run.")]


def widths(text: str | None) -> tuple[int, ...] | None:
    """Read widths such as ``256,128``; nothing between the commas means no hidden layer.

    Args:
        text: what stands after the option, None where it was not given.
    Raises:    InputError for anything else.
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


def main(
    data: _Data = "digits",
    data_folder: _DataFolder = None,
    model: _Model = DEFAULT.model,
    hidden: _Hidden = None,
    channels: _Channels = None,
    activation: _Activation = DEFAULT.activation,
    batch_norm: _BatchNorm = DEFAULT.batch_norm,
    dropout: _Dropout = DEFAULT.dropout,
    loss: _Loss = DEFAULT.loss,
    epochs: _Epochs = DEFAULT.epochs,
    batch_size: _BatchSize = DEFAULT.batch_size,
    optimizer: _Optimizer = None,
    learning_rate: _LearningRate = None,
    momentum: _Momentum = None,
    noise: _Noise = DEFAULT.noise,
    noise_scale: _NoiseScale = None,
    gradient: _Gradient = DEFAULT.gradient,
    seed: _Seed = DEFAULT.seed,
    output: _Output = DEFAULT.output,
) -> None:
    """Train a network on real images with gradients derived by hand.

    Prints the layers, then a table of the manual gradient against the
    automatic and the numeric one, then the accuracy on images held out.
    Writes curves.png, gradients.png, predictions.png, metrics.csv and
    model.safetensors.
    """
    try:
        with naming("python -m fnn"):
            settings = Settings(
                model, widths(hidden), widths(channels), activation, batch_norm, dropout, loss,
                epochs, batch_size, optimizer, learning_rate, momentum, noise, noise_scale,
                gradient, seed, output,
            )  # fmt: skip
            run(images(data, data_folder), settings)
    except InputError as error:
        _end(error, 2)
    except (NotWrittenError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        _end(error, 1)


def images(data: DataName, folder: Path | None) -> Dataset:
    """Return the images of a name.

    Args:
        data: the name.
        folder: where the files of fashion_mnist are; the digits come with fnn.
    Raises:    InputError for a folder beside the digits, and for files that are not there.
    """
    if data == "fashion_mnist":
        return fashion_mnist(folder)
    if folder is not None:
        raise InputError(
            "no data_folder for the digits",
            str(folder),
            "pass --data fashion_mnist, or leave it out",
        )
    return digits()


def _end(error: Exception, status: int) -> None:
    """Leave with one line that says why."""
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"Error: {line}", file=sys.stderr)
    raise typer.Exit(status) from error


app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(main)
