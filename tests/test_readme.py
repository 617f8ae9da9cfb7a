"""What the README and the pages of docs/ show runs, and what they name exists."""

import doctest
import functools
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fnn
from fnn.cli import main as command_line
from tests.xla import in_haste

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in (
        *sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("*/README.md")), ROOT / ".github/SECURITY.md",
    )
}  # fmt: skip
SCRIPTS = {
    f"{page} {number}": script
    for page, text in PAGES.items()
    for number, script in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL), 1)
}
SESSIONS = {
    page: "\n".join(re.findall(r"```pycon\n(.*?)```", text, re.DOTALL))
    for page, text in PAGES.items()
    if "```pycon" in text
}
COMMANDS = sorted(
    {
        words
        for text in PAGES.values()
        for words in re.findall(r"`python -m fnn ((?:--|compare-runs).*?)`", text)
    }
)


@functools.cache
def printed(script):
    """What a script prints, run once for all tests, where nothing of the repository is at hand."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True,
        env=os.environ | in_haste(),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_runs_and_says_something(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert printed(SCRIPTS[name]).strip()


def test_the_first_script_learns_and_shows_that_gradients_are_equal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = printed(SCRIPTS["README.md 1"])
    assert float(re.search(r"'accuracy': ([\d.]+)", shown)[1]) > 0.9
    assert "manual equals auto" in shown


@pytest.mark.once
@pytest.mark.parametrize("page", SESSIONS)
def test_every_session_prints_what_is_shown(page):
    session = doctest.DocTestParser().get_doctest(SESSIONS[page], {}, page, page, 0)
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(session, out=said.write).failed == 0, said.getvalue()
    assert session.examples


@pytest.mark.parametrize("page", PAGES)
def test_every_name_exists(page):
    for name in set(re.findall(r"`fnn\.([a-z_.]+)", PAGES[page])):
        value = fnn
        for part in name.split("."):
            value = getattr(value, part)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_every_link_leads_somewhere(page):
    folders = "fnn|examples|notebooks|benchmarks|docs|tests"
    named = re.findall(rf"`((?:{folders})/[\w./]*)`", PAGES[page])
    linked = re.findall(r"\]\((?!https?://)([^)#]+)", PAGES[page])
    beside = (ROOT / page).parent
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert [path for path in linked if not (beside / path).exists()] == []


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_one(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = []
    for name in ("run", "run_sweep", "run_in_processes"):
        monkeypatch.setattr(command_line, name, lambda *given, **_: started.append(given))
    monkeypatch.setattr(command_line, "compare_runs", lambda folders: started.append(folders))
    made = CliRunner().invoke(command_line.app, shlex.split(words))
    assert made.exit_code == 0, made.output
    assert len(started) == (words != "--help")


def test_the_readme_fits_a_visit_and_keeps_its_two_commands():
    readme = PAGES["README.md"]
    assert len(readme.splitlines()) < 120
    for command in (
        'pip install -e ".[run]" && python -m fnn',
        'pip install -e ".[test]" && python -m pytest -n 2',
    ):
        assert f"```\n{command}\n```" in readme


def test_every_idea_of_the_lecture_is_run_derived_seen_and_played_with():
    ideas = (
        "neuron, activation, layers as matrix products, softmax, computation graph, losses, "
        "gradient descent, noise, stochastic, mini-batch, backpropagation, output, hidden, update, "
        "local minima, saddle points, vanishing gradient, dropout, batch norm, CNN, RNN"
    )
    table = PAGES["docs/pages/ideas.md"].lower()
    assert [idea for idea in ideas.split(", ") if idea.lower() not in table] == []
    rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\| \d+ .*", table, re.M)]
    assert [row[0] for row in rows] == [str(i) for i in range(1, 46)]
    # Each of the four by a name of fnn or by a link, whose end other tests look at.
    for _, idea, *places in rows:
        assert len(places) == 4, idea
        assert all("`" in place or "](" in place for place in places), idea
