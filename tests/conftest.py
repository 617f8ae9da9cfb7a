"""Strict in tests: no silent promotion of dtypes or ranks; warnings are errors (pyproject)."""

import importlib.util

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# The suite compiles much and runs little: a program compiled in haste computes the same.
jax.config.update("jax_disable_most_optimizations", True)

WITHOUT_TORCH = importlib.util.find_spec("torch") is None
collect_ignore_glob = ["test_torch*.py", "twins/*"] if WITHOUT_TORCH else []


def pytest_configure(config):
    config.addinivalue_line("markers", "xdist_group(name): tests that run in one process")


def pytest_report_header():
    if WITHOUT_TORCH:
        return "PyTorch twins are left out: pip install -e '.[interop]' brings them"
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the laws of one case together: they share its compiled programs."""
    from xdist.scheduler import LoadGroupScheduling

    return LoadGroupScheduling(config, log)
