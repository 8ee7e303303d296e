"""Attest how something was made, maybe signed: SLSA provenance or a bill of materials in CycloneDX 1.6.

What `buildType` means, what the parameters are, and who the builder is: `docs/guides/prove.md`.  Sources:
https://slsa.dev/spec/v1.1/provenance and https://cyclonedx.org.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote
from uuid import UUID, uuid5

from fusery.storage.digest import digest_json
from fusery.storage.manifest import FileEntry

from ..dsse import IN_TOTO, key_id, read_private_key, signed_document
from ..errors import BadInputError, MissingExtraError
from ..records.adapter import own
from ..workspace.workspace import Workspace

if TYPE_CHECKING:
    from .account import Account, AccountPart, Data

Attestation = Literal["slsa", "cyclonedx"]
FORMATS: tuple[Attestation, ...] = ("slsa", "cyclonedx")
_PAYLOAD_TYPES = {"slsa": IN_TOTO, "cyclonedx": "application/vnd.cyclonedx+json"}

Node = dict[str, object]  # an object of a document


@dataclass(frozen=True, slots=True)
class Attested:
    """A document of how something was made."""

    kind: str
    name: str
    digest: str
    form: str
    document: Mapping[str, Any]
    key_id: str | None = None

    @property
    def data(self) -> bytes:
        """The document as a file; the same record gives the same bytes, but for a signature."""
        try:
            text = json.dumps(self.document, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
        except ValueError as error:
            raise BadInputError("the record contains NaN or infinity, which JSON cannot hold") from error
        return text.encode("ascii") + b"\n"


def attest(workspace: Workspace, reference: str, *, form: Attestation = "slsa") -> Attested:
    """Return how an adapter, a fused model or a bundle was made, as others can read and check it."""
    from ..records.references import find_things, shippable
    from .account import account_of  # a client, which reads attestations, has no SQL

    if form not in FORMATS:
        raise BadInputError(f"there is no format {form[:40]!r}", hint=f"--format {'|'.join(FORMATS)}")
    with workspace.database.read() as session:
        account = account_of(workspace, session, shippable(find_things(session, reference), reference))
    document = statement(account) if form == "slsa" else bill(account)
    return Attested(account.kind, account.name, account.digest, form, document)


def signed(attested: Attested, path: Path, passphrase: Callable[[], bytes]) -> Attested:
    """Return a document in a DSSE envelope, signed with the private key of a file."""
    key = read_private_key(path, passphrase)
    name = key_id(key.public_key())
    envelope = signed_document(_PAYLOAD_TYPES[attested.form], attested.data, key, name)
    return replace(attested, document=envelope, key_id=name)


BUILD_TYPES = {
    "adapter": "urn:fusery:build:train:v1",
    "combination": "urn:fusery:build:combine:v1",
    "fused": "urn:fusery:build:fuse:v1",
    "bundle": "urn:fusery:build:pack:v1",
}
"""These mean the same for ever; what changes gets another number."""

_BUILDER = "urn:fusery:builder"
_CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


def statement(account: Account) -> Node:
    """Return the in-toto statement: which files there are, and how they were made."""
    combined = account.kind == "adapter" and "combination" in account.asked
    own = {"name": account.name, "digest": f"sha256:{account.digest}", "by": account.by, **account.facts}
    if account.fidelity is not None:
        own["fidelity"] = dict(account.fidelity)
    times = {"startedOn": account.began, "finishedOn": account.ended}
    metadata = {key: stamp(moment) for key, moment in times.items() if moment is not None}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": file.path, "digest": {"sha256": file.sha256}} for file in account.files],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPES["combination" if combined else account.kind],
                "externalParameters": dict(account.asked),
                "internalParameters": own,
                "resolvedDependencies": list(_dependencies(account)),
            },
            "runDetails": {
                "builder": _builder(account, trained=account.kind == "adapter" and not combined),
                "metadata": {"invocationId": f"sha256:{account.entry or account.digest}", **metadata},
            },
        },
    }


def _builder(account: Account, *, trained: bool) -> Node:
    """Return who made it; an adapter that was trained comes from a trainer that fusery only has the word of."""
    if trained:
        versions = account.facts.get("versions") or {}
        named = {str(name): str(number) for name, number in versions.items()}
        return {"id": f"{_BUILDER}:trainer", **({"version": named} if named else {})}
    if account.tool is None:
        return {"id": f"{_BUILDER}:unrecorded"}
    name, _, number = account.tool.partition(" ")
    versions = {name: number}
    if engine := (account.facts.get("engine") or (account.facts.get("fuse") or {}).get("engine")):
        versions["engine"] = str(engine)
    return {"id": f"{_BUILDER}:{quote(name, safe='')}:{quote(number, safe='.+-')}", "version": versions}


def _dependencies(account: Account) -> Iterator[Node]:
    """Yield everything that went in: each file by its digest, and each dataset as far as it is known."""
    for part in account.parts:
        declared = part.facts.get("trained_on")
        for file in part.files:
            annotations: Node = {"of": part.name, "role": _role(part, file.path), "size": file.size}
            if declared is not None:
                annotations["trained_on"] = declared
            yield {
                "name": f"{part.kind}/{part.name}/{file.path}",
                "digest": {"sha256": file.sha256},
                "annotations": annotations,
                **({"uri": f"{hub_url(part.hub)}#{quote(file.path)}"} if part.hub is not None else {}),
            }
    for data in account.datasets:
        facts = {"revision": data.revision or None, "examples": data.examples}
        facts = {name: fact for name, fact in facts.items() if fact is not None}
        yield {
            "name": f"dataset/{data.name}",
            "uri": f"urn:fusery:dataset:{quote(data.name, safe='')}",
            "annotations": {"role": "dataset", **facts},
            **({"digest": {"sha256": data.digest}} if data.digest else {}),
        }
    if calibration := (account.facts.get("recipe") or {}).get("calibration"):
        yield {
            "name": "calibration",
            "digest": {"sha256": calibration},
            "annotations": {"of": account.base.name, "role": "calibration"},
        }


def _role(part: AccountPart, path: str) -> str:
    if path.endswith(".safetensors"):
        return f"{part.kind} weights"
    if path in _CHAT_TEMPLATES:
        return "chat template"
    return "configuration" if path.endswith("config.json") else f"{part.kind} file"


_BOMS = UUID("0d0a2c1e-9a3e-5a53-8a3b-4f8d6c2b7e51")  # of serial numbers, the same in every registry and run


def bill(account: Account) -> Node:
    """Return the bill of materials as a JSON document: the model, what it descends from, data and licences."""
    others = [yank.summary for yank in account.withdrawals if yank.relation != "itself"]
    yanked = {"yanked": own(account.withdrawals), "withdrawals": others or None}
    ref = f"{account.kind}:{account.digest}"
    facts = {"kind": account.kind, "by": account.by, **yanked}
    main = _model(ref, account.name, account.digest, account.files, facts)
    main["pedigree"] = {"ancestors": _ancestors(account)}
    main["modelCard"] = _card(account)
    refs = [_data_ref(data) for data in account.datasets]
    tool = {"type": "application", "name": "fusery", "version": version("fusery"), "bom-ref": "tool:fusery"}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid5(_BOMS, f"{ref}:{account.name}").urn,
        "version": 1,
        "metadata": {
            "timestamp": stamp(account.recorded),
            "tools": {"components": [tool]},
            "component": main,
        },
        "components": [_dataset(data) for data in account.datasets],
        "dependencies": [{"ref": ref, "dependsOn": refs}, *({"ref": data} for data in refs)],
    }


def _model(ref: str, name: str, digest: str, files: Iterable[FileEntry], facts: Mapping[str, object]) -> Node:
    return {
        "type": "machine-learning-model",
        "name": name,
        "version": digest[:12],
        "bom-ref": ref,
        "properties": _properties({"digest": f"sha256:{digest}", **facts}),
        "components": [
            {
                "type": "file",
                "name": file.path,
                "bom-ref": f"{ref}/{file.path}",
                "hashes": [{"alg": "SHA-256", "content": file.sha256}],
                "properties": _properties({"size": file.size}),
            }
            for file in files
        ],
    }


def _properties(facts: Mapping[str, object]) -> list[Node]:
    texts = {
        key: fact if isinstance(fact, str) else json.dumps(fact, sort_keys=True, allow_nan=False)
        for key, fact in sorted(facts.items())
        if fact is not None
    }
    return [{"name": f"fusery:{key}", "value": text} for key, text in texts.items()]


def _ancestors(account: Account) -> list[Node]:
    """Return what went in; an adapter that is in a sum twice is one ancestor with two weights."""
    try:
        from cyclonedx.spdx import fixup_id
    except ImportError as error:
        raise MissingExtraError("a bill of materials", "bom") from error

    ancestors = []
    for (kind, name), part in {(part.kind, part.name): part for part in account.parts}.items():
        same = [other for other in account.parts if (other.kind, other.name) == (kind, name)]
        weights = ", ".join(repr(other.weight) for other in same if other.weight is not None)
        facts = {"kind": kind, **part.facts, **({"weight": weights} if weights else {})}
        component = _model(f"ancestor:{kind}:{name}", name, part.digest, part.files, facts)
        if part.licence:  # by its SPDX identifier if it is one, in whatever case
            spdx = fixup_id(part.licence)
            component["licenses"] = [{"license": {"id": spdx} if spdx else {"name": part.licence}}]
        if part.hub is not None:
            component["purl"] = hub_url(part.hub)
        if kind == "adapter":
            parameters: Node = {"task": part.facts["task"]}
            if part.data is not None:
                parameters["datasets"] = [{"ref": _data_ref(part.data)}]
            component["modelCard"] = _model_card(parameters, list(_loss(part.facts["val_loss"])))
        ancestors.append(component)
    return ancestors


def _dataset(data: Data) -> Node:
    component: Node = {"type": "data", "name": data.name, "bom-ref": _data_ref(data)}
    if data.revision:
        component["version"] = data.revision
    if data.digest:
        component["hashes"] = [{"alg": "SHA-256", "content": data.digest}]
    if data.examples is not None:
        component["properties"] = _properties({"examples": data.examples})
    return component


def _data_ref(data: Data) -> str:
    return f"dataset:{digest_json([data.name, data.revision, data.digest, data.examples])[:32]}"


def _card(account: Account) -> Node:
    facts = account.base.facts
    tasks = [part.facts["task"] for part in account.adapters] or [account.facts.get("task")]
    parameters: Node = {
        "architectureFamily": facts["model_type"],
        "modelArchitecture": facts["architecture"],
        "datasets": [{"ref": _data_ref(data)} for data in account.datasets],
    }
    if named := ", ".join(dict.fromkeys(task for task in tasks if task)):
        parameters["task"] = named
    if account.datasets:
        parameters["approach"] = {"type": "supervised"}
    fidelity = account.fidelity or {}
    metrics = list(_loss(account.facts.get("val_loss"))) if account.kind == "adapter" else []
    for part in account.adapters if account.kind != "adapter" else ():
        metrics += _loss(part.facts["val_loss"], " of the adapter", slice=part.name)
    metrics += [
        {"type": f"fidelity of the fuse: {key}", "value": repr(fidelity[key])}
        for key in ("retained", "cosine", "relative_error", "noise")
        if fidelity.get(key) is not None
    ]
    card = _model_card(parameters, metrics)
    limits = [yank.summary for yank in account.withdrawals]
    if fidelity.get("verdict") in ("UNSURE", "DEGRADED", "LOST"):
        limits.append(f"fidelity of the fuse: {fidelity['verdict']}")
    if limits:
        card["considerations"] = {"technicalLimitations": limits}
    filled = {key: value for key, value in account.facts.items() if value not in ({}, [])}
    card["properties"] = _properties(filled)
    return card


def _model_card(parameters: Node, metrics: list[Node]) -> Node:
    card: Node = {"modelParameters": parameters}
    return {**card, "quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else card


def _loss(value: object, of: str = "", **more: object) -> Iterator[Node]:
    if value is not None:
        yield {"type": f"validation loss{of}", "value": repr(value), **more}


def hub_url(hub: tuple[str, str]) -> str:
    """Return the package URL of a model on the hub."""
    name, revision = hub
    at = f"@{quote(revision, safe='._-')}" if revision else ""
    return f"pkg:huggingface/{quote(name, safe='/._-')}{at}"


def stamp(moment: datetime) -> str:
    """Return a moment as SLSA and CycloneDX have it: RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
