"""Draw the picture of the README: the graph of a small network, with values and gradients.

Run it with ``python docs/pages/pictures/draw.py``; it writes ``graph.png`` beside itself.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

import fnn

x, label = jnp.array([[1.0, -2.0]]), jnp.array([1])
model = fnn.serial(fnn.dense(3), fnn.tanh(), fnn.dense(2))
loss = fnn.losses.cross_entropy()
params, state = model.init(jax.random.key(0), x)
graph = fnn.graph(model, loss, params, state, (x, label))
fnn.plot.save(fnn.plot.graph(graph), Path(__file__).with_name("graph.png"))
print(graph)
