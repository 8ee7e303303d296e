"""Words that PEFT's configurations mean modules by, going by the end of a path (`str.endswith`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Endings:
    """Words, to be found at the ends of paths; by their lengths, for there may be very many of either in a stranger's file."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._places = {word: place for place, word in enumerate(dict.fromkeys(words))}
        self._lengths = sorted({len(word) for word in self._places})

    def __iter__(self) -> Iterator[str]:
        """Yield the words, each once."""
        return iter(self._places)

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._places)

    def of(self, path: str) -> str | None:
        """Return the first of the words that a path ends with; None if there is none."""
        ends = (path[len(path) - length :] for length in self._lengths if length <= len(path))
        found = [end for end in ends if end in self._places]
        return min(found, key=self._places.__getitem__, default=None)

    def within(self, module: str) -> set[str]:
        """Return all words that a module's path, or that of one it lies in, ends with."""
        parts = module.split(".")
        paths = [".".join(parts[: end + 1]) for end in range(len(parts))]
        return {
            end
            for path in paths
            for length in self._lengths
            if length <= len(path) and (end := path[len(path) - length :]) in self._places
        }
