"""The cells of a table, made ready for any width: each says what its column is called, and long words have places to break.

On a phone a row stands as a list of names and values, and the names come from here.  What browsers would break anywhere or not
at all, such as a path or a digest, gets its places after signs that stand between parts; what is short enough is never broken.
"""

from __future__ import annotations

import re
from itertools import pairwise

from markupsafe import Markup

LONGEST = 16
"""Letters that are kept together."""

_TAG = re.compile(r"(<[^>]*>)")
_CELL = re.compile(r"<(td|th)([^>]*)>(.*?)</\1>", re.DOTALL)
_UNIT = re.compile(r"&[#\w]+;|.", re.DOTALL)
_WORD = re.compile(r"\S+")
_BETWEEN = frozenset("/_-.:,;@#=+|")


def cells(table: Markup) -> Markup:
    """Return the inner HTML of a table, made here and escaped, with names and places to break in the cells of its body."""
    head, begins, body = str(table).partition("<tbody>")
    names = [_TAG.sub("", match.group(3)) for match in _CELL.finditer(head)]
    rows = body.split("</tr>")
    return Markup(head + begins + "</tr>".join(_row(row, names) for row in rows))


def _row(row: str, names: list[str]) -> str:
    labels = iter(names)

    def made(match: re.Match[str]) -> str:
        kind, more, content = match.groups()
        name = next(labels, "")
        if kind == "td":
            short = len(_UNIT.findall(_TAG.sub("", content))) <= LONGEST
            more += f' data-name="{name}"' + (" data-short" if short else "")
        parts = [part if part.startswith("<") else _spaced(part) for part in _TAG.split(content)]
        return f"<{kind}{more}>{''.join(parts)}</{kind}>"

    return _CELL.sub(made, row)


def _spaced(text: str) -> str:
    return _WORD.sub(lambda word: _broken(word.group()), text)


def _broken(word: str) -> str:
    """Return an escaped word with a place to break after at most so many letters."""
    units = _UNIT.findall(word)
    if len(units) <= LONGEST:
        return word
    ends, start = [0], 0
    while len(units) - start > LONGEST:
        signs = [at + 1 for at in range(start, start + LONGEST) if units[at] in _BETWEEN]
        start = signs[-1] if signs else start + LONGEST
        ends.append(start)
    return "<wbr>".join("".join(units[a:b]) for a, b in pairwise([*ends, len(units)]))
