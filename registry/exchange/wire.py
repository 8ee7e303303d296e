"""A package as a document, on its way between a client and a server: the values of its rows by the kinds of their columns.

A document is read into the same objects as a database, and is validated in the same way.  Items refer to others by their
place in the document, and only to those before them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from sqlalchemy import inspect

from fusery.storage.digest import digest_json, parse_digest
from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import MAX_DEPTH, parse_json
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.plaintext import is_keepable

from .. import tables
from ..database.schema import HEAD
from ..errors import BadInputError, SchemaError
from ..records.withdrawal import Relation, Withdrawal, Withdrawals
from ..tables.bounds import problem_of
from ..tables.values import from_json, kind_of, to_json
from .beside import MOST_EVENTS
from .package import Adapter, Base, Calibration, Files, Fused, Item, Values

FORM = "fusery.package.v1"
"""Name and version of the form of the document."""

MOST_BYTES = 32 << 20
"""Bytes of a document."""

MOST_VALUES = 2_000_000
"""Values in it."""

_MOST_NAMES = 10_000
_HINT = "fusery audit, there"
_T = TypeVar("_T")

_LISTS: Mapping[type, Mapping[str, type[tables.Record]]] = {
    Base: {"names": tables.BaseName, "revisions": tables.BaseRevision},
    Calibration: {},
    Adapter: {
        "tags": tables.AdapterTag,
        "findings": tables.AdapterFinding,
        "curve": tables.CurvePoint,
        "yanks": tables.Yank,
        "amendments": tables.Amendment,
        "evaluations": tables.Evaluation,
    },
    Fused: {"modules": tables.ModuleFidelity},
}
_TABLES: Mapping[type, type[tables.Record]] = {
    Base: tables.BaseModel,
    Calibration: tables.Calibration,
    Adapter: tables.Adapter,
    Fused: tables.Fused,
}
_KINDS: Mapping[str, type] = {"base": Base, "calibration": Calibration, "adapter": Adapter, "fused": Fused}


@dataclass(frozen=True, slots=True)
class Package:
    """What a document holds.

    Attributes:
        registry: id of the registry that it comes from.
        items: its things.
        told: for each of them the yanks that concern it, as far as that registry knows.
    """

    registry: str
    items: list[Item]
    told: list[Withdrawals]


def document_of(package: Package, *, sending: bool = False) -> dict[str, Any]:
    """Return the document of a package; `sending` where its bytes are sent, wherever they are kept."""
    places = {id(item): place for place, item in enumerate(package.items)}
    return {
        "form": FORM,
        "schema": HEAD,
        "registry": package.registry,
        "items": [_written(item, places, sending) for item in package.items],
        "told": [[_told(each) for each in told] for told in package.told],
    }


def bytes_of(document: Mapping[str, Any]) -> bytes:
    """Return a document as it travels.

    Raises:
        BadInputError: it is too long to be taken.
    """
    data = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    if len(data) > MOST_BYTES:
        raise BadInputError(
            f"the records are {len(data):,} bytes, and a server takes {MOST_BYTES:,} at once",
            hint="name the versions that are wanted one by one",
        )
    return data


def read_document(data: bytes) -> Package:
    """Return what a document from elsewhere holds.

    Raises:
        BadInputError: it is no such document, or has values that no registry has.
        SchemaError: it was written by a version of fusery with other tables.
    """
    try:
        document = parse_json(data, "the package", most=MOST_VALUES, deepest=2 * MAX_DEPTH)
    except FormatError as error:
        raise BadInputError(str(error), hint=_HINT) from error
    if not isinstance(document, dict) or document.get("form") != FORM:
        raise BadInputError("this is no package of fusery's, or one of another version")
    if document.get("schema") != HEAD:
        raise SchemaError(
            f"the package is of schema {str(document.get('schema'))[:20]!r}, and this fusery has {HEAD!r}",
            hint="use the same version of fusery here and there",
        )
    try:
        return _read(document)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        # Not repeated: what it says is whatever the sender likes.
        raise BadInputError(f"the package cannot be read: {type(error).__name__}", hint=_HINT) from error


def _read(document: Mapping[str, Any]) -> Package:
    _exactly(document, {"form", "schema", "registry", "items", "told"})
    items: list[Item] = []
    for written in _list(document["items"]):
        items.append(_item(written, items))
    own = {item.digest for item in items if isinstance(item, Adapter)}
    if any(isinstance(item, Calibration) and item.values["adapter"] not in own | {None} for item in items):
        raise ValueError("for an adapter that is not in it")
    told = [tuple(read_withdrawal(each) for each in _list(one)) for one in _list(document["told"])]
    if len(told) != len(items):
        raise ValueError("not one for each")
    return Package(_text(document["registry"]), items, told)


def _written(item: Item, places: Mapping[int, int], sending: bool) -> dict[str, Any]:
    table = _TABLES[type(item)]
    values = {**item.values, "location": None} if isinstance(item, Base) else item.values
    in_store = item.files.stored or (sending and item.files.there)
    written: dict[str, Any] = {
        "kind": item.kind,
        "values": _values(table, values),
        "kept": "store" if in_store else "folder" if item.files.there else "nowhere",
        "files": [entry.to_dict() for entry in item.files.manifest],
        # The time of an entry of the log is text already, since its hash is of that.
        "events": item.events,
        "signatures": _several(tables.Signature, item.signatures),
        **{name: _several(model, getattr(item, name)) for name, model in _LISTS[type(item)].items()},
    }
    if not isinstance(item, Base):
        written["base"] = places[id(item.base)]
    if isinstance(item, Adapter):
        written |= {
            "task": item.task,
            "parent": None if item.parent is None else places[id(item.parent)],
            "sources": [
                [_values(tables.AdapterSource, row), places[id(source)]] for row, source in item.sources
            ],
            "dataset": None if item.dataset is None else _values(tables.Dataset, item.dataset),
            "run": None if item.run is None else _values(tables.TrainingRun, item.run),
            "renderings": [
                [_values(tables.AdapterRendering, row), [entry.to_dict() for entry in manifest]]
                for row, manifest in item.renderings
            ],
            "trained_on": sorted(item.trained_on),
        }
    elif isinstance(item, Fused):
        written |= {
            "label": item.name,
            "adapter": places[id(item.adapter)],
            "extras": [[_values(tables.FusedExtra, row), places[id(extra)]] for row, extra in item.extras],
        }
    return written


def _item(written: Any, before: Sequence[Item]) -> Item:
    kind = _KINDS[_text(_mapping(written)["kind"])]
    keys = {"kind", "values", "kept", "files", "events", "signatures", *_LISTS[kind]}
    values = _values_read(_TABLES[kind], written["values"])
    manifest, kept = _manifest(written["files"]), written["kept"]
    if kept not in ("store", "folder", "nowhere"):
        raise ValueError("kept nowhere that there is")
    common: dict[str, Any] = {
        "digest": _text(values["digest"]),
        "values": values,
        # Which folder it is means nothing here, and is nobody's business.
        "files": Files(manifest, kept == "store", Path("there") if kept == "folder" else None),
        "signatures": _several_read(tables.Signature, written["signatures"]),
        **{name: _several_read(model, written[name]) for name, model in _LISTS[kind].items()},
    }
    if kind is Base:
        _exactly(written, keys)
        name, subject = _text(common["names"][0]["name"]), common["digest"]
        common |= {"name": name, "events": _events(written["events"], "base", subject)}
        return Base(**common)
    base = _before(written["base"], before, Base)
    if kind is Calibration:
        _exactly(written, {*keys, "base"})
        name = f"{base.name} calibrated ({_text(values['prompts'])})"
        events = _events(written["events"], "calibration", common["digest"])
        return Calibration(**common, name=name, base=base, events=events)
    if kind is Adapter:
        _exactly(
            written,
            {*keys, "base", "task", "parent", "sources", "dataset", "run", "renderings", "trained_on"},
        )
        return _adapter(written, before, base, common)
    _exactly(written, {*keys, "base", "label", "adapter", "extras"})
    return Fused(
        **common,
        name=_name(written["label"]),
        events=_events(written["events"], "fused", _text(values["key"])),
        base=base,
        adapter=_before(written["adapter"], before, Adapter),
        extras=[
            (_values_read(tables.FusedExtra, row), _before(place, before, Adapter))
            for row, place in map(_list, _list(written["extras"]))
        ],
    )


def _adapter(
    written: Mapping[str, Any], before: Sequence[Item], base: Base, common: dict[str, Any]
) -> Adapter:
    name = _name(common["values"]["name"])
    parent, dataset, run = written["parent"], written["dataset"], written["run"]
    known_as = _list(written["trained_on"])
    if len(known_as) > _MOST_NAMES or not all(
        isinstance(each, str) and is_keepable(each) for each in known_as
    ):
        raise ValueError("no names")
    return Adapter(
        **common,
        name=name,
        events=_events(written["events"], "adapter", name),
        task=_text(written["task"]),
        base=base,
        parent=None if parent is None else _before(parent, before, Adapter),
        sources=[
            (_values_read(tables.AdapterSource, row), _before(place, before, Adapter))
            for row, place in map(_list, _list(written["sources"]))
        ],
        dataset=None if dataset is None else _values_read(tables.Dataset, dataset),
        run=None if run is None else _values_read(tables.TrainingRun, run),
        renderings=[
            (_values_read(tables.AdapterRendering, row), _manifest(files))
            for row, files in map(_list, _list(written["renderings"]))
        ],
        trained_on=frozenset(known_as),
    )


@cache
def _columns(model: type[tables.Record]) -> Mapping[str, str]:
    """Return the columns of a table that mean something elsewhere, and their kinds; see `package.values_of`."""
    return {
        attribute.key: kind_of(attribute.columns[0])  # type: ignore[arg-type]
        for attribute in inspect(model).column_attrs
        if attribute.key != "id" and not any(column.foreign_keys for column in attribute.columns)
    }


def _values(model: type[tables.Record], values: Values) -> dict[str, Any]:
    return {key: to_json(kind, values[key]) for key, kind in _columns(model).items()}


def _several(model: type[tables.Record], rows: Iterable[Values]) -> list[dict[str, Any]]:
    return [_values(model, row) for row in rows]


def _values_read(model: type[tables.Record], written: Any) -> Values:
    kinds = _columns(model)
    _exactly(_mapping(written), kinds.keys())
    return {key: from_json(kind, written[key]) for key, kind in kinds.items()}


def _several_read(model: type[tables.Record], written: Any) -> list[Values]:
    return [_values_read(model, row) for row in _list(written)]


def _events(written: Any, kind: str, subject: str) -> list[Values]:
    """Return entries of a log: each about this thing, and with the hash that it says."""
    events = _list(written)
    if len(events) > MOST_EVENTS:
        raise ValueError("too many")
    for event in events:
        _exactly(_mapping(event), _columns(tables.Event).keys())
        # As `log.event_hash` has it: of several entries of a transaction, the last has the seals.
        left_out = {"hash"} if event["seals"] is not None else {"hash", "seals"}
        rest = {key: value for key, value in event.items() if key not in left_out}
        if (event["subject_kind"], event["subject"]) != (kind, subject) or digest_json(rest) != event["hash"]:
            raise BadInputError(f"the log of {subject[:80]!r} was changed after it was written", hint=_HINT)
    return events


def _manifest(written: Any) -> Manifest:
    entries = []
    for entry in _list(written):
        _exactly(_mapping(entry), {"path", "size", "sha256"})
        size = entry["size"]
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError("no size")
        entries.append(FileEntry(_text(entry["path"]), size, parse_digest(_text(entry["sha256"]))))
    return Manifest.of(entries)


def read_withdrawal(written: Any) -> Withdrawal:
    """Return a yank that another registry tells of, in a document or as JSON has it.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    yank = tables.Yank
    values = _mapping(written)
    if values["relation"] not in get_args(Relation):
        raise ValueError("no relation")
    found = {"reason": values["reason"], "by": values["by"], "at": from_json("moment", values["at"])}
    if problem_of(yank.__table__, found) is not None:  # type: ignore[arg-type]
        raise ValueError("no yank")
    return Withdrawal(adapter=_name(values["adapter"]), relation=values["relation"], **found)


def _told(one: Withdrawal) -> dict[str, Any]:
    return {
        "adapter": one.adapter,
        "relation": one.relation,
        "reason": one.reason,
        "at": to_json("moment", one.at),
        "by": one.by,
    }


def _name(written: Any) -> str:
    """Return a name that may be shown: as short as an adapter's, and no trick of a terminal."""
    name = _text(written)
    if problem_of(tables.Adapter.__table__, {"name": name}) is not None:  # type: ignore[arg-type]
        raise ValueError("no name")
    return name


def _before(place: Any, before: Sequence[Item], kind: type[_T]) -> _T:
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(before):
        raise ValueError("nothing before it")
    found = before[place]
    if not isinstance(found, kind):
        raise TypeError("another kind")
    return found


def _exactly(written: Mapping[str, Any], keys: Iterable[str]) -> None:
    if written.keys() != set(keys):
        raise KeyError("other keys")


def _mapping(written: Any) -> dict[str, Any]:
    if not isinstance(written, dict):
        raise TypeError("no object")
    return written


def _list(written: Any) -> list[Any]:
    if not isinstance(written, list):
        raise TypeError("no list")
    return written


def _text(written: Any) -> str:
    if not isinstance(written, str):
        raise TypeError("no text")
    return written
