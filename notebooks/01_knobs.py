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
# # Lesson 1: knobs
#
# A neural network (神經網路) is a function with knobs. Learning (學習) turns the knobs until the
# function does what we want. In this lesson you turn two knobs yourself, then let the slope tell
# you where to turn, and at last turn 7,850 at once to read digits.
#
# Letters: $x$ an input, $t$ its target (目標), $\theta = (w, b)$ the knobs, called parameters
# (參數): a weight (權重) $w$ and a bias (偏差) $b$. $z = w x + b$ is the output, $L$ the loss
# (損失函數), $\alpha$ the learning rate (學習率). In fnn: `params`, `weight`, `bias`,
# `fnn.losses`, `learning_rate`.
#
# Everything here is plain numpy. Where JAX appears, it only checks us.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn.lab import check_answer

# Okabe and Ito's colors, told apart by color-blind eyes.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"

# %% [markdown]
# ## 1. Two knobs by hand
#
# Twenty points lie near a line that we do not know. Our function is $z = w x + b$, and the loss is
# the mean of the squared errors: $L(w, b) = \frac{1}{n} \sum_i (z_i - t_i)^2$.
#
# **Predict first.** Before you run the cell: the knobs stand at $w = 0$, $b = 0$, so the function
# is 0 everywhere. To which side will you turn $w$?

# %%
random = np.random.default_rng(1)
x = random.uniform(-1, 2, 20)
t = 1.5 * x - 0.5 + 0.2 * random.normal(size=20)


def loss(w, b):
    return np.mean((w * x + b - t) ** 2)


# %% [markdown]
# Now turn the two sliders, and try to get the loss below 0.1. (Without sliders: change `W` and `B`,
# and run the cell again.)

# %%
W, B = 0.0, 0.0


def draw(w, b):
    sides = np.linspace(-1, 3, 81), np.linspace(-2, 2, 81)
    heights = np.array([[loss(one, other) for one in sides[0]] for other in sides[1]])
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(x, t, "o", color=BLUE, markersize=4, label="points")
    ends = np.array([x.min(), x.max()])
    left.plot(ends, w * ends + b, color=RED, label="our function")
    left.set(xlabel="x", ylabel="t", title=f"w = {w:g}, b = {b:g}: loss {loss(w, b):.4f}")
    left.legend(frameon=False)
    ground = right.contourf(*sides, heights, levels=np.quantile(heights, np.linspace(0, 1, 15)))
    right.plot(w, b, "o", color=RED, markersize=9, markeredgecolor="white", label="our knobs")
    right.set(xlabel="w", ylabel="b", title="The loss for every position of the knobs")
    right.legend()
    figure.colorbar(ground, ax=right, label="loss")
    return figure


places = {name: sorted({start, *np.arange(low, low + 4.1, 0.25)})
          for name, start, low in (("w", W, -1.0), ("b", B, -2.0))}  # fmt: skip
fnn.plot.show(draw, places, start={"w": W, "b": B})

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# To the right, to $w > 0$: the targets grow with $x$. The picture on the right says it too: the
# dark valley lies to the right of our point.
#
# </details>
#
# ## 2. The slope says where to turn
#
# With 7,850 knobs nobody tries. The slope (梯度, gradient) says for each knob how the loss changes
# when it is turned a little:
#
# $$\frac{\partial L}{\partial w} = \frac{1}{n} \sum_i 2 (z_i - t_i)\, x_i, \qquad
# \frac{\partial L}{\partial b} = \frac{1}{n} \sum_i 2 (z_i - t_i).$$
#
# The 2 comes from the square. (The lecture puts $\frac{1}{2}$ in front of the loss, so that it goes
# away: then the slope is $z - t$. fnn hides no factor.)


# %%
def slopes(w, b):
    error = w * x + b - t
    return np.mean(2 * error * x), np.mean(2 * error)


def loss_in_jax(theta):
    return jnp.mean((theta[0] * x + theta[1] - t) ** 2)


by_hand = slopes(W, B)
by_autodiff = jax.grad(loss_in_jax)(jnp.array([W, B]))
print(f"by hand   dL/dw = {by_hand[0]:+.5f}   dL/db = {by_hand[1]:+.5f}")
print(f"autodiff  dL/dw = {by_autodiff[0]:+.5f}   dL/db = {by_autodiff[1]:+.5f}")

# %% [markdown]
# A step against the slope makes the loss smaller: $\theta \leftarrow \theta - \alpha \nabla L$.
# This is gradient descent (梯度下降).
#
# **Predict first.** With $\alpha = 0.1$ the first steps make the loss much smaller. What will a
# rate of 1 do? Change `ALPHA` and see.

# %%
ALPHA, STEPS = 0.1, 40

path = [(W, B)]
for _ in range(STEPS):
    w, b = path[-1]
    dw, db = slopes(w, b)
    path.append((w - ALPHA * dw, b - ALPHA * db))
losses = [loss(*theta) for theta in path]
print(f"loss {losses[0]:.4f} -> {losses[1]:.4f} after one step -> {losses[-1]:.4f} after {STEPS}")
print(f"w = {path[-1][0]:.3f}, b = {path[-1][1]:.3f}; the points were made with 1.5 and -0.5")

# %% [markdown]
# Numbers to expect from $w = b = 0$ with $\alpha = 0.1$: the loss falls from 1.62 to 1.24 in one
# step and to 0.05 in forty. What is left in the end is about the noise of the points, 0.04.
#
# <details><summary>Answer to the prediction</summary>
#
# A rate of 1 is too large for this bowl: each step jumps over the valley and lands higher on the
# other side, and the loss grows without end. Lesson 6 says where the limit is.
#
# </details>
#
# ## 3. Exercise: one step with pencil and paper
#
# Two points only: $x = (1, 2)$, $t = (1, 0)$. The knobs stand at $w = 1$, $b = 0$; $\alpha = 0.1$.
# Find the loss, both slopes, and $w$ after one step. Put your numbers in the place of `None`.

# %% tags=["exercise"]
answers = {"loss": None, "dL/dw": None, "dL/db": None, "w after a step": None}

# The checker: what is right, and mistakes that are often made.
two_x, two_t = np.array([1.0, 2.0]), np.array([1.0, 0.0])
error = 1.0 * two_x - two_t
RIGHT = {
    "loss": np.mean(error**2),
    "dL/dw": np.mean(2 * error * two_x),
    "dL/db": np.mean(2 * error),
    "w after a step": 1 - 0.1 * np.mean(2 * error * two_x),
}
MISTAKES = {
    "loss": {"that is the sum: take the mean": np.sum(error**2)},
    "dL/dw": {
        "that is the sum: take the mean": np.sum(2 * error * two_x),
        "each error is multiplied with its x": np.mean(2 * error),
        "that is the mean of the errors times that of x": np.mean(2 * error) * np.mean(two_x),
    },
    "dL/db": {"b is not multiplied with x": np.mean(2 * error * two_x)},
    "w after a step": {"the step goes against the slope": 1 + 0.1 * np.mean(2 * error * two_x)},
}
for name, answer in answers.items():
    print(f"{name:15} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# The solution is in the next cell; open it when you have tried.

# %% tags=["solution"] jupyter={"source_hidden": true}
# Outputs z = (1, 2), errors z - t = (0, 2).
solution = {
    "loss": (0 + 4) / 2,
    "dL/dw": (2 * 0 * 1 + 2 * 2 * 2) / 2,
    "dL/db": (2 * 0 + 2 * 2) / 2,
    "w after a step": 1 - 0.1 * 4,
}
for name, answer in solution.items():
    print(f"{name:15} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# ## 4. 7,850 knobs
#
# The same with images of digits: 784 pixels, 10 classes, so $W$ has $784 \times 10$ weights and $b$
# has 10 biases. The ten outputs $z$ become probabilities (機率) by the softmax
# $p_k = e^{z_k} / \sum_j e^{z_j}$, and the loss is $-\log p_t$: how surprised the network is by the
# right answer. Its slope in $z$ is $p - t$, with $t$ 1 at the label and 0 elsewhere; lesson 8
# derives it.
#
# **Predict first.** At the start all knobs are 0. Which probability has each digit, and what is the
# loss?

# %%
RATE = 0.5

(train_x, train_y), (test_x, test_y) = fnn.datasets.digits()
images = train_x.reshape(len(train_x), -1) / 255.0
new_images = test_x.reshape(len(test_x), -1) / 255.0
targets = np.eye(10)[train_y]


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def slopes_of_digits(weight, bias):
    p = softmax(images @ weight + bias)
    dz = (p - targets) / len(images)
    return images.T @ dz, dz.sum(0)


one = 3  # the digit that we watch
weight, bias, shown = np.zeros((784, 10)), np.zeros(10), {}
for step in range(101):
    if step in (0, 1, 5, 20, 100):
        shown[step] = softmax(new_images[one : one + 1] @ weight + bias)[0]
    dweight, dbias = slopes_of_digits(weight, bias)
    weight, bias = weight - RATE * dweight, bias - RATE * dbias

right_share = (np.argmax(new_images @ weight + bias, 1) == test_y).mean()
print(f"{right_share:.1%} of 1,000 new digits right after 100 steps")

figure, panels = plt.subplots(1, 6, figsize=(11, 2.4), layout="constrained")
panels[0].imshow(test_x[one], cmap="gray_r")
panels[0].set(title=f"a {test_y[one]}", xticks=[], yticks=[])
for axes, (step, p) in zip(panels[1:], shown.items(), strict=True):
    bars = axes.bar(range(10), p, color=BLUE, label="wrong digits")
    bars[test_y[one]].set(color=ORANGE, label="the right digit")
    axes.axhline(0.1, color="0.4", linewidth=1, linestyle=":", label="guessing: 0.1")
    axes.set(ylim=(0, 1), title=f"step {step}", xlabel="digit", xticks=[0, 3, 6, 9])
panels[1].set_ylabel("probability")
handles = [bars[test_y[one] - 1], bars[test_y[one]], axes.lines[0]]
figure.legend(
    handles=handles, labels=["wrong digits", "the right digit", "guessing: 0.1"], ncols=3,
    loc="outside lower center", frameon=False,
)  # fmt: skip
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Equal scores give equal probabilities, 0.1 each, and the loss is $-\log 0.1 = \log 10 = 2.303$:
# the loss of guessing. Every network for ten classes starts near it.
#
# </details>
#
# ## 5. The same in fnn
#
# The network is one layer, and its gradient at the start is ours.

# %%
model, nll = fnn.dense(10), fnn.losses.cross_entropy()
start = {"weight": jnp.zeros((784, 10)), "bias": jnp.zeros(10)}
batch = jnp.asarray(images, "float32"), jnp.asarray(train_y)
(value, _), grads = fnn.value_and_grad(model, nll)(start, (), batch)
ours = slopes_of_digits(np.zeros((784, 10)), np.zeros(10))
apart = max(
    np.abs(grads["weight"] - ours[0]).max(),
    np.abs(grads["bias"] - ours[1]).max(),
)
print(f"loss {value:.4f}, log 10 = {np.log(10):.4f}; gradients differ by {apart:.1e}")

# %% [markdown]
# Things to try: other knobs in section 1; `ALPHA = 1` in section 2; `RATE = 5` and another digit
# `one` in section 4. Next: what one neuron can do, and what it cannot.
