"""An answer: what something is, how that is known, and in what it differs from what is on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..parsing import plural
from .compare import Comparison, layers_of
from .identified import KINDS, AnyMatch
from .owners import Owner

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near numbers are that were rounded elsewhere.

    Attributes:
        distance: root mean square of the differences, relative to the numbers.
        from_base: the same, from the base's numbers.
        base: its name.
    """

    distance: float
    from_base: float
    base: str


@dataclass(slots=True)
class Match:
    """Something on record that was found again.

    Attributes:
        owner: what it is.
        evidence: `files` (digests of whole files), `source` (that of the file that it was converted from), `tensors` (digests of tensors), `numbers` (the same numbers in another
            format), `nearest` (numbers that were rounded elsewhere, and lie around these), `modules` (only that the changed tensors are those that it touches).
        confidence: 1 where every byte of the weights is the same, else the share of the tensors that are.
        place: of the file or the folder, relative to what was asked about; `.` if there is only one that it can be.
        comparison: tensor by tensor, None where whole files were enough.
        files: paths on record that are the `same`, `changed` or `missing`, and those that are `extra`.
        held: digests of all of its files, where all of its weights were found by whole files.
        nearness: how near the numbers are, where that is all there is to say.
    """

    owner: Owner
    evidence: str
    confidence: float
    place: str
    comparison: Comparison | None = None
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    nearness: Nearness | None = None

    @property
    def identical(self) -> bool:
        """Nothing in it that counts was changed, is missing or was added."""
        if self.evidence in ("modules", "nearest"):
            return False
        if self.comparison is not None:
            return not self.comparison.altered
        return self.confidence == 1.0

    @property
    def sentence(self) -> str:
        """Say it in one sentence."""
        if self.nearness is not None:
            return _nearest(self.owner, self.nearness)
        if self.evidence == "source":
            return f"the file that {_what(self.owner)} was converted from"
        return f"{_what(self.owner)}{_but(self)}"

    def record(self) -> AnyMatch:
        """Return it as it is shown."""
        tensors = self.comparison
        altered = [*tensors.changed, *tensors.missing, *tensors.extra] if tensors else []
        return KINDS[self.owner.kind](
            kind=self.owner.kind,
            name=self.owner.name,
            digest=self.owner.digest,
            evidence=self.evidence,
            confidence=self.confidence,
            sentence=self.sentence,
            identical=self.identical,
            path=self.place,
            tensors=tensors.same if tensors else None,
            converted=tensors.converted if tensors else 0,
            renamed=tensors.renamed if tensors else 0,
            changed=tuple(tensors.changed) if tensors else (),
            missing=tuple(tensors.missing) if tensors else (),
            extra=tuple(tensors.extra) if tensors else (),
            layers=tuple(layers_of(altered)),
            distance=self.nearness.distance if self.nearness else None,
            from_base=self.nearness.from_base if self.nearness else None,
            files={key: tuple(paths) for key, paths in self.files.items()},
            **self.owner.facts,
        )


def _what(owner: Owner) -> str:
    facts = owner.facts
    if owner.kind == "fused":
        return f"{owner.name} fused onto {facts['base']} ({facts['format']})"
    if owner.kind == "adapter":
        form = f", in {facts['form']}'s form" if facts.get("form") else ""
        return f"the adapter {owner.name} for {facts['base']}{form}"
    if owner.kind == "bundle":
        return f"the bundle {facts['target']} of {', '.join(facts['adapters'])}, written to {facts['written_to']}"
    if owner.kind == "calibration":
        return f"a calibration of {facts['base']}"
    return f"the base model {owner.name}"


def _nearest(owner: Owner, near: Nearness) -> str:
    what = f"{owner.name} put onto {near.base}" if owner.kind == "adapter" else _what(owner)
    base = "" if owner.kind == "base" else f", and from the base by {near.from_base:.2%}"
    return f"nearest to {what}: its numbers differ from that by {near.distance:.2%}{base}"


def _but(match: Match) -> str:
    tensors = match.comparison
    if match.evidence == "modules" and tensors is not None:
        return (
            f", possibly: what differs from its base, {plural(len(tensors.changed), 'tensor')}, is among what it touches, "
            "and it is not here to be compared with"
        )
    if tensors is None:
        changed = [*match.files.get("changed", ()), *match.files.get("missing", ())]
        return f", but {_some(changed)} changed or missing" if changed and match.confidence < 1 else ""
    parts = []
    if tensors.converted:
        parts.append(f"{plural(tensors.converted, 'tensor')} in another format, the numbers the same")
    if tensors.renamed:
        parts.append(
            f"{plural(tensors.renamed, 'tensor')} under {'another name' if tensors.renamed == 1 else 'other names'}"
        )
    if not tensors.altered:
        return f" ({'; '.join(parts)})" if parts else ""
    told = []
    if tensors.changed:
        told.append(f"{_layers(tensors.changed)}{_some(tensors.changed)} {_were(tensors.changed)} changed")
    if tensors.missing:
        told.append(f"{_some(tensors.missing)} {_are(tensors.missing)} missing")
    if tensors.extra:
        told.append(f"{_some(tensors.extra)} {_were(tensors.extra)} added")
    extra = f" ({'; '.join(parts)})" if parts else ""
    return f"{extra}, but {', and '.join(told)}"


def _layers(names: Sequence[str]) -> str:
    layers = layers_of(names)
    if not layers:
        return ""
    if len(layers) == 1:
        return f"in layer {layers[0]} "
    shown = ", ".join(str(layer) for layer in layers[:8])
    return f"in layers {shown}{', …' if len(layers) > 8 else ''} "


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name[:120] for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def _were(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
