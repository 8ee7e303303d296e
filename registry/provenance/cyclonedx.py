"""A bill of materials in CycloneDX 1.6 (https://cyclonedx.org): the model, what it descends from, data and licences.

The library knows machine-learning models and their ancestors; the model card, which it does not know yet, is put in
afterwards, and the tests hold the whole against the published schema.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from fusery.storage.digest import digest_json

from ..errors import MissingExtraError
from ..records.withdrawal import own
from .account import Account, Data, File, Part

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

_BOMS = UUID("0d0a2c1e-9a3e-5a53-8a3b-4f8d6c2b7e51")
"""The name space of serial numbers: the same thing has the same in every registry and run."""


def bill(account: Account) -> dict[str, Any]:
    """Return the bill of materials as a JSON document.

    Raises:
        MissingExtraError: cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise MissingExtraError("a bill of materials", "bom") from error
    document: dict[str, Any] = json.loads(JsonV1Dot6(_bom(account)).output_as_string())
    component = document["metadata"]["component"]
    component["modelCard"] = _card(account)
    for ancestor in component["pedigree"]["ancestors"]:
        part = next((each for each in account.adapters if _ref(each) == ancestor["bom-ref"]), None)
        if part is not None and (card := _adapter_card(part)):
            ancestor["modelCard"] = card
    return document


def _bom(account: Account) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType, Pedigree
    from cyclonedx.model.tool import ToolRepository

    tool = Component(
        name="fusery", version=version("fusery"), type=ComponentType.APPLICATION, bom_ref="tool:fusery"
    )
    parts = [account.base, *account.adapters, *([account.fused] if account.fused else [])]
    main = _model(
        f"{account.kind}:{account.digest}",
        account.name,
        account.digest,
        account.files,
        {"kind": account.kind, "by": account.by, **_withdrawn(account)},
        pedigree=Pedigree(ancestors=_ancestors(parts)),
    )
    datasets = [_dataset(data) for data in account.datasets]
    bom = Bom(
        serial_number=uuid5(_BOMS, f"{account.kind}:{account.digest}:{account.name}"),
        metadata=BomMetaData(
            tools=ToolRepository(components=[tool]), component=main, timestamp=account.recorded
        ),
        components=datasets,
    )
    bom.register_dependency(main, datasets)
    return bom


def _withdrawn(account: Account) -> dict[str, Any]:
    others = [each.told for each in account.withdrawals if each.relation != "itself"]
    return {"yanked": own(account.withdrawals), "withdrawals": others or None}


def _model(
    ref: str, name: str, digest: str, files: Iterable[File], facts: Mapping[str, Any], **more: Any
) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    told = {"digest": f"sha256:{digest}", **facts}
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=name,
        version=digest[:12],
        bom_ref=ref,
        properties=[
            Property(name=f"fusery:{key}", value=_text(value))
            for key, value in told.items()
            if value is not None
        ],
        components=[_file(ref, file) for file in files],
        **more,
    )


def _file(ref: str, file: File) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.FILE,
        name=file.path,
        bom_ref=f"{ref}/{file.path}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)],
        properties=[Property(name="fusery:size", value=str(file.size))],
    )


def _ancestors(parts: Iterable[Part]) -> list[Component]:
    """Return what went in; an adapter that is in a sum twice is one ancestor with two weights."""
    weights: dict[str, list[float]] = defaultdict(list)
    once: dict[str, Part] = {}
    for part in parts:
        once[_ref(part)] = part
        if part.weight is not None:
            weights[_ref(part)].append(part.weight)
    return [_ancestor(part, weights[ref]) for ref, part in once.items()]


def _ancestor(part: Part, weights: list[float]) -> Component:
    facts: dict[str, Any] = {"kind": part.kind, **part.facts}
    if weights:
        facts["weight"] = ", ".join(repr(weight) for weight in weights)
    more: dict[str, Any] = {}
    if part.licence:
        more["licenses"] = [_licence(part.licence)]
    if part.hub is not None:
        from packageurl import PackageURL

        name, revision = part.hub
        space, _, own = name.rpartition("/")
        more["purl"] = PackageURL("huggingface", space or None, own, revision or None)
    return _model(_ref(part), part.name, part.digest, part.files, facts, **more)


def _licence(text: str) -> License:
    """Return a licence: by its SPDX identifier if it is one, in whatever case, else by the words that were written."""
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.spdx import fixup_id

    known = fixup_id(text)
    return DisjunctiveLicense(id=known) if known else DisjunctiveLicense(name=text)


def _dataset(data: Data) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=data.digest)] if data.digest else []
    examples = [] if data.examples is None else [Property(name="fusery:examples", value=str(data.examples))]
    return Component(
        type=ComponentType.DATA,
        name=data.name,
        version=data.revision or None,
        bom_ref=_data_ref(data),
        hashes=hashes,
        properties=examples,
    )


def _ref(part: Part) -> str:
    return f"ancestor:{part.kind}:{part.name}"


def _data_ref(data: Data) -> str:
    return f"dataset:{digest_json([data.name, data.revision, data.digest, data.examples])[:32]}"


def _card(account: Account) -> dict[str, Any]:
    """Return the model card: what it is for, what it was trained on, how good it is, and what is wrong with it."""
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
    if limits := _limits(account):
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


def _limits(account: Account) -> list[str]:
    limits = [each.told for each in account.withdrawals]
    verdict = (account.fidelity or {}).get("verdict")
    if verdict in ("DEGRADED", "LOST"):
        limits.append(f"fidelity of the fuse: {verdict}")
    return limits


def _adapter_card(part: Part) -> dict[str, Any]:
    card: dict[str, Any] = {"modelParameters": {"task": part.facts["task"]}}
    if part.data is not None:
        card["modelParameters"]["datasets"] = [{"ref": _data_ref(part.data)}]
    if part.facts["val_loss"] is not None:
        metric = {"type": "validation loss", "value": repr(part.facts["val_loss"])}
        card["quantitativeAnalysis"] = {"performanceMetrics": [metric]}
    return card


def _text(value: Any) -> str:
    """Return a value as the text that properties have."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, allow_nan=False)
