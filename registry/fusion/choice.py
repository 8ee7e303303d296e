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
) -> None:
    """Log what was measured and not published."""
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
        },
        actor=workspace.actor,
        at=workspace.database.utcnow(session),
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """Iterates over the candidates of a request and skips those that lose the adapter according to a sample."""

    workspace: Workspace
    fuse_inputs: FuseInputs
    inputs: InputFiles
    request: FuseRequest
    say: Callable[[str], None]

    def recipes(self, candidates: Sequence[Recipe]) -> Iterator[tuple[Recipe, Known, bool]]:
        """Yield the recipes worth computing, each with what is on record about it and whether it is the last.

        Raises:
            FidelityError: nothing fits into the budget.
        """
        if self.request.budget is not None:
            candidates = self._fitting(candidates, self.request.budget)
        for position, recipe in enumerate(candidates):
            last = position + 1 == len(candidates)
            ours = self.fuse_inputs
            key = artifact_key(ours.base_digest, ours.adapter.digest, recipe)
            known = look_up(self.workspace, key, ours.adapter.name, self.request, strict=not last)
            if last or not self._passed_over(recipe, key, known.measured):
                yield recipe, known, last

    def _passed_over(self, recipe: Recipe, key: Digest, measured: Measured | None) -> bool:
        if measured is None:
            measured = Measured.of_sample(self.inputs.sample(recipe).fidelity)
            if not measured.passes(self.request, strict=True):
                with self.workspace.database.write() as session:
                    record_refusal(self.workspace, session, self.fuse_inputs, recipe, key, measured)
        if measured.passes(self.request, strict=True):
            return False
        self.say(f"{describe(recipe)}: {measured.passed_over(self.request)}")
        if recipe.precision == "dither" and recipe.calibration is None and self.fuse_inputs.shaped:
            base = self.fuse_inputs.base.name
            self.say(
                f"{base} has no calibration; with one, `--precision dither` keeps all of an update at exactly this size, "
                f"and strays about half as far from base + adapter: fusery base calibrate {base}"
            )
        return True

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
