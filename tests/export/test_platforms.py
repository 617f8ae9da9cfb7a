"""Every layer and loss lowers for platforms that nobody here owns, at any batch size."""

from __future__ import annotations

import functools
import re

import jax
import numpy as np
import pytest
from jax import export

import fnn
from fnn.interop.export import PLATFORMS
from tests import cases
from tests.sharding.table import BATCH, WAYS, both_ways, jobs

# The generator of random bits, in the branch of its platform, and the check of an open batch size.
KNOWN = {"cu_threefry2x32_ffi", "hip_threefry2x32_ffi", "Sharding", "shape_assertion"}
# The size of the batch is part of what they compute.
OF_ONE_SIZE: dict[str, str] = {}


def shown():
    """The first case of every public layer and loss: others differ in options."""
    seen, chosen = set(), []
    for case, (name, make) in zip([*cases.LAYERS, *cases.LOSSES], jobs(shapes=True), strict=True):
        new = cases.makers(case.make()) - seen
        seen |= new
        if new:
            chosen.append(pytest.param(name, make, id=name))
    return chosen


def lowered(job, any_batch):
    """Return the gradient both ways, exported for all platforms."""
    (any_size,) = export.symbolic_shape("batch")

    def shape(a):
        sizes = a.shape
        is_open = any_batch and sizes and sizes[0] == BATCH
        dtype = a.dtype
        return jax.ShapeDtypeStruct((any_size, *sizes[1:]) if is_open else sizes, dtype)

    run = jax.jit(functools.partial(both_ways, job))
    return export.export(run, platforms=PLATFORMS)(*jax.tree.map(shape, job.inputs))


@pytest.mark.once
@pytest.mark.parametrize(("name", "make"), shown())
def test_the_gradient_lowers_for_every_platform_at_any_batch_size(name, make):
    found = lowered(make(), name not in OF_ONE_SIZE)
    # No check was switched off: what is called has the promise of JAX to stay.
    assert found.disabled_safety_checks == ()
    assert set(found.platforms) == set(PLATFORMS)
    calls = set(re.findall(r"custom_call @(\w+)", found.mlir_module()))
    assert calls <= KNOWN


def test_the_law_sees_what_a_platform_lacks():
    x = np.zeros((2, 2), np.float32)

    def of_cpu_alone(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: 2 * x)

    layer = fnn.from_function(of_cpu_alone)
    with pytest.raises(NotImplementedError, match=r"cuda|rocm|tpu"):
        export.export(jax.jit(lambda x: layer.apply((), (), x)[0]), platforms=PLATFORMS)(x)


def test_both_ways_are_lowered():
    assert set(WAYS) == {"manual", "auto"}
