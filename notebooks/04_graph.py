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
# # Lesson 4: graph and gradient
#
# Backpropagation is the chain rule, kept in order by a drawing: the computation graph
# (計算流程圖). Values go forward (前向傳播) along its arrows; derivatives come backward (反向傳播)
# against them. We draw one, step through it, fill one in, and check derivatives by nudging.
#
# Letters: $x$ inputs, $\theta = (w, b)$ parameters, $z = w x + b$ the weighted sum, $g$ the
# activation, $y = g(z)$, $L$ the loss. The gradient (梯度) of a node $v$ is $\frac{\partial
# L}{\partial v}$: how much $L$ changes when $v$ does. In code it is called `dv`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

import fnn

# Shows figures that are made without pyplot, too.
# %matplotlib inline

BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"

# %% [markdown]
# ## 1. The neuron as a graph
#
# $L = (g(w_1 x_1 + w_2 x_2 + b) - t)^2$ with the sigmoid for $g$. Every node does one thing, and so
# its own derivative, the local derivative on its arrows, is easy:
#
# | node | forward | local derivatives |
# |---|---|---|
# | $+$ | $a + b$ | 1 and 1 |
# | $\times$ | $a \cdot b$ | $b$ and $a$ |
# | $\sigma$ | $y = 1 / (1 + e^{-z})$ | $y (1 - y)$ |
# | $x^2$ | $a^2$ | $2 a$ |
#
# **Predict first.** The gradient of the last node is 1. What is that of the node before it, whose
# value is $y - t$?

# %%
VALUES = {"w1": 0.5, "x1": 1.0, "w2": 0.75, "x2": -2.0, "b": 0.25, "t": 1.0}


def neuron(w1, x1, w2, x2, b, t):
    return (jax.nn.sigmoid(w1 * x1 + w2 * x2 + b) - t) ** 2


graph = fnn.graph(neuron, **VALUES)
display(fnn.plot.graph(graph))

# %% [markdown]
# Blue above a node is its value, orange below its gradient, gray on an arrow the local derivative.
# Going backward, a node multiplies what comes from behind with the local derivative: the chain rule
# (連鎖律). For the weight $w_1$ the arrows multiply to
#
# $$\frac{\partial L}{\partial w_1} = \underbrace{2 (y - t)}_{x^2} \cdot \underbrace{1}_{-} \cdot
# \underbrace{y (1 - y)}_{\sigma} \cdot \underbrace{1}_{+} \cdot \underbrace{1}_{+} \cdot
# \underbrace{x_1}_{\times}.$$
#
# <details><summary>Answer to the prediction</summary>
#
# $2 (y - t) \cdot 1 = 2 \cdot (-0.679) = -1.36$.
#
# </details>
#
# The same in words, step by step, and as a page to step through: open `neuron.html` in a browser.

# %%
for frame in graph.frames():
    print(f"{frame.way:8} {frame.text}")
fnn.plot.graph_page(graph, "neuron.html", title="A neuron, forward and backward")

# %% [markdown]
# JAX's own autodiff finds the same numbers:

# %%
names = list(VALUES)
slopes = jax.grad(neuron, tuple(range(len(names))))(*VALUES.values())
for name, slope in zip(names, slopes, strict=True):
    print(f"d{name}  graph {float(graph.nodes[name].gradient):+.6f}   jax.grad {float(slope):+.6f}")

# %% [markdown]
# ## 2. A branch adds
#
# A value that is used twice gets two gradients back, and they add: if $w$ changes, $L$ changes
# along both ways.
#
# **Predict first.** $f = w \cdot x + w$ with $w = 2$, $x = 3$. What is $\frac{\partial f}{\partial
# w}$?

# %%
branch = fnn.graph(lambda w, x: w * x + w, 2.0, 3.0)
display(fnn.plot.graph(branch))

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# $3$ comes back through $\times$ and $1$ directly: together 4. Indeed $f = w (x + 1)$.
#
# </details>
#
# This is also how a weight that works in every example of a batch gets the sum over the examples,
# and how a layer's input gets the sum over the neurons that read it.
#
# ## 3. Exercise: fill it in
#
# $f = (w \cdot x + w)\, e^{w}$ at $w = 1$, $x = 2$. The boxes with a question mark are empty. Work
# backwards; two digits behind the point are enough, and $e = 2.718$.

# %%
steep = fnn.graph(lambda w, x: (w * x + w) * jnp.exp(w), 1.0, 2.0)
exercise = steep.blank()
display(fnn.plot.graph(exercise))
print("names of the boxes:", ", ".join(exercise.gradients))

# %% tags=["exercise"]
answers = {}  # as in {"exp": 3.0}: a number for the gradient of every box

print(exercise.check(answers))

# %% [markdown]
# A wrong answer is told what is probably wrong: try `{"w": 2.718}`, or one with the other sign.
# The solution is in the next cell; open it when you have tried.

# %% tags=["solution"] jupyter={"source_hidden": true}
e = 2.718
solution = {
    "+": e,  # the other factor of the last product
    "exp": 3,  # the other factor: 1 * 2 + 1
    "×": e,  # a sum hands on what comes
    "x": e * 1,  # times the other factor, w
    # Three branches: through the product 2 e, through the sum e, through exp 3 times its slope e.
    "w": 2 * e + e + 3 * e,
}
print(exercise.check(solution))

# %% [markdown]
# ## 4. Nudging, and the V of the step size
#
# A derivative can be checked without calculus: nudge $w$ by a small $s$ and look how $L$ changes.
# The secant (割線) to the right is $\frac{L(w + s) - L(w)}{s}$, the one through both sides
# $\frac{L(w + s) - L(w - s)}{2 s}$. The first is wrong by about $s$ (the curve bends), the second
# by about $s^2$; and both by about $\varepsilon / s$, because the computer rounds $L$ to
# $\varepsilon = 2 \cdot 10^{-16}$ of its size.
#
# **Predict first.** So which $s$ is best: as small as possible?

# %%
AT = 0.5  # the weight that is nudged


def loss_of(w1):
    z = w1 * 1.0 + 0.75 * -2.0 + 0.25
    return (1 / (1 + np.exp(-z)) - 1.0) ** 2


y = 1 / (1 + np.exp(-(AT + 0.75 * -2.0 + 0.25)))
exact = 2 * (y - 1) * y * (1 - y)
steps = 10.0 ** np.arange(-14, 0.5, 0.5)
one_sided = (loss_of(AT + steps) - loss_of(AT)) / steps
two_sided = (loss_of(AT + steps) - loss_of(AT - steps)) / (2 * steps)
figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
for label, found, color, mark in (
    ("one side: (L(w+s) - L(w)) / s", one_sided, ORANGE, "s"),
    ("two sides: (L(w+s) - L(w-s)) / 2s", two_sided, BLUE, "o"),
):
    errors = np.abs(found - exact)
    axes.plot(steps, np.where(errors > 0, errors, np.nan), mark, color=color, label=label)
axes.plot(steps, 2e-17 / steps, color="0.5", linestyle=":", label="rounding, about ε / s")
axes.set(
    xscale="log", yscale="log", xlabel="step size s", ylabel="error of the derivative",
    title="Too large a step bends, too small a step rounds", ylim=(1e-13, 1),
)  # fmt: skip
axes.legend(frameon=False, fontsize=8)
plt.show()
best = steps[np.abs(two_sided - exact).argmin()]
print(f"exact {exact:.8f}; best of two sides at s = {best:.0e}: {two_sided[steps == best][0]:.8f}")

# %% [markdown]
# <details><summary>Answer to the prediction</summary>
#
# No: below a certain $s$ rounding takes over, and the errors form a V. The best step is about
# $\sqrt{\varepsilon} \approx 10^{-8}$ for one side, and $\varepsilon^{1/3} \approx 10^{-5}$ for
# two, which then is right to ten digits. In float32, where $\varepsilon = 10^{-7}$, only two or
# three digits are left: `fnn.check_layer` nudges in float64.
#
# </details>
#
# ## 5. The graph of a network
#
# The same drawing of a whole network, its layers as nodes, with the gradients that are derived by
# hand in fnn. A node whose gradient by hand were not that of autodiff would have a red frame.

# %%
WIDTH = 3

model = fnn.serial(fnn.dense(WIDTH), fnn.tanh(), fnn.dense(2))
x = np.array([[0.5, -1.0]], "float32")
params, state = model.init(jax.random.key(0), x)
loss = fnn.losses.cross_entropy()
whole = fnn.graph(model, loss, params, state, (x, np.array([1])))
display(fnn.plot.graph(whole))
print("every gradient by hand is that of autodiff:", all(n.agrees for n in whole.nodes.values()))

# %% [markdown]
# ## 6. To play with
#
# Other values, the same graph. Find a weight $w_1$ with which the neuron learns almost nothing,
# though it is wrong: where does the gradient get lost?


# %%
def neuron_with(w1, x1, t):
    return fnn.plot.graph(fnn.graph(neuron, **(VALUES | {"w1": w1, "x1": x1, "t": t})))


KNOBS = {"w1": (-8.0, -2.0, 0.5, 2.0, 8.0), "x1": (-1.0, 0.0, 1.0, 2.0), "t": (0.0, 0.5, 1.0)}
fnn.plot.show(neuron_with, KNOBS, start={"w1": 0.5, "x1": 1.0, "t": 1.0})

# %% [markdown]
# Things to try: other `VALUES` in section 1, such as `t = 0`; a function of your own in section 2;
# `AT = 5`; `fnn.graph(..., detail="operations")` in section 5, which opens the layers.
