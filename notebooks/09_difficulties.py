# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 9: difficulties
#
# What can go wrong when a deep network is trained (訓練困難)? Four things are feared: bad local
# minima (局部最小值), saddle points (鞍點), vanishing gradients (梯度消失) and dead neurons
# (死亡的神經元). We look at each in a real network, and at the end you repair one.
#
# Letters: $\theta$ the parameters (參數), $L$ the loss (損失函數), $\alpha$ the learning rate
# (學習率), $W$ the weights (權重) of a layer, $z = x W + b$ its weighted sums, $g$ the activation
# function (激勵函數), $h = g(z)$. In code `dv` is $\frac{\partial L}{\partial v}$. In fnn:
# `fnn.dense`, `fnn.value_and_grad`, `fnn.trace_activations`.

# %%
import itertools
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import fnn
from fnn.lab import check_answer
from fnn.plot import BLUE, GREEN, ORANGE, RED

# Some accelerators round matrix products to fewer digits; second derivatives need all of them.
jax.config.update("jax_default_matmul_precision", "highest")
# Shows figures that are made without pyplot, too.
# %matplotlib inline

loss = fnn.losses.cross_entropy()

# %% [markdown]
# ## 1. The minima of wide networks are alike
#
# Four inputs of $\pm 1$; the class is 1 where an even number of them is $-1$. Every corner stands
# in the data with both labels, the right one with a weight of 95 %, the wrong one with 5 %. So no
# network can be surer than that, and the smallest loss that any function has is known: the entropy
# $-0.95 \log 0.95 - 0.05 \log 0.05 = 0.1985$.
#
# We train networks of five widths, each from 20 random starts, by 2,000 steps of descent with
# momentum. To train all hundred at once, the narrow ones are filled up to the widest with
# neurons whose weights are all 0. Section 2 says why these stay 0.
#
# **Predict first.** Where do the 20 starts of the narrowest networks end: all at one loss? And
# those of the widest?

# %%
WIDTHS, STARTS = (2, 4, 8, 16, 64), 20
STEPS = 2000

corners = np.array(list(itertools.product((-1, 1), repeat=4)), "float32")
even = (corners.prod(1) > 0).astype("int32")
parity = (
    np.concatenate([corners, corners]),
    np.concatenate([even, 1 - even]),
    np.repeat(np.float32([0.95, 0.05]), 16),
)
BEST = -0.95 * np.log(0.95) - 0.05 * np.log(0.05)
random = np.random.default_rng(0)


def network(width):
    return fnn.serial(fnn.dense(width), fnn.tanh(), fnn.dense(2))


NO_STATE = ((), (), ())


def height(params):
    """Return the mean loss of a network over the corners."""
    x, labels, weights = parity
    z = network(len(params[0]["bias"])).apply(params, NO_STATE, x)[0]
    return fnn.losses.mean(loss.apply(z, labels), weights)[0]


def random_starts(width):
    """Draw networks with variance one over the number of inputs, filled up with zeros."""
    first = np.zeros((STARTS, 4, max(WIDTHS)), "float32")
    last = np.zeros((STARTS, max(WIDTHS), 2), "float32")
    first[..., :width] = random.normal(size=(STARTS, 4, width)) / 4**0.5
    last[:, :width] = random.normal(size=(STARTS, width, 2)) / width**0.5
    no_bias = np.zeros((STARTS, max(WIDTHS)), "float32"), np.zeros((STARTS, 2), "float32")
    return {"weight": first, "bias": no_bias[0]}, (), {"weight": last, "bias": no_bias[1]}


def descend(params):
    """Follow the gradient with momentum, to where next to nothing moves."""
    gradient = fnn.value_and_grad(network(max(WIDTHS)), loss)

    def step(carry, _):
        params, velocity = carry
        _, grads = gradient(params, NO_STATE, parity)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        return (jax.tree.map(lambda p, v: p - 0.3 * v, params, velocity), velocity), None

    still = jax.tree.map(jnp.zeros_like, params)
    (params, _), _ = jax.lax.scan(step, (params, still), length=STEPS)
    (value, _), grads = gradient(params, NO_STATE, parity)
    return params, value, jnp.linalg.norm(ravel_pytree(grads)[0])


descend_all = jax.jit(jax.vmap(descend))
starts = jax.tree.map(lambda *all: np.concatenate(all), *map(random_starts, WIDTHS))
ends, values, sizes = descend_all(starts)
values = np.asarray(values).reshape(len(WIDTHS), STARTS)
for width, row in zip(WIDTHS, values, strict=True):
    print(f"width {width:2}: {row.min():.4f} to {row.max():.4f}, spread {np.ptp(row):.4f}")
print(f"largest gradient that is left: {float(sizes.max()):.4f}")

# %% [markdown]
# Two wide networks end at the same loss. In the same place, too? The picture on the right walks in
# a straight line from one to the other.

# %%
FIRST, SECOND = 0, 1  # two of the starts

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
beside = np.linspace(-0.25, 0.25, STARTS)
for i, row in enumerate(values):
    left.plot(i + beside, row, "o", color=BLUE, markersize=4, label="a start" if not i else None)
left.axhline(BEST, color=GREEN, linewidth=1, label=f"best of any function: {BEST:.4f}")
left.axhline(np.log(2), color="0.4", linewidth=1, linestyle=":", label="guessing: log 2")
left.set(
    xticks=range(len(WIDTHS)), xticklabels=WIDTHS, xlabel="hidden neurons",
    ylabel="loss at the end", title=f"Where {STARTS} starts end", ylim=(0.15, None),
)  # fmt: skip
left.legend(frameon=False, fontsize=8)

along = np.linspace(0, 1, 61, dtype="float32")


@jax.jit
def between(a, b):
    """Return the loss on the straight line from one network to another."""
    return jax.vmap(lambda s: height(jax.tree.map(lambda p, q: p + s * (q - p), a, b)))(along)


def end(row, start):
    return jax.tree.map(lambda p: p[row * STARTS + start], ends)


for row, color in zip((len(WIDTHS) // 2, len(WIDTHS) - 1), (ORANGE, BLUE), strict=True):
    heights = between(end(row, FIRST), end(row, SECOND))
    right.plot(along, heights, color=color, label=f"{WIDTHS[row]} hidden neurons")
right.axhline(BEST, color=GREEN, linewidth=1, label="best of any function")
right.set(xlabel="from one end to the other", ylabel="loss", title="Between two of the ends")
right.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# Numbers to expect: a spread of 0.38 at width 2, 0.11 at width 4, and below 0.0001 from width 8 on.
#
# <details><summary>Answer to the prediction</summary>
#
# Two neurons are not enough, and where they end depends on the start; those at log 2 are still on a
# plateau, which more `STEPS` bring most of them down from. With four, some starts find
# the best loss and others end at one of a few worse ones. From eight on all end at the best: the
# bad minima are gone. Wide networks are easier to train than narrow ones that could do the same.
#
# </details>
#
# The ends are alike, yet not one place. Exchange two hidden neurons together with their weights, or
# turn the signs before and behind one (tanh is odd): the function is the same. So a minimum of 64
# neurons stands at $64! \cdot 2^{64}$ places, and between two of them there is a hill.
#
# ## 2. A saddle point
#
# Where all slopes are 0, the second derivatives decide. They are a matrix, the Hessian
# $H_{ij} = \frac{\partial^2 L}{\partial \theta_i \partial \theta_j}$, and a step $s$ along one of
# its eigenvectors (特徵向量) $v$ with eigenvalue $\lambda$ adds $\frac{1}{2} \lambda s^2$ to the
# loss. If all eigenvalues (特徵值) are positive, it is a minimum; if one is negative, it is a
# saddle, and there is a way down.
#
# The simplest saddle of a network: all weights 0. Two clouds of points, 8 hidden neurons. Then
# $h = \tanh 0 = 0$, so $W_2$ gets no slope, $dW_2 = h^\top dz_2 = 0$; and $W_2 = 0$, so no error
# comes back: $dh = dz_2 W_2^\top = 0$, and $dW_1 = 0$.
#
# **Predict first.** Three ways to go on from there: descent, descent in batches (批次), and descent
# with a little noise added to every slope. Which get away?

# %%
ALPHA, SADDLE_STEPS = 0.5, 300
NOISES = (0.0, 1e-6, 1e-4, 1e-2)  # standard deviations

HIDDEN = 8
(cloud_x, cloud_y), _ = fnn.datasets.clouds(200, key=jax.random.key(0))
at_zero = fnn.serial(
    fnn.dense(HIDDEN, initializer=jax.nn.initializers.zeros),
    fnn.tanh(),
    fnn.dense(2, initializer=jax.nn.initializers.zeros),
)
zero, state = at_zero.init(jax.random.key(0), cloud_x)
flat_zero, as_params = ravel_pytree(zero)


def cloud_loss(theta):
    z = at_zero.apply(as_params(theta), state, cloud_x)[0]
    return loss.apply(z, cloud_y).mean()


def noisy_descent(std):
    noise = fnn.optim.gradient_noise(std**2, 0.0, key=jax.random.key(2))
    optimizer = fnn.optim.chain(noise, fnn.optim.sgd(ALPHA))
    return fnn.landscapes.descend(optimizer, cloud_loss, flat_zero, SADDLE_STEPS)


paths = jax.vmap(noisy_descent)(jnp.array(NOISES))
_, in_batches = fnn.fit(
    at_zero, loss, fnn.optim.sgd(ALPHA), (cloud_x, cloud_y), batch_size=20, steps=SADDLE_STEPS,
    key=jax.random.key(0),
)  # fmt: skip
print(f"log 2 = {np.log(2):.4f}")
print(f"batches of 20: loss {in_batches.epoch_loss[-1]:.4f} after {SADDLE_STEPS} steps")
for std, found in zip(NOISES, paths.values, strict=True):
    print(f"noise {std:7.0e}: loss {found[-1]:.4f} after {SADDLE_STEPS} steps")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Only the added noise. Plain descent stays, of course: its slope is exactly 0. But so do batches.
# Their slopes differ from batch to batch, but for the weights each of them is 0, by the same two
# lines as above; only the output's bias is moved a little, to and fro. This is why weights start at
# random.
#
# </details>
#
# ### The proof: its smallest eigenvalue
#
# Of the second derivatives at $\theta = 0$ only the mixed ones of $W_1$ and $W_2$ give a way down:
# those of the output's biases are not negative, and all others are 0. Near 0, $\tanh z = z$, so a
# weight $W_{1,io}$ changes $h_o$ by $x_i$, and $dW_{2,ok} = \sum h_o\, dz_{2k}$ by
#
# $$\frac{\partial^2 L}{\partial W_{1,io}\, \partial W_{2,ok}}
# = \frac{1}{n} \sum_b x_{bi}\, (p_{bk} - t_{bk}) = A_{ik}, \qquad p = \tfrac{1}{2},$$
#
# the same $A$ for each hidden neuron $o$, and 0 for two different ones. The eigenvalues of
# $\begin{pmatrix} 0 & A \\ A^\top & 0 \end{pmatrix}$ are the singular values (奇異值) of $A$, once
# with each sign. So each hidden neuron brings one way down, with the eigenvalue
# $\lambda = -\sigma_1(A)$.

# %%
t = np.eye(2)[cloud_y]
A = np.asarray(cloud_x).T @ (0.5 - t) / len(t)
by_hand = -np.linalg.svd(A, compute_uv=False)[0]
slopes, hessian = jax.jit(lambda at: (jax.grad(cloud_loss)(at), jax.hessian(cloud_loss)(at)))(
    flat_zero
)
eigenvalues, vectors = np.linalg.eigh(hessian)
print(f"largest slope at zero: {float(jnp.abs(slopes).max()):.1e}")
print(f"smallest eigenvalue by hand {by_hand:.5f}, by autodiff {eigenvalues[0]:.5f}")
print(f"ways down: {(eigenvalues < -0.01).sum()} of {len(eigenvalues)} directions")

# %% [markdown]
# A step multiplies what lies along such a $v$ by $1 - \alpha \lambda = 1 + \alpha |\lambda|$: it
# grows like money at interest. Noise of deviation $\sigma$ in each step adds up, and after $n$
# steps in $m$ such directions the distance is about
#
# $$\alpha\, \sigma \sqrt{m\, \frac{q^{2n} - 1}{q^2 - 1}}, \qquad q = 1 + \alpha |\lambda|.$$
#
# A hundred times less noise costs $\log 100 / \log q$ more steps, and no more.

# %%
steps = np.arange(SADDLE_STEPS + 1)
down = vectors[:, eigenvalues < -0.01]
growth = 1 + ALPHA * abs(float(eigenvalues[0]))
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.plot(steps[1:], in_batches.loss, color="0.75", linewidth=0.8, label="batches, no noise")
colors = itertools.cycle((BLUE, ORANGE, GREEN, RED))
for std, found, points in zip(NOISES, paths.values, paths.points, strict=True):
    color, line = (next(colors), "-") if std else ("black", "--")
    label = f"noise {std:.0e}" if std else "no noise"
    left.plot(steps, found, line, color=color, label=label)
    distance = np.linalg.norm(np.asarray(points) @ down, axis=1)
    early = slice(1, 60)
    if std:
        right.plot(steps[early], distance[early], color=color, label=label)
        expected = (
            ALPHA * std * np.sqrt(down.shape[1] * (growth ** (2.0 * steps) - 1) / (growth**2 - 1))
        )
        shown = (expected < 1) & (steps > 0)
        right.plot(steps[shown], expected[shown], ":", color="black", linewidth=1.2)
right.plot([], [], ":", color="black", linewidth=1.2, label="predicted")
left.set(xlabel="step", ylabel="loss", title="Away from the saddle", ylim=(0, 0.8))
right.set(
    xlabel="step", ylabel="distance along the ways down", yscale="log",
    title="It grows by the predicted factor",
)  # fmt: skip
left.legend(frameon=False, fontsize=8)
right.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# Numbers to expect: 0.693 without noise and in batches, 0.004 with it; $\lambda = -0.975$.
#
# ### Why wide networks have no bad minima here
#
# Back to the networks of width 4 that ended above the best loss. Are they minima? And what are they
# in a network of 5 neurons, whose fifth has weights 0?

# %%
NARROW = 4  # one of WIDTHS, but not the widest


def cut(params, width):
    first, _, last = params
    return (
        {"weight": first["weight"][:, :width], "bias": first["bias"][:width]},
        (),
        {"weight": last["weight"][:width], "bias": last["bias"]},
    )


def smallest_eigenvalue(params):
    theta, back = ravel_pytree(params)
    return jnp.linalg.eigvalsh(jax.hessian(lambda theta: height(back(theta)))(theta))[0]


row = WIDTHS.index(NARROW)
narrow = jax.tree.map(lambda p: p[row * STARTS : (row + 1) * STARTS], ends)
smallest_of_all = jax.jit(jax.vmap(smallest_eigenvalue))
lowest = {
    width: np.asarray(smallest_of_all(jax.vmap(lambda p, width=width: cut(p, width))(narrow)))
    for width in (NARROW, NARROW + 1)
}
bad = values[row] > BEST + 0.01
print(f"{bad.sum()} of {STARTS} ends of width {NARROW} are above the best loss")
for width, found in lowest.items():
    for name, some in (("bad ends:", found[bad]), ("the others:", found[~bad])):
        if some.size:
            print(
                f"{name:11} smallest eigenvalues with {width} neurons: "
                f"{some.min():+.4f} to {some.max():+.4f}"
            )

# %% [markdown]
# With 4 neurons there is no way down: the smallest eigenvalue is 0 within rounding, as tanh is all
# but flat where it is sure. With a fifth neuron of weights 0 the loss is the same and the slope is
# 0, but the smallest eigenvalue is $-0.06$ to $-0.08$: each bad minimum of the narrow network is a
# saddle of the wider one. (The derivation above holds with the errors $p - t$ that are left over,
# for as long as these go along with an input.) The ends at the best loss stay minima.
#
# So a nudge should save a bad end that has a neuron to spare, and none that has not. All ends of
# that width are nudged by 0.0001, once with and once without the spare neuron, and descend again:

# %%
NUDGE = 1e-4


def nudged(width):
    """Nudge the first neurons of every network; the others keep their weights of 0."""
    random = np.random.default_rng(1)
    first, _, last = jax.tree.map(np.array, ends)
    first["weight"][..., :width] += NUDGE * random.normal(size=(len(sizes), 4, width))
    last["weight"][:, :width] += NUDGE * random.normal(size=(len(sizes), width, 2))
    return first, (), last


for width in (NARROW, NARROW + 1):
    again = np.asarray(descend_all(nudged(width))[1])[row * STARTS : (row + 1) * STARTS]
    saved = bad & (again < BEST + 0.01)
    print(f"{width} neurons nudged: {saved.sum()} of the {bad.sum()} bad ends reach the best loss")

# %% [markdown]
# Numbers to expect: none without the fifth neuron, all with it. (At width 2 most bad ends are
# worse: what they leave over goes along with no single input, so that one neuron more is level
# ground to second order.)
#
# ## 3. Exercise: the smallest network
#
# One input $x = 1$, target $t = 1$, no biases and no activation: $z = w_2 w_1 x$ and
# $L = (z - t)^2 = (w_1 w_2 - 1)^2$. At $w_1 = w_2 = 0$: find the loss, both slopes (as
# `[1.0, 2.0]`), the mixed second derivative $\frac{\partial^2 L}{\partial w_1 \partial w_2}$, and
# the smallest eigenvalue of the Hessian.

# %% tags=["exercise"]
answers = {"loss": None, "slopes": None, "mixed": None, "smallest eigenvalue": None}

# The checker: what is right, and mistakes that are often made.
RIGHT = {"loss": 1.0, "slopes": np.zeros(2), "mixed": -2.0, "smallest eigenvalue": -2.0}
MISTAKES = {
    "loss": {"at zero the network says 0, and the target is 1": 0.0},
    "slopes": {
        "the other weight is a factor of each slope: it is 0": np.full(2, -2.0),
        "that is without the 2 of the square, and without the other weight": np.full(2, -1.0),
    },
    "mixed": {
        "the 2 of the square is missing": -1.0,
        "derive 2 (w1 w2 - 1) w2 by w2, both its factors": 0.0,
    },
    "smallest eigenvalue": {
        "the 2 of the square is missing": -1.0,
        "that would be the diagonal: the other entries count too": 0.0,
    },
}
for name, answer in answers.items():
    print(f"{name:20} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% tags=["solution"] jupyter={"source_hidden": true}
# dL/dw1 = 2 (w1 w2 - 1) w2 = 0. By w2 once more: 2 w1 w2 + 2 (w1 w2 - 1) = -2. The diagonal is
# 2 w2^2 = 0 and 2 w1^2 = 0, so the eigenvalues of [[0, -2], [-2, 0]] are 2 and -2: a saddle.
solution = {"loss": 1, "slopes": [0, 0], "mixed": -2, "smallest eigenvalue": -2}
for name, answer in solution.items():
    print(f"{name:20} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# ## 4. The vanishing gradient
#
# Now deep networks: 8 hidden layers (隱藏層) of 64 neurons, that read digits. Backward through one
# of them is $dz = dh \odot g'(z)$ and then $dz\, W^\top$. The weights have mean 0 and variance
# $\mathrm{Var}(W)$, so for $n$ neurons the size of the error changes, layer by layer, by about
#
# $$\frac{\lVert dh_{l-1} \rVert}{\lVert dh_l \rVert} \approx
# \sqrt{n\, \mathrm{Var}(W)\; \mathrm{mean}(g'(z)^2)}.$$
#
# fnn's default is $n\, \mathrm{Var}(W) = 1$. What is left is the mean squared slope of the
# activation, to the power of the number of layers.
#
# **Predict first.** The sigmoid's slope is at most $\frac{1}{4}$; that of tanh is 1 in the middle;
# that of ReLU is 1 for half of the sums and 0 for the others. By which factor does each shrink the
# error per layer? And which variance does ReLU need?

# %%
DEPTH, WIDTH = 8, 64

(train_x, train_y), (test_x, test_y) = fnn.datasets.digits()
train_x, test_x = (
    images.reshape(len(images), -1).astype("float32") / 255 for images in (train_x, test_x)
)
digits = train_x[:256], train_y[:256]
lecun = jax.nn.initializers.lecun_normal()  # variance 1 / n
he = jax.nn.initializers.he_normal()  # variance 2 / n


def deep(activation, initializer=lecun):
    hidden = [fnn.dense(WIDTH, initializer=initializer), activation] * DEPTH
    return fnn.serial(*hidden, fnn.dense(10))


MODELS = {
    "sigmoid": deep(fnn.sigmoid()),
    "tanh": deep(fnn.tanh()),
    "ReLU": deep(fnn.relu()),
    "ReLU, variance 2 / n": deep(fnn.relu(), he),
}
FORWARD = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-np.clip(z, -500, 500))),
    "tanh": np.tanh,
    "ReLU": lambda z: np.maximum(z, 0),
}
SLOPES = {
    "sigmoid": lambda h: h * (1 - h),
    "tanh": lambda h: 1 - h**2,
    "ReLU": lambda h: h > 0,
}


def predicted_factor(name, params):
    """Return the factor of one layer by the formula, a mean over the layers but the first."""
    h, factors = digits[0], []
    for layer in params[:-1:2]:
        weight, bias = np.asarray(layer["weight"]), np.asarray(layer["bias"])
        h = FORWARD[name](h @ weight + bias)
        mean_square = np.mean(np.square(SLOPES[name](h)))
        factors.append(np.sqrt(WIDTH * weight.var() * mean_square))
    return np.exp(np.mean(np.log(factors[1:])))


traces = {}
for name, model in MODELS.items():
    params, state = model.init(jax.random.key(1), digits[0])
    traces[name] = fnn.trace_activations(model, loss, params, state, digits, key=jax.random.key(0))
    norms = np.array([float(row.dy.norm) for row in traces[name].layers[1:-1:2]])
    measured = (norms[0] / norms[-1]) ** (1 / (DEPTH - 1))
    formula = predicted_factor(name.partition(",")[0], params)
    print(
        f"{name:21} a layer: measured {measured:.3f}, formula {formula:.3f}; "
        f"{DEPTH} layers: {norms[0] / norms[-1]:.0e}"
    )
display(fnn.plot.activations(traces))

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# The sigmoid by 0.24, near its largest slope; tanh by nearly 1; ReLU by $\sqrt{1/2} = 0.71$, which
# a variance of $2 / n$ makes 1: that is the initializer by He. Numbers to expect over 8 layers:
# 0.00004 for the sigmoid, 0.08 for ReLU, and about 1 for the other two.
#
# </details>
#
# What does that do to learning?

# %%
RATE, EPOCHS = 0.05, 4
TRAINING = {
    "epochs": EPOCHS,
    "batch_size": 50,
    "key": jax.random.key(0),
    "validation": (test_x, test_y),
    "metrics": {"accuracy": fnn.accuracy},
}

figure, axes = plt.subplots(figsize=(6.6, 3.8), layout="constrained")
looks = {"sigmoid": (BLUE, "o"), "tanh": (ORANGE, "s"), "ReLU, variance 2 / n": (RED, "D")}
for name, (color, mark) in looks.items():
    _, history = fnn.fit(MODELS[name], loss, fnn.optim.sgd(RATE), (train_x, train_y), **TRAINING)
    right_share = history.validation["accuracy"][-1]
    print(
        f"{name:21} loss {history.epoch_loss[-1]:.3f}, {right_share:.1%} of 1,000 new digits right"
    )
    epochs = np.arange(1, len(history.epoch_loss) + 1)
    axes.plot(epochs, history.epoch_loss, color=color, marker=mark, label=name)
axes.axhline(np.log(10), color="0.4", linewidth=1, linestyle=":", label="guessing: log 10")
axes.set(xlabel="epoch", ylabel="training loss", title=f"{DEPTH} hidden layers", ylim=(0, None))
axes.set_xticks(range(1, EPOCHS + 1))
axes.legend(frameon=False, fontsize=8, loc="lower left")
plt.show()

# %% [markdown]
# The sigmoid network does not learn at all: 10 % right is guessing. Its gradient is not wrong, but
# next to nothing of it comes to the first layers, and these are the ones that see the image.
#
# ## 5. Dead neurons
#
# ReLU has a danger of its own. If one large step moves a neuron to where $z < 0$ for every image,
# its output is 0 and its slope is 0: for all images, so for ever.
#
# **Predict first.** Two hidden layers of 64, three epochs (one epoch 訓練週期 is one pass over the
# data). As the learning rate grows tenfold and tenfold again, does the network diverge?

# %%
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def build(learning_rate):
    hidden = [fnn.dense(WIDTH), fnn.relu()] * 2
    return fnn.serial(*hidden, fnn.dense(10)), loss, fnn.optim.sgd(learning_rate)


swept = fnn.sweep(
    build, {"learning_rate": RATES, "seed": [0]}, (train_x, train_y), epochs=3, batch_size=100,
    validation=(test_x, test_y), metrics={"accuracy": fnn.accuracy},
)  # fmt: skip
dead, right_shares = [], []
for rate, found, history in zip(RATES, swept.train_states, swept.histories, strict=True):
    h, shares = train_x, []
    for layer in found.params[:-1:2]:
        h = np.maximum(h @ layer["weight"] + layer["bias"], 0)
        shares.append((h == 0).all(0).mean())
    dead.append(shares)
    right_shares.append(history.validation["accuracy"][-1] if not history.stopped else np.nan)
    print(
        f"α = {rate:<5}  dead {shares[0]:4.0%} and {shares[1]:4.0%}   "
        f"{right_shares[-1]:.1%} of new digits right  {history.stopped}"
    )

figure, axes = plt.subplots(figsize=(6.6, 4.2), layout="constrained")
axes.plot(RATES, [a for a, _ in dead], "o", color=BLUE, label="dead in the first hidden layer")
axes.plot(RATES, [b for _, b in dead], "s", color=ORANGE, label="dead in the second")
axes.plot(RATES, right_shares, "^", color=GREEN, label="share of new digits right")
axes.axhline(0.1, color="0.4", linewidth=1, linestyle=":", label="guessing: 0.1")
axes.set(xscale="log", xlabel="learning rate α", ylabel="share", ylim=(-0.04, 1.04))
axes.set_title("Too large a step kills neurons")
figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
plt.show()

# %% [markdown]
# A dead neuron's gradient is not small: it is 0. At the largest rate but one:

# %%
model, *_ = build(0.1)
_, grads = fnn.value_and_grad(model, loss)(
    swept.train_states[-2].params, swept.train_states[-2].state, (train_x, train_y)
)
for i in (0, 2, 4):
    moving = np.abs(grads[i]["weight"]).max(0) > 0
    print(f"layer {i}: weights of {moving.sum()} of {len(moving)} neurons have a slope")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# No: at a rate of 3 and 10 the loss stays finite, near $\log 10$, because all neurons of the second
# layer are dead. Only the output's biases still learn, which say how frequent each digit is. A
# smaller rate afterwards does not help, as the slopes of the weights are 0. `fnn.leaky_relu()`,
# whose slope is 0.01 there, does not die; but at these rates it diverges.
#
# </details>
#
# Remedies: a smaller rate; weights of the right variance; batch normalization (批次正規化), which
# is in lesson 10.
#
# ## 6. Exercise: repair one
#
# The sigmoid network of section 4 did not learn. Repair it: 8 hidden layers of `fnn.dense` must
# stay, and the training too, but activations, initializers, and what stands between the layers are
# yours (`fnn.relu()`, `fnn.batch_norm()`, `fnn.residual(...)`, and so on). It is right when more
# than 60 % of new digits are.


# %%
def judge(model):
    """Train a model, and say whether it learns, or else what probably keeps it from learning."""
    if model is None:
        return "not answered"
    if not isinstance(model, fnn.Layer):
        return "wrong: no model, as fnn.serial(...) gives one"
    try:
        params, state = model.init(jax.random.key(1), digits[0])
        _, history = fnn.fit(model, loss, fnn.optim.sgd(RATE), (train_x, train_y), **TRAINING)
    except Exception as error:
        return f"wrong: it does not run on digits: {error}"
    # Copies in a `repeat` stand side by side in one array.
    weights = [p for at, p in jax.tree.leaves_with_path(params) if "weight" in str(at[-1])]
    layers = sum(math.prod(weight.shape[:-2]) for weight in weights)
    if layers < DEPTH + 1:
        return f"wrong: {layers} layers with weights, where {DEPTH + 1} are asked for"
    share = history.validation["accuracy"][-1] if not history.stopped else 0.0
    if share > 0.6:
        return f"{share:.1%} of new digits: right"
    trace = fnn.trace_activations(model, loss, params, state, digits, key=jax.random.key(0))
    norms = [float(row.dy.norm) for row in trace.layers if row.name == "dense"]
    if norms[0] == 0:
        return "wrong: no gradient at all comes back to the first layer. Are weights 0?"
    ratio = norms[0] / norms[-1]
    if ratio < 0.01:
        return f"wrong: of the last layer's gradient {ratio:.0e} comes to the first one"
    if history.stopped or ratio > 100:
        return f"wrong: it explodes: the gradient grows {ratio:.0e} times to the first layer"
    return f"wrong: it learns too slowly, {share:.1%} of new digits"


# %% tags=["exercise"]
repaired = None  # such as deep(fnn.sigmoid(), he), which is not enough

print(judge(repaired))

# %% tags=["solution"] jupyter={"source_hidden": true}
# Variance 2 / n makes up for the half of the sums that ReLU sets to 0. With tanh, the variance
# 1 / n of before is right, as its slope is near 1.
print(judge(deep(fnn.relu(), he)))

# %% [markdown]
# ## 7. To play with
#
# What comes through a deep network, forward and backward, in numpy. With which size of weights
# (times $1 / \sqrt{n}$) does the error of each activation stay what it is? What goes wrong with
# tanh when the weights are too large?


# %%
def draw(weight_size, activation, depth):
    """Draw the sizes of values and errors in a random network, layer by layer."""
    random = np.random.default_rng(0)
    n, h = 64, random.normal(size=(64, 64))
    weights, values = [], []
    for _ in range(depth):
        weights.append(weight_size * random.normal(size=(n, n)) / n**0.5)
        h = FORWARD[activation](h @ weights[-1])
        values.append(h)
    error = random.normal(size=h.shape)
    errors = []
    for weight, h in zip(reversed(weights), reversed(values), strict=True):
        errors.append(error)
        error = (error * SLOPES[activation](h)) @ weight.T
    figure = Figure(figsize=(6.6, 3.6), layout="constrained")
    axes = figure.subplots()
    layers = np.arange(1, depth + 1)
    forward = [h.std() for h in values]
    backward = [np.sqrt(np.mean(error**2)) for error in reversed(errors)]
    axes.plot(layers, forward, "o", color=BLUE, label="forward: deviation of h")
    axes.plot(layers, backward, "s", color=ORANGE, label="backward: size of dh")
    axes.axhline(1, color="0.4", linewidth=1, linestyle=":", label="1")
    axes.set(yscale="log", ylim=(1e-14, 1e14), xlabel="layer", ylabel="size")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(f"{activation}, weights of size {weight_size} / √n, {depth} layers")
    axes.legend(frameon=False, fontsize=8)
    return figure


KNOBS = {
    "weight_size": (0.5, 0.7, 1.0, 1.41, 2.0, 4.0),
    "activation": tuple(FORWARD),
    "depth": (5, 10, 20, 40),
}
fnn.plot.show(draw, KNOBS, start={"weight_size": 1.0, "activation": "sigmoid", "depth": 20})

# %% [markdown]
# The same for ReLU over the size of the weights, as a page that works from a file: open
# `vanishing.html` in a browser.


# %%
def relu_of_20(weight_size):
    return draw(weight_size, "ReLU", 20)


fnn.plot.slider_page(
    relu_of_20, "weight_size", (0.7, 1.0, 1.2, 1.41, 2.0), "vanishing.html",
    title="Too small and too large weights",
    text="Of each size of the weights: what is left of values and errors after 20 layers of ReLU.",
)  # fmt: skip

# %% [markdown]
# Things to try: `NOISES = (1e-7, 1e-3)` in section 2, `DEPTH = 4` in section 4, where even the
# sigmoid learns a little, `fnn.leaky_relu()` in section 5. Next: two remedies that are layers.
