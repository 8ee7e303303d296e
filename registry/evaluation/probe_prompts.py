"""What a probe's prompts are to the adapter: of its task, or about something else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ..behaviour.compare import Floats
from ..record import Record

if TYPE_CHECKING:
    from ..behaviour.measure import Measured

GAIN = 0.02
"""An adapter's gain in loss, in nats, from which on it makes sense to say what share of it is kept."""
FAR = 1.0
"""How much more than the validation loss on record, in nats, is no matter of how it was measured; and twice as much."""

Origin = Literal["built-in", "file", "held-out"]
"""Where prompts come from."""


@dataclass(frozen=True, slots=True)
class Prompts(Record):
    """What the prompts are to the adapter: of its task, or about something else.

    An adapter makes texts like those that it was trained on more likely than its base does.  Where it does not, what was
    measured says nothing of the task.

    Attributes:
        origin: where they come from.
        file: name of the file; None for the built-in ones.
        gain: mean fall in loss from the base to the adapter over the prompts, in nats; None where the base was not measured.
        clear: that fall is more than chance, from prompt to prompt.
        loss: of the adapter.
        val_loss: the adapter's validation loss on record.
    """

    origin: Origin = "file"
    file: str | None = None
    gain: float | None = None
    clear: bool = False
    loss: float | None = None
    val_loss: float | None = None
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
        """What has to be known of them, in a sentence; None where all is well."""
        if self.gain is None or (self._helps and (self.origin == "held-out" or not self._far)):
            return None
        if not self._helps:
            lower = "not lower" if self.gain <= 0 else "hardly lower"
            told = f"its loss on them is {lower} than the base's"
            if self.origin == "held-out":
                return f"The adapter learned nothing that its own held-out data show: {told}."
            return (
                "These prompts are unlike what the adapter was trained on, or it learned nothing that they show: "
                f"{told}. They do not tell how it does its task."
            )
        return (
            f"These prompts are unlike the adapter's validation data: its loss on them is {short(self.loss or 0.0)}, and "
            f"{short(self.val_loss or 0.0)} is on record for those. They do not tell how it does its task."
        )

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


def about_prompts(known: Prompts, kinds: tuple[str, str], measured: Measured, *, one_base: bool) -> Prompts:
    """Return what the prompts are to the adapter: whether it makes them more likely than its base does."""
    adapted, base = _losses(kinds, measured, one_base=one_base)
    if not base:
        return known
    falls = np.array([float((b - a).mean()) for a, b in zip(adapted, base, strict=True)])
    # Prompt by prompt, since tokens of one prompt go together.
    error = float(falls.std(ddof=1)) / len(falls) ** 0.5 if len(falls) > 2 else 0.0
    loss, loss_base = float(np.concatenate(adapted).mean()), float(np.concatenate(base).mean())
    return replace(known, gain=loss_base - loss, clear=float(falls.mean()) >= 2 * error, loss=loss)


def _losses(
    kinds: tuple[str, str], measured: Measured, *, one_base: bool
) -> tuple[list[Floats], list[Floats]]:
    """Return the losses of the adapter and of its own base, prompt by prompt; nothing where the base was not measured."""
    a, b = ([getattr(each, side) for each in measured.scores] for side in ("loss_a", "loss_b"))
    if measured.base_losses:
        return a, list(measured.base_losses)
    if not one_base or kinds[0] == kinds[1]:
        return [], []
    if kinds[1] == "base":
        return a, b
    return (b, a) if kinds[0] == "base" else ([], [])
