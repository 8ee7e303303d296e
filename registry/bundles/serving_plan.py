"""The serving plan, which becomes `serving.json`: the adapters on a base, and the names that requests use."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..adapters.trained_through import require_usable_unfused
from ..errors import BadInputError
from ..fusion.base_forms import require_form
from ..records.alias_moves import text_of
from ..records.references import resolve_adapter, resolve_base
from ..records.renderings import require_factors_alone
from ..records.withdrawals import of_adapters, refuse_yanked
from ..runtime.document import ServedAdapter, ServedBase, ServingDocument, reason

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

_VERSION = re.compile(r"v[1-9][0-9]{0,8}")
_HINT = "for example --model course_rec=v1:0.9,v2:0.1, or --model course_rec=#prod"


@dataclass(frozen=True, slots=True)
class Split:
    """A public name, and the references that it leads to with their weights."""

    name: str
    parts: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str) -> Split:
        """Read `NAME=REF` or `NAME=REF:WEIGHT,REF:WEIGHT`; within a task's own name, `v1`, `#prod` and `@latest` do."""
        name, equals, rest = text.partition("=")
        name = name.strip()
        parts = tuple(_part(name, part.strip()) for part in rest.split(","))
        if not (name and equals and len(name) <= 300 and all(reference for reference, _ in parts)):
            raise BadInputError(f"{text[:100]!r} is not NAME=REF:WEIGHT,REF:WEIGHT", hint=_HINT)
        if len({reference for reference, _ in parts}) < len(parts):
            raise BadInputError(f"{text[:100]!r} has the same adapter twice", hint=_HINT)
        if not sum(weight for _, weight in parts) > 0:
            raise BadInputError(f"all weights of {name[:60]!r} are 0", hint=_HINT)
        return cls(name, parts)


def _part(name: str, text: str) -> tuple[str, float]:
    reference, colon, number = text.rpartition(":")
    if not colon:
        reference, number = text, "1"
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise BadInputError(f"{number[:40]!r} is not a weight", hint=_HINT)
    if _VERSION.fullmatch(reference):
        return f"{name}@{reference[1:]}", weight
    return (name + reference if reference.startswith(("#", "@")) else reference), weight


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """Adapters on one base model; `notices` are their yanks."""

    base: tables.BaseModelRow
    adapters: tuple[tables.AdapterRow, ...]
    routes: Mapping[str, str | dict[str, float]]
    notices: tuple[str, ...] = ()

    def document(self, tokenizer: str | None = None) -> ServingDocument:
        """Return the server's document."""
        named = [(adapter.name, adapter.digest) for adapter in self.adapters]
        adapters = [
            ServedAdapter(name=name, folder=f"adapters/{name}", digest=digest) for name, digest in named
        ]
        base = ServedBase(name=self.base.name, folder="base", digest=self.base.digest, tokenizer=tokenizer)
        try:
            return ServingDocument(format=1, base=base, adapters=adapters, routes=dict(self.routes))
        except ValidationError as error:
            raise BadInputError(f"this cannot be served: {reason(error)}") from error


def plan_serving(
    session: Session,
    references: Sequence[str],
    splits: Sequence[Split] = (),
    *,
    base: str | None = None,
    whole: bool = False,
) -> ServingPlan:
    """Return the plan of adapters on their base model or on `base`; the names of splits take precedence over those of adapters."""
    rows_by_reference: dict[str, tables.AdapterRow] = {}
    for reference in [*references, *(part for split in splits for part, _ in split.parts)]:
        if reference not in rows_by_reference:
            first = None if base is not None else next(iter(rows_by_reference.values()), None)
            rows_by_reference[reference] = _served(session, reference, first)
    if not whole:
        for adapter in rows_by_reference.values():
            require_factors_alone(adapter, "which replace the base's and cannot stand beside them")
    if not rows_by_reference:
        held = select(tables.AliasRow).where(tables.AliasRow.adapter_id.is_not(None))
        alias = session.scalars(held.order_by(tables.AliasRow.id).limit(1)).first()
        name = "TASK#ALIAS" if alias is None else text_of(alias)
        raise BadInputError("there is nothing to serve", hint=f"fusery serve {name}")
    onto = next(iter(rows_by_reference.values())).base if base is None else resolve_base(session, base)
    assert onto.names is not None and onto.manifest.files is not None
    own = {onto.name, *(adapter.name for adapter in rows_by_reference.values())}
    routes: dict[str, str | dict[str, float]] = {}
    for reference in references:
        adapter = rows_by_reference[reference]
        for name in (reference, adapter.task.name):
            if name not in own:
                routes.setdefault(name, adapter.name)
    for split in splits:
        weights: dict[str, float] = {}
        for reference, weight in split.parts:
            name = rows_by_reference[reference].name
            weights[name] = weights.get(name, 0.0) + weight
        routes[split.name] = weights if len(weights) > 1 else next(iter(weights))
    unique = {adapter.id: adapter for adapter in rows_by_reference.values()}
    withdrawals = of_adapters(session, unique)
    notices = tuple(
        f"{unique[number].name}: {withdrawal.summary}"
        for number in unique
        for withdrawal in withdrawals.get(number, ())
    )
    return ServingPlan(onto, tuple(unique.values()), routes, notices)


def require_forms(workspace: Workspace, plan: ServingPlan) -> None:
    """Refuse adapters whose base model is not a form of the plan's."""
    for adapter in plan.adapters:
        require_form(workspace, plan.base, adapter.base, adapter.name)


def _served(session: Session, reference: str, first: tables.AdapterRow | None) -> tables.AdapterRow:
    adapter = resolve_adapter(session, reference)
    refuse_yanked(session, adapter)
    if first is not None and adapter.base_id != first.base_id:
        message = f"{adapter.name} was trained on {adapter.base.name}, {first.name} on {first.base.name}"
        raise BadInputError(message, hint="one server for each base model")
    if adapter.method == "full":
        message = f"{adapter.name} is a full fine-tune, which replaces the base model's weights"
        raise BadInputError(message, hint=f"fusery serve {adapter.name} --fused")
    require_usable_unfused(adapter.name, adapter.method, adapter.training)
    assert adapter.manifest.files is not None  # loaded, for use after the session
    assert adapter.base.names is not None
    assert adapter.base.manifest.files is not None
    return adapter


def document_bytes(document: ServingDocument) -> bytes:
    """Return `serving.json`: the same bytes for the same document."""
    return json.dumps(document.model_dump(mode="json"), indent=2, ensure_ascii=False).encode() + b"\n"
