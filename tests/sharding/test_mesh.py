"""On 8 simulated devices a layer and a loss compute what they do on one, in every mode of JAX.

`python -m tests.sharding.table` goes through all cases, which takes minutes; here are those that
scan, gather, scatter, look across the batch, draw, or nest others.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import cases
from tests.sharding.table import DEVICES, MODES, WAYS, jobs
from tests.xla import in_haste

ROOT = Path(__file__).parents[2]
SHOWN = (
    "dense", "batch_norm", "softmax-first-axis", "conv-stride-groups", "max_pool",
    "max_pool-overlapping",
    "lstm-mask", "dropout", "class_token", "embedding-padding", "attention-blocks-dropout",
    "shared-embedding", "repeat-remat-residual", "autodiff",
    "losses.cross_entropy-ignore", "losses.linear_cross_entropy-ignore", "losses.ctc-lengths",
    "losses.autodiff",
)  # fmt: skip


def run(*command, timeout=900):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | in_haste(f"--xla_force_host_platform_device_count={DEVICES}"),
        timeout=timeout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def rows():
    cases = (f"--case={name}" for name in (*SHOWN, "planted"))
    text = run("-m", "tests.sharding.table", *cases)
    lines = [re.split(r" \| ", line) for line in text.splitlines()]
    return {name: cells for name, *cells in lines}


def test_every_layer_and_loss_has_a_row():
    names = [name for name, _ in jobs()]
    assert len(names) == len(set(names)) == len(cases.LAYERS) + len(cases.LOSSES)
    assert set(SHOWN) <= set(names)


def test_gradients_on_a_mesh_are_those_of_one_device_in_every_mode_by_hand_and_by_autodiff(rows):
    assert set(rows) == {*SHOWN, "planted"}
    wrong = {name: cells for name, cells in rows.items() if set(cells) != {"ok"}}
    assert set(wrong) == {"planted"}
    assert {len(cells) for cells in rows.values()} == {len(MODES) * len(WAYS)}


def test_the_table_sees_a_wrong_gradient(rows):
    # By hand it forgets a term; autodiff is right.
    assert [cell.split(",")[0] for cell in rows["planted"]] == ["differs", "ok"] * len(MODES)


def test_by_hand_devices_send_each_other_no_more_than_by_autodiff(tmp_path):
    file = tmp_path / "rows.json"
    only = ("--only=mlp-dropout", "--only=cnn-batch_norm", "--only=lstm", "--only=linear_head")
    run("benchmarks/collectives.py", *only, "--json", file)
    found = json.loads(file.read_text())
    assert len(found) == len(only)
    for row in found:
        assert 0 < row["manual_count"] <= row["auto_count"], row
        assert 0 < row["manual_bytes"] <= row["auto_bytes"], row


def test_facts_of_shard_map():
    run("-m", "tests.sharding.facts")
