"""What of a thing from another registry may be believed to be values at all: its rows need not fit their columns."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Table

from .. import tables
from ..errors import BadInputError
from ..names import parse_base_name, parse_slug, parse_task
from ..tables.bounds import problem_of
from .package import Adapter, Base, Calibration, Fused, Item, Values


def require_sound(item: Item) -> None:
    """Refuse a thing with a value that could not have been recorded.

    Raises:
        BadInputError: it has one.
    """
    for table, values in parts_of(item):
        if (problem := problem_of(table, values)) is not None:
            raise BadInputError(
                f"{item.name[:200]} is on record with {problem}",
                hint="let its owner run: fusery audit, there",
            )
    if isinstance(item, Base):
        for name in item.names:
            if parse_base_name(name["name"]).casefold() != name["folded"]:
                raise BadInputError(
                    f"{item.name[:200]} is on record under two names that are said to be one",
                    hint="let its owner run: fusery audit, there",
                )
    elif isinstance(item, Adapter):
        parse_task(item.task)
        for tag in item.tags:
            parse_slug(tag["key"], "tag")


def parts_of(item: Item) -> Iterator[tuple[Table, Values]]:
    """Yield the table and the values of each row of an item."""
    own, lists = _PARTS[type(item)]
    yield _table(own), {**item.values, "digest": item.digest}
    everything: list[tuple[str, type[tables.Record]]] = [
        *lists,
        ("events", tables.Event),
        ("signatures", tables.Signature),
    ]
    for attribute, model in everything:
        for values in getattr(item, attribute) or ():
            # The time of an entry of the log is on its way as text, since its hash is of that.
            yield (
                _table(model),
                {key: value for key, value in values.items() if model is not tables.Event or key != "at"},
            )
    manifests = [item.files.manifest]
    if isinstance(item, Adapter):
        for values, manifest in item.renderings:
            yield _table(tables.AdapterRendering), values
            manifests.append(manifest)
        for values, _ in item.sources:
            yield _table(tables.AdapterSource), values
        if item.dataset is not None:
            yield _table(tables.Dataset), item.dataset
        if item.run is not None:
            yield _table(tables.TrainingRun), item.run
    elif isinstance(item, Fused):
        for values, _ in item.extras:
            yield _table(tables.FusedExtra), values
    for entry in (entry for manifest in manifests for entry in manifest):
        yield _table(tables.ManifestFile), entry.to_dict()


def _table(model: type[tables.Record]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table


_PARTS: dict[type, tuple[type[tables.Record], tuple[tuple[str, type[tables.Record]], ...]]] = {
    Base: (tables.BaseModel, (("names", tables.BaseName), ("revisions", tables.BaseRevision))),
    Calibration: (tables.Calibration, ()),
    Adapter: (
        tables.Adapter,
        (
            ("tags", tables.AdapterTag),
            ("findings", tables.AdapterFinding),
            ("curve", tables.CurvePoint),
            ("yanks", tables.Yank),
            ("amendments", tables.Amendment),
            ("evaluations", tables.Evaluation),
        ),
    ),
    Fused: (tables.Fused, (("modules", tables.ModuleFidelity),)),
}
