"""A calibration for one adapter: what the scales and biases of its fused model should be, learned from base + adapter.

The model is fused by `dither` with the base's calibration; its codes stay, and its scales and biases are learned
(`fusery.registry.behaviour.learned_scales`).  What comes out is the base's calibration with these numbers beside it, and the next fuse of
this adapter by `dither` takes it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.errors import FuseryError
from fusery.storage.progress import SILENT, Reporter
from fusery.storage.safetensors import read_header

from ..adapters.files import CONFIG, WEIGHTS
from ..behaviour.prompts import BUILT_IN, Texts, for_learning, read_prompts, tokenise
from ..engine.recipe import Recipe, artifact_key, seed_of
from ..errors import BadInputError
from ..fusion.fuse_inputs import FuseInputs, gather
from ..fusion.request import FuseRequest, candidates
from ..records.base_files import base_folder
from ..records.calibrations import (
    CALIBRATION,
    CalibrationReport,
    Reading,
    calibration_report,
    fetch_calibration,
    known_calibration,
    record_calibration,
)
from ..records.current_calibrations import current_calibration, learned_with
from ..records.deposit import Deposit
from ..records.references import resolve_adapter, resolve_base
from ..records.renderings import require_factors_alone
from ..records.scratch import scratch_folder
from .held_out import LEARNED_FROM, held_out

if TYPE_CHECKING:
    from ..behaviour.learned_scales import LearnedScales
    from ..engine.calibration import Stored
    from ..workspace import Workspace

LIMIT = 4096
"""How many prompts of a file are read."""
STEPS = 120
_LEAST = 16
"""Texts, at least."""


def learn(
    workspace: Workspace,
    base_reference: str,
    adapter_reference: str,
    *,
    prompts: Path | None = None,
    steps: int = STEPS,
    reporter: Reporter = SILENT,
) -> CalibrationReport:
    """Learn the scales and biases of an adapter's fused model at the base's own size, once for the same texts.

    Args:
        workspace: the registry's parts.
        base_reference: name or digest prefix of the base, which has a calibration.
        adapter_reference: the adapter, which was trained on it.
        prompts: a file of texts to learn from; by default fusery's own, what Python's help says, and the data that the
            adapter's run learned from, where they are still there.
        steps: how many to take.
        reporter: hears what is going on, and the steps taken and their number.

    Raises:
        UnknownReferenceError: there is no such base or adapter.
        BadInputError: nothing can be learned for this adapter, the base has no calibration, or the texts are not usable.
        ModelUnusableError: a model cannot be loaded or run.
        MissingExtraError: mlx-lm is not installed.
        OutOfSpaceError: there is no room for the model that is learned on.
        StorageError: the file cannot be written or stored.
    """
    started = time.monotonic()
    inputs, recipe = _to_learn(workspace, base_reference, adapter_reference)
    texts = _texts(workspace, inputs, prompts, reporter)
    with workspace.database.read() as session:
        row = current_calibration(session, inputs.base)
        assert row is not None
        reading = Reading(texts.label, texts.digest, row.rank, inputs.adapter.digest)
    among = learned_with(workspace, inputs.adapter.digest, row)
    known = known_calibration(workspace, inputs.base, reading, among=among)
    if known is not None:
        # Learned once more it would be the very same, and no newer.
        _tell_taken(workspace, inputs, known, reporter)
        return _named(known, inputs)
    from ..engine.fingerprint import fingerprint

    engine = fingerprint()
    with scratch_folder(workspace) as scratch:
        file = scratch / CALIBRATION
        found = _learned(workspace, inputs, recipe, texts, scratch, file, steps, reporter)
        reporter.say("storing")
        deposit = Deposit(workspace.database, workspace.store, workspace.owner())
        deposit.put({CALIBRATION: file})
        with deposit.recording() as session:
            base = resolve_base(session, inputs.base.digest)
            manifest = deposit.commit(session)
            made, created = record_calibration(
                workspace, session, manifest, base, reading, tokens=found.tokens, engine=engine
            )
            report = calibration_report(made, created=created, seconds=time.monotonic() - started)
    _tell_taken(workspace, inputs, report, reporter)
    return _named(report, inputs, found)


def _tell_taken(
    workspace: Workspace, inputs: FuseInputs, report: CalibrationReport, reporter: Reporter
) -> None:
    """Say so where a fuse of the adapter takes something else than what was learned."""
    taken = gather(workspace, inputs.adapter.name)
    if taken.calibration != inputs.calibration:
        reporter.say("a fuse takes the other calibration that the base has since: learn again with that")
    elif taken.learned != report.digest:
        reporter.say(f"a fuse takes what was learned from other texts since: {str(taken.learned)[:12]}")


def _to_learn(workspace: Workspace, base_reference: str, adapter_reference: str) -> tuple[FuseInputs, Recipe]:
    """Return what is fused and how, before anything is learned."""
    with workspace.database.read() as session:
        base = resolve_base(session, base_reference)
        asked = base.name
        require_factors_alone(
            resolve_adapter(session, adapter_reference), "and base + adapter is what is learned from"
        )
    inputs = gather(workspace, adapter_reference)
    name = inputs.adapter.name
    if inputs.base_id != base.id:
        raise BadInputError(
            f"{name} is registered for {inputs.base.name}, not for {asked}",
            hint=f"fusery base calibrate {inputs.base.name} --adapter {name}",
        )
    if inputs.fits_biases:
        raise BadInputError(
            f"nothing can be learned for {name}: the biases of its base hold its update as it is",
            hint=f"fusery fuse {name}",
        )
    if not inputs.shaped:
        raise BadInputError(
            f"nothing can be learned for {name}: its fused model's scales are learned where a LoRA is written into affine"
            " codes at the base's own size",
            hint=f"fusery fuse {name}",
        )
    if inputs.calibration is None:
        raise BadInputError(
            f"{asked} has no calibration to begin with", hint=f"fusery base calibrate {asked}"
        )
    (recipe,) = candidates(FuseRequest("dither"), replace(inputs, learned=None))
    return inputs, recipe


def _texts(workspace: Workspace, inputs: FuseInputs, prompts: Path | None, reporter: Reporter) -> Texts:
    if prompts is not None:
        return Texts.of(prompts, LIMIT)
    with workspace.database.read() as session:
        own = held_out(session, inputs.adapter.id, LEARNED_FROM)
    if own is None or own.path is None:
        return Texts.called(BUILT_IN, for_learning(), strict=False)
    try:
        texts = [*for_learning(), *read_prompts(own.path, LIMIT)]
    except FuseryError as error:
        reporter.say(f"{own.name} is left out: {error}")
        return Texts.called(BUILT_IN, for_learning(), strict=False)
    return Texts.called(f"{BUILT_IN} and {own.name}", texts, strict=False)


def _learned(
    workspace: Workspace,
    inputs: FuseInputs,
    recipe: Recipe,
    texts: Texts,
    scratch: Path,
    file: Path,
    steps: int,
    reporter: Reporter,
) -> LearnedScales:
    """Fuse, learn, and write the calibration."""
    from ..behaviour.learned_scales import learn_scales
    from ..behaviour.models import Model, load_tokenizer

    key = artifact_key(inputs.base_digest, inputs.adapter.digest, recipe)
    model, adapter = scratch / "model", scratch / "adapter"
    for folder in (model, adapter):
        folder.mkdir()
    with base_folder(workspace, inputs.base_digest) as base:
        with inputs.opened() as files:
            files.compute(recipe, key, model, lambda: None, None, say=reporter.say)
            for name in (WEIGHTS, CONFIG):
                shutil.copyfile(files.adapters[0][name], adapter / name)
        # The fused model has the adapter's own tokenizer, if there is one.
        samples = tokenise(texts.prompts, load_tokenizer(model), strict=texts.strict)
        if len(samples) < _LEAST:
            raise BadInputError(
                f"{len(samples)} texts are too few to learn from and to judge by",
                hint=f"give {_LEAST} or more",
            )
        adapted = Model.load(base, numpy=True)
        adapted.put_on(adapter)
        reporter.say(f"learning in {steps} steps, from what base + adapter answers to {len(samples):,} texts")
        fused = Model.load(model, numpy=True)
        found = learn_scales(fused, adapted, samples, steps=steps, progress=_telling(reporter))
    if not found.after < found.before:
        raise BadInputError(
            f"nothing was learned: answers are {found.after:.3g} nats a token from those of base + adapter on texts put aside,"
            f" and were {found.before:.3g}",
            hint="give more texts, or such as the model will answer: --prompts FILE",
        )
    _write(workspace, inputs, recipe, texts, found, _stored(found, model), file, seed_of(key))
    return found


def _telling(reporter: Reporter) -> Callable[[int, int], None]:
    """Return what passes progress on, and says now and then how long it goes on: a log shows no bar."""
    began = time.monotonic()

    def told(done: int, total: int) -> None:
        reporter.progress(done, total)
        if 0 < done < total and done % max(1, total // 8) == 0:
            left = (time.monotonic() - began) / done * (total - done)
            reporter.say(f"step {done} of {total}, about {max(1, round(left / 60))} min more")

    return told


def _write(
    workspace: Workspace,
    inputs: FuseInputs,
    recipe: Recipe,
    texts: Texts,
    found: LearnedScales,
    stored: Mapping[str, Stored],
    file: Path,
    seed: int,
) -> None:
    from ..engine.calibration import Learned, read_calibration, write_calibration

    known = read_calibration(
        fetch_calibration(workspace, str(recipe.calibration), file.with_name("known.safetensors"))
    )
    directions = {}
    for module, name in known.modules.items():
        if name not in directions:
            of_module = known.of(module)
            assert of_module is not None
            directions[name] = of_module
    about = Learned(inputs.adapter.digest, seed, found.steps, found.tokens, texts.digest)
    write_calibration(
        file,
        directions,
        known.modules,
        base=inputs.base_digest,
        tokens=known.tokens,
        prompts=known.prompts,
        learned=(about, stored),
    )


def _stored(found: LearnedScales, model: Path) -> dict[str, Stored]:
    """Return what was learned in the formats in which the fused model has it."""
    from ..engine.arithmetic import FORMATS, encode
    from ..engine.calibration import Stored

    forms = {
        name: FORMATS[tensor.dtype]
        for file in sorted(model.glob("*.safetensors"))
        for name, tensor in read_header(file).tensors.items()
        if name.endswith(".scales")
    }
    return {
        path: Stored(form, encode(numbers.scales, form), encode(numbers.biases, form))
        for path, numbers in found.layers.items()
        for form in (forms[f"{path}.scales"],)
    }


def _named(
    report: CalibrationReport, inputs: FuseInputs, found: LearnedScales | None = None
) -> CalibrationReport:
    report = replace(report, adapter=inputs.adapter.name)
    return report if found is None else replace(report, before=found.before, after=found.after)
