"""Stop strings, whatever pieces a text comes in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.server.stopping import StopWords

LETTERS = st.text("ab", max_size=12)


@given(st.lists(LETTERS, max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_comes_through_is_what_is_before_the_stop_string(pieces: list[str], words: list[str]) -> None:
    text = "".join(pieces)
    ends = [(place + len(word), place) for word in words if (place := text.find(word)) >= 0]
    expected = text[: min(ends)[1]] if ends else text
    stop, said = StopWords(words), ""
    for piece in pieces:
        said += stop.push(piece)
        assert expected.startswith(said)
    assert stop.found == bool(ends)
    if not stop.found:
        said += stop.finish()
    assert said == expected


def test_only_what_may_be_a_stop_is_held_back() -> None:
    stop = StopWords(["</end>"])
    assert stop.push("one <") == "one "
    assert stop.push("b> two </en") == "<b> two "
    assert stop.push("d> three") == ""
    assert stop.found
    assert stop.push("four") == ""
