"""How rows become records: adapters, base models, evaluations and signatures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased, joinedload, object_session

from fusery.storage.errors import StorageError
from fusery.storage.manifest import FileEntry, Manifest

from .. import tables
from ..adapters import Finding, Severity
from ..database.engine import batches
from ..documents import without_places
from ..errors import MissingExtraError, RegistryError
from ..names import compact_date
from ..record import parts_of, plain, row_values
from .adapter import Adapter, Withdrawals, own
from .amendments import amendment_records, composed_values
from .evaluation import Evaluation, key_of
from .fused import Base, Calibration, Source
from .trust import RecordedSignature
from .withdrawals import of_adapters


def entries(manifest: tables.ManifestRow) -> tuple[FileEntry, ...]:
    """Return the files of a manifest: path, size in bytes, digest."""
    return tuple(file.entry for file in manifest.files)


def adapter_records(
    session: Session, adapters: Sequence[tables.AdapterRow], yanks: Mapping[int, Withdrawals] | None = None
) -> list[Adapter]:
    """Return the records of adapters; the number of queries does not depend on how many they are."""
    ids, alias = [adapter.id for adapter in adapters], tables.AliasRow
    aliases: dict[int, list[str]] = defaultdict(list)
    for held in session.scalars(select(alias).where(alias.adapter_id.in_(ids)).order_by(alias.name)):
        aliases[held.adapter_id or 0].append(held.name)
    yanks = of_adapters(session, ids) if yanks is None else yanks
    return [
        Adapter(
            **adapter_values(adapter),
            trainable_percent=round(100 * adapter.trainable_parameters / adapter.total_parameters, 6),
            aliases=tuple(aliases[adapter.id]),
            tags={tag.key: tag.value for tag in adapter.tags},
            amendments=tuple(amendment_records(adapter.amendments)),
            yanked=own(yanks.get(adapter.id, ())) is not None,
            withdrawals=yanks.get(adapter.id, ()),
            findings=tuple(
                Finding(row.code, cast(Severity, row.severity), row.subject, row.message, row.hint)
                for row in adapter.findings
            ),
        )
        for adapter in adapters
    ]


def adapter_values(adapter: tables.AdapterRow) -> Mapping[str, Any]:
    """Return what an adapter's own row says under the names of its record: its columns, and what stands for others."""
    return {
        **row_values(Adapter, adapter),
        **composed_values(adapter),
        "task": adapter.task.name,
        "base": adapter.base.names[0].name,
        "trained_on": adapter.trained_on_name,
        "trained_on_digest": adapter.trained_on,
        "parent": adapter.parent.name if adapter.parent else None,
    }


def travelling(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return those of an adapter's values that leave the registry with it, as JSON."""
    parts = parts_of(Adapter)
    return {name: plain(values[name]) for name in parts if parts[name].about.travels and name in values}


def public_facts(adapter: tables.AdapterRow) -> Mapping[str, Any]:
    """Return the facts of an adapter in lineage and attestations: its columns that travel, without local paths."""
    own = {"trained_on": adapter.trained_on_name, "date": compact_date(adapter.date)}
    facts = travelling({**row_values(Adapter, adapter), **own})
    return {name: without_places(value) for name, value in facts.items() if name not in ("name", "digest")}


def trained_on_view(adapter: tables.AdapterRow) -> Mapping[str, Any] | None:
    """Return name and digest of the base that it was said to be trained on; None where that is its own."""
    if adapter.trained_on is None:
        return None
    return {"name": adapter.trained_on_name, "digest": adapter.trained_on}


def base_record(base: tables.BaseModelRow) -> Base:
    """Return the record of a base model."""
    return Base.from_row(
        base,
        name=base.names[0].name,
        names=tuple(name.name for name in base.names),
        reference=base.location,
        sources=tuple(Source(source=row.source, revision=row.revision or None) for row in base.revisions),
        calibrations=tuple(map(Calibration.from_row, _last_taken(base))),
        files=entries(base.manifest),
    )


def _last_taken(base: tables.BaseModelRow) -> list[tables.CalibrationRow]:
    """Return the calibrations of a base, oldest first; the last of those for all adapters is the one that a fuse takes."""
    from .calibrations import current_calibration

    session, rows = object_session(base), list(base.calibrations)
    taken = current_calibration(session, base) if session is not None else None
    if taken is not None:
        newest = [row for row in rows if row.adapter is None][-1]
        if newest is not taken:
            rows.remove(taken)
            rows.insert(rows.index(newest) + 1, taken)
    return rows


def stands(row: tables.EvaluationRow, at: datetime | None = None) -> bool:
    """Tell whether an evaluation counts: it is on record and not withdrawn, today or at a moment."""
    if at is None:
        return row.withdrawn_at is None
    return row.at <= at and (row.withdrawn_at is None or row.withdrawn_at > at)


def evaluation_records(
    adapter: str, rows: Iterable[tables.EvaluationRow], at: datetime | None = None
) -> tuple[Evaluation, ...]:
    """Return the records of those of an adapter's evaluations that count, today or at a moment."""
    return tuple(Evaluation.from_row(row, adapter=adapter) for row in rows if stands(row, at))


def missing_evaluations(
    adapter: tables.AdapterRow, measured: Iterable[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], list[str], list[tables.EvaluationRow]]:
    """Return which values of an adapter are not on record (or withdrawn), the metrics that are, and other recorded values."""
    rows_by_key = {key_of(row): row for row in adapter.evaluations if stands(row)}
    new, recorded_metrics, others = list[Mapping[str, Any]](), list[str](), list[tables.EvaluationRow]()
    for values in measured:
        row = rows_by_key.get(key_of(values))
        if row is None:
            new.append(values)
        elif row.value == values["value"]:
            recorded_metrics.append(row.metric)
        else:
            others.append(row)
    return new, recorded_metrics, others


def newest_value(name: str) -> Any:
    """Return the expression of an adapter's newest value of a metric; null without one."""
    row = aliased(tables.EvaluationRow)
    query = select(row.value).where(
        row.adapter_id == tables.AdapterRow.id, row.metric == name, row.withdrawn_at.is_(None)
    )
    return query.order_by(row.id.desc()).limit(1).correlate(tables.AdapterRow).scalar_subquery()


def newest_values(
    session: Session, adapters: Sequence[int], metrics: Sequence[str]
) -> dict[int, dict[str, float]]:
    """Return adapters' newest values of some metrics, by the number of the adapter and the metric's name."""
    row = tables.EvaluationRow
    values_by_adapter: dict[int, dict[str, float]] = {}
    for chosen in batches(adapters):
        query = select(row.adapter_id, row.metric, row.value).where(
            row.adapter_id.in_(chosen), row.metric.in_(metrics), row.withdrawn_at.is_(None)
        )
        for number, metric, value in session.execute(query.order_by(row.id)):
            values_by_adapter.setdefault(number, {})[metric] = value
    return values_by_adapter


SCHEME = "model-signing"  # what the table calls a Sigstore bundle over a list of files (model-signing)


def trusted_signers(session: Session, digest: str, alias: str) -> list[str]:
    """Return the names of the trusted keys, sorted, whose verified signatures over an adapter's files count for an alias."""
    key, signature = tables.TrustedKeyRow, tables.SignatureRow
    query = select(key, signature).join(signature, signature.key_id == key.key_id).order_by(key.name)
    query = query.where(signature.subject_kind == "adapter", signature.subject_digest == digest)
    rows = session.execute(query.where(signature.scheme == SCHEME, key.revoked_at.is_(None)))
    return [
        trusted.name
        for trusted, signature_row in rows
        if any(fnmatchcase(alias.casefold(), str(pattern).casefold()) for pattern in trusted.aliases)
        and is_good(session, signature_row, trusted.public_key)
    ]


def signed_name(key: str, verdict: str) -> str:
    """Return how the name begins that a signature gives to a fused artifact: with what the files do not say."""
    return f"fused {key} {verdict}: "


def is_good(
    session: Session, signature: tables.SignatureRow, public_key: str, *, name: str | None = None
) -> bool:
    """Return whether a recorded signature was made by a key, over its files, and, if given, a name that begins so."""
    from ..dsse import key_id, parse_envelope, parse_public_key, read_statement

    manifest = manifest_of(session, signature.subject_digest)
    try:
        key = parse_public_key(public_key.encode(), "the trusted key")
        envelope = parse_envelope(signature.envelope.encode(), "the signature")
        return (
            manifest is not None
            and key_id(key) == signature.key_id
            and envelope.signed_by(key)
            and (statement := read_statement(envelope)).covers(manifest)
            and (name is None or statement.name.startswith(name))
        )
    except RegistryError as error:
        if error.code == "missing_extra":
            raise
        return False


def manifest_of(session: Session, digest: str) -> Manifest | None:
    """Return the recorded manifest of a digest; None without one that has this digest."""
    row = session.scalar(select(tables.ManifestRow).where(tables.ManifestRow.digest == digest))
    if row is None:
        return None
    try:
        manifest = row.value
    except StorageError:
        return None
    return manifest if manifest.digest == digest else None


def signatures_of(session: Session, digest: str) -> list[RecordedSignature]:
    """Return the recorded signatures over a digest, oldest first, with the name of each key where it is trusted."""
    signature = tables.SignatureRow
    query = select(signature).options(joinedload(signature.key)).where(signature.subject_digest == digest)
    return [recorded_signature(row) for row in session.scalars(query.order_by(signature.id))]


def recorded_signature(row: tables.SignatureRow) -> RecordedSignature:
    """Return the record of a signature, with the name of the trusted key that it verifies with: a package may name any."""
    key, session = row.key if row.scheme == SCHEME else None, object_session(row)
    assert session is not None
    try:
        key = key if key is not None and is_good(session, row, key.public_key) else None
    except MissingExtraError:  # nothing verifies it here
        key = None
    return RecordedSignature.from_row(
        row, kind=row.subject_kind, signer=key.name if key else None, revoked=bool(key and key.revoked_at)
    )
