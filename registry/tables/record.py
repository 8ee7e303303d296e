"""What all tables share: the metadata with its naming convention, and column types that mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, ClassVar, TypeVar

from sqlalchemy import JSON, Date, DateTime, Dialect, MetaData, String, TypeDecorator
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeEngine

T = TypeVar("T")


class DigestText(String):
    """A SHA-256 in hex, in lower case."""


DIGEST = DigestText(64)
"""Column type of a SHA-256 in hex."""


def sorted_text(length: int) -> String:
    """Return the type of a text that lists are sorted by: in the order of its bytes, whatever the server's language."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


class UnreadableValueError(ValueError):
    """What a column holds is none of its values.  SQLite keeps whatever it is given."""


class _Parsed(TypeDecorator[T]):
    """A type whose values are parsed."""

    meaning: ClassVar[str]
    """What a value is, in the sentence of an error."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], T | None] | None:
        """Return what parses values, and raises `UnreadableValueError` of others."""
        parse = super().result_processor(dialect, coltype)
        if parse is None:
            return None

        def parsed(value: Any) -> T | None:
            try:
                return parse(value)
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise UnreadableValueError(
                    f"the database has {repr(value)[:80]} where a {self.meaning} belongs"
                ) from error

        return parsed


class Document(_Parsed[Any]):
    """JSON; JSONB on PostgreSQL, whose dialect is imported only there (it brings its asynchronous driver along)."""

    impl = JSON(none_as_null=True)
    cache_ok = True
    meaning = "document in JSON"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type of the database at hand."""
        if dialect.name != "postgresql":
            return super().load_dialect_impl(dialect)
        from sqlalchemy.dialects.postgresql import JSONB

        return dialect.type_descriptor(JSONB(none_as_null=True))


DOCUMENT = Document()
"""Column type of a small JSON document that is read back, never hashed.  None is NULL, not the JSON word null."""


class UtcDateTime(_Parsed[datetime]):
    """A moment in UTC: aware in Python on every database, refused when naive.

    SQLite has no time zones and would hand back a naive value, which Python then reads as local time.
    """

    impl = DateTime(timezone=True)
    cache_ok = True
    meaning = "moment"

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the value in UTC, without a zone where the database has none."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime has no place in the registry")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the value as aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Day(_Parsed[date]):
    """A day of the calendar."""

    impl = Date
    cache_ok = True
    meaning = "date"


class Record(DeclarativeBase):
    """The class all tables derive from.  Constraint names are fixed, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: UtcDateTime,
        date: Day,
        dict[str, Any]: DOCUMENT,
        list[str]: DOCUMENT,
    }


def one_of(column: str, *values: str) -> str:
    """Return the SQL of a check constraint that limits a column to some words."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"
