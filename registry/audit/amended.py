"""Adapters against their amendments: what is on record today is what was registered, corrected as the log says and no further.

Seals alone would let a program write an adapter anew and seal it: the log would have an entry, and no word of what was
changed.  So each seal of an adapter is taken back to the one before, by undoing what the entry says was amended.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from fusery.storage.digest import digest_json

from .. import tables
from ..database.actions import ADOPTED
from ..database.log import parse_seals
from ..database.sealing import KINDS, Content, Key, contents_of
from ..errors import BadInputError
from ..names import parse_date
from ..records.amendments import DATASET, TAG, misfits, state_of
from ..records.overtaken import overtaken
from ..records.references import load_adapters
from ..registration.correction import accepted
from .records import NAMED, Discrepancy

_BATCH = 500
_ADAPTER = KINDS["adapter"]
_TAGS = tables.AdapterTag.__tablename__
_FORMS = tables.AdapterRendering.__tablename__
_FINDINGS = tables.AdapterFinding.__tablename__
_SCHEMA = """
CREATE TABLE seal (number INTEGER, seq INTEGER, digest TEXT, PRIMARY KEY (number, seq)) WITHOUT ROWID;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
"""

_Datasets = dict[int, tuple[str, str, str]]
"""Number of a row to name, revision and digest."""


class _Log:
    """What the log says of adapters and amendments: in a scratch database on disk, since memory must not grow with it.

    Attributes:
        amended: the entry of each amendment.
        adopted: the entries that tell of a restore from a backup of others.
    """

    def __init__(self) -> None:
        self.amended: dict[int, int] = {}
        self.adopted: set[int] = set()
        self._scratch = sqlite3.connect("")
        self._scratch.executescript(_SCHEMA)

    def close(self) -> None:
        """Let go of the scratch database."""
        self._scratch.close()

    def note(self, seq: int, text: str) -> None:
        """Take in the seals of an entry."""
        try:
            seals = parse_seals(text)
        except ValueError:
            return  # the chain's matter
        for seal in seals:
            if seal.kind == "amendment" and seal.digest is not None:
                self.amended.setdefault(seal.number, seq)
            elif seal.kind == _ADAPTER.name:
                self._scratch.execute(
                    "INSERT OR REPLACE INTO seal VALUES (?, ?, ?)", [seal.number, seq, seal.digest]
                )

    def several(self) -> set[int]:
        """Return the adapters that were sealed as one thing and then as another."""
        query = "SELECT number FROM seal GROUP BY number HAVING count(DISTINCT digest) > 1"
        return {number for (number,) in self._scratch.execute(query)}

    def seals(self, number: int) -> list[tuple[int, str | None]]:
        """Return entry and digest of each seal of an adapter, in order."""
        query = "SELECT seq, digest FROM seal WHERE number = ? ORDER BY seq"
        return list(self._scratch.execute(query, [number]))


def check_amendments(session: Session, only: Collection[Key] | None = None) -> Iterator[Discrepancy]:
    """Yield amendments that do not fit, adapters that were written anew without one, and promotions that one overtook.

    Args:
        session: of any transaction.
        only: look at the adapters among these records alone.
    """
    wanted = None if only is None else {number for kind, number in only if kind == _ADAPTER.name}
    if wanted is not None and not wanted:
        return
    with closing(_Log()) as log:
        _read(session, log, wanted)
        log.adopted.update(session.scalars(select(tables.Event.seq).where(tables.Event.action == ADOPTED)))
        numbers = set(session.scalars(select(tables.Amendment.adapter_id).distinct())) | log.several()
        datasets = _datasets(session) if numbers else {}
        # SQLite keeps whatever somebody puts into a column: `records` and `spellings` name what is no number.
        numbers = {number for number in numbers if isinstance(number, int)}
        for number in sorted(numbers if wanted is None else numbers & wanted):
            yield from _check(session, number, log, datasets)
        yield from _overtaken(session, log, wanted)


def _check(session: Session, number: int, log: _Log, datasets: _Datasets) -> Iterator[Discrepancy]:
    query = load_adapters().where(tables.Adapter.id == number).execution_options(populate_existing=True)
    try:
        row = session.scalars(query).one_or_none()
        content = contents_of(session, _ADAPTER, [number]).get(number)
    except (ValueError, TypeError, LookupError):
        return  # a value is none of its column's type: `records` says so
    if row is not None and content is not None:
        for message in misfits(state_of(row), row.amendments):
            yield Discrepancy("amendment_unfit", f"adapter {row.name}", message)
        yield from _rewritten(row, content, log, datasets)


def _read(session: Session, log: _Log, wanted: Collection[int] | None) -> None:
    event, seq = tables.Event, 0
    starts = ['["adapter",', '["amendment",']
    if wanted is not None and len(wanted) <= NAMED:
        starts = ['["amendment",', *(f'["adapter",{number},' for number in wanted)]
    said = or_(*(event.seals.contains(start, autoescape=True) for start in starts))
    query = select(event.seq, event.seals).where(said).order_by(event.seq).limit(_BATCH)
    while rows := session.execute(query.where(event.seq > seq)).all():
        for row in rows:
            log.note(row.seq, row.seals)
        seq = rows[-1].seq


def _datasets(session: Session) -> _Datasets:
    data = tables.Dataset
    rows = session.execute(select(data.id, data.name, data.revision, data.digest))
    return {number: (name, revision, digest) for number, name, revision, digest in rows}


def _rewritten(
    row: tables.Adapter, content: Content, log: _Log, datasets: _Datasets
) -> Iterator[Discrepancy]:
    """Yield the entry in which an adapter was written anew without an amendment that says what was changed."""
    seals = log.seals(row.id)
    if not seals or digest_json(content) != seals[-1][1]:
        return  # changed by other means: `records` says so
    for (_, before), (seq, _) in reversed(list(itertools.pairwise(seals))):
        rows = [each for each in row.amendments if log.amended.get(each.id) == seq]
        try:
            content = _undone(content, rows, row.id, datasets)
        except (ValueError, TypeError, StopIteration, BadInputError):
            content = {}
        found = next(
            (each for each in _without_later(content, seq in log.adopted) if digest_json(each) == before),
            None,
        )
        if found is None:
            yield Discrepancy(
                "record_rewritten",
                f"adapter {row.name}",
                f"entry {seq} of the log wrote it anew, and no amendment says what was changed",
            )
            return
        content = found


def _undone(
    content: Content,
    rows: Sequence[tables.Amendment],
    adapter: int,
    datasets: _Datasets,
) -> Content:
    """Return what was hashed of an adapter before some amendments.

    Raises:
        ValueError, TypeError, StopIteration, BadInputError: what an amendment says was before cannot have been.
    """
    [own] = content["adapter"]
    values = dict(own)
    tags = {tag["key"]: tag for tag in content.get(_TAGS, [])}
    data = dict(zip(DATASET, datasets.get(values.get("dataset_id", 0), (None, None, None)), strict=True))
    for row in reversed(rows):
        value = accepted(row.field, json.loads(row.before))
        if row.field.startswith(TAG):
            key = row.field.removeprefix(TAG)
            tags[key] = {"adapter_id": adapter, "key": key, "value": value}
        elif row.field in DATASET:
            data[row.field] = value
        elif row.field == "date":
            values["date"] = parse_date(value).isoformat()
        else:
            values[row.field] = value
    if any(row.field in DATASET for row in rows):
        name, revision, digest = (data[each] for each in DATASET)
        wanted = (name, revision or "", digest or "")
        values["dataset_id"] = (
            None if name is None else next(key for key, value in datasets.items() if value == wanted)
        )
    kept = [tags[key] for key in sorted(tags) if tags[key]["value"] is not None]
    row_before = {name: value for name, value in values.items() if value is not None}
    return _with(content, {"adapter": [row_before], _TAGS: kept})


def _with(content: Content, rows: Content) -> Content:
    """Return what is hashed with other rows of some tables; a table without rows is not part of it."""
    return {name: of for name, of in {**content, **rows}.items() if of}


def _without_forms(content: Content) -> Iterator[Content]:
    """Yield a record as it is, and without renderings, which are noted when they are first computed."""
    forms = content.get(_FORMS, [])
    for kept in range(len(forms), -1, -1):
        for chosen in itertools.combinations(forms, kept):
            yield _with(content, {_FORMS: list(chosen)})


def _without_later(content: Content, adopted: bool) -> Iterator[Content]:
    """Yield a record as it is, and without what may have been added: renderings, and findings by a restore.

    Args:
        content: the record.
        adopted: its registry was restored from a backup of others then, and admission looked at it.
    """
    findings = content.get(_FINDINGS, [])
    for kept in range(len(findings), -1, -1) if adopted else [len(findings)]:
        yield from _without_forms(_with(content, {_FINDINGS: findings[:kept]}))


def _overtaken(session: Session, log: _Log, wanted: Collection[int] | None) -> Iterator[Discrepancy]:
    """Yield aliases whose holder was judged by what was amended afterwards."""
    alias, amendment, adapter = tables.Alias, tables.Amendment, tables.Adapter
    tasks = select(adapter.task_id).join(amendment, amendment.adapter_id == adapter.id)
    query = select(alias).where(alias.task_id.in_(tasks), alias.adapter_id.is_not(None)).order_by(alias.id)
    for row in session.scalars(query):
        if wanted is not None and row.adapter_id not in wanted:
            continue
        for found in overtaken(session, row, log.amended):
            yield Discrepancy("amended_after_promotion", f"alias {found.alias}", found.message)
