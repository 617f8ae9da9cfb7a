"""How the suite has programs compiled: in haste, or as users get them where a law is about that."""

import os

import jax
import jaxlib

# The fusion emitters of XLA for CPUs take half of the time of the suite, and know no option in jax;
# a program that is compiled in up to 32 parts takes up to twice the time of one in one part.
MEASURED = {(0, 8), (0, 9), (0, 10)}
HASTY = jaxlib.version.__version_info__[:2] in MEASURED
ONE_PART = "--xla_cpu_parallel_codegen_split_count=1" if HASTY else ""
FLAGS = f"--xla_cpu_use_fusion_emitters=false {ONE_PART}"
AS_USERS = {"xla_cpu_use_fusion_emitters": True} if HASTY else {}


def in_haste(flags=""):
    """The variables by which a process compiles in haste too, beside other flags of XLA."""
    hasty = f"{flags} {FLAGS}" if HASTY else flags
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": hasty}


def compile_in_haste():
    """Have the programs of this process compiled in haste: they compute the same.

    The processes that it starts compile as users do, but for those that take `in_haste`.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    if HASTY:
        flags = os.environ.get("XLA_FLAGS")
        os.environ["XLA_FLAGS"] = f"{flags or ''} {FLAGS}"
        jax.devices()  # reads the flags, once
        os.environ.pop("XLA_FLAGS") if flags is None else os.environ.update(XLA_FLAGS=flags)
