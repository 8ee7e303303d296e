"""The record of a yank that concerns a thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal

from ..record import Record, described

Relation = Literal["itself", "same-bytes", "contains", "computed-from"]
_WORDS: Mapping[Relation, str] = {
    "itself": "yanked: {reason}",
    "same-bytes": "the same bytes were yanked as {adapter}: {reason}",
    "contains": "contains the weights of {adapter}, which is yanked: {reason}",
    "computed-from": "computed from {adapter}, which is yanked: {reason}",
}


@dataclass(frozen=True, slots=True)
class Withdrawal(Record):
    """The relation of a thing to one yank that stands."""

    adapter: str = described("name of the record that is yanked")
    relation: Relation = described(
        "the thing is that record `itself`, has the `same-bytes` under another name, `contains` its weights, or it or "
        "an adapter in it is `computed-from` them"
    )
    reason: str = described("reason of the yank")
    at: datetime = described("when it was yanked")
    by: str = described("who did that")
    KEYS: ClassVar[tuple[str, ...]] = ("adapter", "relation", "reason", "at", "by", "told")

    @property
    def told(self) -> str:
        """A sentence that names the yanked record."""
        return _WORDS[self.relation].format(adapter=self.adapter, reason=self.reason)


Withdrawals = tuple[Withdrawal, ...]


def own(withdrawals: Withdrawals) -> str | None:
    """Return why the record itself is yanked, None if it is not."""
    return next((each.reason for each in withdrawals if each.relation == "itself"), None)
