"""What all tables share: naming, column types that mean the same everywhere, and the JSON form of their values."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, ClassVar, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column
from sqlalchemy.types import TypeEngine

from fusery.storage.jsonfile import is_keepable

T = TypeVar("T")
Json = dict[str, Any]


DIGEST = sa.String(64)  # column type of a SHA-256 in hex


def sorted_text(length: int) -> sa.String:
    """Return the type of a text that lists are sorted by: in the order of its bytes, whatever the server's language."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


class UnreadableValueError(ValueError):
    """A column holds an invalid value: SQLite keeps any."""


class _Parsed(sa.TypeDecorator[T]):
    """A type whose values are parsed."""

    meaning: ClassVar[str]  # what a value is, in the sentence of an error

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], T | None] | None:
        """Return what parses values, and raises `UnreadableValueError` of others."""
        parse = super().result_processor(dialect, coltype)
        if parse is None:
            return None

        def parsed(value: Any) -> T | None:
            try:
                return parse(value)
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                problem = f"the database has {repr(value)[:80]} where a {self.meaning} belongs"
                raise UnreadableValueError(problem) from error

        return parsed


class Document(_Parsed[Any]):
    """JSON; JSONB on PostgreSQL, whose dialect is imported only there (it brings its asynchronous driver along)."""

    impl = sa.JSON(none_as_null=True)
    cache_ok = True
    meaning = "document in JSON"

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        """Return the type of the database at hand."""
        if dialect.name != "postgresql":
            return super().load_dialect_impl(dialect)
        from sqlalchemy.dialects.postgresql import JSONB

        return dialect.type_descriptor(JSONB(none_as_null=True))


DOCUMENT = Document()  # small JSON that is read back, never hashed; None is NULL, not the JSON word null


class UtcDateTime(_Parsed[datetime]):
    """A moment in UTC, aware in Python on every database, also on SQLite, which has no time zones; refused when naive."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True
    meaning = "moment"

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return the value in UTC, without a zone where the database has none."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime has no place in the registry")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return the value as aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Day(_Parsed[date]):
    """A day of the calendar."""

    impl = sa.Date
    cache_ok = True
    meaning = "date"


class TableRow(DeclarativeBase):
    """The class all tables derive from; `FusedExtraRow` is the table `fused_extra`, and constraints have fixed names."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {datetime: UtcDateTime, date: Day, Json: DOCUMENT, list[str]: DOCUMENT}

    @declared_attr.directive
    def __tablename__(cls) -> str:
        """Return the class's name without `Row`, in lower case, with underscores."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Row")).lower()


class Numbered:
    """A table whose primary key is a number of its own."""

    id: Mapped[int] = mapped_column(primary_key=True)


class Made:
    """A table of what somebody made."""

    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(sa.String(200))


class Attributed:
    """A table of what somebody did."""

    at: Mapped[datetime]
    by: Mapped[str] = mapped_column(sa.String(200))


def one_of(column: str, *values: str) -> str:
    """Return the SQL of a check constraint that limits a column to some words."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


_EARLIEST, _LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""A day within what Python can say, so that every moment between has a time in UTC."""

_MARKS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_WIDEST = 2**63
_LARGEST = int(sys.float_info.max)
_PLAIN = 1e16  # from here on Python writes a float with an exponent, and PostgreSQL hands it back as a whole number


_KINDS = {"moment": UtcDateTime, "boolean": sa.Boolean, "integer": sa.Integer, "number": sa.Float}
_KINDS |= {"date": sa.Date, "document": sa.JSON, "text": sa.String}


def kind_of(one: sa.Column[Any]) -> str:
    """Return the kind of a column."""
    kind = one.type
    if isinstance(kind, sa.TypeDecorator) and not isinstance(kind, UtcDateTime):
        kind = kind.impl_instance
    for name, column_type in _KINDS.items():
        if isinstance(kind, column_type):
            return name
    raise TypeError(f"{one.table.name}.{one.name} has a type that backups do not know: {one.type!r}")


def document_text(value: Any) -> str:
    """Return the one text of a document: keys sorted, numbers as both databases hand them back."""
    return json.dumps(_settled(value), sort_keys=True, allow_nan=False)


def to_json(kind: str, value: Any) -> Any:
    """Return the JSON form of a value, from which `from_json` makes the same value again."""
    if value is None:
        return None
    match kind:
        case "moment":
            return value.astimezone(UTC).isoformat(timespec="microseconds")
        case "date":
            return value.isoformat()
        case "number":
            return float(value) if math.isfinite(value) else str(float(value))
        case "document":
            return _settled(value)
    return value


def from_json(kind: str, value: Any) -> Any:
    """Return a value for the database."""
    if value is None:
        return None
    match kind:
        case "moment" if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            if is_moment(moment):
                return moment
        case "date" if isinstance(value, str):
            return date.fromisoformat(value)
        case "boolean" if isinstance(value, bool):
            return value
        case "integer" if isinstance(value, int) and not isinstance(value, bool):
            if -_WIDEST <= value < _WIDEST:
                return value
        case "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case "number" if isinstance(value, str) and value in _MARKS:
            return _MARKS[value]
        case "text" if isinstance(value, str) and is_keepable(value):
            return value
        case "document" if is_keepable(value):
            return value
    raise ValueError(f"not a value of the kind {kind}")


def is_moment(value: datetime) -> bool:
    """Return whether a time has its zone, and can be said in UTC."""
    return value.tzinfo is not None and _EARLIEST < value < _LATEST


def _settled(value: Any) -> Any:
    """Return a document with its numbers as PostgreSQL hands them back, so that both databases give the same text."""
    if isinstance(value, dict):
        return {key: _settled(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_settled(part) for part in value]
    if isinstance(value, float):
        if value == 0:
            return 0.0
        return int(value) if _PLAIN <= abs(value) < _WIDEST else value
    if isinstance(value, int) and _WIDEST <= abs(value) <= _LARGEST:
        number = float(value)
        # JSONB hands 1e23 back as the whole number with the digits of Python's text, which 1e23 is not exactly.
        if value in (number, Decimal(repr(number))):
            return number
    return value
