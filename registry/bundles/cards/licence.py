"""The licences in a model card: those of the parts, and one for the whole only if all are known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

HUB = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m",
    "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "gemma",
    "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "h-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr",
    "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0",
    "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "open-mdw", "openrail", "openrail++", "osl-3.0", "other",
    "pddl", "postgresql", "unknown", "unlicense", "wtfpl", "zlib",
})  # fmt: skip
"""What the hub takes under `license` (https://huggingface.co/docs/hub/repositories-licenses)."""

_SLUG = re.compile(r"[a-z0-9][a-z0-9.-]{0,95}")


def licences(base: Mapping[str, Any], adapters: Sequence[tuple[Any, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return `id` and `name` for the card's front matter, and `parts`, each with its licence or None.

    `id` is None if the licence of any part is not recorded: licences are not guessed.

    Args:
        base: the base's entry in a provenance.
        adapters: name and facts of each adapter.
    """
    named = [("base model", base.get("licence"))]
    several = len(adapters) > 1
    for name, facts in adapters:
        named.append((f"adapter {name}" if several else "adapter", facts.get("licence")))
    known = {str(licence).strip().lower() for _, licence in named if licence}
    if not known or not all(licence for _, licence in named):
        return {"id": None, "name": None, "parts": named}
    only = known.pop() if len(known) == 1 else None
    if only in HUB:
        return {"id": only, "name": None, "parts": named}
    return {"id": "other", "name": only if only and _SLUG.fullmatch(only) else None, "parts": named}
