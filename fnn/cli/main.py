"""``python -m fnn``: train on real images by hand-derived gradients, and see them proven."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from fnn._core.errors import InputError, naming
from fnn._core.extras import require
from fnn.cli.networks import HIDDEN, Activation, Model
from fnn.cli.optimizers import NOISES, OPTIMIZERS
from fnn.cli.run import DEFAULT_OPTIMIZER, LossName, Settings, run
from fnn.datasets import digits, fashion_mnist

typer: Any = require("typer", "main")
Option: Any = typer.Option
DEFAULT = Settings()


def widths(text: str) -> tuple[int, ...]:
    """Read widths such as ``256,128``; nothing between the commas means no hidden layer."""
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise typer.BadParameter(f"expected numbers such as 256,128, got {text!r}") from None


def main(
    data: Annotated[
        Literal["digits", "fashion_mnist"], Option(help="Images to learn from.")
    ] = "digits",
    data_folder: Annotated[
        Path | None, Option(help="Where the four files of fashion_mnist are.")
    ] = None,
    model: Annotated[
        Model,
        Option(
            metavar="NAME",
            help="mlp, cnn (convolutions), or rnn or lstm (reads the image row by row).",
        ),
    ] = DEFAULT.model,
    hidden: Annotated[
        str | None,
        Option(
            metavar="WIDTHS",
            show_default=", ".join(f"{n}: {','.join(map(str, w))}" for n, w in HIDDEN.items()),
            help="Neurons of each hidden layer, with commas.",
        ),
    ] = None,
    channels: Annotated[
        str, Option(metavar="WIDTHS", help="Filters of each convolution of a cnn, with commas.")
    ] = ",".join(map(str, DEFAULT.channels)),
    activation: Annotated[
        Activation,
        Option(
            metavar="NAME",
            help=f"Activation of the hidden layers: {', '.join(get_args(Activation))}.",
        ),
    ] = DEFAULT.activation,
    batch_norm: Annotated[
        bool, Option(help="Normalize the inputs of every activation.")
    ] = DEFAULT.batch_norm,
    dropout: Annotated[
        float, Option(help="Fraction of hidden neurons switched off while training.")
    ] = DEFAULT.dropout,
    loss: Annotated[
        LossName,
        Option(metavar="NAME", help=f"Loss: {', '.join(get_args(LossName))}."),
    ] = DEFAULT.loss,
    epochs: Annotated[int, Option(help="How often to go through all images.")] = DEFAULT.epochs,
    batch_size: Annotated[
        int, Option(help="Images a step; 1 is stochastic gradient descent.")
    ] = DEFAULT.batch_size,
    optimizer: Annotated[
        str | None,
        Option(
            metavar="NAME",
            show_default=", ".join(
                f"{model}: {optimizer}" for model, optimizer in DEFAULT_OPTIMIZER.items()
            ),
            help=f"Optimizer: {', '.join(OPTIMIZERS)}.",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        Option(show_default="by optimizer", help="How far to step at first; for most falls to 0."),
    ] = None,
    momentum: Annotated[
        float | None,
        Option(show_default="by optimizer", help="Share of the last step kept in the next."),
    ] = None,
    noise: Annotated[
        str, Option(metavar="NAME", help=f"Noise injection: {', '.join(NOISES)}.")
    ] = DEFAULT.noise,
    noise_scale: Annotated[
        float | None,
        Option(
            show_default="by noise",
            help="How much: variance of gradient_noise, radius, deviation, share of labels,"
            " temperature (sgld, psgld, sghmc, baoab), multiple of the limit (dp_sgd).",
        ),
    ] = None,
    gradient: Annotated[
        Literal["manual", "auto", "numeric"],
        Option(help="By hand, by jax.grad, or by differences (for tiny networks)."),
    ] = DEFAULT.gradient,
    seed: Annotated[int, Option(help="All randomness; the same seed gives the same bits.")] = 0,
    output: Annotated[
        Path, Option(help="Folder for the results; replaces those of an earlier run.")
    ] = DEFAULT.output,
) -> None:
    """Train a network on real images with gradients derived by hand.

    Prints the layers, then a table of the manual gradient against the
    automatic and the numeric one, then the accuracy on images held out.
    Writes curves.png, gradients.png, predictions.png, metrics.csv and
    model.safetensors.
    """
    settings = Settings(
        model, None if hidden is None else widths(hidden), widths(channels), activation,
        batch_norm, dropout, loss, epochs, batch_size, optimizer, learning_rate, momentum, noise,
        noise_scale, gradient, seed, output,
    )  # fmt: skip
    try:
        with naming("python -m fnn"):
            run(fashion_mnist(data_folder) if data == "fashion_mnist" else digits(), settings)
    except InputError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(main)
