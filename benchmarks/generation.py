"""Time a token of generation: with caches, by reading all again, and by PyTorch with its own cache.

A row is one over another, taking turns: `fnn.generate` of a model with caches over the same with
``cache=False``, which reads the whole window for every token; and over PyTorch with the same
weights, keys and values in arrays that are written in place, or the state of its LSTM, in a loop in
Python as one writes it there. The first tokens of both are held against each other. With a cache
half of the window is a prompt, read at once, and the other half is drawn; both are in the time.
time_ratio is the median of the first over that of the second, below 1 where the first is faster;
ours_ms and other_ms are milliseconds a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from measure import Row, arguments, compared, interleaved, machine, picked, report, watched, write

import fnn

COLUMNS = ("name", "size", "time_ratio", "ours_ms", "other_ms")
CLASSES, WIDTH, HEADS, DEPTH = 256, 128, 4, 4
# How many tokens are drawn by reading all again: each costs the same.
FEW = 16
KEY = jax.random.key(0)


class Case(NamedTuple):
    """A language model, how many tokens it sees, and the same in PyTorch."""

    name: str
    model: fnn.Layer
    window: int
    twin: Callable[[Any, Any], Callable[[Any, int], Any]]


def gpt(window: int) -> fnn.Layer:
    """A small GPT: learned positions, and pre-norm blocks compiled once."""
    return fnn.serial(
        embedding=fnn.embedding(CLASSES, WIDTH),
        position=fnn.positional("learned", window),
        blocks=fnn.repeat(fnn.transformer_block(HEADS, causal=True), DEPTH),
        norm=fnn.layer_norm(),
        head=fnn.dense(CLASSES),
    )


def gpt_in_torch(torch: Any, params: Any) -> Callable[[Any, int], Any]:
    """Return a function that draws `count` tokens after a prompt (1, T)."""
    p = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), params)
    f = torch.nn.functional
    window = len(p["position"]["weight"])

    def dense(p: Any, x: Any) -> Any:
        return x @ p["weight"] + p["bias"]

    def norm(p: Any, x: Any) -> Any:
        return f.layer_norm(x, (WIDTH,), p["scale"], p["shift"])

    blocks = [jax.tree.map(lambda a, i=i: a[i].contiguous(), p["blocks"]) for i in range(DEPTH)]

    def heads(x: Any) -> Any:
        return x.view(1, -1, HEADS, WIDTH // HEADS).transpose(1, 2)

    def read(cache: Any, tokens: Any, first: int) -> Any:
        last = first + tokens.shape[1]
        x = p["embedding"]["weight"][tokens] + p["position"]["weight"][first:last]
        for block, (keys, values) in zip(blocks, cache, strict=True):
            a = block["attention"]
            z = norm(a["norm"], x)
            q, k, v = (heads(dense(a["layer"][name], z)) for name in ("query", "key", "value"))
            keys[:, :, first:last], values[:, :, first:last] = k, v
            z = f.scaled_dot_product_attention(
                q, keys[:, :, :last], values[:, :, :last], is_causal=tokens.shape[1] > 1
            )
            x = x + dense(a["layer"]["output"], z.transpose(1, 2).reshape(1, -1, WIDTH))
            m = block["mlp"]["layer"]
            z = norm(block["mlp"]["norm"], x)
            x = x + dense(m["down"], f.gelu(dense(m["up"], z)))
        return dense(p["head"], norm(p["norm"], x[:, -1:])).argmax(-1)

    def generate(prompt: Any, count: int) -> Any:
        with torch.inference_mode():
            shape = (1, HEADS, window, WIDTH // HEADS)
            cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in blocks]
            drawn = [read(cache, torch.tensor(prompt), 0)]
            for i in range(count - 1):
                drawn.append(read(cache, drawn[-1], prompt.shape[1] + i))
            return torch.cat(drawn, 1).numpy()

    return generate


def lstm(width: int) -> fnn.Layer:
    """A language model of one LSTM."""
    return fnn.serial(
        embedding=fnn.embedding(CLASSES, WIDTH), lstm=fnn.lstm(width), head=fnn.dense(CLASSES)
    )


def lstm_in_torch(torch: Any, params: Any) -> Callable[[Any, int], Any]:
    """Return a function that draws `count` tokens after a prompt (1, T)."""
    p = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), params)
    width = p["lstm"]["recurrent_weight"].shape[0]
    module = torch.nn.LSTM(WIDTH, width, batch_first=True)
    with torch.no_grad():
        module.weight_ih_l0.copy_(p["lstm"]["input_weight"].T)
        module.weight_hh_l0.copy_(p["lstm"]["recurrent_weight"].T)
        module.bias_ih_l0.copy_(p["lstm"]["bias"])
        module.bias_hh_l0.zero_()

    def read(state: Any, tokens: Any) -> tuple[Any, Any]:
        y, state = module(p["embedding"]["weight"][tokens], state)
        return (y[:, -1:] @ p["head"]["weight"] + p["head"]["bias"]).argmax(-1), state

    def generate(prompt: Any, count: int) -> Any:
        with torch.inference_mode():
            newest, state = read(None, torch.tensor(prompt))
            drawn = [newest]
            for _ in range(count - 1):
                newest, state = read(state, drawn[-1])
                drawn.append(newest)
            return torch.cat(drawn, 1).numpy()

    return generate


CASES = (
    Case("GPT of 4 blocks of 128", gpt(256), 256, gpt_in_torch),
    Case("GPT of 4 blocks of 128", gpt(1024), 1024, gpt_in_torch),
    Case("LSTM of 256", lstm(256), 256, lstm_in_torch),
)


def rows_of(case: Case, options: Any) -> list[Row]:
    """Measure a model with caches over reading all again, and over PyTorch."""
    names = {title: f"{case.name}: cache / {title}" for title in ("reading all again", "PyTorch")}
    names = {title: name for title, name in names.items() if picked(name, options)}
    if not names:
        return []
    import torch

    half = case.window // 2
    whole = np.asarray(jax.random.randint(KEY, (1, case.window), 0, CLASSES))
    prompt = whole[:, :half]
    params, state = jax.jit(case.model.init)(KEY, whole)

    def ours(tokens: Any, count: int, cache: bool) -> Any:
        drawn = fnn.generate(
            case.model, params, state, tokens, count, key=KEY, temperature=0.0, cache=cache
        )
        return jax.block_until_ready(drawn)

    twin = case.twin(torch, params)
    np.testing.assert_array_equal(ours(prompt, FEW, True), twin(prompt, FEW))

    def cached() -> None:
        ours(prompt, half, True)

    def read_again() -> None:
        ours(whole, FEW, False)

    def in_torch() -> None:
        twin(prompt, half)

    rows = []
    others = {"reading all again": (read_again, FEW), "PyTorch": (in_torch, half)}
    for title, name in names.items():
        other, count = others[title]
        # In turns of their own, since the threads of PyTorch slow what runs right after them.
        seconds = interleaved({"ours": cached, "other": other}, options.rounds)
        each = [second * half / count for second in seconds["other"]]
        rows.append(compared(name, f"window {case.window}", seconds["ours"], each, half))
    return rows


def main() -> None:
    options = arguments(__doc__, rounds=9)
    print(f"{machine()}\n")
    rows = [row for case in watched(CASES) for row in rows_of(case, options)]
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
