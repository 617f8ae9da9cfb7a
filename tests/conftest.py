"""Strict in tests: no silent promotion of dtypes or ranks; warnings are errors (pyproject)."""

import gc
import importlib.util
import signal

import jax

from tests.xla import compile_in_haste

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# The suite compiles much and runs little, and its traces are many small objects that live long.
compile_in_haste()
gc.set_threshold(200_000, 50, 50)

# A shell that starts the suite in its background has it ignore Ctrl-C, and its children too: tests
# of signals would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

CASES_REMEMBERED = 40

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


def pytest_collection_modifyitems(items):
    """Put the laws of one case together: they share its compiled programs."""
    places = {}
    for item in items:
        places.setdefault(_case_of(item), len(places))
    items.sort(key=lambda item: places[_case_of(item)])


def pytest_runtest_teardown(item, nextitem):
    """Forget compiled programs now and then: thousands of them would fill the memory.

    Between cases only, whose laws share programs.
    """
    session = item.session
    if nextitem is not None and _case_of(item) != _case_of(nextitem):
        session.cases_seen = getattr(session, "cases_seen", 0) + 1
        if session.cases_seen % CASES_REMEMBERED == 0:
            jax.clear_caches()


def _case_of(item):
    marker = item.get_closest_marker("together")
    return marker.args if marker else item.nodeid
