"""What the benchmarks beside PyTorch share: where it runs, on how many threads, in what memory.

PyTorch runs where JAX does: on CUDA where JAX is on a GPU, else on the CPU, with a thread for every
core that this process may use. On a GPU both multiply matrices in TF32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import torch
from measure import computing_where_called
from torch.profiler import ProfilerActivity, profile, record_function

__all__ = ["DEVICE", "at_its_best", "cores", "on_device", "peak_bytes", "synchronize"]

computing_where_called()
DEVICE = "cuda" if jax.default_backend() in ("gpu", "cuda", "rocm") else "cpu"


def cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def at_its_best() -> None:
    """Give PyTorch all cores, and on a GPU the products that JAX takes there."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        raise SystemExit("JAX is on a GPU, and this PyTorch has no CUDA: install one that has")
    torch.set_num_threads(cores())
    if DEVICE == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        jax.config.update("jax_default_matmul_precision", "tensorfloat32")


def on_device(array: Any) -> torch.Tensor:
    """Copy an array to where PyTorch runs; labels become integers of 64 bits, as it wants them."""
    tensor = torch.tensor(array, device=DEVICE)
    return tensor if tensor.is_floating_point() else tensor.long()


def synchronize() -> None:
    """Wait until PyTorch has done what it was told."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak_bytes(runs: Mapping[str, Callable[[], Any]]) -> dict[str, int]:
    """Return the most memory of tensors that each run took beyond what was there before.

    What runs return counts, and on a CPU what its libraries take by themselves does not.
    """
    if DEVICE == "cuda":
        return {name: _peak_on_cuda(run) for name, run in runs.items()}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for name, run in runs.items():
            with record_function(name):
                kept = run()
            del kept
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    peaks, name, held = dict.fromkeys(runs, 0), "", 0
    for event in events:
        if event.name() in peaks:
            name, held = event.name(), 0
        elif event.name() == "[memory]" and name:
            held += event.nbytes()
            peaks[name] = max(peaks[name], held)
    return peaks


def _peak_on_cuda(run: Callable[[], Any]) -> int:
    synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    synchronize()
    return torch.cuda.max_memory_allocated() - before
