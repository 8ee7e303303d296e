"""The record of how something was made, for attestations in several forms."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from fusery.storage.manifest import FileEntry

from .. import tables
from ..database import events
from ..documents import without_people, without_places
from ..engine.recipe import WRITTEN_AS
from ..errors import BadInputError
from ..fusion.views import fused_line
from ..records.adapter import Withdrawals
from ..records.adapter_details import CombinationRecipe
from ..records.amendments import amendment_records
from ..records.bases import adapter_licence, base_licence
from ..records.bundles import WRITTEN
from ..records.views import entries, public_facts, trained_on_view
from ..records.withdrawals import of_adapters, of_bundles, of_fused, recipe_in
from ..workspace.workspace import Workspace

Subject = tables.AdapterRow | tables.FusedRow | tables.BundleRow


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset, as far as it is known."""

    name: str
    revision: str
    digest: str
    examples: int | None


@dataclass(frozen=True, slots=True)
class AccountPart:
    """Something that went in, or that an account is of."""

    kind: str
    name: str
    digest: str
    files: tuple[FileEntry, ...]
    licence: str | None = None
    weight: float | None = None
    hub: tuple[str, str] | None = None
    data: Data | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account(AccountPart):
    """How an adapter, a fused model or a bundle was made; its facts are what the tool decided."""

    base: AccountPart
    adapters: tuple[AccountPart, ...]  # those in it; of an adapter, those it was continued or computed from
    recorded: datetime
    by: str
    fused: AccountPart | None = None  # the model in a bundle
    began: datetime | None = None
    ended: datetime | None = None
    tool: str | None = None  # name and version of the program that made it
    entry: str | None = None  # hash of its entry in the log
    asked: Mapping[str, Any] = field(default_factory=dict)  # what the tool was asked for
    fidelity: Mapping[str, Any] | None = None
    withdrawals: Withdrawals = ()

    @property
    def datasets(self) -> tuple[Data, ...]:
        """What it or its adapters were trained on, each once."""
        data = [self.data, *(part.data for part in self.adapters)]
        return tuple(dict.fromkeys(item for item in data if item is not None))

    @property
    def parts(self) -> tuple[AccountPart, ...]:
        """All that went in: base, adapters, and the fused model of a bundle."""
        return self.base, *self.adapters, *((self.fused,) if self.fused else ())


def account_of(workspace: Workspace, session: Session, subject: Subject) -> Account:
    """Return the account of a record."""
    if isinstance(subject, tables.AdapterRow):
        return _of_adapter(workspace, session, subject)
    if isinstance(subject, tables.FusedRow):
        return _of_fused(workspace, session, subject)
    return _of_bundle(workspace, session, subject)


def _of_adapter(workspace: Workspace, session: Session, row: tables.AdapterRow) -> Account:
    run = session.get(tables.TrainingRunRow, row.id)
    began = run.started_at if run else None
    ended = began + timedelta(seconds=run.seconds) if run and began and run.seconds is not None else None
    own, recipe = _adapter(row), recipe_in(row.training)
    entry, detail = _entry(session, "adapter", row.name, "adapter.registered")
    arguments = without_places(dict(run.arguments)) if run and run.arguments else {}
    combination = {"combination": recipe.to_dict()} if recipe is not None else {}
    return Account(
        "adapter",
        row.name,
        row.digest,
        own.files,
        data=own.data,
        base=_base(workspace, row.base),
        adapters=tuple(_origins(row, recipe)),
        recorded=row.created_at,
        by=row.created_by,
        began=began,
        ended=ended,
        entry=entry,
        tool=detail.get("tool"),
        asked={"arguments": arguments, **combination},
        facts={**own.facts, "versions": without_places(dict(run.versions)) if run and run.versions else {}},
        withdrawals=of_adapters(session, [row.id]).get(row.id, ()),
    )


def _origins(row: tables.AdapterRow, recipe: CombinationRecipe | None) -> Iterator[AccountPart]:
    if row.parent is not None:
        yield _adapter(row.parent)
    weights = dict(enumerate(recipe.weights)) if recipe is not None else {}
    for part in row.sources:
        yield _adapter(part.source, weights.get(part.position))


def _of_fused(workspace: Workspace, session: Session, row: tables.FusedRow) -> Account:
    line = fused_line(row)
    if line["foreign"] is not None:
        raise BadInputError(
            f"{row.digest[:12]} was not made here, and how it was made only registry {str(row.origin)[:8]} can attest",
            hint=f"make it here: fusery fuse {row.adapter.name} --as {WRITTEN_AS[row.precision]}",
        )
    entry, detail = _entry(session, "fused", row.key, "fused.made")
    extras = (_adapter(extra.adapter, extra.weight) for extra in row.extras)
    adapters = (_adapter(row.adapter, 1.0), *extras)
    base = _base(workspace, row.base)
    return Account(
        "fused",
        str(line["combined"]),
        row.digest,
        entries(row.manifest),
        base=base,
        adapters=adapters,
        recorded=row.created_at,
        by=row.created_by,
        began=row.created_at - timedelta(seconds=row.seconds),
        ended=row.created_at,
        tool=detail.get("tool"),
        entry=entry,
        asked={
            "adapters": [{"name": p.name, "digest": p.digest, "weight": p.weight} for p in adapters],
            "base": {"name": base.name, "digest": base.digest},
            "precision": row.precision,
            **{name: row.recipe.get(name) for name in ("quantization", "scale", "seed")},
            "command": line["rebuild"],
        },
        facts={
            **{name: getattr(row, name) for name in ("key", "engine", "recipe", "quantization")},
            "format": line["format"],
        },
        fidelity=line["fidelity"],
        withdrawals=of_fused(session, [row.id]).get(row.id, ()),
    )


def _of_bundle(workspace: Workspace, session: Session, row: tables.BundleRow) -> Account:
    entry, detail = _entry(session, "bundle", row.digest, WRITTEN, path=row.path)
    made = _of_fused(workspace, session, row.fused) if row.fused is not None else None
    adapters = made.adapters if made else tuple(_adapter(adapter) for adapter in row.adapters)
    base = made.base if made else _base(workspace, row.adapters[0].base)
    names = [part.name for part in adapters]
    return Account(
        "bundle",
        f"{row.target} of {' + '.join(names)}",
        row.digest,
        entries(row.manifest),
        base=base,
        adapters=adapters,
        recorded=row.created_at,
        by=row.created_by,
        fused=made,
        ended=row.created_at,
        tool=detail.get("tool"),
        entry=entry,
        asked={
            "target": row.target,
            "adapters": [{"name": part.name, "digest": part.digest} for part in adapters],
            "base": {"name": base.name, "digest": base.digest},
            "fuse": made.asked if made else None,
        },
        facts={"choices": detail.get("choices"), "fuse": made.facts if made else None},
        fidelity=made.fidelity if made else None,
        withdrawals=of_bundles(session, [row.id]).get(row.id, ()),
    )


def _base(workspace: Workspace, row: tables.BaseModelRow) -> AccountPart:
    hub = next((row for row in row.revisions if row.source.startswith("hub:")), None)
    source = (hub.source.removeprefix("hub:"), hub.revision) if hub else None
    names = ("architecture", "model_type", "parameters", "dtype", "quantization")
    facts = {name: getattr(row, name) for name in names}
    identity = "base", row.name, row.digest, entries(row.manifest)
    return AccountPart(*identity, base_licence(workspace, row), hub=source, facts=facts)


def _adapter(row: tables.AdapterRow, weight: float | None = None) -> AccountPart:
    amended = without_people(amendment_records(row.amendments)) or None
    facts = {
        "task": row.task.name,
        **public_facts(row),
        "trained_on": trained_on_view(row),
        "amended": amended,
    }
    licence = adapter_licence({tag.key: tag.value for tag in row.tags})
    identity = "adapter", row.name, row.digest, entries(row.manifest)
    return AccountPart(*identity, licence, weight, data=_data(row), facts=facts)


def _data(row: tables.AdapterRow) -> Data | None:
    data = row.dataset
    if data is None:
        return None
    examples = row.examples if row.examples is not None else data.examples
    return Data(str(without_places(data.name)), data.revision, data.digest, examples)


def _entry(
    session: Session, kind: str, subject: str, action: str, *, path: str | None = None
) -> tuple[str | None, Mapping[str, Any]]:
    """Return the hash and the detail of the newest entry of the log about a thing's making, None without one."""
    for event in reversed(events.history(session, kind=kind, subject=subject, action=action)):
        detail: Mapping[str, Any] = json.loads(event.detail)
        if path is None or detail.get("path") == path:
            return event.hash, detail
    return None, {}
