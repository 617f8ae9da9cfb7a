"""The same network, weights and batches in another library and in fnn: the same loss curve."""

import importlib
import importlib.util
import re
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.tolerance import rounding

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples/coming_from"
PAGE = (ROOT / "docs/pages/coming_from.md").read_text("utf-8")
# The module that each program cannot do without.
PEERS = {
    "from_stax": "jax", "from_flax_nnx": "flax", "from_equinox": "equinox", "from_keras": "keras",
    "from_pytorch": "torch",
}  # fmt: skip
PROGRAMS = [name for name, peer in PEERS.items() if importlib.util.find_spec(peer)]
# A loss comes of sums over as many pixels.
BOUND = rounding("float32", 784)


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request):
    """A program, under the rules of its own library and not under those of the suite."""
    with (
        pytest.MonkeyPatch.context() as patch,
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        warnings.catch_warnings(),
    ):
        # What other libraries warn of is theirs to mend.
        warnings.simplefilter("ignore")
        patch.syspath_prepend(FOLDER)
        module = importlib.import_module(request.param)
        (their_function,) = [name for name in vars(module) if re.match(r"in_(?!fnn)", name)]
        data = module.batches()
        weights, theirs = getattr(module, their_function)(data)
        yield module, data, weights, np.array(theirs)
        sys.modules.pop("_digits", None)


def apart(theirs, ours):
    return np.abs(theirs - ours).max() / theirs.max()


def test_both_loss_curves_are_the_same_up_to_rounding_and_fall(program):
    module, data, weights, theirs = program
    ours = module.in_fnn(weights, data)
    assert len(ours) == len(theirs) == module.EPOCHS * len(data)
    assert apart(theirs, ours) <= BOUND
    assert ours[-5:].mean() < ours[:5].mean() / 3


def test_another_order_of_batches_is_seen(program):
    module, data, weights, theirs = program
    swapped = [data[1], data[0], *data[2:]]
    assert apart(theirs, module.in_fnn(weights, swapped)) > BOUND


def test_the_curves_are_printed_beside_each_other(program, capsys):
    module, _, _, theirs = program
    module.compare("peer", theirs, theirs)
    assert (
        f"{len(theirs)} steps, at most 0e+00 of the largest loss apart" in capsys.readouterr().out
    )


def test_every_program_is_tried_and_shown_by_both_its_functions():
    programs = sorted(FOLDER.glob("[!_]*.py"))
    assert sorted(PEERS) == [path.stem for path in programs]
    for path in programs:
        functions = re.findall(r"^def (in_\w+)", path.read_text("utf-8"), re.M)
        place = rf"[./]+examples/coming_from/{path.stem}\.py"
        shown = re.findall(rf"^\[`(in_\w+)`\]\({place}\)$", PAGE, re.M)
        assert shown == functions
        assert len(functions) == 2
