"""Amending an adapter's record: the user's correction, and in the log who changed a value, from what to what, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fusery.storage.digest import parse_digest
from fusery.storage.secrets import without_credentials

from .. import tables
from ..admission.submission import LIMITS, checked, checked_tags, require_text
from ..database import events
from ..errors import BadInputError
from ..names import compact_date, parse_date, parse_slug
from ..parsing import require_past
from ..records import TAGS, require_count
from ..records.adapter import Amended
from ..records.amendments import (
    DATASET,
    FIELDS,
    TAG,
    State,
    amend_row,
    amendment_records,
    changes,
    is_amendable,
    is_free,
    require_few_amendments,
    state_of,
    text_of,
)
from ..records.references import resolve_adapter
from ..records.tokens import require_may_change
from ..workspace.workspace import Workspace


class Correction:
    """New values for an adapter's record, checked as by `register`; None leaves one, and `clear` empties fields (`tag.KEY`)."""

    def __init__(
        self,
        *,
        tags: Mapping[str, str] | None = None,
        clear: Collection[str] = (),
        reason: str = "",
        **values: Any,
    ) -> None:
        require_text("reason", reason, LIMITS["note"])
        self.reason = without_credentials(reason)
        self.values: State = {
            **{name: _checked(name, value) for name, value in values.items() if value is not None},
            **{f"{TAG}{key}": value for key, value in checked_tags({} if tags is None else tags).items()},
        }
        self.clear = frozenset(_cleared(name) for name in clear)
        if twice := sorted(self.clear & self.values.keys()):
            raise BadInputError(f"{twice[0]} is both given and cleared", hint="give it, or clear it")

    def applied(self, state: State) -> State:
        """Return the values that an adapter has with the correction."""
        cleared = set(self.clear) | (set(DATASET) if "dataset" in self.clear else set())
        after = {**state, **dict.fromkeys(cleared), **self.values}
        if after["dataset"] is None and any(after[name] is not None for name in DATASET):
            message = "there is no dataset on record that could have a revision or a digest"
            raise BadInputError(message, hint="name it too: --dataset NAME")
        return {name: value for name, value in after.items() if value is not None or not name.startswith(TAG)}


def accepted(field: str, value: Any) -> Any:
    """Return a value in its canonical form if the field may have it; null for none."""
    if not isinstance(field, str) or not is_amendable(field) or (value is None and field == "date"):
        raise BadInputError(f"{str(field)[:40]!r} is never amended, or not to nothing")
    if value is None:
        return None
    if field.startswith(TAG):
        return next(iter(Correction(tags={field.removeprefix(TAG): value}).values.values()))
    return _checked(field, value)


def _checked(name: str, value: Any) -> Any:
    _require_amendable(name)
    if value == "":
        raise BadInputError(f"the {name} is empty", hint=f"to take it off: --clear {name}")
    if name == "dataset_digest":
        try:
            return parse_digest(str(value).strip().casefold())
        except ValueError as error:
            raise BadInputError("invalid dataset digest", hint="give a SHA-256 as 64 hex digits") from error
    value = checked(name, value)
    if name != "date":
        return value
    day = parse_date(value)
    require_past("date", day)
    return compact_date(day)


def _cleared(name: object) -> str:
    text = str(name).strip().casefold()
    if text.startswith(TAG):
        return f"{TAG}{parse_slug(text.removeprefix(TAG), 'tag')}"
    _require_amendable(text)
    if text == "date":
        raise BadInputError("the date cannot be cleared", hint="--date YYYYMMDD")
    return text


def _require_amendable(name: str) -> None:
    if name not in FIELDS:
        raise BadInputError(f"{name[:40]!r} cannot be amended", hint=f"fields: {', '.join(FIELDS)}, tag.KEY")


AMENDED = "adapter.amended"


def amend(workspace: Workspace, reference: str, correction: Correction) -> Amended:
    """Correct what is recorded about an adapter; values that are recorded already change and log nothing."""
    if not correction.clear and not correction.values:
        raise BadInputError("it is not said what to amend", hint="fusery edit --help")
    with workspace.database.write() as session:
        adapter = resolve_adapter(session, reference)
        before = state_of(adapter)
        for field in sorted(correction.clear):
            if field.startswith(TAG) and field not in before:  # its key is most likely another one
                tags = ", ".join(tag.removeprefix(TAG) for tag in before if tag.startswith(TAG))
                tags_hint = f"its tags are {tags}" if tags else "it has none"
                raise BadInputError(f"{adapter.name} has no tag {field.removeprefix(TAG)!r}", hint=tags_hint)
        changed = changes(before, correction.applied(before))
        if not changed:
            return Amended(adapter.name, adapter.digest, ())
        facts = [field for field, _, _ in changed if not is_free(field)]
        if facts and not correction.reason.strip():
            hint = "--reason TEXT; tags and notes need none"
            raise BadInputError(f"another {facts[0]} needs a reason", hint=hint)
        require_may_change(workspace, session, "amendment" if facts else "note or tag", adapter)
        # Never before the last amendment, even if the clock was set back.
        at = max([workspace.database.utcnow(session), *(row.since for row in adapter.amendments)])
        common = {"reason": correction.reason, "at": at, "since": at, "by": workspace.actor}
        rows = [
            tables.AmendmentRow(field=field, before=text_of(was), after=text_of(will), **common)
            for field, was, will in changed
        ]
        require_few_amendments(adapter.name, [*adapter.amendments, *rows])
        amend_row(session, adapter, rows)
        require_count(adapter.name, "tags", TAGS, len(adapter.tags))
        logged = [{"field": field, "from": was, "to": will} for field, was, will in changed]
        detail = {"digest": adapter.digest, "changes": logged, "reason": correction.reason}
        events.record(session, AMENDED, "adapter", adapter.name, detail, at=at)
        return Amended(adapter.name, adapter.digest, tuple(amendment_records(rows)))
