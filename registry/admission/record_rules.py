"""Rules about what is said of an adapter: the flags, the hand-written file and the tensors agree."""

from __future__ import annotations

from collections.abc import Iterator

from ..adapter_files import METADATA
from ..errors import BadInputError
from ..names import AdapterName, parse_date
from .candidate import Candidate
from .finding import Finding


def metadata_agrees(candidate: Candidate) -> Iterator[Finding]:
    """The hand-written file says what the flags, the configuration and the tensors say: `metadata_conflict`."""
    folder, declared, metadata = candidate.folder, candidate.declared, candidate.folder.metadata
    config_rank = folder.config.lora_parameters.rank if folder.config.lora_parameters else None
    pairs: list[tuple[str, object, object, str]] = [
        ("version", metadata.version, declared.version, "--version"),
        ("final_val_loss", metadata.final_val_loss, declared.val_loss, "--val-loss"),
        ("dataset", metadata.dataset, declared.dataset, "--dataset"),
        ("training_examples", metadata.training_examples, declared.examples, "--examples"),
        ("lora_alpha", metadata.lora_alpha, declared.alpha, "--alpha"),
        ("lora_rank", metadata.lora_rank, folder.rank or config_rank, "the tensors"),
    ]
    for field, written, other, source in pairs:
        if written is not None and other is not None and written != other:
            message = f"{METADATA} says {field} {written}, and {source} says {other}; {source} wins"
            yield Finding("metadata_conflict", "warning", field, message)
    yield from _name_agrees(candidate)


def _name_agrees(candidate: Candidate) -> Iterator[Finding]:
    metadata, declared = candidate.folder.metadata, candidate.declared
    if metadata.training_date:
        try:
            written = parse_date(metadata.training_date[:10])
        except BadInputError:
            message = f"{METADATA} says training_date {metadata.training_date[:40]!r}, which is not a date"
            yield Finding("metadata_conflict", "warning", "training_date", message)
        else:
            if declared.date and written != declared.date:
                message = (
                    f"{METADATA} says training_date {written}, and --date says {declared.date}; --date wins"
                )
                yield Finding("metadata_conflict", "warning", "training_date", message)
    if metadata.adapter_name and declared.task:
        try:
            task = AdapterName.parse(metadata.adapter_name.removeprefix("adapters_")).task
        except BadInputError:
            task = metadata.adapter_name.casefold()
        if task != declared.task:
            message = (
                f"{METADATA} says adapter_name {metadata.adapter_name!r}, and --task says {declared.task!r}"
            )
            yield Finding("metadata_conflict", "warning", "adapter_name", message)


def alpha_is_scale_times_rank(candidate: Candidate) -> Iterator[Finding]:
    """`alpha = scale * rank` holds where both are known: `alpha_conflict`."""
    folder = candidate.folder
    alpha = candidate.declared.alpha if candidate.declared.alpha is not None else folder.metadata.lora_alpha
    if alpha is None or folder.scale is None or not folder.rank:
        return
    implied = folder.scale * folder.rank
    if abs(implied - alpha) > 1e-6 * max(abs(implied), abs(alpha)):
        message = (
            f"alpha is given as {alpha:g}, and scale {folder.scale:g} x rank {folder.rank} is {implied:g}"
        )
        hint = "fusing uses the scale of adapter_config.json; alpha is only recorded"
        if alpha == folder.scale:
            message += ": the scale was written where alpha is meant"
        yield Finding("alpha_conflict", "warning", "alpha", message, hint)
