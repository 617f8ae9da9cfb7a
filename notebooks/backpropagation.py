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
# # Backpropagation by hand
#
# We train a network with one hidden layer to read digits, and derive every gradient ourselves.
# No automatic differentiation until the last section, where it confirms what we found.
#
# 1. One neuron: the computation graph, forwards and backwards, in numbers.
# 2. Two layers: the forward pass as matrix products.
# 3. The backward pass, from the loss to the first weight.
# 4. Gradient descent.
# 5. The same network in `fnn`.
# 6. Depth: the vanishing gradient.
# 7. By hand against autodiff: the comparison.
#
# Letters: $B$ examples in a batch, $I$ inputs, $O$ hidden neurons (the outputs of the first
# layer), $K$ classes. $\partial L / \partial v$ is written `dv` in code.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn.lab import rounding

# Some accelerators round matrix products to fewer digits; we want to compare gradients closely.
jax.config.update("jax_default_matmul_precision", "highest")
# Okabe and Ito's colors, told apart by color-blind eyes.
BLUE, ORANGE = "#0072B2", "#D55E00"

# %% [markdown]
# ## 1. One neuron
#
# A neuron weighs its inputs, adds a bias and bends the sum; the loss compares it with a target:
#
# $$a = w_1 x_1 + w_2 x_2 + b, \qquad h = \sigma(a) = \frac{1}{1 + e^{-a}}, \qquad L = (h - t)^2.$$
#
# Going **forwards**, each node of the graph computes its value from those before it.

# %%
x1, x2, t = 1.0, -2.0, 1.0
w1, w2, b = 0.5, 0.75, 0.25


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def neuron(w1, w2, b):
    a = w1 * x1 + w2 * x2 + b
    h = sigmoid(a)
    return a, h, (h - t) ** 2


a, h, loss = neuron(w1, w2, b)
print(f"a = {a:.4f}   h = {h:.4f}   L = {loss:.4f}")

# %% [markdown]
# Going **backwards**, each node multiplies what comes from behind it by its own slope: the chain
# rule. The slope of the sigmoid needs no new exponential, $\sigma'(a) = h (1 - h)$:
#
# $$\frac{\partial L}{\partial h} = 2 (h - t), \qquad
# \frac{\partial L}{\partial a} = \frac{\partial L}{\partial h} \, h (1 - h), \qquad
# \frac{\partial L}{\partial w_i} = \frac{\partial L}{\partial a} \, x_i, \qquad
# \frac{\partial L}{\partial b} = \frac{\partial L}{\partial a}.$$

# %%
dh = 2 * (h - t)
da = dh * h * (1 - h)
dw1, dw2, db = da * x1, da * x2, da

# %%
figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
nodes = {
    "$w_1$": (0, 2, w1, dw1),
    "$w_2$": (0, 1, w2, dw2),
    "$b$": (0, 0, b, db),
    "$a = w_1 x_1 + w_2 x_2 + b$": (2, 1, a, da),
    r"$h = \sigma(a)$": (4, 1, h, dh),
    "$L = (h - t)^2$": (6, 1, loss, 1.0),
}
for name, (column, row, value, slope) in nodes.items():
    axes.text(column, row, name, ha="center", va="center", bbox={"boxstyle": "round", "fc": "w"})
    axes.text(column, row + 0.27, f"{value:+.4f}", color=BLUE, ha="center", va="center")
    axes.text(column, row - 0.29, f"{slope:+.4f}", color=ORANGE, ha="center", va="center")
arrow = {"arrowstyle": "->", "shrinkA": 14, "shrinkB": 52}
for row in (0, 1, 2):
    axes.annotate("", (2, 1), (0, row), arrowprops=arrow)
axes.annotate("", (4, 1), (2, 1), arrowprops=arrow | {"shrinkA": 60, "shrinkB": 32})
axes.annotate("", (6, 1), (4, 1), arrowprops=arrow | {"shrinkA": 32, "shrinkB": 42})
axes.text(6, 2.2, "forward: the value", color=BLUE, ha="center")
axes.text(6, 1.9, "backward: the slope of $L$ in it", color=ORANGE, ha="center")
axes.set(
    xlim=(-0.6, 7.2), ylim=(-0.5, 2.5), title=f"One neuron, $x = ({x1:g}, {x2:g})$, $t = {t:g}$"
)
axes.set_axis_off()
plt.show()

# %% [markdown]
# A derivative says how much $L$ changes when we nudge a parameter, so we can check it by nudging.
# With a step $s$ the difference $(L(w + s) - L(w - s)) / 2s$ is wrong by the order of $s^2$
# (the curve bends) plus $\varepsilon / s$ (the numbers are rounded, by $\varepsilon$). Both are
# $\varepsilon^{2/3}$ at $s = \varepsilon^{1/3}$: we allow ten times that.

# %%
epsilon = np.finfo(float).eps
s = epsilon ** (1 / 3)
at = np.array([w1, w2, b])
for i, (name, by_hand) in enumerate({"w1": dw1, "w2": dw2, "b": db}.items()):
    nudge = s * np.eye(3)[i]
    nudged = (neuron(*(at + nudge))[-1] - neuron(*(at - nudge))[-1]) / (2 * s)
    print(f"d{name:2} by hand {by_hand:+.10f}   by nudging {nudged:+.10f}")
    assert abs(by_hand - nudged) < 10 * epsilon ** (2 / 3)

# %% [markdown]
# ## 2. Two layers, forwards
#
# The data: real images of digits, $28 \times 28$ pixels in a row, so $I = 784$ numbers from 0
# to 1, and $K = 10$ classes. For now a small batch of $B = 64$.

# %%
(train_x, train_y), (test_x, test_y) = fnn.datasets.digits()
train_x, test_x = (x.reshape(len(x), -1).astype("float32") / 255 for x in (train_x, test_x))

# The letters of the lecture, I among them.
B, I, O, K = 64, 784, 32, 10  # noqa: E741
x, labels = train_x[:B], train_y[:B]
t = jax.nn.one_hot(labels, K)  # a 1 at the label: the distribution that we want
x.shape, t.shape

# %% [markdown]
# Neurons side by side are a matrix product, one column of $W$ for each neuron, one row of $x$ for
# each example:
#
# | | | shape |
# |---|---|---|
# | hidden sums | $a_1 = x W_1 + b_1$ | $(B, I)(I, O) + (O) \to (B, O)$ |
# | hidden values | $h = \sigma(a_1)$ | $(B, O)$ |
# | scores | $a_2 = h W_2 + b_2$ | $(B, O)(O, K) + (K) \to (B, K)$ |
# | probabilities | $p_k = e^{a_{2k}} / \sum_j e^{a_{2j}}$ | $(B, K)$ |
# | loss | $L = -\frac{1}{B} \sum_{b, k} t_{bk} \log p_{bk}$ | one number |
#
# $L$ is the mean *negative log-likelihood*: how surprised the network is by the right answers, as
# $t$ picks the label's $\log p$ out of each row.
# Weights start at random, with variance one over the number of inputs, so that the sums keep the
# size of what goes in; biases start at 0.

# %%
key1, key2 = jax.random.split(jax.random.key(0))
start = {
    "W1": jax.random.normal(key1, (I, O)) / I**0.5,
    "b1": jnp.zeros(O),
    "W2": jax.random.normal(key2, (O, K)) / O**0.5,
    "b2": jnp.zeros(K),
}


def forward(params, x):
    a1 = x @ params["W1"] + params["b1"]
    h = 1 / (1 + jnp.exp(-a1))
    a2 = h @ params["W2"] + params["b2"]
    # The same p for a2 minus any number: without this one, exp may overflow.
    e = jnp.exp(a2 - a2.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    return a1, h, a2, p


def nll(p, t):
    return -(t * jnp.log(p)).sum(1).mean()


a1, h, a2, p = forward(start, x)
print(f"loss {nll(p, t):.3f}, and log K = {np.log(K):.3f} for a network that only guesses")

# %% [markdown]
# ## 3. Two layers, backwards
#
# **The output error.** For one example, $\log p_k = a_{2k} - \log \sum_j e^{a_{2j}}$, and
# $\sum_k t_k = 1$:
#
# $$L = -\sum_k t_k a_{2k} + \log \sum_j e^{a_{2j}}
# \quad\Rightarrow\quad
# \frac{\partial L}{\partial a_{2k}} = -t_k + \frac{e^{a_{2k}}}{\sum_j e^{a_{2j}}} = p_k - t_k.$$
#
# What the network believes minus what is true. The mean over the batch divides by $B$.

# %%
da2 = (p - t) / B  # (B, K)

# %% [markdown]
# **The second layer.** $a_{2,bk} = \sum_o h_{bo} W_{2,ok} + b_{2k}$. The weight $W_{2,ok}$ works in
# every example, so its slopes add up over $b$, and the sum is a matrix product again:
#
# $$\frac{\partial L}{\partial W_{2,ok}} = \sum_b h_{bo} \, \frac{\partial L}{\partial a_{2,bk}}
# \quad\Rightarrow\quad dW_2 = h^\top da_2, \qquad db_2 = \sum_b da_{2,b}.$$

# %%
dW2 = h.T @ da2  # (O, B)(B, K) -> (O, K)
db2 = da2.sum(0)  # (K,)

# %% [markdown]
# **The hidden error.** A hidden value feeds all $K$ scores, so what comes back from them adds up:
# the error goes backwards through the same weights. Then the slope of the sigmoid, as in the one
# neuron:
#
# $$dh = da_2 W_2^\top, \qquad da_1 = dh \odot h \odot (1 - h).$$

# %%
dh = da2 @ start["W2"].T  # (B, K)(K, O) -> (B, O)
da1 = dh * h * (1 - h)  # (B, O)

# %% [markdown]
# **The first layer** is the second one again, with $x$ in the place of $h$.

# %%
dW1 = x.T @ da1  # (I, B)(B, O) -> (I, O)
db1 = da1.sum(0)  # (O,)

by_hand = {"W1": dW1, "b1": db1, "W2": dW2, "b2": db2}
for name, gradient in by_hand.items():
    assert gradient.shape == start[name].shape
    print(f"d{name}  {gradient.shape!s:10} largest {jnp.abs(gradient).max():.4f}")

# %% [markdown]
# Two things to remember. Backward used what forward had computed ($x$, $h$, $p$): that is what
# must be kept in memory. And for each matrix product of the forward pass it took two, one for the
# weight and one for the layer's input; only $x$ itself needs no gradient.
#
# ## 4. Gradient descent
#
# The gradient points uphill, so we step the other way, $v \leftarrow v - \eta \, dv$ for all
# parameters $v$ at once, with a learning rate $\eta$. Every step uses all 4,000 images.

# %%


def gradients(params, x, t):
    """Sections 2 and 3 in one function: the loss and its gradient."""
    _, h, _, p = forward(params, x)
    da2 = (p - t) / len(x)
    da1 = da2 @ params["W2"].T * h * (1 - h)
    return nll(p, t), {"W1": x.T @ da1, "b1": da1.sum(0), "W2": h.T @ da2, "b2": da2.sum(0)}


@jax.jit
def step(params, x, t):
    loss, slopes = gradients(params, x, t)
    return {name: params[name] - LEARNING_RATE * slopes[name] for name in params}, loss


LEARNING_RATE, STEPS = 1.0, 200
all_x, all_t = jnp.asarray(train_x), jax.nn.one_hot(train_y, K)
params, losses = start, []
for _ in range(STEPS):
    params, loss = step(params, all_x, all_t)
    losses.append(float(loss))

right = (forward(params, test_x)[-1].argmax(1) == test_y).mean()
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, {right:.1%} of 1,000 new digits right")
assert right > 0.8

# %% [markdown]
# What has it learned? Each hidden neuron has a weight for every pixel: its weights are an image.
# Ink where it is orange drives the neuron up, ink where it is purple drives it down. We draw how
# far they moved, as the random start hides the pattern.

# %%
figure = plt.figure(figsize=(9, 3.4), layout="constrained")
left, right_side = figure.subfigures(1, 2, width_ratios=[1, 1.3])
axes = left.subplots()
axes.plot(np.arange(1, STEPS + 1), losses, color=BLUE)
axes.axhline(np.log(K), color="gray", linewidth=0.8, linestyle="--")
axes.text(STEPS, np.log(K) * 0.98, "guessing: log 10", ha="right", va="top", color="dimgrey")
axes.set(xlabel="step", ylabel="loss", ylim=(0, None), title="The loss falls")
moved = np.asarray(params["W1"] - start["W1"]).T.reshape(O, 28, 28)
for panel, image in zip(right_side.subplots(3, 6).flat, moved, strict=False):
    size = np.abs(image).max()
    panel.imshow(image, cmap="PuOr_r", vmin=-size, vmax=size)
    panel.set_axis_off()
right_side.suptitle("First-layer weights of 18 neurons: what changed")
plt.show()

# %% [markdown]
# ## 5. The same network in fnn
#
# A layer of `fnn` is four functions, and its `backward` is what we wrote above: `dense` has
# $x^\top da$, $\sum_b da$ and $da\,W^\top$; `sigmoid` has $dy\,h\,(1 - h)$; the loss
# `cross_entropy` is softmax and negative log-likelihood in one, with $p - t$. `serial` calls them
# from left to right, then from right to left.

# %%
model = fnn.serial(hidden=fnn.dense(O), act=fnn.sigmoid(), out=fnn.dense(K))
loss = fnn.losses.cross_entropy()
fnn_params, state = model.init(jax.random.key(0), x)
fnn_params["hidden"] = {"weight": start["W1"], "bias": start["b1"]}
fnn_params["out"] = {"weight": start["W2"], "bias": start["b2"]}

(value, _), grads = fnn.value_and_grad(model, loss)(fnn_params, state, (x, labels))

# %% [markdown]
# Is it equal to ours? Not in every bit: the two compute, for example, the sigmoid in another way.
# A sum of $n$ rounded numbers is off by about $\sqrt{n}\,\varepsilon$, relative to the largest
# gradient. The longest sum here runs over the $n = I = 784$ pixels; we allow eight times that.

# %%
in_fnn = {
    "W1": grads["hidden"]["weight"],
    "b1": grads["hidden"]["bias"],
    "W2": grads["out"]["weight"],
    "b2": grads["out"]["bias"],
}
scale = max(float(jnp.abs(gradient).max()) for gradient in by_hand.values())
allowed = rounding("float32", terms=I)
for name, gradient in by_hand.items():
    error = float(jnp.abs(gradient - in_fnn[name]).max()) / scale
    print(f"d{name}  differs by {error:.1e}, allowed {allowed:.1e}")
    assert error <= allowed

# %% [markdown]
# Training is one call. With batches of 64 in place of all images it takes 63 steps in every pass
# over the data, where we took one, and 10 passes suffice.

# %%
train_state, history = fnn.fit(
    model,
    loss,
    fnn.optim.sgd(0.1, momentum=0.9),
    (train_x, train_y),
    epochs=10,
    batch_size=B,
    key=jax.random.key(0),
    validation=(test_x, test_y),
    metrics={"accuracy": fnn.accuracy},
)
print(
    f"10 passes, {len(history.loss)} steps: loss {history.epoch_loss[-1]:.3f}, "
    f"{history.validation['accuracy'][-1]:.1%} of 1,000 new digits right"
)
assert history.validation["accuracy"][-1] > right

# %% [markdown]
# ## 6. Depth: the vanishing gradient
#
# Every sigmoid on the way back multiplies the error by $h (1 - h) \le 1/4$. After eight layers
# little is left for the first. The slope of tanh, $1 - h^2$, is 1 at its middle, and the error
# passes.

# %%
DEPTH = 8


def first_to_last(activation):
    """Return the norm of the weight's gradient in every layer of a deep network."""
    layers = []
    for _ in range(DEPTH):
        layers += [fnn.dense(O), activation()]
    deep = fnn.serial(*layers, fnn.dense(K))
    deep_params, deep_state = deep.init(jax.random.key(1), x)
    _, slopes = fnn.value_and_grad(deep, loss)(deep_params, deep_state, (x, labels))
    return [float(jnp.linalg.norm(layer["weight"])) for layer in slopes[::2]]


figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
norms = {name: first_to_last(getattr(fnn, name)) for name in ("sigmoid", "tanh")}
for (name, sizes), color, marker in zip(norms.items(), (BLUE, ORANGE), "o^", strict=True):
    axes.plot(range(1, DEPTH + 2), sizes, color=color, marker=marker, label=name)
shrinks = norms["sigmoid"][-1] / norms["sigmoid"][0]
axes.set(
    xlabel="layer, 1 next to the input",
    ylabel="norm of the weight's gradient",
    yscale="log",
    title="The gradient vanishes through sigmoids, not through tanh",
)
axes.legend(frameon=False)
plt.show()
print(f"last layer over first: {shrinks:.0e} for sigmoid")

# %% [markdown]
# ## 7. The comparison
#
# Last, our gradients against those of `jax.grad`, and both against double precision: for every
# parameter, and what each layer costs.

# %%
comparison = fnn.compare(model, loss, fnn_params, state, (x, labels), key=jax.random.key(0))
assert comparison.agrees
print(comparison)
