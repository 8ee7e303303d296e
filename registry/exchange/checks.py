"""Check documents from another registry, before any file is fetched: values, contradictions and limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from fusery.storage.errors import visible

from ..adapters import CONFIG, METADATA, PEFT_WEIGHTS, WEIGHTS
from ..adapters.tokenizer_files import is_tokenizer_file, refusal
from ..admission.submission import LIMITS
from ..database.events import is_entry_of
from ..errors import BadInputError
from ..fusion.views import recipe_key_of
from ..names import AdapterName, parse_base_name, parse_date
from ..parsing import CLOCK_SKEW, require_past
from ..record import About
from ..records import EVALUATIONS, NAMES, SIGNATURES, YANKS, require_count, require_within
from ..records.evaluation import key_of, parse_metric, range_problem
from ..registration.add_base import is_model_file
from ..registration.recorded import AUDIT_ORIGIN, first_state, require_fitting, submission_of
from ..registration.training_record import MOST_POINTS
from ..remote.documents import (
    MOST_EVENTS,
    AdapterDocument,
    BaseDocument,
    FusedDocument,
    Item,
    Package,
)
from ..tables.bounds import problem_of

_ID = re.compile(r"[0-9A-Za-z.-]{1,36}")

_ADAPTER_FILES = (WEIGHTS, CONFIG, METADATA, PEFT_WEIGHTS)


def check_package(package: Package) -> None:
    """Refuse a package that no registry could have made."""
    check_identity(package.registry)
    check_documents(package.documents)
    digests = {None, *(adapter.digest for adapter in package.adapter)}
    _refuse_if(
        any(calibration.adapter not in digests for calibration in package.calibration),
        "the package has a calibration of an adapter that it does not contain",
    )


def check_documents(documents: Iterable[Item]) -> None:
    """Refuse documents that no registry could have recorded."""
    now = datetime.now(UTC)
    for document in documents:
        validate(document, now)
        is_lost = document.kept == "absent" and document.kind != "fused"
        _refuse_if(is_lost, f"the files of {document.name} are not in the store")
        _refuse_if(
            document.digest != document.manifest.digest,
            f"the digest of {document.name} ({document.digest[:12]}) does not match its files",
        )
        _CHECKS[document.kind](document, now)


def check_identity(registry: str) -> str:
    """Return the id of another registry, or refuse an invalid one."""
    _refuse_if(not _ID.fullmatch(registry), "invalid registry id")
    return registry


def _refuse_if(wrong: object, message: str) -> None:
    if wrong:
        raise BadInputError(message, hint=AUDIT_ORIGIN)


def _check_base(document: BaseDocument, _: datetime) -> None:
    require_count(document.name, "names and revisions", NAMES, len(document.names) + len(document.sources))
    folded = {parse_base_name(name).casefold() for name in document.names}
    _refuse_if(
        not folded or len(folded) < len(document.names),
        f"{document.name}: base model without a name, or with a duplicate name",
    )
    _require_kept(document, is_model_file)


def _check_adapter(document: AdapterDocument, now: datetime) -> None:
    name = document.name
    require_within(name, "signatures", SIGNATURES, document.signatures)
    require_within(name, "yanks", YANKS, document.yanks)
    require_within(name, "evaluations", EVALUATIONS, document.evaluations)
    require_fitting(document)
    is_half = (document.parent is None) != (document.parent_digest is None)
    _refuse_if(is_half, f"invalid parent of {name}: name or digest is missing")
    day = parse_date(first_state(document)["date"])
    require_past(f"date of {name}", day, now=now)
    expected = str(AdapterName(document.task, document.version, day))
    _refuse_if(str(AdapterName.parse(name)) != expected, f"wrong name of {name} (expected {expected})")
    submission_of(document, base="")
    created = document.created_at
    moments = [("date of a yank", created, yank.at) for yank in document.yanks]
    moments += [("end of a yank", yank.at, yank.lifted_at or yank.at) for yank in document.yanks]
    # An amendment from a third registry may be older than this record, but it only takes effect later.
    moments += [("date of an amendment", created, amendment.since) for amendment in document.amendments]
    moments += [("start of an amendment", amendment.at, amendment.since) for amendment in document.amendments]
    for value in document.evaluations:
        moments.append(("date of an evaluation", created, value.at))
        moments.append(("withdrawal of an evaluation", value.at, value.withdrawn_at or value.at))
    for what, earlier, later in moments:
        problem = f"invalid {what} of {name}: {later:%Y-%m-%d} is before {earlier:%Y-%m-%d}"
        _refuse_if(later < earlier - CLOCK_SKEW, problem)
    _check_evaluations(document)
    _check_curve(document)
    _require_kept(document, lambda path: path in _ADAPTER_FILES or is_tokenizer_file(path))
    for entry in document.files:
        if is_tokenizer_file(entry.path) and (why := refusal(entry.path, entry.size)) is not None:
            raise BadInputError(f"{name}: {why}", hint=AUDIT_ORIGIN)


def _check_evaluations(document: AdapterDocument) -> None:
    keys = [key_of(evaluation) for evaluation in document.evaluations if evaluation.withdrawn_at is None]
    _refuse_if(len(set(keys)) < len(keys), f"duplicate evaluation of {document.name}")
    for evaluation in document.evaluations:
        parse_metric(evaluation.metric)
        end = (evaluation.withdrawn_at, evaluation.withdrawn_by, evaluation.withdrawn_reason)
        withdrawn = {value is None for value in end}
        _refuse_if(
            len(withdrawn) > 1
            or len(evaluation.withdrawn_reason or "") > LIMITS["note"]
            or (evaluation.stderr or 0) < 0
            or (evaluation.source is not None and not re.fullmatch("[0-9a-f]{64}", evaluation.source))
            or range_problem(evaluation.metric, evaluation.value) is not None,
            f"invalid evaluation of {document.name}: {evaluation.metric[:60]}",
        )


def _check_curve(document: AdapterDocument) -> None:
    numbers = [point.iteration for point in document.curve]
    end = document.training_run.checkpoint if document.training_run is not None else None
    problems = {
        f"more than {MOST_POINTS:,} points": len(numbers) > MOST_POINTS,
        "two points of one iteration": len(set(numbers)) < len(numbers),
        "a learning rate below 0": any((point.learning_rate or 0) < 0 for point in document.curve),
        f"a point after iteration {end}, its checkpoint": end is not None and max(numbers, default=0) > end,
    }
    for problem, applies in problems.items():
        _refuse_if(applies, f"invalid training curve of {document.name}: {problem}")


def _check_fused(document: FusedDocument, _: datetime) -> None:
    name = document.name
    require_within(name, "signatures", SIGNATURES, document.signatures)
    _require_kept(document, is_model_file)
    try:
        key, recipe = recipe_key_of(document.base_digest, document.adapter.digest, document.recipe)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"invalid recipe of {name}", hint=AUDIT_ORIGIN) from error
    extras = [digest for digest, _ in recipe.extras]
    _refuse_if(
        key != document.key or extras != [extra.digest for extra in document.extras],
        f"the key of {name} ({document.key[:12]}) does not match its base model, adapters and recipe",
    )
    _refuse_if(
        (recipe.precision, recipe.engine) != (document.precision, document.engine),
        f"the precision of {name} ({document.precision}) does not match its recipe ({recipe.precision})",
    )
    size = document.manifest.size
    _refuse_if(document.bytes != size, f"wrong size of {name}: {document.bytes} bytes (its files: {size})")


def _require_kept(document: Item, is_kept: Callable[[str], bool]) -> None:
    """Refuse files that a registration here would not keep."""
    unexpected = sorted(entry.path for entry in document.files if not is_kept(entry.path))
    _refuse_if(unexpected, f"unexpected file of {document.name}: {unexpected[0] if unexpected else ''}")


_CHECKS: Mapping[str, Callable[[Any, datetime], None]] = {
    "base": _check_base,
    "calibration": lambda document, _: _refuse_if(
        len(document.files) != 1, f"{document.name} has {len(document.files)} files (expected 1)"
    ),
    "adapter": _check_adapter,
    "fused": _check_fused,
}


def validate(document: Item, now: datetime) -> None:
    """Refuse a document with invalid values or edited log entries."""
    name = visible(document.name[:200])
    problem = problem_of(document, About(), now)
    _refuse_if(problem, f"invalid {document.kind} {name}: {problem}")
    require_count(name, "log entries", MOST_EVENTS, len(document.log))
    for entry in document.log:
        is_intact = is_entry_of(entry, document.kind, document.subject)
        _refuse_if(not is_intact, f"the log of {name} was changed after it was written")
        try:
            problem = problem_of(datetime.fromisoformat(entry["at"]), About(), now)
        except (ValueError, TypeError, KeyError):
            problem = "not a date and time"
        _refuse_if(problem, f"invalid date of a log entry of {name}: {problem}")
