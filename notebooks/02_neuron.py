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
# # Lesson 2: a neuron
#
# A neuron (神經元) weighs its inputs, adds a bias, and bends the sum. We look at the bending, watch
# the line that a neuron draws while it learns, and meet what no neuron alone can learn.
#
# Letters: $x = (x_1, x_2)$ the input, $\theta = (w, b)$ the parameters (參數), $z = w \cdot x + b$
# the weighted sum (加權總和), $g$ the activation function (激勵函數), $y = g(z)$ the output, $t$
# the target, $\alpha$ the learning rate. In fnn a neuron is `fnn.dense(1)` and an activation.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

import fnn
from fnn.lab import check_answer

# Shows figures that are made without pyplot, too.
# %matplotlib inline

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"

# %% [markdown]
# ## 1. Bending
#
# Without $g$ a neuron is a line, and lines of lines are lines again. The usual activations:
#
# | activation | $g(z)$ | its slope $g'(z)$ |
# |---|---|---|
# | sigmoid | $1 / (1 + e^{-z})$ | $y (1 - y)$ |
# | tanh | $\tanh z$ | $1 - y^2$ |
# | ReLU | $\max(z, 0)$ | 1 for $z > 0$, else 0 |
#
# The sigmoid's slope, derived: $y = (1 + e^{-z})^{-1}$, so
# $y' = (1 + e^{-z})^{-2}\, e^{-z} = y \cdot \frac{e^{-z}}{1 + e^{-z}} = y (1 - y)$. It needs no new
# exponential: what forward computed is enough for backward.
#
# **Predict first.** Which of the three has the largest slope, and what is the largest slope of the
# sigmoid?

# %%
display(
    fnn.plot.activation_functions(
        {"sigmoid": fnn.sigmoid(), "tanh": fnn.tanh(), "ReLU": fnn.relu()}, -4.0, 4.0
    )
)

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# tanh and ReLU reach 1. The sigmoid's slope is largest at $z = 0$, where $y = 1/2$: it is
# $\frac{1}{2} \cdot \frac{1}{2} = \frac{1}{4}$. Eight sigmoids in a row multiply what comes back by
# $4^{-8} = 0.000015$ at most: lesson 9.
#
# </details>
#
# ## 2. The line as it learns
#
# Two clouds, 40 points each. The neuron says class 1 where $z > 0$. The border $z = 0$ is a line,
# and $w$ is its normal (法向量): it points to class 1.
#
# The loss of one point is $\log(1 + e^{-t z})$ with targets $t = \pm 1$: the logistic loss. Its
# slope is $\frac{dL}{dz} = -t\, \sigma(-t z)$, and by the chain rule (連鎖律)
#
# $$\frac{\partial L}{\partial w} = \frac{dL}{dz}\, x, \qquad
# \frac{\partial L}{\partial b} = \frac{dL}{dz}.$$
#
# **Predict first.** The neuron starts with a line that is quite wrong. Will the line turn, move, or
# both?

# %%
ALPHA, STEPS = 0.3, 200

random = np.random.default_rng(3)
clouds = np.concatenate(
    [random.normal((-1, -0.5), 0.6, (40, 2)), random.normal((1, 1), 0.6, (40, 2))]
)
signs = np.repeat([-1.0, 1.0], 40)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def logistic_slopes(weight, bias, x, t):
    dz = -t * sigmoid(-t * (x @ weight + bias)) / len(x)
    return x.T @ dz, dz.sum()


def learn(x, t, weight, bias, alpha, steps):
    """Gradient descent; the parameters of every step."""
    path = [(weight, bias)]
    for _ in range(steps):
        dweight, dbias = logistic_slopes(weight, bias, x, t)
        weight, bias = weight - alpha * dweight, bias - alpha * dbias
        path.append((weight, bias))
    return path


def logistic_loss(weight, bias, x, t):
    return np.mean(np.logaddexp(0, -t * (x @ weight + bias)))


path = learn(clouds, signs, np.array([1.0, -1.5]), 1.0, ALPHA, STEPS)


def draw_line(axes, step):
    w, b = path[step]
    for sign, color, mark in ((-1, BLUE, "o"), (1, ORANGE, "s")):
        axes.plot(*clouds[signs == sign].T, mark, color=color, markersize=4, label=f"t = {sign:+d}")
    foot = -b * w / (w @ w)
    axes.axline(foot, foot + np.array([-w[1], w[0]]), color="black", label="the line, z = 0")
    axes.quiver(*foot, *(w / np.linalg.norm(w)), color=RED, scale=4, label="its normal, w")
    wrong = np.mean(signs * (clouds @ w + b) <= 0)
    height = logistic_loss(w, b, clouds, signs)
    axes.set(xlim=(-3, 3), ylim=(-3, 3), xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    axes.set_title(f"step {step}: {wrong:.0%} wrong, loss {height:.3f}")


path = learn(clouds, signs, np.array([1.0, -1.5]), 1.0, ALPHA, STEPS)
figure, panels = plt.subplots(1, 3, figsize=(10, 3.6), sharey=True, layout="constrained")
for axes, step in zip(panels, (0, STEPS // 20, STEPS), strict=True):
    draw_line(axes, step)
    axes.label_outer()
handles, labels = panels[0].get_legend_handles_labels()
figure.legend(handles, labels, ncols=4, loc="outside lower center", frameon=False)
plt.show()

# %% [markdown]
# Step by step, as a page with a slider: open `line.html` in a browser.


# %%
def line_at(step):
    figure, axes = plt.subplots(figsize=(5, 5.2), layout="constrained")
    draw_line(axes, step)
    figure.legend(ncols=2, loc="outside lower center", frameon=False)
    return figure


SHOWN = [step for step in (0, 1, 2, 3, 5, 8, 15, 30, 60, 120, 200) if step <= STEPS]
told = "The line turns and moves at once; later its weights grow, and only the loss still falls."
fnn.plot.slider_page(line_at, "step", SHOWN, "line.html", title="A line that learns", text=told)

# %% [markdown]
# The slopes by hand against autodiff, at the start:

# %%
by_hand = logistic_slopes(*path[0], clouds, signs)


def loss_in_jax(weight, bias):
    return jnp.mean(jnp.logaddexp(0, -signs * (clouds @ weight + bias)))


by_autodiff = jax.grad(loss_in_jax, (0, 1))(jnp.asarray(path[0][0]), path[0][1])
print(f"by hand   dw = {np.round(by_hand[0], 5)}   db = {by_hand[1]:+.5f}")
print(f"autodiff  dw = {np.round(by_autodiff[0], 5)}   db = {by_autodiff[1]:+.5f}")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Both: $w$ turns the line (and its length says how sure the neuron is), $b$ moves it.
#
# </details>
#
# ## 3. Exercise: one neuron, one example
#
# $x = (2, 1)$, $w = (1, -2)$, $b = 0$, the sigmoid, and target $t = 1$ with the squared error
# $L = (y - t)^2$. Find $z$, $y$, the sigmoid's slope there, and $\partial L / \partial w$ (two
# numbers, as `[1.0, 2.0]`).

# %% tags=["exercise"]
answers = {"z": None, "y": None, "dy/dz": None, "dL/dw": None}

# The checker: what is right, and mistakes that are often made.
at, way, target = np.array([2.0, 1.0]), np.array([1.0, -2.0]), 1.0
z = way @ at
y = sigmoid(z)
RIGHT = {"z": z, "y": y, "dy/dz": y * (1 - y), "dL/dw": 2 * (y - target) * y * (1 - y) * at}
MISTAKES = {
    "z": {},
    "y": {"that is tanh": np.tanh(z), "that is ReLU": max(z, 0.0)},
    "dy/dz": {"that is y": y, "the slope is y times (1 - y)": 1 - y},
    "dL/dw": {
        "the slope of the sigmoid is missing": 2 * (y - target) * at,
        "multiply with x, not with w": 2 * (y - target) * y * (1 - y) * way,
        "the 2 of the square is missing": (y - target) * y * (1 - y) * at,
    },
}
for name, answer in answers.items():
    print(f"{name:6} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% tags=["solution"] jupyter={"source_hidden": true}
# z = 2 - 2 = 0, so y = 1/2, and the slope is 1/4; 2 (1/2 - 1) (1/4) = -1/4 goes to both weights.
solution = {"z": 0, "y": 0.5, "dy/dz": 0.25, "dL/dw": [-0.25 * 2, -0.25 * 1]}
for name, answer in solution.items():
    print(f"{name:6} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# ## 4. What a neuron cannot do
#
# XOR: class 1 where exactly one input is 1. Four points, and no line has both of class 1 on its
# side.
#
# **Predict first.** How many of the four can a line get right at best? And which loss does descent
# find?

# %%
XOR_STEPS = 500

corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
xor = np.array([-1.0, 1.0, 1.0, -1.0])
w, b = learn(corners, xor, np.array([2.0, -1.0]), 0.5, 1.0, XOR_STEPS)[-1]
print(f"loss {logistic_loss(w, b, corners, xor):.4f}; log 2 = {np.log(2):.4f}; w = {w.round(3)}")

# All lines through a fine grid of directions and distances: the fewest mistakes of any.
angles = np.linspace(0, 2 * np.pi, 361)
normals = np.stack([np.cos(angles), np.sin(angles)])
distances = np.linspace(-2, 2, 401)[:, None, None]
wrong = (xor[:, None] * (corners @ normals + distances) <= 0).mean(1)
print(f"the best of {wrong.size:,} lines has {wrong.min():.0%} wrong")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Three of four: 25 % stay wrong. And yet descent ends at $w = 0$, $b = 0$, with loss $\log 2$,
# probability 1/2 for everything. Why? At $\theta = 0$ the slope $dL/dz = -t/2$ of each point, so
# $\partial L / \partial w = -\frac{1}{8} \sum_i t_i x_i$, and the two points of class 1 and the two
# of the other have the same sum of $x$: all slopes are 0. The loss is convex, so this is its
# minimum. The line with 25 % wrong has a larger loss: it is sure of a mistake.
#
# </details>
#
# A hidden layer (隱藏層) of two neurons or more can do it: their lines are joined. That is lesson
# 3; here is the picture.

# %%
HIDDEN = 4

model = fnn.serial(fnn.dense(HIDDEN), fnn.tanh(), fnn.dense(2))
points = np.repeat(corners, 30, 0) + random.normal(0, 0.12, (120, 2))
labels = (np.repeat(xor, 30) > 0).astype("int32")
state, history = fnn.fit(
    model,
    fnn.losses.cross_entropy(),
    fnn.optim.adam(0.05),
    (points.astype("float32"), labels),
    epochs=40,
    batch_size=40,
    key=jax.random.key(0),
)
print(f"loss {history.epoch_loss[0]:.3f} -> {history.epoch_loss[-1]:.4f}")
display(fnn.plot.regions(model, state.params, state.state, points, labels))

# %% [markdown]
# ## 5. To play with
#
# You are the learning: turn the line, move it, and make the neuron sure of itself. Get the clouds
# apart first, then the loss below 0.06: what has to grow?


# %%
def neuron_at(angle, bias, size):
    weight = size * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    sides = np.linspace(-3, 3, 121)
    plane = np.stack(np.meshgrid(sides, sides), -1)
    figure, axes = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
    ground = axes.pcolormesh(
        sides, sides, sigmoid(plane @ weight + bias), cmap="PuOr_r", vmin=0, vmax=1
    )
    for sign, color, mark in ((-1, BLUE, "o"), (1, "black", "s")):
        axes.plot(*clouds[signs == sign].T, mark, color=color, markersize=4, label=f"t = {sign:+d}")
    wrong = np.mean(signs * (clouds @ weight + bias) <= 0)
    height = logistic_loss(weight, bias, clouds, signs)
    axes.set(xlabel="$x_1$", ylabel="$x_2$", title=f"{wrong:.0%} wrong, loss {height:.3f}")
    axes.legend(loc="lower right")
    figure.colorbar(ground, label="y, the probability of t = +1")
    return figure


KNOBS = {
    "angle": range(0, 360, 15),
    "bias": (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0),
    "size": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
}
fnn.plot.show(neuron_at, KNOBS, start={"angle": 120, "bias": 1.0, "size": 1.0})

# %% [markdown]
# Things to try: another start in section 2; `ALPHA = 30`; `HIDDEN = 1`, which is one line again.
