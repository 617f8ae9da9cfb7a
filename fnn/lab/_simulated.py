"""Compile an exported program for simulated devices: a script for a process of its own.

JAX fixes the number of devices when it starts, and the process that asks has other ones. The
program comes in on standard input; what is known of it goes out on standard output, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import numpy as np
from jax import export
from jax.sharding import Mesh


def main() -> None:
    """Read, compile, write."""
    asked = json.loads(sys.argv[1])
    exported = export.deserialize(bytearray(sys.stdin.buffer.read()))
    devices = np.asarray(jax.devices()).reshape(asked["sizes"])
    places = exported.in_shardings_jax(Mesh(devices, tuple(asked["names"])))
    leaves = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=place)
        for aval, place in zip(exported.in_avals, places, strict=True)
    ]
    step = jax.jit(exported.call, donate_argnums=asked["donated"])
    # The machine code is not run; buffers and collectives are the same without its optimization.
    options: dict[str, Any] = {
        "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True,
    }  # fmt: skip
    compiled = step.lower(*leaves).compile(options)
    sizes = compiled.memory_analysis()
    found = {
        name: getattr(sizes, f"{name}_size_in_bytes")
        for name in ("argument", "output", "alias", "temp")
    }
    json.dump(found | {"text": compiled.as_text()}, sys.stdout)


if __name__ == "__main__":
    main()
