"""What a ``state_dict()`` of PyTorch holds: arrays by the modules they belong to."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Unchecked

# The layers of a recurrent stack share one module.
_STACKED = re.compile(
    r"(?P<kind>(?:weight|bias)_(?:ih|hh|hr))_l(?P<layer>\d+)(?P<way>(?:_reverse)?)$"
)
# An attention and a gate have modules inside; one of these entries beside them tells.
_INSIDE: dict[str, tuple[str, ...]] = {
    "out_proj": ("in_proj_weight", "q_proj_weight"),
    "gate_proj": ("up_proj.weight",),
    "up_proj": ("gate_proj.weight",),
    "c_attn": ("c_proj.weight",),
    "c_proj": ("c_attn.weight",),
}
# The attention of a GPT-2 has the entries of a MultiheadAttention under other names, and a mask.
_GPT2 = {
    "c_attn.weight": "in_proj_weight",
    "c_attn.bias": "in_proj_bias",
    "c_proj.weight": "out_proj.weight",
    "c_proj.bias": "out_proj.bias",
}
_GPT2_MASKS = ("bias", "masked_bias")
# Its matrices, which stand as (I, O) where it is made of Conv1D, and as (O, I) of Linear.
_GPT2_MATRICES = ("c_attn", "c_proj", "c_fc")
# A transformer layer of PyTorch has its modules by kind, not in the order in which they run: that
# depends on where its norms are.
_TRANSFORMER: dict[str, tuple[str, ...]] = {
    "attention": ("self_attn", "multihead_attn"),
    "dense": ("linear1", "linear2"),
    "layer_norm": ("norm1", "norm2", "norm3"),
}
# Parameters of a vision transformer that stand in no module of their own, each with an axis of 1
# in front; the first one is listed before the layers that run before it.
_LOOSE = {
    "class_token": "networks.class_token",
    "cls_token": "networks.class_token",
    "pos_embedding": "positional",
    "pos_embed": "positional",
}
# A count that no result depends on, beside running statistics.
_COUNTER, _COUNTED = "num_batches_tracked", "running_mean"


class Entries(Mapping[str, Array]):
    """The entries of one module by their names in it; remembers which have been read.

    Args:
        arrays: the arrays by their names in the module.
        full: the names in the state_dict by those in the module.

    """

    def __init__(self, arrays: dict[str, Array], full: dict[str, str]):
        self.arrays, self.full = arrays, full
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Array:
        array = self.arrays[name]
        self.read.add(self.full[name])
        return array

    def __contains__(self, name: object) -> bool:
        return name in self.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


class Modules:
    """The modules of a state_dict, each taken once: in order, or by name.

    Args:
        weights: the state_dict.
        names: the module of each layer by its path; None for the order.
        ignore: entries, or modules, that are left out.

    """

    def __init__(
        self,
        weights: Mapping[str, Unchecked],
        names: Mapping[str, str] | None,
        ignore: Collection[str],
    ):
        _check_arguments(weights, names, ignore)
        self.names = names
        self.named: set[str] = set()
        kept = _without(weights, ignore)
        self.all = grouped(kept)
        self.left = dict(self.all)
        # Tied weights are one tensor under two names: who reads it once has read it.
        self.ties: dict[Unchecked, set[str]] = {}
        for name, value in kept.items():
            self.ties.setdefault(_storage(value), set()).add(name)

    def take(self, path: str, copy: tuple[int, ...], kind: str) -> tuple[str, Entries]:
        """Take the module of the layer at a path, and of its copy, by what kind of layer it is."""
        if self.names is None:
            name = self._next_for(kind)
        elif path in self.names:
            name = _formatted(self.names[path], copy)
            self.named.add(path)
        else:
            raise InputError(
                "names= to have a module for every layer with weights",
                f"names for {', '.join(self.names) or 'none'}",
                f"name the module of {path!r} too",
            )
        # By name, layers whose weights are tied take one module.
        found = self.left.pop(name or "", None)
        if found is None and self.names is not None:
            found = self.all.get(name or "")
        if name is None or found is None:
            raise InputError(
                "a module for every layer with weights" if name is None else f"a module {name!r}",
                f"these, not taken yet: {', '.join(self.left) or 'none'}",
                "build the same model, or pair layers and modules by names=",
            )
        return name, found

    def _next_for(self, kind: str) -> str | None:
        """Return the next module, or in a transformer layer the next one of a kind."""
        loose = {name: _LOOSE.get(name.rpartition(".")[2]) for name in self.left}
        first = next((name for name, of in loose.items() if of == kind), None)
        first = first or next((name for name, of in loose.items() if of is None), None)
        if first is None:
            return None
        outer = first[: first.rfind(".") + 1]
        if f"{outer}self_attn" not in self.all or f"{outer}linear1" not in self.all:
            return first
        own = (f"{outer}{last}" for last in _TRANSFORMER.get(kind, ()))
        return next((name for name in own if name in self.left), first)

    def take_stack(self, name: str, first: Entries, layers: int) -> Entries:
        """Take the modules of the layers above one, and return all under their own numbers."""
        outer = name.rstrip("0123456789")
        number = int(name[len(outer) :] or 0)
        arrays, full = dict(first.arrays), dict(first.full)
        for i in range(1, layers):
            above = f"{outer}{number + i}"
            found = self.left.pop(above, None)
            if found is None:
                raise InputError(
                    f"a module {above!r} for layer {i + 1} of {layers}",
                    f"these, not taken yet: {', '.join(self.left) or 'none'}",
                    "give the layer as many layers as the module has",
                )
            arrays |= {key.replace("_l0", f"_l{i}"): found.arrays[key] for key in found}
            full |= {key.replace("_l0", f"_l{i}"): found.full[key] for key in found}
        both = Entries(arrays, full)
        both.read = first.read
        return both

    def take_tied(self, path: str, count: int, read: set[str]) -> None:
        """Take the modules of a layer whose parameters are those of another, where there are any.

        Args:
            path: that of the layer.
            count: how many modules such a layer has.
            read: the entries that have been read: a module that is tied to them is taken.
        """
        if self.names is not None and path in self.names:
            self.named.add(path)
            return
        for name in list(self.left)[:count]:
            if self.is_tied(self.left[name], read):
                del self.left[name]

    def is_tied(self, entries: Entries, read: set[str]) -> bool:
        """Say whether all entries of a module are tied to some that have been read."""
        tied = set().union(*(names for names in self.ties.values() if names & read))
        return set(entries.full.values()) <= tied

    def check_all_read(self, read: set[str]) -> None:
        """Raise unless every entry has been read, itself or under a name that it is tied to."""
        for names in self.ties.values():
            if names & read:
                read = read | names
        left = [name for name, of in self.left.items() if not set(of.full.values()) <= read]
        if left:
            raise InputError(
                "a layer for every module with weights",
                f"none for {', '.join(left)}",
                "build the same model, or leave out what it does not have by ignore=",
            )
        unread = [name for of in self.all.values() for name in of.full.values() if name not in read]
        if unread:
            raise InputError(
                "a place for every entry",
                f"none for {', '.join(unread)}",
                "build the layers that the modules are, or leave these out by ignore=",
            )
        unknown = set(self.names or ()) - self.named
        if unknown:
            raise InputError(
                "names= of layers with weights",
                f"{sorted(unknown)}",
                "name paths of parameters, as fnn.summary shows them",
            )


def grouped(weights: Mapping[str, Unchecked]) -> dict[str, Entries]:
    """Return the entries of each module, by its name and theirs in it.

    >>> weights = {"rnn.weight_ih_l1": jnp.ones(2), "fc.weight": jnp.ones(2)}
    >>> {module: list(names) for module, names in grouped(weights).items()}
    {'rnn.l1': ['weight_ih_l0'], 'fc': ['weight']}
    """
    found: dict[str, Entries] = {}
    is_transposed = any(map(_is_conv1d, weights.items()))
    for full, value in weights.items():
        module, _, name = full.rpartition(".")
        prefix = f"{module}." if module else ""
        if name == _COUNTER and f"{prefix}{_COUNTED}" in weights:
            continue
        if name in _GPT2_MASKS and f"{prefix}c_attn.weight" in weights:
            continue
        if name in _LOOSE and len(getattr(value, "shape", ())) == 3:
            found[full] = Entries({"weight": as_array(value, full)[0]}, {"weight": full})
            continue
        outer, _, last = module.rpartition(".")
        beside = f"{outer}." if outer else ""
        stacked = _STACKED.match(name)
        if any(f"{beside}{other}" in weights for other in _INSIDE.get(last, ())):
            module, name = outer, _GPT2.get(f"{last}.{name}", f"{last}.{name}")
        elif stacked:
            module = ".".join(filter(None, (module, f"l{stacked['layer']}")))
            name = f"{stacked['kind']}_l0{stacked['way']}"
        array = as_array(value, full)
        if is_transposed and last in _GPT2_MATRICES and array.ndim == 2:
            array = array.T
        entries = found.setdefault(module, Entries({}, {}))
        entries.arrays[name], entries.full[name] = array, full
    return found


def _is_conv1d(entry: tuple[str, Unchecked]) -> bool:
    """Say whether an entry is the fused projection (C, 3C) of a GPT-2 made of Conv1D."""
    name, value = entry
    shape = tuple(getattr(value, "shape", ()))
    return name.endswith("c_attn.weight") and len(shape) == 2 and shape[1] == 3 * shape[0]


def as_array(value: Unchecked, name: str) -> Array:
    """Return a tensor of PyTorch or an array as an array of JAX, in its dtype.

    >>> as_array(np.ones(2, ">f4"), "weight")
    Array([1., 1.], dtype=float32)
    """
    if isinstance(value, jax.Array):
        return value
    words = f"a dense array of numbers for {name!r}"
    remedy = "convert it first, or leave it out by ignore="
    if hasattr(value, "detach"):
        try:
            value = _from_tensor(value.detach().cpu())
        except Exception as error:
            got = f"{type(value).__name__} of {value.dtype}, {value.layout}, on {value.device}"
            raise InputError(words, got, remedy) from error
    if not isinstance(value, np.ndarray | np.generic) or isinstance(value, np.ma.MaskedArray):
        raise InputError(words, f"a {type(value).__name__}", remedy)
    array = np.asarray(value)
    array = array.astype(array.dtype.newbyteorder("="))
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.number, jnp.bool_)):
        raise InputError(words, describe(array), remedy)
    with np.errstate(over="ignore"):
        made = jnp.asarray(array)
    if made.dtype != array.dtype and jnp.issubdtype(array.dtype, jnp.floating):
        lost = np.isfinite(array) & ~np.isfinite(np.asarray(made))
        if lost.any():
            raise InputError(
                f"values of {name!r} within {made.dtype}",
                f"{array[lost][0]:g}",
                "switch on jax_enable_x64",
            )
    return made


def _from_tensor(tensor: Unchecked) -> np.ndarray:
    """Return a tensor as an array of NumPy; bfloat16 and other dtypes it lacks by their bits."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype != "bfloat16" and not dtype.startswith("float8"):
        array: np.ndarray = tensor.numpy()
        return array
    torch: Unchecked = sys.modules["torch"]
    bits = torch.int16 if dtype == "bfloat16" else torch.uint8
    viewed: np.ndarray = tensor.contiguous().view(bits).numpy().view(jnp.dtype(dtype))
    return viewed


def _storage(value: Unchecked) -> Unchecked:
    """Return what two names of one tensor share."""
    if hasattr(value, "data_ptr") and hasattr(value, "stride"):
        try:
            return value.data_ptr(), tuple(value.shape), value.stride(), str(value.dtype)
        except Exception:
            return id(value)
    return id(value)


def _formatted(name: str, copy: tuple[int, ...]) -> str:
    """Return the name of a module with the number of a copy in it."""
    try:
        return name.format(*copy)
    except (IndexError, KeyError, ValueError, AttributeError) as error:
        raise InputError(
            "names of modules in names=, with {} for each number of a copy",
            describe(name),
            "write {} only where a fnn.repeat counts",
        ) from error


def _without(weights: Mapping[str, Unchecked], ignore: Collection[str]) -> dict[str, Unchecked]:
    """Return the entries that are not left out."""
    kept, used = {}, set()
    for name, value in weights.items():
        out = [one for one in ignore if name == one or name.startswith(f"{one}.")]
        used.update(out)
        if not out:
            kept[name] = value
    if unknown := sorted(set(ignore) - used):
        raise InputError(
            "ignore= of entries that there are",
            ", ".join(unknown),
            "pass names of the state_dict, or of modules",
        )
    return kept


def _check_arguments(weights: Unchecked, names: Unchecked, ignore: Unchecked) -> None:
    """Raise unless the arguments of `from_torch` are what they should be."""
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise InputError(
            "a state_dict: arrays by their names",
            type(weights).__name__,
            "pass model.state_dict()",
        )
    if names is not None and not isinstance(names, Mapping):
        raise InputError("names= of modules by paths of layers", describe(names), "pass a dict")
    remedy = "pass a list of names"
    members = list(check.several(ignore, "ignore= of names", remedy))
    if not isinstance(ignore, Collection) or not all(isinstance(name, str) for name in members):
        raise InputError("ignore= of names", describe(ignore), remedy)
