"""What a probe found, as numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..behaviour.compare import TokenScores
from ..record import Record, described
from .probe_prompts import GAIN, Prompts, about_prompts, short

if TYPE_CHECKING:
    from ..behaviour.measure import Measured
    from ..behaviour.prompts import Sample

SAME = 0.02
"""Mean divergence in nats up to which models answer alike.

It alone decides: how often the most likely token is the same depends on how sure a model can be of a text at all.
"""
NEAR = 0.1
"""The same for models that answer nearly alike."""
NOTHING = 1e-6
"""A divergence below which a difference is that of rounding in float32."""
_LABEL = 80


@dataclass(frozen=True, slots=True)
class Side(Record):
    """One of the two models.

    Attributes:
        precision: of a fused model.
        format: how a fused model is written.
    """

    kind: str = described("`base`, `adapter` (the base with the adapter put on) or `fused`")
    name: str = described("name of the base or the adapter; of a sum, all of them with their weights")
    digest: str = described("digest of the base, the adapter or the fused model")
    precision: str | None = None
    format: str | None = None

    def __str__(self) -> str:
        words = {
            "base": self.name,
            "adapter": f"base + {self.name}",
            "fused": f"{self.name} fused ({self.format or self.precision})",
        }
        return words[self.kind]


@dataclass(frozen=True, slots=True)
class Row(Record):
    """What was found on one prompt."""

    prompt: str = described("the beginning of it")
    tokens: int = described("how many were scored")
    kl: float = described(
        "mean over the tokens of the divergence of b's prediction from a's, KL(a || b), in nats"
    )
    top1_agreement: float = described("share of the tokens for which both find the same token most likely")
    loss_a: float = described("mean of -log p of the text's own next token, in nats")
    loss_b: float = described("the same of b")


@dataclass(frozen=True, slots=True)
class ProbeReport(Record):
    """What a probe found.

    Attributes:
        about: what the prompts are to the adapter.
    """

    a: Side = described("the model to compare with")
    b: Side = described("the other")
    prompts: int = described("how many")
    tokens: int = described("how many were scored, in all prompts")
    kl: float = described(
        "mean over the tokens of the divergence of b's prediction from a's, KL(a || b), in nats"
    )
    kl_p99: float = described("99 of 100 tokens have less")
    top1_agreement: float = described("share of the tokens for which both find the same token most likely")
    loss_a: float = described("mean of -log p of the text's own next token, in nats")
    loss_b: float = described("the same of b")
    loss_base: float | None = described("the same of the base, where it was asked; else None")
    gain_kept: float | None = described(
        "what share of the fall in loss from the base to a is in b; None where that has no meaning"
    )
    seconds: float = described("the measuring took, without fusing")
    rows: tuple[Row, ...] = described("each prompt")
    about: Prompts = field(default_factory=Prompts)
    KEYS: ClassVar[tuple[str, ...]] = (
        "a",
        "b",
        "prompts",
        "tokens",
        "kl",
        "kl_p99",
        "top1_agreement",
        "loss_a",
        "loss_b",
        "loss_base",
        "gain_kept",
        "seconds",
        "conclusion",
        "about_prompts",
        "rows",
    )

    @property
    def about_prompts(self) -> Prompts:
        """What the prompts are to the adapter."""
        return self.about

    @property
    def conclusion(self) -> str:
        """What it means, in a sentence or two, and what has to be known of the prompts."""
        note = f" {self.about.note}" if self.about.note else ""
        return f"{self._found}{note}"

    @property
    def _found(self) -> str:
        numbers = f"KL {short(self.kl)}, {100 * self.top1_agreement:.1f} % of next tokens the same"
        if self.b.kind == "base" != self.a.kind:
            fused = ", fused," if self.a.kind == "fused" else ""
            return f"The adapter{fused} {self._change}: {numbers}.{self._losses}"
        who, whom = str(self.b), str(self.a)
        if self.b.kind == "fused" and self.a.kind == "adapter" and self.a.name == self.b.name:
            who, whom = "The fused model", "base + adapter"
        kept = (
            f" It keeps {100 * self.gain_kept:.1f} % of the adapter's gain."
            if self.gain_kept is not None
            else ""
        )
        return f"{who} {self._likeness} {whom}: {numbers}.{self._losses}{kept}"

    @property
    def _likeness(self) -> str:
        if self.kl <= SAME:
            return "answers as"
        return "answers nearly as" if self.kl <= NEAR else "does not answer as"

    @property
    def _change(self) -> str:
        if self.kl < NOTHING and self.top1_agreement == 1:
            return "changed nothing that these prompts show"
        return "changed little" if self.kl <= SAME else "changed what the model says"

    @property
    def _losses(self) -> str:
        base = f", of the base {short(self.loss_base)}" if self.loss_base is not None else ""
        if self.b.kind == "base" != self.a.kind:
            return f" The loss is {short(self.loss_a)}{base}."
        return f" The loss is {short(self.loss_b)} against {short(self.loss_a)}{base}."


def report(
    a: Side,
    b: Side,
    samples: Sequence[Sample],
    measured: Measured,
    seconds: float,
    *,
    about: Prompts | None = None,
    one_base: bool = True,
) -> ProbeReport:
    """Sum up what was measured.

    Args:
        a: what is compared with.
        b: the other.
        samples: what both predicted.
        measured: their scores.
        seconds: how long it took.
        about: where the prompts come from, and the validation loss on record.
        one_base: both stand on the same base.
    """
    whole = TokenScores.joined(measured.scores)
    loss_a, loss_b = float(whole.loss_a.mean()), float(whole.loss_b.mean())
    loss_base = float(np.concatenate(measured.base_losses).mean()) if measured.base_losses else None
    kinds = (a.kind, b.kind)
    if b.kind == "base" != a.kind and one_base:
        loss_base = loss_b
    gain = loss_base - loss_a if loss_base is not None and kinds == ("adapter", "fused") else 0.0
    return ProbeReport(
        a=a,
        b=b,
        prompts=len(samples),
        tokens=len(whole.kl),
        kl=float(whole.kl.mean()),
        kl_p99=float(np.percentile(whole.kl, 99)),
        top1_agreement=float(whole.same.mean()),
        loss_a=loss_a,
        loss_b=loss_b,
        loss_base=loss_base,
        gain_kept=(loss_base - loss_b) / gain if loss_base is not None and gain >= GAIN else None,
        seconds=round(seconds, 3),
        about=about_prompts(about or Prompts(), kinds, measured, one_base=one_base),
        rows=tuple(_row(sample, scores) for sample, scores in zip(samples, measured.scores, strict=True)),
    )


def _row(sample: Sample, scores: TokenScores) -> Row:
    return Row(
        prompt=" ".join(sample.label[: 4 * _LABEL].split())[:_LABEL],
        tokens=len(scores.kl),
        kl=float(scores.kl.mean()),
        top1_agreement=float(scores.same.mean()),
        loss_a=float(scores.loss_a.mean()),
        loss_b=float(scores.loss_b.mean()),
    )
