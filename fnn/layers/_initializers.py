"""The initializer that layers of different families take by default."""

import jax

lecun_normal = jax.nn.initializers.lecun_normal()
