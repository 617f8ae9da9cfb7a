"""What `value_and_grad`, `use_manual` and `batch_norm` mean under `shard_map`, on 8 devices.

Run as ``python -m tests.sharding.facts`` by `test_mesh`: a process has one number of devices.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

import fnn
from tests.tolerance import rounding
from tests.xla import compile_in_haste

DEVICES, BATCH, AXIS = 8, 16, "data"
KEY = jax.random.key(0)
LOSS = fnn.losses.squared_error()


def close(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    # A bias in front of a batch norm has no gradient but rounding: the largest of all is the scale.
    scale = max(np.abs(b).max(initial=0) for b in jax.tree.leaves(other)) or 1
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        apart = np.abs(np.asarray(a) - b).max(initial=0)
        assert apart <= rounding(jnp.float32, BATCH * 8) * scale


def mapped(function, check_vma):
    """Run a function of parameters, state, x and target on every share; results are alike."""
    mesh = jax.make_mesh((DEVICES,), (AXIS,), axis_types=(AxisType.Auto,))
    whole, spread = PartitionSpec(), PartitionSpec(AXIS)
    run = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(whole, whole, spread, spread),
        out_specs=whole,
        check_vma=check_vma,
    )
    return jax.jit(run)


def network(axis_name=None):
    return fnn.serial(fnn.dense(3), fnn.batch_norm(axis_name=axis_name), fnn.tanh(), fnn.dense(2))


def main():
    compile_in_haste()
    keys = jax.random.split(KEY)
    x, target = (jax.random.normal(k, (BATCH, n)) for k, n in zip(keys, (3, 2), strict=True))
    params, state = network().init(KEY, x)
    (value, new_state), grads = jax.jit(fnn.value_and_grad(network(), LOSS))(
        params, state, (x, target)
    )
    # With the name of the axis batch norm sees the whole batch, and means of shares are the whole.
    for check_vma in (True, False):
        for gradient in ("manual", "auto"):
            of = fnn.value_and_grad(network(AXIS), LOSS, gradient)

            def run(p, s, x, t, of=of):
                (value, new_state), grads = of(p, s, (x, t))
                return jax.lax.pmean((value, grads), AXIS), new_state

            found = mapped(run, check_vma)(params, state, x, target)
            close(found, ((value, grads), new_state))
    shares = jax.tree.map(lambda a: a.reshape(DEVICES, -1, a.shape[-1]), (x, target))
    of = fnn.value_and_grad(network(AXIS), LOSS)
    (_, states), each = jax.vmap(functools.partial(of, params, state), axis_name=AXIS)(shares)
    close(jax.tree.map(lambda a: a.mean(0), each), grads)
    close(jax.tree.map(lambda a: a[-1], states), new_state)
    plain_and_manual(params, state, x, target)


def plain_and_manual(params, state, x, target):
    """`jax.grad` has one meaning, whether or not the gradient in it is by hand."""
    model = fnn.serial(fnn.dense(3), fnn.tanh(), fnn.dense(2))
    params, state = model.init(KEY, x)

    def slope(layer, p, s, x, t):
        def objective(p):
            return fnn.losses.mean(LOSS.apply(layer.apply(p, s, x)[0], t))[0]

        return jax.grad(objective)(p)

    whole = slope(model, params, state, x, target)
    for check_vma, factor in ((True, DEVICES), (False, 1)):
        for layer in (model, fnn.use_manual(model)):
            of = functools.partial(slope, layer)
            found = mapped(lambda *a, of=of: jax.lax.pmean(of(*a), AXIS), check_vma)
            expected = jax.tree.map(lambda a, factor=factor: factor * a, whole)
            close(found(params, state, x, target), expected)


if __name__ == "__main__":
    main()
