"""Where an answer ends: stop strings, found in the text however it was cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopWords:
    """Text passes through, up to the first stop string.

    What could be the beginning of one is held back until it is known.  The law: whatever pieces a text comes in, what is
    let through in all is the text before the stop string that is complete first, or all of it if there is none.
    """

    def __init__(self, words: Sequence[str] = ()) -> None:
        self._words = tuple(word for word in words if word)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take the next piece; return what is certain by now.  After a stop string, `found` is set and nothing comes."""
        if self.found or not self._words:
            return "" if self.found else text
        held = self._held + text
        found = [(place + len(word), place) for word in self._words if (place := held.find(word)) >= 0]
        if found:
            self.found, self._held = True, ""
            return held[: min(found)[1]]
        keep = max(_overlap(held, word) for word in self._words)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """Return what was held back for nothing."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, word: str) -> int:
    """Return how much of a word's beginning is the text's end."""
    for length in range(min(len(word) - 1, len(text)), 0, -1):
        if text.endswith(word[:length]):
            return length
    return 0
