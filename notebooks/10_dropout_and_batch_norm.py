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
# # Lesson 10: dropout and batch normalization
#
# Two layers that are there for training alone. Dropout (拋棄層) switches neurons off at random, so
# that a network does not learn its few examples by heart. Batch normalization (批次正規化) gives
# every neuron sums of one size, so that a deep network takes larger steps.
#
# Letters: $h$ the values of hidden neurons (神經元), $m$ a mask (遮罩) of zeros and ones, $r$ the
# fraction dropped, `rate` in fnn; $z$ weighted sums, $\mu$ and $\sigma$ their mean (平均) and
# deviation (標準差) over a batch (批次) of $B$ examples; $\gamma$ and $\beta$, `scale` and `shift`
# in fnn; $\alpha$ the learning rate (學習率). In code `dv` is $\frac{\partial L}{\partial v}$.

# %%
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure

import fnn
from fnn.lab import check_answer
from fnn.plot import BLUE, GREEN, ORANGE, RED

# Some accelerators round matrix products to fewer digits; we compare gradients closely.
jax.config.update("jax_default_matmul_precision", "highest")
# Shows figures that are made without pyplot, too.
# %matplotlib inline

loss = fnn.losses.cross_entropy()
(train_x, train_y), (test_x, test_y) = fnn.datasets.digits()
train_x, test_x = (
    images.reshape(len(images), -1).astype("float32") / 255 for images in (train_x, test_x)
)

# %% [markdown]
# ## 1. Dropout: a mask for every example
#
# In training each neuron is dropped with probability $r$, anew for every example and every step,
# and what is kept grows by $\frac{1}{1 - r}$:
#
# $$y = \frac{m \odot h}{1 - r}, \qquad P(m_i = 0) = r, \qquad
# E[y_i] = \frac{(1 - r)\, h_i}{1 - r} = h_i.$$
#
# So the next layer sees sums of the same mean as without dropout, and out of training the layer
# does nothing. Backward, the same mask: $y_i$ depends on $h_i$ alone, with slope
# $\frac{m_i}{1 - r}$, hence
#
# $$\frac{\partial L}{\partial h} = \frac{m \odot dy}{1 - r}.$$
#
# **Predict first.** A neuron was dropped in this step. Do the weights that lead to it learn from
# this example?

# %%
RATE, HIDDEN = 0.5, 64

layer = fnn.dropout(RATE)
display(fnn.plot.dropout_masks(layer, jnp.ones(HIDDEN), key=jax.random.key(0), count=8))

# %%
h = jax.random.normal(jax.random.key(1), (4, HIDDEN))
dy = jax.random.normal(jax.random.key(2), (4, HIDDEN))
key = jax.random.key(3)


def in_training(h):
    return layer.apply((), (), h, key=key, train=True)[0]


mask = in_training(jnp.ones_like(h)) > 0
by_hand = mask * dy / (1 - RATE)
by_autodiff = jax.grad(lambda h: (in_training(h) * dy).sum())(h)
print(f"dh by hand and by autodiff differ by {float(jnp.abs(by_hand - by_autodiff).max()):.1e}")
print(f"out of training nothing changes: {bool((layer.apply((), (), h)[0] == h).all())}")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# No. Where $m_i = 0$, nothing comes back, so this example changes neither the weights that lead to
# the neuron nor those that leave it: $h_i$ counts as 0. Every example trains another, thinner
# network, and all of them share their weights.
#
# </details>
#
# ## 2. All 256 networks in one
#
# With 8 hidden neurons there are $2^8 = 256$ masks, so 256 networks. Dropout trains all of them a
# little; used afterwards is the whole network, without a mask.
#
# **Predict first.** We compute the scores $z$ of all 256 networks for one image and take the mean.
# How far is it from the scores of the whole network?

# %%
IMAGE, RATE_OF_8 = 0, 0.5

# tanh, so that no neuron is silent.
small = fnn.serial(fnn.dense(8), fnn.tanh(), fnn.dropout(RATE_OF_8), fnn.dense(10))
trained, _ = fnn.fit(
    small, loss, fnn.optim.adam(0.01), (train_x[:2000], train_y[:2000]), epochs=4, batch_size=50,
    key=jax.random.key(0),
)  # fmt: skip
first, _, _, last = jax.tree.map(np.asarray, trained.params)
image = test_x[IMAGE : IMAGE + 1]
h = np.tanh(image @ first["weight"] + first["bias"])
masks = np.array(list(itertools.product((0.0, 1.0), repeat=8)))
scores = (masks * h / (1 - RATE_OF_8)) @ last["weight"] + last["bias"]
chance = np.prod(np.where(masks == 1, 1 - RATE_OF_8, RATE_OF_8), axis=1)
whole = np.asarray(small.apply(trained.params, trained.state, image)[0][0])
mean_score = chance @ scores
apart = np.abs(mean_score - whole).max() / np.abs(whole).max()
print(f"{len(masks)} networks; the mean score differs from that of the whole by {apart:.0e}")


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


label = int(test_y[IMAGE])
p = softmax(scores)
geometric = softmax(chance @ np.log(p))
print(f"probability of the right digit, {label}:")
print(f"  the whole network           {softmax(whole)[label]:.4f}")
print(f"  geometric mean of the 256   {geometric[label]:.4f}")
print(f"  plain mean of the 256       {chance @ p[:, label]:.4f}")
print(f"  a single one of the 256     {p[:, label].min():.4f} to {p[:, label].max():.4f}")

figure, axes = plt.subplots(figsize=(6.6, 3.6), layout="constrained")
axes.hist(scores[:, label], 30, weights=chance, color=BLUE, alpha=0.7, label="256 thinned networks")
axes.axvline(mean_score[label], color=ORANGE, linewidth=4, label="their mean")
axes.axvline(whole[label], color="black", linestyle="--", label="the whole network")
axes.set(xlabel=f"score of the digit {label}", ylabel="probability of such a mask")
axes.set_title("The whole network is the mean of its parts")
axes.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# By the rounding of float32 only, about $10^{-7}$: the scores are linear in $m$, so their mean is
# the score at the mean mask, which is $\frac{1 - r}{1 - r} = 1$ for every neuron.
#
# </details>
#
# So one pass through the whole network gives what 256 networks say on average. Of probabilities it
# is the geometric mean, made to add up to 1, as the softmax turns sums into products. With a second
# hidden layer behind the dropout it holds roughly, as there a ReLU is between.
#
# ## 3. Over-fitting, with and without
#
# 500 images only, and a network that could learn them by heart (過度配適, over-fitting). Five seeds
# each, so that luck can be told from effect.
#
# **Predict first.** With dropout, will the training loss be higher or lower? And the loss of new
# digits?

# %%
FEW, EPOCHS, SEEDS = 500, 30, 5
DROPPED = (0.0, 0.5)


def build(rate):
    model = fnn.serial(fnn.dense(128), fnn.relu(), fnn.dropout(rate), fnn.dense(10))
    return model, loss, fnn.optim.adam(0.002)


swept = fnn.sweep(
    build, {"rate": DROPPED, "seed": range(SEEDS)}, (train_x[:FEW], train_y[:FEW]), epochs=EPOCHS,
    batch_size=50, validation=(test_x, test_y), metrics={"accuracy": fnn.accuracy},
)  # fmt: skip


def mean_and_error(runs):
    runs = np.array(runs)
    return runs.mean(0), runs.std(0, ddof=1) / len(runs) ** 0.5


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
epochs = np.arange(1, EPOCHS + 1)
for rate, color in zip(DROPPED, itertools.cycle((BLUE, ORANGE, GREEN, RED)), strict=False):
    runs = [
        history
        for point, history in zip(swept.points, swept.histories, strict=True)
        if point["rate"] == rate
    ]
    name = f"dropout of {rate}" if rate else "no dropout"
    training, _ = mean_and_error([history.epoch_loss for history in runs])
    left.plot(epochs, training, "--", color=color, label=f"{name}, training")
    told = []
    for axes, what in ((left, "loss"), (right, "accuracy")):
        mean, error = mean_and_error([history.validation[what] for history in runs])
        axes.plot(epochs, mean, color=color, label=f"{name}, new digits")
        axes.fill_between(epochs, mean - error, mean + error, color=color, alpha=0.25, linewidth=0)
        told.append(f"{mean[-1]:.3f} ± {error[-1]:.3f}")
    print(f"{name:14} training loss {training[-1]:.4f}")
    print(f"{name:14} new digits: loss {told[0]}, right {told[1]}")
left.axhline(np.log(10), color="0.4", linewidth=1, linestyle=":", label="guessing: log 10")
left.set(xlabel="epoch", ylabel="loss", yscale="log", title="Learned by heart, or not")
right.set(xlabel="epoch", ylabel="share right", ylim=(0.7, 0.9), title="New digits")
left.legend(frameon=False, fontsize=8)
right.legend(frameon=False, fontsize=8, loc="lower right")
plt.show()

# %% [markdown]
# The bands are one standard error of the five seeds to each side.
#
# <details><summary>Answer to the prediction</summary>
#
# The training loss is higher, eight times: thinned networks learn less by heart. The loss of new
# digits is lower, 0.46 against 0.53, and 0.9 % more of them are right (0.858 against 0.849, with
# errors of 0.002): not much, and more than luck. Without dropout the loss of new digits grows from
# the tenth epoch on, as the network gets surer of its mistakes, too.
#
# </details>
#
# ## 4. Batch normalization: bright and dark batches
#
# Four batches of 100 digits, of cameras that differ: each has a brightness of its own. What does a
# neuron of the first layer see, before and after batch normalization?
#
# $$\mu = \frac{1}{B} \sum_b z_b, \qquad \sigma^2 = \frac{1}{B} \sum_b (z_b - \mu)^2, \qquad
# n = \frac{z - \mu}{\sqrt{\sigma^2 + \varepsilon}}, \qquad y = \gamma\, n + \beta.$$
#
# **Predict first.** The second camera doubles all pixels, $x' = 2 x$, and the layer has no bias:
# what is $n'$?

# %%
BRIGHT = ((1.0, 0.0), (2.0, 0.0), (0.3, 0.0), (1.0, 0.5))  # times, plus
NEURON = 0

random = np.random.default_rng(0)
weight = random.normal(size=(784, 32)).astype("float32") / 28
norm = fnn.batch_norm()
norm_params, norm_state = norm.init(jax.random.key(0), jnp.ones((2, 32)))
before, after = [], []
for i, (times, plus) in enumerate(BRIGHT):
    batch = times * train_x[100 * i : 100 * (i + 1)] + plus
    z = batch @ weight
    y, norm_state = norm.apply(norm_params, norm_state, z, train=True)
    before.append(z[:, NEURON])
    after.append(np.asarray(y[:, NEURON]))
    print(
        f"camera {i + 1}: z = {z[:, NEURON].mean():+.2f} ± {z[:, NEURON].std():.2f}   "
        f"y = {y[:, NEURON].mean():+.2f} ± {y[:, NEURON].std():.2f}"
    )
display(fnn.plot.batch_histograms({"before: z": np.array(before), "after: y": np.array(after)}))

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# The same as $n$: $z' = 2 z$, so $\mu' = 2 \mu$ and $\sigma' = 2 \sigma$, and the 2 goes away (but
# for $\varepsilon$). In the same way the size of the weights goes away, and a bias in the layer
# before: that is why large weights and large steps do less harm.
#
# </details>
#
# ## 5. Backward
#
# Every $n_b$ depends on all $z$ of the batch, by three ways: directly, through $\mu$ and through
# $\sigma$. For one neuron let $g = \gamma\, dy$ and $s = \sqrt{\sigma^2 + \varepsilon}$. With
# $\frac{\partial \mu}{\partial z_a} = \frac{1}{B}$ and $\frac{\partial s}{\partial z_a} =
# \frac{1}{2 s} \cdot \frac{2}{B} (z_a - \mu) = \frac{n_a}{B}$ (the mean of $z - \mu$ is 0, so
# that $\mu$ adds nothing here),
#
# $$\frac{\partial n_b}{\partial z_a}
# = \frac{1}{s} \Big( [a = b] - \frac{1}{B} - \frac{n_a n_b}{B} \Big)
# \quad\Rightarrow\quad
# dz_a = \sum_b g_b \frac{\partial n_b}{\partial z_a}
# = \frac{1}{s} \big( g_a - \overline{g} - n_a\, \overline{g\, n} \big),$$
#
# with means over the batch, and $d\gamma = \sum_b dy_b\, n_b$, $d\beta = \sum_b dy_b$. In words:
# from the error is taken what would move all sums alike, and what would stretch them alike, as
# neither changes $n$.

# %%
EPSILON = 1e-5


def batch_norm_backward(z, scale, dy):
    mean, deviation = z.mean(0), np.sqrt(z.var(0) + EPSILON)
    n = (z - mean) / deviation
    g = scale * dy
    dz = (g - g.mean(0) - n * (g * n).mean(0)) / deviation
    return dz, (dy * n).sum(0), dy.sum(0)


z, dy = random.normal(size=(2, 16, 5)).astype("float32")
scale, shift = random.normal(size=(2, 5)).astype("float32")


def batch_norm_in_jax(z, scale, shift):
    n = (z - z.mean(0)) / jnp.sqrt(z.var(0) + EPSILON)
    return ((scale * n + shift) * dy).sum()


ours = batch_norm_backward(z, scale, dy)
by_autodiff = jax.grad(batch_norm_in_jax, (0, 1, 2))(z, scale, shift)
_, _, residuals = fnn.batch_norm().forward(
    {"scale": scale, "shift": shift}, {"mean": jnp.zeros(5), "var": jnp.ones(5)}, z, train=True
)
in_fnn, dz = fnn.batch_norm().backward({"scale": scale, "shift": shift}, residuals, dy)
for name, a, b, c in zip(
    ("dz", "dγ", "dβ"), ours, by_autodiff, (dz, in_fnn["scale"], in_fnn["shift"]), strict=True
):
    print(
        f"{name}  by hand and autodiff differ by {np.abs(a - b).max():.1e}, "
        f"by hand and fnn by {np.abs(a - c).max():.1e}"
    )

# %% [markdown]
# Out of training there is no batch to lean on, and one image must not depend on others. Then $\mu$
# and $\sigma$ are running means (移動平均) over the batches of training, kept in the layer's state;
# they are constants, and $dz = \frac{g}{s}$.
#
# ## 6. The rates that train
#
# Four hidden layers of ReLU, two epochs, at eleven learning rates.
#
# **Predict first.** How many of the rates bring the plain network above 80 %? And with batch
# normalization?

# %%
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
for name, normed, color, mark in (("plain", False, BLUE, "o"), ("batch norm", True, ORANGE, "s")):
    block = [fnn.dense(64), *([fnn.batch_norm()] if normed else []), fnn.relu()]
    model = fnn.serial(*block * 4, fnn.dense(10))
    found = fnn.sweep(
        lambda learning_rate, model=model: (model, loss, fnn.optim.sgd(learning_rate)),
        {"learning_rate": RATES, "seed": [0]}, (train_x, train_y), epochs=2, batch_size=50,
        validation=(test_x, test_y), metrics={"accuracy": fnn.accuracy},
    )  # fmt: skip
    ended = [
        (rate, history.validation["accuracy"][-1])
        for rate, history in zip(RATES, found.histories, strict=True)
        if not history.stopped
    ]
    lost = {
        rate: len(history.loss)
        for rate, history in zip(RATES, found.histories, strict=True)
        if history.stopped
    }
    axes.plot(
        [rate for rate, _ in ended], [share for _, share in ended], mark, color=color, label=name
    )
    if lost:
        axes.plot(list(lost), [0.02] * len(lost), "x", color=RED, label=f"{name}: diverged")
    good = [rate for rate, share in ended if share > 0.8]
    print(f"{name:10} above 80 % at {len(good)} of {len(RATES)} rates: {good}")
    for rate, step in lost.items():
        print(f"{name:10} α = {rate}: diverged at step {step}")
axes.axhline(0.1, color="0.4", linewidth=1, linestyle=":", label="guessing: 0.1")
axes.set(xscale="log", xlabel="learning rate α", ylabel="share of new digits right", ylim=(0, 1))
axes.set_title("Learning rates that train")
figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=4)
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Two of eleven without, 0.1 and 0.3; six with it, from 0.01 to 3, a range of 300. From a rate of 3
# on the plain network diverges.
#
# </details>
#
# ## 7. Why a batch of one cannot work
#
# **Predict first.** One image, in the company of others that are drawn at random. In training,
# which $n$ does it get in a batch of 1? In a batch of 2?

# %%
SIZES, DRAWS = (1, 2, 4, 16, 64, 256), 200
SHOWN = 7  # which image

sums = train_x @ weight[:, NEURON]
figure, axes = plt.subplots(figsize=(6.6, 3.8), layout="constrained")
for place, size in enumerate(SIZES):
    company = random.choice(np.delete(sums, SHOWN), (DRAWS, size - 1))
    batches = np.concatenate([np.full((DRAWS, 1), sums[SHOWN]), company], axis=1)
    mean, deviation = batches.mean(1), np.sqrt(batches.var(1) + EPSILON)
    n = (sums[SHOWN] - mean) / deviation
    beside = random.uniform(-0.25, 0.25, DRAWS)
    axes.plot(
        place + beside, n, "o", color=BLUE, markersize=2.5, alpha=0.5,
        label=f"in {DRAWS} batches" if place == 0 else None,
    )  # fmt: skip
    print(f"batch of {size:3}: n = {n.mean():+.3f} ± {n.std():.3f}")
axes.axhline(
    (sums[SHOWN] - sums.mean()) / sums.std(), color=ORANGE, label="by the mean over all images"
)
axes.set(
    xlabel="images in the batch", ylabel="n of one image", title="The same image, other company"
)
axes.set_xticks(range(len(SIZES)), SIZES)
axes.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# In a batch of 1 the mean is the image itself: $n = 0$ whatever it shows, and nothing comes back
# either: with $B = 1$ the formula of section 5 says $dz = g - g - 0 = 0$. In a batch of 2 it is
# $-1$ or $+1$ (but for $\varepsilon$): only which of the two is larger is left. The noise falls
# with $1 / \sqrt{B}$.
#
# </details>
#
# This noise is a bit like dropout's, and helps a little against over-fitting. But a network with
# batch normalization must never be trained on single images:

# %%
single = jnp.asarray(train_x[:1] @ weight)
y, _ = norm.apply(norm_params, norm_state, single, train=True)
other, _ = norm.apply(norm_params, norm_state, 5 * single + 1, train=True)
_, _, residuals = norm.forward(norm_params, norm_state, single, train=True)
_, dz = norm.backward(norm_params, residuals, jnp.ones_like(single))
print(f"largest y: {float(jnp.abs(y).max())} and {float(jnp.abs(other).max())}")
print(f"largest dz: {float(jnp.abs(dz).max()):.0e}")

# %% [markdown]
# ## 8. Exercises
#
# ### With pencil and paper
#
# Dropout with $r = 0.5$: $h = (2, 4)$, $m = (1, 0)$, $dy = (3, 5)$. Find $y$ and $dh$. Then batch
# normalization of one neuron with $\varepsilon = 0$, $\gamma = 1$, $\beta = 0$ and the batch
# $z = (1, 5)$: find $n$, and $dz$ for $dy = (1, 0)$.

# %% tags=["exercise"]
answers = {"y": None, "dh": None, "n": None, "dz": None}

# The checker: what is right, and mistakes that are often made.
RIGHT = {"y": [4, 0], "dh": [6, 0], "n": [-1, 1], "dz": [0, 0]}
MISTAKES = {
    "y": {"what is kept grows by 1 / (1 - r)": [2, 0], "that is the mean of y": [2, 4]},
    "dh": {
        "backward has the factor 1 / (1 - r), too": [3, 0],
        "nothing comes back where the mask is 0": [6, 10],
    },
    "n": {
        "divide by the deviation": [-2, 2],
        "divide by the deviation, not by the variance": [-0.5, 0.5],
        "the variance is a mean over B, not over B - 1": [-(0.5**0.5), 0.5**0.5],
    },
    "dz": {
        "mean and deviation depend on z, too": [0.5, 0],
        "the deviation depends on z, too": [0.25, -0.25],
        "the mean depends on z, too": [0.25, 0.25],
    },
}
for name, answer in answers.items():
    print(f"{name:3} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% tags=["solution"] jupyter={"source_hidden": true}
# y = m h / 0.5, dh = m dy / 0.5. The mean is 3 and the deviation 2, so n = (-1, 1): in a batch of
# two always. g = (1, 0) has the mean 1/2, g n = (-1, 0) the mean -1/2:
# dz = (1 - 1/2 - (-1)(-1/2), 0 - 1/2 - 1 (-1/2)) / 2 = (0, 0), as n cannot change.
solution = {"y": [4, 0], "dh": [6, 0], "n": [-1, 1], "dz": [0, 0]}
for name, answer in solution.items():
    print(f"{name:3} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# ### Layer normalization
#
# Layer normalization (層正規化) takes mean and deviation over the $O$ neurons of one example, not
# over the batch: $n_{bo} = (z_{bo} - \mu_b) / s_b$, $y_{bo} = \gamma_o n_{bo} + \beta_o$. So it
# works in a batch of one. Write its backward. Careful: which sums run over the batch now, which
# over the neurons, and where does $\gamma$ stand?


# %% tags=["exercise"]
def backward(n, s, scale, dy):
    """Return dz (B, O), dscale (O,), dshift (O,); n and dy are (B, O), s is (B, 1)."""
    dz = dscale = dshift = None
    return dz, dscale, dshift


# The checker: mistakes that are often made, and fnn.check_layer for the rest.
def layer_norm_parts(z):
    s = np.sqrt(z.var(1, keepdims=True) + EPSILON)
    return (z - z.mean(1, keepdims=True)) / s, s


def marks(backward):
    n, s = layer_norm_parts(z)
    g = scale * dy
    right = (
        (g - g.mean(1, keepdims=True) - n * (g * n).mean(1, keepdims=True)) / s,
        (dy * n).sum(0), dy.sum(0),
    )  # fmt: skip
    plain = (dy - dy.mean(1, keepdims=True) - n * (dy * n).mean(1, keepdims=True)) / s
    mistakes = (
        {
            "these means run over the batch; here they run over the neurons":
                (g - g.mean(0) - n * (g * n).mean(0)) / s,
            "the scale is missing": plain,
            "the scale differs from neuron to neuron: it belongs inside of the means":
                scale * plain,
            "mean and deviation depend on z, too": g / s,
            "the deviation depends on z, too": (g - g.mean(1, keepdims=True)) / s,
            "divide by the deviation":
                g - g.mean(1, keepdims=True) - n * (g * n).mean(1, keepdims=True),
        },
        {"the sum over the batch, not the mean": (dy * n).mean(0), "times n": dy.sum(0)},
        {"the sum over the batch, not the mean": dy.mean(0), "without n": (dy * n).sum(0)},
    )  # fmt: skip
    try:
        found = tuple(backward(n, s, scale, dy))
    except Exception as error:
        print(f"wrong: it does not run: {error}")
        return
    if len(found) != 3:
        print("wrong: return three things: dz, dscale, dshift")
        return
    for name, answer, *known in zip(
        ("dz", "dscale", "dshift"), found, right, mistakes, strict=True
    ):
        print(f"{name:7} {check_answer(answer, *known, tolerance=1e-4)}")


marks(backward)


# %% tags=["solution"] jupyter={"source_hidden": true}
def solution(n, s, scale, dy):
    g = scale * dy
    dz = (g - g.mean(1, keepdims=True) - n * (g * n).mean(1, keepdims=True)) / s
    return dz, (dy * n).sum(0), dy.sum(0)


marks(solution)

# %% [markdown]
# The same solution as a layer of fnn, and `fnn.check_layer`, which compares it with autodiff and
# with differences, and would guess at a mistake:


# %%
def forward(params, z):
    s = jnp.sqrt(z.var(1, keepdims=True) + EPSILON)
    n = (z - z.mean(1, keepdims=True)) / s
    return params["scale"] * n + params["shift"], (n, s)


def as_layer(backward):
    def layer_backward(params, residuals, dy):
        dz, dscale, dshift = backward(*residuals, params["scale"], dy)
        return {"scale": dscale, "shift": dshift}, dz

    return fnn.stateless(
        lambda key, z: {"scale": jnp.ones(z.shape[1]), "shift": jnp.zeros(z.shape[1])},
        forward,
        layer_backward,
    )


print(fnn.check_layer(as_layer(solution), z))

# %% [markdown]
# ## 9. To play with
#
# The networks of section 2 with other numbers of hidden neurons and other rates, weights at random:
# how far do thinned networks lie from their mean? The mean stays at the whole network whatever you
# turn; the width of the crowd is $\sqrt{\frac{r}{1 - r} \sum_i (w_i h_i)^2}$.


# %%
def draw(rate, hidden):
    """Draw the scores of the thinned networks of a random network."""
    random = np.random.default_rng(4)
    parts = random.normal(size=hidden) * np.abs(random.normal(size=hidden)) / hidden**0.5
    masks = random.random((20000, hidden)) >= rate
    scores = (masks * parts).sum(1) / (1 - rate)
    figure = Figure(figsize=(6.6, 3.6), layout="constrained")
    axes = figure.subplots()
    width = np.sqrt(rate / (1 - rate) * (parts**2).sum())
    counts, edges = np.histogram(scores, 60, (-4, 4))
    axes.stairs(counts / len(scores), edges, fill=True, color=BLUE, alpha=0.7, label="thinned")
    axes.axvline(scores.mean(), color=ORANGE, linewidth=4, label="mean of the thinned")
    axes.axvline(parts.sum(), color="black", linestyle="--", label="the whole network")
    ends = parts.sum() - width, parts.sum() + width
    axes.plot(ends, [0.005] * 2, "|-", color=GREEN, markersize=12, label="predicted width")
    axes.set(xlim=(-4, 4), ylim=(0, None), xlabel="score", ylabel="share of the masks")
    axes.set_title(f"{hidden} hidden neurons, dropout of {rate}")
    axes.legend(frameon=False, fontsize=8)
    return figure


KNOBS = {"rate": (0.1, 0.3, 0.5, 0.7, 0.9), "hidden": (2, 4, 8, 32, 128)}
fnn.plot.show(draw, KNOBS, start={"rate": 0.5, "hidden": 8})

# %% [markdown]
# And batch normalization: two cameras, the second so many times as bright, and batches of so many
# images. When do the two look alike, and what is lost in a batch of 2?


# %%
def draw_batches(times, images):
    """Draw the sums of a neuron in two batches, before and after normalization."""
    batches = np.stack([train_x[:images], times * train_x[images : 2 * images]])
    sums = (batches @ weight)[..., NEURON]
    mean, variance = sums.mean(1, keepdims=True), sums.var(1, keepdims=True)
    normed = (sums - mean) / np.sqrt(variance + EPSILON)
    return fnn.plot.batch_histograms({"before: z": sums, "after: n": normed})


BATCH_KNOBS = {"times": (0.2, 0.5, 1.0, 2.0, 4.0), "images": (2, 8, 32, 128, 512)}
fnn.plot.show(draw_batches, BATCH_KNOBS, start={"times": 2.0, "images": 128})

# %% [markdown]
# Dropout again, for 32 hidden neurons over the rate, as a page that works from a file: open
# `dropout.html` in a browser.


# %%
def of_32(rate):
    return draw(rate, 32)


fnn.plot.slider_page(
    of_32, "rate", KNOBS["rate"], "dropout.html", title="What dropout does to a score",
    text="Thinned networks scatter around the whole one, the more the more is dropped.",
)  # fmt: skip

# %% [markdown]
# Things to try: `DROPPED = (0.0, 0.2, 0.5, 0.8)` or `FEW = 4000` in section 3; `BRIGHT` of your own
# in section 4; `fnn.sigmoid()` in place of ReLU in section 6, which trains at none of these rates
# without batch normalization. Next: layers that know what an image is.
