"""Compiled programs that the command line keeps on disk."""

import os
import subprocess
import sys

import pytest

from fnn.cli import cache

# Says whether the one program was found, and what it computes, to the last bit.
PROGRAM = """
import jax
from jax import monitoring
from fnn.cli.cache import keep_programs

keep_programs()
found = []
monitoring.register_event_listener(lambda name, **_: found.append(name))
y = jax.jit(lambda x: (x @ x.T).sum() / 3)(jax.numpy.arange(6, dtype=float).reshape(2, 3))
print("/jax/compilation_cache/cache_hits" in found, float(y).hex())
"""


def start(folder, **variables):
    """Run the program in a process of its own, and return its answer."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder), "JAX_ENABLE_COMPILATION_CACHE": "1"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env=environment | variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.fixture
def programs(tmp_path):
    for name in ("a-cache", "b-cache"):
        (tmp_path / name).write_bytes(name.encode())
    cache.note_sound(tmp_path)
    return tmp_path


def left(folder):
    cache.remove_unsound(folder)
    return sorted(file.name for file in folder.glob("*-cache"))


def test_a_second_start_finds_its_programs_and_a_damaged_one_is_compiled_anew(tmp_path):
    first, second = start(tmp_path), start(tmp_path)
    assert [first[0], second[0]] == ["False", "True"]
    (folder,) = (tmp_path / "fnn" / "programs").iterdir()
    for file in folder.glob("*-cache"):
        file.write_bytes(file.read_bytes()[:40])
    damaged = start(tmp_path)
    assert damaged[0] == "False"
    assert first[1] == second[1] == damaged[1]


def test_an_environment_that_says_where_programs_are_is_left_as_it_is(tmp_path):
    start(tmp_path / "a", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "b"))
    assert not (tmp_path / "a").exists()


def test_what_is_as_it_was_noted_stays(programs):
    assert left(programs) == ["a-cache", "b-cache"]


def test_half_an_entry_is_removed(programs):
    (programs / "a-cache").write_bytes(b"a-c")
    assert left(programs) == ["b-cache"]


def test_an_entry_of_a_killed_run_is_removed(programs):
    (programs / "c-cache").write_bytes(b"whole or not, nobody knows")
    assert left(programs) == ["a-cache", "b-cache"]


@pytest.mark.parametrize("notes", [b"", b"[1]", b"\xff", b'{"a-cache": "text"}'])
def test_without_notes_that_can_be_read_all_is_removed(programs, notes):
    (programs / "sound.json").write_bytes(notes)
    assert left(programs) == []


def test_of_too_much_the_oldest_goes(programs, monkeypatch):
    monkeypatch.setattr(cache, "_MOST_BYTES", 8)
    os.utime(programs / "b-cache", (1, 1))
    assert left(programs) == ["a-cache"]


def test_a_folder_that_others_may_write_into_holds_no_programs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache.programs_folder()
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    start(tmp_path)
    assert list(folder.iterdir()) == []


def test_another_processor_has_a_folder_of_its_own(monkeypatch):
    here = cache.programs_folder()
    monkeypatch.setattr(cache, "_machine", lambda: "another")
    assert cache.programs_folder().parent == here.parent
    assert cache.programs_folder() != here
