"""Read documents from a registry's database: a record with everything it needs, or all records."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError

from .. import tables
from ..database.engine import batches
from ..database.events import entry_values
from ..errors import AmbiguousReferenceError, BadInputError, CheckFailedError
from ..records.adapter_details import CurvePoint, Rendering, TrainingRun
from ..records.bases import all_names
from ..records.calibrations import current_calibration
from ..records.fused import ModuleFidelity, Source
from ..records.fused_rows import answers_in, fused_by_adapter
from ..records.references import load_adapters, resolve_any
from ..records.views import adapter_records, entries
from ..records.withdrawals import of_fused
from . import documents

MOST_ADAPTERS = 20_000  # maximum number of adapters in a package
MOST_LOG = 1 << 20  # maximum length of the log entries about a record; older entries are left out
_HINT = "fusery audit, on the other registry"
_AHEAD = 100  # number of adapters per batch of statements


def read_documents(
    session: Session, reference: str, *, fused: bool, most: int = MOST_ADAPTERS
) -> list[documents.Item]:
    """Return the documents of what a reference names and of all that it needs, in the order in which they are received."""
    try:
        adapters, base, made = _resolve(session, reference, most)
        if any(row.origin is not None for row in made):
            problem = f"cannot copy {reference}: it is a claim of another registry"
            raise BadInputError(problem, hint="fuse it in this registry first: fusery fuse")
        if fused:
            for some in batches(adapters):
                rows = itertools.chain.from_iterable(fused_by_adapter(session, some).values())
                made += [row for row in rows if row.origin is None]  # without claims of other registries
        adapters += [part for row in made for part in (row.adapter, *(extra.adapter for extra in row.extras))]
        adapters = _with_ancestors(session, adapters, most)
        bases = {base.id: base} if base is not None else {}
        bases |= {row.base_id: row.base for row in adapters} | {row.base_id: row.base for row in made}
        digests = {row.digest for row in adapters}
        return [
            *base_documents(session, bases.values()),
            *calibration_documents(session, bases.values(), digests),
            *adapter_documents(session, adapters),
            *fused_documents(session, {row.id: row for row in made}.values()),
        ]
    except FuseryError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        problem = f"cannot read the records of {reference}: {type(error).__name__}"
        raise BadInputError(problem, hint=_HINT) from error


def all_documents(session: Session) -> Iterator[tuple[str, Iterator[documents.Item]]]:
    """Yield each kind and its documents of a whole registry, in the order of recording."""
    adapter, base, fused = tables.AdapterRow, tables.BaseModelRow, tables.FusedRow
    bases = session.scalars(select(base).order_by(base.id)).all()
    yield "base", base_documents(session, bases)
    yield "calibration", calibration_documents(session, bases, None)
    numbers = session.scalars(select(adapter.id).order_by(adapter.id)).all()
    yield "adapter", adapter_documents(session, _rows(session, numbers))
    own = session.scalars(select(fused).where(fused.origin.is_(None)).order_by(fused.id))
    yield "fused", fused_documents(session, own)


def _resolve(
    session: Session, reference: str, most: int
) -> tuple[list[tables.AdapterRow], tables.BaseModelRow | None, list[tables.FusedRow]]:
    folded = reference.strip().casefold()
    adapter, name = tables.AdapterRow, tables.BaseNameRow
    of_task = select(adapter).join(adapter.task).where(tables.TaskRow.name == folded)
    versions = list(session.scalars(of_task.order_by(adapter.version).limit(most + 1)))
    if len(versions) > most:
        raise BadInputError(f"{reference} has more than {most:,} versions", hint="name one version")
    if versions:
        if session.scalar(select(name).where(name.folded == folded)) is not None:
            hint = "name an adapter, or the base by its digest"
            raise AmbiguousReferenceError(f"{reference} is a task and a base model", hint=hint)
        return versions, None, []
    subject = resolve_any(session, reference)
    if isinstance(subject, tables.FusedRow):
        return [], None, [subject]
    return ([subject], None, []) if isinstance(subject, tables.AdapterRow) else ([], subject, [])


def _with_ancestors(
    session: Session, rows: Iterable[tables.AdapterRow], most: int
) -> list[tables.AdapterRow]:
    """Return adapters with their parents and sources, in the order of registration."""
    adapter, source = tables.AdapterRow, tables.AdapterSourceRow
    rows_by_id = {row.id: row for row in rows}
    todo = list(rows_by_id)
    while todo:
        if len(rows_by_id) > most:
            problem = f"too many adapters in the package (at most {most:,}, with their ancestors)"
            raise BadInputError(problem, hint="copy fewer, or copy directly between the databases")
        needed = list[tuple[int, int]]()
        for some in batches(todo):
            parents = select(adapter.id, adapter.parent_id).where(adapter.parent_id.is_not(None))
            sources = select(source.adapter_id, source.source_id).where(source.adapter_id.in_(some))
            needed += [*session.execute(parents.where(adapter.id.in_(some))), *session.execute(sources)]
        for number, above in needed:
            if above >= number:
                problem = f"{rows_by_id[number].name} was registered before its parent or source"
                raise CheckFailedError(problem, hint=_HINT)
        todo = list({above for _, above in needed} - rows_by_id.keys())
        rows_by_id |= {row.id: row for row in _rows(session, todo)}
    return [rows_by_id[number] for number in sorted(rows_by_id)]


def _rows(session: Session, numbers: Sequence[int]) -> Iterator[tables.AdapterRow]:
    for some in batches(numbers):
        rows = {row.id: row for row in session.scalars(load_adapters().where(tables.AdapterRow.id.in_(some)))}
        yield from (rows[number] for number in some)


def base_documents(session: Session, rows: Iterable[tables.BaseModelRow]) -> Iterator[documents.BaseDocument]:
    """Yield the documents of base models."""
    for row in rows:
        if not row.names:
            raise CheckFailedError(f"the base {row.digest[:12]} has no name", hint=_HINT)
        yield documents.BaseDocument.from_row(
            row,
            names=tuple(name.name for name in row.names),
            sources=tuple(Source.from_row(revision) for revision in row.revisions),
            **_files(row.manifest, "folder" if row.location else "absent"),
            log=_logs(session, "base", [row.digest])[row.digest],
        )


def calibration_documents(
    session: Session, bases: Iterable[tables.BaseModelRow], adapters: Collection[str] | None
) -> Iterator[documents.CalibrationDocument]:
    """Yield the calibrations of base models, for all adapters or for some of them."""
    for base in bases:
        # The current calibration for all adapters comes last, so that it becomes current in a new registry.
        taken = current_calibration(session, base)
        for row in sorted(base.calibrations, key=lambda row: (row.adapter is not None, row is taken)):
            if row.adapter is None or adapters is None or row.adapter in adapters:
                yield documents.CalibrationDocument.from_row(
                    row,
                    base=base.name,
                    base_digest=Digest(base.digest),
                    **_files(row.manifest),
                    log=_logs(session, "calibration", [row.digest])[row.digest],
                )


def adapter_documents(
    session: Session, rows: Iterable[tables.AdapterRow]
) -> Iterator[documents.AdapterDocument]:
    """Yield the documents of adapters, read in batches."""
    remaining = iter(rows)
    while some := list(itertools.islice(remaining, _AHEAD)):
        numbers = [row.id for row in some]
        query = load_adapters(in_full=True).options(selectinload(tables.AdapterRow.sources))
        session.scalars(query.where(tables.AdapterRow.id.in_(numbers))).unique().all()  # loads related rows
        yanks = defaultdict[int, list[documents.YankDocument]](list)
        yank_row = tables.YankRow
        yanked = select(yank_row).where(yank_row.adapter_id.in_(numbers)).order_by(yank_row.id)
        for yank in session.scalars(yanked):
            yanks[yank.adapter_id].append(documents.YankDocument.from_row(yank))
        logs = _logs(session, "adapter", [row.name for row in some])
        base, digests = tables.BaseModelRow, {row.trained_on for row in some if row.trained_on is not None}
        bases = session.scalars(select(base).where(base.digest.in_(digests))) if digests else ()
        names = {row.digest: tuple(sorted(all_names(row))) for row in bases}
        for row, record in zip(some, adapter_records(session, some), strict=True):
            yield documents.AdapterDocument.extending(
                record,
                aliases=(),
                base_digest=Digest(row.base.digest),
                base_names=tuple(sorted(all_names(row.base))),
                trained_on_names=names.get(row.trained_on or "", ()),
                parent_digest=Digest(row.parent.digest) if row.parent is not None else None,
                sources=tuple(documents.Pinned.from_row(source.source) for source in row.sources),
                training_run=None if row.run is None else TrainingRun.from_row(row.run),
                curve=tuple(map(CurvePoint.from_row, row.curve)),
                training=row.training,
                renderings=tuple(Rendering(format=form.form, digest=form.digest) for form in row.renderings),
                yanks=tuple(yanks[row.id]),
                evaluations=tuple(
                    documents.EvaluationDocument.from_row(evaluation, adapter=row.name)
                    for evaluation in row.evaluations
                ),
                signatures=_signatures(row.signatures),
                **_files(row.manifest),
                log=logs[row.name],
            )


def fused_documents(session: Session, rows: Iterable[tables.FusedRow]) -> Iterator[documents.FusedDocument]:
    """Yield the documents of models fused here."""
    signature = tables.SignatureRow
    for row in rows:
        signed = select(signature).where(signature.subject_digest == row.digest).order_by(signature.id)
        yield documents.FusedDocument.from_row(
            row,
            base_digest=Digest(row.base.digest),
            adapter=documents.Pinned.from_row(row.adapter),
            extras=tuple(documents.Pinned.from_row(extra.adapter) for extra in row.extras),
            modules=tuple(map(ModuleFidelity.from_row, row.modules)),
            withdrawals=of_fused(session, [row.id]).get(row.id, ()),
            signatures=_signatures(session.scalars(signed)),
            **_files(row.manifest),
            answers=answers_in(row.answered, row.adapter),
            log=_logs(session, "fused", [row.key])[row.key],
        )


def _signatures(rows: Iterable[tables.SignatureRow]) -> tuple[documents.SignatureDocument, ...]:
    return tuple(map(documents.SignatureDocument.from_row, rows))


def _files(manifest: tables.ManifestRow, otherwise: str = "absent") -> dict[str, Any]:
    stored = all(file.blob is not None for file in manifest.files)
    return {"files": entries(manifest), "kept": "store" if stored else otherwise}


def _logs(session: Session, kind: str, subjects: Sequence[str]) -> Mapping[str, documents.LogEntries]:
    """Return the newest log entries about some records, oldest first, within the limits."""
    event, number = tables.EventRow, func.row_number()
    length = func.length(event.detail) + func.length(func.coalesce(event.seals, ""))
    window: Any = {"partition_by": event.subject, "order_by": event.seq.desc()}
    logs = defaultdict[str, documents.LogEntries](tuple)
    for some in batches(subjects):
        rank, total = number.over(**window).label("rank"), func.sum(length).over(**window).label("total")
        about = (event.subject_kind == kind) & event.subject.in_(some)
        ranked = select(event.seq, rank, total).where(about).subquery()
        # The newest entry is always included: its hash is checked, to report a forged one.
        is_short = (ranked.c.rank == 1) | (ranked.c.total <= MOST_LOG)
        travels = (ranked.c.rank <= documents.MOST_EVENTS) & is_short
        query = select(event).join(ranked, ranked.c.seq == event.seq).where(travels).order_by(event.seq)
        for row in session.scalars(query):
            logs[row.subject] += (entry_values(row),)
    return logs
