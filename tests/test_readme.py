"""What the README shows runs, and what it names exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fnn

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("script", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_every_script_runs(script, tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "manual" in run.stdout


def test_the_first_script_learns(tmp_path):
    script = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(re.search(r"'accuracy': ([\d.]+)", run.stdout)[1]) > 0.9
    assert "manual equals auto" in run.stdout


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`fnn\.([a-z_.]+)", README))))
def test_every_name_exists(name):
    value = fnn
    for part in name.split("."):
        value = getattr(value, part)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"[`(]((?:fnn|examples|notebooks)/[\w./]+\.\w+)[`)]", README)))
)
def test_every_file_exists(path):
    assert (ROOT / path).is_file()


def test_every_idea_of_the_lecture_is_in_the_table():
    ideas = (
        "neuron, activation, layers as matrix products, softmax, computation graph, losses, "
        "gradient descent, noise, stochastic, mini-batch, backpropagation, output, hidden, update, "
        "local minima, saddle points, vanishing gradient, dropout, batch norm, CNN, RNN"
    )
    table = README[README.index("## Concepts") :].lower()
    assert [idea for idea in ideas.split(", ") if idea.lower() not in table] == []
