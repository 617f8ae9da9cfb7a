"""Time causal attention alone, forward and backward, in 16 and in 32 bits, and a GPT around it.

A row is our attention over another: ``blocks`` is ours without the kernel of cuDNN, which it takes
on a GPU in 16 bits, ``blocks of 256`` that with others than by default; ``pytorch`` is
`scaled_dot_product_attention` with its gradient by autograd. ``gpt`` is a step in `fit` of a GPT of
6 blocks and 512 channels, over the same without the kernel. time_ratio is the median of the first
over that of the second; memory_ratio that of the temporary bytes of the two programs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from measure import Row, arguments, compared, interleaved, machine, picked, report, watched, write
from torch.nn.functional import scaled_dot_product_attention
from torch_side import DEVICE, at_its_best, synchronize

import fnn
from fnn.layers.attention import _kernel
from fnn.layers.attention._blockwise import Scoring, attend, attend_backward

COLUMNS = ("name", "size", "time_ratio", "ours_ms", "other_ms", "memory_ratio")
# Batch and steps, on a CPU and on what is faster.
SIZES = {"cpu": ((2, 256), (2, 1024)), "cuda": ((16, 1024), (4, 4096))}
HEADS, WIDTH = 8, 64
BLOCKS = {"blocks": None, **{f"blocks of {n}": n for n in (128, 256, 512, 1024)}}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
BATCHES, VOCABULARY, CHANNELS, DEPTH = 8, 256, 512, 6
# Of the largest number, in 16 bits.
CLOSE = 0.03
GPT = "gpt in fit, bfloat16 / blocks"
ATTENTION = Scoring(causal=True, bias=None)


def without_kernel() -> AbstractContextManager[Any]:
    """Leave attention to the blocks in what is traced inside."""
    return mock.patch.object(_kernel, "there", return_value=False)


def there_and_back(q: Any, k: Any, v: Any, do: Any, block: int | None = None) -> tuple[Any, ...]:
    o, saved = attend(q, k, v, None, ATTENTION, block)
    return o, *attend_backward(q, k, v, None, o, saved, do, ATTENTION, block)


def check_alike(arrays: Any) -> None:
    """Raise an error unless all is what the blocks make of it in 32 bits."""
    # Compiled anew by a function of its own: the same one is not traced again.
    found = jax.jit(there_and_back)(*arrays)
    with without_kernel():
        wide = [a.astype("float32") for a in arrays]
        expected = jax.jit(lambda *arrays: there_and_back(*arrays))(*wide)
    for name, one, other in zip(("o", "dq", "dk", "dv"), found, expected, strict=True):
        worst = float(jnp.abs(one.astype("float32") - other).max() / jnp.abs(other).max())
        print(f"{arrays[0].dtype}, {name}: {worst:.1e} of the largest apart")
        if not worst <= CLOSE:
            raise SystemExit(f"attention: {name} of {arrays[0].dtype} is not what it should be")


def ours(arrays: Any, repeat: int, block: int | None = None) -> Any:
    """Compile attention and its gradient, one after another in one program."""

    def program(arrays: Any) -> Any:
        q, *others = arrays

        def once(q: Any, _: Any) -> Any:
            o, dq, dk, dv = there_and_back(q, *others, block)
            # The next depends on all of it.
            return q + (dq + dk[:, :, None] + dv[:, :, None] + o) * jnp.asarray(1e-3, q.dtype), None

        return jax.lax.scan(once, q, length=repeat)[0]

    return jax.jit(program).lower(arrays).compile()


def theirs(arrays: Any, dtype: torch.dtype, repeat: int) -> Callable[[], None]:
    def tensor(array: Any) -> torch.Tensor:
        whole = torch.tensor(np.asarray(array, np.float32), device=DEVICE, dtype=dtype)
        return whole.flatten(1, 2) if whole.ndim == 5 else whole

    q, k, v, do = map(tensor, arrays)
    leaves = [leaf.requires_grad_() for leaf in (q, k, v)]

    def run() -> None:
        for _ in range(repeat):
            o = scaled_dot_product_attention(q, k, v, is_causal=True)
            torch.autograd.grad(o, leaves, do)
        synchronize()

    return run


def waited(program: Any, arrays: Any) -> None:
    program(arrays).block_until_ready()


def temporary(program: Any) -> int:
    analysis = program.memory_analysis()
    return analysis.temp_size_in_bytes if analysis else 0


def attention_rows(name: str, batch: int, steps: int, rounds: int, others: list[str]) -> list[Row]:
    repeat = 2 if DEVICE == "cpu" else 10
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (batch, HEADS, 1, steps, WIDTH), (batch, HEADS, steps, WIDTH)
    arrays = [
        jax.random.normal(key, shapes[i], name) / 2
        for key, i in zip(keys, (0, 1, 1, 0), strict=True)
    ]
    check_alike(arrays)
    programs = {"ours": ours(arrays, repeat)}
    with without_kernel():
        for other in set(others) & set(BLOCKS):
            programs[other] = ours(arrays, repeat, BLOCKS[other])
    runs = {way: functools.partial(waited, program, arrays) for way, program in programs.items()}
    runs["pytorch"] = theirs(arrays, DTYPES[name], repeat)
    seconds = interleaved({way: runs[way] for way in ("ours", *others)}, rounds)
    needed = {way: temporary(program) for way, program in programs.items()}
    return [
        compared(
            f"attention {name} / {other}", f"{batch}x{HEADS}x{steps}x{WIDTH}", seconds["ours"],
            seconds[other], repeat,
            memory_ratio=needed["ours"] / needed[other] if needed.get(other) else None,
        )
        for other in others
    ]  # fmt: skip


def gpt_row(batch: int, steps: int, rounds: int) -> Row:
    """Time a step in `fit` of a GPT in 16 bits, with the kernel and without."""
    block = fnn.repeat(fnn.transformer_block(HEADS, causal=True), DEPTH)
    model = fnn.serial(
        fnn.embedding(VOCABULARY, CHANNELS), fnn.positional("learned", steps), block,
        fnn.layer_norm(), fnn.dense(VOCABULARY),
    )  # fmt: skip
    tokens = np.arange(batch * BATCHES)[:, None] + np.arange(steps + 1)
    data = tuple(a.astype(np.int32) % VOCABULARY for a in (tokens[:, :-1], tokens[:, 1:]))

    def fitted(model: fnn.Layer) -> float:
        _, history = fnn.fit(
            model, fnn.losses.cross_entropy(), fnn.optim.sgd(1e-3), data, epochs=1,
            batch_size=batch, key=jax.random.key(0), precision="bfloat16",
        )  # fmt: skip
        return history.run_seconds

    # One in the other is another model, which is not taken for the one compiled before.
    other = fnn.serial(model)
    with without_kernel():
        fitted(other)
    ways = {"ours": functools.partial(fitted, model), "blocks": functools.partial(fitted, other)}
    seconds = interleaved(ways, rounds)
    size = f"{DEPTH} of {CHANNELS}, {batch}x{steps}"
    return compared(GPT, size, seconds["ours"], seconds["blocks"], BATCHES)


def main() -> None:
    options = arguments(__doc__, rounds=7)
    at_its_best()
    print(f"{machine()}, torch {torch.__version__} on {DEVICE}\n")
    rows: list[Row] = []
    for batch, steps in watched(SIZES[DEVICE]):
        for name in DTYPES:
            others = [o for o in (*BLOCKS, "pytorch") if picked(f"attention {name} / {o}", options)]
            if others:
                rows += attention_rows(name, batch, steps, options.rounds, others)
        if picked(GPT, options):
            rows.append(gpt_row(batch, steps, options.rounds))
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
