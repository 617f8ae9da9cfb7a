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
# # Lesson 12: recurrence
#
# A recurrent neural network (遞迴神經網路) reads one thing after the other, and carries a hidden
# state (隱藏狀態) along: what it has understood so far. Unrolled in time it is a deep network with
# a layer for every step, and all layers share their weights. So all we know applies:
# backpropagation, vanishing gradients, and their repair.
#
# 1. The network unrolled.
# 2. Exercise: three steps back with pencil and paper.
# 3. Backpropagation through time, with matrices.
# 4. What comes back over 59 steps.
# 5. Exercise: the forget gate.
# 6. A task that needs memory.
# 7. Exploding gradients, and clipping.
#
# Letters: $x_t$ the input at time $t$, $T$ the number of time steps (時間步), $z_t = x_t W +
# h_{t-1} U + b$ the weighted sum, $h_t = g(z_t)$ the hidden state, $\theta = (W, U, b)$ the
# parameters (參數), $\alpha$ the learning rate (學習率). In fnn: `fnn.rnn`, with `input_weight` for
# $W$, `recurrent_weight` for $U$, and `bias`. $\partial L / \partial v$ is written `dv`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure

import fnn
from fnn import landscapes, optim
from fnn.lab import check_answer
from fnn.plot import BLUE, GREEN, ORANGE, RED

# Some accelerators round matrix products to fewer digits; we want to compare gradients closely.
jax.config.update("jax_default_matmul_precision", "highest")
# Shows figures that are made without pyplot, too.
# %matplotlib inline

# %% [markdown]
# ## 1. The network unrolled
#
# The smallest recurrent network has one number as its state, one weight, and no activation:
#
# $$h_t = u\, h_{t-1} + x_t, \qquad h_0 = 0.$$
#
# Three steps, and a loss $L = (h_3 - t)^2$ at the end. Drawn as a computation graph (計算流程圖)
# the loop becomes a row: $h_1 = x_1$, the first $+$ is $h_2$, the second is $h_3$. The one weight
# $u$ works at every step.
#
# **Predict first.** $u = 0.5$. The gradient of $x_3$ is $-3$. What is that of $x_1$, two steps
# earlier?

# %%
U, X, TARGET = 0.5, (1.0, 0.5, -1.0), 1.0


def three_steps(u, x1, x2, x3, t):
    h1 = x1
    h2 = u * h1 + x2
    h3 = u * h2 + x3
    return (h3 - t) ** 2


unrolled = fnn.graph(three_steps, U, *X, TARGET)
display(fnn.plot.graph(unrolled))

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Every step back multiplies by $u$: $-3 \cdot 0.5 \cdot 0.5 = -0.75$. Over $n$ steps it is $u^n$.
#
# </details>
#
# And $u$ itself? It is used twice, and branches add (lesson 4): from $h_3$ comes $dh_3\, h_2 = -3
# \cdot 1$, from $h_2$ comes $dh_2\, h_1 = -1.5 \cdot 1$, together $-4.5$. In general
#
# $$du = \sum_t dh_t\, h_{t-1}.$$
#
# JAX's autodiff agrees:

# %%
slopes = jax.grad(three_steps, (0, 1, 2, 3))(U, *X, TARGET)
for name, slope in zip(("u", "x1", "x2", "x3"), slopes, strict=True):
    print(f"d{name}  graph {float(unrolled.nodes[name].gradient):+.4f}  jax.grad {slope:+.4f}")

# %% [markdown]
# ## 2. Exercise: three steps back with pencil and paper
#
# Now with a state to begin with: $h_0 = 1$, $u = 2$, $x = (-1, 1, -2)$, target $t = 3$. Go back
# through three steps: backpropagation through time (沿時間反向傳播). The boxes with a question mark
# are empty; `+ -1` is $h_1$, `+ 1` is $h_2$, and `+ -2` is $h_3$.

# %%
x1, x2, x3, t = -1.0, 1.0, -2.0, 3.0
exercise = fnn.graph(lambda h0, u: (u * (u * (u * h0 + x1) + x2) + x3 - t) ** 2, 1.0, 2.0).blank()
display(fnn.plot.graph(exercise))
print("names of the boxes:", ", ".join(exercise.gradients))

# %% tags=["exercise"]
answers = {}  # as in {"+ 1": 1.5}: a number for the gradient of every box

print(exercise.check(answers))

# %% [markdown]
# The solution is in the next cell; open it when you have tried.

# %% tags=["solution"] jupyter={"source_hidden": true}
# Forward h = 1, 3, 4, and the error is 4 - 3 = 1.
solution = {
    "− 3": 2 * 1,  # the square
    "+ -2": 2,  # a sum hands on what comes
    "× (3)": 2,
    "+ 1": 2 * 2,  # times u
    "× (2)": 4,
    "+ -1": 4 * 2,
    "×": 8,
    "h0": 8 * 2,
    "u": 2 * 3 + 4 * 1 + 8 * 1,  # at every step dh times the state before
}
print(exercise.check(solution))

# %% [markdown]
# ## 3. Backpropagation through time, with matrices
#
# With $H$ hidden neurons the state is a row of $H$ numbers, and a step is a dense layer of two
# inputs, what is new and what is remembered:
#
# $$z_t = x_t W + h_{t-1} U + b, \qquad h_t = \tanh z_t.$$
#
# Backward is lesson 8, step by step from the last to the first. What comes to $h_t$ has two parts:
# what the loss sends directly, $\partial L / \partial h_t$, and what comes from step $t + 1$:
#
# $$dz_t = dh_t \odot (1 - h_t^2), \qquad dh_{t-1} = dz_t U^\top + \frac{\partial L}{\partial
# h_{t-1}},$$
# $$dW = \sum_t x_t^\top dz_t, \qquad dU = \sum_t h_{t-1}^\top dz_t, \qquad db = \sum_t dz_t.$$
#
# **Predict first.** How does the number of parameters grow with the number of time steps? And the
# memory that backward needs?

# %%
B, T, I, H = 4, 3, 2, 5  # examples, time steps, inputs, hidden neurons

random = np.random.default_rng(0)
x = random.normal(size=(B, T, I)).astype("float32")
theta = {
    "W": random.normal(size=(I, H)).astype("float32"),
    "U": random.normal(size=(H, H)).astype("float32") / H**0.5,
    "b": np.zeros(H, "float32"),
}
dh_last = random.normal(size=(B, H)).astype("float32")  # what the loss sends to the last state


def forward(theta, x):
    h = [np.zeros((len(x), H), "float32")]
    for t in range(x.shape[1]):
        h.append(np.tanh(x[:, t] @ theta["W"] + h[-1] @ theta["U"] + theta["b"]))
    return h


def backward(theta, x, h, dh):
    gradient = {name: np.zeros_like(value) for name, value in theta.items()}
    for t in reversed(range(x.shape[1])):
        dz = dh * (1 - h[t + 1] ** 2)  # h[t + 1] is what step t made, h[t] what it had
        gradient["W"] += x[:, t].T @ dz
        gradient["U"] += h[t].T @ dz
        gradient["b"] += dz.sum(0)
        dh = dz @ theta["U"].T
    return gradient


by_hand = backward(theta, x, forward(theta, x), dh_last)


def sent_to_last(theta):
    h = jnp.zeros((B, H))
    for t in range(T):
        h = jnp.tanh(x[:, t] @ theta["W"] + h @ theta["U"] + theta["b"])
    return jnp.sum(h * dh_last)


by_autodiff = jax.jit(jax.grad(sent_to_last))(theta)

NAMES = {"W": "input_weight", "U": "recurrent_weight", "b": "bias"}
layer = fnn.rnn(H)
params = {NAMES[letter]: jnp.asarray(value) for letter, value in theta.items()}
_, _, saved = layer.forward(params, (), jnp.asarray(x))
dy = jnp.zeros((B, T, H)).at[:, -1].set(dh_last)  # nothing comes to the earlier outputs
dparams, _ = layer.backward(params, saved, dy)
for letter, ours in by_hand.items():
    print(
        f"d{letter}  by hand and jax.grad differ by "
        f"{np.abs(ours - by_autodiff[letter]).max():.0e}, "
        f"by hand and fnn by {np.abs(ours - dparams[NAMES[letter]]).max():.0e}"
    )

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# The parameters do not grow at all: every step uses the same. The memory does: backward needs the
# state of every step. (`fnn.rnn` keeps them too; `truncate=k` stops the gradient every $k$ steps.)
#
# </details>
#
# ## 4. What comes back over 59 steps
#
# From the last of 60 steps to the first the gradient goes through 59 factors:
#
# $$dh_1 = dh_{60} \prod_{t=60}^{2} \mathrm{diag}(1 - h_t^2)\, U^\top.$$
#
# If the factors are smaller than 1, little comes back: the vanishing gradient (梯度消失) of lesson
# 9. If they are larger, it explodes (梯度爆炸).
#
# Long short-term memory (長短期記憶, LSTM) adds a second state, the cell $c_t$, and gates (閘),
# which are sigmoids between 0 and 1. The forget gate $f_t$ says how much stays, the input gate
# $i_t$ how much is added, the output gate $o_t$ how much is shown; $a_t$ is what could be added:
#
# $$c_t = f_t \odot c_{t-1} + i_t \odot a_t, \qquad h_t = o_t \odot \tanh c_t.$$
#
# Along the cell the way back has no matrix and no slope of tanh: $dc_{t-1} = f_t \odot dc_t$, and
# the rest goes through the gates.
#
# **Predict first.** `fnn.lstm` begins with a bias of 1 in the forget gate, so $f \approx \sigma(1)
# = 0.73$. Is that enough for 59 steps?

# %%
LAST, WIDTH = 60, 16

key = jax.random.key(0)
steps = jax.random.normal(jax.random.key(1), (32, LAST, 1))
sent = jax.random.normal(jax.random.key(2), (32, WIDTH))


def over_time(layer, times=1.0):
    """The gradient that comes to the input of every time step from the last state."""
    params, state = layer.init(key, steps)
    params["recurrent_weight"] *= times

    def sent_to_last(x):
        h, _ = layer.apply(params, state, x)
        return jnp.sum(h[:, -1] * sent)

    return jax.jit(jax.grad(sent_to_last))(steps)


gradients = {
    "rnn": over_time(fnn.rnn(WIDTH)),
    "lstm": over_time(fnn.lstm(WIDTH)),
    "lstm, forget bias 3": over_time(fnn.lstm(WIDTH, forget_bias=3.0)),
    "rnn of ReLU, U doubled": over_time(fnn.rnn(WIDTH, activation="relu"), times=2.0),
}
for name, gradient in gradients.items():
    norms = jnp.sqrt((gradient**2).sum((0, 2)))
    print(f"{name:22} first step over last: {norms[0] / norms[-1]:.0e}")
display(fnn.plot.recurrence(gradients))

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Better than nothing, but no: $0.73^{59} = 9 \cdot 10^{-9}$, and with what goes through the other
# gates about $2 \cdot 10^{-5}$ is measured. The plain network keeps $2 \cdot 10^{-11}$: a float32
# that is added to a gradient of size 1 does not notice. With a forget bias of 3 ($f = 0.95$) about
# half of it comes back. And ReLU with $U$ doubled has factors of about $2 / \sqrt{2}$, as half of
# the neurons are off: some ten million times as much comes back as was sent.
#
# </details>
#
# ## 5. Exercise: the forget gate
#
# Think of the cell alone, $dc_{t-1} = f\, dc_t$ with the same $f$ at every step, and 59 steps.
# Which share comes back for a forget bias of 2? Which $f$ brings back one half? Which bias has this
# gate? (Where $f = \sigma(b)$, $b = \log \frac{f}{1 - f}$.) Three digits are enough, but four for
# $f$.

# %% tags=["exercise"]
gates = {"share for bias 2": None, "f for one half": None, "its bias": None}


# The checker: what is right, and mistakes that are often made.
def sigmoid(z):
    return 1 / (1 + np.exp(-z))


half = 0.5 ** (1 / 59)
GATES = {
    "share for bias 2": sigmoid(2) ** 59,
    "f for one half": half,
    "its bias": np.log(half / (1 - half)),
}
MISTAKEN = {
    "share for bias 2": {
        "that is f itself: one step": sigmoid(2),
        "that is 59 times f: the factors multiply": 59 * sigmoid(2),
        "that is for 60 factors": sigmoid(2) ** 60,
    },
    "f for one half": {
        "that is one half after one step": 0.5,
        "that is 0.5 to the 59th: take the root": 0.5**59,
        "the loss per step is not 0.5 / 59, though it is near": 1 - 0.5 / 59,
    },
    "its bias": {
        "that is log f: use log(f / (1 - f))": np.log(half),
    },
}
NEAR = {"share for bias 2": 0.02, "f for one half": 2e-4, "its bias": 0.02}
for name, answer in gates.items():
    print(f"{name:17} {check_answer(answer, GATES[name], MISTAKEN[name], tolerance=NEAR[name])}")

# %% tags=["solution"] jupyter={"source_hidden": true}
# sigma(2) = 0.8808; 0.8808^59 = 0.00056. The 59th root of one half is exp(-log 2 / 59) = 0.9883.
solution = {"share for bias 2": 0.00056, "f for one half": 0.9883, "its bias": 4.43}
for name, answer in solution.items():
    print(f"{name:17} {check_answer(answer, GATES[name], MISTAKEN[name], tolerance=NEAR[name])}")

# %% [markdown]
# ## 6. A task that needs memory
#
# A signal of $+1$ or $-1$, and then noise half as large. At the end the network shall say which it
# was. The distance from the signal to the end is 5, 20 or 100 steps; before the signal all is
# silent. One network in three kinds, 16 hidden neurons each.
#
# **Predict first.** With section 4 in mind: which of them learn it over 5, 20, 100 steps?

# %%
DISTANCES, LENGTH, STEPS = (5, 20, 100), 100, 200


def signals(count, distance, seed):
    """Sequences with a signal so many steps before the end, and the signal as a class, 0 or 1."""
    random = np.random.default_rng(seed)
    x = 0.5 * random.normal(size=(count, LENGTH, 1)).astype("float32")
    y = random.integers(0, 2, count).astype("int32")
    x[:, : LENGTH - distance] = 0
    x[:, LENGTH - distance, 0] = 2 * y - 1
    return x, y


KINDS = {
    "rnn": fnn.rnn(16),
    "lstm": fnn.lstm(16, forget_bias=1.0),
    "lstm, forget bias 3": fnn.lstm(16, forget_bias=3.0),
}
share = {name: [] for name in KINDS}
for name, kind in KINDS.items():
    model = fnn.serial(kind, fnn.last_step(), fnn.dense(2))
    for distance in DISTANCES:
        state, history = fnn.fit(
            model,
            fnn.losses.cross_entropy(),
            optim.chain(optim.clip_by_global_norm(1.0), optim.adam(0.01)),
            signals(1024, distance, seed=1),
            steps=STEPS,
            batch_size=32,
            key=jax.random.key(0),
        )
        new_x, new_y = signals(1000, distance, seed=2)
        scores = fnn.predict(model, state.params, state.state, new_x)
        share[name].append(float((np.asarray(scores).argmax(-1) == new_y).mean()))
    found = ", ".join(f"{s:.0%} over {d}" for d, s in zip(DISTANCES, share[name], strict=True))
    print(f"{name:20} {found} steps")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
shown, classes = signals(8, 20, seed=3)
for label, color, name in ((1, ORANGE, "signal +1"), (0, BLUE, "signal -1")):
    line = shown[np.flatnonzero(classes == label)[0], :, 0]
    left.plot(np.arange(1, LENGTH + 1), line, color=color, linewidth=1, alpha=0.7)
    left.plot(LENGTH - 20 + 1, line[LENGTH - 20], "o", color=color, label=name)
left.set(xlabel="time step", ylabel="x", title="Two sequences, the signal 20 steps before the end")
left.legend(frameon=False)
for (name, found), color, mark in zip(share.items(), (BLUE, ORANGE, GREEN), "os^", strict=True):
    right.plot(DISTANCES, found, color=color, marker=mark, label=name)
right.axhline(0.5, color="0.4", linestyle=":", label="guessing: 0.5")
right.set(ylim=(0.4, 1.02), xticks=DISTANCES, xlabel="steps from the signal to the end")
right.set(ylabel="share right", title=f"After {STEPS} steps of training")
right.legend(frameon=False, fontsize=9, loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.16))
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Numbers to expect: over 5 steps all are right, or nearly. Over 20 the plain network mostly
# guesses, and the LSTM learns it (with an open gate a little later: it keeps the noise as well).
# Over 100 the LSTM guesses too, and only the one with an open forget gate learns it, to 90 % or
# more. What does not come back is not learned. There is nothing wrong with the networks: each
# *could* hold the signal, if somebody set its weights.
#
# </details>
#
# ## 7. Exploding gradients, and clipping
#
# The other side: factors above 1. The network of section 1, 20 steps, shall learn $u = 0.9$ from
# sequences that this $u$ made. It starts at $u = 1.2$, where $1.2^{20} = 38$: the loss is a cliff.
#
# The repair is to shorten a gradient that is too long, and keep its direction (clipping by norm,
# 梯度裁剪):
#
# $$g \leftarrow g \cdot \min\left(1, \frac{c}{\lVert g \rVert}\right).$$
#
# **Predict first.** $\alpha = 0.004$ is a good rate near the minimum. What will the first step from
# the cliff do without clipping?

# %%
START, ALPHA, CLIP = 1.2, 0.004, 1.0

inputs = np.random.default_rng(0).normal(size=(8, 20)).astype("float32")


def last_state(u):
    h = jnp.zeros(8)
    for t in range(20):
        h = u * h + inputs[:, t]
    return h


wanted = last_state(0.9)


def loss(theta):
    return jnp.mean((last_state(theta[0]) - wanted) ** 2)


start = jnp.array([START])
rules = {
    "plain": optim.sgd(ALPHA),
    "clipped": optim.chain(optim.clip_by_global_norm(CLIP), optim.sgd(ALPHA)),
}
paths = {name: landscapes.descend(rule, loss, start, 100) for name, rule in rules.items()}
print(f"gradient at the start: {jax.grad(loss)(start)[0]:,.0f}")
ends = {}
for name, path in paths.items():
    lost = np.flatnonzero(~np.isfinite(np.asarray(path.values)))
    end = f"diverged at step {lost[0]}" if len(lost) else f"ends at u = {path.points[-1, 0]:.3f}"
    ends[name] = f"{name}: first to u = {path.points[1, 0]:.3f}, {end}"
    print(ends[name])

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
places = np.linspace(0.5, 1.35, 171)
heights = jax.jit(jax.vmap(lambda u: loss(u[None])))(jnp.asarray(places))
left.plot(places, np.maximum(heights, 1e-4), color="0.5", label="the loss")
for (name, path), color, mark in zip(paths.items(), (RED, BLUE), "s.", strict=True):
    points, values = np.asarray(path.points[:, 0]), np.asarray(path.values)
    inside = np.isfinite(values) & (points > 0.5) & (points < 1.35)
    heights_there = np.maximum(values[inside], 1e-4)
    size = 9 if mark == "s" else 6
    left.plot(points[inside], heights_there, mark, color=color, ms=size, label=ends[name])
    # A step that leaves the picture is a line out of it.
    way = points[: np.isfinite(values).sum() + 1]
    right.plot(way, marker=mark, color=color, ms=size, linewidth=1, label=name)
left.set(yscale="log", ylim=(1e-4, 1e6), xlabel="u", ylabel="loss", title="The cliff")
left.legend(frameon=False, fontsize=9, loc="upper left")
right.axhline(0.9, color="0.4", linestyle=":", label="the u that made the data: 0.9")
right.set(ylim=(0.7, 1.35), xlabel="step", ylabel="u", title="Where the steps go")
right.legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# The gradient there is about 31,000, so the step goes to $u = 1.2 - 0.004 \cdot 31{,}000 \approx
# -124$, where $h_{20}$ is no number that fits into a float32: infinite at step 1, NaN from then on.
# Clipped to 1, every step is 0.004 long until it is down, and the end is at 0.9.
#
# </details>
#
# In training it is one word: `optim.chain(optim.clip_by_global_norm(1.0), optim.adam(0.01))`, as in
# section 6. Clipping repairs what explodes; what vanishes it cannot bring back.
#
# ## To play with
#
# One neuron, $h_t = \tanh(u\, h_{t-1} + x_t)$. Turn $u$, the size of the inputs, and the bias of a
# forget gate, and see what comes back from step 40.


# %%
def draw(u, size=0.5, forget_bias=1.0):
    """The states of one neuron, and what comes back to each from the last."""
    x = size * np.random.default_rng(4).normal(size=40)
    h = [0.0]
    for one in x:
        h.append(np.tanh(u * h[-1] + one))
    time = np.arange(1, 41)
    factors = u * (1 - np.array(h[2:]) ** 2)  # of the steps 2 to 40
    back = np.append(np.cumprod(factors[::-1])[::-1], 1.0)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(time, x, ".", color="0.6", label="input x")
    left.plot(time, h[1:], color=BLUE, marker="o", markersize=3, label="state h")
    left.set(xlabel="time step", ylim=(-2.5, 2.5), title=f"u = {u}, inputs of size {size}")
    left.legend(frameon=False, ncols=2, loc="lower center")
    right.plot(time, np.abs(back), "o", color=BLUE, markersize=4, label="with tanh")
    right.plot(
        time, u ** (40.0 - time), "s", color=ORANGE, markersize=4, label="without: powers of u"
    )
    gate = sigmoid(forget_bias) ** (40.0 - time)
    right.plot(time, gate, "^", color=GREEN, markersize=4, label=f"forget gate, bias {forget_bias}")
    right.axhline(1, color="0.4", linewidth=0.8, linestyle=":", label="all of it")
    right.set(yscale="log", ylim=(1e-16, 1e10), xlabel="time step", ylabel="share that comes back")
    right.set_title("What comes back from step 40")
    right.legend(frameon=False, fontsize=9, loc="upper left", ncols=2)
    return figure


KNOBS = {
    "u": (0.5, 0.8, 0.9, 1.0, 1.1, 1.5),
    "size": (0.0, 0.1, 0.5, 1.0),
    "forget_bias": (0.0, 1.0, 3.0, 5.0),
}
fnn.plot.show(draw, KNOBS, start={"u": 0.9, "size": 0.5, "forget_bias": 3.0})

# %% [markdown]
# The same over $u$ as a page with a slider: open `recurrence.html` in a browser.

# %%
fnn.plot.slider_page(
    draw,
    "u",
    KNOBS["u"],
    "recurrence.html",
    title="One recurrent neuron",
    text="Below 1 what comes back vanishes, above 1 it explodes unless tanh holds it.",
)

# %% [markdown]
# Things to try: `U = 1.5` in section 1; `LAST = 200` in section 4; `fnn.gru(16)` among the `KINDS`
# of section 6, or `forget_bias=5.0`; `CLIP = 100` and `START = 1.3` in section 7.
