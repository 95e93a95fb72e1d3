"""Stop strings: nothing of them is shown, whatever the pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetext_runtime.errors import InputError
from edgetext_runtime.stopping import StopFilter, check_stops


def feed(pieces, stops):
    stop_filter = StopFilter(stops)
    shown = [stop_filter.push(piece) for piece in pieces]
    return shown + ([] if stop_filter.stopped else [stop_filter.flush()])


def test_text_without_stops_passes_at_once():
    assert feed(["ab", "c"], ()) == ["ab", "c", ""]


def test_beginning_of_a_stop_is_held_back_until_it_is_decided():
    assert feed(["a#", "b", "##", "c"], ["##"]) == ["a", "#b", "", ""]
    assert feed(["a#", "b"], ["##"]) == ["a", "#b", ""]
    assert feed(["a#"], ["##"]) == ["a", "#"]


def test_the_stop_that_is_complete_first_wins():
    assert "".join(feed(["xabcy"], ["abc", "b"])) == "xa"
    assert "".join(feed(["xabcy"], ["bc", "abc"])) == "x"


def reference(text, stops):
    """The shortest beginning of the text that ends in a stop, without the longest such stop."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_result_does_not_depend_on_the_pieces(pieces, stops):
    assert "".join(feed(pieces, stops)) == reference("".join(pieces), stops)


def test_stops_may_be_one_string_and_not_empty():
    assert check_stops("\n") == ("\n",)
    assert check_stops(["a", "b"]) == ("a", "b")
    for bad in ([""], [3], ""):
        with pytest.raises(InputError, match="stop is"):
            check_stops(bad)
