"""What a user declares about an adapter's folder."""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, TypedDict

from fusery.storage.jsonfile import is_keepable
from fusery.storage.secrets import without_credentials

from ..errors import BadInputError
from ..names import dataset_name, parse_date, parse_slug, parse_task
from ..record import Declaration, Record, parts_of
from ..records import TAGS, require_count
from ..records.adapter import Adapter

# What users declare about an adapter, by the field of its record.
DECLARED: Mapping[str, Declaration] = {
    name: part.about.declared for name, part in parts_of(Adapter).items() if part.about.declared is not None
}
# The largest number, or the most characters of a text, of each.
LIMITS: Mapping[str, int] = {name: declared.most for name, declared in DECLARED.items()}
_PATH = 4096


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """The base that an adapter was trained on, where it differs from the one it is registered for."""

    name: str
    digest: str
    all_names: frozenset[str] = frozenset()


class Declared(TypedDict, total=False):
    """What can be declared about an adapter's folder, as keywords, but for references; the record says what each means."""

    task: str | None
    version: int | None
    date: str | None
    trained_on: str | None
    alpha: float | None
    val_loss: float | None
    dataset: str | None
    examples: int | None
    tags: Mapping[str, str]
    note: str | None
    checkpoint: str | None
    log: str | Path | None


class Facts(Declared, total=False):
    """The same with references: the base that it stands on, else the one that its files name, and the adapter that training went on from."""

    base: str | Record | None
    parent: str | Record | None


@dataclass(frozen=True, slots=True)
class Submission:
    """What a user declares about an adapter's folder; None where nothing is declared.

    `trained_on` is the training's base, if it is another one: a name or digest, or another registry's claim; `base_all_names` are that
    registry's names of the base.  Values are checked on creation: text without NUL or credentials, finite numbers, canonical tags.
    """

    base: str | None = None
    task: str | None = None
    version: int | None = None
    date: str | None = None
    alpha: float | None = None
    val_loss: float | None = None
    dataset: str | None = None
    examples: int | None = None
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None
    checkpoint: str | None = None
    log: str | Path | None = None
    base_all_names: tuple[str, ...] = ()
    trained_on: str | TrainedOn | None = None

    @classmethod
    def of(cls, facts: Facts) -> Submission:
        """Return what keywords declare; a record among them stands for its reference."""
        declarations: Any = {
            name: getattr(value, value.REFERENCE) if isinstance(value, Record) and value.REFERENCE else value
            for name, value in facts.items()
        }
        return cls(**declarations)

    def __post_init__(self) -> None:
        """Check every field, and bring numbers and tags into their one form."""
        for name, declared in DECLARED.items():
            if not declared.later and not isinstance(value := getattr(self, name), TrainedOn):
                object.__setattr__(self, name, checked(name, value))
        if self.task:
            object.__setattr__(self, "task", parse_task(self.task))
        if self.date:
            parse_date(self.date)
        if self.log is not None:
            require_text("path of the log", str(self.log), _PATH)
        object.__setattr__(self, "tags", checked_tags(self.tags))
        object.__setattr__(self, "checkpoint", _checkpoint(self.checkpoint))

    def columns(self) -> Mapping[str, Any]:
        """Return what is declared for columns of the same name in an adapter's row."""
        from .. import tables

        columns = tables.AdapterRow.__table__.columns.keys()
        stored = (name for name, declared in DECLARED.items() if name in columns and not declared.later)
        return {name: getattr(self, name) for name in stored if name != "trained_on"}

    @property
    def day(self) -> datetime.date | None:
        """The date that was said."""
        return parse_date(self.date) if self.date else None


def require_text(what: str, value: Any, limit: int) -> None:
    """Refuse text that a database cannot store; None is allowed."""
    if value is None:
        return
    if not isinstance(value, str) or not is_keepable(value):
        raise BadInputError(f"the {what} is not plain text", hint="give it as UTF-8 text without NUL")
    if len(value) > limit:
        message = f"the {what} has {len(value):,} characters"
        raise BadInputError(message, hint=f"give at most {limit:,} characters")


def checked(name: str, value: Any) -> Any:
    """Return a declared value in its canonical form; None is allowed."""
    part, declared = parts_of(Adapter)[name], DECLARED[name]
    if value is None:
        return None
    if part.kind == "whole":
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not declared.least <= value <= declared.most:
            message = f"the {part.title} is not a whole number from {declared.least} to {declared.most}"
            raise BadInputError(message, hint=f"leave out --{name.replace('_', '-')} if it is not known")
        return value
    if part.kind == "real":
        hint = "leave it out if it is not known"
        try:
            number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise BadInputError(f"the {part.title} is not a finite number", hint=hint)
        if number < 0:
            raise BadInputError(f"invalid {part.title}: {number:g} (0 or more)", hint=hint)
        return number
    require_text(part.title, value, declared.most)
    value = dataset_name(value) if name == "dataset" else value
    return without_credentials(value) if declared.masked else value


def _checkpoint(checkpoint: Any) -> str | None:
    if checkpoint is None:
        return None
    text = str(checkpoint)
    number = text.isascii() and text.isdigit() and len(text) <= 10
    if isinstance(checkpoint, bool) or not (text in ("best", "last") or number):
        message = f"the checkpoint is best, last or an iteration, not {text[:40]!r}"
        raise BadInputError(message, hint="--checkpoint best|last|ITER")
    return text


def checked_tags(raw_tags: Any) -> dict[str, str]:
    """Return tags with canonical names and without credentials in their URLs."""
    if not isinstance(raw_tags, Mapping):
        raise BadInputError("the tags are not names with values", hint="write --tag KEY=VALUE")
    require_count("the adapter", "tags", TAGS, len(raw_tags))
    tags: dict[str, str] = {}
    for name, value in raw_tags.items():
        require_text("name of a tag", name, LIMITS["dataset"])
        key = parse_slug(name, "tag")
        if value is None:
            raise BadInputError(f"the tag {key} has no value", hint=f"write --tag {key}=VALUE")
        require_text(f"tag {key}", value, LIMITS["dataset"])
        if key in tags:
            raise BadInputError(f"the tag {key} is given twice", hint="upper and lower case are the same tag")
        tags[key] = without_credentials(value)
    return tags


class Corrections(Declared, total=False):
    """What `Adapters.amend` takes as keywords: of what is declared at registration those fields that are amendable, and more."""

    dataset_revision: str | None
    dataset_digest: str | None
    clear: Collection[str]
    reason: str
