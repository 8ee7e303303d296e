"""How rows become records of fused models, pictures and cautions; claims of other registries have keys of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session, object_session

from fusery.storage.digest import Digest, digest_json

from .. import tables
from ..documents import write_picture
from ..engine.recipe import Recipe, artifact_key
from ..engine.verdict import LOST, MEANINGS, PASS
from ..errors import BadInputError, MissingExtraError, UnknownReferenceError
from ..record import row_values
from ..records.adapter import Withdrawals
from ..records.fused import (
    Fidelity,
    Foreign,
    Fused,
    FusedDetails,
    FusedFacts,
    FusedLine,
    FusedRecord,
    ModuleFidelity,
    Weighted,
)
from ..records.fused_rows import answers_in, fused_from, label_record, load_fused, verdict_of
from ..records.references import resolve_any, resolve_base
from ..records.views import SCHEME, entries, is_good, signed_name
from ..records.withdrawals import of_fused

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace
    from .request import FuseRequest


FORMAT = "fusery.foreign.v1"


def weights_bytes(manifest: tables.ManifestRow) -> int:
    """Return the bytes of a model's weight files."""
    return sum(file.size for file in manifest.files if file.path.endswith(".safetensors"))


def fused_line(
    fused: tables.FusedRow, adapter: str | None = None, *, withdrawals: Withdrawals | None = None
) -> FusedLine:
    """Return a fused artifact as `show` lists it: label, size, fidelity, and the command that makes it again."""
    facts, fidelity = _facts(fused, adapter), _fidelity(fused, None)
    accepted = " --accept-loss" if LOST in (verdict_of(fused, None), fidelity.verdict) else ""
    return FusedLine(
        **facts,
        base=fused.base.name,
        fidelity=fidelity,
        rebuild=f"fusery fuse {facts['adapter']} --recipe {fused.key}{accepted}",
        withdrawals=withdrawals,
    )


def line_of(fused: tables.FusedRow, adapter: tables.AdapterRow, *, withdrawals: Withdrawals) -> FusedLine:
    """Return the line of a fused artifact among those of one of its adapters, called by that one's name if the bytes are its."""
    name = adapter.name if fused.adapter.digest == adapter.digest else fused.adapter.name
    return fused_line(fused, name, withdrawals=withdrawals)


def is_published(row: tables.FusedRow) -> bool:
    """Tell whether the files of a fused artifact are in the store."""
    files = row.manifest.files
    return bool(files) and all(file.blob is not None for file in files)


def fused_record(fused: tables.FusedRow, adapter: str | None = None) -> FusedRecord:
    """Return the record of a fused artifact."""
    return FusedRecord(
        **_facts(fused, adapter),
        base=fused.base.name,
        seconds=round(fused.seconds, 3),
        recipe=fused.recipe,
        fidelity=_fidelity(fused, fused.modules),
        files=entries(fused.manifest),
        published=is_published(fused),
        withdrawals=_withdrawals(fused),
    )


def _facts(fused: tables.FusedRow, adapter: str | None) -> Mapping[str, Any]:
    name, weights = adapter or fused.adapter.name, weights_bytes(fused.manifest)
    return {
        **row_values(FusedFacts, fused),
        "foreign": foreign_record(fused),
        "adapter": name,
        "adapter_base": fused.adapter.base.name if fused.adapter.base_id != fused.base_id else None,
        **label_record(fused, name),
        "with_": tuple(Weighted(adapter=extra.adapter.name, weight=extra.weight) for extra in fused.extras),
        "weights_bytes": weights,
        "times_base": round(weights / max(1, weights_bytes(fused.base.manifest)), 4),
    }


def _withdrawals(fused: tables.FusedRow) -> Withdrawals:
    session = object_session(fused)
    assert session is not None
    return of_fused(session, [fused.id]).get(fused.id, ())


def _fidelity(fused: tables.FusedRow, modules: list[tables.ModuleFidelityRow] | None) -> Fidelity:
    answers = answers_in(fused.answered)
    return Fidelity.from_row(
        fused,
        verdict=verdict_of(fused, answers),
        modules=None if modules is None else tuple(map(ModuleFidelity.from_row, modules)),
        answers=answers,
    )


def list_fused(workspace: Workspace, *, limit: int | None = None, offset: int = 0) -> list[FusedLine]:
    """Return fused models, the newest first; a page takes the same statements however many there are."""
    if offset < 0 or (limit is not None and limit < 0):
        raise BadInputError("a limit and an offset are 0 or more")
    with workspace.database.read() as session:
        query = load_fused().order_by(tables.FusedRow.id.desc()).limit(limit).offset(offset)
        rows = list(session.scalars(query))
        withdrawals = of_fused(session, [row.id for row in rows])
        return [fused_line(row, withdrawals=withdrawals.get(row.id, ())) for row in rows]


def fidelity(workspace: Workspace, reference: str) -> FusedDetails:
    """Return the recorded fidelity of a fused artifact, as `show` has it, with that of each module."""
    from ..charts.text import natural

    with workspace.database.read() as session:
        fused, name = _recorded(session, reference)
        modules = sorted(fused.modules, key=lambda module: natural(module.module))
        line = fused_line(fused, name, withdrawals=_withdrawals(fused))
        return FusedDetails.extending(line, fidelity=_fidelity(fused, modules))


def drawn(workspace: Workspace, details: FusedDetails, plot: Path, *, force: bool = False) -> FusedDetails:
    """Draw a map of layers and modules, coloured by the share retained, and return the record with the picture's path."""
    from ..charts.heat_map import draw, heat_map
    from ..documents import picture_kind

    kind, place = picture_kind(plot), plot.expanduser().absolute()
    with workspace.database.read() as session:
        blocks = list(resolve_base(session, details.base).weights)
    write_picture(place, draw(heat_map(details, blocks), kind), force=force)
    return replace(details, plot=place)


def _recorded(session: Session, reference: str) -> tuple[tables.FusedRow, str]:
    adapter = resolve_any(session, reference)
    if isinstance(adapter, tables.BaseModelRow):
        hint = f"fusery list --base {adapter.name}"
        raise BadInputError(f"{reference} is a base model, and fidelity is that of a fused model", hint=hint)
    if isinstance(adapter, tables.FusedRow):
        return adapter, adapter.adapter.name
    # A model that it was only added to is the other adapter's.
    made = [fused for fused in fused_from(session, adapter) if fused.adapter.digest == adapter.digest]
    if not made:
        formats = f"without writing anything: fusery show {adapter.name} --fidelity --formats"
        hint = f"fusery fuse {adapter.name}, or {formats}"
        raise UnknownReferenceError(f"nothing was fused from {adapter.name} yet", hint=hint)
    # A claim of another registry counts only without an own record.
    return max(made, key=lambda fused: (fused.origin is None, fused.id)), adapter.name


def chat_template_problems(workspace: Workspace, adapters: Collection[str]) -> list[str]:
    """Return the recorded problems of the chat templates of adapters, by their names."""
    adapter, finding = tables.AdapterRow, tables.AdapterFindingRow
    query = (
        select(adapter.name, finding.code, finding.message)
        .join(adapter, adapter.id == finding.adapter_id)
        .where(adapter.name.in_(adapters), finding.code.startswith("chat_template_", autoescape=True))
        .order_by(finding.id)
    )
    with workspace.database.read() as session:
        return [f"{name}: {code}: {message}" for name, code, message in session.execute(query)]


def cautions(workspace: Workspace, fused: Fused, request: FuseRequest) -> Iterator[str]:
    """Yield cautions: about a verdict that is not PASS, a large size, and problems of a chat template."""
    verdict = fused.fidelity.verdict
    compare = f"fusery show {fused.adapter}{fused.options} --fidelity --formats"
    if verdict != PASS:
        hint = f" {advice}" if (advice := _better_format(fused, compare)) else ""
        yield f"{verdict}: {MEANINGS[verdict]}.{hint}"
    by_size = request.precision == "auto" and request.prefer != "speed"
    if by_size and fused.precision == "dequantize" and fused.quantization is None:
        larger = f"16 bits take {fused.times_base:.2f} times the size of the base"
        yield f"{larger}: `auto` took no smaller format. Compare the formats: {compare}"
    yield from chat_template_problems(workspace, [fused.adapter])


def _better_format(fused: Fused, compare: str) -> str | None:
    """Return how to find a format that retains more; None where there is no other."""
    # More bits are no nearer to an adapter that was trained through a quantiser.
    if "quantization_aware" in fused.recipe or (fused.quantization is None and fused.precision == "keep"):
        return None
    if fused.quantization is None or fused.precision != "dequantize":
        return f"Compare the formats: {compare}"
    return "Use more bits or a smaller group: -o quantize=8 -o group_size=32"


def find_fused(session: Session, key: Digest) -> tables.FusedRow | None:
    """Return the record of a key, None without one."""
    return session.scalar(select(tables.FusedRow).where(tables.FusedRow.key == key))


def foreign_key(origin: str, key: str) -> Digest:
    """Return the key that another registry's artifact has in this database and cache."""
    return digest_json({"format": FORMAT, "registry": origin, "key": key})


def recipe_key(row: tables.FusedRow) -> Digest:
    """Return the key that follows from an artifact's base, adapters and recipe: the one it would have if it were made here."""
    return recipe_key_of(row.base.digest, row.adapter.digest, row.recipe)[0]


def recipe_key_of(base: str, adapter: str, form: Mapping[str, Any]) -> tuple[Digest, Recipe]:
    """Return the key that follows from the digests of a base and an adapter and the JSON form of a recipe, and that."""
    recipe = Recipe.from_dict(form)
    return artifact_key(base, adapter, recipe), recipe


def claims(session: Session, key: str) -> list[tables.FusedRow]:
    """Return the claims about a key, those signed by a trusted key first."""
    fused = tables.FusedRow
    origins = session.scalars(select(fused.origin).where(fused.origin.is_not(None)).distinct()).all()
    keys = [foreign_key(str(origin), key) for origin in origins]
    claim_rows = session.scalars(select(fused).where(fused.key.in_(keys)).order_by(fused.id)).all()
    return sorted(claim_rows, key=lambda row: not counts(session, row))


def counts(session: Session, row: tables.FusedRow) -> bool:
    """Tell whether an artifact counts like one that was made here."""
    return row.origin is None or bool(signers(session, row))


def signers(session: Session, row: tables.FusedRow) -> list[str]:
    """Return the names of the trusted keys that have signed a fused artifact; none without cryptography."""
    key, signature = tables.TrustedKeyRow, tables.SignatureRow
    rows = session.execute(
        select(key, signature)
        .join(signature, signature.key_id == key.key_id)
        .where(
            signature.subject_kind == "fused",
            signature.subject_digest == row.digest,
            signature.scheme == SCHEME,
            key.revoked_at.is_(None),
        )
        .order_by(key.name)
    ).all()
    name = signed_name(recipe_key(row), row.verdict)
    try:
        return [
            trusted.name
            for trusted, signature_row in rows
            if trusted.fused and is_good(session, signature_row, trusted.public_key, name=name)
        ]
    except MissingExtraError:
        return []


def foreign_record(row: tables.FusedRow) -> Foreign | None:
    """Return the origin of an artifact that was not made here, with the result of a rebuild here; None if it was."""
    if row.origin is None:
        return None
    session, key = object_session(row), recipe_key(row)
    assert session is not None
    own = find_fused(session, key)
    rebuilt = None if own is None else "same" if own.digest == row.digest else "other"
    return Foreign(registry=row.origin, key=key, signed_by=tuple(signers(session, row)), rebuilt=rebuilt)
