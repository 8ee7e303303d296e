"""A second opinion for `auto`: ask the model on held-out data where its weights do not decide (docs/measurements.md)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from fusery.registry.comparison.measured import record_own
from fusery.registry.engine.recipe import WRITTEN_AS, Recipe
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import fuse
from fusery.registry.fusion.fuse_inputs import FuseInputs, gather
from fusery.registry.fusion.known import MeasuredFuse, recorded_measurement
from fusery.registry.fusion.request import FuseRequest, candidates
from fusery.registry.records.fused import Fused, Opinion
from fusery.registry.records.fused_rows import describe
from fusery.storage.progress import SILENT, Reporter

from .probe import measure_probe
from .prompts import held_out

if TYPE_CHECKING:
    from fusery.registry.comparison.reports import ProbeReport
    from fusery.registry.workspace.workspace import Workspace

WITHIN = 600.0  # default seconds for the opinion

# A model passes that has this share of what the adapter gained, or is off by so many nats: the study's own measure
KEPT, NEAR = 0.95, 0.02

# with a smaller gain on the held-out data, in nats, they do not distinguish an adapter from its base
LEAST_GAIN = 0.1
# the precisions of which one is asked: of those that are larger, the weights are enough to tell
_OWN_SIZE = ("keep", "dither")


class _TimeIsUpError(Exception):
    """The opinion takes longer than it may."""


class _Timed(Reporter):
    """Forwards progress until the time is up."""

    def __init__(self, reporter: Reporter, until: float) -> None:
        super().__init__(reporter.say)
        self._reporter, self._until = reporter, until

    def begin(self, what: str) -> None:
        """Pass it on."""
        self._reporter.begin(what)

    def progress(self, done: int, total: int) -> None:
        """Pass it on, and give up when the time is up."""
        if time.monotonic() > self._until:
            raise _TimeIsUpError
        self._reporter.progress(done, total)


def fuse_asking(
    workspace: Workspace,
    reference: str,
    request: FuseRequest,
    *,
    within: float = WITHIN,
    publish: str | None = None,
    reporter: Reporter = SILENT,
) -> Fused:
    """Fuse as `auto` does, but take the base's own size if the model answers as base + adapter; answers are recorded."""
    if request.precision != "auto" or request.quantize is not None or request.recipe is not None:
        message = "--probe is for what `auto` chooses, and another way to write it was asked for"
        raise BadInputError(message, hint="leave out --as, -o quantize= and --recipe")
    if request.budget is not None or request.scale is not None:
        raise BadInputError("--probe takes no budget and scale", hint="leave out --budget and -o scale=")
    if not within > 0:
        raise BadInputError("an opinion takes some time", hint="--probe-within 600")
    request.check()
    chosen, opinions = _smallest(workspace, reference, request, within, reporter)
    reporter.begin("bytes")
    fused = fuse(workspace, reference, chosen, publish=publish, reporter=reporter)
    return replace(fused, opinions=tuple(opinions))


def _smallest(
    workspace: Workspace, reference: str, request: FuseRequest, within: float, reporter: Reporter
) -> tuple[FuseRequest, list[Opinion]]:
    """Return the request for the smallest model that passes by its answers, or the given one; and the opinions."""
    opinions: list[Opinion] = []
    inputs = gather(workspace, reference, base=request.base)
    if (why := _not_asked(workspace, inputs, request)) is not None:
        reporter.say(f"no second opinion: {why}")
        return request, opinions
    timed = _Timed(reporter, time.monotonic() + within)
    try:
        for recipe in _unsure(workspace, inputs, request, timed):
            trial = replace(request, precision=recipe.precision, accept_loss=False)
            timed.begin("bytes")
            report, values = measure_probe(workspace, reference, request=trial, reporter=timed)
            record_own(workspace, values, reporter)
            assert report.loss_base is not None
            gained, lost = report.loss_base - report.loss_a, report.loss_b - report.loss_a
            figures = {"gained": gained, "lost": lost}
            prompts, passed = report.prompts, passes(report)
            opinion = Opinion(precision=recipe.precision, prompts=prompts, passed=passed, **figures)
            opinions.append(opinion)
            reporter.say(f"{describe(recipe)}: {_in_words(opinion)}")
            if opinion.passed:
                other = f"other commands take this with --as {WRITTEN_AS[recipe.precision]}"
                reporter.say(f"text that has nothing to do with the task was not asked; {other}")
                return trial, opinions
            if opinion.passed is None:
                break
    except _TimeIsUpError:
        reporter.say(f"no second opinion: it takes longer than {within:g} s (--probe-within)")
    return request, opinions


def _not_asked(workspace: Workspace, inputs: FuseInputs, request: FuseRequest) -> str | None:
    """Return why no model is asked; None if it can be."""
    name = inputs.adapter.name
    if request.extras:
        return "several adapters are fused, and answers are known of one"
    if inputs.aware is not None:
        # Answers are held against base + adapter unrounded, which is not what was trained (decision 37).
        return f"{name} was trained through a quantiser, and is written as it was trained"
    if inputs.quantization is None:
        return f"{inputs.base.name} is not quantised, and hardly anything is lost"
    with workspace.database.read() as session:
        held_out_data = held_out(session, inputs.adapter.id)
    if held_out_data is not None and held_out_data.path is not None:
        return None
    hint = f"fusery eval probe {name} --as dither --prompts FILE asks what you have"
    return f"the run of {name} has no unchanged held-out data here; {hint}"


def _unsure(
    workspace: Workspace, inputs: FuseInputs, request: FuseRequest, reporter: Reporter
) -> Iterator[Recipe]:
    """Yield the recipes of the base's own size that neither pass by their weights nor fail, before the first that passes."""
    with inputs.opened(reporter.progress) as files:
        for recipe in candidates(request, inputs):
            if recipe.precision not in _OWN_SIZE:
                return
            key = inputs.key(recipe)
            settled = recorded_measurement(workspace, key).settled
            measured = settled or MeasuredFuse.of_sample(files.sample(recipe).fidelity, recipe)
            if measured.passes(request, strict=True):
                return
            if measured.passes(replace(request, accept_loss=False), strict=False):
                yield recipe


def passes(report: ProbeReport) -> bool | None:
    """Tell whether a fused model does what base + adapter does; None where the questions cannot tell."""
    assert report.loss_base is not None
    gained = report.loss_base - report.loss_a
    if gained < LEAST_GAIN:
        return None
    return report.loss_b - report.loss_a <= NEAR or report.loss_base - report.loss_b >= KEPT * gained


def _in_words(opinion: Opinion) -> str:
    outcomes = {None: "too small a gain to decide", True: "it is taken", False: "trying a larger format"}
    lost = max(opinion.lost, 0.0)
    figures = f"asked {opinion.prompts} questions, it loses {lost:.3f} of {opinion.gained:.3f} nats of gain"
    return f"{figures}: {outcomes[opinion.passed]}"
