"""A variational autoencoder draws digits, its gradient derived by hand.

An encoder gives each image a normal distribution of codes, z = mean + exp(log_variance / 2) e with
e drawn anew in each step, and a decoder makes an image of z (Kingma and Welling 2014). The loss has
two heads: the cross-entropy of the pixels, and the divergence of the codes from the standard normal
distribution. The draw is a layer of its own, the divergence a loss of its own::

    dmean = dz,   dlog_variance = e exp(log_variance / 2) dz / 2
    v = sum (mean^2 + exp(log_variance) - log_variance - 1) / 2

Run it with ``python examples/vae.py --output fnn-run``; it writes ``vae.png`` there.
"""

from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import typer
from _curves import by_both, draw, save
from matplotlib.figure import Figure

import fnn
from fnn.train import output_folder

CODES, HIDDEN, IMAGES, EPOCHS, BATCH = 8, 200, 2_000, 10, 100


def draw_code():
    """Codes of a distribution, which is passed on beside them; its mean out of training."""

    def forward(params, state, x, *, key=None, train=False):
        del params
        mean, deviation = x["mean"], jnp.exp(x["log_variance"] / 2)
        noise = jax.random.normal(key, mean.shape, mean.dtype) if train else jnp.zeros_like(mean)
        y = {"image": mean + deviation * noise, "code": x}
        return y, state, deviation * noise / 2

    def backward(params, slope, dy):
        del params
        dz, dcode = dy["image"], dy["code"]
        return (), {
            "mean": dcode["mean"] + dz, "log_variance": dcode["log_variance"] + slope * dz,
        }  # fmt: skip

    return fnn.stateful(lambda key, x: ((), ()), forward, backward)


def divergence():
    """Kullback-Leibler divergence of codes from the standard normal distribution; no target."""

    def apply(y):
        mean, log_variance = y["mean"], y["log_variance"]
        return (mean**2 + jnp.exp(log_variance) - log_variance - 1).sum(-1) / 2

    def backward(y, dvalues):
        dv = dvalues[:, None]
        return {"mean": y["mean"] * dv, "log_variance": (jnp.exp(y["log_variance"]) - 1) / 2 * dv}

    return fnn.losses.Loss(
        lambda y, t: apply(y), lambda y, t: (apply(y), y), backward, lambda y, t: None
    )


def autoencoder(pixels):
    """Images to a dict of logits of their pixels and the distribution of their codes."""
    decoder = fnn.serial(fnn.dense(HIDDEN), fnn.relu(), fnn.dense(pixels))
    return fnn.serial(
        encoder=fnn.serial(fnn.dense(HIDDEN), fnn.relu()),
        code=fnn.parallel(mean=fnn.dense(CODES), log_variance=fnn.dense(CODES)),
        draw=draw_code(),
        heads=fnn.over_parts(image=decoder, code=fnn.identity()),
    )


def main(
    output: Annotated[Path, typer.Option(help="Folder for vae.png.")] = Path("fnn-run"),
) -> None:
    """Train by both gradients, and draw new digits."""
    folder = output_folder(output)
    (x, _), (test_x, _) = fnn.datasets.digits()
    x, test_x = (a.reshape(len(a), -1).astype("float32") / 255 for a in (x[:IMAGES], test_x))
    model, optimizer = autoencoder(x.shape[1]), fnn.optim.adam(0.003)
    heads = {"image": fnn.losses.binary_cross_entropy(), "code": divergence()}
    loss = fnn.losses.weighted_sum(heads)
    codes = {"mean": x[:6, :CODES], "log_variance": x[6:12, :CODES] - 0.5}
    fnn.check_loss(divergence(), codes, (), numeric=False, large=None)
    fnn.check_layer(draw_code(), codes, numeric=False)
    print("the layer and the loss of its own have the right gradient")

    def train(gradient):
        trained, history = fnn.fit(
            model, loss, optimizer, (x, {"image": x}), epochs=EPOCHS, batch_size=BATCH,
            key=jax.random.key(0), gradient=gradient,
        )  # fmt: skip
        return trained, history.loss

    trained, curves = by_both(train)
    seen, _ = model.apply(trained.params, trained.state, test_x[:6])
    decoder = fnn.children(fnn.children(model)["heads"])["image"]
    codes = jax.random.normal(jax.random.key(1), (18, CODES))
    drawn, _ = decoder.apply(
        trained.params["heads"]["image"], trained.state["heads"]["image"], codes
    )
    rows = [*jnp.split(test_x[:6], 1), jax.nn.sigmoid(seen["image"])]
    rows += jnp.split(jax.nn.sigmoid(drawn), 3)
    figure = Figure((9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    picture = jnp.concatenate(
        [jnp.concatenate(list(row.reshape(-1, 28, 28)), 1) for row in rows], 0
    )
    left.imshow(picture, cmap="gray_r")
    left.set_yticks([14 + 28 * i for i in range(5)], ["new", "decoded", "drawn", "drawn", "drawn"])
    left.set(xticks=[], title="Held-out digits, and digits drawn by the decoder")
    draw(right, curves, "bound on -log p, nats")
    save(figure, folder, "vae.png")


if __name__ == "__main__":
    typer.run(main)
