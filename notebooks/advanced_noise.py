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
# # Saddle points, noise and temperature
#
# Lesson 6 shakes descent out of a shallow well. Here is more of what noise does, each time with
# what can be predicted exactly.
#
# 1. A saddle point: how long descent stays.
# 2. Noise, and off it goes.
# 3. Many saddles: exponentially slow against steady.
# 4. How much noise: the temperature, and the density that it draws from.
#
# Letters: $\theta$ the parameters, $L(\theta)$ the height of the landscape, $\nabla L$ its slope,
# $\alpha$ the learning rate, $n$ standard normal noise.

# %%
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from fnn import landscapes, optim, plot
from fnn.plot import BLUE, GREEN, ORANGE

# Shows figures that are made without pyplot, too.
# %matplotlib inline

KEY = jax.random.key(3)

# %% [markdown]
# ## 1. A saddle point
#
# The slope is zero on a saddle, as in a minimum. The curvatures there are the eigenvalues of the
# Hessian: one below zero, $-\gamma$, is a way down. Descent from a point a little off, at a
# distance $\delta$ along that way, multiplies it by $1 + \alpha \gamma$ in each step, so it needs
# about $\ln(1 / \delta) / \ln(1 + \alpha \gamma)$ steps: the nearer to the ridge, the longer.
# Exactly on the ridge it never leaves.

# %%
RATE, STEPS = 0.1, 200
OFF = (0.0, 1e-6, 0.1)

saddle = landscapes.saddle()
curvatures = jnp.linalg.eigvalsh(jax.hessian(saddle)(jnp.zeros(2)))
print(f"curvatures {curvatures[0]:+.2f} and {curvatures[1]:+.2f}")
paths = {
    f"off the ridge by {off:g}": landscapes.descend(optim.sgd(RATE), saddle, [1.3, off], STEPS)
    for off in OFF
}
display(plot.descent(saddle, paths))
for off, (name, path) in zip(OFF, paths.items(), strict=True):
    away = np.abs(path.points[:, 1]) > 0.5
    left = f"after {away.argmax()} steps" if away.any() else "never"
    growth = math.log(1 - RATE * float(curvatures[0]))
    expected = f", predicted {math.log(0.5 / off) / growth:.0f}" if off else ""
    print(f"{name:22} leaves {left}{expected}")

# %% [markdown]
# Numbers to expect: 139 steps from $10^{-6}$, where 138 are predicted. It takes a little longer, as
# the slope flattens on the way to the minimum.
#
# ## 2. Noise
#
# On the ridge any push sideways is enough. Either shake every step by a vector of fixed length,
# $\theta \leftarrow \theta - \alpha\, (\nabla L + n)$, or push once whenever the slope is small:
# *perturbed* descent.

# %%
shaken = optim.chain(optim.sphere_noise(0.1, key=KEY), optim.sgd(RATE))
pushed = optim.perturbed(optim.sgd(RATE), 0.01, 0.01, 50, key=KEY)
paths = {
    "noise at every step": landscapes.descend(shaken, saddle, [1.3, 0.0], STEPS),
    "a push at rest": landscapes.descend(pushed, saddle, [1.3, 0.0], STEPS),
}
display(plot.descent(saddle, paths))
for name, path in paths.items():
    print(f"{name:20} ends at height {path.values[-1]:+.4f}; the minima are at -0.25")

# %% [markdown]
# ## 3. Many saddles
#
# One saddle costs a little time. A chain of them is another matter: while plain descent leaves the
# first one, it shrinks its distance from the ridge of the next. On the *octopus* of Du et al.
# (2017) each saddle takes $1 + \ln 2 / \ln(1 + 1 / 2L) = 2.71$ times as long as the one before (for
# $L = 1$): exponential in the number of saddles. With a push when the slope is small, each takes
# the same time. (Double precision: $0.5^{1000}$ is nothing in single.)

# %%
SADDLES = 6

with jax.enable_x64(True):
    octopus = landscapes.octopus(SADDLES)
    start = np.random.default_rng(0).uniform(-1, 1, SADDLES)
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
        if name == "plain":
            predicted = 1 + math.log(2) / math.log(1.5)
            factor = left[-1] / left[-2]
            print(f"  the last takes {factor:.3f} times as long, predicted {predicted:.3f}")
        axes.plot(range(1, SADDLES + 1), left, marker, color=color, label=name)
axes.set(yscale="log", xlabel="saddle", ylabel="step at which it is left", title="Six saddles")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## 4. How much noise: the temperature
#
# With noise of a fixed size descent does not settle at a point but in a cloud. For
# $\theta \leftarrow \theta - \alpha \nabla L + \sqrt{2 \alpha T}\, n$ in a bowl
# $L = c\, \theta^2 / 2$ the variance $v$ of the cloud is where shrinking and shaking balance,
#
# $$v = (1 - \alpha c)^2 v + 2 \alpha T \quad\Rightarrow\quad v = \frac{2 T}{c (2 - \alpha c)}
# \approx \frac{T}{c},$$
#
# which is the distribution of a thermometer: density $e^{-L / T}$. It holds in any landscape for
# small steps, and so descent with the right noise *samples*.

# %%
CURVATURE, SAMPLING_RATE, TEMPERATURE, CHAINS = 3.0, 0.1, 0.5, 20_000

path = landscapes.descend(
    optim.sgld(SAMPLING_RATE, temperature=TEMPERATURE, key=KEY),
    lambda theta: (CURVATURE * theta**2 / 2).sum(),
    jnp.zeros(CHAINS),
    60,
)
variance = path.points[-1].var()
predicted = 2 * TEMPERATURE / (CURVATURE * (2 - SAMPLING_RATE * CURVATURE))
print(f"variance of {CHAINS:,} points {variance:.4f}, predicted {predicted:.4f}, "
      f"standard error {predicted * math.sqrt(2 / CHAINS):.4f}")  # fmt: skip

# %%
WELL_TEMPERATURE = 0.5

wells = landscapes.double_well()
cloud = landscapes.descend(
    optim.sgld(0.01, temperature=WELL_TEMPERATURE, key=KEY),
    lambda theta: wells(theta[:, None]).sum(),
    jax.random.uniform(KEY, (5000,), minval=-1.5, maxval=1.5),
    3000,
).points[-1]
side = np.linspace(-1.8, 1.8, 201)
density = np.exp(-np.asarray(wells(side[:, None].astype("float32"))) / WELL_TEMPERATURE)
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.hist(cloud, 60, density=True, color=GREEN, alpha=0.5, label="5,000 points, sampled")
axes.plot(side, density / density.sum() / (side[1] - side[0]), color="black", label="$e^{-L/T}$")
axes.set(
    xlabel="θ", ylabel="density", title=f"Two wells at temperature {WELL_TEMPERATURE}",
    ylim=(0, None),
)  # fmt: skip
axes.legend(frameon=False)
plt.show()
share = density[side < 0].sum() / density.sum()
print(f"in the deep well: {(cloud < 0).mean():.1%} sampled, {share:.1%} by the formula")
