"""Choosing the output format: what each candidate retains, from its record, from the log, or from a sample of an eighth of the rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from fusery.storage.digest import digest_json

from .. import tables
from ..database import events
from ..engine.recipe import OWN, Recipe
from ..errors import BadInputError, FidelityError, FusionUnsupportedError
from ..record import Record, described, parts_of
from ..records.fused import Fidelity, Weighted
from ..records.fused_rows import describe
from .adapter_part import policy_of
from .fuse_inputs import FuseInputs, InputFiles, gather
from .job import FuseCandidate
from .known import MeasuredFuse, answers_of, record_of_row, recorded_measurement
from .request import FuseRequest, candidates
from .views import find_fused, fused_line, weights_bytes

if TYPE_CHECKING:
    from ..engine.engine import Sampled
    from ..workspace.workspace import Workspace


FITTED = "fuse.fitted"


def worth_computing(template: FuseCandidate, recipes: Sequence[Recipe]) -> Iterator[FuseCandidate]:
    """Yield the candidates of a request until one of them is taken, without those that lose the adapter by a sample."""
    budget = template.request.budget
    if budget is not None:
        recipes = _fitting(template.inputs, template.request, recipes, budget)
    *others, last = recipes
    for recipe in others:
        job = _candidate(template, recipe, strict=True)
        if not _is_passed_over(job):
            yield job
    if budget is not None:
        yield from _sound(template, others, last)
    yield _candidate(template, last)


def look_at(
    inputs: InputFiles, recipe: Recipe, request: FuseRequest, *, strict: bool, sound: bool = False
) -> tuple[Sampled, MeasuredFuse]:
    """Return a sample of what a recipe writes, shaped by its calibration only where that may decide, and its overall figures."""
    sampled = inputs.sample(recipe)
    with inputs.fuse_inputs.workspace.database.read() as session:
        answers = answers_of(session, inputs.fuse_inputs.key(recipe))
    measured = MeasuredFuse.of_sample(sampled.fidelity, recipe, at_random=recipe.calibration is not None)
    measured = measured.with_answers(answers)
    passes = measured.passes(request, strict=strict, sound=sound)
    if recipe.calibration is None or passes or not measured.is_quiet:
        return sampled, measured
    sampled = inputs.sample(recipe, shaped=True)
    return sampled, MeasuredFuse.of_sample(sampled.fidelity, recipe).with_answers(answers)


def _candidate(
    template: FuseCandidate, recipe: Recipe, *, strict: bool = False, sound: bool = False
) -> FuseCandidate:
    job = replace(template, recipe=recipe, strict=strict, sound=sound)
    return replace(job, on_record=job.look_up())


def _sound(template: FuseCandidate, others: Sequence[Recipe], last: Recipe) -> Iterator[FuseCandidate]:
    """Yield the candidates within a budget that are PASS or near it, if there are any besides the last, which need only not be LOST."""
    rivals = []
    for recipe in others:
        measured = _candidate(template, recipe).look_up().measured
        if measured is not None and measured.passes(template.request, strict=False, sound=True):
            rivals.append((measured.noise or 0.0, recipe))
    # Of what was trained through a quantiser, the last is that format.
    if not rivals or last.aware is not None:
        return
    # A shaped format is better than its sample.
    job = _candidate(template, last, sound=True)
    if last.calibration is not None or not _is_passed_over(job):
        yield job
    for _, recipe in sorted(rivals, key=lambda rival: rival[0]):
        yield _candidate(template, recipe, sound=True)


def _is_passed_over(job: FuseCandidate) -> bool:
    recipe, inputs = job.recipe, job.fuse_inputs
    record = job.on_record or job.look_up()
    if (measured := record.measured) is not None:
        if job.asks(record):
            return False
    else:
        _, measured = look_at(job.inputs, recipe, job.request, strict=job.strict, sound=job.sound)
        if job.asks(replace(record, measured=measured)):
            return False
        if not job.passes(measured):
            with job.workspace.database.write() as session:
                job.record_refusal(session, measured)
    if job.passes(measured):
        return False
    job.pass_over(measured)
    # Measured on 4 bits; on 3 bits noise went from 18.7 to 18.3 % only.
    gains = inputs.shaped and int((inputs.quantization or {}).get("bits", 0)) >= 4
    if recipe.precision == "dither" and recipe.calibration is None and gains and not _has_fused(inputs):
        base = inputs.base.name
        job.reporter.say(
            f"Optional, for later fuses: fusery base calibrate {base}  halves what `--as dither` changes in other "
            "answers (measured on a 4-bit SmolLM2-135M)"
        )
    return True


def _has_fused(inputs: FuseInputs) -> bool:
    """Tell whether a larger model was made on this base before, with the advice to calibrate it."""
    row = tables.FusedRow
    query = select(row.id).where(row.base_id == inputs.base.id, row.precision.in_(("mixed", "dequantize")))
    with inputs.workspace.database.read() as session:
        return session.scalar(query.limit(1)) is not None


def _fitting(
    inputs: InputFiles, request: FuseRequest, candidates: Sequence[Recipe], budget: float
) -> list[Recipe]:
    """Return what fits into the budget: as the log has it, so that what is published needs no byte of the base."""
    ours, workspace = inputs.fuse_inputs, inputs.fuse_inputs.workspace
    asked = digest_json(
        {
            "base": ours.base_digest,
            "adapter": ours.adapter.digest,
            "candidates": [recipe.to_dict() for recipe in candidates],
            "calibration": ours.calibration,
            "budget": budget,
            "best": request.precision == "mixed",
            # The digest of a base of one format stays as it was before formats were distinguished.
            **({} if _is_all_affine(ours) else {"own": OWN}),
        }
    )
    with workspace.database.read() as session:
        noted = events.history(session, kind="fused", subject=asked, action=FITTED, limit=1)
    if noted:
        return [Recipe.from_dict(form) for form in json.loads(noted[0].detail)["recipes"]]
    fitting = _within_budget(inputs, request, candidates, budget)
    forms = [recipe.to_dict() for recipe in fitting]
    detail = {"adapter": ours.adapter.name, "budget": budget, "recipes": forms}
    with workspace.database.write() as session:
        events.record(session, FITTED, "fused", asked, detail)
    return fitting


def _within_budget(
    inputs: InputFiles, request: FuseRequest, candidates: Sequence[Recipe], budget: float
) -> list[Recipe]:
    from ..engine.engine import allocate

    ours = inputs.fuse_inputs
    fresh: Mapping[str, Any] = {"quantization": None, "bits": {}, "seed": None, "calibration": None}
    plain = replace(candidates[0], precision="keep", biases=False, fitted=False, **fresh)
    kept = inputs.sample(plain)
    samples = {OWN: kept}
    fitting = []
    for recipe in candidates:
        sampled = inputs.sample(recipe)
        if recipe.precision == "mixed":
            samples[recipe.bits[""]] = sampled
        if sampled.size <= budget * kept.size:
            fitting.append(recipe)
    if request.precision == "mixed":
        fitting = []  # not the smallest that passes, but the best that fits
    if len(samples) > 1:
        if OWN in kept.own.values():  # as many affine bits are more than those of mxfp4 or nvfp4
            least = int((ours.quantization or {}).get("bits", 4))
            samples[least] = inputs.sample(replace(plain, precision="mixed", bits={"": least}))
        mixed = replace(plain, precision="mixed", calibration=ours.calibration)
        room = (budget - 1) * kept.size
        while room >= 0:
            recipe = replace(mixed, bits=allocate(samples, room))
            # The header entries of tensors that the base lacks (biases beside mxfp4) take room as well.
            affine = _is_all_affine(ours)
            over = 0.0 if affine else inputs.plan(policy_of(recipe, 0), recipe).size - budget * kept.size
            if over <= 0:
                fitting.append(recipe)
                break
            room -= over
    if not fitting:
        hint = "allow more: --budget 1.5x"
        raise FidelityError(f"nothing that was asked for fits into {budget} times the base's size", hint=hint)
    return fitting


def _is_all_affine(inputs: FuseInputs) -> bool:
    """Tell whether the base has one affine format: whatever its modules are given, the files have the same tensors."""
    own = inputs.quantization or {}
    return own.get("mode", "affine") == "affine" and not any(isinstance(one, Mapping) for one in own.values())


class Format(Record):
    """One format that a fused model could have; unknown values of a format that does not fit the base are None."""

    format: str = described("its precision in words")
    precision: str = described("`keep`, `dither`, `mixed` or `dequantize`")
    bits: int | None = described("where the adapter is, if all of it has as many of its own")
    key: str | None = described("key of the model in it", default=None)
    bytes: int | None = described("size of its weights in bytes", default=None)
    times_base: float | None = described("its size over that of the base", default=None)
    fidelity: Fidelity | None = described("fidelity of the model in it", default=None)
    sampled: bool = described("the fidelity is of a sample of the rows, not on record", default=False)
    reason: str | None = described("why it does not fit this base", default=None)
    chosen: bool = described("`fuse` would write it", default=False)


class Formats(Record):
    """The formats that an adapter's fused model could have."""

    adapter: str = described("its name")
    scale: float | None = described("factor of its update, if that is not its own scale")
    with_: tuple[Weighted, ...] = described("further adapters of a sum")
    base: str = described("name of the base")
    base_bytes: int = described("size of the base model's weights in bytes")
    chosen: str | None = described("the format that `fuse` would write; None if it would refuse all")
    formats: tuple[Format, ...] = described("from the smallest to the largest")


def formats(
    workspace: Workspace,
    reference: str,
    request: FuseRequest | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Formats:
    """Return the formats of an adapter's fused model, from the smallest to the largest."""
    request = request or FuseRequest()
    request.check()
    if replace(request, base=None, scale=None, extras=(), min_fidelity=None, probe=None) != FuseRequest():
        hint = "leave out all but scale, --with, --base and --min-fidelity"
        raise BadInputError("all formats are compared, so none can be asked for", hint=hint)
    fuse_inputs = gather(workspace, reference, request.extras, base=request.base)
    base_bytes = weights_bytes(fuse_inputs.base.manifest)
    rows: list[tuple[Format, MeasuredFuse | None]] = []
    refusals: list[FusionUnsupportedError] = []
    with fuse_inputs.opened() as inputs:
        recipes = candidates(request, fuse_inputs)
        for recipe in recipes:
            format = Format(format=describe(recipe), precision=recipe.precision, bits=recipe.bits.get(""))
            try:
                row = _recorded(fuse_inputs, recipe, format)
                if row is None:
                    say(f"sampling {format.format}")
                    strict = recipe is not recipes[-1]
                    row = _sampled(inputs, recipe, request, format, base_bytes, strict=strict)
                rows.append(row)
            except FusionUnsupportedError as error:
                refusals.append(error)
                rows.append((replace(format, reason=error.message), None))
    if len(refusals) == len(rows):
        raise refusals[0]
    # `auto` would write the first that passes, or the last unless that is refused.
    chosen = None
    for at, (_, measured) in enumerate(rows):
        if measured is None:
            break  # a fuse stops there and says why
        if measured.passes(request, strict=at + 1 < len(rows)):
            chosen = at
            break
    formats = tuple(replace(row, chosen=at == chosen) for at, (row, _) in enumerate(rows))
    return Formats(
        adapter=fuse_inputs.adapter.name,
        scale=request.scale,
        with_=tuple(Weighted(adapter=part.name, weight=part.weight) for part in fuse_inputs.extras),
        base=fuse_inputs.base.name,
        base_bytes=base_bytes,
        chosen=None if chosen is None else formats[chosen].format,
        formats=formats,
    )


def _recorded(
    inputs: FuseInputs, recipe: Recipe, format: Format
) -> tuple[Format, MeasuredFuse | None] | None:
    key = inputs.key(recipe)
    with inputs.workspace.database.read() as session:
        if (fused := find_fused(session, key)) is None:
            return None
        line = fused_line(fused)
        format = replace(
            format, key=key, bytes=line.weights_bytes, times_base=line.times_base, fidelity=line.fidelity
        )
        return format, record_of_row(session, key, fused).measured


def _sampled(
    inputs: InputFiles, recipe: Recipe, request: FuseRequest, format: Format, base_bytes: int, *, strict: bool
) -> tuple[Format, MeasuredFuse]:
    sampled, measured = look_at(inputs, recipe, request, strict=strict)
    key, figures = inputs.fuse_inputs.key(recipe), asdict(sampled.fidelity)
    given = {name: figures[name] for name in parts_of(Fidelity) if name in figures and name != "modules"}
    fidelity = Fidelity(**{**given, "verdict": measured.verdict})
    # A refused fuse is in the log, measured over all rows: it decides, as it does for `auto`.
    settled = recorded_measurement(inputs.fuse_inputs.workspace, key).settled
    if settled is not None:
        fidelity = replace(fidelity, verdict=settled.verdict, retained=settled.retained, noise=settled.noise)
    times = round(sampled.size / max(1, base_bytes), 4)
    format = replace(format, key=key, bytes=sampled.size, times_base=times, fidelity=fidelity, sampled=True)
    return format, settled or measured
