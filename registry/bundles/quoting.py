"""Text from outside, made harmless for the place where a template puts it.

Every value that a template inserts goes through one of these, or has been checked against a pattern.
"""

from __future__ import annotations

import json
import re
from typing import Any

_MARKUP = re.compile(r"[\\`*\[\]|$~#!{}]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
CARD_LIMIT = 400
"""Characters of one value that the model card shows; `fusery.json` has all of it."""


def yaml_string(value: Any) -> str:
    """Return a text as a YAML double-quoted scalar: one line of printable ASCII that reads back as exactly that text.

    JSON's form will not do: its pairs of surrogates are two characters to YAML, and it leaves DEL as it is.
    """
    return '"' + "".join(_yaml_character(character) for character in str(value)) + '"'


def _yaml_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if " " <= character <= "~" else _escape(character)


def _escape(character: str) -> str:
    # Python's escapes (\n, \x7f, \u2028, \U0001f600) are YAML's as well.
    return character.encode("unicode_escape").decode()


def markdown_text(value: Any) -> str:
    """Return a value as Markdown that shows as plain text in one table cell, whatever characters it has.

    What cannot be printed is shown as an escape, so that a line break or a change of writing direction is seen and
    not obeyed; lists and objects are shown as JSON; None is a dash.
    """
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    if len(text) > CARD_LIMIT:
        text = text[: CARD_LIMIT - 1] + "…"
    visible = "".join(c if c.isprintable() else _escape(c) for c in text)
    escaped = _MARKUP.sub(lambda match: "\\" + match[0], visible)
    return re.sub("[&<>]", lambda match: _ENTITIES[match[0]], escaped)
