"""What one run does: the options of the command line, filled in, written down and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError
from fnn._core.types import Unchecked
from fnn.cli.data import Problem
from fnn.cli.networks import RECURRENT, Activation, Model
from fnn.cli.optimizers import Descent, descent
from fnn.gradient.objective import GradientName
from fnn.train.fit import check_plan

LossName: TypeAlias = Literal[
    "cross_entropy", "nll", "squared_error", "absolute_error", "huber", "binary_cross_entropy",
    "logistic", "hinge",
]  # fmt: skip
# Losses whose targets are the labels themselves, and those of values.
LABELED = ("cross_entropy", "nll")
OF_VALUES = ("squared_error", "absolute_error", "huber")
CHANNELS = (16, 32)
HIDDEN: dict[str, tuple[int, ...]] = {"mlp": (256, 128), "cnn": (128,), "rnn": (64,), "lstm": (64,)}
HIDDEN_OF_POINTS = (32, 32)
# What some losses are known for: said before the network is blamed.
NOTES = {
    "absolute_error": "absolute_error: of each one-hot target all entries but one are 0, and 0 for"
    " every class is a\nplace where it hardly falls: expect a lower accuracy than with"
    " cross_entropy."
}


class Settings(NamedTuple):
    """What one run does; None is for what the data and the other settings suggest."""

    data: str = "digits"
    data_folder: Path | None = None
    model: Model = "mlp"
    hidden: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    activation: Activation | None = None
    initializer: str | None = None
    batch_norm: bool | None = None
    dropout: float | None = None
    loss: LossName | None = None
    gradient: GradientName = "manual"
    optimizer: str | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    momentum: float | None = None
    noise: str | None = None
    noise_scale: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0
    plain: bool = False
    processes: int = 1
    compare: bool = True
    costs: bool = False
    output: Path = Path("fnn-run")

    def descent(self) -> Descent:
        """Return the optimizer and the noise, by name and numbers; of complete settings."""
        return Descent(
            self.optimizer,
            self.learning_rate or 0.0,
            self.schedule or "constant",
            self.momentum,
            self.noise or "none",
            self.noise_scale,
        )

    def __str__(self) -> str:
        name = self.noise if self.optimizer is None else self.optimizer
        momentum = "" if self.momentum is None else f" {self.momentum:g}"
        schedule = "" if self.schedule == "constant" else f" ({self.schedule})"
        size = "" if self.noise_scale is None else f", {self.noise} {self.noise_scale:g}"
        return (
            f"{self.loss}; {name}{momentum}, learning rate {self.learning_rate:g}{schedule}{size};"
            f"\nbatches of {self.batch_size}, {self.epochs} epochs, seed {self.seed}"
        )


def complete(settings: Settings, problem: Problem) -> Settings:
    """Return settings with everything filled in that was left open.

    Args:
        settings: of the run; complete ones come back as they are.
        problem: what is learned.
    Raises:    InputError for settings that do not go together.

    >>> from fnn.cli.data import problem
    >>> made = complete(Settings("xor", learning_rate=0.1), problem("xor", None, 0))
    >>> made.hidden, made.optimizer, made.loss, made.batch_norm
    ((32, 32), 'adam', 'cross_entropy', False)
    """
    given, images = settings, problem.has_images
    check.one_of(given.model, "model", get_args(Model))
    _check_network(given)
    loss = _loss(given.loss, problem)
    plain_noise = given.plain or not images
    noise = given.noise or ("none" if plain_noise else "gradient_noise")
    usual = "adam" if not images or given.model in RECURRENT else "momentum"
    chosen = descent(
        given.optimizer,
        noise,
        loss,
        learning_rate=given.learning_rate,
        schedule="constant" if given.plain and given.schedule is None else given.schedule,
        momentum=given.momentum,
        noise_scale=given.noise_scale,
        usual="sgd" if given.plain else usual,
    )
    normalizes = images and not given.plain and given.model not in RECURRENT and noise != "dp_sgd"
    hidden = HIDDEN[given.model] if images else HIDDEN_OF_POINTS
    examples = len(problem.train[0])
    made = given._replace(
        hidden=hidden if given.hidden is None else given.hidden,
        channels=(CHANNELS if given.channels is None else given.channels)
        if given.model == "cnn"
        else (),
        activation=None if given.model in RECURRENT else given.activation or "relu",
        batch_norm=normalizes if given.batch_norm is None else given.batch_norm,
        dropout=(0.0 if plain_noise else 0.3) if given.dropout is None else given.dropout,
        loss=loss,
        epochs=(20 if images else 200) if given.epochs is None else given.epochs,
        batch_size=min(100 if images else 40, examples)
        if given.batch_size is None
        else given.batch_size,
        **chosen._asdict(),
    )
    _check_plan(made, examples)
    return made


def _check_network(given: Settings) -> None:
    """Raise for what the network has no use for."""
    recurrent = given.model in RECURRENT
    for name, is_given, is_useless in (
        ("channels", bool(given.channels), given.model != "cnn"),
        ("activation", given.activation is not None, recurrent),
        ("batch_norm", given.batch_norm is True, recurrent),
    ):
        if is_given and is_useless:
            remedy = "leave it out, or take another model"
            raise InputError(f"no {name} for {given.model}", "one", remedy)
    if given.activation is not None:
        check.one_of(given.activation, "activation", get_args(Activation))
    check.one_of(given.gradient, "gradient", get_args(GradientName))
    if given.costs and not given.compare:
        raise InputError("one of costs and no_compare", "both", "leave one of them out")


def _loss(given: LossName | None, problem: Problem) -> LossName:
    """Return the loss, if it suits the targets."""
    if given is None:
        return "cross_entropy" if problem.classes else "squared_error"
    known = get_args(LossName) if problem.classes else OF_VALUES
    check.one_of(given, "loss" if problem.classes else "loss for values", known)
    return given


def _check_plan(made: Settings, examples: int) -> None:
    """Raise for a seed, epochs or batches that cannot be or that batch norm cannot use."""
    check.count(made.seed, "seed", least=0)
    check_plan(made.epochs or 0, made.batch_size or 0, examples)
    size = made.batch_size or 1
    rest = examples % size or size
    if made.batch_norm and made.hidden and min(size, rest) == 1:
        got = "batches of 1" if size == 1 else f"a last batch of 1, of {examples} in {size}s"
        raise InputError(
            "batches of 2 or more for batch normalization",
            got,
            "pass --no-batch-norm, or another --batch-size: one example less its own mean is 0",
        )


def to_plain(settings: Settings) -> dict[str, Unchecked]:
    """Return settings as JSON knows them.

    Args:
        settings: of the run.

    >>> to_plain(Settings(hidden=(8,)))["hidden"], to_plain(Settings())["output"]
    ([8], 'fnn-run')
    """
    plain: dict[str, Unchecked] = {}
    for name, value in settings._asdict().items():
        value = str(value) if isinstance(value, Path) else value
        value = value.item() if isinstance(value, np.generic) else value
        plain[name] = list(value) if isinstance(value, tuple) else value
    return plain


def from_plain(plain: dict[str, Unchecked]) -> Settings:
    """Return the settings that `to_plain` wrote down.

    Args:
        plain: by their names.
    Raises:    InputError for other names.

    >>> from_plain(to_plain(Settings(hidden=(8,)))) == Settings(hidden=(8,))
    True
    """
    if set(plain) != set(Settings._fields):
        odd = ", ".join(sorted(set(plain) ^ set(Settings._fields)))
        raise InputError("the settings of a run of this version", odd, "run it again")
    values: dict[str, Unchecked] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
    }
    for name in ("output", "data_folder"):
        values[name] = None if values[name] is None else Path(values[name])
    return Settings(**values)
