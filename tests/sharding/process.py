"""A process for what takes several simulated devices: each process has one number of them."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

from tests.xla import in_haste


def found_by(module, folder, devices=8):
    """Return what `main` of a module of tests pickles into the file that it is given."""
    file = folder / "found"
    call = f"import pathlib, {module} as t; t.main(pathlib.Path({str(file)!r}))"
    flags = in_haste(f"--xla_force_host_platform_device_count={devices}")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", call], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, env=os.environ | flags | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return pickle.loads(file.read_bytes())
