"""Optimizers, schedules and noises by name, with settings at which they train the networks.

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
        momentum: the share of momentum, which `make` takes second; None where it takes none.
        schedule: that of the learning rate where none is given; None where it must stay.
        scales: whether a gradient twice as large makes a step twice as large.
    """

    make: Callable[..., Optimizer]
    rate: float
    momentum: float | None = None
    schedule: str | None = "cosine"
    scales: bool = False


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
    "sgd": Recipe(optim.sgd, 0.5, scales=True),
    "momentum": Recipe(optim.momentum, 0.1, 0.9, scales=True),
    "nesterov": Recipe(optim.nesterov, 0.1, 0.9, scales=True),
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
    "lars": Recipe(_lars, 5.0, 0.9),
    "adafactor": Recipe(optim.adafactor, 0.02),
    "sophia": Recipe(_sophia, 0.005),
    "muon": Recipe(_muon, 0.02, 0.95),
    "schedule_free_sgd": Recipe(optim.schedule_free_sgd, 1.0, schedule=None, scales=True),
    "schedule_free_adamw": Recipe(optim.schedule_free_adamw, 0.005, schedule=None),
    "sam": Recipe(_sam, 0.1, 0.9, scales=True),
    "lookahead": Recipe(_lookahead, 0.1, 0.9, scales=True),
    "ema": Recipe(_ema, 0.1, 0.9, schedule="constant", scales=True),
    "lbfgs": Recipe(_backtracking, 1.0, schedule=None),
}
# The learning rate over a run of so many steps, at first or at most `rate`.
SCHEDULES: dict[str, Callable[[float, int], Hyperparameter]] = {
    "constant": lambda rate, steps: rate,
    "cosine": optim.schedule.cosine,
    "polynomial": lambda rate, steps: optim.schedule.polynomial(rate, 0.0, steps),
    "exponential": lambda rate, steps: optim.schedule.exponential(rate, 0.01, steps),
    "step_decay": lambda rate, steps: optim.schedule.step_decay(rate, 0.1, max(steps // 3, 1)),
    "inverse_time": lambda rate, steps: optim.schedule.inverse_time(rate, max(steps // 10, 1)),
    "one_cycle": optim.schedule.one_cycle,
    "warm_up": lambda rate, steps: optim.schedule.warm_up(
        max(steps // 10, 1), optim.schedule.cosine(rate, steps - steps // 10)
    ),
}
# How much smaller the learning rate is than with cross-entropy, for losses that add up outputs.
RATE_OF_LOSS = {"squared_error": 0.3, "absolute_error": 0.3}
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


class Descent(NamedTuple):
    """An optimizer and a noise by name, with their numbers.

    Args:
        optimizer: its name; None beside Langevin dynamics, which is an optimizer.
        learning_rate: at first, or at most.
        schedule: its name.
        momentum: the share of the last step; None where the optimizer has none.
        noise: its name.
        noise_scale: what the noise is given; None without any.
    """

    optimizer: str | None
    learning_rate: float
    schedule: str
    momentum: float | None
    noise: str
    noise_scale: float | None


def descent(
    optimizer: str | None,
    noise: str,
    loss: str,
    *,
    learning_rate: float | None = None,
    schedule: str | None = None,
    momentum: float | None = None,
    noise_scale: float | None = None,
    usual: str = "momentum",
) -> Descent:
    """Return names and numbers that go together, what was left open filled in.

    Args:
        optimizer: its name, None for the `usual` one.
        noise: its name.
        loss: its name; some want smaller learning rates.
        learning_rate: 0 or more, None for that of the optimizer.
        schedule: None for that of the optimizer.
        momentum: in [0, 1), None for that of the optimizer.
        noise_scale: what the noise is given, None for its own: the variance of `gradient_noise` at
            the start, the radius of `sphere_noise` and `perturbed`, the standard deviation of
            `anticorrelated_noise` and `weight_noise`, the share of labels that `label_noise`
            changes (the standard deviation where targets are numbers), the temperature of Langevin
            dynamics, and the noise of `dp_sgd` in multiples of its limit of 1.
        usual: the optimizer where none is named.
    Raises:    InputError for an unknown name, an optimizer beside Langevin dynamics, a momentum or
        a schedule that the optimizer has no use for, and a size without a noise.

    >>> descent("adam", "none", "cross_entropy")[:4]
    ('adam', 0.005, 'cosine', None)
    """
    check.one_of(noise, "noise", NOISES)
    if optimizer is not None and noise in LANGEVIN:
        raise InputError(
            f"no optimizer beside {noise}",
            describe(optimizer),
            f"leave it out: {noise} is an optimizer",
        )
    name = noise if noise in LANGEVIN else optimizer or usual
    check.one_of(name, "optimizer", (*OPTIMIZERS, *LANGEVIN))
    recipe = _recipe(name)
    if learning_rate is not None:
        check.number(learning_rate, "learning_rate", least=0)
    if schedule is not None:
        check.one_of(schedule, "schedule", SCHEDULES)
        if recipe.schedule is None and schedule != "constant":
            raise InputError(f"no schedule for {name}", describe(schedule), "leave it out")
    if momentum is not None:
        check.number(momentum, "momentum", least=0, below=1)
        if recipe.momentum is None:
            with_it = ", ".join(n for n, r in OPTIMIZERS.items() if r.momentum is not None)
            raise InputError(
                f"no momentum for {name}", describe(momentum), f"leave it out, or pick {with_it}"
            )
    if noise_scale is not None and noise == "none":
        got = describe(noise_scale)
        raise InputError("no noise_scale without a noise", got, "pick a noise, or none")
    usual_rate = recipe.rate * (RATE_OF_LOSS.get(loss, 1.0) if recipe.scales else 1.0)
    return Descent(
        None if noise in LANGEVIN else name,
        usual_rate if learning_rate is None else learning_rate,
        schedule or recipe.schedule or "constant",
        recipe.momentum if momentum is None else momentum,
        noise,
        (NOISES[noise] if noise_scale is None else noise_scale) if noise != "none" else None,
    )


def _recipe(name: str) -> Recipe:
    """Return how an optimizer, or Langevin dynamics, is made."""
    if name in LANGEVIN:
        return Recipe(getattr(optim, name), LANGEVIN[name], scales=name != "psgld")
    return OPTIMIZERS[name]


def training(
    chosen: Descent,
    gradient: GradientName,
    *,
    steps: int,
    examples: int,
    labels: bool,
    seed: int,
) -> tuple[Optimizer, Gradient]:
    """Return the optimizer with its noise, and the way to the gradient.

    Args:
        chosen: names and numbers, as `descent` returns them.
        gradient: where gradients come from.
        steps: of the whole run.
        examples: in the data.
        labels: whether targets are labels, and not numbers.
        seed: of the noise.
    Raises:    InputError as the optimizers and noises do.

    >>> of = {"steps": 9, "examples": 9, "labels": True, "seed": 0}
    >>> training(descent("adam", "label_noise", "cross_entropy"), "manual", **of)
    (adam(cosine(0.005, 9)), label_noise(flip=0.1, gradient='manual'))
    """
    noise, size, rate = chosen.noise, chosen.noise_scale, chosen.learning_rate
    recipe = _recipe(noise if chosen.optimizer is None else chosen.optimizer)
    schedule, steps = SCHEDULES[chosen.schedule], max(steps, 1)
    key = jax.random.key(seed + 1)
    if noise in LANGEVIN:
        check.number(size, "noise_scale", least=0)
        # The energy is N times the mean of the loss, and so the step an N-th of that of descent;
        # that of baoab is one of time, whose square is a step of descent.
        step = (rate / examples) ** 0.5 if noise == "baoab" else rate / examples
        return recipe.make(schedule(step, steps), examples, size, key=key), gradient
    made = recipe.make(
        schedule(rate, steps), *(() if chosen.momentum is None else (chosen.momentum,))
    )
    return _with_noise(made, noise, size or 0.0, gradient, labels, key)


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
