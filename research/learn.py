"""A calibration for one adapter: the base's, with scales and biases for its `dither` model, learned from base + adapter."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.registry.adapters import CONFIG, WEIGHTS
from fusery.registry.engine.arithmetic import FORMATS, encode
from fusery.registry.engine.calibration import Learned, Stored, read_calibration, write_calibration
from fusery.registry.engine.recipe import Recipe, seed_of
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse_inputs import FuseInputs, gather
from fusery.registry.fusion.request import FuseRequest, candidates
from fusery.registry.records.bases import base_folder
from fusery.registry.records.calibrations import (
    CALIBRATION,
    CalibrationReport,
    Reading,
    current_calibration,
    fetch_calibration,
    learned_with,
    recorded_calibration,
)
from fusery.registry.records.references import resolve_adapter, resolve_base
from fusery.registry.records.renderings import require_factors_alone
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.errors import FuseryError
from fusery.storage.progress import SILENT, Reporter
from fusery.storage.safetensors import read_header

from .calibrate import store
from .models import LoadedModel, load_tokenizer
from .prompts import BUILT_IN, LEARNED_FROM, Texts, for_learning, held_out, read_prompts, tokenise

if TYPE_CHECKING:
    from .learned_scales import LearnedScales

LIMIT = 4096  # how many prompts of a file are read
STEPS = 120
_LEAST = 16  # texts, at least


def learn(
    workspace: Workspace,
    base_reference: str,
    adapter_reference: str,
    *,
    prompts: Path | None = None,
    steps: int = STEPS,
    reporter: Reporter = SILENT,
) -> CalibrationReport:
    """Learn the scales and biases of an adapter's fused model at the base's own size, once for the same texts."""
    started = time.monotonic()
    inputs, recipe = _to_learn(workspace, base_reference, adapter_reference)
    name, texts = inputs.adapter.name, _texts(workspace, inputs, prompts, reporter)
    with workspace.database.read() as session:
        row = current_calibration(session, inputs.base)
        assert row is not None
        reading = Reading(texts.label, texts.digest, row.rank, inputs.adapter.digest)
    among = learned_with(workspace, inputs.adapter.digest, row)
    report = recorded_calibration(workspace, inputs.base, reading, among=among)
    if report is None:  # else it would be the very same once more, and no newer
        with workspace.scratch() as scratch:
            file = scratch / CALIBRATION
            learned = _learned(inputs, recipe, texts, file, steps, reporter)
            report = store(workspace, file, inputs.base.digest, reading, learned.tokens, started, reporter)
        report = replace(report, before=learned.before, after=learned.after)
    if gather(workspace, name).learned != report.digest:
        reporter.say("a fuse takes a newer calibration than this: learn again for a fuse with it")
    return replace(report, adapter=name)


def _to_learn(workspace: Workspace, base_reference: str, adapter_reference: str) -> tuple[FuseInputs, Recipe]:
    with workspace.database.read() as session:
        base = resolve_base(session, base_reference)
        asked = base.name
        require_factors_alone(
            resolve_adapter(session, adapter_reference), "and base + adapter is what is learned from"
        )
    inputs = gather(workspace, adapter_reference)
    name = inputs.adapter.name
    if inputs.base.id != base.id:
        hint = f"fusery base calibrate {inputs.base.name} --adapter {name}"
        raise BadInputError(f"{name} is registered for {inputs.base.name}, not for {asked}", hint=hint)
    if inputs.fits_biases or not inputs.shaped:
        why = (
            "the biases of its base hold its update as it is"
            if inputs.fits_biases
            else "its fused model's scales are learned where a LoRA is written into affine codes at the base's own size"
        )
        raise BadInputError(f"nothing can be learned for {name}: {why}", hint=f"fusery fuse {name}")
    if inputs.calibration is None:
        raise BadInputError(f"{asked} has no calibration yet", hint=f"fusery base calibrate {asked}")
    (recipe,) = candidates(FuseRequest("dither"), replace(inputs, learned=None))
    return inputs, recipe


def _texts(workspace: Workspace, inputs: FuseInputs, prompts: Path | None, reporter: Reporter) -> Texts:
    if prompts is not None:
        return Texts.of(prompts, LIMIT)
    with workspace.database.read() as session:
        own = held_out(session, inputs.adapter.id, LEARNED_FROM)
    if own is not None and own.path is not None:
        try:
            texts = [*for_learning(), *read_prompts(own.path, LIMIT)]
            return Texts.called(f"{BUILT_IN} and {own.name}", texts, strict=False)
        except FuseryError as error:
            reporter.say(f"{own.name} is left out: {error}")
    return Texts.called(BUILT_IN, for_learning(), strict=False)


def _learned(
    inputs: FuseInputs, recipe: Recipe, texts: Texts, file: Path, steps: int, reporter: Reporter
) -> LearnedScales:
    from .learned_scales import learn_scales

    workspace, key = inputs.workspace, inputs.key(recipe)
    model, adapter = file.with_name("model"), file.with_name("adapter")
    for folder in (model, adapter):
        folder.mkdir()
    with base_folder(workspace, inputs.base_digest) as base:
        with inputs.opened() as files:
            files.compute(recipe, key, model, lambda: None, None)
            for name in (WEIGHTS, CONFIG):
                shutil.copyfile(files.adapters[0][name], adapter / name)
        # The fused model has the adapter's own tokenizer, if there is one.
        samples = tokenise(texts.prompts, load_tokenizer(model), strict=texts.strict)
        if len(samples) < _LEAST:
            hint = f"give {_LEAST} or more"
            raise BadInputError(f"{len(samples)} texts are too few to learn from and to judge by", hint=hint)
        adapted = LoadedModel.load(base, numpy=True)
        adapted.put_on(adapter)
        reporter.say(f"learning in {steps} steps from answers of base + adapter to {len(samples):,} texts")
        fused = LoadedModel.load(model, numpy=True)
        learned = learn_scales(fused, adapted, samples, steps=steps, progress=reporter.progress)
    if not learned.after < learned.before:
        off = f"{learned.after:.3g} nats a token off, before {learned.before:.3g}"
        hint = "give more texts, or texts of the task: --prompts FILE"
        raise BadInputError(f"nothing was learned: on texts put aside, answers are {off}", hint=hint)
    about = Learned(inputs.adapter.digest, seed_of(key), learned.steps, learned.tokens, texts.digest)
    calibration = read_calibration(
        fetch_calibration(workspace, str(recipe.calibration), file.with_name("known.safetensors"))
    )
    of_base = ((name, calibration.of(module)) for module, name in calibration.modules.items())
    write_calibration(
        file,
        {name: directions for name, directions in of_base if directions is not None},
        calibration.modules,
        base=inputs.base_digest,
        tokens=calibration.tokens,
        prompts=calibration.prompts,
        learned=(about, _stored(learned, model)),
    )
    return learned


def _stored(learned: LearnedScales, model: Path) -> dict[str, Stored]:
    dtypes = {
        name: tensor.dtype
        for file in sorted(model.glob("*.safetensors"))
        for name, tensor in read_header(file).tensors.items()
    }
    stored_layers = {}
    for path, numbers in learned.layers.items():
        form = FORMATS[dtypes[f"{path}.scales"]]
        stored_layers[path] = Stored(form, encode(numbers.scales, form), encode(numbers.biases, form))
    return stored_layers
