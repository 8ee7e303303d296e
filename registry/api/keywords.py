"""Method signatures with the keys of unpacked `TypedDict` keywords, for the reference."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

_UNPACKED = re.compile(r"Unpack\[(\w+)\]")
_ROOMS = {
    "Declared": "fusery.registry.admission.submission",
    "Corrections": "fusery.registry.admission.submission",
}


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return a method's signature, with a parameter for each key of an unpacked `TypedDict`."""
    made = inspect.signature(function)
    found: list[inspect.Parameter] = []
    for each in made.parameters.values():
        unpacked = _UNPACKED.fullmatch(str(each.annotation))
        if unpacked is None or unpacked[1] not in _ROOMS:
            found.append(each)
            continue
        keywords = getattr(import_module(_ROOMS[unpacked[1]]), unpacked[1])
        found += [
            inspect.Parameter(
                name, each.KEYWORD_ONLY, default=None, annotation=getattr(of, "__forward_arg__", of)
            )
            for name, of in keywords.__annotations__.items()
        ]
    return made.replace(parameters=found)
