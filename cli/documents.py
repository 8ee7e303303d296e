"""What each command prints with `--json`, as types; `fusery schema` and the tests read it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from importlib import import_module
from operator import or_
from typing import Any

OTHERS_FORMAT = "another's format"
"""Of a command that prints a document whose form others have laid down, such as a JSON Schema or an attestation."""

DOCUMENTS: Mapping[str, str] = {
    "init": "",
    "demo": "",
    "doctor": "",
    "completion": "",
    "schema": OTHERS_FORMAT,
    "base add": "records.base:AddedBase",
    "base list": "[records.base:Base]",
    "base show": "records.base:BaseDetails",
    "base calibrate": "",
    "train": "",
    "check": "",
    "register": "records.adapter:Registered",
    "list": "[records.adapter:Adapter]",
    "show": "records.adapter:AdapterDetails",
    "history": "[records.adapter:Version]",
    "amend": "registration.amend:Amended",
    "diff": "",
    "compare": "",
    "probe": "",
    "bench": "",
    "fuse": "",
    "fidelity": "",
    "cache list": "",
    "cache prune": "",
    "cache pin": "",
    "cache unpin": "",
    "cache explain": "",
    "materialize": "bundles.materialize:Materialized | []",
    "serve": "",
    "alias set": "",
    "alias remove": "",
    "alias rollback": "",
    "alias list": "",
    "alias show": "",
    "alias history": "",
    "deploy record": "",
    "deploy end": "",
    "deploy list": "",
    "export": "exchange.export:Exported",
    "import": "records.adapter:Registered",
    "lineage": "provenance:Graph | .written:WrittenDocument",
    "identify": "identification.identified:Identified",
    "events": "",
    "audit": "audit:Report",
    "attest": OTHERS_FORMAT,
    "sign": "signing.sign:Signed",
    "verify": "signing.verify:Verification",
    "signature list": "signing.recorded:Signatures",
    "signature export": "signing.recorded:ExportedSignature",
    "signature anchor": "signing.anchor:WrittenAnchor",
    "trust keygen": "dsse.keys:Pair",
    "trust add": "signing.trusted:TrustedKey",
    "trust list": "[signing.trusted:TrustedKey]",
    "trust revoke": "signing.trusted:TrustedKey",
    "push": "exchange:Exchanged",
    "pull": "exchange:Exchanged",
    "rules set": "",
    "rules show": "",
    "rules list": "",
    "rules remove": "",
    "approve": "",
    "promote": "",
    "yank": "",
    "impact": "",
    "report": "reporting:Written",
    "backup": "backup:BackedUp",
    "restore": "backup:Restored",
    "gc": "collect:Collection",
    "db upgrade": "",
    "db current": "",
    "db check": "",
    "db grants": "",
}
"""By command: module and name of a record, within `fusery.registry` or, with a leading dot, within `fusery.cli`.

An array of them is in brackets; one of several is separated by `|`.
"""


def document_of(command: str) -> Any:
    """Return the type of what a command prints with `--json`; `object` where its form is another's."""
    return reduce(or_, map(_type, DOCUMENTS[command].split(" | ")))


def _type(text: str) -> Any:
    if text in (OTHERS_FORMAT, ""):
        return object
    if text == "null":
        return None
    if text.startswith("["):
        return list[_type(text[1:-1])]  # type: ignore[misc]
    module, _, name = text.partition(":")
    place = f"fusery.cli{module}" if module.startswith(".") else f"fusery.registry.{module}"
    return getattr(import_module(place), name)
