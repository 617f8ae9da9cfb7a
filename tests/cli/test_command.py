"""The command as a process: it does not look through its memory again and again."""

import atexit
import gc
import sys

import pytest

from fnn import __main__ as command


def test_what_lives_to_the_end_is_not_looked_through_on_the_way_nor_at_exit(monkeypatch):
    usual, at_exit = gc.get_threshold(), []
    monkeypatch.setattr(atexit, "register", lambda function, *_: at_exit.append(function))
    monkeypatch.setattr(sys, "argv", ["fnn", "--help"])
    try:
        gc.set_threshold(700, 10, 10)  # Python's own
        with pytest.raises(SystemExit):
            command.main()
        assert gc.get_threshold()[0] > 10 * 700
        assert at_exit[0] is gc.freeze
    finally:
        gc.set_threshold(*usual)
