"""The base class of typed records, and the metadata of their fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from datetime import date, datetime
from functools import cache
from os import PathLike, fspath
from threading import RLock
from typing import Any, ClassVar, Literal, NamedTuple, Self, dataclass_transform, get_args, get_type_hints

Kind = Literal["text", "choice", "whole", "real", "size", "day", "moment", "flag", "share", "names"]
"""The kinds of values; `names` is a list of values, or of key-value pairs."""

Amendable = Literal["no", "freely", "with a reason"]

LINE = 500  # the maximum length of a text in one line

LARGE = 2**63 - 1  # the largest number in a `BIGINT` column

LONG = 1 << 20  # the maximum length of a text of several lines

_ABOUT = "about"
_KINDS: Mapping[str, Kind] = {
    "str": "text",
    "int": "whole",
    "float": "real",
    "bool": "flag",
    "datetime": "moment",
}


@dataclass(frozen=True, slots=True)
class Declaration:
    """How a user declares a value."""

    help: str = ""
    metavar: str | None = None
    default: str = ""  # the default at registration, in words
    least: int = 0
    most: int = 500  # the largest number, or the maximum length of a text
    masked: bool = False  # whether passwords and tokens in its URLs are masked
    later: bool = False  # whether only an amendment can declare it


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The metadata of a record's field, from which lists, pages, filters, cards and documents are made."""

    text: str = ""  # its description, in the JSON schema and the reference
    title: str = ""  # its label; by default its name with spaces
    heading: str = ""  # its column heading; by default the title
    kind: Kind | None = None  # the kind of its values; by default derived from its type
    unit: str = ""  # the noun after a number in a line, such as `example`
    form: str = ""  # the format string of a value; by default derived from the kind
    cell: str = ""  # a shorter format string for tables
    words: str = ""  # the format string where the field continues another field's line, such as ` by {}`
    column: bool = False  # whether tables of the records can have it as a column
    usual: bool = False  # whether it is a default column
    free: bool = False  # whether a narrow table may truncate it
    rare: bool = False  # whether a narrow table omits its column while it is empty
    brief: bool = False  # whether `show` omits its line if there is no value
    filterable: bool = False  # whether `--where` expressions can test it
    sortable: bool = (
        False  # whether lists can be sorted by it; its column then has an index with the row's id
    )
    compared: bool = False  # whether `diff` includes it
    travels: bool = False  # whether bundles, cards, exported folders, lineage and attestations include it
    choices: tuple[str, ...] = ()  # all possible values, if they are known
    declared: Declaration | None = None  # how a user declares it; None if it is computed
    amendable: Amendable = "no"  # whether a user may amend it, and needs a reason
    optional: bool = False  # whether it is None by default, and then omitted from the JSON
    exact: bool = False  # whether its time has microseconds in the JSON, to keep the order of moves
    least: int = 0  # the smallest number that another registry may send
    most: int = 0
    """The largest such number, or the maximum length of a text, which may have several lines if it is over `LINE`; 0
    stands for that of `declared`, else for `LINE` or 2^31 - 1."""


_NOTHING = About()


def described(text: str = "", **facts: Any) -> Any:
    """Return a field with its description and other metadata (see `About`), and options of `dataclasses.field`."""
    names = facts.keys() & {"default", "default_factory", "repr", "kw_only"}
    options: Any = {"default": None} if facts.get("optional") else {}
    options |= {name: facts.pop(name) for name in names}
    return field(metadata={_ABOUT: About(text=text, **facts)}, **options)


def column(text: str = "", **facts: Any) -> Any:
    """Return a field of tables, filters, sorting, comparisons, bundles, cards, exports and lineage."""
    everywhere = dict.fromkeys(("column", "filterable", "sortable", "compared", "travels"), True)
    return described(text, **{**everywhere, **facts})


class Part(NamedTuple):
    """A field of a record: its key in JSON, the kind of its values, and its metadata."""

    key: str
    kind: Kind
    about: About
    nullable: bool

    @property
    def title(self) -> str:
        """Return its label."""
        return self.about.title or self.key.replace("_", " ")

    @property
    def heading(self) -> str:
        """Return its column heading."""
        return self.about.heading or self.title

    @property
    def is_number(self) -> bool:
        """Return whether its columns are aligned to the right."""
        return self.kind in ("whole", "real", "share", "size")


@cache
def parts_of(kind: type) -> Mapping[str, Part]:
    """Return the fields of a record class by attribute name, in order of definition."""
    parts = dict[str, Part]()
    for field_ in fields(kind):
        about = field_.metadata.get(_ABOUT, _NOTHING)
        stated, nullable = str(field_.type).removesuffix(" | None"), str(field_.type).endswith(" | None")
        values = about.kind or ("choice" if about.choices else _KINDS.get(stated, "names"))
        parts[field_.name] = Part(field_.name.rstrip("_"), values, about, nullable)
    return parts


def compared(kind: type) -> Sequence[str]:
    """Return the keys of the fields that `diff` and `compare` include."""
    return [part.key for part in parts_of(kind).values() if part.about.compared]


def row_values(kind: type, row: Any) -> Mapping[str, Any]:
    """Return the values of the fields that are columns of a row's table, and of records whose fields are.

    A record `best` with `iteration` and `val_loss` has the columns `best_iteration` and `best_val_loss`; it is None if it
    may be, and the first is NULL.  Tables store None as an empty string in columns that are not nullable.
    """
    own, inner = _columns(kind, row.__table__)
    parts, values = parts_of(kind), dict[str, object]()
    for name in own:
        value = getattr(row, name)
        if isinstance(value, list):
            value = tuple(value)
        values[name] = None if value == "" and parts[name].nullable else value
    for name, record in inner.items():
        fields_of = {field_name: getattr(row, f"{name}_{field_name}") for field_name in parts_of(record)}
        missing = parts[name].nullable and next(iter(fields_of.values())) is None
        values[name] = None if missing else record(**fields_of)
    return values


def column_values(record: Record, table: Any) -> dict[str, Any]:
    """Return the values of a record's fields that are columns of a table; the reverse of `row_values`."""
    own, inner = _columns(type(record), table)
    values = {name: getattr(record, name) for name in own}
    for name, kind in inner.items():
        value = getattr(record, name)
        values |= {f"{name}_{field_name}": getattr(value, field_name, None) for field_name in parts_of(kind)}
    stored = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    required = {name for name in stored if not table.columns[name].nullable}
    return {name: "" if value is None and name in required else value for name, value in stored.items()}


@cache
def _columns(kind: type, table: Any) -> tuple[Sequence[str], Mapping[str, type[Record]]]:
    """Return the fields that are columns of a table, and those that are records whose fields are."""
    own = [name for name in parts_of(kind) if name in table.columns]
    inner: dict[str, type[Record]] = {}
    for name, hint in get_type_hints(kind).items():
        record = next(iter(get_args(hint)), hint)
        if not (name in parts_of(kind) and isinstance(record, type) and issubclass(record, Record)):
            continue
        if all(f"{name}_{field_name}" in table.columns for field_name in parts_of(record)):
            inner[name] = record
    return own, inner


class _Fields:
    """The fields of a record class, which becomes a dataclass when they are first read.

    Commands define many more record classes than they use, and a dataclass takes a millisecond.
    """

    def __get__(self, instance: Record | None, owner: type[Record]) -> dict[str, Field[Any]]:
        _make_dataclass(owner)
        return owner.__dataclass_fields__


_MAKING = RLock()


def _make_dataclass(kind: type[Record]) -> None:
    with _MAKING:  # the threads of a server use a class for the first time at once
        if "_is_made" not in vars(kind):
            dataclass(repr=False, **kind._options)(kind)
            kind._is_made = True


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(described, column))
class Record(Mapping[str, Any]):
    """A typed record, and the mapping of its JSON: `dict(adapter)` is what `--json` prints.

    Subclasses are frozen dataclasses whose arguments have names; options such as `class Edge(Record, kw_only=False)`
    change that.  The JSON has a key for each field, in order of definition, without a trailing `_` (which avoids Python
    keywords).  A time is ISO 8601 in UTC with seconds and offset (see `About.exact`).
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    REFERENCE: ClassVar[str] = ""
    """The field to use where a function takes a reference; empty if the record cannot be one."""
    KEYS: ClassVar[tuple[str, ...]] = ()
    """The fields and properties in the JSON, if these are not just the fields."""
    _options: ClassVar[dict[str, bool]]
    _is_made: ClassVar[bool]

    def __init_subclass__(cls, *, kw_only: bool = True, frozen: bool = True, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._options = {"kw_only": kw_only, "frozen": frozen}
        cls.__dataclass_fields__ = _Fields()  # type: ignore[assignment]  # until they are read
        cls.__hash__ = Record.__hash__  # type: ignore[method-assign]  # or `dataclass` would hash mappings

    def __new__(cls, *values: Any, **others: Any) -> Self:
        """Return a new record, with the methods of a dataclass."""
        if "_is_made" not in vars(cls):
            _make_dataclass(cls)
        return super().__new__(cls)

    def __repr__(self) -> str:
        values = ", ".join(f"{part.name}={getattr(self, part.name)!r}" for part in fields(self) if part.repr)
        return f"{type(self).__qualname__}({values})"

    def __hash__(self) -> int:
        if not self._options["frozen"]:
            raise TypeError(f"unhashable type: {type(self).__name__!r}")
        values = (getattr(self, part.name) for part in fields(self) if part.compare)
        return hash((type(self).__name__, *map(_hashable, values)))

    @classmethod
    def from_row(cls, row: Any, **others: Any) -> Self:
        """Return the record of a table's row; `others` are the fields that are not columns."""
        return cls(**{**row_values(cls, row), **others})

    @classmethod
    def extending(cls, record: Record, **others: Any) -> Self:
        """Return a record with the fields of another, whose class this one's is based on, and others."""
        return cls(**{**{part.name: getattr(record, part.name) for part in fields(record)}, **others})

    def to_dict(self) -> dict[str, object]:
        """Return the record as `--json` prints it."""
        return {key: self[key] for key in self}

    def __getitem__(self, key: str) -> Any:
        name, optional, exact = _layout(type(self))[key]
        value = getattr(self, name)
        if value is None and optional:
            raise KeyError(key)
        return value.isoformat() if exact and value is not None else plain(value)

    def __iter__(self) -> Iterator[str]:
        for key, (name, optional, _) in _layout(type(self)).items():
            if not optional or getattr(self, name) is not None:
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        name, optional, _ = _layout(type(self)).get(str(key), ("", True, False))
        return bool(name) and not (optional and getattr(self, name) is None)

    def _repr_html_(self) -> str:
        """Return a table of its values, for notebooks."""
        from html import escape

        from fusery.storage.errors import visible

        rows = "".join(
            f"<tr><th>{escape(key)}</th><td>{escape(visible(str(value)))}</td></tr>"
            for key, value in self.to_dict().items()
            if value is not None and value != []
        )
        return f"<table>{rows}</table>"


def _hashable(value: Any) -> Any:
    """Return a hashable value; equal values give equal results."""
    if isinstance(value, Mapping) and not isinstance(value, Record):
        return frozenset((key, _hashable(entry_value)) for key, entry_value in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return value


def names_of(kind: type) -> tuple[str, ...]:
    """Return the names of the attributes in the JSON of a record class."""
    return getattr(kind, "KEYS", ()) or tuple(record_field.name for record_field in fields(kind))


def optional_names(kind: type) -> frozenset[str]:
    """Return the names of the fields that the JSON omits if they are None."""
    return frozenset(name for name, part in parts_of(kind).items() if part.about.optional)


@cache
def _layout(kind: type[Record]) -> dict[str, tuple[str, bool, bool]]:
    """Return the keys of a record class's JSON: the attribute, whether it is optional, whether exact."""
    abouts = {name: part.about for name, part in parts_of(kind).items()}
    named = ((name, abouts.get(name, _NOTHING)) for name in names_of(kind))
    return {name.rstrip("_"): (name, about.optional, about.exact) for name, about in named}


def plain(value: Any) -> Any:
    """Return a value as plain JSON types, including nested records."""
    if value is None or isinstance(value, str | int | float):
        return value
    # Before the slow checks below: tables read `amendments` for each cell.
    if type(value) is tuple:
        return [plain(element) for element in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(entry_value) for key, entry_value in value.items()}
    if isinstance(value, PathLike):
        return fspath(value)
    return [plain(element) for element in value]
