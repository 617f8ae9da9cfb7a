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
# # Lesson 5: losses
#
# A loss function (損失函數) says in one number how bad an answer is. Descent does what the loss
# says, and nothing else, so the loss is where we say what we want. Its slope is where
# backpropagation (反向傳播) begins. We look at the usual ones, see each fail where it does not
# belong, and derive the most used slope of all, $p - t$.
#
# Letters: $y$ or $z$ what the last layer gives (an output 輸出, or a score), $t$ the target (目標),
# $L$ the loss, $p$ probabilities (機率), $\alpha$ the learning rate (學習率), $\theta$ the
# parameters (參數). In fnn losses live in `fnn.losses`; each gives one value for every example, and
# training takes the mean over the batch (批次).

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

import fnn
from fnn.lab import check_answer
from fnn.plot import BLUE, GREEN, ORANGE, RED

# Shows figures that are made without pyplot, too.
# %matplotlib inline

# %% [markdown]
# ## 1. Numbers: losses over the error
#
# For a number that is to be hit (迴歸, regression) the loss is a function of the error $e = y - t$:
#
# | loss | value | slope in $y$ |
# |---|---|---|
# | squared error | $e^2$ | $2 e$ |
# | absolute error | $\lvert e \rvert$ | $\pm 1$, the sign of $e$ |
# | Huber | $e^2 / 2$, beyond 1 $\lvert e \rvert - 0.5$ | $e$, cut off at $\pm 1$ |

# %%
REGRESSION = {
    "squared": fnn.losses.squared_error(),
    "absolute": fnn.losses.absolute_error(),
    "huber": fnn.losses.huber(),
}
display(fnn.plot.loss_functions(REGRESSION))

# %% [markdown]
# The slope is the force with which a point pulls. Twenty points lie near the line $1.5 x - 0.5$,
# but the last one was written down wrongly: it is an outlier (離群值).
#
# **Predict first.** Three lines are fitted, one with each loss. Which of them follow the outlier?

# %%
OUTLIER = 10.0  # how far too high the last point is

random = np.random.default_rng(1)
x = np.sort(random.uniform(-1, 2, (20, 1)), 0).astype("float32")
clean = (1.5 * x - 0.5 + 0.2 * random.normal(size=(20, 1))).astype("float32")


def fit_line(loss, outlier):
    """Weight and bias of the line that a loss finds, and the points."""
    t = clean.copy()
    t[-1] += outlier
    plan = {"steps": 600, "batch_size": len(x), "key": jax.random.key(0)}
    # The steps shrink: at one size the absolute error would jump over its minimum for ever.
    rate = fnn.optim.schedule.cosine(0.05, 600)
    state, _ = fnn.fit(fnn.dense(1), loss, fnn.optim.adam(rate), (x, t), **plan)
    return float(state.params["weight"][0, 0]), float(state.params["bias"][0]), t


figure, axes = plt.subplots(figsize=(7.4, 3.6), layout="constrained")
for (name, loss), color, line in zip(
    REGRESSION.items(), (BLUE, ORANGE, GREEN), ("-", "--", "-."), strict=True
):
    weight, bias, t = fit_line(loss, OUTLIER)
    print(f"{name:9} line {weight:.2f} x {bias:+.2f}")
    label = f"{name}: slope {weight:.2f}"
    axes.plot(x, weight * x + bias, color=color, linestyle=line, label=label)
axes.plot(x[:-1], t[:-1], "o", color="0.4", markersize=4, label="points near 1.5 x - 0.5")
axes.plot(x[-1], t[-1], "X", color=RED, markersize=8, label="the outlier")
axes.set(xlabel="x", ylabel="t", title="One wrong point, three losses")
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# The squared error alone: its slope grows with the error, so that one point that is off by 10 pulls
# as hard as fifty that are off by 0.2. For the other two it pulls like any other point. Numbers to
# expect: slope 2.7 with the squared error, 1.5 with the absolute one, 1.6 with Huber's.
#
# </details>
#
# Why? Take the simplest network, one constant $c$ for all points. At the minimum the slopes add up
# to 0:
#
# $$\sum_i 2 (c - t_i) = 0 \;\Rightarrow\; c = \tfrac{1}{n} \sum_i t_i \text{ (mean)},$$
# $$\sum_i \operatorname{sign}(c - t_i) = 0 \;\Rightarrow\;
# \text{as many above as below (median)}.$$

# %%
NUMBERS = np.array([1.0, 2.0, 3.0, 4.0, 100.0])

constants = np.linspace(0, 100, 10001)[:, None]
for name, loss in REGRESSION.items():
    errors = jnp.asarray(constants - NUMBERS)
    values = loss.apply(errors, jnp.zeros_like(errors))
    print(f"{name:9} best constant {constants[values.argmin(), 0]:6.2f}")
print(f"mean {NUMBERS.mean():.2f}, median {np.median(NUMBERS):.2f}")

# %% [markdown]
# ## 2. The hidden half
#
# The lecture writes $L = \frac{1}{2} (y - t)^2$, so that the slope is $y - t$. fnn, like PyTorch,
# writes $L = (y - t)^2$, with slope $2 (y - t)$. Who is right?
#
# **Predict first.** Both start at the same $\theta$ and use the same $\alpha$. Do they end at the
# same place? Do they get there equally fast?

# %%
ALPHA, STEPS = 0.05, 40


def descend(factor, alpha):
    """Descent on `factor` times the squared error, from w = b = 0; (w, b) after every step."""

    def objective(theta):
        return factor * jnp.mean((theta[0] * x + theta[1] - clean) ** 2)

    def step(theta, _):
        theta = theta - alpha * jax.grad(objective)(theta)
        return theta, theta

    return jax.lax.scan(step, jnp.zeros(2), length=STEPS)[1]


ours, lecture, doubled = descend(1.0, ALPHA), descend(0.5, ALPHA), descend(0.5, 2 * ALPHA)
for step in (0, STEPS // 4 - 1, STEPS - 1):
    found = [float(path[step, 0]) for path in (ours, lecture, doubled)]
    print(f"w after step {step + 1:2}:  here {found[0]:.4f}   lecture {found[1]:.4f}   "
          f"with twice the rate {found[2]:.4f}")  # fmt: skip
print(f"here and the lecture with twice the rate: differ by {np.abs(ours - doubled).max():.1e}")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# The place is the same, as half a loss has its minimum where the loss has it. The speed is not: the
# lecture's steps are half as long. With $\alpha$ twice as large the two agree in every step.
# A factor in the loss is a factor in the learning rate. So when you compare slopes with the
# lecture's, look for its $\frac{1}{2}$; fnn hides no factor.
#
# </details>
#
# There is a second hidden factor: a *mean* over $n$ examples has $\frac{1}{n}$ in front of all
# slopes, a *sum* has not. fnn sums over the outputs of an example, and takes the mean over
# examples.
#
# ## 3. Classes: losses over the margin
#
# For two classes (分類, classification) write the labels as $t = -1$ and $t = +1$. The score $z$
# says class $+1$ where it is positive, and $m = t z$, the margin (間隔), is positive where it is
# right.
#
# | loss | value | slope in $m$ | wants |
# |---|---|---|---|
# | 0/1 | 1 if $m \le 0$, else 0 | 0 | to be right |
# | hinge | $\max(0, 1 - m)$ | $-1$ where $m < 1$, else 0 | to be right by 1 |
# | logistic | $\log(1 + e^{-m})$ | $-\sigma(-m)$ | to be ever surer |
# | squared | $(1 - m)^2$ | $-2 (1 - m)$ | $z = t$, not more |
#
# **Predict first.** A point is right by far: $m = 3$. Which of the four losses still moves it, and
# in which direction?

# %%
MARGIN = {
    "logistic": fnn.losses.logistic(),
    "hinge": fnn.losses.hinge(),
    "squared": fnn.losses.squared_error(),
}
display(fnn.plot.loss_functions(MARGIN, over="margin", low=-2.0, high=3.0))

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# The squared error pulls it *back*, with slope 4: it punishes being too right. The logistic loss
# pushes on a little, with $\sigma(-3) = 0.05$. Hinge and 0/1 let it be.
#
# </details>
#
# **Where they belong.** Logistic and hinge belong on the score itself, behind a last layer without
# activation, and to labels $-1$ and $+1$. Two usual mistakes:

# %%
(points, labels), _ = fnn.datasets.clouds(200, key=jax.random.key(0))
signs = (2.0 * labels[:, None] - 1).astype("float32")

# Labels 0 and 1: the margin of every point of class 0 would be 0, and nothing could be learned.
try:
    fnn.losses.logistic().apply(jnp.zeros((200, 1)), labels[:, None])
except fnn.InputError as error:
    print(str(error).replace("; ", ";\n"))


def train(model, loss, targets):
    plan = {"epochs": 30, "batch_size": 50, "key": jax.random.key(0)}
    return fnn.fit(model, loss, fnn.optim.adam(0.1), (points, targets), **plan)


# A sigmoid before the loss: the margin stays between -1 and 1.
for name, last in (("the score itself", ()), ("a sigmoid of the score", (fnn.sigmoid(),))):
    _, history = train(fnn.serial(fnn.dense(1), *last), fnn.losses.logistic(), signs)
    print(f"logistic loss of {name}: {history.epoch_loss[-1]:.3f}")
bound = (np.log1p(np.exp(-1)) + np.log(2)) / 2
print(f"no sigmoid can do better than {bound:.3f}")

# %% [markdown]
# With a sigmoid in between the best margins are 1 for class $+1$ and 0 for class $-1$: the loss
# cannot fall below the mean of $\log(1 + e^{-1}) = 0.313$ and $\log 2 = 0.693$, that is 0.503.
# The logistic loss holds the sigmoid already: with $p = \sigma(z)$,
#
# $$-\log p = -\log \frac{1}{1 + e^{-z}} = \log(1 + e^{-z}), \qquad
# -\log(1 - p) = \log(1 + e^{z}),$$
#
# the logistic loss for $t = +1$ and $t = -1$. With labels 0 and 1 the same is called binary
# cross-entropy (二元交叉熵), `fnn.losses.binary_cross_entropy`:

# %%
z = jnp.linspace(-5, 5, 200)[:, None]
same = fnn.losses.logistic().apply(z, signs)
binary = fnn.losses.binary_cross_entropy().apply(z, (signs + 1) / 2)
print(f"logistic and binary cross-entropy differ by {jnp.abs(same - binary).max():.1e}")

# %% [markdown]
# ## 4. Exercise: one point, wrong
#
# The label is $t = +1$, and the network says $z = -1$. Give value and slope in $z$ of each loss;
# three digits are enough, and $e = 2.718$.

# %% tags=["exercise"]
answers = {
    "0/1": None, "0/1 slope": None, "hinge": None, "hinge slope": None, "logistic": None,
    "logistic slope": None, "squared": None, "squared slope": None,
}  # fmt: skip

# The checker: what is right, and mistakes that are often made.
at, label = jnp.array([[-1.0]]), jnp.array([[1.0]])
RIGHT = {}
for name, loss in {"0/1": fnn.losses.zero_one(), **MARGIN}.items():
    value, residuals = loss.forward(at, label)
    RIGHT[name] = float(value[0])
    RIGHT[f"{name} slope"] = float(loss.backward(residuals, jnp.ones(1))[0, 0])
MISTAKES = {
    "0/1": {"the label is +1, and the score is not positive: a mistake": 0.0},
    "0/1 slope": {"a little more or less of z changes nothing": -1.0},
    "hinge": {"1 - m with m = -1 is 2, not 0": 0.0, "up to the margin of 1, not of 0": 1.0},
    "hinge slope": {"it is not right by 1 yet, so it is not 0": 0.0},
    "logistic": {
        "that is the loss if it were right, m = +1": np.log1p(np.exp(-1)),
        "the natural logarithm is meant": np.log2(1 + np.e),
    },
    "logistic slope": {"sigma(-m), and -m is +1": -0.2689},
    "squared": {"z - t is -2, not 0": 0.0},
    "squared slope": {"the 2 of the square is missing: fnn hides no half": -2.0},
}
for name, answer in answers.items():
    print(f"{name:14} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# The solution is in the next cell; open it when you have tried.

# %% tags=["solution"] jupyter={"source_hidden": true}
# The margin is m = -1.
solution = {
    "0/1": 1, "0/1 slope": 0, "hinge": 1 - (-1), "hinge slope": -1, "logistic": np.log(1 + 2.718),
    "logistic slope": -1 / (1 + 1 / 2.718), "squared": (-1 - 1) ** 2, "squared slope": 2 * (-1 - 1),
}  # fmt: skip
for name, answer in solution.items():
    print(f"{name:14} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# ## 5. The loss we want, and cannot have
#
# What we want is few mistakes, the 0/1 loss. Why not descend it? A neuron with one number to learn:
# $z = x - b$ says class $+1$ to the right of the threshold $b$.
#
# **Predict first.** How does the share of mistakes look as a function of $b$? What is its slope?

# %%
OVERLAP = 3.0  # how near the two groups are: 0 for apart

random = np.random.default_rng(0)
places = np.concatenate(
    [random.normal(-2 + OVERLAP / 2, 0.8, 15), random.normal(2 - OVERLAP / 2, 0.8, 15)]
).astype("float32")
sides = np.repeat(np.array([-1.0, 1.0], "float32"), 15)
thresholds = jnp.linspace(-4, 4, 401)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained", sharex=True)
for name, loss, color, line in (
    ("0/1", fnn.losses.zero_one(), RED, "-"),
    ("hinge", fnn.losses.hinge(), ORANGE, "--"),
    ("logistic", fnn.losses.logistic(), BLUE, "-."),
):

    def objective(b, loss=loss):
        return loss.apply((places - b)[:, None], sides[:, None]).mean()

    heights, slopes = jax.vmap(jax.value_and_grad(objective))(thresholds)
    print(f"{name:9} largest slope {jnp.abs(slopes).max():.2f}")
    left.plot(thresholds, heights, color=color, linestyle=line, label=name)
    right.plot(thresholds, slopes, color=color, linestyle=line, label=name)
for sign, color, mark in ((-1, BLUE, "o"), (1, ORANGE, "s")):
    here = places[sides == sign]
    below, label = np.full_like(here, -0.25), f"t = {sign:+d}"
    left.plot(here, below, mark, color=color, markersize=4, label=label)
left.set(title="A staircase and two slides", ylabel="mean loss", ylim=(-0.4, 3))
right.set(title="Their slopes, by jax.grad", ylabel="slope")
for axes in (left, right):
    axes.set_xlabel("threshold b")
left.legend(frameon=False, fontsize=9, ncols=2)
plt.show()

model = fnn.dense(1)
start = fnn.init_train_state(model, fnn.optim.sgd(1.0), points[:1], key=jax.random.key(0))
end, history = fnn.fit(
    model, fnn.losses.zero_one(), fnn.optim.sgd(1.0), (points, signs), epochs=5, batch_size=50,
    start=start,
)  # fmt: skip
moved = max(
    float(jnp.abs(a - b).max())
    for a, b in zip(jax.tree.leaves(end.params), jax.tree.leaves(start.params), strict=True)
)
print(f"5 epochs of descent on 0/1: parameters moved by {moved}")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# A staircase: the share changes where $b$ passes a point, by $1/n$, and in between nothing changes.
# The slope is 0 wherever there is one, so descent does not know where to go and stays. Hinge and
# logistic are slides that lead to nearly the same place (and hinge lies above the stairs: where it
# is small, mistakes are few). A loss that stands in for another is called a surrogate (替代損失).
# Train with a surrogate, and count mistakes as a metric: `metrics={"accuracy": fnn.accuracy}`.
#
# </details>
#
# ## 6. Probabilities: $-\log p$
#
# If the network gives probabilities, the loss of an example is how surprised it is by the truth:
# $-\log p_t$, with $p_t$ the probability that it gave to what happened. Sure and right costs
# nothing, guessing among $K$ costs $\log K$, sure and wrong costs without limit. It is called
# negative log-likelihood (負對數似然), or cross-entropy (交叉熵).
#
# Why the logarithm? The network's probability of *all* examples is a product, $\prod_i p_i$, and
# the $\theta$ that makes it largest is the one we want. The logarithm turns the product into a sum,
# which is a mean of losses, and which a computer can hold:

# %%
COUNT, EACH = 2000, 0.5

print(f"product of {COUNT} probabilities of {EACH}: {np.prod(np.full(COUNT, EACH))}")
print(f"sum of their -log p: {-np.log(np.full(COUNT, EACH)).sum():.1f}")

# %% [markdown]
# Why not the squared error of $p$? Look at the slope that reaches the score behind a sigmoid, $p =
# \sigma(z)$, where the truth is class 1:
#
# $$\frac{\partial}{\partial z} (-\log p) = -\frac{1}{p} \cdot p (1 - p) = p - 1, \qquad
# \frac{\partial}{\partial z} (1 - p)^2 = -2 (1 - p) \cdot p (1 - p).$$
#
# **Predict first.** The network is sure and wrong, $z = -8$. Which of the two learns from it?

# %%
AT = -8.0  # the score of class 1, which is the truth

losses_of_score = {
    "-log p": lambda z: -jax.nn.log_sigmoid(z),
    "(1 - p)²": lambda z: (1 - jax.nn.sigmoid(z)) ** 2,
}
p = np.linspace(0.001, 1, 500)
scores = jnp.linspace(-10, 6, 400)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
for (name, loss), of_p, color, line in zip(
    losses_of_score.items(), (-np.log(p), (1 - p) ** 2), (BLUE, ORANGE), ("-", "--"), strict=True
):
    left.plot(p, of_p, color=color, linestyle=line, label=name)
    right.plot(scores, jax.vmap(jax.grad(loss))(scores), color=color, linestyle=line, label=name)
    print(f"slope at z = {AT}: {float(jax.grad(loss)(AT)):+.5f} for {name}")
left.axhline(np.log(10), color="0.4", linestyle=":", label="guessing among 10: log 10")
left.set(xlabel="p, given to the truth", ylabel="loss", title="Surprise")
right.axvspan(-10, -3, color=RED, alpha=0.08, label="sure and wrong")
right.set(xlabel="score z of the truth", ylabel="slope in z", title="What comes back")
left.legend(frameon=False, fontsize=9)
right.legend(frameon=False, fontsize=9, loc="lower right")
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# $-\log p$: its slope is nearly $-1$, as far as a slope can be. The squared error is flat there,
# $-0.0007$: the sigmoid's slope $p (1 - p)$ has killed it. The logarithm's $1/p$ cancels exactly
# that factor.
#
# </details>
#
# ## 7. Softmax and cross-entropy: $p - t$
#
# The same for $K$ classes. Scores $z_k$, softmax $p_k = e^{z_k} / \sum_j e^{z_j}$, targets $t_k$
# with a 1 at the label and 0 elsewhere, $L = -\sum_k t_k \log p_k$. As $\log p_k = z_k - \log
# \sum_j e^{z_j}$ and $\sum_k t_k = 1$,
#
# $$L = -\sum_k t_k z_k + \log \sum_j e^{z_j}, \qquad
# \frac{\partial L}{\partial z_k} = -t_k + \frac{e^{z_k}}{\sum_j e^{z_j}} = p_k - t_k.$$
#
# What the network believes minus what is true. By hand, by autodiff and by fnn:

# %%
LABELS = np.array([0, 1, 2, 3, 4, 0])
SPREAD = 1.5  # how sure the network is, at random

z = (SPREAD * np.random.default_rng(1).normal(size=(len(LABELS), 5))).astype("float32")
t = np.eye(5, dtype="float32")[LABELS]


def softmax(z):
    e = jnp.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


p = softmax(z)
by_hand = p - t
by_autodiff = jax.grad(lambda z: -(t * jnp.log(softmax(z))).sum())(z)
loss = fnn.losses.cross_entropy()
values, residuals = loss.forward(z, LABELS)
by_fnn = loss.backward(residuals, jnp.ones(len(LABELS)))
print(f"by hand and by autodiff differ by {jnp.abs(by_hand - by_autodiff).max():.1e}")
print(f"by hand and by fnn differ by {jnp.abs(by_hand - by_fnn).max():.1e}")

figure, panels = plt.subplots(1, 3, figsize=(10, 3.5), layout="constrained", sharey=True)
for axes, (title, values), colors, low in zip(
    panels,
    {"p: what it believes": p, "t: what is true": t, "p - t: what comes back": by_hand}.items(),
    ("Blues", "Blues", "PuOr_r"),
    (0, 0, -1),
    strict=True,
):
    image = axes.imshow(values, cmap=colors, vmin=low, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(np.asarray(values)):
        ink = "white" if abs(value) > 0.6 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set(title=title, xlabel="class k", xticks=range(5), yticks=range(len(LABELS)))
    figure.colorbar(image, ax=axes)
panels[0].set_ylabel("example")
plt.show()

# %% [markdown]
# Every row of $p - t$ has the sum 0: what the truth gains, the others lose, most of it those that
# were believed most.
#
# ## 8. Exercise: a loss of your own
#
# The target need not be a single class: let $t$ be any distribution, $\sum_k t_k = 1$. And let the
# scores be divided by a temperature (溫度) of 2 first: $p = \operatorname{softmax}(z / 2)$ and
# $L = -\sum_k t_k \log p_k$. Write what comes back to $z / 2$, and then to $z$. `fnn.check_loss`
# compares the latter with autodiff and with differences, in float64.


# %% tags=["exercise"]
def slopes(p, t):
    """Return what comes back to z / 2, and then to z, both (B, K)."""
    dhalf = dz = None
    return dhalf, dz


# The checker: a loss with these slopes, on trial.
def tempered(z, t):
    return -(t * jax.nn.log_softmax(z / 2)).sum(-1)


def on_trial(slopes, z, t):
    own = fnn.losses.Loss(
        apply=tempered,
        forward=lambda z, t: (tempered(z, t), (softmax(z / 2), t)),
        backward=lambda residuals, dvalues: slopes(*residuals)[1] * dvalues[:, None],
        check=lambda z, t: None,
    )
    try:
        print(fnn.check_loss(own, z, t))
    except fnn.GradientError as error:
        return f"wrong: {error}"
    return "right"


def marks(slopes):
    scores = jax.random.normal(jax.random.key(1), (6, 5))
    share = jnp.array([np.roll([0.5, 0.25, 0.25, 0.0, 0.0], example) for example in range(6)])
    p = softmax(scores / 2)
    dhalf, dz = slopes(p, share)
    mistakes = {
        "the chain rule stops too early: that is the slope in p": -share / p,
        "leave the mean over the batch to training": (p - share) / 6,
    }
    print(f"dhalf  {check_answer(dhalf, p - share, mistakes, tolerance=1e-4)}")
    mistakes = {
        "z / 2 has a slope too": p - share,
        "divided by 2 once too often": (p - share) / 4,
        "leave the mean over the batch to training": (p - share) / 12,
    }
    answer = check_answer(dz, (p - share) / 2, mistakes, tolerance=1e-4)
    print(f"dz  {on_trial(slopes, scores, share) if answer == 'right' else answer}")


marks(slopes)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution(p, t):
    # The slope of z / 2 in z is 1 / 2.
    return p - t, (p - t) / 2


marks(solution)

# %% [markdown]
# ## To play with
#
# The line of section 1: how far does the outlier drag it, with which loss? At 0 there is none. And
# `outlier.html`, a page with a slider: the squared error follows it all the way.


# %%
def draw(loss, outlier):
    weight, bias, t = fit_line(REGRESSION[loss], outlier)
    figure, axes = plt.subplots(figsize=(7.4, 3.8), layout="constrained")
    axes.plot(x, 1.5 * x - 0.5, color="0.7", linestyle=":", label="the true line")
    axes.plot(x, weight * x + bias, color=BLUE, label=f"fitted: {weight:.2f} x {bias:+.2f}")
    axes.plot(x[:-1], t[:-1], "o", color="0.4", markersize=4, label="points")
    axes.plot(x[-1], t[-1], "X", color=RED, markersize=8, label="the last point")
    axes.set(xlabel="x", ylabel="t", ylim=(-3, 14), title=f"{loss} loss, outlier at {outlier:+g}")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    return figure


fnn.plot.slider_page(
    lambda outlier: draw("squared", outlier),
    "outlier",
    (0.0, 1.0, 2.0, 5.0, 10.0),
    "outlier.html",
    title="One wrong point, and the squared error",
    text="The last point is moved up; the line is the one with the smallest mean squared error.",
)
fnn.plot.show(
    draw,
    {"loss": tuple(REGRESSION), "outlier": (0.0, 1.0, 2.0, 5.0, 10.0)},
    start={"outlier": 5.0},
)

# %% [markdown]
# Things to try: `OUTLIER = 1` in section 1, `fnn.losses.huber(0.1)` in `REGRESSION`; `OVERLAP = 0`
# in section 5; `AT = 8` in section 6; `SPREAD = 100` in section 7, where some $p$ are rounded to 0,
# so that autodiff of $\log p$ says `nan`, and $p - t$ does not mind. Next: what descent does with
# the slope.
