"""Attest how something was made: SLSA provenance (version 1, https://slsa.dev/spec/v1.1/provenance) or CycloneDX, maybe signed.

What `buildType` means, what the parameters are, and who the builder is: `docs/guides/prove.md`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from fusery.storage.manifest import FileEntry

from ..dsse import IN_TOTO, key_id, read_private_key, signed_document
from ..errors import BadInputError

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace
    from .account import Account, AccountPart, Data

Attestation = Literal["slsa", "cyclonedx"]
FORMATS: tuple[Attestation, ...] = ("slsa", "cyclonedx")
_PAYLOAD_TYPES = {"slsa": IN_TOTO, "cyclonedx": "application/vnd.cyclonedx+json"}


@dataclass(frozen=True, slots=True)
class Attested:
    """A document of how something was made."""

    kind: str
    name: str
    digest: str
    form: str
    document: dict[str, Any]
    key_id: str | None = None

    @property
    def data(self) -> bytes:
        """The document as a file; the same record gives the same bytes, but for a signature."""
        try:
            text = json.dumps(self.document, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
        except ValueError as error:
            raise BadInputError("the record contains NaN or infinity, which JSON cannot hold") from error
        return text.encode("ascii") + b"\n"


def attest(
    workspace: Workspace,
    reference: str,
    *,
    form: Attestation = "slsa",
) -> Attested:
    """Return how an adapter, a fused model or a bundle was made, as others can read and check it."""
    from ..records.references import find_things, shippable
    from .account import account_of  # a client, which reads attestations, has no SQL

    if form not in FORMATS:
        raise BadInputError(f"there is no format {form[:40]!r}", hint=f"--format {'|'.join(FORMATS)}")
    with workspace.database.read() as session:
        account = account_of(workspace, session, shippable(find_things(session, reference), reference))
    from .cyclonedx import bill

    document = statement(account) if form == "slsa" else bill(account)
    return Attested(account.kind, account.name, account.digest, form, document)


def signed(attested: Attested, path: Path, passphrase: Callable[[], bytes]) -> Attested:
    """Return a document in a DSSE envelope, signed with the private key of a file."""
    key = read_private_key(path, passphrase)
    name = key_id(key.public_key())
    envelope = signed_document(_PAYLOAD_TYPES[attested.form], attested.data, key, name)
    return replace(attested, document=envelope, key_id=name)


STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPES = {
    "adapter": "urn:fusery:build:train:v1",
    "combination": "urn:fusery:build:combine:v1",
    "fused": "urn:fusery:build:fuse:v1",
    "bundle": "urn:fusery:build:pack:v1",
}
"""These mean the same for ever; what changes gets another number."""

BUILDER = "urn:fusery:builder"
_CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


def statement(account: Account) -> dict[str, Any]:
    """Return the statement: which files there are, and how they were made."""
    return {
        "_type": STATEMENT,
        "subject": [{"name": file.path, "digest": {"sha256": file.sha256}} for file in account.files],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPES["combination" if _is_combined(account) else account.kind],
                "externalParameters": dict(account.asked),
                "internalParameters": _internal(account),
                "resolvedDependencies": list(_dependencies(account)),
            },
            "runDetails": {"builder": _builder(account), "metadata": _metadata(account)},
        },
    }


def _is_combined(account: Account) -> bool:
    return account.kind == "adapter" and "combination" in account.asked


def _internal(account: Account) -> dict[str, Any]:
    told = {"name": account.name, "digest": f"sha256:{account.digest}", "by": account.by, **account.chosen}
    return told if account.fidelity is None else {**told, "fidelity": dict(account.fidelity)}


def _builder(account: Account) -> dict[str, Any]:
    """Return who made it; an adapter that was trained comes from a trainer that fusery only has the word of."""
    if account.kind == "adapter" and not _is_combined(account):
        versions = account.chosen.get("versions") or {}
        named = {str(name): str(number) for name, number in versions.items()}
        return {"id": f"{BUILDER}:trainer", **({"version": named} if named else {})}
    if account.tool is None:
        return {"id": f"{BUILDER}:unrecorded"}
    name, _, number = account.tool.partition(" ")
    versions = {name: number}
    if engine := (account.chosen.get("engine") or (account.chosen.get("fuse") or {}).get("engine")):
        versions["engine"] = str(engine)
    return {"id": f"{BUILDER}:{quote(name, safe='')}:{quote(number, safe='.+-')}", "version": versions}


def _metadata(account: Account) -> dict[str, str]:
    from .account import stamp

    told = {"invocationId": f"sha256:{account.entry or account.digest}"}
    if account.began is not None:
        told["startedOn"] = stamp(account.began)
    if account.ended is not None:
        told["finishedOn"] = stamp(account.ended)
    return told


def _dependencies(account: Account) -> Iterator[dict[str, Any]]:
    """Yield everything that went in: each file by its digest, and each dataset as far as it is known."""
    for part in (account.base, *account.adapters, *((account.fused,) if account.fused else ())):
        for file in part.files:
            yield _file(part, file)
    for data in account.datasets:
        yield _data(data)
    calibration = (account.chosen.get("recipe") or {}).get("calibration")
    if calibration:
        yield {
            "name": "calibration",
            "digest": {"sha256": calibration},
            "annotations": {"of": account.base.name, "role": "calibration"},
        }


def _file(part: AccountPart, file: FileEntry) -> dict[str, Any]:
    from .account import hub_url

    annotations = {"of": part.name, "role": _role(part, file.path), "size": file.size}
    if part.facts.get("trained_on") is not None:
        annotations["trained_on"] = part.facts["trained_on"]
    described = {
        "name": f"{part.kind}/{part.name}/{file.path}",
        "digest": {"sha256": file.sha256},
        "annotations": annotations,
    }
    if part.hub is not None:
        described["uri"] = f"{hub_url(part.hub)}#{quote(file.path)}"
    return described


def _role(part: AccountPart, path: str) -> str:
    if path.endswith(".safetensors"):
        return f"{part.kind} weights"
    if path in _CHAT_TEMPLATES:
        return "chat template"
    return "configuration" if path.endswith("config.json") else f"{part.kind} file"


def _data(data: Data) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": f"dataset/{data.name}",
        "uri": f"urn:fusery:dataset:{quote(data.name, safe='')}",
        "annotations": {"role": "dataset"},
    }
    if data.digest:
        described["digest"] = {"sha256": data.digest}
    if data.revision:
        described["annotations"]["revision"] = data.revision
    if data.examples is not None:
        described["annotations"]["examples"] = data.examples
    return described
