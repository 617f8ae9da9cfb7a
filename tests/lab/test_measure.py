"""Times are taken in turns that favor nobody."""

import collections
import itertools

from fnn.lab import interleaved


def test_in_turns_each_follows_each_other_about_as_often():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    interleaved(functions, rounds=300)
    followed = collections.Counter(itertools.pairwise(calls[3:]))
    # 100 within rounds and 33 between them, with a deviation of 9; a rotation would have 200.
    assert all(88 < followed[pair] < 178 for pair in itertools.permutations("abc", 2)), followed


def test_a_function_that_times_itself_is_believed():
    assert interleaved({"own": lambda: 2.5}, rounds=2) == {"own": [2.5, 2.5]}
