"""The report of what is proven runs, and has a row for what it is asked for."""

import os
import subprocess
import sys
from pathlib import Path

from tests.xla import in_haste


def test_the_report_shows_a_layer_and_a_loss_as_proven():
    for name in ("hard_tanh", "zero_one"):
        run = subprocess.run(
            [sys.executable, "-m", "tests.report", "--only", name],
            cwd=Path(__file__).parents[2], capture_output=True, text=True,
            env=os.environ | in_haste(),
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert f"{name} " in run.stdout
        assert "0 not proven: none" in run.stdout
