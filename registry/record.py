"""What all typed records have in common: made once, read by attributes, and written as JSON by one rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import date, datetime
from functools import cache
from os import PathLike, fspath
from typing import Any, ClassVar, Literal, NamedTuple, Self

Kind = Literal["text", "choice", "whole", "real", "size", "day", "moment", "flag", "share", "names"]
"""The kinds of values; `names` is several of them, or pairs."""

Amendable = Literal["no", "freely", "with a reason"]

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
        help: of the option.
        metavar: of the option.
        default: what counts where a user says nothing at registration.
        least: the smallest number.
        most: the largest number, or the most characters of a text.
        masked: passwords and tokens in its URLs are not recorded.
        later: only an amendment declares it.
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
    """The facts about one field of a record, from which lists, pages, filters, cards and documents are made.

    Attributes:
        text: its meaning, in the schema and the reference.
        title: for people; by default its name with spaces.
        heading: above a column; by default the title.
        kind: of its values; by default what its type says.
        unit: noun behind a number in a line, such as `example`.
        form: how a value is printed, as `str.format` takes it; by default what its kind says.
        cell: the same in a table, where that is shorter.
        words: how it continues a line that begins with another field, such as ` by {}`.
        column: tables of the records can have a column of it.
        usual: tables have it if nothing else is asked for.
        free: a narrow table may cut it off.
        rare: a narrow table leaves its column out while it is empty.
        brief: `show` has no line of it where there is no value.
        filterable: expressions can test it.
        compared: `diff` and `compare` say where it differs.
        travels: bundles and model cards have it.
        choices: all values that it can have, where they are known.
        declared: how a user declares it; None where it is computed.
        amendable: whether a user may correct it, and has to say why.
        optional: it is None by default, and then has no key in the JSON.
        exact: its moment is in the JSON to the microsecond: the order of moves shows in it.
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
    compared: bool = False
    travels: bool = False
    choices: tuple[str, ...] = ()
    declared: Declaration | None = None
    amendable: Amendable = "no"
    optional: bool = False
    exact: bool = False


_NOTHING = About()


def described(text: str = "", **facts: Any) -> Any:
    """Return a field with its meaning and further facts about it; see `About`."""
    default = None if facts.get("optional") else MISSING
    return field(default=default, metadata={_ABOUT: About(text=text, **facts)})


def column(text: str = "", **facts: Any) -> Any:
    """Return a field that tables, filters, comparisons, bundles and cards have, except where a fact says otherwise."""
    everywhere = dict.fromkeys(("column", "filterable", "compared", "travels"), True)
    return described(text, **{**everywhere, **facts})


def left_out(metadata: Mapping[str, About] | None = None) -> Any:
    """Return a field that is None by default, and then has no key in the JSON: for what is there only when asked for."""
    return described(optional=True, exact=bool(metadata))


EXACT: Mapping[str, About] = {_ABOUT: About(exact=True)}
"""The `metadata` of a field with a moment that the JSON has to the microsecond: the order of moves shows in it."""


class Part(NamedTuple):
    """A field of a record: its key in JSON, the kind of its values, and what else is known about it."""

    key: str
    kind: Kind
    about: About
    nullable: bool

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.about.title or self.key.replace("_", " ")

    @property
    def heading(self) -> str:
        """Its name above a column."""
        return self.about.heading or self.title

    @property
    def is_number(self) -> bool:
        """Columns of it are aligned to the right."""
        return self.kind in ("whole", "real", "share", "size")


@cache
def parts_of(kind: type) -> Mapping[str, Part]:
    """Return the fields of a kind of record by the name of their attribute, in their order."""
    return {each.name: _part(each) for each in fields(kind)}


def compared(kind: type) -> Sequence[str]:
    """Return the keys of the fields in which records of a kind are compared."""
    return [part.key for part in parts_of(kind).values() if part.about.compared]


def _part(each: Field[Any]) -> Part:
    about = each.metadata.get(_ABOUT, _NOTHING)
    stated, nullable = str(each.type).removesuffix(" | None"), str(each.type).endswith(" | None")
    kind = about.kind or ("choice" if about.choices else _KINDS.get(stated, "names"))
    return Part(each.name.rstrip("_"), kind, about, nullable)


def row_values(kind: type, row: Any) -> dict[str, Any]:
    """Return the fields of a record that a row of a table has as columns of the same names.

    An empty text is None where the record may have None: in the tables it stands for that, so that constraints hold.
    """
    values = {name: getattr(row, name) for name in _shared(kind, row.__table__)}
    return {
        name: None if value == "" and parts_of(kind)[name].nullable else value
        for name, value in values.items()
    }


@cache
def _shared(kind: type, table: Any) -> Sequence[str]:
    return [name for name in parts_of(kind) if name in table.columns]


class Record(Mapping[str, Any]):
    """A typed, immutable record.  Subclasses are frozen dataclasses.

    Its JSON has a key for each field, in their order.  A name with a `_` at its end, for what Python keeps for itself,
    is a key without it.  A moment is ISO 8601 in UTC with seconds and offset (see also `EXACT`), a path a text, a tuple an
    array.

    A record can also be read as that mapping: `adapter["created_at"]` is what `--json` prints of `adapter.created_at`,
    and `dict(adapter)` is all of it.

    Attributes:
        REFERENCE: the field that names what the record is of, where a reference is asked for; empty if it names nothing.
        KEYS: names of the fields and properties that the JSON has, where these are not just its fields.
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
        """Return the record of a table's row, whose columns are its fields but for the others."""
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
    """Return the names of the attributes that the JSON of a kind of record has."""
    return getattr(kind, "KEYS", ()) or tuple(each.name for each in fields(kind))


def optional_names(kind: type) -> frozenset[str]:
    """Return those that are left out where they are None."""
    return frozenset(name for name, part in parts_of(kind).items() if part.about.optional)


@cache
def _layout(kind: type[Record]) -> dict[str, tuple[str, bool, bool]]:
    """Return what the JSON of a kind of record has: key to the attribute, whether it is optional, and exact."""
    abouts = {name: part.about for name, part in parts_of(kind).items()}
    named = ((name, abouts.get(name, _NOTHING)) for name in names_of(kind))
    return {name.rstrip("_"): (name, about.optional, about.exact) for name, about in named}


def plain(value: Any) -> Any:
    """Return a value as JSON has it, with the records in it."""
    if value is None or isinstance(value, str | int | float):
        return value
    # Before the questions below, which are slow: a table asks for the amendments at each of its cells.
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
