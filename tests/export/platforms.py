"""Every layer and loss lowered for platforms that nobody here owns, at any batch size.

    python -m tests.export.platforms                  a table of all cases, and its totals
    python -m tests.export.platforms --only PART      of those with PART in their name
    python -m tests.export.platforms --json FILE      kept in a file, from which it goes on

A row is a case, a column a platform and a way to its gradient; a cell is "lowers", or why not. The
program is that of value, new state and gradients in parameters and input.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import export

import fnn
from fnn.interop.export import PLATFORMS
from tests.export.command import print_table
from tests.sharding.table import BATCH, WAYS, Job, gradients, jobs, products

# The generator of random bits, in the branch of its platform, and the check of an open batch size.
KNOWN = {"cu_threefry2x32_ffi", "hip_threefry2x32_ffi", "Sharding", "shape_assertion"}
# The size of the batch is part of what they compute.
OF_ONE_SIZE: dict[str, str] = {}
COLUMNS = list(itertools.product(PLATFORMS, WAYS))
LOWERS = "lowers"


def fault(job: Job, platforms: Sequence[str], ways: Sequence[str]) -> str:
    """Return why the gradient in some ways is not lowered for some platforms; nothing if it is."""

    def run(*inputs):
        return [gradients(job, way, *inputs) for way in ways]

    try:
        found = export.export(jax.jit(run), platforms=platforms)(*shapes(job))
    except Exception as error:  # What it is goes into the table.
        return f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
    # No check was switched off: what is called has the promise of JAX to stay.
    if found.disabled_safety_checks:
        return f"without the checks {found.disabled_safety_checks}"
    unknown = set(re.findall(r"custom_call @(\w+)", found.mlir_module())) - KNOWN
    return f"calls {', '.join(sorted(unknown))}" if unknown else ""


def shapes(job: Job) -> Any:
    """Return the shapes of the inputs, the number of examples open."""
    (any_size,) = export.symbolic_shape("batch")

    def whole(a):
        return jax.ShapeDtypeStruct(a.shape, a.dtype)

    def by_example(a):
        is_open = job.name not in OF_ONE_SIZE and a.shape and a.shape[0] == BATCH
        return jax.ShapeDtypeStruct((any_size, *a.shape[1:]) if is_open else a.shape, a.dtype)

    params, state, x, target = job.inputs
    return *jax.tree.map(whole, (params, state)), *jax.tree.map(by_example, (x, target))


def row(job: Job) -> dict[str, str]:
    """Return for every platform and way that a job lowers, or why not."""
    together = fault(job, PLATFORMS, list(WAYS))
    return {
        f"{platform} {way}": (fault(job, [platform], [way]) if together else "") or LOWERS
        for platform, way in COLUMNS
    }


def planted() -> Job:
    """A layer of operations that one platform has: what the table has to see."""
    x = np.zeros((BATCH, 2), np.float32)

    def of_cpu_alone(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: 2 * x)

    return Job("planted", fnn.from_function(of_cpu_alone), products(), ((), (), x, [x]))


def cases() -> list[tuple[str, Callable[[], Job]]]:
    """Return all cases by name, and what makes the shapes of them."""
    return jobs(shapes=True)


def main() -> None:
    made = [*cases(), ("planted", planted)]
    rows = {name: lambda make=make: row(make()) for name, make in made}
    print_table(__doc__.split("\n")[0], rows, {LOWERS})


if __name__ == "__main__":
    main()
