"""Probes: tiny objects that ask a store what it can do, named so that one sees whose they are.

Who makes one holds nothing in the database yet, so that only its name can tell whether it still waits for an answer.
"""

from __future__ import annotations

import uuid

from .stamps import is_tag_dead, process_tag

_ENDING = ".probe"


def probe_name() -> str:
    """Return a new name, with this process in it."""
    return f"{uuid.uuid4().hex}.{process_tag().replace('-', '.')}{_ENDING}"


def is_probe(name: str) -> bool:
    """Tell a probe by its name, with or without its folder."""
    return name.endswith(_ENDING)


def is_maker_dead(name: str) -> bool:
    """Tell whether the process that made a probe has ended; False when in doubt, and of processes on other machines."""
    parts = name.removesuffix(_ENDING).split(".")
    return is_probe(name) and is_tag_dead("-".join(parts[-2:]))
