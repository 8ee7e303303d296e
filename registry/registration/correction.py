"""A user's correction of an adapter's record."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from fusery.storage.secrets import without_credentials

from ..admission.submission import LIMITS, checked_tags, not_negative, require_examples, require_text
from ..errors import BadInputError
from ..names import compact_date, parse_date, parse_slug
from ..parsing import require_past
from ..records.amendments import DATASET, FIELDS, TAG, State, is_amendable

_MOST_REVISION = 200
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COMPUTED = frozenset(
    ("alpha", "digest", "iterations", "layers", "method", "rank", "scale", "target_modules")
    + ("trainable_parameters", "total_parameters", "bytes")
)
_IDENTITY = frozenset({"base", "name", "task", "version"})


@dataclass(frozen=True, slots=True)
class Correction:
    """New values for an adapter's record; None leaves a value as it is.

    Everything is checked as `register` checks it.  `date` corrects the day of training; the name keeps the day of
    registration.  `clear` lists fields to empty, `tag.KEY` for a tag.

    Raises:
        BadInputError: a value is not acceptable, or a field cannot be corrected.
    """

    val_loss: float | None = None
    note: str | None = None
    dataset: str | None = None
    dataset_revision: str | None = None
    dataset_digest: str | None = None
    examples: int | None = None
    date: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    clear: Collection[str] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        """Check every field, and bring numbers and tags into their one form."""
        for name in ("note", "dataset", "date", "reason"):
            require_text(name, getattr(self, name), LIMITS.get(name, LIMITS["note"]))
        require_text("revision of the dataset", self.dataset_revision, _MOST_REVISION)
        for name in ("note", "dataset", "dataset_revision"):
            if getattr(self, name) == "":
                raise BadInputError(f"the {name} is empty", hint=f"to take it off: --clear {name}")
        require_examples(self.examples)
        object.__setattr__(self, "val_loss", not_negative(self.val_loss, "validation loss"))
        object.__setattr__(self, "dataset_digest", _digest(self.dataset_digest))
        object.__setattr__(self, "date", _past_date(self.date))
        object.__setattr__(self, "tags", checked_tags(self.tags))
        for name in ("dataset", "dataset_revision", "note", "reason"):
            object.__setattr__(self, name, without_credentials(getattr(self, name)))
        object.__setattr__(self, "clear", frozenset(_cleared(name) for name in self.clear))
        if twice := sorted(self.clear & self._said().keys()):
            raise BadInputError(f"{twice[0]} is both given and cleared", hint="give it, or clear it")

    @property
    def is_empty(self) -> bool:
        """There is nothing to correct."""
        return not self.clear and not self._said()

    def applied(self, state: State) -> State:
        """Return the values that an adapter has with the correction.

        Raises:
            BadInputError: a revision or digest without a dataset's name.
        """
        cleared = set(self.clear) | (set(DATASET) if "dataset" in self.clear else set())
        after = {**state, **dict.fromkeys(cleared), **self._said()}
        if after["dataset"] is None and any(after[name] is not None for name in DATASET):
            raise BadInputError(
                "there is no dataset on record that could have a revision or a digest",
                hint="name it too: --dataset NAME",
            )
        return {name: value for name, value in after.items() if value is not None or not name.startswith(TAG)}

    def _said(self) -> State:
        said = {name: getattr(self, name) for name in FIELDS if getattr(self, name) is not None}
        return {**said, **{f"{TAG}{key}": value for key, value in self.tags.items()}}


def accepted(field: str, value: Any) -> Any:
    """Return a value in its canonical form if the field may have it; null for none.

    Raises:
        BadInputError: it is not.
    """
    if not isinstance(field, str) or not is_amendable(field) or (value is None and field == "date"):
        raise BadInputError(f"{str(field)[:40]!r} is never amended, or not to nothing")
    if value is None:
        return None
    if field.startswith(TAG):
        key = field.removeprefix(TAG)
        return Correction(tags={key: value}).tags[parse_slug(key, "tag")]
    return getattr(Correction(**{field: value}), field)


def _past_date(text: str | None) -> str | None:
    if text is None:
        return None
    day = parse_date(text)
    require_past("date", day)
    return compact_date(day)


def _digest(said: Any) -> str | None:
    if said is None:
        return None
    text = said.strip().casefold() if isinstance(said, str) else ""
    if not _DIGEST.fullmatch(text):
        raise BadInputError("the digest of the dataset is not one", hint="give a SHA-256 as 64 hex digits")
    return text


def _cleared(name: Any) -> str:
    text = str(name).strip().casefold()
    if text.startswith(TAG):
        return f"{TAG}{parse_slug(text.removeprefix(TAG), 'tag')}"
    if text in _IDENTITY:
        raise BadInputError(f"{text} is what an adapter is known by, and is never amended")
    if text in _COMPUTED:
        raise BadInputError(f"{text} is read from the adapter's files, and is never amended")
    if text == "date" or not is_amendable(text):
        raise BadInputError(
            f"{text[:40]!r} cannot be cleared",
            hint=f"--clear {'|'.join(name for name in FIELDS if name != 'date')}|tag.KEY",
        )
    return text
