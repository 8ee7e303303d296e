"""The formats that an adapter's fused model could have, each with its size and what it retains.

Nothing is written: known fidelity comes from the records, the rest is measured on a sample of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..engine.recipe import Recipe, artifact_key
from ..errors import BadInputError, FusionUnsupportedError
from ..record import Record, described
from ..records.fused import Fidelity, Weighted
from ..records.fused_label import describe
from .fuse_inputs import FuseInputs, InputFiles, gather
from .known import Measured, known_measurement
from .records import find_fused
from .request import FuseRequest, candidates
from .sampling import look_at
from .views import fused_line, weights_bytes

if TYPE_CHECKING:
    from fusery.storage.digest import Digest

    from ..workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(Record):
    """One format that a fused model could have.

    Attributes:
        key: of the model in it; None where the format does not fit this base.
        bytes: of its weights.
        times_base: the same over that of the base.
        fidelity: what it holds of the update; None where the format does not fit this base.
        sampled: that was measured on a sample of the rows, rounded at random where its calibration would not decide; false
            where it is on record.
        reason: why the format does not fit this base; None where it does.
        chosen: `fuse` would write it.
    """

    format: str = described("its precision in words")
    precision: str = described("`keep`, `dither`, `mixed` or `dequantize`")
    bits: int | None = described("where the adapter is, if all of it has as many of its own")
    key: str | None = None
    bytes: int | None = None
    times_base: float | None = None
    fidelity: Fidelity | None = None
    sampled: bool = False
    reason: str | None = None
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats(Record):
    """The formats that an adapter's fused model could have."""

    adapter: str = described("its name")
    scale: float | None = described("factor of its update, if that is not its own scale")
    with_: tuple[Weighted, ...] = described("further adapters of a sum")
    base: str = described("name of the base")
    base_bytes: int = described("size of the base model's weights in bytes")
    chosen: str | None = described("the format that `fuse` would write; None if all lose the adapter")
    formats: tuple[Format, ...] = described("from the smallest to the largest")


def formats(
    workspace: Workspace,
    reference: str,
    request: FuseRequest | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Formats:
    """Return the formats of an adapter's fused model, from the smallest to the largest.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        request: its `scale`, `extras` and `min_fidelity` are those of the fuse; its precision is `auto`.
        say: called with each progress message.

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
        rows = _Rows(workspace, fuse_inputs, inputs, request, base_bytes, say).of(
            candidates(request, fuse_inputs)
        )
    chosen = _chosen(rows, request)
    return Formats(
        adapter=fuse_inputs.adapter.name,
        scale=request.scale,
        with_=tuple(Weighted(adapter=part.name, weight=part.weight) for part in fuse_inputs.extras),
        base=fuse_inputs.base.name,
        base_bytes=base_bytes,
        chosen=None if chosen is None else chosen.shown.format,
        formats=tuple(replace(row.shown, chosen=row is chosen) for row in rows),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """One format: what is shown of it, and what a fuse would go by."""

    shown: Format
    measured: Measured | None


def _chosen(rows: list[_Row], request: FuseRequest) -> _Row | None:
    """Return the format that `auto` would write: the first that passes, or the last unless it loses the adapter."""
    for position, row in enumerate(rows):
        if row.measured is None:
            return None  # a fuse stops there and says why
        if row.measured.passes(request, strict=position + 1 < len(rows)):
            return row
    return None


def _format(recipe: Recipe) -> Format:
    return Format(format=describe(recipe), precision=recipe.precision, bits=recipe.bits.get(""))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Makes the rows of one adapter."""

    workspace: Workspace
    fuse_inputs: FuseInputs
    inputs: InputFiles
    request: FuseRequest
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
                rows.append(self._row(recipe, strict=recipe is not recipes[-1]))
            except FusionUnsupportedError as error:
                refusals.append(error)
                rows.append(_Row(replace(_format(recipe), reason=error.message), None))
        if len(refusals) == len(rows):
            raise refusals[0]
        return rows

    def _row(self, recipe: Recipe, *, strict: bool) -> _Row:
        key = artifact_key(self.fuse_inputs.base_digest, self.fuse_inputs.adapter.digest, recipe)
        return self._recorded(key, recipe) or self._sampled(key, recipe, strict=strict)

    def _recorded(self, key: Digest, recipe: Recipe) -> _Row | None:
        with self.workspace.database.read() as session:
            fused = find_fused(session, key)
            if fused is None:
                return None
            line = fused_line(fused)
        shown = replace(
            _format(recipe),
            key=key,
            bytes=line.weights_bytes,
            times_base=line.times_base,
            fidelity=line.fidelity,
        )
        return _Row(shown, Measured.of(fused, recipe))

    def _sampled(self, key: Digest, recipe: Recipe, *, strict: bool) -> _Row:
        self.say(f"sampling {describe(recipe)}")
        sampled, measured = look_at(self.inputs, recipe, self.request, strict=strict)
        found = sampled.fidelity
        fidelity = Fidelity(
            verdict=found.verdict,
            retained=found.retained,
            cosine=found.cosine,
            relative_error=found.relative_error,
            noise=found.noise,
        )
        # A fuse that was computed and refused is in the log, measured over all rows: it decides, as it does for `auto`.
        # What is in the log of a sample is no more than this one.
        known = known_measurement(self.workspace, key).settled
        if known is not None:
            fidelity = replace(fidelity, verdict=known.verdict, retained=known.retained, noise=known.noise)
        shown = replace(
            _format(recipe),
            key=key,
            bytes=sampled.size,
            times_base=round(sampled.size / max(1, self.base_bytes), 4),
            fidelity=fidelity,
            sampled=True,
        )
        return _Row(shown, known or measured)
