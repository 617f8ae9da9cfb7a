"""Optimizers and noises by name, with settings at which they train the networks of the main job.

The command line's names are those of `fnn.optim`; each has a learning rate or a size of its own
where the user gives none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from fnn import optim
from fnn._core import check
from fnn._core.errors import InputError, describe
from fnn._core.types import Array
from fnn.gradient.estimators.dp_sgd import dp_sgd
from fnn.gradient.estimators.label_noise import label_noise
from fnn.gradient.objective import Gradient, GradientName
from fnn.optim._hyperparameters import Hyperparameter
from fnn.optim.optimizer import Optimizer


class Recipe(NamedTuple):
    """How an optimizer is made of its learning rate.

    Args:
        make: takes the learning rate, or a schedule of it.
        rate: the learning rate where none is given.
        momentum: whether `make` takes a share of momentum second.
        falls: whether the learning rate falls to 0 along a cosine.
    """

    make: Callable[..., Optimizer]
    rate: float
    momentum: bool = False
    falls: bool = True


def _lars(rate: Hyperparameter, decay: float = 0.9) -> Optimizer:
    return optim.lars(rate, momentum=decay)


def _muon(rate: Hyperparameter, decay: float = 0.95) -> Optimizer:
    return optim.muon(rate, momentum=decay)


def _sam(rate: Hyperparameter, decay: float = 0.9) -> Optimizer:
    return optim.chain(optim.sam(0.05), optim.momentum(rate, decay))


def _lookahead(rate: Hyperparameter, decay: float = 0.9) -> Optimizer:
    return optim.chain(optim.momentum(rate, decay), optim.lookahead())


def _ema(rate: Hyperparameter, decay: float = 0.9) -> Optimizer:
    return optim.chain(optim.momentum(rate, decay), optim.ema(0.99))


def _backtracking(rate: Hyperparameter) -> Optimizer:
    return optim.backtracking(optim.lbfgs(rate))


def _sophia(rate: Hyperparameter) -> Optimizer:
    return optim.sophia(rate, key=jax.random.key(2))


OPTIMIZERS: dict[str, Recipe] = {
    "sgd": Recipe(optim.sgd, 0.5),
    "momentum": Recipe(optim.momentum, 0.1, momentum=True),
    "nesterov": Recipe(optim.nesterov, 0.1, momentum=True),
    "adagrad": Recipe(optim.adagrad, 0.02),
    "adadelta": Recipe(optim.adadelta, 1.0),
    "rmsprop": Recipe(optim.rmsprop, 0.002),
    "adam": Recipe(optim.adam, 0.005),
    "amsgrad": Recipe(optim.amsgrad, 0.005),
    "adamw": Recipe(optim.adamw, 0.005),
    "nadam": Recipe(optim.nadam, 0.005),
    "radam": Recipe(optim.radam, 0.005),
    "adamax": Recipe(optim.adamax, 0.01),
    "lion": Recipe(optim.lion, 0.0005),
    "lamb": Recipe(optim.lamb, 0.02),
    "lars": Recipe(_lars, 5.0, momentum=True),
    "adafactor": Recipe(optim.adafactor, 0.02),
    "sophia": Recipe(_sophia, 0.005),
    "muon": Recipe(_muon, 0.02, momentum=True),
    "schedule_free_sgd": Recipe(optim.schedule_free_sgd, 1.0, falls=False),
    "schedule_free_adamw": Recipe(optim.schedule_free_adamw, 0.005, falls=False),
    "sam": Recipe(_sam, 0.1, momentum=True),
    "lookahead": Recipe(_lookahead, 0.1, momentum=True),
    "ema": Recipe(_ema, 0.1, momentum=True, falls=False),
    "lbfgs": Recipe(_backtracking, 1.0, falls=False),
}
# The size of each noise where none is given.
NOISES: dict[str, float] = {
    "none": 0.0,
    "gradient_noise": 1e-5,
    "sphere_noise": 0.1,
    "anticorrelated_noise": 0.001,
    "weight_noise": 0.01,
    "label_noise": 0.1,
    "perturbed": 0.03,
    "sgld": 1e-4,
    "psgld": 1e-4,
    "sghmc": 1e-4,
    "baoab": 1e-4,
    "dp_sgd": 0.5,
}
# Optimizers of their own: noise and step belong together.
LANGEVIN: dict[str, float] = {"sgld": 0.5, "psgld": 0.005, "sghmc": 0.1, "baoab": 0.1}


def training(
    optimizer: str | None,
    noise: str,
    gradient: GradientName,
    *,
    learning_rate: float | None,
    momentum: float | None,
    size: float | None,
    steps: int,
    examples: int,
    labels: bool,
    seed: int,
    usual: str = "momentum",
) -> tuple[Optimizer, Gradient]:
    """Return the optimizer with its noise, and the way to the gradient.

    The learning rate falls to 0 in so many `steps` where the optimizer lets it.

    Args:
        optimizer: its name, None for the `usual` one.
        noise: its name.
        gradient: where gradients come from.
        learning_rate: 0 or more, None for that of the optimizer.
        momentum: in [0, 1), None for that of the optimizer.
        size: what the noise is given, None for its own: the variance of `gradient_noise` at the
            start, the radius of `sphere_noise` and `perturbed`, the standard deviation of
            `anticorrelated_noise` and `weight_noise`, the share of labels that `label_noise`
            changes (the standard deviation where targets are numbers), the temperature of Langevin
            dynamics, and the noise of `dp_sgd` in multiples of its limit of 1.
        steps: of the whole run.
        examples: in the data.
        labels: whether targets are labels, and not numbers.
        seed: of the noise.
        usual: the optimizer where none is named.
    Raises:    InputError for an unknown name, an optimizer beside Langevin dynamics, a momentum
        that the optimizer has no use for, a size without a noise, and as the optimizers and noises
        do.

    >>> of = {"momentum": None, "size": None, "steps": 9, "examples": 9, "labels": True, "seed": 0}
    >>> training("adam", "label_noise", "manual", learning_rate=None, **of)
    (adam(cosine(0.005, 9)), label_noise(flip=0.1, gradient='manual'))
    """
    recipe = _recipe(optimizer, noise, momentum, usual)
    if learning_rate is not None:
        check.number(learning_rate, "learning_rate", least=0)
    if momentum is not None:
        check.number(momentum, "momentum", least=0, below=1)
    if size is not None and noise == "none":
        raise InputError("no noise_scale without a noise", describe(size), "pick a noise, or none")
    rate = recipe.rate if learning_rate is None else learning_rate
    hyper: Hyperparameter = optim.schedule.cosine(rate, max(steps, 1)) if recipe.falls else rate
    size = NOISES[noise] if size is None else size
    key = jax.random.key(seed + 1)
    if noise in LANGEVIN:
        check.number(size, "noise_scale", least=0)
        # The energy is N times the mean of the loss, and so the step an N-th of that of descent;
        # that of baoab is one of time, whose square is a step of descent.
        step = (rate / examples) ** 0.5 if noise == "baoab" else rate / examples
        hyper = optim.schedule.cosine(step, max(steps, 1))
        return recipe.make(hyper, examples, size, key=key), gradient
    made = recipe.make(hyper, *(() if momentum is None else (momentum,)))
    return _with_noise(made, noise, size, gradient, labels, key)


def _recipe(optimizer: str | None, noise: str, momentum: float | None, usual: str) -> Recipe:
    """Return the recipe of an optimizer and a noise, if they and the momentum go together."""
    if optimizer is not None and noise in LANGEVIN:
        raise InputError(
            f"no optimizer beside {noise}",
            describe(optimizer),
            f"leave it out: {noise} is an optimizer",
        )
    optimizer = usual if optimizer is None else optimizer
    check.one_of(optimizer, "optimizer", OPTIMIZERS)
    check.one_of(noise, "noise", NOISES)
    recipe = OPTIMIZERS[optimizer]
    if noise in LANGEVIN:
        recipe = Recipe(getattr(optim, noise), LANGEVIN[noise])
    if momentum is not None and not recipe.momentum:
        raise InputError(
            f"no momentum for {noise if noise in LANGEVIN else optimizer}",
            describe(momentum),
            f"leave it out, or pick {', '.join(n for n, r in OPTIMIZERS.items() if r.momentum)}",
        )
    return recipe


def _with_noise(
    made: Optimizer, noise: str, size: float, gradient: GradientName, labels: bool, key: Array
) -> tuple[Optimizer, Gradient]:
    """Return an optimizer with a noise that is not Langevin's, and the way to the gradient."""
    if noise == "label_noise":
        if labels:
            return made, label_noise(flip=size, gradient=gradient)
        return made, label_noise(std=size, gradient=gradient)
    if noise == "dp_sgd":
        return made, dp_sgd(1.0, size, gradient=gradient)
    if noise == "perturbed":
        return optim.perturbed(made, size, key=key), gradient
    if noise == "anticorrelated_noise":
        return optim.chain(made, optim.anticorrelated_noise(size, key=key)), gradient
    if noise != "none":
        made = optim.chain(getattr(optim, noise)(size, key=key), made)
    return made, gradient
