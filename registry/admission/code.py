"""Codes: the stable names of findings, for documentation, SARIF and `config.toml`; and the rules that find them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..adapters import Finding, Severity, Verdict, some, verdict
from ..errors import RegistryError
from ..parsing import plural
from ..record import Record, described

if TYPE_CHECKING:
    from .candidate import Candidate


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of finding."""

    name: str
    severity: Severity
    what: str
    why: str
    hint: str = ""
    fixed: bool = False

    def finding(self, subject: str, message: str, hint: str | None = None) -> Finding:
        """Return a finding of this code; `hint` replaces the general one."""
        return Finding(self.name, self.severity, subject, message, self.hint if hint is None else hint)

    def listed(
        self, subject: str, names: Collection[str], noun: str, text: str, hint: str | None = None
    ) -> Iterator[Finding]:
        """Yield a finding that counts names and lists some of them; none without names."""
        if names:
            yield self.finding(subject, f"{plural(len(names), noun)} {text}: {some(names)}", hint)


def error(name: str, what: str, why: str, hint: str = "") -> Code:
    """Return a code that keeps an adapter out, unless it is configured otherwise."""
    return Code(name, "error", what, why, hint)


def always_error(name: str, what: str, why: str, hint: str = "") -> Code:
    """Return a code that always keeps an adapter out."""
    return Code(name, "error", what, why, hint, fixed=True)


def warning(name: str, what: str, why: str, hint: str = "") -> Code:
    """Return a code that is recorded with an adapter, and keeps it out with `--strict`."""
    return Code(name, "warning", what, why, hint)


def info(name: str, what: str, why: str, hint: str = "") -> Code:
    """Return a code that is only recorded with an adapter."""
    return Code(name, "info", what, why, hint)


Look = Callable[["Candidate"], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A named function that looks at a candidate."""

    look: Look
    codes: tuple[Code, ...]

    @property
    def name(self) -> str:
        """The rule's name in the documentation."""
        return self.look.__name__.strip("_").replace("_", " ")

    def __call__(self, candidate: Candidate) -> Iterator[Finding]:
        """Let the rule look at a candidate."""
        return self.look(candidate)


def rule(*codes: Code) -> Callable[[Look], Rule]:
    """Turn a function into a rule that can find these codes."""
    return lambda look: Rule(look, codes)


BEST_NOT_LAST = info(
    "best_not_last",
    "the checkpoint with the best validation loss is not the last one; it is registered instead",
    "the trainer saves the last weights as `adapters.safetensors`, which may be overfitted",
    "to register the last one: --checkpoint last",
)
BETTER_UNSAVED = warning(
    "better_unsaved",
    "the run had a lower validation loss at a step without a checkpoint",
    "the best weights of the run are lost",
    "save at each validation: set --save-every to --steps-per-eval, or save_steps to eval_steps",
)
WORSE_THAN_START = warning(
    "worse_than_start",
    "the validation loss of the checkpoint is not below that of the model before training",
    "the run made the model worse on its own validation data",
    "train with a smaller learning rate",
)
LOSS_NOT_FINITE = warning(
    "loss_not_finite",
    "a loss of the run was NaN or infinite",
    "training diverged there, or a batch had no trained tokens",
    "train with a smaller learning rate",
)
LOSS_NEGATIVE = warning(
    "loss_negative",
    "the validation loss of the checkpoint is negative, and is not recorded for the adapter",
    "a cross-entropy is never negative: this is another loss, such as one of reinforcement learning",
    "give the cross-entropy on the validation set with --val-loss LOSS",
)
STALE_CHECKPOINT = info(
    "stale_checkpoint",
    "a checkpoint has more iterations than the run, or another loss history",
    "it comes from an earlier run in the same folder, and is not used",
)
CHECKPOINT_UNUSABLE = warning(
    "checkpoint_unusable",
    "a checkpoint of the run lacks the trainer's state, or its weights file is truncated, and is not used",
    "a killed run leaves its last checkpoint incomplete",
    "register another: --checkpoint ITER",
)
FINAL_WEIGHTS_UNCLEAR = warning(
    "final_weights_unclear",
    "the iteration of the folder's own weights is unknown, and no checkpoint equals them",
    "the weights may come from an earlier run, so no loss is recorded for them",
    "register a numbered checkpoint: --checkpoint ITER",
)
TRAINING_CONFLICT = warning(
    "training_conflict",
    "the run's log or record disagrees with the configuration, `adapter_metadata.json` or a flag",
    "one of them comes from another run, or was copied wrongly",
    "use the log, record and configuration of one run, and omit the flags that they replace",
)
RECORD_UNUSABLE = warning(
    "record_unusable",
    "`fusery_run.json` or a trainer's `trainer_state.json` cannot be read, and is not used",
    "the registration lacks what the run recorded",
    "give an intact log or state of the run: --log FILE",
)
OTHER_LOG = warning(
    "log_of_another_run",
    "a log in the folder has more iterations than the configuration, and is not used",
    "its loss curve belongs to another run",
    "give the log of this run with --log FILE",
)
LEARNING_RATE_LOW = info(
    "learning_rate_low",
    "the learning rate, for an alpha of 32, is one of full fine-tuning: at most 2e-5",
    "LoRA learns best at about ten times that rate, whatever the rank (Schulman: LoRA Without Regret, 2025)",
    "compare with a run at ten times that rate",
)
RANK_LOW = info(
    "rank_low",
    "the training data has more than two tokens for each number of the adapter",
    "a parameter holds about 2 bits and a token about 1 (Schulman: LoRA Without Regret, 2025): the adapter may be too small",
    "compare with an adapter of a higher rank, or of more modules",
)

TRAINING_CODES = (
    *(BEST_NOT_LAST, BETTER_UNSAVED, WORSE_THAN_START, LOSS_NOT_FINITE, LOSS_NEGATIVE, STALE_CHECKPOINT),
    *(CHECKPOINT_UNUSABLE, FINAL_WEIGHTS_UNCLEAR, TRAINING_CONFLICT, RECORD_UNUSABLE, OTHER_LOG),
    *(LEARNING_RATE_LOW, RANK_LOW),
)


class AdmissionError(RegistryError):
    """Admission refused the adapter; its findings are the reasons."""

    code = "refused"

    def __init__(self, message: str, findings: Sequence[Finding], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)

    @classmethod
    def of(cls, name: str, findings: Iterable[Finding], hint: str = "") -> AdmissionError:
        """Return the refusal of an adapter: its first error in words, and the codes of the others."""
        all_findings = tuple(findings)
        first, *others = (finding for finding in all_findings if finding.severity == "error")
        codes = ", ".join(dict.fromkeys(one.code for one in others if one.code != first.code))
        besides = f"; besides: {codes}" if codes else ""
        message = f"{name} was refused: {first.code}: {first.message}{besides}"
        return cls(message, all_findings, hint=first.hint or hint)


class Checked(Record):
    """What admission says of a folder."""

    verdict: Verdict = described("`fail` if there is an error, `warn` if there are warnings, else `pass`")
    findings: tuple[Finding, ...] = described("the findings, errors first")

    @classmethod
    def of(cls, findings: Iterable[Finding], **more: Any) -> Self:
        """Sum findings up; `more` are the other attributes."""
        all_findings = tuple(findings)
        return cls(verdict=verdict(all_findings), findings=all_findings, **more)


class CheckedFolder(Checked):
    """What admission says of one of several folders."""

    folder: Path = described("path of the folder")
