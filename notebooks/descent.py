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
# # Gradient descent with noise
#
# Where does gradient descent go, where does it stop, and why does it help to shake it?
#
# 1. The learning rate: too small, good, too large.
# 2. A local minimum.
# 3. A saddle point.
# 4. Noise: out of the local minimum, off the saddle.
# 5. Many saddles: exponentially slow against steady.
# 6. The noise that is there anyway: stochastic, mini-batch, full batch.
# 7. How much noise: the temperature.
#
# Letters: $p$ the parameters, $L(p)$ the height of the landscape, $g = \nabla L(p)$ its slope,
# $\eta$ the learning rate, $n$ standard normal noise.

# %%
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from fnn import landscapes, optim, plot
from fnn.landscapes import Trajectory

# Shows figures that are made without pyplot, too.
# %matplotlib inline

# Okabe and Ito's colors, told apart by color-blind eyes.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
KEY = jax.random.key(3)

# %% [markdown]
# ## 1. The learning rate
#
# Descent repeats one step, downhill along the slope:
#
# $$p \leftarrow p - \eta \, g.$$
#
# In a bowl $L = \frac{1}{2} \sum_i c_i p_i^2$ the slope is $g_i = c_i p_i$, so every coordinate is
# multiplied by $1 - \eta c_i$ in each step. It shrinks while $|1 - \eta c_i| < 1$: for all
# $\eta < 2 / c_i$. The steepest direction sets the limit, the flattest one the time.

# %%
bowl = landscapes.quadratic((1.0, 10.0))
rates = {"too small: 0.01": 0.01, "good: 0.15": 0.15, "too large: 0.205": 0.205}
paths = {
    name: landscapes.descend(optim.sgd(rate), bowl, [-1.8, 0.9], 60) for name, rate in rates.items()
}
figure = plot.descent(bowl, paths)
display(figure)

# %% [markdown]
# The limit is $2 / 10 = 0.2$. Check the factor $1 - \eta c$ against the path:

# %%
for (name, path), rate in zip(paths.items(), rates.values(), strict=True):
    factors = path.points[1] / path.points[0]
    print(f"{name:<17} factors {factors[0]:+.3f} {factors[1]:+.3f}   height {path.values[-1]:.2g}")
    assert np.allclose(factors, [1 - rate, 1 - 10 * rate], atol=1e-5)
assert paths["good: 0.15"].values[-1] < paths["too small: 0.01"].values[-1]
assert paths["too large: 0.205"].values[-1] > paths["too large: 0.205"].values[20]

# %% [markdown]
# ## 2. A local minimum
#
# The slope is zero at every minimum, deep or not: descent stays in the basin where it starts.

# %%
wells = landscapes.double_well()
stuck = landscapes.descend(optim.sgd(0.02), wells, [1.6], 100)
found = landscapes.descend(optim.sgd(0.02), wells, [-1.6], 100)
display(plot.descent(wells, {"from the right": stuck, "from the left": found}))
print(f"heights {stuck.values[-1]:.3f} and {found.values[-1]:.3f}")
assert stuck.values[-1] > found.values[-1] + 0.5

# %% [markdown]
# ## 3. A saddle point
#
# The slope is zero on a saddle too. The curvatures there are the eigenvalues of the Hessian: one
# below zero, $-\gamma$, is a way down. Descent from a point a little off, at a distance $\delta$
# along that way, grows it by $1 + \eta \gamma$ in each step, so it needs about
# $\ln(1 / \delta) / \ln(1 + \eta \gamma)$ steps: the nearer to the ridge, the longer. Exactly on
# the ridge it never leaves.

# %%
saddle = landscapes.saddle()
print("curvatures", jnp.linalg.eigvalsh(jax.hessian(saddle)(jnp.zeros(2))))
starts = {"on the ridge": 0.0, "off by 1e-6": 1e-6, "off by 0.1": 0.1}
paths = {
    name: landscapes.descend(optim.sgd(0.1), saddle, [1.3, off], 200)
    for name, off in starts.items()
}
display(plot.descent(saddle, paths))
for name, path in paths.items():
    away = np.abs(path.points[:, 1]) > 0.5
    print(f"{name:<13} leaves after {away.argmax() if away.any() else 'no'} steps")
assert paths["on the ridge"].values[-1] > -1e-6
assert paths["off by 0.1"].values[-1] < -0.24

# %% [markdown]
# ## 4. Noise
#
# Shake every step, $p \leftarrow p - \eta \, (g + n)$. On the ridge any push sideways is enough. In
# the local minimum it takes pushes that add up to the height of the barrier, so we start with much
# noise and let it fade: *annealing*.

# %%
shaken = optim.chain(optim.sphere_noise(0.1, key=KEY), optim.sgd(0.1))
path = landscapes.descend(shaken, saddle, [1.3, 0.0], 200)
pushed = landscapes.descend(
    optim.perturbed(optim.sgd(0.1), 0.01, 0.01, 50, key=KEY), saddle, [1.3, 0.0], 200
)
display(plot.descent(saddle, {"noise at every step": path, "a push at rest": pushed}))
assert path.values[-1] < -0.2
assert pushed.values[-1] < -0.24

# %%
fading = optim.schedule.exponential(0.6, 0.5, steps=500)
annealed = optim.sgld(0.02, temperature=fading, key=KEY)
path = landscapes.descend(annealed, wells, [1.6], 4000)
display(plot.descent(wells, {"no noise": stuck, "noise that fades": path}))
print(f"ends at {path.points[-1, 0]:.2f}, the deep minimum is at {wells.minima[0][0]:.2f}")
assert path.values[-1] < 0

# %% [markdown]
# Chance decides each run. Of many, how many end in the deep basin?

# %%
ends = jax.vmap(
    lambda key: landscapes.descend(
        optim.sgld(0.02, temperature=fading, key=key), wells, [1.6], 4000
    ).points[-1, 0]
)(jax.random.split(KEY, 200))
print(f"{(ends < 0).mean():.0%} of 200 runs")
assert (ends < 0).mean() > 0.6

# %% [markdown]
# ## 5. Many saddles
#
# One saddle costs a little time. A chain of them is another matter: while plain descent leaves the
# first one, it shrinks its distance from the ridge of the next. On the *octopus* of Du et al.
# (2017) each saddle takes $1 + \ln 2 / \ln(1 + 1 / 2L) = 2.71$ times as long as the one before (for
# $L = 1$): exponential in the number of saddles. With a push when the slope is small, each takes
# the same time. (Double precision: $0.5^{1000}$ is nothing in single.)

# %%
with jax.enable_x64(True):
    octopus = landscapes.octopus(6)
    start = np.random.default_rng(0).uniform(-1, 1, 6)
    optimizers = {
        "plain": optim.sgd(0.25),
        "pushed": optim.perturbed(optim.sgd(0.25), 0.03, 0.03, 1, key=KEY),
    }
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for (name, optimizer), color, marker in zip(
        optimizers.items(), (BLUE, ORANGE), "o^", strict=True
    ):
        path = landscapes.descend(optimizer, octopus, start, 1600)
        left = (np.abs(path.points) > 2 * math.e).argmax(0)
        print(f"{name:<7} leaves the saddles at steps {left.tolist()}")
        axes.plot(range(1, 7), left, color=color, marker=marker, label=name)
        if name == "plain":
            factor = left[-1] / left[-2]
            assert abs(factor / (1 + math.log(2) / math.log(1.5)) - 1) < 0.01
        else:
            assert left[-1] < 200
axes.set(yscale="log", xlabel="saddle", ylabel="step at which it is left", title="Six saddles")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## 6. The noise that is there anyway
#
# A slope from some of the examples is the true slope plus an error: noise for free, with a variance
# that falls as one over the batch size. *Stochastic* descent looks at one example, *mini-batch* at
# some, *full-batch* at all, for the same steps and less and less noise.

# %%
x_key, error_key = jax.random.split(KEY)
x = jax.random.normal(x_key, (256, 2)) * jnp.array([1.0, 0.45])
true = jnp.array([1.0, -1.0])
y = x @ true + 0.7 * jax.random.normal(error_key, (256,))


def height(p):
    """The mean squared error of all examples, for points (..., 2)."""
    return ((jnp.einsum("...i,ni->...n", p, x) - y) ** 2).mean(-1)


def by_batches(size, steps=120, rate=0.1):
    """Descend on batches drawn anew in every step."""

    def step(p, t):
        rows = jax.random.permutation(jax.random.fold_in(KEY, t), 256)[:size]
        slope = 2 * x[rows].T @ (x[rows] @ p - y[rows]) / size
        return p - rate * slope, p

    points = jax.lax.scan(step, jnp.array([-1.5, 1.0]), jnp.arange(steps))[1]
    return Trajectory(points, height(points))


sizes = {"stochastic: 1": 1, "mini-batch: 16": 16, "full batch: 256": 256}
paths = {name: by_batches(size) for name, size in sizes.items()}
display(plot.descent(height, paths, low=(-2.0, -2.5), high=(2.5, 1.5)))
spread = {name: float(path.points[60:].std(0).sum()) for name, path in paths.items()}
for name, value in spread.items():
    print(f"{name:<16} spread of the second half {value:.3f}")
assert spread["stochastic: 1"] > spread["mini-batch: 16"] > spread["full batch: 256"]

# %% [markdown]
# ## 7. How much noise: the temperature
#
# With noise of a fixed size descent does not settle at a point but in a cloud. For
# $p \leftarrow p - \eta g + \sqrt{2 \eta T}\, n$ in a bowl $L = a p^2 / 2$ the variance $v$ of the
# cloud is where shrinking and shaking balance,
#
# $$v = (1 - \eta a)^2 v + 2 \eta T \quad\Rightarrow\quad v = \frac{2 T}{a (2 - \eta a)}
# \approx \frac{T}{a},$$
#
# which is the distribution of a thermometer: density $e^{-L / T}$. It holds in any landscape for
# small steps, and so descent with the right noise *samples*.

# %%
a, rate, temperature, chains = 3.0, 0.1, 0.5, 20_000
path = landscapes.descend(
    optim.sgld(rate, temperature=temperature, key=KEY),
    lambda p: (a * p**2 / 2).sum(),
    jnp.zeros(chains),
    60,
)
variance, predicted = path.points[-1].var(), 2 * temperature / (a * (2 - rate * a))
print(f"variance of {chains:,} points {variance:.4f}, predicted {predicted:.4f}")
# An estimate of a variance from so many points is off by five times this once in 1.7 million.
assert abs(variance / predicted - 1) < 5 * math.sqrt(2 / chains)

# %%
cloud = landscapes.descend(
    optim.sgld(0.01, temperature=0.5, key=KEY),
    lambda p: wells(p[:, None]).sum(),
    jax.random.uniform(KEY, (5000,), minval=-1.5, maxval=1.5),
    3000,
).points[-1]
side = np.linspace(-1.8, 1.8, 201)
density = np.exp(-np.asarray(wells(side[:, None].astype("float32"))) / 0.5)
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.hist(cloud, 60, density=True, color=GREEN, alpha=0.5, label="5,000 points, sampled")
axes.plot(side, density / density.sum() / (side[1] - side[0]), color="black", label="$e^{-L/T}$")
axes.set(xlabel="p", ylabel="density", title="Two wells at temperature 0.5")
axes.legend(frameon=False)
plt.show()
share = density[side < 0].sum() / density.sum()
print(f"in the deep basin: {(cloud < 0).mean():.1%} sampled, {share:.1%} by the formula")
assert abs((cloud < 0).mean() - share) < 0.05
