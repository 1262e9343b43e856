"""Stop strings in text that comes in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tundish.backends.generation.stops import StopStrings


def passed(stops: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    """What is passed on after each piece and at the end, and the stop string that was found."""
    watch = StopStrings(stops)
    out = [watch.feed(p) for p in pieces]
    return [*out, "" if watch.found else watch.flush()], watch.found


@pytest.mark.parametrize(
    ("stops", "pieces", "out", "found"),
    [
        (["END"], ["abE", "N", "Dxyz"], ["ab", "", "", ""], "END"),
        (["END"], ["abE", "N", "xD"], ["ab", "", "ENxD", ""], None),
        (["END"], ["abE", "N"], ["ab", "", "EN"], None),
        (["aab"], ["aaa", "b!"], ["a", "", ""], "aab"),
        (["\n\n"], ["one\n", "two\n", "\nthree"], ["one", "\ntwo", "", ""], "\n\n"),
        ([], ["a", "b"], ["a", "b", ""], None),
        (["ab", "xaby"], ["xaby"], ["x", ""], "ab"),
        (["b", "ab"], ["xab"], ["x", ""], "ab"),
    ],
)
def test_what_could_begin_a_stop_string_waits(
    stops: list[str], pieces: list[str], out: list[str], found: str | None
) -> None:
    assert passed(stops, pieces) == (out, found)


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.lists(st.text("ab", max_size=3), max_size=8))
def test_the_answer_does_not_depend_on_the_pieces(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    out, found = passed(stops, pieces)
    whole, found_whole = passed(stops, [text])
    assert ("".join(out), found) == ("".join(whole), found_whole)
    first = min((text.find(s) + len(s) for s in stops if s in text), default=None)
    assert (found is None) == (first is None)
    if found is not None:
        assert text.startswith("".join(out) + found) and len("".join(out) + found) == first
    else:
        assert "".join(out) == text
