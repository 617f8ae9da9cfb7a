"""Strict in tests: no silent promotion of dtypes or ranks; warnings are errors (pyproject)."""

import gc
import importlib.util
import itertools
import os
import signal
from collections import Counter

import jax
import pytest

from tests.xla import compile_in_haste

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# The suite compiles much and runs little, and its traces are many small objects that live long.
compile_in_haste()
# What an earlier run of the command line has compiled is not used, nor by the processes of a test.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"
jax.config.update("jax_enable_compilation_cache", False)
gc.set_threshold(200_000, 50, 50)

# A shell that starts the suite in its background has it ignore Ctrl-C, and its children too: tests
# of signals would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A program takes half a megabyte or more.
PROGRAMS_REMEMBERED = 2000
COMPILED = "/jax/core/compile/backend_compile_duration"
# Processes of their own, of half a minute: begun last, one of them would be waited for.
LONG = ("test_lessons.py", "test_kill.py")

WITHOUT_TORCH = importlib.util.find_spec("torch") is None
WITHOUT_ACCOUNTANT = importlib.util.find_spec("dp_accounting") is None
collect_ignore_glob = ["interop/*", "twins/*"] if WITHOUT_TORCH else []
collect_ignore = ["gradient/test_privacy.py"] if WITHOUT_ACCOUNTANT else []


def pytest_configure(config):
    config.addinivalue_line("markers", "together(name): tests that run one after the other")


def pytest_report_header():
    left_out = []
    if WITHOUT_TORCH:
        left_out.append("PyTorch twins are left out: pip install -e '.[interop]' brings them")
    if WITHOUT_ACCOUNTANT:
        left_out.append("the privacy test is left out: pip install -e '.[private]' brings it")
    return left_out


def pytest_terminal_summary(terminalreporter, config):
    """Where durations are asked for, say those of every folder too, summed over all processes."""
    if config.getoption("durations") is None:
        return
    seconds, counts = Counter(), Counter()
    for report in itertools.chain(*terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            room, *inner = report.nodeid.partition("::")[0].split("/")
            folder = room if room == "fnn" or not inner else f"{room}/{inner[0]}"
            seconds[folder] += report.duration
            counts[folder] += report.when == "call"
    terminalreporter.section("seconds by folder")
    for folder, total in seconds.most_common():
        terminalreporter.write_line(f"{total:8.0f} s in {counts[folder]:5} tests of {folder}")


def pytest_collection_modifyitems(items):
    """Put the laws of one case together, which share its compiled programs; the long ones first."""
    places = {}
    for item in items:
        places.setdefault(_case_of(item), len(places))
    items.sort(key=lambda item: (item.path.name not in LONG, places[_case_of(item)]))


class Programs:
    """How many programs this process compiled since it forgot them."""

    compiled = 0

    def count(self, event, seconds, **_):
        self.compiled += event == COMPILED

    def forget(self):
        jax.clear_caches()
        self.compiled = 0


PROGRAMS = Programs()
jax.monitoring.register_event_duration_secs_listener(PROGRAMS.count)


def pytest_runtest_teardown(item, nextitem):
    """Forget compiled programs now and then: thousands of them would fill the memory.

    Between cases only, whose laws share programs.
    """
    crowded = PROGRAMS.compiled >= PROGRAMS_REMEMBERED
    if crowded and nextitem is not None and _case_of(item) != _case_of(nextitem):
        PROGRAMS.forget()


def _case_of(item):
    marker = item.get_closest_marker("together")
    return marker.args if marker else item.nodeid
