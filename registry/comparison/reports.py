"""Reports of probes and benchmarks, as the research part makes them and the log keeps them."""

from __future__ import annotations

import json
from dataclasses import field
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Literal

from ..record import Record, described
from ..wire import decode

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

Kind = Literal["base", "adapter", "resident", "fused"]


class Held(Record):
    """The fidelity of a fused model."""

    verdict: str = described("`PASS`, `UNSURE`, `DEGRADED` or `LOST`")
    retained: float | None = described("share of the update in the fused weights; None without an update")


class FormCost(Record):
    """The costs of one form of an adapter: medians over the rounds, None if they could not be measured."""

    kind: Kind = described(
        "`base`; `adapter`: base with the adapter put on; `resident`: the same with more adapters in memory; `fused`"
    )
    label: str = described("its name", heading="form")
    precision: str | None = described("precision of a fused model, in words")
    fidelity: Held | None = described("fidelity of a fused model", heading="retained")
    adapters: int = described("how many are in memory")
    bytes: int = described("size in bytes of all weights that it takes", heading="weights", kind="size")
    error: str | None = described("why it could not be measured, in one sentence", heading="note", free=True)
    load_seconds: float | None = described("until the model is in memory", heading="load", form="{:.2f} s")
    first_token_seconds: float | None = described("until it is there", heading="first token", form="{:.3f} s")
    tokens_per_second: float | None = described("that are written", heading="tokens/s")
    peak_bytes: float | None = described("the most that its process took", heading="peak memory", kind="size")


class Machine(Record):
    """The machine of a measurement."""

    system: str = described("system of the machine, such as `Linux`")
    processor: str = described("model name of the processor")
    cores: int | None = described("that the process may use; None if unknown")
    mlx: str = described("version of the package")
    mlx_lm: str = described("likewise")


class BenchReport(Record):
    """The measurements of a benchmark, and a recommendation."""

    adapter: str = described("its name")
    base: str = described("name of its base")
    machine: Machine = described("on which it was measured")
    prompt_tokens: int = described("length of the prompt")
    tokens: int = described("how many were written")
    runs: int = described("rounds")
    rows: tuple[FormCost, ...] = described("each form")
    choice: str | None = described("label of the form to ship; None if nothing could be measured")
    reasons: tuple[str, ...] = described("why, in sentences")
    at: datetime = described("when it was measured")


# An adapter's gain in loss, in nats, from which on it makes sense to say what share of it is kept
GAIN = 0.02

# How much more than the validation loss on record, in nats, is no matter of how it was measured; and twice as much
FAR = 1.0
Origin = Literal["built-in", "file", "held-out"]  # Where prompts come from


class ProbePrompts(Record, kw_only=False):
    """Whether the prompts belong to the adapter's task."""

    origin: Origin = described("where they come from", default="file")
    file: str | None = described("name of the file; None for the built-in ones", default=None)
    gain: float | None = described("mean fall in loss from the base to the adapter, in nats", default=None)
    clear: bool = described("that fall is more than chance, from prompt to prompt", default=False)
    loss: float | None = described("loss of the adapter", default=None)
    val_loss: float | None = described("the adapter's validation loss on record", default=None)
    KEYS: ClassVar[tuple[str, ...]] = ("origin", "file", "gain", "val_loss", "of_task", "note")

    @property
    def of_task(self) -> bool | None:
        """They are like what the adapter was trained on; None where nothing tells."""
        if self.origin == "held-out":
            return True
        if self.gain is None:
            return None
        return self._helps and not self._far

    @property
    def note(self) -> str | None:
        """A warning about the prompts, in a sentence; None without any."""
        if self.gain is None or (self._helps and (self.origin == "held-out" or not self._far)):
            return None
        if not self._helps:
            lower = "not lower" if self.gain <= 0 else "hardly lower"
            loss_sentence = f"its loss on them is {lower} than the base's"
            if self.origin == "held-out":
                return f"The adapter learned nothing that its own held-out data show: {loss_sentence}."
            why = "what the adapter was trained on, or it learned nothing that they show"
            return f"These prompts are unlike {why}: {loss_sentence}. They do not measure its task."
        losses = f"{short(self.loss or 0.0)}, and {short(self.val_loss or 0.0)} is on record for those"
        data = f"the adapter's validation data: its loss on them is {losses}"
        return f"These prompts are unlike {data}. They do not measure its task."

    @property
    def _helps(self) -> bool:
        return self.gain is not None and self.gain >= GAIN and self.clear

    @property
    def _far(self) -> bool:
        if self.val_loss is None or self.loss is None:
            return False
        return self.loss >= max(self.val_loss + FAR, 2 * self.val_loss)


def short(value: float) -> str:
    """Return a number of nats as it is said."""
    return f"{value:.3f}" if value >= 0.001 or value == 0 else f"{value:.1e}"


SAME = 0.02
"""Mean divergence in nats up to which models answer alike.

It alone decides: how often the most likely token is the same depends on how sure a model can be of a text at all.
"""


NEAR = 0.1  # The same for models that answer nearly alike
NOTHING = 1e-6  # A divergence below which a difference is that of rounding in float32


class ProbedModel(Record, kw_only=False):
    """One of the two models."""

    kind: str = described("`base`, `adapter` (the base with the adapter put on) or `fused`")
    name: str = described("name of the base or the adapter; of a sum, all of them with their weights")
    digest: str = described("digest of the base, the adapter or the fused model")
    precision: str | None = described("precision of a fused model", default=None)
    format: str | None = described("precision of a fused model in words", default=None)

    def __str__(self) -> str:
        words = {
            "base": self.name,
            "adapter": f"base + {self.name}",
            "fused": f"{self.name} fused ({self.format or self.precision})",
        }
        return words[self.kind]


class PromptScores(Record, kw_only=False):
    """The scores of one prompt."""

    prompt: str = described("the beginning of it")
    tokens: int = described("how many were scored")
    kl: float = described("mean divergence of b's prediction from a's, KL(a || b), in nats per token")
    top1_agreement: float = described("share of the tokens for which both find the same token most likely")
    loss_a: float = described("mean of -log p of the text's own next token, in nats")
    loss_b: float = described("the same of b")


class ProbeReport(Record, kw_only=False):
    """The results of a probe."""

    a: ProbedModel = described("the model to compare with")
    b: ProbedModel = described("the other")
    prompts: int = described("how many")
    tokens: int = described("how many were scored, in all prompts", unit="token", words=", {} scored")
    kl: float = described("mean divergence of b's prediction from a's, in nats", title="KL(a || b)")
    kl_p99: float = described("99 of 100 tokens have less", words=" nats a token, 99 % below {}")
    top1_agreement: float = described(
        "share of the tokens for which both find the same token most likely",
        title="same next token",
        kind="share",
    )
    loss_a: float = described("mean of -log p of the text's own next token, in nats", title="loss of a")
    loss_b: float = described("the same of b", words=", of b {}")
    loss_base: float | None = described("of the base, if it was asked", words=", of the base {}")
    gain_kept: float | None = described(
        "what share of the fall in loss from the base to a is in b; None where that has no meaning"
    )
    seconds: float = described("the measuring took, without fusing")
    rows: tuple[PromptScores, ...] = described("each prompt")
    about_prompts: ProbePrompts = field(default_factory=ProbePrompts)
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
    def conclusion(self) -> str:
        """The meaning of the figures, in a sentence or two, and the warning about the prompts."""
        return self.in_words(f"KL {short(self.kl)}, ")

    def in_words(self, divergence: str = "") -> str:
        """Return the conclusion with this text before the share of equal tokens."""
        note = self.about_prompts.note
        numbers = f"{divergence}{100 * self.top1_agreement:.1f} % of next tokens the same"
        return f"{self._sentences(numbers)} {note}" if note else self._sentences(numbers)

    def _sentences(self, numbers: str) -> str:
        base = "" if self.loss_base is None else short(self.loss_base)
        of_base = base and f", of the base {base}"
        if self.b.kind == "base" != self.a.kind:
            fused = ", fused," if self.a.kind == "fused" else ""
            change = "changed little" if self.kl <= SAME else "changed what the model says"
            if self.kl < NOTHING and self.top1_agreement == 1:
                change = "changed nothing that these prompts show"
            return f"The adapter{fused} {change}: {numbers}. The loss is {short(self.loss_a)}{of_base}."
        if self.b.kind == "fused" and self.a.kind == "adapter" and self.a.name == self.b.name:
            likeness = self._by_distance("answers as", "answers nearly as", "does not answer as")
            loss = f"{short(self.loss_b)} against {short(self.loss_a)}{of_base}"
            kept = ""
            if self.gain_kept is not None:
                kept = f" It keeps {100 * self.gain_kept:.1f} % of the adapter's gain."
            return f"The fused model {likeness} base + adapter: {numbers}. The loss is {loss}.{kept}"
        (low, better), (high, other) = sorted(((self.loss_a, str(self.a)), (self.loss_b, str(self.b))))
        verdict = f"{better} is better. Loss: {better} {short(low)}; {other} {short(high)}"
        if short(low) == short(high):
            verdict = f"{self.a} and {self.b} have the same loss, {short(low)}"
        alone = base and f"; base alone {base}"
        difference = self._by_distance("alike", "nearly alike", "differently")
        return f"{verdict}{alone}. They answer {difference}: {numbers}."

    def _by_distance(self, same: str, near: str, far: str) -> str:
        return same if self.kl <= SAME else near if self.kl <= NEAR else far


ACTION = "adapter.benched"  # the action of a measurement in the log


def last_bench(workspace: Workspace, reference: str) -> BenchReport | None:
    """Return what was measured last of an adapter, on whatever machine; None if nothing was."""
    from ..database import events
    from ..records.references import resolve_adapter

    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        bench_events = events.history(session, kind="adapter", subject=adapter.digest, action=ACTION, limit=1)
    if not bench_events:
        return None
    report: BenchReport = decode(
        BenchReport, {**json.loads(bench_events[0].detail), "at": bench_events[0].at.isoformat()}
    )
    return report
