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
# # Lesson 7: stochastic descent and batches
#
# The gradient of the loss is a mean over all examples. Stochastic gradient descent (隨機梯度下降)
# looks at one example in each step, mini-batch (小批次) descent at some, full-batch (全批次)
# descent at all. What does a smaller batch (批次) save, what is it wrong by, and what comes of it?
#
# 1. The gradient of a batch, and its error.
# 2. What it costs.
# 3. Exercise: how large a batch?
# 4. Wandering about the minimum.
# 5. Exercise: batches of your own.
# 6. Equal epochs (訓練週期) against equal time.
#
# Letters: $N$ examples, $B$ in a batch, $g_i = \nabla L_i(\theta)$ the gradient (梯度) of example
# $i$, $g$ the mean of them all, $\alpha$ the learning rate (學習率), $c$ a curvature (曲率). In
# fnn: `batch_size`, `grads`, `learning_rate`; `fnn.fit` draws the batches.

# %%
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

import fnn
from fnn import optim
from fnn.lab import check_answer
from fnn.landscapes import Trajectory
from fnn.plot import BLUE, GREEN, ORANGE, RED

# Shows figures that are made without pyplot, too.
# %matplotlib inline

KEY = jax.random.key(3)

# %% [markdown]
# ## 1. The gradient of a batch, and its error
#
# Draw $B$ examples at random and take the mean of their gradients:
# $g_B = \frac{1}{B} \sum_{b} g_{i_b}$.
#
# *It is right on average.* Every example is drawn equally often, so $\mathbb{E}\, g_{i} =
# \frac{1}{N} \sum_i g_i = g$, and the mean of $B$ of them has the same expectation: the estimate is
# unbiased (不偏).
#
# *Its error.* Let $\sigma^2 = \frac{1}{N} \sum_i |g_i - g|^2$. If the draws are independent, then
# the variances (變異數) of $B$ draws add up, and dividing the sum by $B$ divides the variance by
# $B^2$:
#
# $$\mathbb{E}\, |g_B - g|^2 = \frac{B\, \sigma^2}{B^2} = \frac{\sigma^2}{B}
# \quad\Rightarrow\quad \text{error} = \frac{\sigma}{\sqrt{B}} .$$
#
# On log axes that is a line of slope $-1/2$. Drawn without putting back, as in an epoch, no example
# comes twice, and there is a factor $\sqrt{(N - B) / (N - 1)}$: the full batch has no error.
#
# **Predict first.** 4,000 images of digits, and a network at its start, knowing nothing. How many
# examples does a batch need until its error is smaller than the gradient itself: 1, 10, 100, or
# 1,000?

# %%
HIDDEN = 32

(train_x, train_y), (test_x, test_y) = fnn.datasets.digits()
train_x, test_x = (x.reshape(len(x), -1).astype("float32") / 255 for x in (train_x, test_x))
N = len(train_x)
images, labels = jnp.asarray(train_x), jnp.asarray(train_y)

model = fnn.serial(fnn.dense(HIDDEN), fnn.relu(), fnn.dense(10))
loss = fnn.losses.cross_entropy()
judged_on = {
    "validation": (jnp.asarray(test_x), jnp.asarray(test_y)),
    "metrics": {"accuracy": fnn.accuracy},
}
start, state = model.init(jax.random.key(0), images[:1])
trained = fnn.fit(
    model, loss, optim.sgd(0.2), (images, labels), epochs=3, batch_size=32,
    key=jax.random.key(0), **judged_on,
)[0].params  # fmt: skip


def flat_gradient(params, rows, gradient="manual"):
    """The gradient of some examples, as one long vector."""
    slope_of = fnn.value_and_grad(model, loss, gradient=gradient)
    grads = slope_of(params, state, (images[rows], labels[rows]))[1]
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])


@jax.jit
def three_ways(params):
    """The gradient of all: at once, as a mean over batches that cover all, and by autodiff."""
    every = jnp.arange(N)
    parts = jax.lax.map(lambda rows: flat_gradient(params, rows), every.reshape(-1, 50))
    return (
        flat_gradient(params, every),
        parts.mean(0),
        flat_gradient(params, every, gradient="auto"),
    )


at_once, in_parts, by_autodiff = three_ways(start)
print(f"mean over {N // 50} batches of 50: apart by {abs(in_parts - at_once).max():.1e}")
print(f"by autodiff, not by hand: apart by {abs(by_autodiff - at_once).max():.1e}")

# %%
SIZES = (1, 8, 64, 512)
DRAWS = 12  # of the largest size; the smaller ones are cut from it


def each_gradient(params, rows):
    return jax.vmap(lambda row: flat_gradient(params, row[None]))(rows)


@jax.jit
def sigma(params):
    """How far one example's gradient is from the mean of all: the root of the mean square."""
    mean = flat_gradient(params, jnp.arange(N))
    squares = jax.lax.map(
        lambda rows: ((each_gradient(params, rows) - mean) ** 2).sum(1),
        jnp.arange(N).reshape(-1, 40),
    )
    return jnp.sqrt(squares.mean()), jnp.linalg.norm(mean), mean


@jax.jit
def errors_of(params, mean):
    """The errors of batches that are drawn at random, by size: roots of their mean squares."""

    def squared_errors(key):
        off = each_gradient(params, jax.random.randint(key, (max(SIZES),), 0, N)) - mean
        cut = [off[: len(off) // size * size].reshape(-1, size, off.shape[1]) for size in SIZES]
        return jnp.array([(one.mean(1) ** 2).sum(1).mean() for one in cut])

    keys = jax.random.split(KEY, DRAWS)
    return jnp.sqrt(jax.lax.map(squared_errors, keys).mean(0))


figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
for name, params, color, mark in (
    ("at the start", start, BLUE, "o"), ("after three epochs", trained, ORANGE, "s"),
):  # fmt: skip
    deviation, length, mean = sigma(params)
    found = np.asarray(errors_of(params, mean)) / length
    power = np.polyfit(np.log(SIZES), np.log(found), 1)[0]
    off = deviation / length
    print(f"{name:18} one example is off by {off:4.1f} gradients, slope {power:.3f};\n"
          f"{'':18} the error is below the gradient from B = {np.ceil(off**2):.0f}")  # fmt: skip
    axes.plot(SIZES, found, mark, color=color, label=f"{name}: measured")
    lengths = np.geomspace(1, N - 1, 200)
    axes.plot(lengths, off / lengths**0.5, color=color)
    left_over = ((N - lengths) / (N - 1)) ** 0.5
    axes.plot(lengths, off / lengths**0.5 * left_over, color=color, linestyle=":")
axes.plot([], [], color="black", label="predicted: σ / √B")
axes.plot([], [], color="black", linestyle=":", label="predicted, not putting back")
axes.axhline(1, color="0.4", linewidth=1, linestyle="--", label="as large as the gradient")
axes.set(
    xscale="log", yscale="log", xlabel="batch size B", ylabel="error / length of the gradient",
    title="Four times the examples, half the error", ylim=(0.01, None),
)  # fmt: skip
axes.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# Numbers to expect: slopes of $-0.50$, within 0.02.
#
# <details><summary>Answer to the prediction</summary>
#
# Of the four numbers, 100: at the start one example is off by 9 times the gradient, so 80 are
# needed. After three epochs it is 14 times: the gradient has become small, but the examples still
# disagree. The noise matters most late, when little is left to gain.
#
# </details>
#
# ## 2. What it costs
#
# **Predict first.** Is the gradient of 64 examples 64 times as dear as that of one?

# %%
COST_SIZES = (1, 16, 250, 4000)


def seconds(size):
    """The shortest time of a gradient, compiled before: nothing else ran meanwhile."""
    rows = jnp.arange(size)
    timed = jax.jit(flat_gradient)
    timed(start, rows).block_until_ready()
    times = []
    for _ in range(25):
        began = time.perf_counter()
        timed(start, rows).block_until_ready()
        times.append(time.perf_counter() - began)
    return min(times)


each = np.array(COST_SIZES)
costs = 1e6 * np.array([seconds(size) for size in COST_SIZES])
figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.6), layout="constrained")
left.plot(COST_SIZES, costs, "o", color=BLUE, label="measured")
left.plot(COST_SIZES, costs[0] * each, ":", color="0.5", label="B times that of one")
left.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="microseconds",
         title="A gradient", ylim=(costs.min() / 2, costs.max() * 6))  # fmt: skip
right.plot(COST_SIZES, costs / each, "o", color=GREEN, label="measured")
right.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="microseconds",
          title="A gradient, for each example in it")  # fmt: skip
for axes in (left, right):
    axes.legend(frameon=False)
plt.show()
for size, cost in zip(COST_SIZES, costs, strict=True):
    print(f"B = {size:<5} {cost:8.0f} µs, {cost / size:8.2f} µs an example")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Far from it. A call costs something whatever it computes, the weights have to be read once however
# many examples use them, and products of matrices keep the processor busier than products of a
# matrix and a vector. On a CPU it grows from some dozens of examples on; on a GPU often only from
# thousands.
#
# </details>
#
# Both together: from $B$ to $4B$ the error halves while the cost grows up to four times. Small
# batches make many rough steps, large ones few exact ones.
#
# ## 3. Exercise: how large a batch?
#
# 60,000 examples, batches of 100, drawn independently. The error of a batch's gradient is 0.4. How
# many steps are in an epoch? What is the error with batches of 400? Which batch size makes it 0.1?
# And by what factor is an epoch of *that* size shorter in steps than one with 100?

# %% tags=["exercise"]
answers = {"steps": None, "error at 400": None, "size for 0.1": None, "fewer steps": None}

# The checker: what is right, and mistakes that are often made.
RIGHT = {"steps": 600, "error at 400": 0.2, "size for 0.1": 1600, "fewer steps": 16}
MISTAKES = {
    "steps": {"that is the number of examples": 60_000, "one step looks at 100 examples": 6000},
    "error at 400": {"it falls as one over the root of B, not over B": 0.1,
                     "more examples make it smaller": 0.8},
    "size for 0.1": {"it falls as one over the root of B, not over B": 400,
                     "the root is on B: a quarter needs 4 squared times as many": 200},
    "fewer steps": {"that is the number of steps that are left": 37.5,
                    "as many times fewer as the batch is larger": 4},
}  # fmt: skip
for name, answer in answers.items():
    print(f"{name:13} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% tags=["solution"] jupyter={"source_hidden": true}
# 60,000 / 100. Four times the examples: half the error. A quarter of the error: 16 times as many.
solution = {"steps": 600, "error at 400": 0.4 / 2, "size for 0.1": 100 * 4**2, "fewer steps": 16}
for name, answer in solution.items():
    print(f"{name:13} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# ## 4. Wandering about the minimum
#
# At the minimum $g = 0$, but the gradient of a batch is not: descent goes on moving. We watch it
# with two weights, a line through 256 points with errors.
#
# **Predict first.** All three runs below take 120 steps with the same rate. Which one gets down
# fastest, and which one ends nearest?

# %%
RATE, SIZES_SHOWN = 0.1, (1, 16)
MOST = 64  # examples in a batch

random = np.random.default_rng(3)
x = (random.normal(size=(256, 2)) * (1.0, 0.45)).astype("float32")
t = x @ np.array([1.0, -1.0], "float32") + 0.7 * random.normal(size=256).astype("float32")
x, t, begin = jnp.asarray(x), jnp.asarray(t), jnp.array([-1.5, 1.0])


def height(theta):
    """The mean squared error of all examples, for points (..., 2)."""
    return ((jnp.einsum("...i,ni->...n", theta, x) - t) ** 2).mean(-1)


def by_batches(size, rate, begin, steps, key):
    """Descend on batches that are drawn anew in every step; the points on the way."""
    # Drawn are MOST, and the first of them count: one program for all sizes.
    counts = jnp.arange(MOST) < size

    def step(theta, key):
        rows = jax.random.randint(key, (MOST,), 0, len(x))
        slope = 2 * x[rows].T @ (counts * (x[rows] @ theta - t[rows])) / size
        return theta - rate * slope, theta

    return jax.lax.scan(step, begin, jax.random.split(key, steps))[1]


on_batches = jax.jit(by_batches, static_argnames="steps")
paths = {}
for size in SIZES_SHOWN:
    points = on_batches(min(size, MOST), RATE, begin, 120, KEY)
    paths[f"batches of {size}"] = Trajectory(points, height(points))
paths["all 256 at once"] = fnn.landscapes.descend(optim.sgd(RATE), height, begin, 119)
display(fnn.plot.descent(height, paths, low=(-2.0, -2.5), high=(2.5, 1.5)))
for name, path in paths.items():
    print(f"{name:15} spread of the second half {float(path.points[60:].std(0).sum()):.3f}")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# All three get down alike, as they follow the same gradient on average; but the first has looked at
# 120 examples, the last at 30,720, 256 in each step. At the end the order turns round: the smaller
# the batch, the wider it wanders.
#
# </details>
#
# How wide? Near the minimum one direction of curvature $c$ obeys
# $\theta \leftarrow (1 - \alpha c)\, \theta - \alpha n$, with noise $n$ of variance $s / B$, where
# $s$ is the variance of one example's slope. The variance $v$ of $\theta$ has settled when a step
# does not change it:
#
# $$v = (1 - \alpha c)^2\, v + \alpha^2 \frac{s}{B} \quad\Rightarrow\quad
# v = \frac{\alpha\, s}{B\, c\, (2 - \alpha c)} .$$
#
# The loss stays above its minimum by $\frac{1}{2} c v$, summed over the directions:
# $\frac{\alpha}{B} \cdot \frac{s}{2 (2 - \alpha c)}$. It is $\alpha / B$ that counts: half the rate
# is as good as twice the batch. (At $\alpha c = 2$ it is infinite: the limit of lesson 6.)

# %%
WANDER_SIZES, WANDER_RATES = (1, 4, 16, 64), (0.01, 0.1)

inputs, targets = np.asarray(x), np.asarray(t)
best = np.linalg.lstsq(inputs, targets)[0]
slopes = 2 * inputs * (inputs @ best - targets)[:, None]  # of each example, at the minimum
curvature, axes_of = np.linalg.eigh(2 * inputs.T @ inputs / len(inputs))
s = ((slopes @ axes_of) ** 2).mean(0)


@jax.jit
def excess(size, rate):
    """How much above its minimum the loss is on average, once it has settled."""
    follow = jax.vmap(lambda key: by_batches(size, rate, jnp.asarray(best), 1500, key))
    off = (follow(jax.random.split(KEY, 40))[:, 500:] - best) @ axes_of
    return (curvature / 2 * off**2).sum(-1).mean()


each = np.array(WANDER_SIZES)
figure, axes = plt.subplots(figsize=(6.6, 3.9), layout="constrained")
for rate, color, mark in zip(WANDER_RATES, (BLUE, ORANGE, GREEN, RED), "os^D", strict=False):
    found = np.array([excess(min(size, MOST), rate) for size in WANDER_SIZES])
    predicted = rate / each * float((s / (2 * (2 - rate * curvature))).sum())
    axes.plot(each, found, mark, color=color, label=f"α = {rate}: measured")
    axes.plot(each, predicted, color=color, label=f"α = {rate}: predicted")
    for size, one, other in zip(each, found, predicted, strict=True):
        print(f"α = {rate:<5} B = {size:<3} loss above its minimum {one:.5f}, "
              f"predicted {other:.5f}, ratio {one / other:.3f}")  # fmt: skip
axes.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="loss above its minimum",
         title="Wandering: in proportion to α / B")  # fmt: skip
axes.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# Numbers to expect: ratios within a tenth of 1, but for $\alpha = 0.1$ with $B = 1$, where it is
# about 1.3: there it wanders so far that the noise itself grows, which the derivation left out.
#
# Two remedies, and both are used: larger batches towards the end, or a rate that falls, such as
# `optim.sgd(optim.schedule.cosine(0.1, steps))`.
#
# ## 5. Exercise: batches of your own
#
# In practice nobody draws with putting back. An epoch shuffles all examples and cuts the row into
# batches: every example comes exactly once, and the last batch may be smaller. Write it: return a
# list of arrays of row numbers, from 0 to $n - 1$.


# %% tags=["exercise"]
def batches(random, n, size):
    """Rows of one epoch, in batches; random is a numpy generator, as np.random.default_rng(0)."""
    return []  # arrays of row numbers


# The checker: it looks at what an epoch has to be.
def judged(batches):
    found = [np.ravel(batch) for batch in batches(np.random.default_rng(0), 10, 4)]
    if not found:
        return "not answered"
    sizes = [len(batch) for batch in found]
    rows = np.concatenate(found)
    again = np.concatenate([np.ravel(b) for b in batches(np.random.default_rng(1), 1000, 1000)])
    problems = {
        "wrong: the last examples are lost; keep the smaller last batch": sizes == [4, 4],
        "wrong: some row comes more than once": len(np.unique(rows)) < len(rows),
        "wrong: some row is missing": len(rows) < 10,
        "wrong: rows go from 0 to n - 1": sorted(rows.tolist()) != list(range(10)),
        f"wrong: 10 in batches of 4 are 4, 4, 2, not {sizes}": sizes != [4, 4, 2],
        "wrong: they are not shuffled": np.all(np.diff(again) > 0),
    }
    return next((text for text, is_so in problems.items() if is_so), "right")


print("batches ", judged(batches))


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution(random, n, size):
    rows = random.permutation(n)
    return [rows[begin : begin + size] for begin in range(0, n, size)]


print("batches ", judged(solution))

# %% [markdown]
# ## 6. Equal epochs against equal time
#
# An epoch is one pass over the data, whatever the batch: one step of all 4,000 examples, 125 steps
# of 32, or 4,000 steps of one. Each size below has a rate that suits it, found by trying; a full
# batch with the rate of 0.2 would be slower still, and with 1 it goes astray.
#
# **Predict first.** Which is best after five epochs? And which after equal time?

# %%
SETTINGS = {"one by one": (1, 0.01, 6), "batches of 32": (32, 0.2, 20), "all at once": (N, 0.5, 60)}


def train(size, rate, epochs):
    """Train, and return (seconds, validation loss, accuracy) after every epoch."""
    ends, scores = [], []

    def watch(event):
        if event.kind == "epoch":
            ends.append(time.perf_counter())
            scores.append((event.metrics["loss"], event.metrics["accuracy"]))

    fnn.fit(
        model, loss, optim.sgd(rate), (images, labels), epochs=epochs, batch_size=size,
        key=jax.random.key(0), callbacks=[watch], **judged_on,
    )  # fmt: skip
    # All epochs do the same work: by the shortest, what else the machine does is left out.
    return np.column_stack([min(np.diff(ends)) * np.arange(1, epochs + 1), scores])


runs = {name: train(*settings) for name, settings in SETTINGS.items()}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9), sharey=True, layout="constrained")
for (name, rows), color, mark in zip(
    runs.items(), (RED, BLUE, GREEN, ORANGE), "os^D", strict=False
):
    epochs = np.arange(1, len(rows) + 1)
    left.plot(epochs, rows[:, 1], mark, color=color, markersize=4, label=name)
    right.plot(rows[:, 0], rows[:, 1], mark, color=color, markersize=4)
for axes, what in ((left, "epoch"), (right, "seconds")):
    axes.axhline(np.log(10), color="0.4", linewidth=1, linestyle=":", label="guessing: log 10")
    axes.set(xscale="log", yscale="log", xlabel=what)
    axes.set_yticks([0.3, 0.5, 1, 2], ["0.3", "0.5", "1", "2"])
    axes.minorticks_off()
left.set(ylabel="loss of 1,000 new digits", title="Equal epochs")
right.set(title="Equal time")
handles, names = left.get_legend_handles_labels()
figure.legend(handles, names, ncols=4, loc="outside lower center", frameon=False)
plt.show()
shortest = min(rows[-1, 0] for rows in runs.values())
for name, rows in runs.items():
    at = np.searchsorted(rows[:, 0], shortest, side="right") - 1
    print(f"{name:14} after 5 epochs: loss {rows[4, 1]:.3f}, {rows[4, 2]:.1%} right; "
          f"{1000 * rows[0, 0]:.0f} ms an epoch;\n"
          f"{'':14} after {shortest:.2f} s, {at + 1} epochs: loss {rows[at, 1]:.3f}")  # fmt: skip

# %% [markdown]
# Numbers to expect after five epochs: 92 % right one by one, 92 % in batches of 32, and 59 % all
# at once, which has taken five steps by then.
#
# <details><summary>Answer to the prediction</summary>
#
# By epochs, small batches win by far: they take thousands of steps where the full batch takes five.
# By time one by one falls behind the mini-batch, as each of its thousands of steps costs more than
# an example's share of a batch (section 2). How far depends on the machine: on two undisturbed
# cores of a CPU we measured 59 ms for an epoch one by one, 16 in batches of 32, and 6 all at once.
# Where a step of one example costs as much as one of hundreds, as on a GPU, one by one is hopeless.
# A mini-batch of some dozens is near the best in both, and that is why everybody uses it.
#
# </details>
#
# ## 7. To play with
#
# The line of section 4: turn the batch size and the rate, and let the rate fall.


# %%
def draw(batch_size, learning_rate, rate_falls):
    """200 steps on the line of section 4; None for a rate that stays."""

    def step(theta, inputs):
        key, i = inputs
        rows = jax.random.randint(key, (batch_size,), 0, len(x))
        slope = 2 * x[rows].T @ (x[rows] @ theta - t[rows]) / batch_size
        rate = learning_rate * jnp.where(rate_falls, 1 / (1 + i / 20), 1.0)
        return theta - rate * slope, theta

    inputs = jax.random.split(KEY, 200), jnp.arange(200)
    points = jax.lax.scan(step, begin, inputs)[1]
    falls = ", falling" if rate_falls else ""
    title = f"B = {batch_size}, α = {learning_rate}{falls}"
    path = {title: Trajectory(points, height(points))}
    return fnn.plot.descent(height, path, low=(-2.0, -2.5), high=(2.5, 1.5))


KNOBS = {
    "batch_size": (1, 4, 16, 64, 256),
    "learning_rate": (0.02, 0.1, 0.3, 0.8, 1.1),
    "rate_falls": (False, True),
}
fnn.plot.show(draw, KNOBS, start={"batch_size": 4, "learning_rate": 0.1, "rate_falls": False})

# %% [markdown]
# And a page with one slider, the batch size of section 4: open `batch_size.html` in a browser.


# %%
def draw_size(batch_size):
    points = on_batches(batch_size, RATE, begin, 120, KEY)
    path = {f"batches of {batch_size}": Trajectory(points, height(points))}
    return fnn.plot.descent(height, path, low=(-2.0, -2.5), high=(2.5, 1.5))


fnn.plot.slider_page(
    draw_size, "batch_size", (1, 2, 4, 8, 16, 32, MOST), "batch_size.html",
    title="The size of a batch", text=f"120 steps with the learning rate {RATE}.",
)  # fmt: skip

# %% [markdown]
# Things to try: `HIDDEN = 256` in section 1, and see section 2 and 6 change; `RATE = 0.02` in
# section 4; a batch of 256 with the rate 0.2 in section 6. Next: backpropagation by hand.
