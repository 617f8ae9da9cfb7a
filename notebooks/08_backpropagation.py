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
# # Lesson 8: backpropagation by hand
#
# We train a network with one hidden layer (隱藏層) to read digits, in plain numpy, and derive every
# gradient (梯度) ourselves. Autodiff appears only to confirm what we found.
#
# 1. Forward: two layers as matrix products.
# 2. Backward: from the loss to the first weight, and the shapes of it all.
# 3. Exercise: the backward pass is yours.
# 4. Gradient descent.
# 5. The same network in fnn.
# 6. Depth: the vanishing gradient.
# 7. By hand against autodiff: the comparison.
# 8. To play with.
#
# Letters: $B$ examples in a batch (批次), $I$ inputs, $O$ hidden neurons, $K$ classes;
# $\theta = (W_1, b_1, W_2, b_2)$ the parameters (參數), $z$ weighted sums, $g$ the activation
# (激勵函數), here the sigmoid, $h = g(z_1)$, $\alpha$ the learning rate (學習率).
# $\partial L / \partial v$ is written `dv` in code.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.patches import Rectangle

import fnn
from fnn.lab import check_answer, rounding

# Some accelerators round matrix products to fewer digits; we want to compare gradients closely.
jax.config.update("jax_default_matmul_precision", "highest")
# Shows figures that are made without pyplot, too.
# %matplotlib inline

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"

# %% [markdown]
# ## 1. Forward
#
# The data: real images of digits, $28 \times 28$ pixels in a row, so $I = 784$ numbers from 0
# to 1, and $K = 10$ classes. For now a small batch of $B = 64$.

# %%
(train_x, train_y), (test_x, test_y) = fnn.datasets.digits()
train_x, test_x = (x.reshape(len(x), -1) / 255.0 for x in (train_x, test_x))

# The letters of the lecture, I among them.
B, I, O, K = 64, 784, 32, 10
x, labels = train_x[:B], train_y[:B]
t = np.eye(K)[labels]  # a 1 at the label: the distribution that we want
x.shape, t.shape

# %% [markdown]
# Neurons side by side are a matrix product, one column of $W$ for each neuron, one row of $x$ for
# each example:
#
# | | | shape |
# |---|---|---|
# | hidden sums | $z_1 = x W_1 + b_1$ | $(B, I)(I, O) + (O) \to (B, O)$ |
# | hidden values | $h = g(z_1)$ | $(B, O)$ |
# | scores | $z_2 = h W_2 + b_2$ | $(B, O)(O, K) + (K) \to (B, K)$ |
# | probabilities | $p_k = e^{z_{2k}} / \sum_j e^{z_{2j}}$ | $(B, K)$ |
# | loss | $L = -\frac{1}{B} \sum_{b, k} t_{bk} \log p_{bk}$ | one number |
#
# $L$ is the mean *negative log-likelihood*: how surprised the network is by the right answers, as
# $t$ picks the label's $\log p$ out of each row.
# Weights start at random, with variance one over the number of inputs, so that the sums keep the
# size of what goes in; biases start at 0.

# %%
random = np.random.default_rng(0)
start = {
    "W1": random.normal(size=(I, O)) / I**0.5,
    "b1": np.zeros(O),
    "W2": random.normal(size=(O, K)) / O**0.5,
    "b2": np.zeros(K),
}


def forward(params, x):
    z1 = x @ params["W1"] + params["b1"]
    h = 1 / (1 + np.exp(-z1))
    z2 = h @ params["W2"] + params["b2"]
    # The same p for z2 minus any number: without this one, exp may overflow.
    e = np.exp(z2 - z2.max(1, keepdims=True))
    return h, e / e.sum(1, keepdims=True)


def nll(p, t):
    return -(t * np.log(p)).sum(1).mean()


h, p = forward(start, x)
print(f"loss {nll(p, t):.3f}, and log K = {np.log(K):.3f} for a network that only guesses")

# %% [markdown]
# ## 2. Backward
#
# **The output error** (輸出層). For one example, $\log p_k = z_{2k} - \log \sum_j e^{z_{2j}}$, and
# $\sum_k t_k = 1$:
#
# $$L = -\sum_k t_k z_{2k} + \log \sum_j e^{z_{2j}}
# \quad\Rightarrow\quad
# \frac{\partial L}{\partial z_{2k}} = -t_k + \frac{e^{z_{2k}}}{\sum_j e^{z_{2j}}} = p_k - t_k.$$
#
# What the network believes minus what is true. The mean over the batch divides by $B$.

# %%
dz2 = (p - t) / B  # (B, K)

# %% [markdown]
# **The second layer.** $z_{2,bk} = \sum_o h_{bo} W_{2,ok} + b_{2k}$. The weight $W_{2,ok}$ works in
# every example, so its slopes add up over $b$, and the sum is a matrix product again:
#
# $$\frac{\partial L}{\partial W_{2,ok}} = \sum_b h_{bo} \, \frac{\partial L}{\partial z_{2,bk}}
# \quad\Rightarrow\quad dW_2 = h^\top dz_2, \qquad db_2 = \sum_b dz_{2,b}.$$
#
# **Predict first.** The error goes on to $h$. Forward multiplied by $W_2$ from the right; which
# product has the shape $(B, O)$ again?

# %%
dW2 = h.T @ dz2  # (O, B)(B, K) -> (O, K)
db2 = dz2.sum(0)  # (K,)

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# $dz_2 W_2^\top$, of shapes $(B, K)(K, O)$: the error goes backwards through the same weights.
#
# </details>
#
# **The hidden error.** A hidden value feeds all $K$ scores, so what comes back from them adds up.
# Then the slope of the sigmoid, $g'(z) = h (1 - h)$:
#
# $$dh = dz_2 W_2^\top, \qquad dz_1 = dh \odot h \odot (1 - h).$$
#
# **The first layer** is the second one again, with $x$ in the place of $h$.

# %%
dh = dz2 @ start["W2"].T  # (B, K)(K, O) -> (B, O)
dz1 = dh * h * (1 - h)  # (B, O)
dW1 = x.T @ dz1  # (I, B)(B, O) -> (I, O)
db1 = dz1.sum(0)  # (O,)

by_hand = {"W1": dW1, "b1": db1, "W2": dW2, "b2": db2}
for name, gradient in by_hand.items():
    print(f"d{name}  {gradient.shape!s:10} largest {np.abs(gradient).max():.4f}")

# %% [markdown]
# The three products of a layer as rectangles: a product is allowed where the inner sides are
# equal, and what the weight's gradient needs is its own shape.


# %%
def rectangle(axes, left, sides, name, color):
    """Draw a matrix, tall as its rows and wide as its columns; return where it ends."""
    size = {B: 1.0, I: 2.2, O: 0.8, K: 0.45}
    tall, wide = size[sides[0]], size[sides[1]]
    letter = {B: "B", I: "I", O: "O", K: "K"}
    axes.add_patch(Rectangle((left, -tall / 2), wide, tall, fc=color, ec="black", alpha=0.6))
    axes.text(left + wide / 2, 0, name, ha="center", va="center", fontsize=11)
    axes.text(left + wide / 2, tall / 2 + 0.08, letter[sides[1]], ha="center", fontsize=9)
    axes.text(left - 0.06, 0, letter[sides[0]], ha="right", va="center", fontsize=9)
    return left + wide + 0.35


figure, panels = plt.subplots(3, 1, figsize=(7, 6.2), layout="constrained")
products = {
    "forward: z₁ = x W₁": [((B, I), "x", BLUE), ((I, O), "W₁", GREEN), ((B, O), "z₁", BLUE)],
    "backward to the weight: dW₁ = xᵀ dz₁": [
        ((I, B), "xᵀ", BLUE), ((B, O), "dz₁", ORANGE), ((I, O), "dW₁", ORANGE),
    ],
    "backward to the input: dh = dz₂ W₂ᵀ": [
        ((B, K), "dz₂", ORANGE), ((K, O), "W₂ᵀ", GREEN), ((B, O), "dh", ORANGE),
    ],
}  # fmt: skip
for axes, (title, matrices) in zip(panels, products.items(), strict=True):
    place = 0.3
    for i, (sides, name, color) in enumerate(matrices):
        if i == 2:
            axes.text(place - 0.1, 0, "=", ha="center", va="center", fontsize=14)
            place += 0.4
        place = rectangle(axes, place, sides, name, color)
    axes.set(xlim=(0, 6), ylim=(-1.35, 1.45), aspect="equal")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_axis_off()
for color, label in ((BLUE, "values"), (GREEN, "weights"), (ORANGE, "gradients")):
    panels[0].add_patch(Rectangle((9, 9), 1, 1, fc=color, ec="black", alpha=0.6, label=label))
figure.legend(loc="outside lower center", ncols=3, frameon=False)
plt.show()

# %% [markdown]
# Two things to remember. Backward used what forward had computed ($x$, $h$, $p$): that is what
# must be kept in memory. And for each matrix product of the forward pass it took two, one for the
# weight and one for the layer's input; only $x$ itself needs no gradient.
#
# ## 3. Exercise: the backward pass is yours
#
# Another activation: $h = \tanh z_1$, whose slope is $1 - h^2$. Close the cells above, and write
# the four gradients in `backward`. The checker knows what is often done wrong.

# %%
tanh_h = np.tanh(x @ start["W1"] + start["b1"])
scores = tanh_h @ start["W2"] + start["b2"]
exponentials = np.exp(scores - scores.max(1, keepdims=True))
tanh_p = exponentials / exponentials.sum(1, keepdims=True)


# %% tags=["exercise"]
def backward(x, h, p, t, W2):
    """Return dW1, db1, dW2, db2 of the mean loss."""
    dW1 = db1 = dW2 = db2 = None
    return dW1, db1, dW2, db2


# The checker: autodiff says what is right.
def loss_in_jax(params):
    hidden = jnp.tanh(x @ params["W1"] + params["b1"])
    return -(t * jax.nn.log_softmax(hidden @ params["W2"] + params["b2"])).sum(1).mean()


RIGHT = jax.grad(loss_in_jax)(jax.tree.map(jnp.asarray, start))


def marks(backward):
    e2 = (tanh_p - t) / B
    e1 = e2 @ start["W2"].T
    mistakes = {
        "W1": {"the slope of tanh is missing": x.T @ e1,
               "that is the slope of the sigmoid": x.T @ (e1 * tanh_h * (1 - tanh_h))},
        "b1": {"the slope of tanh is missing": e1.sum(0)},
        "W2": {}, "b2": {},
    }  # fmt: skip
    found = backward(x, tanh_h, tanh_p, t, start["W2"])
    for name, answer in zip(("W1", "b1", "W2", "b2"), found, strict=True):
        print(f"d{name}  {check_answer(answer, RIGHT[name], mistakes[name], tolerance=1e-4)}")


marks(backward)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution(x, h, p, t, W2):
    dz2 = (p - t) / len(x)
    dz1 = dz2 @ W2.T * (1 - h**2)
    return x.T @ dz1, dz1.sum(0), h.T @ dz2, dz2.sum(0)


marks(solution)

# %% [markdown]
# ## 4. Gradient descent
#
# The gradient points uphill, so we step the other way, $\theta \leftarrow \theta - \alpha \,
# d\theta$ for all parameters at once. Every step uses all 4,000 images.
#
# **Predict first.** Where does the loss begin, and will it fall at once?

# %%
ALPHA, STEPS = 1.0, 100


def gradients(params, x, t):
    """Sections 1 and 2 in one function: the loss and its gradient."""
    h, p = forward(params, x)
    dz2 = (p - t) / len(x)
    dz1 = dz2 @ params["W2"].T * h * (1 - h)
    return nll(p, t), {"W1": x.T @ dz1, "b1": dz1.sum(0), "W2": h.T @ dz2, "b2": dz2.sum(0)}


all_t = np.eye(K)[train_y]
params, losses = start, []
for _ in range(STEPS):
    value, slopes = gradients(params, train_x, all_t)
    params = {name: params[name] - ALPHA * slopes[name] for name in params}
    losses.append(value)

right = (forward(params, test_x)[-1].argmax(1) == test_y).mean()
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, {right:.1%} of 1,000 new digits right")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Near $\log 10 = 2.303$, the loss of guessing, and it falls at once, but slowly: the hidden neurons
# still say nothing of use. Numbers to expect: 0.39 after 100 steps, and 88 % right.
#
# </details>
#
# What has it learned? Each hidden neuron has a weight for every pixel: its weights are an image.
# Ink where it is orange drives the neuron up, ink where it is purple drives it down. We draw how
# far they moved, as the random start hides the pattern.

# %%
figure = plt.figure(figsize=(9, 3.4), layout="constrained")
left, right_side = figure.subfigures(1, 2, width_ratios=[1, 1.3])
axes = left.subplots()
axes.plot(np.arange(1, STEPS + 1), losses, color=BLUE, label="training loss")
axes.axhline(np.log(K), color="gray", linewidth=0.8, linestyle="--", label="guessing: log 10")
axes.set(xlabel="step", ylabel="loss", ylim=(0, None), title="The loss falls")
axes.legend(frameon=False, loc="lower left")
moved = (params["W1"] - start["W1"]).T.reshape(O, 28, 28)
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
# $x^\top dz$, $\sum_b dz$ and $dz\,W^\top$; `sigmoid` has $dy\,h\,(1 - h)$; the loss
# `cross_entropy` is softmax and negative log-likelihood in one, with $p - t$. `serial` calls them
# from left to right, then from right to left.

# %%
model = fnn.serial(hidden=fnn.dense(O), act=fnn.sigmoid(), out=fnn.dense(K))
loss = fnn.losses.cross_entropy()
x32 = jnp.asarray(x, "float32")
fnn_params, state = model.init(jax.random.key(0), x32)
single = {name: jnp.asarray(value, "float32") for name, value in start.items()}
fnn_params["hidden"] = {"weight": single["W1"], "bias": single["b1"]}
fnn_params["out"] = {"weight": single["W2"], "bias": single["b2"]}

(value, _), grads = fnn.value_and_grad(model, loss)(fnn_params, state, (x32, labels))
display(fnn.plot.graph(fnn.graph(model, loss, fnn_params, state, (x32, labels))))

# %% [markdown]
# Is it equal to ours? Not in every bit: fnn computes in float32, numpy in float64.
# A sum of $n$ rounded numbers is off by about $\sqrt{n}\,\varepsilon$, relative to the largest
# gradient. The longest sum here runs over the $n = I = 784$ pixels; we allow eight times that.

# %%
in_fnn = {
    "W1": grads["hidden"]["weight"],
    "b1": grads["hidden"]["bias"],
    "W2": grads["out"]["weight"],
    "b2": grads["out"]["bias"],
}
scale = max(float(np.abs(gradient).max()) for gradient in by_hand.values())
allowed = rounding("float32", terms=I)
for name, gradient in by_hand.items():
    error = float(np.abs(gradient - in_fnn[name]).max()) / scale
    print(f"d{name}  differs by {error:.1e}, allowed {allowed:.1e}: {error <= allowed}")

# %% [markdown]
# Training is one call. With batches of 64 in place of all images it takes 63 steps in every pass
# over the data, where we took one, and 10 passes suffice.

# %%
train_state, history = fnn.fit(
    model,
    loss,
    fnn.optim.sgd(0.1, momentum=0.9),
    (train_x.astype("float32"), train_y),
    epochs=10,
    batch_size=B,
    key=jax.random.key(0),
    validation=(test_x.astype("float32"), test_y),
    metrics={"accuracy": fnn.accuracy},
)
print(
    f"10 passes, {len(history.loss)} steps: loss {history.epoch_loss[-1]:.3f}, "
    f"{history.validation['accuracy'][-1]:.1%} of 1,000 new digits right"
)

# %% [markdown]
# ## 6. Depth: the vanishing gradient
#
# Every sigmoid on the way back multiplies the error by $h (1 - h) \le 1/4$. After eight layers
# little is left for the first. The slope of tanh, $1 - h^2$, is 1 at its middle, and the error
# passes.

# %%
DEPTH = 8


def traced(activation):
    """What flows through a deep network at its start."""
    layers = [fnn.dense(O), activation] * DEPTH
    deep = fnn.serial(*layers, fnn.dense(K))
    deep_params, deep_state = deep.init(jax.random.key(1), x32)
    run = deep, loss, deep_params, deep_state, (x32, labels)
    return fnn.trace_activations(*run, key=jax.random.key(0))


flows = {"sigmoid": traced(fnn.sigmoid()), "tanh": traced(fnn.tanh())}
display(fnn.plot.activations(flows))
shrinks = flows["sigmoid"].layers[-1].dy.norm / flows["sigmoid"].layers[0].dy.norm
print(f"last layer over first: {shrinks:.0e} for sigmoid")

# %% [markdown]
# ## 7. The comparison
#
# Last, the gradients of fnn against those of `jax.grad`, and both against double precision: for
# every parameter. (With `costs=True` also what each layer costs.)

# %%
run = model, loss, fnn_params, state, (x32, labels)
comparison = fnn.compare(*run, key=jax.random.key(0))
print(comparison)
print("by hand and by autodiff agree:", comparison.agrees)

# %% [markdown]
# ## 8. To play with
#
# The network of section 4 on 200 images: its loss, and how large the gradients of both layers are.
# With small weights little of the error comes back through $W_2$: see where $dW_1$ begins, and how
# long the loss waits for it. And what does a rate of 10 do in its second step?


# %%
def draw(learning_rate, hidden, weight_size):
    random = np.random.default_rng(0)
    params = {
        "W1": weight_size * random.normal(size=(I, hidden)) / I**0.5, "b1": np.zeros(hidden),
        "W2": weight_size * random.normal(size=(hidden, K)) / hidden**0.5, "b2": np.zeros(K),
    }  # fmt: skip
    losses, sizes = [], {"dW1": [], "dW2": []}
    for _ in range(60):
        # Where a probability is 0, its log is not a number: that is drawn as a gap.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            value, slopes = gradients(params, train_x[:200], all_t[:200])
        params = {name: params[name] - learning_rate * slopes[name] for name in params}
        losses.append(value)
        for name, along in sizes.items():
            along.append(np.linalg.norm(slopes[name[1:]]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    steps = np.arange(1, 61)
    left.plot(steps, losses, color=BLUE, label="training loss")
    left.axhline(np.log(K), color="0.4", linewidth=1, linestyle=":", label="guessing: log 10")
    title = f"α = {learning_rate}, {hidden} hidden neurons, weights times {weight_size}"
    left.set(xlabel="step", ylabel="loss", ylim=(0, None), title=title)
    for (name, along), color, mark in zip(sizes.items(), (ORANGE, GREEN), "os", strict=True):
        right.plot(steps, along, mark, color=color, markersize=3, label=name)
    right.set(xlabel="step", ylabel="length of the gradient", yscale="log", ylim=(1e-4, 1e2))
    right.set_title("Gradients of both layers")
    left.title.set_fontsize(10)
    for axes in (left, right):
        axes.legend(frameon=False)
    return figure


KNOBS = {
    "learning_rate": (0.1, 0.5, 1.0, 3.0, 10.0),
    "hidden": (4, 32, 128),
    "weight_size": (0.01, 0.1, 1.0, 10.0),
}
fnn.plot.show(draw, KNOBS, start={"learning_rate": 1.0, "hidden": 32, "weight_size": 1.0})

# %% [markdown]
# Things to try: `ALPHA = 5`; more hidden neurons, `O = 64`; a mistake of your own in `backward`.
