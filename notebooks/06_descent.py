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
# # Lesson 6: gradient descent
#
# Gradient descent (梯度下降) goes downhill, one step after another. How long may a step be, where
# does it end, why does shaking help, and how does it keep to a budget?
#
# 1. The learning rate (學習率) and its limit.
# 2. Exercise: a bowl with pencil and paper.
# 3. Surface and contours (等高線).
# 4. A local minimum (局部最小值), and noise (雜訊) that gets out of it.
# 5. Constraints (限制條件): a budget.
# 6. Exercise: back into the budget.
# 7. Two constraints at once: a diet.
#
# Letters: $\theta$ the parameters (參數), $L(\theta)$ the loss (損失函數), $\nabla L$ its gradient
# (梯度), $\alpha$ the learning rate, $c$ a curvature (曲率), the second derivative. In fnn:
# `params`, a landscape or a loss, `grads`, `learning_rate`.

# %%
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from scipy.optimize import linprog

import fnn
from fnn import landscapes, optim
from fnn.lab import check_answer
from fnn.plot import BLUE, GREEN, ORANGE, RED

# Shows figures that are made without pyplot, too.
# %matplotlib inline

KEY = jax.random.key(3)
COLORS = (BLUE, ORANGE, GREEN, RED, "#56B4E9", "#CC79A7")

# %% [markdown]
# ## 1. The learning rate and its limit
#
# One step is $\theta \leftarrow \theta - \alpha \nabla L(\theta)$. Take the simplest loss, a bowl
# $L = \frac{1}{2} (c_1 \theta_1^2 + c_2 \theta_2^2)$. Its gradient is $(c_1 \theta_1, c_2
# \theta_2)$, so
#
# $$\theta_i \leftarrow \theta_i - \alpha c_i \theta_i = (1 - \alpha c_i)\, \theta_i :$$
#
# each step multiplies by $1 - \alpha c_i$. That shrinks if $|1 - \alpha c_i| < 1$, and so for
#
# $$0 < \alpha < \frac{2}{c_i} \quad \text{for every } i .$$
#
# The steepest direction sets the limit, $2 / \max c$; the flattest one sets the time.
#
# **Predict first.** Here $c = (1, 10)$. What is the limit, and what will happen at exactly the
# limit?

# %%
CURVATURES = (1.0, 10.0)
RATES = (0.19, 0.2, 0.25)
START, STEPS = (-1.8, 0.9), 120

bowl = landscapes.quadratic(CURVATURES)


def run(rate):
    return landscapes.descend(optim.sgd(rate), bowl, list(START), STEPS)


paths = {f"α = {rate}": run(rate) for rate in RATES}
display(fnn.plot.descent(bowl, paths))

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# The limit is $2 / 10 = 0.2$. There the factor is $1 - 0.2 \cdot 10 = -1$: $\theta_2$ jumps from
# one side to the other and never gets nearer. Below, at 0.19, it is $-0.9$, and every jump is a
# tenth shorter. Above, at 0.25, it is $-1.5$.
#
# </details>
#
# The factors, measured in the first step; and the step at which numbers end. In single precision
# no number is larger than $3.4 \cdot 10^{38}$, and $c\, \theta^2$ gets there when
# $c\, \theta_2(0)^2\, |1 - \alpha c|^{2n} = 3.4 \cdot 10^{38}$, which can be solved for $n$.

# %%
largest = float(np.finfo("float32").max)
c = CURVATURES[1]
for rate, path in zip(RATES, paths.values(), strict=True):
    factors = path.points[1] / path.points[0]
    lost = np.flatnonzero(~np.isfinite(path.values))
    end = f"diverged at step {lost[0]}" if len(lost) else f"height {path.values[-1]:.3g} at the end"
    print(f"α = {rate:<5} factors {factors[0]:+.3f} {factors[1]:+.3f}   {end}")
    if abs(1 - rate * c) > 1.01:
        room = np.log(largest / (c * START[1] ** 2))
        print(f"          predicted: step {np.ceil(room / (2 * np.log(abs(1 - rate * c)))):.0f}")

# %% [markdown]
# **Predict first.** Which rate gets lowest in 120 steps: the largest that does not diverge?

# %%
MANY_RATES = (0.01, 0.05, 0.15, 0.18, 0.195, 0.205)

figure, axes = plt.subplots(figsize=(6.6, 3.8), layout="constrained")
for i, rate in enumerate(MANY_RATES):
    heights = np.asarray(run(rate).values)
    color = COLORS[i % 6]
    grows = ": diverges" if not heights[-1] < heights[0] else ""
    axes.plot(heights, "os^DvP"[i % 6], color=color, markersize=3, label=f"α = {rate}{grows}")
axes.set(
    yscale="log", xlabel="step", ylabel="height L", ylim=(1e-16, 1e3),
    title=f"Two curvatures, {CURVATURES[0]:g} and {CURVATURES[1]:g}",
)  # fmt: skip
axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left")
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# No: with 0.195 the steep direction shrinks by 0.95 only. Best is where both directions shrink
# alike, $1 - \alpha c_1 = -(1 - \alpha c_2)$, so $\alpha = 2 / (c_1 + c_2) = 0.182$; both factors
# are then $0.82$. The ratio $c_2 / c_1$ decides: for 1000 the best factor is $0.998$. That is why
# momentum, normalization and adaptive rates were invented.
#
# </details>
#
# The limit holds wherever a loss is bent like a bowl. In lesson 1 a line was fitted to 20 points,
# and a rate of 1 went wrong. The curvatures are the eigenvalues of the matrix of second
# derivatives (the Hessian):

# %%
random = np.random.default_rng(1)
x = random.uniform(-1, 2, 20)
t = 1.5 * x - 0.5 + 0.2 * random.normal(size=20)


def line_loss(theta):
    return jnp.mean((theta[0] * x + theta[1] - t) ** 2)


curvatures = jnp.linalg.eigvalsh(jax.hessian(line_loss)(jnp.zeros(2)))
limit = 2 / float(curvatures[-1])
print(f"lesson 1: curvatures {curvatures[0]:.3f} and {curvatures[1]:.3f}: the limit is {limit:.3f}")
for share in (0.98, 1.02):
    path = landscapes.descend(optim.sgd(share * limit), line_loss, [0.0, 0.0], 200)
    print(f"  at {share} of it: loss {path.values[0]:.3f} -> {path.values[-1]:.3g} after 200 steps")

# %% [markdown]
# ## 2. Exercise: a bowl with pencil and paper
#
# $L = 3\, \theta^2$, and $\theta = 3$. Find the gradient there, $\theta$ after one step with
# $\alpha = 0.1$, the limit of $\alpha$, and the rate that reaches the minimum in a single step.

# %% tags=["exercise"]
answers = {"gradient": None, "theta after a step": None, "limit": None, "one step": None}

# The checker: what is right, and mistakes that are often made.
RIGHT = {"gradient": 18.0, "theta after a step": 1.2, "limit": 1 / 3, "one step": 1 / 6}
MISTAKES = {
    "gradient": {"that is the height": 27.0, "the slope of the square is 2 θ": 9.0},
    "theta after a step": {
        "the step goes against the gradient": 4.8,
        "that is the step; it is taken from θ": 1.8,
    },
    "limit": {
        "c is the second derivative, 6, not the 3 in front of the square": 2 / 3,
        "that is the rate that arrives in one step": 1 / 6,
    },
    "one step": {
        "1 - α c has to be 0, and c is the second derivative, 6": 1 / 3,
        "that is the limit times 2": 2 / 3,
    },
}
for name, answer in answers.items():
    print(f"{name:18} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% tags=["solution"] jupyter={"source_hidden": true}
# L' = 6 θ = 18 and c = L'' = 6. A step: 3 - 0.1 * 18. Limit 2 / c. In one step: 1 - α c = 0.
solution = {"gradient": 18, "theta after a step": 1.2, "limit": 2 / 6, "one step": 1 / 6}
for name, answer in solution.items():
    print(f"{name:18} {check_answer(answer, RIGHT[name], MISTAKES[name])}")

# %% [markdown]
# ## 3. Surface and contours
#
# A loss of two parameters is a surface. From above it is a map, and along a contour the height
# stays. Go along a contour with direction $\tau$: $0 = \frac{dL}{ds} = \nabla L \cdot \tau$. So the
# gradient stands at a right angle on the contour, and it points uphill.
#
# Himmelblau's function is $L = (u^2 + v - 11)^2 + (u + v^2 - 7)^2$ with $\theta = (u, v)$. By the
# chain rule
#
# $$\frac{\partial L}{\partial u} = 4 u\, (u^2 + v - 11) + 2\, (u + v^2 - 7), \qquad
# \frac{\partial L}{\partial v} = 2\, (u^2 + v - 11) + 4 v\, (u + v^2 - 7) .$$
#
# **Predict first.** Four starts, a little apart. Do they end in the same place?

# %%
STARTS = ((0.2, -0.2), (-0.8, 0.4), (-0.6, -1.0), (0.4, -1.4))
RATE, HILL_STEPS = 0.01, 60

hills = landscapes.himmelblau()


def by_hand(theta):
    u, v = theta
    a, b = u**2 + v - 11, u + v**2 - 7
    return np.array([4 * u * a + 2 * b, 2 * a + 4 * v * b])


sides = np.linspace(-5, 5, 101)
grid = np.stack(np.meshgrid(sides, sides), -1).astype("float32")
ground = np.asarray(hills(grid))
figure = plt.figure(figsize=(10.5, 4.6), layout="constrained")
surface = figure.add_subplot(1, 2, 1, projection="3d")
surface.plot_surface(
    *np.meshgrid(sides, sides), np.log10(ground + 1), cmap="Blues_r", alpha=0.7, linewidth=0
)
surface.view_init(48, -120)
surface.zaxis.set_rotate_label(False)
surface.set_zlabel("log₁₀(L + 1)", rotation=90)
surface.set(xlabel="u", ylabel="v", title="The surface", box_aspect=(1, 1, 0.6))
contour = figure.add_subplot(1, 2, 2)
levels = 10 ** np.linspace(0, 3, 13)
contour.contour(sides, sides, ground, levels=levels, colors="0.6", linewidths=0.7)
for start, color in zip(STARTS, itertools.cycle(COLORS), strict=False):
    path = landscapes.descend(optim.sgd(RATE), hills, list(start), HILL_STEPS)
    points, heights = np.asarray(path.points), np.asarray(path.values)
    label = f"start {start}"
    surface.plot(*points.T, np.log10(heights + 1) + 0.05, "o-", color=color, markersize=2)
    contour.plot(*points.T, "o-", color=color, markersize=3, label=label)
    up = by_hand(start) / np.linalg.norm(by_hand(start))
    contour.quiver(*start, *up, color="black", scale=14, width=0.006, zorder=4)
    end = f"({points[-1, 0]:+.3f}, {points[-1, 1]:+.3f})"
    print(f"{label:18} ends at {end}, height {heights[-1]:.1e}")
contour.plot([], [], ">-", color="black", markersize=6, label="gradient: uphill")
contour.plot(*np.array(hills.minima).T, "kx", markersize=7, label="the four minima")
contour.set(xlabel="u", ylabel="v", aspect="equal", title="The same from above")
figure.legend(ncols=3, loc="outside lower center", frameon=False, fontsize=9)
plt.show()

# %%
at = np.array([-1.0, 2.5])
found = jax.grad(hills)(jnp.asarray(at, "float32"))
print(f"by hand   {by_hand(at).round(3)}\nautodiff  {np.asarray(found).round(3)}")
along = np.array([-by_hand(at)[1], by_hand(at)[0]]) / np.linalg.norm(by_hand(at))
step = 1e-3
off = [float(hills(jnp.asarray(at + step * way))) - float(hills(jnp.asarray(at)))
       for way in (by_hand(at) / np.linalg.norm(by_hand(at)), along)]  # fmt: skip
print(f"a step of {step} uphill changes L by {off[0]:+.4f}, along the contour by {off[1]:+.4f}")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# No: four starts, four minima. Descent sees only the slope under its feet, and where it ends is
# decided by where it begins. Here all four minima are equally deep; in the next section not.
#
# </details>
#
# ## 4. Two wells, and noise
#
# $L = (\theta^2 - 1)^2 + 0.3\, \theta$ has a deep minimum on the left and a shallow one on the
# right. At both the slope is 0, and descent stays where it comes to rest first.
#
# So we shake it: $\theta \leftarrow \theta - \alpha \nabla L + \sqrt{2 \alpha T}\, n$ with normal
# noise $n$. The temperature (溫度) $T$ says how high it may climb: much noise at first, then half
# of it every 500 steps, so that in the end it rests. This is simulated annealing (模擬退火).
#
# **Predict first.** Of 200 runs, how many get to the deep side? And does more noise always help?

# %%
TEMPERATURES = (0.0, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0)
RUNS, NOISY_STEPS, WELL_RATE, WELL_START = 200, 4000, 0.02, 1.6

wells = landscapes.double_well()


def shaken(temperature, key):
    fading = optim.schedule.exponential(temperature, 0.5, steps=500)
    noisy = optim.sgld(WELL_RATE, temperature=fading, key=key)
    return landscapes.descend(noisy, wells, [WELL_START], NOISY_STEPS)


still = landscapes.descend(optim.sgd(WELL_RATE), wells, [WELL_START], 100)
display(fnn.plot.descent(wells, {"no noise": still, "noise that fades": shaken(0.6, KEY)}))

# %%
keys = jax.random.split(KEY, RUNS)
of_all_keys = jax.vmap(lambda temperature, key: shaken(temperature, key).points[-1, 0], (None, 0))
ends = np.asarray(jax.vmap(of_all_keys, (0, None))(jnp.array(TEMPERATURES), keys))
shares = (ends < 0).mean(1)
errors = (shares * (1 - shares) / RUNS) ** 0.5
for temperature, share, error in zip(TEMPERATURES, shares, errors, strict=True):
    print(f"T = {temperature:<4} {share:6.1%} of {RUNS} runs escape, standard error {error:.1%}")

figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
axes.errorbar(TEMPERATURES, shares, 2 * errors, fmt="o", color=BLUE,
              label="share of the runs, and two standard errors")  # fmt: skip
axes.axhline(0.5, color="0.4", linewidth=1, linestyle=":", label="tossing a coin: 0.5")
axes.set(xlabel="temperature T at the start", ylabel="share in the deep well", ylim=(-0.03, 1.03))
axes.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# At $T = 0.6$ about 70 % of the runs escape; another key gives a few percent more or less. At 0.1
# hardly one does: the barrier is 0.71 high, and climbing it has a chance like $e^{-0.71 / T}$.
# Above 1 more noise changes little: it forgets where it started, and the side is decided while the
# noise fades. Slower fading helps then; try `NOISY_STEPS = 16000` with `steps=2000`.
#
# </details>
#
# Why noise of this form ends in a cloud of exactly known shape: `notebooks/advanced_noise.py`.
#
# ## 5. Constraints: a budget
#
# An evening is to be shared among four subjects. If a share $\theta_i$ of it goes to subject $i$,
# then of the $a_i$ points that you would lose without learning, $a_i\, e^{-4 \theta_i}$ are still
# lost:
#
# $$L(\theta) = \sum_i a_i\, e^{-4 \theta_i}, \qquad \theta_i \ge 0, \quad \sum_i \theta_i = 1 .$$
#
# Without the constraint (限制條件) descent would learn all day and all night: $L$ falls forever.
# The set of shares is called a simplex (單體). *Projected* descent takes a step, and then goes to
# the nearest point of the set:
# $\theta \leftarrow P(\theta - \alpha \nabla L)$. In fnn the projection stands last in the chain.
#
# Where does it end? Moving a little time from subject $i$ to $j$ must not pay, so all subjects that
# get time have the same slope, $4\, a_i\, e^{-4 \theta_i} = \lambda$ (Lagrange's multiplier), and
# one that gets none has a smaller one: $4\, a_i \le \lambda$.
#
# **Predict first.** Points to lose: 60, 30, 20 and 8. Which subject gets exactly no time?

# %%
POINTS = {"mathematics": 60.0, "English": 30.0, "physics": 20.0, "music": 8.0}
SHARE_RATE, SHARE_STEPS = 0.001, 60

points = jnp.array(list(POINTS.values()))


def points_lost(theta):
    return (points * jnp.exp(-4 * theta)).sum()


equal = jnp.full(len(POINTS), 1 / len(POINTS))
budget = optim.chain(optim.sgd(SHARE_RATE), optim.project(optim.constraint.simplex()))
kept = landscapes.descend(budget, points_lost, equal, SHARE_STEPS)
free = landscapes.descend(optim.sgd(SHARE_RATE), points_lost, equal, SHARE_STEPS)


def exact_shares(points):
    """Solve for λ: use the largest subjects, as many as get a share above 0."""
    logs = np.log(np.asarray(points, np.float64))
    for used in range(len(logs), 0, -1):
        largest = np.sort(logs)[-used:]
        # The log of λ / 4, so that the shares (log a - log_level) / 4 sum to 1.
        log_level = (largest.sum() - 4) / used
        if largest[0] > log_level:
            return np.maximum(logs - log_level, 0) / 4, 4 * np.exp(log_level)
    raise ValueError("no subject has points to lose")


exact, level = exact_shares(points)
shares_over = np.asarray(kept.points)
slopes_over = 4 * np.asarray(points) * np.exp(-4 * shares_over)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.7), layout="constrained")
for i, (name, color) in enumerate(zip(POINTS, itertools.cycle(COLORS), strict=False)):
    left.plot(shares_over[:, i], color=color, label=name)
    left.plot(SHARE_STEPS, exact[i], "D", color=color, markersize=6, markeredgecolor="black",
              clip_on=False)  # fmt: skip
    right.plot(slopes_over[:, i], color=color)
left.plot([], [], "D", color="white", markersize=6, markeredgecolor="black", label="exact")
right.axhline(level, color="black", linestyle=":", label=f"λ = {level:.1f}")
left.set(xlabel="step", ylabel="share of the evening", ylim=(-0.02, None), title="Shares")
right.set(xlabel="step", ylabel="$-\\partial L / \\partial \\theta_i$", ylim=(0, None),
          title="Points gained by a little more time")  # fmt: skip
figure.legend(ncols=6, loc="outside lower center", frameon=False)
plt.show()
for i, name in enumerate(POINTS):
    print(f"{name:12} descent {shares_over[-1, i]:.3f}   exact {exact[i]:.3f}")
sums = shares_over[-1].sum(), free.points[-1].sum()
print(f"the shares sum to {sums[0]:.4f}; without the constraint to {sums[1]:.2f}, and rising")
print(f"points lost: {kept.values[0]:.1f} with equal shares, {kept.values[-1]:.1f} at the end")

# %% [markdown]
# Numbers to expect: 0.483, 0.309, 0.208 and exactly 0.
#
# <details><summary>Answer to the prediction</summary>
#
# Music. Its slope at no time at all, $4 \cdot 8 = 32$, is below the $\lambda = 34.8$ that an hour
# brings elsewhere. A constraint with corners makes true zeros; a penalty would only make it small.
#
# </details>
#
# ## 6. Exercise: back into the budget
#
# A step has led to $(0.5, 0.9, -0.2)$. Which is the nearest point with $\theta_i \ge 0$ and
# $\sum_i \theta_i = 1$? The rule, derived like the one above: take the same $s$ from every entry,
# cut at 0, $\max(\theta_i - s, 0)$, with the $s$ that makes the sum 1.

# %% tags=["exercise"]
answers = {"nearest": None}  # three numbers, as in [0.2, 0.5, 0.3]

# The checker: what is right, and mistakes that are often made.
stepped = np.array([0.5, 0.9, -0.2])
nearest = np.asarray(optim.constraint.simplex()(jnp.asarray(stepped)))
cut = np.maximum(stepped, 0)
PROJECTION_MISTAKES = {
    "cut, and divided by the sum: in the budget, but not nearest": cut / cut.sum(),
    "divided by the sum: one share is negative": stepped / stepped.sum(),
    "the same from every entry, but one is then negative": stepped - (stepped.sum() - 1) / 3,
    "cut, but the sum is not 1": cut,
    "s was found with three entries; only two stay above 0": np.maximum(stepped - 0.2 / 3, 0),
}
print(f"nearest  {check_answer(answers['nearest'], nearest, PROJECTION_MISTAKES)}")

# %% tags=["solution"] jupyter={"source_hidden": true}
# The third falls out. Of the others s is taken twice: 0.5 + 0.9 - 2 s = 1, so s = 0.2.
solution = [0.5 - 0.2, 0.9 - 0.2, 0.0]
print(f"nearest  {check_answer(solution, nearest, PROJECTION_MISTAKES)}")

# %% [markdown]
# ## 7. Two constraints at once: a diet
#
# Cheapest food for a day that has enough of everything. Amounts $\theta \ge 0$ in 100 g, prices
# $q$, and $A$ holds what part of a day's need 100 g bring: minimize $q \cdot \theta$ with
# $A \theta \ge 1$. (Round numbers, to compute with and not to eat by.)
#
# $\theta \ge 0$ is easy to project onto: cut. $A \theta \ge 1$ is not, so what is short costs a
# penalty (懲罰項): $L = q \cdot \theta + \frac{\mu}{2} \sum_j \max(0,\, 1 - A_j \theta)^2$. A
# projection keeps exactly, a penalty nearly: it pulls only where something is missing.
#
# How much is missing? At the end the pull of need $j$ is $\mu s_j$ with $s_j$ the shortfall, and it
# must be what need $j$ is worth, its price $y_j$ in the exact solution: $s_j \approx y_j / \mu$.
#
# **Predict first.** What would descent eat, if it could eat less than nothing?

# %%
FOODS = {  # price for 100 g; kcal, g of protein, mg of calcium, mg of vitamin C
    "rice": (6, 350, 7, 10, 0),
    "tofu": (8, 80, 8, 140, 0),
    "milk": (9, 60, 3, 110, 1),
    "eggs": (14, 140, 13, 50, 0),
    "cabbage": (5, 25, 1, 45, 35),
    "guava": (7, 40, 1, 5, 150),
}
NEEDS = {"energy": 2000, "protein": 60, "calcium": 800, "vitamin C": 100}
MU, DIET_STEPS = 1000.0, 5000

table = np.array(list(FOODS.values()), np.float64)
price, brings = table[:, 0], table[:, 1:] / np.array(list(NEEDS.values()))


def cost(theta):
    short = jnp.maximum(1 - theta @ jnp.asarray(brings, "float32"), 0)
    return theta @ jnp.asarray(price, "float32") + MU / 2 * (short**2).sum()


# The limit of section 1, for the curvature of the penalty.
rate = 1 / (MU * np.linalg.eigvalsh(brings @ brings.T)[-1])
eats = optim.chain(optim.sgd(rate), optim.project(optim.constraint.non_negative()))
day = np.asarray(landscapes.descend(eats, cost, [1.0] * len(FOODS), DIET_STEPS).points[-1])
no_floor = landscapes.descend(optim.sgd(rate), cost, [1.0] * len(FOODS), DIET_STEPS).points[-1]
program = linprog(price, A_ub=-brings.T, b_ub=-np.ones(len(NEEDS)))  # the exact one, by scipy

print("grams      descent   exact   without θ ≥ 0")
for i, name in enumerate(FOODS):
    print(f"{name:10} {100 * day[i]:7.0f} {100 * program.x[i]:7.0f} {100 * no_floor[i]:10.0f}")
print(f"price      {price @ day:7.1f} {program.fun:7.1f} {price @ no_floor:10.1f}")
print("\nshort of   descent   y / μ")
for name, has, worth in zip(NEEDS, day @ brings, -program.ineqlin.marginals, strict=True):
    print(f"{name:10} {max(0.0, 1 - has):7.2%} {worth / MU:7.2%}")

# %% [markdown]
# Numbers to expect: 428 g of rice, 516 g of tofu and 66 g of guava for 71.6, and short of energy
# by 3.1 %, as predicted; the exact diet costs 74.1. `MU = 10000` is ten times nearer, and needs
# far more steps, as the limit of the rate is ten times smaller: section 1 again.
#
# <details><summary>Answer to the prediction</summary>
#
# Milk, eggs and cabbage, less than none of them: it sells what is dear for what it brings, and
# buys rice, tofu and guava. With more steps the price falls below any number. It is the floor at 0
# that makes this a problem with an answer.
#
# </details>
#
# ## 8. To play with
#
# One descent in the two wells: how far it starts, how long its steps are, how much it is shaken.


# %%
def draw(learning_rate, temperature, start):
    noisy = optim.sgld(
        learning_rate,
        temperature=optim.schedule.exponential(temperature, 0.5, steps=100),
        key=KEY,
    )
    path = landscapes.descend(noisy, wells, [start], 600)
    title = f"α = {learning_rate}, T = {temperature}, start {start}"
    return fnn.plot.descent(wells, {title: path})


KNOBS = {
    "learning_rate": (0.002, 0.02, 0.1, 0.2, 0.3),
    "temperature": (0.0, 0.2, 0.6, 2.0),
    "start": (-1.6, 0.5, 1.6),
}
fnn.plot.show(draw, KNOBS, start={"learning_rate": 0.02, "temperature": 0.6, "start": 1.6})

# %% [markdown]
# And a page with one slider, the learning rate in the bowl of section 1: open `learning_rate.html`
# in a browser. Watch the steep direction: it creeps, arrives at once at 0.1, then swings.

# %%
SLIDER = (0.01, 0.05, 0.1, 0.15, 0.18, 0.19, 0.2, 0.21, 0.25)

all_paths = jax.vmap(lambda rate: landscapes.descend(optim.sgd(rate), bowl, list(START), 120))(
    jnp.array(SLIDER)
)


def draw_rate(learning_rate):
    i = SLIDER.index(learning_rate)
    path = landscapes.Trajectory(all_paths.points[i], all_paths.values[i])
    return fnn.plot.descent(bowl, {f"α = {learning_rate}": path})


fnn.plot.slider_page(
    draw_rate, "learning_rate", SLIDER, "learning_rate.html", title="The learning rate",
    text=f"A bowl of curvatures {CURVATURES[0]:g} and {CURVATURES[1]:g}: "
    f"the limit is {2 / max(CURVATURES):g}.",
)  # fmt: skip

# %% [markdown]
# Things to try: `RATES = (0.182, 0.199, 0.201)` in section 1; another `STARTS` in section 3, and
# find the borders between the four basins; `POINTS` with a fifth subject. Next: descent that looks
# at a few examples only.
