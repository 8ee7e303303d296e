"""Parts of fusery that the registry calls by name, so that it works without them: folders beside `registry`."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .errors import MissingPartError


def has_part(folder: str) -> bool:
    """Tell whether this installation has a part, such as `integrations`."""
    return find_spec(f"fusery.{folder}") is not None


def part(name: str) -> Any:
    """Return an attribute of a part, such as `research.calibrate:calibrate`."""
    module, _, attribute = name.partition(":")
    folder = module.partition(".")[0]
    if not has_part(folder):
        raise MissingPartError(folder)
    return getattr(import_module(f"fusery.{module}"), attribute)
