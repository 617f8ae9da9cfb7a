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
# # Lesson 3: layers
#
# One neuron draws one line. A multilayer neural network (多層神經網路) joins the lines of those in
# its hidden layer (隱藏層) into any border and any curve. We join two lines by hand, let three
# close a triangle, draw networks at random to see what is in the box at all, and put heads on them:
# the output layer (輸出層) decides what the numbers mean.
#
# Letters: $x$ the input, $W_1, b_1$ weights (權重) and biases (偏差) of the first layer, $W_2, b_2$
# of the second, $\theta$ all four together, $z$ weighted sums, $g$ the activation function
# (激勵函數), $h = g(z_1)$ the hidden values, $y$ the output. Sizes: $B$ examples in a batch (批次),
# $I$ inputs, $O$ hidden neurons, $K$ outputs. In fnn a layer is `fnn.dense(O)`, and `fnn.serial`
# puts layers behind each other.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

import fnn
from fnn.lab import check_answer
from fnn.plot import BLUE, GREEN, ORANGE, RED

# Shows figures that are made without pyplot, too.
# %matplotlib inline

# %% [markdown]
# ## 1. Two lines joined by hand
#
# XOR, which no line can do (lesson 2): class 1 where exactly one input is 1. Two hidden neurons ask
# two questions that a line can answer, and the output neuron joins the answers:
#
# | neuron | asks | its line |
# |---|---|---|
# | $h_1$ | is at least one input 1? (OR) | $x_1 + x_2 - 0.5 = 0$ |
# | $h_2$ | are both 1? (AND) | $x_1 + x_2 - 1.5 = 0$ |
# | $y$ | the first, and not the second? | $h_1 - h_2 - 0.5 = 0$, a line in the plane of $h$ |
#
# **Predict first.** The output neuron sees only $h_1$ and $h_2$. Where do the four corners lie in
# the plane of $h$, and how many different points are there?

# %%
# Each column of W1 is a neuron. Change the numbers, and look at all four panels again.
W1, B1 = np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([-0.5, -1.5])
W2, B2 = np.array([1.0, -1.0]), -0.5
SHARP = 10.0  # how steep the sigmoids are

corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
xor = np.array([0, 1, 1, 0])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def hidden(x):
    return sigmoid(SHARP * (x @ W1 + B1))


def output(h):
    return h @ W2 + B2


side = np.linspace(-0.6, 1.6, 200)
plane = np.stack(np.meshgrid(side, side), -1)
figure, panels = plt.subplots(1, 4, figsize=(11, 3.4), layout="constrained", sharey=True)
h_corners = hidden(corners)
for axes, height, spots, title in (
    (panels[0], plane @ W1[:, 0] + B1[0], corners, "neuron 1: $h_1 > 1/2$"),
    (panels[1], plane @ W1[:, 1] + B1[1], corners, "neuron 2: $h_2 > 1/2$"),
    (panels[2], output(plane), h_corners, "what the output sees"),
    (panels[3], output(hidden(plane)), corners, "joined: $y > 0$"),
):
    axes.contourf(side, side, height, [-1e9, 0, 1e9], colors=[BLUE, ORANGE], alpha=0.25)
    axes.contour(side, side, height, [0], colors="black")
    for label, color, mark, size in ((0, BLUE, "o", 9), (1, ORANGE, "s", 8)):
        axes.plot(*spots[xor == label].T, mark, color=color, markersize=size, mec="white")
    axes.set(title=title, aspect="equal", xlabel="$x_1$", xticks=[0, 1], yticks=[0, 1])
panels[0].set_ylabel("$x_2$")
panels[2].set(xlabel="$h_1$", ylabel="$h_2$")
marks = [
    Line2D([], [], marker="o", color=BLUE, linestyle="", label="class 0"),
    Line2D([], [], marker="s", color=ORANGE, linestyle="", label="class 1"),
    Line2D([], [], color="black", label="the line, where a sum is 0"),
    Patch(color=BLUE, alpha=0.25, label="says no"),
    Patch(color=ORANGE, alpha=0.25, label="says yes"),
]
figure.legend(handles=marks, ncols=5, loc="outside lower center", frameon=False)
plt.show()
said = (output(hidden(corners)) > 0).astype(int)
print(f"the four corners: says {said}, should say {xor}; {np.sum(said != xor)} wrong")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# $(0, 0) \to (0, 0)$, $(1, 1) \to (1, 1)$, and both corners of class 1 fall on the same point,
# $(1, 0)$: three points, and now a line parts them. That is what a hidden layer is for: it moves
# the points until a line is enough.
#
# </details>
#
# ## 2. Exercise: join them otherwise
#
# The hidden neurons stay as they were: OR and AND. Find $w_2$ (two numbers) and $b_2$ so that $y >
# 0$ where both inputs are **equal**. Many answers are right.

# %% tags=["exercise"]
answers = {"w2": None, "b2": None}  # as in {"w2": [1.0, 2.0], "b2": 3.0}


# The checker: asks the network at the four corners.
def joined(answers):
    if any(answer is None for answer in answers.values()):
        return "not answered"
    w2, b2 = (np.ravel(answers[name]).astype(float) for name in ("w2", "b2"))
    if w2.size != 2 or b2.size != 1:
        return "wrong: two weights, one for each hidden neuron, and one bias"
    h = (corners.sum(1, keepdims=True) > np.array([0.5, 1.5])).astype(float)
    found = h @ w2 + b2
    says = (found > 0).astype(int)
    if (says == 1 - xor).all():
        return "right"
    if (says == xor).all():
        return "wrong: that is XOR itself; turn every sign round"
    if len(set(says)) == 1:
        return "wrong: it says the same at every corner; the bias drowns the weights"
    where = ", ".join(str(corner.astype(int).tolist()) for corner in corners[says == xor])
    return f"wrong: at the corners {where}"


print(f"w2 and b2  {joined(answers)}")

# %% [markdown]
# The solution is in the next cell; open it when you have tried.

# %% tags=["solution"] jupyter={"source_hidden": true}
# Yes at first (0.5), no once one input is 1 (-1), yes again once both are (+1): the signs of XOR
# turned round.
print(f"w2 and b2  {joined({'w2': [-1.0, 1.0], 'b2': 0.5})}")

# %% [markdown]
# ## 3. As many lines as neurons
#
# A disk within a ring. Now descent looks for the lines: one hidden layer of $O$ neurons with tanh,
# two outputs, the class with the larger one wins. (How descent works is lesson 6, where its slopes
# come from lesson 8.)
#
# **Predict first.** How many hidden neurons does it take to get every point right?

# %%
SHOWN = 3  # the network that is drawn
SEED = 0  # another one: other lines to start with

random = np.random.default_rng(0)
labels = np.arange(200) % 2
radius = np.where(labels == 1, random.uniform(0, 0.9, 200), random.uniform(1.6, 2.4, 200))
angle = random.uniform(0, 2 * np.pi, 200)
points = (radius * np.stack([np.cos(angle), np.sin(angle)])).T.astype("float32")
labels = labels.astype("int32")
ACTIVATIONS = {"tanh": fnn.tanh(), "ReLU": fnn.relu(), "none": fnn.identity()}


def train(neurons, activation="tanh", epochs=60):
    """A network with one hidden layer, trained on the ring; its parameters, and its mistakes."""
    model = fnn.serial(fnn.dense(neurons), ACTIVATIONS[activation], fnn.dense(2))
    nll, adam = fnn.losses.cross_entropy(), fnn.optim.adam(0.05)
    plan = {"epochs": epochs, "batch_size": 50, "key": jax.random.key(SEED)}
    state, _ = fnn.fit(model, nll, adam, (points, labels), **plan)
    scores = model.apply(state.params, state.state, points)[0]
    return model, state, float(np.mean(scores.argmax(1) != labels))


for neurons in (1, 2, 3):
    model, state, wrong = train(neurons)
    print(f"{neurons} hidden: {wrong:6.1%} wrong")
model, state, _ = train(SHOWN)
display(fnn.plot.regions(model, state.params, state.state, points, labels, names=["ring", "disk"]))

# %% [markdown]
# Dashed are the lines of the hidden neurons, where $z_1 = 0$; arrows point to where they are
# positive.
#
# <details><summary>Answer to the prediction</summary>
#
# Three: three lines are the least that close around a disk, a triangle with its corners rounded by
# the tanh. One line leaves 28 % wrong, two, a strip or a wedge, about 11 %.
#
# </details>
#
# ## 4. The hypothesis set
#
# Before it learns anything a network is a *set* of functions, one for every $\theta$. This is the
# hypothesis set (假設集合)
#
# $$\mathcal{H} = \{\, f_\theta \;:\; \theta \text{ any numbers} \,\}.$$
#
# Learning picks one of them, and cannot pick what is not in there. Twenty networks from one number
# to one number, their weights drawn at random, show what is:
#
# **Predict first.** The first panel has three layers of 16 neurons too, but no activation. What do
# its functions look like?

# %%
WIDTH, GAIN, DRAWN = 16, 2.0, 20

grid = np.linspace(-3, 3, 301)[:, None]


def random_layer(random, h, neurons):
    weight = GAIN * random.normal(size=(h.shape[1], neurons)) / h.shape[1] ** 0.5
    return h @ weight + random.normal(size=neurons)


def random_network(random, depth, g):
    """A function with random parameters: its values on the grid."""
    h = grid
    for _ in range(depth):
        h = g(random_layer(random, h, WIDTH))
    return random_layer(random, h, 1)[:, 0]


def turns(values):
    """How often a function turns from rising to falling or back."""
    ways = np.sign(np.diff(values))
    return int(np.sum(ways[1:] != ways[:-1]))


random = np.random.default_rng(1)
figure, panels = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
for axes, (title, depth, g) in zip(
    panels,
    (
        ("3 hidden layers, no activation", 3, lambda z: z),
        ("1 hidden layer, tanh", 1, np.tanh),
        ("3 hidden layers, tanh", 3, np.tanh),
    ),
    strict=True,
):
    drawn = [random_network(random, depth, g) for _ in range(DRAWN)]
    for i, values in enumerate(drawn):
        look = {"color": RED, "linewidth": 2.2, "zorder": 3} if i == 0 else {"color": BLUE}
        name = {0: "one of them", 1: f"the other {DRAWN - 1}"}.get(i)
        axes.plot(grid[:, 0], values, alpha=1 if i == 0 else 0.4, label=name, **look)
    mean_turns = np.mean([turns(values) for values in drawn])
    axes.set(title=title, xlabel="x")
    print(f"{title:31} {mean_turns:4.1f} turns on average")
panels[0].set_ylabel("y")
figure.legend(*panels[0].get_legend_handles_labels(), ncols=2, loc="outside lower center",
              frameon=False)  # fmt: skip
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Straight lines, all of them: $(x W_1 + b_1) W_2 + b_2 = x (W_1 W_2) + (b_1 W_2 + b_2)$, which is
# one layer again. Without bending, depth adds nothing.
#
# </details>
#
# One layer with tanh turns about twice here, three such layers four times. A wider network can be
# every narrower one, as the weights of the neurons that are too many may be 0: the sets lie inside
# each other. A larger set holds better functions, and more bad ones (over-fitting, lesson 10).
#
# ## 5. A layer is a matrix product
#
# Neurons side by side read the same $x$, each with weights of its own: a column of $W$. Examples
# are rows. So a layer for the whole batch is one product, and a product is allowed where the inner
# sides are equal:
#
# $$z_1 = x W_1 + b_1 : \quad (B, I)(I, O) + (O) \to (B, O),$$
# $$y = g(z_1) W_2 + b_2 : \quad (B, O)(O, K) + (K) \to (B, K).$$

# %%
# The letters of the lecture, I among them.
B, I, O, K = 64, 784, 32, 10


def rectangle(axes, left, rows, columns, name, color, shape):
    """Draw a matrix whose sides are the roots of their lengths; return where it ends."""
    tall, wide = rows**0.5, columns**0.5
    axes.add_patch(Rectangle((left, -tall / 2), wide, tall, fc=color, ec="black", alpha=0.6))
    axes.text(left + wide / 2, tall / 2 + 0.8, name, ha="center", fontsize=12)
    axes.text(left + wide / 2, -tall / 2 - 0.8, shape, ha="center", va="top", fontsize=9)
    return left + wide


layers = {
    "first layer": ((B, I), (I, O), ("x", "$W_1$", "$b_1$", "$z_1$")),
    "second layer": ((B, O), (O, K), ("$h = g(z_1)$", "$W_2$", "$b_2$", "y")),
}
gap = 4.0
heights = [max(B, n) ** 0.5 + 7 for (_, n), _, _ in layers.values()]
width = max((n**0.5 + 3 * m**0.5) for (_, n), (_, m), _ in layers.values()) + 4 * gap
figure, panels = plt.subplots(
    2, 1, figsize=(7, 7 * sum(heights) / width + 0.8), height_ratios=heights, layout="constrained"
)
for axes, height, (title, (rows, columns, names)) in zip(
    panels, heights, layers.items(), strict=True
):
    place = 0.0
    result = rows[0], columns[1]
    for sides, name, color, sign in (
        (rows, names[0], BLUE, "·"),
        (columns, names[1], GREEN, "+"),
        ((1, columns[1]), names[2], GREEN, "="),
        (result, names[3], BLUE, ""),
    ):
        shape = f"({sides[1]})" if sides[0] == 1 else f"({sides[0]}, {sides[1]})"
        place = rectangle(axes, place, *sides, name, color, shape)
        axes.text(place + gap / 2, 0, sign, ha="center", va="center", fontsize=16)
        place += gap
    axes.set(xlim=(-gap / 2, width - gap / 2), ylim=(-height / 2, height / 2), aspect="equal")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_axis_off()
figure.set_label("Two layers as products of matrices, drawn as rectangles with their shapes")
handles = [
    Patch(fc=BLUE, ec="black", alpha=0.6, label="values, a row for each example"),
    Patch(fc=GREEN, ec="black", alpha=0.6, label="parameters, a column for each neuron"),
]
figure.legend(handles=handles, ncols=2, loc="outside lower center", frameon=False)
plt.show()

# %% [markdown]
# Sides are drawn as the roots of their lengths. The rows of $x$ go through unchanged, one example
# each: the batch may have any size, and no parameter knows of it. The same by numpy and by fnn:

# %%
random = np.random.default_rng(0)
x = random.normal(size=(B, I)).astype("float32")
model = fnn.serial(fnn.dense(O), fnn.tanh(), fnn.dense(K))
params, state = model.init(jax.random.key(0), x)
first, _, second = params
by_hand = np.tanh(x @ first["weight"] + first["bias"]) @ second["weight"] + second["bias"]
by_fnn = model.apply(params, state, x)[0]
print(fnn.summary(model, x))
print(f"numpy and fnn differ by {np.abs(by_hand - by_fnn).max():.1e}")

# %% [markdown]
# ## 6. Exercise: shapes
#
# A network for 3 inputs with two hidden layers, of 5 and of 4 neurons, and 2 outputs reads a batch
# of 7 examples. Give the shapes as `[rows, columns]`, and how many parameters there are in all,
# weights and biases.

# %% tags=["exercise"]
shapes = {"x": None, "W1": None, "W2": None, "W3": None, "y": None, "parameters": None}

# The checker: what is right, and mistakes that are often made.
RIGHT = {"x": (7, 3), "W1": (3, 5), "W2": (5, 4), "W3": (4, 2), "y": (7, 2), "parameters": 54}
MISTAKES = {
    name: {"turned round: the other way it does not fit the product": shape[::-1]}
    for name, shape in RIGHT.items()
    if name != "parameters"
}
MISTAKES["W2"]["the second layer reads the first, not x"] = (3, 4)
MISTAKES["W3"]["the last layer reads the second, not the first"] = (5, 2)
MISTAKES["y"]["an output for each example, not for all together"] = (1, 2)
MISTAKES["parameters"] = {
    "the biases are missing, one for each neuron": 43,
    "that counts the batch: parameters do not depend on it": 54 * 7,
    "inputs have no bias": 57,
}
for name, answer in shapes.items():
    print(f"{name:10} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% tags=["solution"] jupyter={"source_hidden": true}
solution = {
    "x": [7, 3],
    "W1": [3, 5],
    "W2": [5, 4],
    "W3": [4, 2],
    "y": [7, 2],
    "parameters": (3 * 5 + 5) + (5 * 4 + 4) + (4 * 2 + 2),
}
for name, answer in solution.items():
    print(f"{name:10} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# ## 7. A head for numbers: regression
#
# What the last layer gives has to be able to be the target. For numbers (迴歸, regression) it gives
# its weighted sum as it is: no activation behind it. We learn $\sin x$, with one hidden layer and
# squared error, once so and once with a sigmoid at the end.
#
# **Predict first.** What does the network with the sigmoid make of the valley of the sine, and how
# small can its mean squared error become?

# %%
HIDDEN, EPOCHS = 8, 100

x_line = np.linspace(-np.pi, np.pi, 200, dtype="float32")[:, None]
sine = np.sin(x_line)
heads = {"no last activation": (), "sigmoid at the end": (fnn.sigmoid(),)}
errors, curves = {}, {}
for name, last in heads.items():
    model = fnn.serial(fnn.dense(HIDDEN), fnn.tanh(), fnn.dense(1), *last)
    plan = {"epochs": EPOCHS, "batch_size": 50, "key": jax.random.key(0)}
    squared, adam = fnn.losses.squared_error(), fnn.optim.adam(0.03)
    fitted, _ = fnn.fit(model, squared, adam, (x_line, sine), **plan)
    curves[name] = model.apply(fitted.params, fitted.state, x_line)[0]
    errors[name] = float(np.mean((curves[name] - sine) ** 2))
    print(f"{name}: mean squared error {errors[name]:.4f}")
floor = np.mean(np.minimum(sine, 0) ** 2)
print(f"the best that numbers from 0 to 1 can do: {floor:.4f}")

figure, axes = plt.subplots(figsize=(6.6, 3.6), layout="constrained")
axes.plot(x_line, sine, color="0.75", linewidth=5, label="target, sin x")
for (name, values), color, line in zip(curves.items(), (BLUE, RED), ("-", "--"), strict=True):
    axes.plot(x_line, values, color=color, linestyle=line, label=f"{name}: {errors[name]:.4f}")
axes.axhspan(0, 1, color=RED, alpha=0.08, label="where a sigmoid can be")
axes.set(xlabel="x", ylabel="y", title="The head has to reach the target")
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# A sigmoid stays above 0, so that in the valley 0 is the best it can do, and the error there is
# $\sin^2 x$. Its mean is $\frac{1}{2}$, over half of the points: the error cannot fall below
# $\frac{1}{4}$, however long it learns. The function is not in the hypothesis set. Numbers to
# expect: about 0.001 without, 0.25 to 0.28 with the sigmoid.
#
# </details>
#
# ## 8. A head for classes: softmax
#
# For $K$ classes (分類) the last layer gives $K$ scores $z_k$, any numbers, and the softmax makes
# probabilities (機率) of them, above 0 and with sum 1:
#
# $$p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}, \qquad \text{so that} \quad
# \frac{p_k}{p_j} = e^{z_k - z_j}: \text{ only differences of scores count}.$$
#
# For two classes divide above and below by $e^{z_1}$: $p_1 = \frac{1}{1 + e^{-(z_1 - z_0)}}$, the
# sigmoid of the difference. A neuron with a sigmoid *is* a softmax of two.
#
# **Predict first.** The scores are $(2, 1, 0)$. What becomes of the probabilities if 100 is added
# to all three? And if all are doubled?

# %%
SCORES = np.array([2.0, 1.0, 0.0])


def softmax(z):
    # The largest score is taken away first: it changes nothing, and exp cannot overflow.
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


for name, scores in (
    ("as they are", SCORES),
    ("100 added", SCORES + 100),
    ("doubled", 2 * SCORES),
):
    print(f"{name:12} p = {softmax(scores).round(3)}")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Adding changes nothing, as $e^{100}$ is above and below the line. Doubling makes it surer: 0.665
# becomes 0.867. The larger the weights of the last layer, the surer a network is.
#
# </details>
#
# ## 9. Many heads on one body
#
# The hidden layer can serve several questions at once. For one $x$: how high is the sine there (a
# regression head), and does it fall, stand, or rise (a softmax head over three classes)? The losses
# are added, and then, as $h$ feeds both heads, the gradients (梯度) that come back to it add too:
#
# $$L = L_{\text{height}} + L_{\text{slope}} \quad\Rightarrow\quad
# \frac{\partial L}{\partial W_1} = \frac{\partial L_{\text{height}}}{\partial W_1}
# + \frac{\partial L_{\text{slope}}}{\partial W_1}.$$

# %%
HEIGHT_WEIGHT, SLOPE_WEIGHT = 1.0, 1.0

# 0 falls, 1 stands, 2 rises.
slope = np.digitize(np.cos(x_line[:, 0]), [-0.5, 0.5]).astype("int32")
two_heads = fnn.serial(
    body=fnn.serial(fnn.dense(16), fnn.tanh()),
    heads=fnn.parallel(height=fnn.dense(1), slope=fnn.dense(3)),
)


def losses(height, slope):
    kinds = {"height": fnn.losses.squared_error(), "slope": fnn.losses.cross_entropy()}
    return fnn.losses.weighted_sum(kinds, weights={"height": height, "slope": slope})


data = x_line, {"height": sine, "slope": slope}
both = losses(HEIGHT_WEIGHT, SLOPE_WEIGHT)
plan = {"epochs": 150, "batch_size": 50, "key": jax.random.key(0)}
trained, _ = fnn.fit(two_heads, both, fnn.optim.adam(0.03), data, **plan)
found = two_heads.apply(trained.params, trained.state, x_line)[0]
p = softmax(np.asarray(found["slope"]))
error = np.mean((found["height"] - sine) ** 2)
right_share = np.mean(p.argmax(1) == slope)
print(f"height: mean squared error {error:.4f}; slope: {right_share:.0%} right")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
left.plot(x_line, sine, color="0.75", linewidth=5, label="target, sin x")
left.plot(x_line, found["height"], color=BLUE, label="head for the height")
left.set(xlabel="x", ylabel="y", title="Regression head", ylim=(-1.2, 1.7))
left.legend(frameon=False, ncols=2, fontsize=9)
kinds = ["falls", "stands", "rises"]
right.stackplot(x_line[:, 0], p.T, labels=kinds, colors=[BLUE, "0.85", ORANGE], alpha=0.7)
for border in x_line[1:][np.diff(slope) != 0, 0]:
    right.axvline(border, color="black", linewidth=1, linestyle=":")
right.axvline(np.nan, color="black", linewidth=1, linestyle=":", label="true border")
right.set(xlabel="x", ylabel="probabilities, their sum is 1", title="Softmax head")
right.set(xlim=(-np.pi, np.pi), ylim=(0, 1))
right.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# Do gradients of the two heads add up in the body? And are they those of autodiff?


# %%
def of_body(gradient):
    """A function from the weights of the two losses to the gradient of the first layer."""

    @jax.jit
    def compute(height, slope):
        both = fnn.value_and_grad(two_heads, losses(height, slope), gradient=gradient)
        return both(trained.params, trained.state, data)[1]["body"][0]["weight"]

    return compute


by_hand = of_body("manual")
whole, parts = by_hand(1.0, 1.0), by_hand(1.0, 0.0) + by_hand(0.0, 1.0)
by_autodiff = of_body("auto")(1.0, 1.0)
size = jnp.abs(whole).max()
print(f"sum of both heads: differs by {jnp.abs(whole - parts).max() / size:.1e} of the largest")
print(f"autodiff:          differs by {jnp.abs(whole - by_autodiff).max() / size:.1e}")

# %% [markdown]
# ## To play with
#
# The ring again, with as many hidden neurons as you like, with other activations, and before it has
# learned to the end. Two neurons leave a wedge or a strip. Does it help to have many, if they have
# no activation? And `ring.html`, a page with a slider: three lines as they close.


# %%
def draw(hidden, activation, epochs):
    model, state, _ = train(hidden, activation, epochs)
    names = ["ring", "disk"]
    return fnn.plot.regions(model, state.params, state.state, points, labels, names=names)


fnn.plot.slider_page(
    lambda epochs: draw(3, "tanh", epochs),
    "epochs",
    (1, 3, 5, 10, 20, 60),
    "ring.html",
    title="Three hidden neurons learn a ring",
    text="Dashed are the lines of the hidden neurons; an epoch goes through all 200 points once.",
)
fnn.plot.show(
    draw,
    {"hidden": (1, 2, 3, 4, 8), "activation": tuple(ACTIVATIONS), "epochs": (1, 5, 10, 20, 60)},
    start={"hidden": 2, "epochs": 60},
)

# %% [markdown]
# Things to try: other lines in section 1, such as `B1 = np.array([-1.5, -0.5])`; `GAIN = 5` in
# section 4; `fnn.tanh()` as the last layer in section 7; `SLOPE_WEIGHT = 100` in section 9. Next:
# how a network knows where to turn, drawn as a graph.
