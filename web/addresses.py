"""Where the pages of things are."""

from __future__ import annotations

from urllib.parse import quote

from markupsafe import Markup


def segment(text: object) -> Markup:
    """Return a text as one segment of a path; no text gets out of it."""
    quoted = quote(str(text), safe="")
    return Markup(quoted.replace(".", "%2E") if str(text) in (".", "..") else quoted)


def of_adapter(name: str) -> str:
    """Return the address of an adapter."""
    return f"/adapters/{segment(name)}"


def of_alias(alias: str) -> str:
    """Return the address of an alias, `TASK#NAME`."""
    task, _, name = alias.partition("#")
    return f"/aliases/{segment(task)}/{segment(name)}"
