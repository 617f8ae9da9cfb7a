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
# # Lesson 11: convolution
#
# A dense layer has a weight of its own for every pixel: a 3 that moves two pixels to the right is
# another input altogether. A convolutional network (卷積神經網路) looks through a small window
# instead, and slides it over the image with the same weights everywhere.
#
# 1. The sliding window in numbers.
# 2. Weights shared: 320 against 25,088.
# 3. Pooling.
# 4. Backward: a convolution again.
# 5. Exercise: forward and backward with pencil and paper.
# 6. Three networks, and digits that are shifted.
# 7. Filters, and what excites them.
# 8. Feature maps.
# 9. Exercise: counting.
#
# Letters: $x$ the image, $\theta = (W, b)$ the parameters (參數): $W$ the kernel (卷積核), also
# called filter (濾波器), and $b$ the bias (偏差); $z$ the feature map (特徵圖), $g$ the activation
# (激勵函數), here ReLU. In fnn: `fnn.conv`, `weight`, `bias`, `fnn.max_pool`. $\partial L /
# \partial v$ is written `dv`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

import fnn
from fnn.lab import check_answer
from fnn.plot import BLUE, GREEN, ORANGE

# Shows figures that are made without pyplot, too.
# %matplotlib inline

# %% [markdown]
# ## 1. The sliding window in numbers
#
# The window lies on $3 \times 3$ pixels. Each is multiplied with the weight that lies on it, and
# the nine products are added: one number of the feature map. Then the window moves on by one pixel:
#
# $$z_{p} = b + \sum_{k} W_{k}\, x_{p + k},$$
#
# where $p$ is a position, $k$ an offset in the window, and both have a row and a column. It is the
# neuron of lesson 2, $w \cdot x + b$, on a small piece of the image.
#
# **Predict first.** The image has $5 \times 5$ pixels. How many positions has the window, so how
# large is the feature map? And where will the kernel *vertical stroke* find most?

# %%
KERNEL, STEP = "vertical stroke", 4  # STEP: from 0 to 8

KERNELS = {
    "vertical stroke": np.array([[-1.0, 2.0, -1.0]] * 3),
    "horizontal stroke": np.array([[-1.0, 2.0, -1.0]] * 3).T,
    "border": np.array([[-1.0, -1.0, -1.0], [-1.0, 8.0, -1.0], [-1.0, -1.0, -1.0]]),
    "blur": np.full((3, 3), 1 / 9),
}
one = np.array(
    [
        [0.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 1.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 1.0, 1.0, 1.0, 0.0],
    ]
)


def slide(x, W):
    """The sum of every position of the window."""
    rows, columns = x.shape[0] - W.shape[0] + 1, x.shape[1] - W.shape[1] + 1
    z = np.zeros((rows, columns))
    for p in range(rows):
        for q in range(columns):
            z[p, q] = np.sum(W * x[p : p + W.shape[0], q : q + W.shape[1]])
    return z


z = slide(one, KERNELS[KERNEL])
p, q = divmod(STEP, 3)
under = one[p : p + 3, q : q + 3]
products = zip(KERNELS[KERNEL].ravel(), under.ravel(), strict=True)
print(" + ".join(f"{w:.3g}·{x:.0f}" for w, x in products), f"= {z[p, q]:.3g}")


# %% jupyter={"source_hidden": true}
def grid(axes, values, title, cmap="RdBu_r", largest=None, upto=None):
    """Numbers in cells, colored by their value; from `upto` on they are not known yet."""
    largest = largest or np.abs(values).max() or 1.0
    least = 0 if cmap == "gray_r" else -largest
    known = np.arange(values.size).reshape(values.shape) < (values.size if upto is None else upto)
    axes.imshow(np.where(known, values, np.nan), cmap=cmap, vmin=least, vmax=largest, alpha=0.75)
    for (row, column), value in np.ndenumerate(values):
        dark = abs(value) > 0.65 * largest and known[row, column]
        text = f"{value:.3g}" if known[row, column] else "?"
        color = "white" if dark else "black"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=11)
    axes.set_title(title, fontsize=10)
    axes.set(xticks=np.arange(values.shape[1] + 1) - 0.5, xticklabels=[])
    axes.set(yticks=np.arange(values.shape[0] + 1) - 0.5, yticklabels=[])
    axes.grid(color="0.6", linewidth=0.6)
    axes.tick_params(length=0)


def frame(axes, row, column, height, width, color=ORANGE):
    corner = (column - 0.5, row - 0.5)
    axes.add_patch(Rectangle(corner, width, height, fill=False, ec=color, lw=3.5, clip_on=False))


def window(step, kernel=KERNEL):
    """The window at one of its positions, and what it has found so far."""
    W = KERNELS[kernel]
    z = slide(one, W)
    row, column = divmod(step, z.shape[1])
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    grid(left, one, "the image x", "gray_r")
    grid(middle, W, f"the kernel W: {kernel}")
    grid(right, z, f"the feature map z: {step + 1} of {z.size} sums", upto=step + 1)
    frame(left, row, column, 3, 3)
    frame(right, row, column, 1, 1)
    handle = Patch(fill=False, ec=ORANGE, lw=2.5, label="the window, and its sum")
    figure.legend(handles=[handle], loc="outside lower center", frameon=False)
    return figure


display(window(STEP))

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# From an image of $n$ pixels and a kernel of $k$: $n - k + 1$ positions along each side, here $5 -
# 3 + 1 = 3$, so the map is $3 \times 3$. The sums are largest in the middle column, where the
# window has ink in its middle column and none beside it. Change `STEP` and `KERNEL` and run both
# cells again.
#
# </details>
#
# All nine positions, one after the other, as a page to step through: open `window.html` in a
# browser.

# %%
fnn.plot.slider_page(
    window,
    "step",
    range(9),
    "window.html",
    title="A window slides over an image",
    text="Move the slider: at every step the nine products under the window are added.",
)

# %% [markdown]
# In mathematics a convolution (卷積) turns the kernel round first: $\sum_k W_k\, x_{p - k}$. What
# networks compute is called cross-correlation there. As the kernel is learned, both can learn the
# same; and the turned kernel will come back in section 4.
#
# ## 2. Weights shared
#
# One kernel makes one feature map. A layer has many kernels, say 32, each with a bias. With a
# border of zeros around the image (padding, 填補) the maps are as large as the image.
#
# **Predict first.** How many parameters has a convolution with 32 kernels of $3 \times 3$ over an
# image of $28 \times 28$ in gray? And a dense layer of 32 neurons?

# %%
blank = jnp.zeros((1, 28, 28, 1))


def size_of(layer, x):
    """How many parameters a layer has, and how many numbers it makes of one image."""
    params, state = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))
    y = jax.eval_shape(lambda p: layer.apply(p, state, x)[0], params)
    return sum(leaf.size for leaf in jax.tree.leaves(params)), y.size


for name, layer, x in (
    ("convolution, 32 kernels", fnn.conv(32, 3), blank),
    ("dense, 32 neurons", fnn.dense(32), blank.reshape(1, 784)),
    ("dense, as many outputs", fnn.dense(28 * 28 * 32), blank.reshape(1, 784)),
):
    count, outputs = size_of(layer, x)
    print(f"{name:24} {count:12,} parameters for {outputs:7,} outputs")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# The convolution: $32 \cdot (3 \cdot 3 + 1) = 320$, however large the image is. The dense layer:
# $784 \cdot 32 = 25{,}088$ weights, and with the 32 biases 25,120 parameters. And this for 32
# numbers, where the convolution makes $28 \cdot 28 \cdot 32 = 25{,}088$ of them (the same number
# by chance of our sizes). A dense layer that makes as many would need 19,694,080.
#
# </details>
#
# The convolution is a dense layer with two constraints: a weight is 0 where a pixel is not in the
# window, and weights are *equal* where the window only moved. What it gains: if the image moves,
# the feature map moves with it (equivariance, 等變性). Nothing has to be learned twice.

# %%
random = np.random.default_rng(0)
picture = np.zeros((12, 12))
picture[3:6, 2:5] = random.normal(size=(3, 3))
moved = np.roll(picture, (2, 3), (0, 1))  # two down, three to the right
W = random.normal(size=(3, 3))
apart = np.abs(np.roll(slide(picture, W), (2, 3), (0, 1)) - slide(moved, W)).max()
print(f"map of the moved image against the moved map: they differ by {apart:.0e}")

# %% [markdown]
# ## 3. Pooling
#
# Max pooling (最大池化) keeps the largest number of each $2 \times 2$ block: half the size, and it
# does not matter where in the block it stood. No parameters.
#
# **Predict first.** Going backward, the block gets one gradient for its four numbers. Who gets it?

# %%
values = jnp.array(
    [[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 1.0, 7.0], [0.0, 1.0, 6.0, 2.0], [2.0, 0.0, 3.0, 3.0]]
)
pool = fnn.max_pool(2)
y, _, saved = pool.forward((), (), values.reshape(1, 4, 4, 1))
_, dx = pool.backward((), saved, jnp.array([10.0, 20.0, 30.0, 40.0]).reshape(1, 2, 2, 1))
print("x\n", values, "\ny = the largest of each block\n", y[0, :, :, 0])
print("dx for dy = [[10, 20], [30, 40]]\n", dx[0, :, :, 0])

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# The largest gets all of it, the others 0: only the largest changes $y$ when it is nudged.
#
# </details>
#
# ## 4. Backward: a convolution again
#
# Going backward, $dz$ is known. From $z_p = b + \sum_k W_k\, x_{p + k}$:
#
# **The kernel.** $W_k$ works at every position $p$, there with the slope $x_{p + k}$. Branches
# add:
#
# $$dW_k = \sum_p x_{p + k}\, dz_p, \qquad db = \sum_p dz_p.$$
#
# This is the sliding window once more: $dz$ slides over $x$.
#
# **The image.** The pixel $x_q$ is seen from all positions $p$ with $p + k = q$, so $p = q - k$:
#
# $$dx_q = \sum_k W_k\, dz_{q - k}.$$
#
# The minus turns the kernel round. So: put a border of zeros around $dz$, as the window may hang
# over the edge, and slide the *turned* kernel over it.


# %%
def backward(x, W, dz):
    dW = slide(x, dz)
    db = dz.sum()
    border = [(k - 1, k - 1) for k in W.shape]
    dx = slide(np.pad(dz, border), W[::-1, ::-1])
    return dW, db, dx


W = KERNELS[KERNEL] + np.arange(9).reshape(3, 3) / 4  # no symmetry that could hide a mistake
dz = np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
by_hand = backward(one, W, dz)


def sum_in_jax(x, W, b):
    z = jax.lax.conv(x[None, None], W[None, None], (1, 1), "VALID")[0, 0] + b
    return jnp.sum(z * dz)


# The gradient of sum(z dz) is what comes back for a given dz.
by_autodiff = jax.jit(jax.grad(sum_in_jax, (1, 2, 0)))(jnp.array(one), jnp.array(W), 0.0)

layer = fnn.conv(1, 3, padding="VALID")
params = {"weight": jnp.array(W).reshape(3, 3, 1, 1), "bias": jnp.zeros(1)}
_, _, saved = layer.forward(params, (), jnp.array(one).reshape(1, 5, 5, 1))
dparams, dx = layer.backward(params, saved, jnp.array(dz).reshape(1, 3, 3, 1))
in_fnn = dparams["weight"][:, :, 0, 0], dparams["bias"][0], dx[0, :, :, 0]
for name, ours, other, theirs in zip(("dW", "db", "dx"), by_hand, by_autodiff, in_fnn, strict=True):
    print(
        f"{name}  by hand and jax.grad differ by {np.abs(ours - other).max():.1e}, "
        f"by hand and fnn by {np.abs(ours - theirs).max():.1e}"
    )

# %% [markdown]
# The three arrays of $dx$. The window is drawn at the pixel that it finds the gradient of.

# %% jupyter={"source_hidden": true}
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 4), layout="constrained")
grid(left, np.pad(dz, 2), "dz with a border of zeros")
grid(middle, W[::-1, ::-1], "the kernel W, turned round")
grid(right, by_hand[2], "dx")
frame(left, 2, 2, 3, 3, GREEN)
frame(left, 1, 1, 3, 3)
frame(right, 1, 1, 1, 1)
handles = [
    Patch(fill=False, ec=ORANGE, lw=2.5, label="the window, and its sum"),
    Patch(fill=False, ec=GREEN, lw=2.5, label="dz itself"),
]
figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
plt.show()

# %% [markdown]
# ## 5. Exercise: forward and backward with pencil and paper
#
# $$x = \begin{pmatrix} 1 & 0 & 2 \\ 3 & 1 & 0 \\ 0 & 2 & 1 \end{pmatrix}, \quad
# W = \begin{pmatrix} 2 & -1 \\ 0 & 1 \end{pmatrix}, \quad b = 1, \quad
# dz = \begin{pmatrix} 1 & 2 \\ 1 & -1 \end{pmatrix}.$$
#
# Find $z$ and $dW$ (as `[[1, 2], [3, 4]]`), $db$, and $dx$ of the pixel in the middle.

# %% tags=["exercise"]
answers = {"z": None, "dW": None, "db": None, "dx, middle": None}

# The checker: what is right, and mistakes that are often made.
small_x = np.array([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
small_W, small_dz = np.array([[2.0, -1.0], [0.0, 1.0]]), np.array([[1.0, 2.0], [1.0, -1.0]])
small_dW, small_db, small_dx = backward(small_x, small_W, small_dz)
RIGHT = {
    "z": slide(small_x, small_W) + 1,
    "dW": small_dW,
    "db": small_db,
    "dx, middle": small_dx[1, 1],
}
MISTAKES = {
    "z": {
        "the bias is missing": slide(small_x, small_W),
        "the kernel is turned round: forward it is not": slide(small_x, small_W[::-1, ::-1]) + 1,
    },
    "dW": {
        "dz is turned round: to the kernel it is not": slide(small_x, small_dz[::-1, ::-1]),
        "that is W sliding over x: let dz slide": slide(small_x, small_W),
    },
    "db": {"that is the mean: take the sum over positions": small_dz.mean()},
    "dx, middle": {
        "the kernel has to be turned round": np.sum(small_W * small_dz),
        "that is one position alone; four see the pixel": small_W[1, 1] * small_dz[0, 0],
    },
}
for name, answer in answers.items():
    print(f"{name:10} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# The solution is in the next cell; open it when you have tried.

# %% tags=["solution"] jupyter={"source_hidden": true}
solution = {
    # 2·1 - 1·0 + 0·3 + 1·1 + 1 = 4, and so on.
    "z": [[4, -1], [8, 4]],
    # dz over x: 1·1 + 2·0 + 1·3 - 1·1 = 3, and so on.
    "dW": [[3, 5], [3, 2]],
    "db": 1 + 2 + 1 - 1,
    # Position (0, 0) sees the middle with W's last weight, (1, 1) with its first.
    "dx, middle": 1 * 1 + 2 * 0 + 1 * -1 - 1 * 2,
}
for name, answer in solution.items():
    print(f"{name:10} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# ## 6. Three networks, and digits that are shifted
#
# We train three networks on digits that stand in the middle of their image, as they do in the data:
#
# - **dense**: 784 pixels, 32 hidden neurons, 10 classes;
# - **flattened**: two convolutions with pooling, and a dense layer that has a weight of its own for
#   every place of the last $7 \times 7$ maps;
# - **largest**: three convolutions, and of every last map only its largest number
#   (global max pooling, 全域最大池化): *what* was found, and not where.
#
# Then the test digits are shifted to the side.
#
# **Predict first.** All three read digits in the middle well. Which of them still read a digit that
# is four pixels off?

# %%
EPOCHS, ALPHA = 3, 0.003

(train_x, train_y), (test_x, test_y) = fnn.datasets.digits()
train_x = (train_x[..., None] / 255).astype("float32")
test_x = (test_x[..., None] / 255).astype("float32")


def convolutions(count):
    """A convolution, ReLU and pooling, `count` times."""
    return [fnn.conv(32, 3), fnn.relu(), fnn.max_pool(2)] * count


NETWORKS = {
    "dense": fnn.serial(fnn.flatten(), fnn.dense(32), fnn.relu(), fnn.dense(10)),
    "flattened": fnn.serial(*convolutions(2), fnn.flatten(), fnn.dense(10)),
    "largest": fnn.serial(
        *convolutions(2), fnn.conv(32, 3), fnn.relu(), fnn.global_max_pool(), fnn.dense(10)
    ),
}
trained = {}
for name, model in NETWORKS.items():
    trained[name], history = fnn.fit(
        model,
        fnn.losses.cross_entropy(),
        fnn.optim.adam(ALPHA),
        (train_x, train_y),
        epochs=EPOCHS,
        batch_size=50,
        key=jax.random.key(0),
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(trained[name].params))
    print(f"{name:10} {count:7,} parameters, loss {history.epoch_loss[-1]:.3f}")


# %% [markdown]
# The first two have almost the same number of parameters. Now shift.


# %%
def shifted(images, right=0, down=0):
    """Images moved by whole pixels, 8 at most; paper comes in at the other side."""
    wide = np.pad(images, ((0, 0), (8, 8), (8, 8), (0, 0)))
    return wide[:, 8 - down : 36 - down, 8 - right : 36 - right]


def reader(name):
    """The network as a function from images to scores."""
    model, state = NETWORKS[name], trained[name]
    return jax.jit(lambda x: model.apply(state.params, state.state, x)[0])


READERS = {name: reader(name) for name in NETWORKS}
SHIFTS = (-6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6)
share = {
    name: [float((read(shifted(test_x, s)).argmax(-1) == test_y).mean()) for s in SHIFTS]
    for name, read in READERS.items()
}
for name, found in share.items():
    at = dict(zip(SHIFTS, found, strict=True))
    words = ", ".join(f"{s} right {at[s]:.1%}" for s in (0, 2, 4) if s in at)
    print(f"{name:10} shifted by {words}")

figure = plt.figure(figsize=(10, 3.8), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 2.6])
for axes, s in zip(left.subplots(3, 1), (-4, 0, 4), strict=True):
    axes.imshow(shifted(test_x[:1], s)[0, :, :, 0], cmap="gray_r")
    axes.set_title(f"shifted by {s}", fontsize=9)
    axes.set(xticks=[], yticks=[])
axes = right.subplots()
for (name, found), color, mark in zip(share.items(), (BLUE, ORANGE, GREEN), "os^", strict=True):
    axes.plot(SHIFTS, found, color=color, marker=mark, label=name)
axes.axhline(0.1, color="0.4", linestyle=":", label="guessing: 0.1")
axes.set(ylim=(0, 1), xlabel="shift to the right, in pixels", ylabel="share of digits right")
axes.set_title("Trained in the middle, tested elsewhere")
axes.legend(frameon=False, loc="lower center", ncols=4, bbox_to_anchor=(0.5, -0.38))
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# Numbers to expect (they differ a little from machine to machine): in the middle 90 % for dense,
# 96 % for flattened, 94 % for largest. Four pixels to the right: about 25 %, 50 % and 92 %.
#
# The dense network has never seen ink there: it is close to guessing. The middle one is a surprise
# to many: its convolutions find the same strokes at the new place, since the maps move with the
# image. But its last layer reads the maps by place, and has never seen anything there either.
# Sharing weights makes a network *equivariant*; only what forgets the place, such as global
# pooling, makes it *invariant* (不變性). It pays in the middle, where the place tells digits apart.
#
# </details>
#
# ## 7. Filters, and what excites them
#
# A kernel of the first layer is an image itself: red where ink speaks for it, blue where ink speaks
# against it. Below each we put the pieces of test digits on which its sum is largest.

# %%
FILTERS = 8

weight = np.asarray(trained["largest"].params[0]["weight"])  # (3, 3, 1, 32)
some = test_x[:300]
maps, _ = fnn.conv(32, 3).apply(trained["largest"].params[0], (), some)
maps = np.asarray(maps)
strongest = np.argsort(-np.linalg.norm(weight.reshape(9, 32), axis=0))[:FILTERS]
SURROUNDINGS = 4  # pixels around the middle of the window
wide = np.pad(some[..., 0], ((0, 0), (SURROUNDINGS,) * 2, (SURROUNDINGS,) * 2))

figure, panels = plt.subplots(5, FILTERS, figsize=(9, 6.5), squeeze=False, layout="constrained")
figure.suptitle(
    "Filters of the first layer, and the pieces of digits that excite them most", size=11
)
largest = np.abs(weight[..., strongest]).max()
for column, chosen in zip(panels.T, strongest, strict=True):
    column[0].imshow(weight[:, :, 0, chosen], cmap="RdBu_r", vmin=-largest, vmax=largest)
    column[0].set_title(f"filter {chosen}", fontsize=9)
    heights = maps[..., chosen].reshape(len(some), -1)
    # One piece an image: the strongest four.
    for axes, i in zip(column[1:], np.argsort(-heights.max(1))[:4], strict=True):
        row, place = divmod(int(heights[i].argmax()), 28)
        side = 2 * SURROUNDINGS + 1
        axes.imshow(wide[i, row : row + side, place : place + side], cmap="gray_r", vmin=0, vmax=1)
        frame(axes, SURROUNDINGS - 1, SURROUNDINGS - 1, 3, 3)
        axes.set_title(f"{heights[i].max():.2f}", fontsize=8)
for axes in panels.flat:
    axes.set(xticks=[], yticks=[])
handles = [
    Patch(color="#b2182b", label="ink speaks for it"),
    Patch(color="#2166ac", label="ink speaks against it"),
    Patch(fill=False, ec=ORANGE, lw=2.5, label="the window; above it its sum"),
]
figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
plt.show()

# %% [markdown]
# Most found an edge, a corner or a stroke of one direction: the pieces have ink where the filter is
# red and paper where it is blue. Nobody told them to.
#
# ## 8. Feature maps
#
# What the 32 filters make of one digit. Each map is an image again, and shows *where* its stroke is
# found; a tint where there is only paper is the bias.

# %%
DIGIT = 0  # which of the test digits

display(fnn.plot.feature_maps(maps[DIGIT], some[DIGIT]))

# %% [markdown]
# ReLU keeps the red; pooling halves the size; and the second layer slides its windows over all 32
# maps at once: its kernels have $3 \cdot 3 \cdot 32$ weights and find *arrangements* of strokes,
# corners and arcs.
#
# ## 9. Exercise: counting
#
# Photographs of $32 \times 32$ pixels in three colors go through
# `fnn.serial(fnn.conv(16, 5, padding="VALID"), fnn.relu(), fnn.max_pool(2), fnn.conv(8, 3))`.
#
# How many parameters has the first convolution? How many pixels has a side of its maps, and a side
# after pooling? How many parameters has the second convolution? And how many pixels of the
# photograph, along one side, does one number of its map depend on (its receptive field, 感受野)?

# %% tags=["exercise"]
counts = {
    "parameters of the first": None,
    "side of its maps": None,
    "side after pooling": None,
    "parameters of the second": None,
    "receptive field": None,
}

# The checker: what is right, and mistakes that are often made.
COUNTED = {
    "parameters of the first": size_of(fnn.conv(16, 5), jnp.zeros((1, 32, 32, 3)))[0],
    "side of its maps": 32 - 5 + 1,
    "side after pooling": (32 - 5 + 1) // 2,
    "parameters of the second": size_of(fnn.conv(8, 3), jnp.zeros((1, 14, 14, 16)))[0],
    "receptive field": 5 + 1 + 2 * 2,
}
MISCOUNTED = {
    "parameters of the first": {
        "the biases are missing": 16 * 25 * 3,
        "a kernel has weights for every color": 16 * (25 + 1),
        "a kernel has one bias, not one for each color": 16 * (25 + 1) * 3,
    },
    "side of its maps": {
        "without a border the window must stay inside": 32,
        "one position more: n - k + 1": 32 - 5,
    },
    "side after pooling": {"that is before pooling": 28},
    "parameters of the second": {
        "the biases are missing": 8 * 9 * 16,
        "it sees 16 maps, not one": 8 * (9 + 1),
        "it sees 16 maps, not three colors": 8 * (9 * 3 + 1),
        "that is for 16 kernels over 8 maps": 16 * (9 * 8 + 1),
    },
    "receptive field": {
        "that is the second kernel alone": 3,
        "pooling doubles the steps of the second kernel": 5 + 1 + 2,
        "pooling is missing": 5 + 2,
        "a block of pooling sees one pixel more than a number of the map": 5 + 2 * 2,
    },
}
for name, answer in counts.items():
    print(f"{name:25} {check_answer(answer, COUNTED[name], MISCOUNTED[name], tolerance=1e-6)}")

# %% tags=["solution"] jupyter={"source_hidden": true}
solution = {
    "parameters of the first": 16 * (5 * 5 * 3 + 1),
    "side of its maps": 32 - 5 + 1,
    "side after pooling": 28 / 2,
    "parameters of the second": 8 * (3 * 3 * 16 + 1),
    # 5 pixels; two neighbors in a block see 6; two more blocks to go, two pixels each.
    "receptive field": 5 + 1 + 2 * 2,
}
for name, answer in solution.items():
    print(f"{name:25} {check_answer(answer, COUNTED[name], MISCOUNTED[name], tolerance=1e-6)}")

# %% [markdown]
# ## To play with
#
# Shift a digit yourself, and see what the three networks make of it.


# %%
def draw(right, down, digit):
    """One test digit, shifted, and the probabilities of the three networks."""
    chosen = int(np.flatnonzero(test_y == digit)[0])
    image = shifted(test_x[chosen : chosen + 1], right, down)
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    panels = figure.subplots(1, 4)
    panels[0].imshow(image[0, :, :, 0], cmap="gray_r")
    panels[0].set(title=f"a {digit}, {right} right, {down} down", xticks=[], yticks=[])
    for axes, (name, read) in zip(panels[1:], READERS.items(), strict=True):
        bars = axes.bar(range(10), jax.nn.softmax(read(image)[0]), color=BLUE)
        bars[digit].set_color(ORANGE)
        axes.axhline(0.1, color="0.4", linestyle=":")
        axes.set(ylim=(0, 1), title=name, xlabel="digit", xticks=range(10))
    panels[1].set_ylabel("probability")
    handles = [
        Patch(color=ORANGE, label="the right digit"),
        Patch(color=BLUE, label="wrong digits"),
        Line2D([], [], color="0.4", linestyle=":", label="guessing: 0.1"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


PIXELS = (-6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6)
KNOBS = {"right": PIXELS, "down": PIXELS, "digit": tuple(range(10))}
fnn.plot.show(draw, KNOBS, start={"right": 4, "down": 0, "digit": 3})

# %% [markdown]
# Things to try: `KERNEL = "border"` in section 1; `fnn.plot.filters(weight)` for all 32 filters;
# training on shifted digits, `train_x = shifted(train_x, 4)` before section 6 trains: where do the
# curves have their tops then? Next: networks that read in time, where the weights are shared from
# step to step.
