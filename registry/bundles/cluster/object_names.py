"""Names of objects in Kubernetes.

They have small letters, digits and hyphens (RFC 1123, and RFC 1035 for those of services, which begin with a letter), while
adapters' names have underscores and dots as well.
"""

from __future__ import annotations

import re
from collections.abc import Container

from fusery.storage.digest import digest_bytes

LIMIT = 63
"""Characters of a label, and of a service's name."""

_MARK = 9
"""A hyphen and the beginning of a digest."""
_PLAIN = re.compile(r"[a-z](?:[a-z0-9_]*[a-z0-9])?")


def object_name(adapter: str) -> str:
    """Return the name of an adapter's objects; two adapters never have the same one.

    Underscores become hyphens.  Whatever else has to change, or may have become the same as another name has, gets the
    beginning of a digest of the name behind it.
    """
    if _PLAIN.fullmatch(adapter) and len(adapter) <= LIMIT:
        return adapter.replace("_", "-")
    return _marked(adapter, LIMIT)


def common_name(text: str, taken: Container[str], limit: int = LIMIT) -> str:
    """Return a name for what several adapters share.

    Args:
        text: what it is called otherwise.
        taken: names that other objects have.
        limit: characters that it may have.
    """
    name = _readable(text)
    return name if len(name) <= limit and name not in taken else _marked(text, limit)


def _readable(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return name if name[:1].isalpha() else f"x-{name}".rstrip("-")


def _marked(text: str, limit: int) -> str:
    mark = digest_bytes(text.encode("utf-8", "backslashreplace"))[: _MARK - 1]
    return f"{_readable(text)[: limit - _MARK].rstrip('-')}-{mark}"
