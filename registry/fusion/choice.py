"""Choosing the output format: what each candidate retains, from its record, from the log, or from a sample.

Writing a whole model only to find that the adapter is lost costs seconds to minutes; an eighth of the adapted rows
predicts it well.  A refusal by sample is logged, so that the sample is taken only once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest, digest_json

from ..database import events
from ..engine.recipe import OWN, Recipe, artifact_key
from ..errors import FidelityError
from ..records.fused_label import describe, label
from .fuse_inputs import FuseInputs, InputFiles
from .known import REFUSED, Known, Measured, look_up
from .request import FuseRequest
from .sampling import look_at

if TYPE_CHECKING:
    from ..engine.allocate import Sampled
    from ..workspace import Workspace

FITTED = "fuse.fitted"


def record_refusal(
    workspace: Workspace,
    session: Session,
    fuse_inputs: FuseInputs,
    recipe: Recipe,
    key: Digest,
    measured: Measured,
    request: FuseRequest,
) -> None:
    """Log what was measured, and why it was not published."""
    events.record(
        session,
        action=REFUSED,
        kind="fused",
        subject=key,
        detail={
            "adapter": fuse_inputs.adapter.name,
            "label": label(
                fuse_inputs.adapter.name, recipe, [(part.name, part.weight) for part in fuse_inputs.extras]
            ),
            "precision": recipe.precision,
            "verdict": measured.verdict,
            "retained": measured.retained,
            "noise": measured.noise,
            "cosine": measured.cosine,
            "shaped": measured.shaped,
            "sampled": measured.sampled,
            "at_random": measured.at_random,
            "reason": measured.reason(request),
        },
        actor=workspace.actor,
        at=workspace.database.utcnow(session),
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe that may answer a request.

    Attributes:
        recipe: it.
        key: of what it makes.
        known: what is on record about that.
        strict: it is taken only if hardly anything is lost: there is a larger one.
        sound: it is taken only if it has the verdict PASS: something else that fits has it.
    """

    recipe: Recipe
    key: Digest
    known: Known
    strict: bool
    sound: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """Iterates over the candidates of a request and skips those that lose the adapter according to a sample."""

    workspace: Workspace
    fuse_inputs: FuseInputs
    inputs: InputFiles
    request: FuseRequest
    say: Callable[[str], None]

    def candidates(self, recipes: Sequence[Recipe]) -> Iterator[Candidate]:
        """Yield what is worth computing, until one of them is taken.

        Raises:
            FidelityError: nothing fits into the budget.
        """
        if self.request.budget is not None:
            recipes = self._fitting(recipes, self.request.budget)
        *others, last = recipes
        for recipe in others:
            each = self._candidate(recipe, strict=True)
            if not self._passed_over(each):
                yield each
        if self.request.budget is not None:
            yield from self._sound(others, last)
        yield self._candidate(last)

    def _sound(self, others: Sequence[Recipe], last: Recipe) -> Iterator[Candidate]:
        """Yield what has the verdict PASS within a budget, if there is such a thing beside the last candidate, which need only not be lost.

        That one comes first, then what has the least noise.  Of what was trained through a quantiser, the last is that format.
        """
        passed_over = [(recipe, self._candidate(recipe).known.measured) for recipe in others]
        rivals = [
            (measured.noise or 0.0, recipe)
            for recipe, measured in passed_over
            if measured is not None and measured.passes(self.request, strict=False, sound=True)
        ]
        if not rivals or last.aware is not None:
            return
        # What a calibration shapes is better than its sample.
        each = self._candidate(last, sound=True)
        if last.calibration is not None or not self._passed_over(each):
            yield each
        for _, recipe in sorted(rivals, key=lambda rival: rival[0]):
            yield self._candidate(recipe, sound=True)

    def _candidate(self, recipe: Recipe, *, strict: bool = False, sound: bool = False) -> Candidate:
        ours = self.fuse_inputs
        key = artifact_key(ours.base_digest, ours.adapter.digest, recipe)
        known = look_up(self.workspace, key, ours.adapter.name, self.request, strict=strict, sound=sound)
        return Candidate(recipe, key, known, strict, sound)

    def _passed_over(self, each: Candidate) -> bool:
        recipe, measured, strict, sound = each.recipe, each.known.measured, each.strict, each.sound
        if measured is None:
            _, measured = look_at(self.inputs, recipe, self.request, strict=strict, sound=sound)
            if not measured.passes(self.request, strict=strict, sound=sound):
                with self.workspace.database.write() as session:
                    record_refusal(
                        self.workspace, session, self.fuse_inputs, recipe, each.key, measured, self.request
                    )
        if measured.passes(self.request, strict=strict, sound=sound):
            return False
        without = ", without the calibration" if measured.at_random else ""
        seen = f" (an eighth of the rows{without})" if measured.sampled else ""
        self.say(f"{describe(recipe)}{seen}: {measured.passed_over(self.request, sound=sound)}")
        if recipe.precision == "dither" and recipe.calibration is None and self._gains_from_calibration:
            base = self.fuse_inputs.base.name
            self.say(
                f"{base} has no calibration. On a 4-bit SmolLM2-135M, one halved the KL divergence of `--precision dither` "
                f"from base + adapter, at the base's size (docs/precision.md): fusery base calibrate {base}"
            )
        return True

    @property
    def _gains_from_calibration(self) -> bool:
        """Whether a calibration reduces the noise: measured on 4 bits; on 3 bits it went from 18.7 to 18.3 % only."""
        bits = int((self.fuse_inputs.quantization or {}).get("bits", 0))
        return self.fuse_inputs.shaped and bits >= 4

    def _fitting(self, candidates: Sequence[Recipe], budget: float) -> list[Recipe]:
        """Return what fits into the budget: as the log has it, so that what is published needs no byte of the base.

        Raises:
            FidelityError: nothing fits.
        """
        asked = digest_json(
            {
                "base": self.fuse_inputs.base_digest,
                "adapter": self.fuse_inputs.adapter.digest,
                "candidates": [recipe.to_dict() for recipe in candidates],
                "calibration": self.fuse_inputs.calibration,
                "budget": budget,
                "best": self.request.precision == "mixed",
                # Where the base has other formats, what was noted before they were told apart counts no more.
                **({} if self._all_affine else {"own": OWN}),
            }
        )
        with self.workspace.database.read() as session:
            noted = events.history(session, kind="fused", subject=asked, action=FITTED, limit=1)
        if noted:
            return [Recipe.from_dict(form) for form in json.loads(noted[0].detail)["recipes"]]
        fitting = self._within_budget(candidates, budget)
        with self.workspace.database.write() as session:
            events.record(
                session,
                action=FITTED,
                kind="fused",
                subject=asked,
                detail={
                    "adapter": self.fuse_inputs.adapter.name,
                    "budget": budget,
                    "recipes": [recipe.to_dict() for recipe in fitting],
                },
                actor=self.workspace.actor,
            )
        return fitting

    def _within_budget(self, candidates: Sequence[Recipe], budget: float) -> list[Recipe]:
        """Keep what fits, and add what holds most of the update within the budget, bits module by module."""
        plain = replace(
            candidates[0],
            precision="keep",
            seed=None,
            bits={},
            calibration=None,
            biases=False,
            fitted=False,
            quantization=None,
        )
        kept = self.inputs.sample(plain)
        samples = {OWN: kept}
        fitting = []
        for recipe in candidates:
            sampled = self.inputs.sample(recipe)
            if recipe.precision == "mixed":
                samples[recipe.bits[""]] = sampled
            if sampled.size <= budget * kept.size:
                fitting.append(recipe)
        if self.request.precision == "mixed":
            fitting = []  # not the smallest that passes, but the best that fits
        if len(samples) > 1:
            if OWN in kept.own.values():  # as many affine bits are more than those of mxfp4 or nvfp4
                least = int((self.fuse_inputs.quantization or {}).get("bits", 4))
                samples[least] = self.inputs.sample(replace(plain, precision="mixed", bits={"": least}))
            fitting += self._allocated(
                replace(plain, precision="mixed", calibration=self.fuse_inputs.calibration), samples, budget
            )
        if not fitting:
            raise FidelityError(
                f"nothing that was asked for fits into {budget} times the base's size",
                hint="allow more: --budget 1.5x",
            )
        return fitting

    def _allocated(self, mixed: Recipe, samples: Mapping[int, Sampled], budget: float) -> Iterator[Recipe]:
        """Yield the recipe of `mixed` that has bits module by module, if there is one that fits."""
        from ..engine.allocate import allocate

        kept = samples[OWN]
        room = (budget - 1) * kept.size
        while room >= 0:
            recipe = replace(mixed, bits=allocate(samples, room))
            # What a file says of tensors that its base has not (biases beside mxfp4) takes room as well.
            over = 0.0 if self._all_affine else self.inputs.size(recipe) - budget * kept.size
            if over <= 0:
                yield recipe
                return
            room -= over

    @property
    def _all_affine(self) -> bool:
        """The base has one affine format: whatever its modules are given, the files have the same tensors."""
        said = self.fuse_inputs.quantization or {}
        return said.get("mode", "affine") == "affine" and not any(
            isinstance(value, Mapping) for value in said.values()
        )
