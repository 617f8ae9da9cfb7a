"""Time a token of generation: with caches, by reading all again, and by PyTorch with its own cache.

A row is one over another, taking turns: `fnn.generate` of a model with caches over the same with
``cache=False``, which reads the whole window for every token; and over PyTorch with the same
weights, keys and values in arrays that are written in place, or the state of its LSTM, in a loop in
Python as one writes it there. The first tokens of both are held against each other. With a cache
half of the window is a prompt, read at once, and the other half is drawn; both are in the time. An
encoder-decoder has a source beside it: with a cache it is encoded once, here and in PyTorch, and
without one again for every token.
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
    """A language model, how many tokens it sees, the same in PyTorch, and how long a source is."""

    name: str
    model: fnn.Layer
    window: int
    twin: Callable[[Any, Any], Callable[..., Any]]
    source: int = 0


def gpt(window: int) -> fnn.Layer:
    """A small GPT: learned positions, and pre-norm blocks compiled once."""
    return fnn.serial(
        embedding=fnn.embedding(CLASSES, WIDTH),
        position=fnn.positional("learned", window),
        blocks=fnn.repeat(fnn.transformer_block(HEADS, causal=True), DEPTH),
        norm=fnn.layer_norm(),
        head=fnn.dense(CLASSES),
    )


def encoder_decoder(window: int) -> fnn.Layer:
    """A transformer of so many blocks in its encoder as in its decoder."""

    def embed() -> fnn.Layer:
        return fnn.serial(
            embedding=fnn.embedding(CLASSES, WIDTH), position=fnn.positional("learned", window)
        )

    blocks = fnn.repeat(fnn.transformer_block(HEADS), DEPTH)
    return fnn.serial(
        encoder=fnn.over_memory(fnn.serial(embed=embed(), blocks=blocks, norm=fnn.layer_norm())),
        embed=fnn.over_query(embed()),
        blocks=fnn.repeat(fnn.transformer_block(HEADS, causal=True, cross=True), DEPTH),
        query=fnn.take_query(),
        norm=fnn.layer_norm(),
        head=fnn.dense(CLASSES),
    )


class Torch(NamedTuple):
    """What both transformers are made of in PyTorch, with the weights of fnn."""

    torch: Any

    def tensors(self, params: Any) -> Any:
        return jax.tree.map(lambda a: self.torch.tensor(np.asarray(a)), params)

    def blocks(self, params: Any) -> list[Any]:
        """The parameters of every copy of a block."""
        return [jax.tree.map(lambda a, i=i: a[i].contiguous(), params) for i in range(DEPTH)]

    def dense(self, p: Any, x: Any) -> Any:
        return x @ p["weight"] + p["bias"]

    def norm(self, p: Any, x: Any) -> Any:
        return self.torch.nn.functional.layer_norm(x, (WIDTH,), p["scale"], p["shift"])

    def embed(self, p: Any, tokens: Any, first: int = 0) -> Any:
        positions = p["position"]["weight"][first : first + tokens.shape[1]]
        return p["embedding"]["weight"][tokens] + positions

    def heads(self, p: Any, x: Any) -> Any:
        return self.dense(p, x).view(1, -1, HEADS, WIDTH // HEADS).transpose(1, 2)

    def keys_and_values(self, p: Any, x: Any) -> tuple[Any, Any]:
        return self.heads(p["key"], x), self.heads(p["value"], x)

    def attend(self, p: Any, x: Any, keys: Any, values: Any, causal: bool) -> Any:
        z = self.torch.nn.functional.scaled_dot_product_attention(
            self.heads(p["query"], x), keys, values, is_causal=causal
        )
        return self.dense(p["output"], z.transpose(1, 2).reshape(1, -1, WIDTH))

    def mlp(self, p: Any, x: Any) -> Any:
        z, layer = self.norm(p["norm"], x), p["layer"]
        z = self.torch.nn.functional.gelu(self.dense(layer["up"], z))
        return x + self.dense(layer["down"], z)

    def look_back(self, p: Any, cache: Any, x: Any, first: int) -> Any:
        """Attend to what was before, and put the keys and values of x into the cache."""
        keys, values = cache
        last, z = first + x.shape[1], self.norm(p["norm"], x)
        keys[:, :, first:last], values[:, :, first:last] = self.keys_and_values(p["layer"], z)
        seen = keys[:, :, :last], values[:, :, :last]
        return x + self.attend(p["layer"], z, *seen, x.shape[1] > 1)

    def encode(self, p: Any, tokens: Any) -> Any:
        x = self.embed(p["embed"], tokens)
        for block in self.blocks(p["blocks"]):
            a = block["attention"]
            z = self.norm(a["norm"], x)
            x = x + self.attend(a["layer"], z, *self.keys_and_values(a["layer"], z), False)
            x = self.mlp(block["mlp"], x)
        return self.norm(p["norm"], x)

    def caches(self, window: int) -> list[Any]:
        shape = (1, HEADS, window, WIDTH // HEADS)
        return [(self.torch.zeros(shape), self.torch.zeros(shape)) for _ in range(DEPTH)]

    def draw(self, read: Callable[[Any, int], Any], prompt: Any, count: int) -> Any:
        """Draw the likeliest tokens by a function of tokens and the position of the first."""
        drawn = [read(self.torch.tensor(prompt), 0)]
        for i in range(count - 1):
            drawn.append(read(drawn[-1], prompt.shape[1] + i))
        return self.torch.cat(drawn, 1).numpy()


def gpt_in_torch(torch: Any, params: Any) -> Callable[..., Any]:
    """Return a function that draws `count` tokens after a prompt (1, T)."""
    t = Torch(torch)
    p = t.tensors(params)
    blocks = t.blocks(p["blocks"])

    def generate(prompt: Any, count: int) -> Any:
        caches = t.caches(len(p["position"]["weight"]))

        def read(tokens: Any, first: int) -> Any:
            x = t.embed(p, tokens, first)
            for block, cache in zip(blocks, caches, strict=True):
                x = t.mlp(block["mlp"], t.look_back(block["attention"], cache, x, first))
            return t.dense(p["head"], t.norm(p["norm"], x[:, -1:])).argmax(-1)

        with torch.inference_mode():
            return t.draw(read, prompt, count)

    return generate


def encoder_decoder_in_torch(torch: Any, params: Any) -> Callable[..., Any]:
    """Return a function that draws `count` tokens after a prompt (1, T), of a source (1, S).

    It encodes once too, and keeps keys and values of the memory.
    """
    t = Torch(torch)
    p = t.tensors(params)
    blocks = t.blocks(p["blocks"])

    def generate(prompt: Any, count: int, source: Any) -> Any:
        caches = t.caches(len(p["embed"]["position"]["weight"]))

        def read(tokens: Any, first: int) -> Any:
            x = t.embed(p["embed"], tokens, first)
            for block, cache, seen in zip(blocks, caches, memories, strict=True):
                x = t.look_back(block["attention"], cache, x, first)
                z = t.norm(block["cross"]["norm"], x)
                x = t.mlp(block["mlp"], x + t.attend(block["cross"]["layer"], z, *seen, False))
            return t.dense(p["head"], t.norm(p["norm"], x[:, -1:])).argmax(-1)

        with torch.inference_mode():
            memory = t.encode(p["encoder"], torch.tensor(source))
            memories = [t.keys_and_values(block["cross"]["layer"], memory) for block in blocks]
            return t.draw(read, prompt, count)

    return generate


def lstm(width: int) -> fnn.Layer:
    """A language model of one LSTM."""
    return fnn.serial(
        embedding=fnn.embedding(CLASSES, WIDTH), lstm=fnn.lstm(width), head=fnn.dense(CLASSES)
    )


def lstm_in_torch(torch: Any, params: Any) -> Callable[..., Any]:
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
    Case(
        "encoder-decoder of 4 and 4 blocks of 128", encoder_decoder(256), 256,
        encoder_decoder_in_torch, source=256,
    ),
)  # fmt: skip


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
    source = jax.random.randint(jax.random.key(1), (1, case.source), 0, CLASSES)
    sources = (np.asarray(source),) if case.source else ()
    params, state = jax.jit(case.model.init)(KEY, (whole, *sources) if sources else whole)

    def ours(tokens: Any, count: int, cache: bool) -> Any:
        drawn = fnn.generate(
            case.model, params, state, tokens, count, key=KEY, temperature=0.0, cache=cache,
            source=sources[0] if sources else None,
        )  # fmt: skip
        return jax.block_until_ready(drawn)

    twin = case.twin(torch, params)
    np.testing.assert_array_equal(ours(prompt, FEW, True), twin(prompt, FEW, *sources))

    def cached() -> None:
        ours(prompt, half, True)

    def read_again() -> None:
        ours(whole, FEW, False)

    def in_torch() -> None:
        twin(prompt, half, *sources)

    size = f"window {case.window}" + (f", source {case.source}" if sources else "")
    rows = []
    others = {"reading all again": (read_again, FEW), "PyTorch": (in_torch, half)}
    for title, name in names.items():
        other, count = others[title]
        # In turns of their own, since the threads of PyTorch slow what runs right after them.
        seconds = interleaved({"ours": cached, "other": other}, options.rounds)
        each = [second * half / count for second in seconds["other"]]
        rows.append(compared(name, size, seconds["ours"], each, half))
    return rows


def main() -> None:
    options = arguments(__doc__, rounds=9)
    print(f"{machine()}\n")
    rows = [row for case in watched(CASES) for row in rows_of(case, options)]
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
