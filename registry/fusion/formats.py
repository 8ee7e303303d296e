"""The formats that an adapter's fused model could have, each with its size and what it retains.

Nothing is written: known fidelity comes from the records, the rest is measured on a sample of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..engine.recipe import Recipe, artifact_key
from ..errors import BadInputError, FusionUnsupportedError
from ..records.fused_label import describe
from .fuse_inputs import FuseInputs, InputFiles, gather
from .known import Measured, known_measurement
from .records import find_fused
from .request import FuseRequest, candidates
from .views import fused_line, weights_bytes

if TYPE_CHECKING:
    from fusery.storage.digest import Digest

    from ..workspace import Workspace

_NOTHING = {"key": None, "bytes": None, "times_base": None, "fidelity": None, "sampled": False}
_FIGURES = ("verdict", "retained", "cosine", "relative_error", "noise")


def formats(
    workspace: Workspace,
    reference: str,
    request: FuseRequest | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the formats of an adapter's fused model, from the smallest to the largest.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        request: its `scale`, `extras` and `min_fidelity` are those of the fuse; its precision is `auto`.
        say: called with each progress message.

    Returns:
        `adapter`, `scale`, `with`, `base`, `base_bytes` (of its weights), `chosen` (the format that `fuse` would
        write, None if all lose the adapter), and `formats`: each `format`, `precision`, `bits`, `bytes`, `times_base`,
        `fidelity` (None where the format does not fit this base, and then `reason` says why), `sampled` (False: from
        the record), `key` and `chosen`.

    Raises:
        BadInputError: the request has a precision, the adapter is yanked, or the adapters cannot be combined.
        UnknownReferenceError: there is no such adapter.
        FusionUnsupportedError: the adapter cannot be fused in any format.
        MissingExtraError: the base needs mlx-lm, which is not installed.
    """
    request = request or FuseRequest()
    request.check()
    if replace(request, scale=None, extras=(), min_fidelity=None) != FuseRequest():
        raise BadInputError(
            "all formats are compared, so none can be asked for",
            hint="leave all but --scale, --with and --min-fidelity out",
        )
    fuse_inputs = gather(workspace, reference, request.extras)
    base_bytes = weights_bytes(fuse_inputs.base.manifest)
    with fuse_inputs.opened() as inputs:
        rows = _Rows(workspace, fuse_inputs, inputs, base_bytes, say).of(candidates(request, fuse_inputs))
    chosen = _chosen(rows, request)
    return {
        "adapter": fuse_inputs.adapter.name,
        "scale": request.scale,
        "with": [{"adapter": part.name, "weight": part.weight} for part in fuse_inputs.extras],
        "base": fuse_inputs.base.name,
        "base_bytes": base_bytes,
        "chosen": None if chosen is None else chosen.view["format"],
        "formats": [{**row.view, "chosen": row is chosen} for row in rows],
    }


@dataclass(frozen=True, slots=True)
class _Row:
    """One format: what is shown of it, and what a fuse would go by."""

    view: dict[str, Any]
    measured: Measured | None


def _chosen(rows: list[_Row], request: FuseRequest) -> _Row | None:
    """Return the format that `auto` would write: the first that passes, or the last unless it loses the adapter."""
    for position, row in enumerate(rows):
        if row.measured is None:
            return None  # a fuse stops there and says why
        if row.measured.passes(request, strict=position + 1 < len(rows)):
            return row
    return None


def _names(recipe: Recipe) -> dict[str, Any]:
    return {"format": describe(recipe), "precision": recipe.precision, "bits": recipe.bits.get("")}


@dataclass(frozen=True, slots=True)
class _Rows:
    """Makes the rows of one adapter."""

    workspace: Workspace
    fuse_inputs: FuseInputs
    inputs: InputFiles
    base_bytes: int
    say: Callable[[str], None]

    def of(self, recipes: Sequence[Recipe]) -> list[_Row]:
        """Return a row for each recipe.

        Raises:
            FusionUnsupportedError: none of them can be fused.
        """
        rows, refusals = [], []
        for recipe in recipes:
            try:
                rows.append(self._row(recipe))
            except FusionUnsupportedError as error:
                refusals.append(error)
                rows.append(_Row({**_names(recipe), **_NOTHING, "reason": error.message}, None))
        if len(refusals) == len(rows):
            raise refusals[0]
        return rows

    def _row(self, recipe: Recipe) -> _Row:
        key = artifact_key(self.fuse_inputs.base_digest, self.fuse_inputs.adapter.digest, recipe)
        measured, figures = self._recorded(key) or self._sampled(key, recipe)
        return _Row({**_names(recipe), "key": key, **figures, "reason": None}, measured)

    def _recorded(self, key: Digest) -> tuple[Measured, dict[str, Any]] | None:
        with self.workspace.database.read() as session:
            fused = find_fused(session, key)
            if fused is None:
                return None
            line = fused_line(fused)
        figures = {
            "bytes": line["weights_bytes"],
            "times_base": line["times_base"],
            "fidelity": line["fidelity"],
            "sampled": False,
        }
        return Measured(fused.verdict, fused.retained, fused.noise), figures

    def _sampled(self, key: Digest, recipe: Recipe) -> tuple[Measured, dict[str, Any]]:
        self.say(f"sampling {describe(recipe)}")
        sampled = self.inputs.sample(recipe)
        fidelity = {name: getattr(sampled.fidelity, name) for name in _FIGURES}
        # A fuse that was computed and refused is in the log, measured over all rows: it decides, as it does for `auto`.
        known = known_measurement(self.workspace, key)
        if known is not None:
            fidelity |= {"verdict": known.verdict, "retained": known.retained}
        figures = {
            "bytes": sampled.size,
            "times_base": round(sampled.size / max(1, self.base_bytes), 4),
            "fidelity": fidelity,
            "sampled": True,
        }
        return known or Measured.of(sampled.fidelity), figures
