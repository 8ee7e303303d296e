"""The base class of typed records, and the metadata of their fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import date, datetime
from functools import cache
from os import PathLike, fspath
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args, get_type_hints

Kind = Literal["text", "choice", "whole", "real", "size", "day", "moment", "flag", "share", "names"]
"""The kinds of values; `names` is a list of values, or of key-value pairs."""

Amendable = Literal["no", "freely", "with a reason"]

LINE = 500
"""The maximum length of a text in one line."""

LARGE = 2**63 - 1
"""The largest number in a `BIGINT` column."""

LONG = 1 << 20
"""The maximum length of a text of several lines."""

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
    """How a user declares a value.

    Attributes:
        help: the help text of the option.
        metavar: the metavar of the option.
        default: the default at registration, in words.
        least: the smallest number.
        most: the largest number, or the maximum length of a text.
        masked: whether passwords and tokens in its URLs are masked.
        later: whether only an amendment can declare it.
    """

    help: str = ""
    metavar: str | None = None
    default: str = ""
    least: int = 0
    most: int = 500
    masked: bool = False
    later: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The metadata of a record's field, from which lists, pages, filters, cards and documents are made.

    Attributes:
        text: its description, in the JSON schema and the reference.
        title: its label; by default its name with spaces.
        heading: its column heading; by default the title.
        kind: the kind of its values; by default derived from its type.
        unit: the noun after a number in a line, such as `example`.
        form: the format string of a value; by default derived from the kind.
        cell: a shorter format string for tables.
        words: the format string where the field continues another field's line, such as ` by {}`.
        column: whether tables of the records can have it as a column.
        usual: whether it is a default column.
        free: whether a narrow table may truncate it.
        rare: whether a narrow table omits its column while it is empty.
        brief: whether `show` omits its line if there is no value.
        filterable: whether `--where` expressions can test it.
        sortable: whether lists can be sorted by it; its column then has an index with the row's id.
        compared: whether `diff` and `compare` include it.
        travels: whether bundles, model cards, exported folders, lineage and attestations include it.
        choices: all possible values, if they are known.
        declared: how a user declares it; None if it is computed.
        amendable: whether a user may amend it, and needs a reason.
        optional: whether it is None by default, and then omitted from the JSON.
        exact: whether its time has microseconds in the JSON, to keep the order of moves.
        least: the smallest number that another registry may send.
        most: the largest such number, or the maximum length of a text, which may have several lines if it is over
            `LINE`; 0 stands for what `declared` says, else for `LINE` or 2^31 - 1.
    """

    text: str = ""
    title: str = ""
    heading: str = ""
    kind: Kind | None = None
    unit: str = ""
    form: str = ""
    cell: str = ""
    words: str = ""
    column: bool = False
    usual: bool = False
    free: bool = False
    rare: bool = False
    brief: bool = False
    filterable: bool = False
    sortable: bool = False
    compared: bool = False
    travels: bool = False
    choices: tuple[str, ...] = ()
    declared: Declaration | None = None
    amendable: Amendable = "no"
    optional: bool = False
    exact: bool = False
    least: int = 0
    most: int = 0


_NOTHING = About()


def described(
    text: str = "", *, default: Any = MISSING, repr: bool = True, kw_only: Any = MISSING, **facts: Any
) -> Any:
    """Return a field with its description and other metadata; see `About`."""
    if facts.get("optional"):
        default = None
    return field(default=default, repr=repr, kw_only=kw_only, metadata={_ABOUT: About(text=text, **facts)})


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
    return {each.name: _part(each) for each in fields(kind)}


def compared(kind: type) -> Sequence[str]:
    """Return the keys of the fields that `diff` and `compare` include."""
    return [part.key for part in parts_of(kind).values() if part.about.compared]


def _part(each: Field[Any]) -> Part:
    about = each.metadata.get(_ABOUT, _NOTHING)
    stated, nullable = str(each.type).removesuffix(" | None"), str(each.type).endswith(" | None")
    kind = about.kind or ("choice" if about.choices else _KINDS.get(stated, "names"))
    return Part(each.name.rstrip("_"), kind, about, nullable)


def row_values(kind: type, row: Any) -> dict[str, Any]:
    """Return the values of the fields that are columns of a row's table, and of records whose fields are.

    A field `best` of a record with `iteration` and `val_loss` has the columns `best_iteration` and `best_val_loss`; it is
    None if it may be, and the first is NULL.  An empty string becomes None if the field is nullable: tables store None as
    an empty string in such columns.
    """
    own, inner = _columns(kind, row.__table__)
    parts, values = parts_of(kind), dict[str, Any]()
    for name in own:
        value = getattr(row, name)
        if isinstance(value, list):
            value = tuple(value)
        values[name] = None if value == "" and parts[name].nullable else value
    for name, record in inner.items():
        fields_of = {each: getattr(row, f"{name}_{each}") for each in parts_of(record)}
        missing = parts[name].nullable and next(iter(fields_of.values())) is None
        values[name] = None if missing else record(**fields_of)
    return values


def column_values(record: Record, table: Any) -> dict[str, Any]:
    """Return the values of a record's fields that are columns of a table; the reverse of `row_values`."""
    own, inner = _columns(type(record), table)
    values = {name: getattr(record, name) for name in own}
    for name, kind in inner.items():
        value = getattr(record, name)
        values |= {f"{name}_{each}": getattr(value, each, None) for each in parts_of(kind)}
    return {
        name: "" if value is None and not table.columns[name].nullable else _listed(value)
        for name, value in values.items()
    }


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@cache
def _columns(kind: type, table: Any) -> tuple[Sequence[str], Mapping[str, type[Record]]]:
    """Return the fields that are columns of a table, and those that are records whose fields are."""
    own = [name for name in parts_of(kind) if name in table.columns]
    inner: dict[str, type[Record]] = {}
    for name, hint in get_type_hints(kind).items():
        record = next(iter(get_args(hint)), hint)
        if not (name in parts_of(kind) and isinstance(record, type) and issubclass(record, Record)):
            continue
        if all(f"{name}_{each}" in table.columns for each in parts_of(record)):
            inner[name] = record
    return own, inner


class Record(Mapping[str, Any]):
    """A typed, immutable record.  Subclasses are frozen dataclasses.

    Its JSON has a key for each field, in order of definition.  A key has no trailing `_`, which avoids Python
    keywords.  A time is ISO 8601 in UTC with seconds and offset (see `About.exact`), a path is a string, a
    tuple is an array.

    A record is also a mapping of its JSON: `adapter["created_at"]` is the value that `--json` prints for
    `adapter.created_at`, and `dict(adapter)` is the whole object.

    Attributes:
        REFERENCE: the field to use where a function takes a reference; empty if the record cannot be one.
        KEYS: the fields and properties in the JSON, if these are not just the fields.
    """

    __slots__ = ()
    REFERENCE: ClassVar[str] = ""
    KEYS: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__hash__ = Record.__hash__  # type: ignore[method-assign]  # or `dataclass` would hash mappings

    def __hash__(self) -> int:
        if not type(self).__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise TypeError(f"unhashable type: {type(self).__name__!r}")
        values = (getattr(self, each.name) for each in fields(self) if each.compare)  # type: ignore[arg-type]
        return hash((type(self).__name__, *map(_hashable, values)))

    @classmethod
    def from_row(cls, row: Any, **others: Any) -> Self:
        """Return the record of a table's row; `others` are the fields that are not columns."""
        return cls(**{**row_values(cls, row), **others})

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

        from fusery.storage.plaintext import visible

        rows = "".join(
            f"<tr><th>{escape(key)}</th><td>{escape(visible(str(value)))}</td></tr>"
            for key, value in self.to_dict().items()
            if value is not None and value != []
        )
        return f"<table>{rows}</table>"


def _hashable(value: Any) -> Any:
    """Return a hashable value; equal values give equal results."""
    if isinstance(value, Mapping) and not isinstance(value, Record):
        return frozenset((key, _hashable(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return value


def names_of(kind: type) -> tuple[str, ...]:
    """Return the names of the attributes in the JSON of a record class."""
    return getattr(kind, "KEYS", ()) or tuple(each.name for each in fields(kind))


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
        return [plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, PathLike):
        return fspath(value)
    return [plain(each) for each in value]
