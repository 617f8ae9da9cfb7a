"""Files are written whole or not at all, whoever else writes, and nothing else is touched."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading

import jax.numpy as jnp
import pytest

import fnn
from fnn._core.atomic_write import FolderLock, atomic_write, check_file, output_folder

LONGEST = 255


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def mode(file):
    return stat.S_IMODE(file.stat().st_mode)


def write(file, text="whole"):
    with atomic_write(file) as temporary:
        temporary.write_text(text)


@pytest.fixture
def umask():
    """Set a umask for one test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("old", [None, "old"])
def test_the_file_shows_when_it_is_whole(tmp_path, old):
    file = tmp_path / "note.txt"
    if old:
        file.write_text(old)
    with atomic_write(str(file)) as temporary:
        temporary.write_text("half")
        assert (file.read_text() if file.exists() else None) == old
        assert temporary.parent == tmp_path
        temporary.write_text("whole")
    assert (names(tmp_path), file.read_text()) == (["note.txt"], "whole")


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, old, written, error):
    file = tmp_path / "note.txt"
    if old:
        file.write_text(old)

    def fail(temporary):
        if written:
            temporary.write_text("half")
        raise error

    with pytest.raises(error), atomic_write(file) as temporary:
        fail(temporary)
    assert names(tmp_path) == (["note.txt"] if old else [])
    assert not old or file.read_text() == old


def test_two_writers_of_one_file_have_temporaries_of_their_own(tmp_path):
    file = tmp_path / "note.txt"
    with atomic_write(file) as one, atomic_write(file) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
        assert names(tmp_path) == sorted([one.name, other.name])
    assert (names(tmp_path), file.read_text()) == (["note.txt"], "one")


def test_threads_that_save_the_same_file_do_not_disturb_each_other(tmp_path):
    file, failed = tmp_path / "m.safetensors", []

    def save(value):
        try:
            for _ in range(15):
                fnn.save_weights(file, {"w": jnp.full(50_000, value)})
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=save, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    loaded = fnn.load_weights(file, ({"w": jnp.zeros(50_000)}, ()))[0]["w"]
    assert loaded.min() == loaded.max()
    assert names(tmp_path) == ["m.safetensors"]


def test_a_link_in_the_place_of_the_temporary_is_not_followed(tmp_path, monkeypatch):
    tokens = iter(["0" * 16, "1" * 16])
    monkeypatch.setattr("secrets.token_hex", lambda n: next(tokens))
    victim, folder = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    folder.mkdir()
    link = folder / f".fnn-{'0' * 16}.txt"
    link.symlink_to(victim)
    write(folder / "note.txt")
    assert victim.read_text() == "precious"
    assert not (folder / "note.txt").is_symlink()
    assert link.is_symlink()


def test_a_link_keeps_pointing_to_the_file_that_is_replaced(tmp_path):
    real, link = tmp_path / "real", tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    real.write_text("old")
    link.symlink_to(real)
    write(link)
    assert link.is_symlink()
    assert real.read_text() == "whole"
    assert names(link.parent) == ["link"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_of_the_umask(tmp_path, umask, mask):
    umask(mask)
    write(tmp_path / "note")
    fnn.save_weights(tmp_path / "weights", {"w": jnp.ones(1)})
    assert {mode(tmp_path / name) for name in ("note", "weights")} == {0o666 & ~mask}


@pytest.mark.parametrize("permissions", [0o600, 0o664, 0o755])
def test_an_existing_file_keeps_its_permissions(tmp_path, umask, permissions):
    umask(0o022)
    file = tmp_path / "note"
    file.write_text("old")
    file.chmod(permissions)
    write(file)
    assert (mode(file), file.read_text()) == (permissions, "whole")


@pytest.mark.parametrize("length", [250, LONGEST])
@pytest.mark.parametrize("suffix", ["", ".png", "." + "y" * 200])
def test_the_longest_names_can_be_written(tmp_path, length, suffix):
    file = tmp_path / ("x" * (length - len(suffix)) + suffix)
    for text in ("one", "two"):
        write(file, text)
    assert (names(tmp_path), file.read_text()) == ([file.name], "two")


def test_the_longest_names_are_counted_in_bytes(tmp_path):
    write(tmp_path / ("é" * 127))
    assert names(tmp_path) == ["é" * 127]


KILLED = """
import sys
from fnn._core.atomic_write import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_bytes(bytes(1000))
    print("ready", flush=True)
    sys.stdin.read()
"""


def writer(file):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    return process


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path):
    process = writer(tmp_path / "note.txt")
    process.kill()
    process.communicate()
    left = names(tmp_path)
    assert len(left) == 1
    write(tmp_path / "other")
    assert names(tmp_path) == ["other"]


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    process = writer(tmp_path / "note.txt")
    write(tmp_path / "other")
    assert len(names(tmp_path)) == 2
    process.communicate(b"")
    assert process.returncode == 0
    assert names(tmp_path) == ["note.txt", "other"]


def test_files_of_others_with_names_alike_stay(tmp_path):
    alike = [".fnn-notes", f".fnn-{'g' * 16}", f".fnn-{'a' * 15}", f"fnn-{'a' * 16}"]
    for name in alike:
        (tmp_path / name).write_text("mine")
    os.mkfifo(tmp_path / f".fnn-{'a' * 16}")
    write(tmp_path / "note")
    assert names(tmp_path) == sorted([*alike, f".fnn-{'a' * 16}", "note"])


def test_contents_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    replace, sync = os.replace, os.fsync
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda a, b: (order.append("name"), replace(a, b))[1]
    )

    def watched(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        order.append(kind)
        sync(descriptor)

    monkeypatch.setattr("os.fsync", watched)
    write(tmp_path / "note")
    assert order == ["file", "name", "folder"]


@pytest.mark.parametrize("locked", [True, False], ids=["with locks", "without"])
def test_a_file_takes_its_name_open_only_where_that_is_its_lock(tmp_path, monkeypatch, locked):
    # Windows has no such lock, and refuses to move a file that is open.
    if not locked:
        monkeypatch.setattr("fnn._core.atomic_write.locks", None)
    opened, held = [], []
    os_open, close, replace = os.open, os.close, os.replace
    monkeypatch.setattr("os.open", lambda *a, **k: (opened.append(os_open(*a, **k)), opened[-1])[1])
    monkeypatch.setattr("os.close", lambda one: (opened.remove(one), close(one))[1])
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda a, b: (held.extend(opened), replace(a, b))[1]
    )
    write(tmp_path / "note")
    assert (bool(held), opened, names(tmp_path)) == (locked, [], ["note"])


def unwritable(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    return {
        "folder": tmp_path / "folder",
        "missing": tmp_path / "missing" / "note",
        "below-a-file": tmp_path / "file" / "note",
        "too-long": tmp_path / ("x" * (LONGEST + 1)),
        "pipe": tmp_path / "pipe",
        "device": "/dev/null",
        "loop": tmp_path / "loop",
        "empty": "",
        "null": "a\0b",
        "number": 3,
        "none": None,
        "bytes": b"note",
    }


@pytest.mark.parametrize(
    "name",
    ["folder", "missing", "below-a-file", "too-long", "pipe", "device", "loop", "empty", "null",
     "number", "none", "bytes"],
)  # fmt: skip
def test_what_is_no_place_for_a_file_is_refused_in_words(tmp_path, name):
    place = unwritable(tmp_path)[name]
    before = names(tmp_path)
    with pytest.raises(fnn.InputError, match=r"expected file to be a path|a file to write to"):
        write(place)
    with pytest.raises(fnn.InputError, match=r"^fnn\.save_weights: "):
        fnn.save_weights(place, {"w": jnp.ones(1)})
    assert names(tmp_path) == before


def test_a_read_only_file_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "note"
    file.write_text("old")
    # As the system answers all but the superuser.
    monkeypatch.setattr("os.access", lambda path, wanted: wanted != os.W_OK)
    with pytest.raises(fnn.InputError, match="read-only"):
        write(file)
    assert (names(tmp_path), file.read_text()) == (["note"], "old")


def test_an_output_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    for _ in range(2):
        folder = output_folder(str(tmp_path / "a" / "b"))
        assert folder == tmp_path / "a" / "b"
        assert names(folder) == []


@pytest.mark.parametrize("folder", ["", "a\0b", 3, None])
def test_what_is_no_path_is_no_output_folder(folder):
    with pytest.raises(fnn.InputError, match="folder to be a path"):
        output_folder(folder)


def test_a_place_is_checked_before_anything_is_written(tmp_path):
    target, permissions = check_file(tmp_path / "note")
    assert (target, permissions & 0o111) == (tmp_path / "note", 0)
    assert names(tmp_path) == []


def test_a_folder_is_locked_until_its_lock_is_closed_or_gone(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(fnn.InputError, match="no other run writes to"):
        FolderLock(tmp_path)
    lock.close()
    assert lock.closed
    FolderLock(tmp_path)
    FolderLock(tmp_path).close()
