"""A second opinion on a fuse: what the model itself answers, where its weights do not decide (docs/measurements.md)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from fusery.registry.adapters import CONFIG, WEIGHTS
from fusery.registry.comparison.combine import mlx_document
from fusery.registry.comparison.modules import open_registered
from fusery.registry.comparison.plan import CombineOptions, plan, write
from fusery.registry.documents import write_document
from fusery.registry.engine.verdict import (
    DEGRADED,
    LEAST_GAIN,
    LEAST_PROMPTS,
    LOST,
    PASS,
    UNSURE,
    VERDICTS,
    Verdict,
)
from fusery.registry.errors import ModelUnusableError
from fusery.registry.fusion.fuse_inputs import FuseInputs
from fusery.registry.records.fused import FusedAnswers
from fusery.registry.records.references import resolve_adapter
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.errors import FuseryError
from fusery.storage.progress import Reporter, tally

from .models import FirstAnswers, ModelScores, ModelSource, load_tokenizer
from .probe import source_of, subject_of
from .prompts import built_in, held_out, read_prompts, tokenise

# A model passes by its loss if it has this share of what the adapter gained, or is off by so many nats; it is lost below half.
KEPT, NEAR, HALF = 0.95, 0.02, 0.5
# Loss flatters: 24 of the study's 188 that passed by it were below this share of equal tokens, with fewer exact answers.
AGREE = 0.9
# KL in nats per token on general text: PASS up to the first, DEGRADED above the second, UNSURE between
GENERAL_TO, GENERAL_ABOVE = 0.07, 0.14
PROMPTS, TEXTS = 16, 12  # held-out prompts of the run, and general texts
_SHARE = 0.1  # of the tokens, after which the pace of the rest is estimated


class _TimeIsUpError(Exception):
    """The opinion takes longer than it may."""


class _Timed(Reporter):
    """Forwards progress until the time is up, or until it is clear that it will not suffice."""

    def __init__(self, reporter: Reporter, until: float) -> None:
        super().__init__(reporter.say)
        self._reporter, self._until = reporter, until
        self._first: tuple[float, int] | None = None  # time and tokens after the first batch

    def begin(self, what: str) -> None:
        self._reporter.begin(what)

    def progress(self, done: int, total: int) -> None:
        """Pass it on, and give up if the rest will take too long."""
        now = time.monotonic()
        started, before = self._first = self._first or (now, done)
        enough = done - before >= _SHARE * total
        pace = (now - started) / (done - before) if enough else 0.0
        if now + pace * (total - done) > self._until:
            raise _TimeIsUpError
        self._reporter.progress(done, total)


def held_out_data(workspace: Workspace, adapter: int) -> Path | None:
    """Return the held-out data of an adapter's run, if it is here, as it was recorded and readable, and models can be run."""
    if find_spec("mlx_lm") is None:
        return None
    with workspace.database.read() as session:
        data = held_out(session, adapter)
    with suppress(FuseryError):
        if data is not None and data.path is not None and read_prompts(data.path, PROMPTS):
            return data.path
    return None


@dataclass
class Questions:
    """The questions to fused models of an adapter or a sum; base and adapters answer them once, in a temporary file that `files` closes."""

    inputs: FuseInputs
    scale: float | None  # instead of the first adapter's own
    data: Sequence[Path]  # of each adapter
    files: ExitStack
    first: FirstAnswers | None = None

    def ask(self, folder: Path, *, until: float, reporter: Reporter) -> FusedAnswers | None:
        """Return what a fused model in a folder answers, with 0 prompts if that takes too long or mlx cannot run it; None if it cannot be asked here."""
        try:
            return self._asked(folder, _Timed(reporter, until))
        except _TimeIsUpError:
            reporter.say("the model was not asked in time; for more: fusery fuse REF --probe SECONDS")
        except ModelUnusableError as error:
            reporter.say(f"the model was not asked: {error.message}")
        except (FuseryError, OSError) as error:
            reporter.say(f"the model was not asked: {error}")
            return None
        return FusedAnswers(verdict=UNSURE, prompts=0, gained=0.0, lost=0.0, agreement=0.0, general_kl=0.0)

    def _asked(self, folder: Path, reporter: Reporter) -> FusedAnswers:
        workspace, most = self.inputs.workspace, max(LEAST_PROMPTS, PROMPTS // len(self.data))
        subject = replace(subject_of(workspace, self.inputs.adapter.name), base=self.inputs.base_digest)
        with source_of(workspace, subject) as first, self._reference(first) as trained:
            tokenizer = load_tokenizer(trained.model)
            tasks = [tokenise(read_prompts(data, most), tokenizer, strict=False) for data in self.data]
            own = [sample for task in tasks for sample in task]
            samples = [*own, *tokenise(built_in()[:TEXTS], tokenizer, strict=False)]
            runs = samples if self.first is not None else [*own, *samples, *samples]
            count = tally(reporter.progress, sum(len(sample.tokens) for sample in runs))
            reporter.begin("tokens")
            if self.first is None:
                file = tempfile.TemporaryFile(prefix="fusery-logits-")  # noqa: SIM115 -- `files` closes it
                self.files.enter_context(file)
                self.first = FirstAnswers.write(
                    file, trained, samples, of_base=len(own), reporter=reporter, count=count
                )
            fused = ModelSource(folder, name="the fused model")
            measured = self.first.compare(fused, samples, reporter, count)
        return judge_answers(measured, [len(task) for task in tasks])

    @contextmanager
    def _reference(self, first: ModelSource) -> Iterator[ModelSource]:
        """Yield the base with the sum of the adapters, unrounded, at the scale that the fuse has."""
        parts, workspace = self.inputs.parts, self.inputs.workspace
        if len(parts) == 1 and self.scale is None:
            yield first
            return
        with workspace.database.read() as session:
            rows = [resolve_adapter(session, part.name) for part in parts]
            assert all(row.manifest.files is not None for row in rows)  # loaded, for use after the session
        if any(part.method != "lora" for part in parts):
            raise ModelUnusableError("only LoRA can be asked at another scale or in a sum")
        with open_registered(workspace, rows) as opened, workspace.scratch() as folder:
            adapters = [replace(one, digest=part.digest) for one, part in zip(opened, parts, strict=True)]
            if self.scale is not None:
                adapters[0] = replace(adapters[0], scale=self.scale)
            made = plan(adapters, CombineOptions("cat", tuple(part.weight for part in parts)))
            write(adapters, made, folder / WEIGHTS)
            write_document(folder / CONFIG, mlx_document(made))
            yield replace(first, adapter=folder, name="the unrounded sum" if len(parts) > 1 else first.name)


def judge_answers(measured: ModelScores, tasks: Sequence[int]) -> FusedAnswers:
    """Return the verdict of answers, the worst of the tasks': `tasks` is how many of the first scores are of each, the others are of general texts."""
    general_kl = _mean([one.kl for one in measured.scores[sum(tasks) :]])
    starts = [0, *accumulate(tasks)]
    judged = [_verdict_of_task(measured, *ends, general_kl) for ends in pairwise(starts)]
    return min(judged, key=lambda answers: (VERDICTS.index(answers.verdict), -answers.lost))


def _verdict_of_task(measured: ModelScores, start: int, end: int, general_kl: float) -> FusedAnswers:
    own, prompts = measured.scores[start:end], end - start
    loss_base = _mean(measured.base_losses[start:end])
    loss_trained, loss_fused = (_mean([getattr(one, name) for one in own]) for name in ("loss_a", "loss_b"))
    gained, lost = loss_base - loss_trained, loss_fused - loss_trained
    agreement = _mean([one.same for one in own])
    kept = agreement >= AGREE and (lost <= NEAR or gained - lost >= KEPT * gained)
    verdict: Verdict = UNSURE
    if gained >= LEAST_GAIN and prompts >= LEAST_PROMPTS:
        if gained - lost < HALF * gained:
            verdict = LOST
        elif not kept or general_kl > GENERAL_ABOVE:
            verdict = DEGRADED
        elif general_kl <= GENERAL_TO:
            verdict = PASS
    figures = {"gained": gained, "lost": lost, "agreement": agreement, "general_kl": general_kl}
    rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
    return FusedAnswers(verdict=verdict, prompts=prompts, **rounded)


def _mean(parts: Sequence[np.ndarray]) -> float:
    return float(np.concatenate(parts).mean())
