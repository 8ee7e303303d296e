"""Commands that are shown to somebody who will paste them into a shell."""

from __future__ import annotations

import shlex
from os import PathLike


def typed(place: str | PathLike[str]) -> str:
    """Return a path as it is typed in a shell: quoted where it has to be, and never an option."""
    text = str(place)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
