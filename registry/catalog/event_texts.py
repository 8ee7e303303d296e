"""Entries of the log in words: a subject's name, and what happened to it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..database.engine import batches
from ..database.events import ACTIONS
from ..engine.verdict import share_in_words
from ..records.fused_rows import label_of

_NAMED = frozenset({"adapter", "alias", "deployment", "key", "webhook"})  # subjects that the log names

Detail = Mapping[str, Any]


def names_of(session: Session, events: Sequence[tables.EventRow]) -> dict[int, str | None]:
    """Return the names of the subjects of entries, by number; None where only a digest is known."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for event in events:
        wanted[event.subject_kind].add(event.subject)
    names = dict[str, dict[str, str]]()
    for kind, (column, name_of) in _NAMES.items():
        # Most entries about adapters have a name themselves, and need no question.
        digests = {text for text in wanted[kind] if len(text) == 64 and not text.strip("0123456789abcdef")}
        names[kind] = {
            getattr(row, column.key): name_of(row)
            for some in batches(sorted(digests))
            for row in session.scalars(
                select(column.class_).where(column.in_(some)).order_by(column.class_.id)
            )
        }
    by_number = dict[int, str | None]()
    for event in events:
        kind, detail = event.subject_kind, json.loads(event.detail)
        name = names.get(kind, {}).get(event.subject) or (event.subject if kind in _NAMED else None)
        if kind == "bundle" and "target" in detail:
            # The same bundle may be in several places: which of them an entry is about, only that tells.
            name = f"{detail['target']} {detail['path']}"
        elif kind == "fused":
            name = name or detail.get("label") or detail.get("adapter")
        by_number[event.seq] = name or (kind if kind == "registry" else None)
    return by_number


_NAMES: Mapping[str, tuple[Any, Callable[[Any], str]]] = {
    "adapter": (tables.AdapterRow.digest, lambda row: row.name),
    "base": (tables.BaseModelRow.digest, lambda row: row.name),
    "bundle": (tables.BundleRow.digest, lambda row: f"{row.target} {row.path}"),
    "calibration": (tables.CalibrationRow.digest, lambda row: f"calibration of {row.base.name}"),
    "fused": (tables.FusedRow.key, label_of),
}
"""By kind: the column with the digest that the log calls a subject by, and the name of a row."""


def summary_of(action: str, detail: Detail) -> str:
    """Return an entry in words: its own, or else the meaning of its action."""
    tell = _TELLS.get(action, "")
    details = defaultdict(lambda: None, detail)
    first = tell.format_map(details) if isinstance(tell, str) else tell(detail)
    reason = str(detail.get("reason") or detail.get("note") or "")
    parts = (first, "" if reason in str(first) else reason)
    return "; ".join(str(part) for part in parts if part) or ACTIONS.get(action, "")


def _registered(detail: Detail) -> str:
    other, loss = detail.get("trained_on") or {}, detail.get("val_loss")
    words = [f"trained on {other['name']}"] if "name" in other else []
    return ", ".join(words if loss is None else [*words, f"validation loss {loss:.4g}"])


def _moved(detail: Detail) -> str:
    before, after = (_name(detail.get(key)) for key in ("from", "to"))
    return f"{before} -> {after}{' (emergency)' if detail.get('emergency') else ''}"


def _name(stated: Any) -> str:
    return str(stated["name"]) if isinstance(stated, Mapping) and "name" in stated else "none"


def _amended(detail: Detail) -> str:
    return ", ".join(
        f"{change.get('field')} {json.dumps(change.get('from'))} -> {json.dumps(change.get('to'))}"
        for change in detail.get("changes") or ()
    )


def _evaluated(detail: Detail) -> str:
    metrics = [metric for metric in detail.get("metrics") or () if isinstance(metric, Mapping)]
    words = [f"{metric.get('metric')} {metric.get('value'):.4g}" for metric in metrics[:_SHOWN]]
    return ", ".join(words + ([f"and {len(metrics) - _SHOWN} more"] if len(metrics) > _SHOWN else []))


_SHOWN = 3  # metrics that a line of the log names


def _repaired(detail: Detail) -> str:
    source, moved = detail.get("source"), detail.get("moved_to")
    made = f"from {source}" if source else "made again by its recipe"
    return f"{made}, what was damaged is in {moved}" if moved else made


def _proved(detail: Detail) -> str:
    claimed, made = (str(detail.get(key))[:12] for key in ("claimed", "made"))
    same = "the same came out here" if claimed == made else f"{made} came out here"
    return f"registry {str(detail.get('registry'))[:8]} claimed {claimed}, and {same}"


def _trusted(detail: Detail) -> str:
    purposes = [", ".join(detail.get("aliases", ()))]
    purposes += ["fused models of other registries"] if detail.get("fused") else []
    return f"for {' and '.join(filter(None, purposes))}" if any(purposes) else ""


def _measured(detail: Detail) -> str:
    share = detail.get("retained")
    return f"{detail.get('verdict')}{'' if share is None else f', {share_in_words(share)}'}"


def _reason(detail: Detail) -> str:
    return str(detail.get("reason") or _measured(detail))


def _ruled(detail: Detail) -> str:
    rules = detail.get("rules") or {}
    asked = ", ".join(f"{name}={json.dumps(rules[name])}" for name in sorted(rules)) or "no rules"
    return f"{'guarded' if detail.get('guarded') else 'not guarded'}, {asked}"


def _sent(detail: Detail) -> str:
    tasks = f" of {', '.join(detail.get('tasks', ()))}" if detail.get("tasks") else ""
    return f"{', '.join(detail.get('actions', ()))}{tasks} to {detail.get('url')}"


def _approved(detail: Detail) -> str:
    return f"for {detail.get('alias')}{', authenticated' if detail.get('authenticated') else ''}"


def _received(detail: Detail) -> str:
    origin = detail.get("origin") or {}
    return f"{', '.join(detail.get('added') or ()) or 'whole'} from {origin.get('registry')}"


_TELLS: Mapping[str, str | Callable[[Detail], str]] = {
    **{f"{kind}.received": _received for kind in ("adapter", "base", "calibration", "fused")},
    **{f"{kind}.signed": "with the key {key_id!s:.12}" for kind in ("adapter", "bundle", "fused")},
    **{f"deployment.{what}": "{of} {name}" for what in ("ended", "recorded", "refused")},
    **dict.fromkeys(("adapter.evaluated", "adapter.evaluation_withdrawn"), _evaluated),
    **dict.fromkeys(("adapter.approved", "adapter.unapproved"), _approved),
    **dict.fromkeys(("blob.repaired", "fused.repaired"), _repaired),
    **dict.fromkeys(("fused.confirmed", "fused.refuted"), _proved),
    **dict.fromkeys(("rules.removed", "rules.set"), _ruled),
    **dict.fromkeys(("webhook.added", "webhook.removed"), _sent),
    "adapter.amended": _amended,
    "adapter.exported": "{target} to {path}",
    "adapter.registered": _registered,
    "alias.confirmed": lambda detail: (
        f"{_name(detail.get('to'))} holds it still, and was judged once more by what is amended"
    ),
    "alias.moved": _moved,
    "alias.refused": lambda detail: f"{_moved(detail)} refused: {'; '.join(detail.get('reasons', ()))}",
    "base.added": "{name} from {source}",
    "base.calibrated": "{prompts}, {tokens} tokens",
    "base.calibration_chosen": "{prompts}, {calibration!s:.12}",
    "base.related": "{name} and {other_name} are forms of one model",
    "base.recognised": "{name} holds the same as the base {same_as!s:.12}",
    "blob.quarantined": "moved to {moved_to}",
    "bundle.written": lambda detail: ", ".join(
        str(name) for name in detail.get("adapters") or [detail.get("adapter")] if name
    ),
    "fuse.fitted": "into {budget} times the base's size",
    "fuse.refused": lambda detail: f"not published: {_reason(detail)}",
    "fuse.tried": lambda detail: f"the next format was tried: {_reason(detail)}",
    "fused.made": _measured,
    "fused.published": "{bytes} bytes to the store",
    "key.trusted": _trusted,
    "registry.made": "its files are in {store}",
    "registry.indexed": "{tensors} tensors of {name}, for identify",
    "store.collected": "{removed} removed, {freed_bytes} bytes",
    "token.created": lambda detail: (
        f"as {detail.get('role')}, until {detail.get('expires') or 'it is revoked'}"
    ),
    "webhook.skipped": "entry {seq}, {action}",
}
