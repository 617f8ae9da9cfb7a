"""A policy learns to balance a pole, by the policy gradient.

In each round many poles are balanced at once; an action was good or bad by what was gained after
it, less what is gained on average: its advantage A, of either sign. The loss (Williams 1992) is one
of its own, since weights of examples have no sign::

    v = -A log p,   dlogits = A (p - onehot(action)) dv

Run it with ``python examples/policy_gradient.py --output fnn-run``; it writes
``policy_gradient.png`` there.
"""

import functools
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from _curves import by_both, draw, save
from matplotlib.figure import Figure

import fnn
from fnn.train import output_folder

POLES, STEPS, ROUNDS, DISCOUNT = 64, 200, 50, 0.98


def policy_gradient():
    """Minus the advantage times the log-probability of the action taken."""

    def forward(logits, target):
        log_p = jax.nn.log_softmax(logits)
        chosen = jax.nn.one_hot(target["action"], logits.shape[-1], dtype=logits.dtype)
        advantage = target["advantage"].astype(logits.dtype)
        slope = advantage[:, None] * (jnp.exp(log_p) - chosen)
        return -advantage * (log_p * chosen).sum(-1), slope

    return fnn.losses.Loss(
        lambda y, t: forward(y, t)[0], forward, lambda slope, dv: slope * dv[:, None],
        lambda y, t: None,
    )  # fmt: skip


MODEL = fnn.serial(fnn.dense(32), fnn.tanh(), fnn.dense(2))
LOSS, OPTIMIZER = policy_gradient(), fnn.optim.adam(0.02)


def pushed(state, action):
    """The cart and its pole 0.02 s later (Barto, Sutton and Anderson 1983)."""
    x, v, angle, spin = state.T
    sine, cosine, push = jnp.sin(angle), jnp.cos(angle), 20.0 * action - 10
    pull = (push + 0.05 * spin**2 * sine) / 1.1
    turn = (9.8 * sine - cosine * pull) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    slide = pull - 0.05 * turn * cosine / 1.1
    return jnp.stack([x + 0.02 * v, v + 0.02 * slide, angle + 0.02 * spin, spin + 0.02 * turn], -1)


def play(params, layer_state, key):
    """Balance poles by the policy; returns what was seen and done, and which still stood."""

    def step(carry, key):
        state, stands = carry
        logits, _ = MODEL.apply(params, layer_state, state)
        action = jax.random.categorical(key, logits)
        new = pushed(state, action.astype(state.dtype))
        fell = (jnp.abs(new[:, 0]) > 2.4) | (jnp.abs(new[:, 2]) > 0.21)
        return (jnp.where(stands[:, None], new, state), stands & ~fell), (state, action, stands)

    start_key, key = jax.random.split(key)
    start = jax.random.uniform(start_key, (POLES, 4), minval=-0.05, maxval=0.05)
    keys = jax.random.split(key, STEPS)
    return jax.lax.scan(step, (start, jnp.ones(POLES, bool)), keys)[1]


def advantages(stands):
    """The discounted time that a pole still stands, less the mean, over the deviation."""
    gained = stands.astype("float32")
    _, after = jax.lax.scan(
        lambda later, now: ((now + DISCOUNT * later),) * 2, jnp.zeros(POLES), gained, reverse=True
    )
    count = gained.sum()
    mean = (after * gained).sum() / count
    deviation = jnp.sqrt(((after - mean) ** 2 * gained).sum() / count)
    return (after - mean) / (deviation + 1e-6)


@functools.partial(jax.jit, static_argnums=0)
def train(gradient):
    """Play and learn in turns, as one program; returns the parameters and the times balanced."""
    start = fnn.init_train_state(MODEL, OPTIMIZER, jnp.ones((1, 4)), key=jax.random.key(0))
    learn = fnn.train_step(MODEL, LOSS, OPTIMIZER, gradient)

    def one(train_state, key):
        seen, action, stands = play(train_state.params, train_state.state, key)
        target = {"action": action.ravel(), "advantage": advantages(stands).ravel()}
        # Weights leave out what came after the fall.
        batch = seen.reshape(-1, 4), target, stands.ravel().astype("float32")
        train_state, metrics = learn(train_state, batch)
        return train_state, (stands.sum(0).mean(), metrics["loss"])

    trained, (balanced, _) = jax.lax.scan(one, start, jax.random.split(jax.random.key(1), ROUNDS))
    return (trained.params, trained.state), balanced


def main(
    output: Annotated[Path, typer.Option(help="Folder for policy_gradient.png.")] = Path("fnn-run"),
) -> None:
    """Learn to balance by both gradients, and draw how the poles move."""
    folder = output_folder(output)
    target = {"action": jnp.array([0, 1, 1]), "advantage": jnp.array([1.0, -2.0, 0.5])}
    fnn.check_loss(LOSS, jax.random.normal(jax.random.key(2), (3, 2)), target, numeric=False)
    print("the loss of its own has the right gradient; now steps balanced take the place of a loss")
    (params, state), curves = by_both(train, first=10)
    first, last = curves["manual"][0], curves["manual"][-1]
    print(f"balanced for {first:.0f} steps at first, {last:.0f} of {STEPS} in the end")
    seen, _, stands = play(params, state, jax.random.key(3))
    figure = Figure((9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i in range(8):
        angle = np.where(stands[:, i], np.degrees(seen[:, i, 2]), np.nan)
        left.plot(0.02 * np.arange(STEPS), angle, linewidth=0.8)
    left.axhline(12, color="gray", linestyle=":")
    left.axhline(-12, color="gray", linestyle=":", label="fallen")
    left.set(xlabel="time, s", ylabel="angle, degrees", title="Eight poles after training")
    left.legend(frameon=False)
    draw(right, curves, "steps balanced")
    right.set(xlabel="round", title="Balanced, by both gradients")
    save(figure, folder, "policy_gradient.png")


if __name__ == "__main__":
    typer.run(main)
