"""A deprecated name goes on working, and says once and where it is called what to use."""

import inspect
import warnings

import pytest

import fnn
from fnn._core.deprecation import deprecated
from fnn._core.errors import InputError


def make():
    """A constructor on its way out, not called yet."""

    @fnn.constructor
    def rectifier(slope: float = 0.0):
        """Leaky ReLU."""
        return fnn.leaky_relu(slope)

    return rectifier, deprecated("0.4", "fnn.leaky_relu(slope)")(rectifier)


def calls(function, times):
    """The warnings of some calls where every one is shown."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            function(0.1)
    return caught


def test_the_first_call_alone_warns_whatever_the_filters():
    _, old = make()
    assert len(calls(old, 3)) == 1
    assert calls(old, 3) == []


def test_names_warn_each_for_itself():
    assert [len(calls(make()[1], 1)) for _ in range(2)] == [1, 1]


def test_it_says_name_version_and_what_to_use_at_the_line_of_the_caller():
    (warning,) = calls(make()[1], 1)
    assert warning.category is DeprecationWarning
    assert warning.filename == __file__
    said = "rectifier is deprecated since fnn 0.4 and will be removed; use fnn.leaky_relu(slope)"
    assert str(warning.message) == said


def test_it_does_what_it_did_and_looks_as_it_looked():
    plain, old = make()
    with pytest.warns(DeprecationWarning, match="deprecated since fnn 0.4"):
        layer = old(slope=0.1)
    assert repr(layer) == repr(plain(slope=0.1)) == "rectifier(slope=0.1)"
    assert inspect.signature(old) == inspect.signature(plain)
    assert (old.__doc__, old.__name__) == (plain.__doc__, plain.__name__)


def test_a_warning_that_is_an_error_is_raised_once():
    _, old = make()
    with pytest.raises(DeprecationWarning):
        old(0.1)
    assert calls(old, 1) == []


@pytest.mark.parametrize(
    ("since", "instead", "words"),
    [
        ("soon", "fnn.relu", "expected a version such as '0.4' as since, got 'soon'"),
        ("4", "fnn.relu", "expected a version such as '0.4' as since, got '4'"),
        (0.4, "fnn.relu", "got 0.4"),
        ("0.4", None, "got None"),
    ],
)
def test_what_is_no_version_and_what_says_nothing_is_refused(since, instead, words):
    with pytest.raises(InputError, match="expected") as refused:
        deprecated(since, instead)
    assert words in str(refused.value)
