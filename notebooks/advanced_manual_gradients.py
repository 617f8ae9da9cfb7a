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
# # Manual gradients, a page each
#
# Automatic differentiation applies the chain rule to every operation, one after the other. Whoever
# derives a gradient by hand sees the whole formula: terms cancel, sums change places, and what is
# cheap to compute again need not be kept. Each page has the forward formula, the derivation, what
# is saved and why, what it costs, and a measurement.
#
# 1. Batch norm: three paths in one formula.
# 2. Softmax and cross-entropy: $p - t$.
# 3. Convolution: a weight gradient is a sum over shifted windows.
# 4. Max-pooling: one byte remembers the winner.
# 5. LSTM: the weight's gradient outside of the loop through time.
# 6. Attention in blocks: the log-sum-exp in place of $T \times S$ probabilities.
# 7. The linear head with its cross-entropy, in chunks of classes.
# 8. Reversible stacks: inputs out of outputs.
# 9. Dropout and activations: what they keep.
# 10. Where autodiff is as good or better, and how `fnn.tune` picks it.
#
# Letters: $B$ examples, $T$ steps of time, $I$ inputs, $O$ outputs, $C$ channels, $K$ classes, $N$
# heads. $dy$ is $\partial L / \partial y$, and $L$ any number computed from $y$: a gradient has to
# hold for every $dy$. $\delta_{jk}$ is 1 where $j = k$, and 0 elsewhere. All of them rest on the
# scalar chain rule: if $x$ acts on $L$ through numbers $y_j$, then $dx = \sum_j dy_j \, \partial
# y_j / \partial x$.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn.lab import choose, in_bytes, measure, rounding, table

# Some accelerators round matrix products to fewer digits; we want to compare gradients closely.
jax.config.update("jax_default_matmul_precision", "highest")
# Okabe and Ito's colors, told apart by color-blind eyes.
BLUE, ORANGE = "#0072B2", "#D55E00"

# %% [markdown]
# Every page measures alike. `checked` compares `backward` with `jax.vjp` of `apply` by
# `fnn.check_layer`: in float64, on a small input, for a random $dy$; a gradient that is wrong would
# raise. `measured` runs a layer forward and backward by both ways, in float32:
#
# - *ms*: the median time of one compiled program of forward and backward;
# - *temporary*: the memory of that program beside its inputs and outputs;
# - *keeps*: what forward leaves for backward, parameters not counted. The input of a layer counts,
#   though the layer in front, as its output, may keep the same array.
#
# The last two differ: inside one program XLA may compute again what autodiff asks it to keep.

# %%
random = np.random.default_rng(0)
pages = {}


def numbers(*shape):
    return jnp.asarray(random.normal(size=shape), "float32")


def checked(layer, shape):
    """Check a layer against autodiff, in float64, and print the largest error."""
    report = fnn.check_layer(layer, numbers(*shape), numeric=False)
    worst = max(report.rows, key=lambda row: row.error)
    print(f"differs from jax.vjp by {worst.error:.0e}; rounding allows {worst.bound:.0e}")


def measured(name, layer, shape):
    """Measure a layer both ways, and print what came out."""
    x = jax.ShapeDtypeStruct(shape, "float32")
    ways = pages[name] = measure(layer, x, key=jax.random.key(0), rounds=9)
    rows = [
        (title, f"{way.milliseconds:.3f}", in_bytes(way.temporary_bytes), in_bytes(way.kept_bytes))
        for title, way in zip(("by hand", "autodiff"), ways, strict=True)
    ]
    print(f"\n{name}: x {shape}\n{table(('', 'ms', 'temporary', 'keeps'), rows)}")
    print(f"better by time: {choose(ways, 'time')}, by bytes: {choose(ways, 'bytes')}")


# %% [markdown]
# ## 1. Batch norm
#
# The channels do not mix. For the $M$ numbers $x_m$ of one, with $M$ the product of all axes but
# the last,
#
# $$\mu = \tfrac{1}{M} \sum_m x_m, \quad v = \tfrac{1}{M} \sum_m (x_m - \mu)^2,$$
# $$r = (v + \varepsilon)^{-1/2}, \quad n_m = (x_m - \mu) \, r, \quad
# y_m = \text{scale} \, n_m + \text{shift}.$$
#
# **Derivation.** $x_m$ acts on every $n_j$: directly, through $\mu$, and through $v$. In $v$ the
# path through $\mu$ vanishes, since $\sum_j (x_j - \mu) = 0$. So
# $\partial v / \partial x_m = 2 (x_m - \mu) / M$ and
#
# $$\frac{\partial r}{\partial x_m} = -\tfrac{1}{2} r^3 \, \frac{\partial v}{\partial x_m}
# = -\frac{r^2 n_m}{M}
# \quad\Rightarrow\quad
# \frac{\partial n_j}{\partial x_m}
# = r \left( \delta_{jm} - \frac{1}{M} - \frac{n_j n_m}{M} \right).$$
#
# Sum over $j$ with $dn_j = \text{scale} \, dy_j$. The two sums are the gradients of the parameters,
# $d\text{shift} = \sum_j dy_j$ and $d\text{scale} = \sum_j dy_j n_j$, so they are there already:
#
# $$dx_m = \text{scale} \cdot r \left( dy_m - \frac{d\text{shift}}{M}
# - \frac{n_m \, d\text{scale}}{M} \right).$$
#
# **Saved**: $x$, $\mu$ and $r$; the last two are $C$ numbers each. $n$ is one subtraction and one
# product away from $x$, so it is computed again. Autodiff keeps what its operations met.
# **Costs**: two sums and one pass over the data.

# %%
layer = fnn.batch_norm()
x, dy = random.normal(size=(2, 64, 3)).astype("float32")
_, state = layer.init(jax.random.key(0), x)
params = {"scale": np.float32([0.5, 1, -2]), "shift": np.float32([1, 0, 0])}

r = (x.var(0) + 1e-5) ** -0.5
n = (x - x.mean(0)) * r
dscale, dshift = (dy * n).sum(0), dy.sum(0)
dx = params["scale"] * r * (dy - dshift / 64 - n * dscale / 64)

_, _, residuals = jax.jit(functools.partial(layer.forward, train=True))(params, state, x)
_, found = jax.jit(layer.backward)(params, residuals, dy)
assert np.abs(dx - found).max() / np.abs(dx).max() <= rounding("float32", terms=64)

checked(layer, (5, 2))
measured("batch norm", layer, (2048, 128))

# %% [markdown]
# ## 2. Softmax and cross-entropy
#
# For one row of scores $y_k$, with $l = \log \sum_j e^{y_j}$ and a target of shares $s_k$, for a
# label the one-hot $t_k$:
#
# $$p_k = e^{y_k - l}, \qquad v = -\sum_k s_k \log p_k = -\sum_k s_k y_k + l \sum_k s_k.$$
#
# **Derivation.** $\partial l / \partial y_k = e^{y_k} / \sum_j e^{y_j} = p_k$, hence
#
# $$dy_k = \Big( p_k \sum_j s_j - s_k \Big) \, dv,$$
#
# which is $p - t$ for a label. Softmax by itself has to give the whole Jacobian: as $\log p_j$ has
# the slope $\delta_{jk} - p_k$, $\partial p_j / \partial y_k = p_j (\delta_{jk} - p_k)$ and
# $dy_k = p_k (dp_k - \sum_j dp_j p_j)$. In one step with the loss, nothing is divided by a $p$
# that may be zero.
#
# **Saved**: the slope in the bracket, $(B, K)$. Forward has $p$ in its hands, and backward is a
# single product. Autodiff keeps as much. **Costs**: nothing more than $p$. The gain is a smaller
# program, with less memory in between; in time the two are close.
#
# A loss is no layer. We put a head in front and take both for one: the chain rule of two nodes.

# %%


def classifier(head, loss):
    """Make one layer of a head and a loss, from x to the value of each example."""

    def labels(x):
        return jnp.arange(x.shape[0]) % 5

    def init(key, x):
        return head.init(key, x)[0]

    def forward(params, x):
        y, _, of_head = head.forward(params, (), x)
        values, of_loss = loss.forward(y, labels(x))
        return values, (of_head, of_loss)

    def backward(params, residuals, dvalues):
        of_head, of_loss = residuals
        return head.backward(params, of_head, loss.backward(of_loss, dvalues))

    return fnn.stateless(init, forward, backward)


scores = classifier(fnn.identity(), fnn.losses.cross_entropy(label_smoothing=0.1))
checked(scores, (4, 7))
measured("cross-entropy", scores, (512, 1000))

# %% [markdown]
# ## 3. Convolution
#
# With $p$ a place of $y$, $k$ one of the kernel, $s$ the stride, and $x$ zero outside of its axes:
#
# $$y_{bpo} = \text{bias}_o + \sum_{k, i} x_{b, \, ps + k - \text{before}, \, i} \; W_{kio}.$$
#
# **Derivation.** $W_{kio}$ works at every place of every example, always with the number of $x$
# that lies $k$ into the window, so
#
# $$dW_{kio} = \sum_{b, p} x_{b, \, ps + k - \text{before}, \, i} \; dy_{bpo}.$$
#
# For a fixed $k$ that is $x$ shifted by $k$, against $dy$: one matrix product
# $(I, BP)(BP, O)$ for each place of the kernel, $P$ places in all. And $x_{bqi}$ acts on each $y$
# whose window has $q$: $dx_{bqi} = \sum_{k, p, o} dy_{bpo} W_{kio}$ over $ps + k - \text{before} =
# q$, a convolution of $dy$, spread by the stride, with the kernel turned around.

# %%
layer = fnn.conv(4, 3)
x, dy = numbers(2, 6, 6, 5), numbers(2, 6, 6, 4)
params, state = layer.init(jax.random.key(0), x)
_, _, residuals = jax.jit(layer.forward)(params, state, x)
found = jax.jit(layer.backward)(params, residuals, dy)[0]["weight"]

padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
dweight = np.zeros((3, 3, 5, 4), "float32")
for i in range(3):
    for j in range(3):
        shifted = padded[:, i : i + 6, j : j + 6]
        dweight[i, j] = shifted.reshape(-1, 5).T @ dy.reshape(-1, 4)
assert np.abs(dweight - found).max() / np.abs(found).max() <= rounding("float32", terms=2 * 6 * 6)

# %% [markdown]
# **Saved**: $x$ alone; autodiff keeps the same. Here the gain is in the arithmetic, which has many
# orders. The sums over $b$ and $p$ are themselves a convolution, of examples in place of channels,
# with stride and dilation exchanged. On GPU and TPU that is what `fnn` calls, the libraries there
# being good, and autodiff calls the same. On CPU it pays to choose:
#
# - $dW$: XLA's convolution wants the channels last, and here the examples have their place. Alone
#   XLA puts the axes in order by itself; inside of a loop, as a compiled training run is, it does
#   not, and takes a hundred times as long. `fnn` takes a few examples at a time, that they stay in
#   the cache, as one matrix product: $x$ moved to the columns of the kernel, $dy$ to its rows.
# - $dx$ of a stride $s$: spread out, $dy$ is mostly zeros. Places $q$ that lie $s$ apart meet the
#   same $k$, those with $k \equiv q + \text{before}$ modulo $s$. So $dx$ falls into $s$ phases
#   along each axis, each a small convolution of $dy$ as it is with a part of the kernel.
# - $y$ and $dx$: where XLA shares long rows only among threads, all examples stand side by side in
#   one image, with zeros between.
# - Channel by channel, as in a depthwise convolution: sums of shifted copies.
#
# **Costs**: room for what is put in order, where no layer beside makes the copy part of its own
# work. A `fnn.repeat` is a loop, here of two layers:

# %%
checked(fnn.conv(4, 3, stride=2), (2, 5, 5, 3))
checked(fnn.depthwise_conv(3), (2, 5, 5, 3))
measured("convolution", fnn.conv(32, 3), (16, 14, 14, 32))
measured("convolutions in a loop", fnn.repeat(fnn.conv(32, 3), 2), (8, 14, 14, 32))
measured("depthwise convolution", fnn.depthwise_conv(3), (16, 14, 14, 64))

# %% [markdown]
# ## 4. Max-pooling
#
# $y_{bpc} = \max_k x_{b, \, ps + k, \, c}$. **Derivation.** A small change of $x$ changes $y$ only
# at the largest number of its window, where the slope is 1. So with $k^*$ its place (of equal ones
# the first, a decision),
#
# $$dx_{bqc} = \sum_{p \, : \; ps + k^*_{bpc} = q} dy_{bpc}.$$
#
# **Saved**: $k^*$, one byte for each number of $y$: for a window of $2 \times 2$ in float32 a
# sixteenth of $x$. Neither $x$ nor $y$ is needed. **Costs**: choosing $k^*$ while going forwards.
# Windows side by side need no sum: each $q$ has one $p$. Where windows overlap, every place of the
# kernel sends a shifted array back, and autodiff can be faster: see page 10.
#
# `jax.lax.reduce_window` is what one would write by JAX alone; its gradient searches every window
# a second time, so that it keeps $x$. It is what we measure against, as `apply`:

# %%
pool = fnn.max_pool(2, padding="VALID")


def plain_pool(x):
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


against = fnn.Layer(pool.init, fnn.from_function(plain_pool).apply, pool.forward, pool.backward)
checked(against, (2, 5, 4, 3))
measured("max pool", against, (16, 28, 28, 32))

# %% [markdown]
# ## 5. LSTM: back-propagation through time
#
# With $\sigma(a) = 1 / (1 + e^{-a})$, and $H$ the width, from step to step
#
# $$a_t = x_t W + h_{t-1} U + b, \qquad
# i, f, o = \sigma(a^i), \sigma(a^f), \sigma(a^o), \quad g = \tanh(a^g),$$
# $$c_t = f \odot c_{t-1} + i \odot g, \qquad y_t = h_t = o \odot \tanh(c_t).$$
#
# **Derivation.** $h_t$ acts through $y_t$ and through $a_{t+1}$, $c_t$ through $h_t$ and $c_{t+1}$:
#
# $$dh_t = dy_t + da_{t+1} U^\top, \qquad
# dc_t = dc_{t+1} \odot f_{t+1} + dh_t \odot o \odot (1 - \tanh^2 c_t),$$
# $$da^i = dc \, g \, i (1 - i), \quad da^f = dc \, c_{t-1} f (1 - f), \quad
# da^g = dc \, i (1 - g^2), \quad da^o = dh \, \tanh(c) \, o (1 - o).$$
#
# This runs from the last step to the first, and can do no other: $da_t$ needs $da_{t+1}$. But
# $U$ works in every step, so its gradient is a sum over $t$ that nothing in the loop waits for:
#
# $$dU = \sum_t h_{t-1}^\top \, da_t
# = \begin{pmatrix} h_0 \\ \vdots \\ h_{T-1} \end{pmatrix}^{\!\top}
# \begin{pmatrix} da_1 \\ \vdots \\ da_T \end{pmatrix}, \qquad (H, TB)(TB, 4H).$$
#
# One product in place of $T$. Likewise $dW$, $db$ and $dx = da \, W^\top$; those autodiff does as
# well, since $x W + b$ is made for all steps at once. The loop is left with $da_t U^\top$ and what
# acts number by number. Autodiff of the loop carries $dU$ along: in each step it adds a product of
# $B$ terms to an array $(H, 4H)$, which has to be read and written.
#
# In place of all $T$ steps, fnn takes a piece of so many that the product has some 500 rows. It is
# as fast, and the $da$ of a piece are in the cache when they are multiplied, and never stored.
#
# **Saved**: $x_t$ and the four gates, $I + 4H$ numbers a step, and $h$ and $c$ at the beginning of
# every piece. $a$ is not needed, as the slopes of $\sigma$ and $\tanh$ follow from their values;
# $h_{t-1}$ and $c_{t-1}$ within a piece follow from the gates, number by number, and no product is
# made twice. **Costs**: that, with two $\tanh$. At a narrow $H$, or with a large batch, the loop's
# own product outweighs all this, and the two ways are close.

# %%
checked(fnn.lstm(3), (2, 4, 3))
measured("LSTM", fnn.lstm(128), (8, 48, 64))
measured("narrow LSTM", fnn.lstm(16), (32, 48, 16))

# %% [markdown]
# ## 6. Attention in blocks
#
# For one head, with the queries scaled already, $q$ $(T, D)$, $k$ and $v$ $(S, D)$:
#
# $$z_{ts} = \sum_d q_{td} k_{sd}, \qquad l_t = \log \sum_s e^{z_{ts}}, \qquad
# p_{ts} = e^{z_{ts} - l_t}, \qquad o_{td} = \sum_s p_{ts} v_{sd}.$$
#
# **Derivation.** The two products give $dp_{ts} = \sum_d do_{td} v_{sd}$, $dv = p^\top do$, and
# later $dq = dz \, k$, $dk = dz^\top q$. Between them is the softmax of page 2,
# $dz_{ts} = p_{ts} (dp_{ts} - \sum_j p_{tj} dp_{tj})$. Its sum runs over a whole row of $(T, S)$,
# but exchange the two sums:
#
# $$\sum_j p_{tj} \, dp_{tj} = \sum_j p_{tj} \sum_d do_{td} \, v_{jd}
# = \sum_d do_{td} \, o_{td}.$$
#
# So $dz_{ts}$ needs of its row two numbers only, this one and $l_t$. Any block of $(T, S)$ can be
# computed apart from all others, used, and forgotten. Forwards a row meets its blocks one after
# the other and carries its maximum $m$ and $\sum e^{z - m}$, and $\sum e^{z - m} v$ likewise; when
# a block raises the maximum, the sums so far shrink by $e^{m - m'}$:

# %%
z = 30 * random.normal(size=1000)
top, total = -np.inf, 0.0
for block in np.split(z, 8):
    new = max(top, block.max())
    total = total * np.exp(top - new) + np.exp(block - new).sum()
    top = new
log_sum = top + np.log(total)
largest = z.max()
assert np.isclose(log_sum, largest + np.log(np.exp(z - largest).sum()), rtol=rounding(float, 1000))
print(f"log-sum-exp by blocks {log_sum:.4f}; exp(z) alone would reach {np.exp(largest):.0e}")

# %% [markdown]
# **Saved**: $x$, $q$, $k$, $v$, $o$, and $l$, of $N T$ numbers, in place of the $N T S$ of $p$:
# memory grows with $T$, and no longer with $T^2$. **Costs**: backward computes $z$ and $p$ again,
# five products in place of four. A block stays in the cache, and with `causal` the blocks in the
# future are skipped, so that it pays in time too. Up to two blocks long, $p$ is small; there it is
# computed at once, and kept.

# %%
causal = functools.partial(fnn.attention, 2, causal=True)
checked(causal(block=2), (2, 7, 4))
measured("attention in blocks", causal(block=64), (1, 512, 16))
measured("attention, all at once", causal(block=64), (4, 64, 16))

# %% [markdown]
# ## 7. The linear head in chunks
#
# A language model ends with $z = x W + b$, $(B T, K)$, and a cross-entropy over $K$ words: the
# largest array of the whole model. **Derivation.** By page 2 the slope of row $n$ with label
# $t_n$ is $g_{nk} = (e^{z_{nk} - l_n} - [k = t_n]) \, dv_n$, and the product in front gives
#
# $$dx_n = \sum_k g_{nk} W_{:k}, \qquad dW_{:k} = \sum_n x_n g_{nk}, \qquad db_k = \sum_n g_{nk}.$$
#
# As in attention a row has to tell all its classes just $l_n$. So forward runs over chunks of
# classes, carrying maximum and sum, and picks the label's $z$ in passing. Backward computes a
# chunk of $z$ again, makes $g$ of it, adds to $dx$, writes its columns of $dW$, and forgets it.
#
# **Saved**: $x$ and $l$. **Costs**: the product $x W$ a second time, four in place of three; room
# for one chunk. In time that is a loss, which a smaller memory traffic makes good in part. Against
# what one writes without chunks, `fnn.dense` and `cross_entropy` by autodiff (`fnn.linear_head` has
# the same parameters):

# %%
classes = 8192
chunked = classifier(fnn.linear_head(classes), fnn.losses.linear_cross_entropy())
plain = classifier(fnn.dense(classes), fnn.losses.cross_entropy())
whole = fnn.Layer(plain.init, plain.apply, chunked.forward, chunked.backward)
checked(whole, (4, 3))
measured("linear head in chunks", whole, (256, 32))

# %% [markdown]
# ## 8. Reversible stacks
#
# The channels come in halves, and $f$ and $g$ are any layers that keep their shape:
#
# $$y_1 = x_1 + f(x_2), \qquad y_2 = x_2 + g(y_1).$$
#
# **Derivation.** Solve for the inputs, from the last line to the first; nothing of $f$ or $g$ has
# to be inverted:
#
# $$x_2 = y_2 - g(y_1), \qquad x_1 = y_1 - f(x_2).$$
#
# The chain rule goes the same way. $y_1$ acts by itself and through $g$, $x_1$ through $y_1$
# alone, $x_2$ by itself and through $f$. With $J$ the matrix of a layer's slopes,
#
# $$dx_1 = dy_1 + J_g^\top dy_2, \qquad dx_2 = dy_2 + J_f^\top dx_1.$$
#
# **Saved**: the last $y$, whatever the depth; block by block backward works out the inputs, and
# with them what $f$ and $g$ save. **Costs**: $f$ and $g$ go forwards once more, four products in
# place of three where they are dense layers; and rounding. The difference $y_2 - g(y_1)$ is $x_2$
# but for the last digits, and from block to block the error grows.

# %%
half = fnn.serial(fnn.dense(32), fnn.tanh())
checked(fnn.reversible(half, half, depth=16), (4, 64))
measured("reversible, 16 deep", fnn.reversible(half, half, depth=16), (64, 64))

# %% [markdown]
# ## 9. Dropout and activations: what they keep
#
# All act on each number by itself, $dx = dy \, f'(x)$, and the only question is what $f'$ is made
# of.
#
# | | forward | $f'$ | saved |
# |---|---|---|---|
# | relu | $y = \max(x, 0)$ | $[y > 0]$ | $y$ |
# | tanh | $y = \tanh(x)$ | $(1 - y)(1 + y)$ | $y$ |
# | sigmoid | $y = \sigma(x)$ | $y (1 - y)$ | $y$ |
# | silu | $y = x \, \sigma(x)$ | $s (1 + x (1 - s))$, $s = \sigma(x)$ | $x$ |
# | gelu | $y = x \, \Phi(x)$ | $\Phi(x) + x \, \phi(x)$ | $x$ |
# | dropout | $y = m x / (1 - \text{rate})$ | $m / (1 - \text{rate})$ | $m$, one byte |
#
# $\Phi$ and $\phi$ are the distribution and the density of the normal. **Derivation.** For tanh,
# $y = \sinh / \cosh$ and $y' = (\cosh^2 - \sinh^2) / \cosh^2 = 1 - y^2$. For gelu and silu the
# product rule: $(x \Phi)' = \Phi + x \phi$; with $s' = s (1 - s)$, $(x s)' = s + x s (1 - s)$. For
# dropout $m$ does not depend on $x$.
#
# **Saved**: $y$ where $f'$ can be had from it, since the next layer saves its input anyway, and the
# two are one array. Otherwise $x$, and $f'$ is computed again. Dropout keeps booleans, not numbers.
# **Costs**: the exponential of gelu and silu again in backward. In time autodiff is as good: in one
# compiled program XLA fuses what it writes, and keeps no more than it must. The bytes count where
# forward and backward are apart, with other layers in between. What takes time in dropout is to
# draw $m$, by both ways.

# %%
for name, layer in {
    "relu": fnn.relu(),
    "tanh": fnn.tanh(),
    "gelu": fnn.gelu(),
    "dropout": fnn.dropout(0.2),
}.items():
    checked(layer, (3, 4))
    measured(name, layer, (512, 256))
    print()

# %% [markdown]
# ## 10. All pages, and who chooses
#
# What forward keeps, and the time by hand over that of autodiff. The figures are of this machine
# and of these small shapes.

# %%
figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(9, 5.2), layout="constrained")
rows = np.arange(len(pages))
kept = [[way.kept_bytes / 1024 for way in ways] for ways in pages.values()]
left.hlines(rows, *zip(*kept, strict=True), color="lightgrey")
# Where both keep the same, the square shows around the dot.
left.plot([auto for _, auto in kept], rows, "s", color=ORANGE, markersize=9, label="autodiff")
left.plot([manual for manual, _ in kept], rows, "o", color=BLUE, label="by hand")
left.set(xscale="log", xlabel="KiB", title="Kept for backward", yticks=rows, yticklabels=pages)
left.invert_yaxis()
ratios = [ways.time_ratio for ways in pages.values()]
right.hlines(rows, 1, ratios, color=BLUE)
right.plot(ratios, rows, "o", color=BLUE)
right.axvline(1, color="gray", linewidth=0.8)
right.set(xscale="log", xlabel="manual / auto: left of 1 manual is faster", title="Time")
figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
plt.show()

# %% [markdown]
# Near the line the two are equal, and manual may also lose. Which it is depends on machine and
# shape, so nobody should guess: `fnn.tune` measures every layer of a model at the shape that
# reaches it, and puts `fnn.use_auto` around those where autodiff is better. By time it has to
# save 5 percent, and be ahead in three rounds of four; by bytes the temporary memory decides. The
# parameters stay, and the gradient too, but for rounding.

# %%
model = fnn.serial(
    conv=fnn.conv(16, 3),
    norm=fnn.batch_norm(),
    act=fnn.relu(),
    pool=fnn.max_pool(3, stride=2),
    flat=fnn.flatten(),
    drop=fnn.dropout(0.2),
    out=fnn.dense(10),
)
x = numbers(32, 14, 14, 3)
labels = jnp.arange(32) % 10
loss, key = fnn.losses.cross_entropy(), jax.random.key(2)
tuned, tuning = fnn.tune(model, loss, (x, labels), key=jax.random.key(0))
print(tuning)

# %%
params, state = model.init(jax.random.key(0), x)
gradients = [
    jax.jit(fnn.value_and_grad(each, loss))(params, state, (x, labels), key=key)[1]
    for each in (model, tuned)
]
first, second = (jnp.concatenate([a.ravel() for a in jax.tree.leaves(g)]) for g in gradients)
error = float(jnp.abs(first - second).max() / jnp.abs(first).max())
print(f"tuned and not, the gradients differ by {error:.1e}")
assert error <= rounding("float32", terms=32 * 14 * 14)
