"""Names that say whose something is, for what lies in a store before anything about it is in the database.

Probes are tiny objects that ask a store what it can do; staged copies are files that are looked at before they are stored.
Who makes one holds nothing in the database yet, so that only its name can tell whether it is still needed.
"""

from __future__ import annotations

import uuid

from .stamps import is_tag_dead, process_tag

_PROBE, _STAGED = ".probe", ".staged"


def probe_name() -> str:
    """Return a new name of a probe, with this process in it."""
    return _name(_PROBE)


def staged_name() -> str:
    """Return a new name of a staged copy, with this process in it."""
    return _name(_STAGED)


def has_maker(name: str) -> bool:
    """Tell by a name, with or without its folder, whether it says who made what it names."""
    return name.endswith((_PROBE, _STAGED))


def is_maker_dead(name: str) -> bool:
    """Tell whether the process that made something has ended; False when in doubt, and of processes on other machines."""
    parts = name.rpartition(".")[0].split(".")
    return has_maker(name) and is_tag_dead("-".join(parts[-2:]))


def _name(ending: str) -> str:
    return f"{uuid.uuid4().hex}.{process_tag().replace('-', '.')}{ending}"
