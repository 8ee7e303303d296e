"""A bill of materials in CycloneDX 1.6 (https://cyclonedx.org): the model, what it descends from, data and licences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid5

from fusery.storage.digest import digest_json
from fusery.storage.manifest import FileEntry

from ..errors import MissingExtraError
from ..records.adapter import own
from .account import Account, AccountPart, Data, hub_url, stamp

_BOMS = UUID("0d0a2c1e-9a3e-5a53-8a3b-4f8d6c2b7e51")
"""The name space of serial numbers: the same thing has the same in every registry and run."""

Component = dict[str, Any]


def bill(account: Account) -> dict[str, Any]:
    """Return the bill of materials as a JSON document."""
    others = [each.summary for each in account.withdrawals if each.relation != "itself"]
    yanked = {"yanked": own(account.withdrawals), "withdrawals": others or None}
    facts = {"kind": account.kind, "by": account.by, **yanked}
    ref = f"{account.kind}:{account.digest}"
    main = _model(ref, account.name, account.digest, account.files, facts)
    main["pedigree"] = {"ancestors": _ancestors(account)}
    main["modelCard"] = _card(account)
    datasets = [_dataset(data) for data in account.datasets]
    refs = [data["bom-ref"] for data in datasets]
    tool = {
        "type": "application",
        "name": "fusery",
        "version": version("fusery"),
        "bom-ref": "tool:fusery",
    }
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
        "components": datasets,
        "dependencies": [{"ref": ref, "dependsOn": refs}, *({"ref": data} for data in refs)],
    }


def _model(
    ref: str, name: str, digest: str, files: Iterable[FileEntry], facts: Mapping[str, Any]
) -> Component:
    described = {"digest": f"sha256:{digest}", **facts}
    return {
        "type": "machine-learning-model",
        "name": name,
        "version": digest[:12],
        "bom-ref": ref,
        "properties": [
            {"name": f"fusery:{key}", "value": _text(value)}
            for key, value in sorted(described.items())
            if value is not None
        ],
        "components": [
            {
                "type": "file",
                "name": file.path,
                "bom-ref": f"{ref}/{file.path}",
                "hashes": [{"alg": "SHA-256", "content": file.sha256}],
                "properties": [{"name": "fusery:size", "value": str(file.size)}],
            }
            for file in files
        ],
    }


def _ancestors(account: Account) -> list[Component]:
    """Return what went in; an adapter that is in a sum twice is one ancestor with two weights."""
    try:
        from cyclonedx.spdx import fixup_id
    except ImportError as error:
        raise MissingExtraError("a bill of materials", "bom") from error
    parts = [account.base, *account.adapters, *([account.fused] if account.fused else [])]
    found = []
    for part in {_ref(part): part for part in parts}.values():
        weights = [each.weight for each in parts if _ref(each) == _ref(part) and each.weight is not None]
        facts: dict[str, Any] = {"kind": part.kind, **part.facts}
        if weights:
            facts["weight"] = ", ".join(map(repr, weights))
        component = _model(_ref(part), part.name, part.digest, part.files, facts)
        if part.licence:  # by its SPDX identifier if it is one, in whatever case
            known = fixup_id(part.licence)
            component["licenses"] = [{"license": {"id": known} if known else {"name": part.licence}}]
        if part.hub is not None:
            component["purl"] = hub_url(part.hub)
        if part.kind == "adapter":
            component["modelCard"] = _adapter_card(part)
        found.append(component)
    return found


def _dataset(data: Data) -> Component:
    component: Component = {"type": "data", "name": data.name, "bom-ref": _data_ref(data)}
    if data.revision:
        component["version"] = data.revision
    if data.digest:
        component["hashes"] = [{"alg": "SHA-256", "content": data.digest}]
    if data.examples is not None:
        component["properties"] = [{"name": "fusery:examples", "value": str(data.examples)}]
    return component


def _ref(part: AccountPart) -> str:
    return f"ancestor:{part.kind}:{part.name}"


def _data_ref(data: Data) -> str:
    return f"dataset:{digest_json([data.name, data.revision, data.digest, data.examples])[:32]}"


def _card(account: Account) -> dict[str, Any]:
    facts = account.base.facts
    tasks = [part.facts["task"] for part in account.adapters] or [account.chosen.get("task")]
    parameters: dict[str, Any] = {
        "architectureFamily": facts["model_type"],
        "modelArchitecture": facts["architecture"],
        "datasets": [{"ref": _data_ref(data)} for data in account.datasets],
    }
    if named := ", ".join(dict.fromkeys(task for task in tasks if task)):
        parameters["task"] = named
    if account.datasets:
        parameters["approach"] = {"type": "supervised"}
    card: dict[str, Any] = {"modelParameters": parameters}
    if metrics := _metrics(account):
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    limits = [each.summary for each in account.withdrawals]
    verdict = (account.fidelity or {}).get("verdict")
    if verdict in ("DEGRADED", "LOST"):
        limits.append(f"fidelity of the fuse: {verdict}")
    if limits:
        card["considerations"] = {"technicalLimitations": limits}
    chosen = {key: value for key, value in account.chosen.items() if value not in (None, {}, [])}
    card["properties"] = [{"name": f"fusery:{key}", "value": _text(chosen[key])} for key in sorted(chosen)]
    return card


def _metrics(account: Account) -> list[dict[str, str]]:
    own = account.chosen.get("val_loss") if account.kind == "adapter" else None
    metrics = [] if own is None else [{"type": "validation loss", "value": repr(own)}]
    if account.kind != "adapter":
        metrics += [
            {
                "type": "validation loss of the adapter",
                "value": repr(part.facts["val_loss"]),
                "slice": part.name,
            }
            for part in account.adapters
            if part.facts["val_loss"] is not None
        ]
    for key in ("retained", "cosine", "relative_error", "noise"):
        value = (account.fidelity or {}).get(key)
        if value is not None:
            metrics.append({"type": f"fidelity of the fuse: {key}", "value": repr(value)})
    return metrics


def _adapter_card(part: AccountPart) -> dict[str, Any]:
    card: dict[str, Any] = {"modelParameters": {"task": part.facts["task"]}}
    if part.data is not None:
        card["modelParameters"]["datasets"] = [{"ref": _data_ref(part.data)}]
    if part.facts["val_loss"] is not None:
        metric = {"type": "validation loss", "value": repr(part.facts["val_loss"])}
        card["quantitativeAnalysis"] = {"performanceMetrics": [metric]}
    return card


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, allow_nan=False)
