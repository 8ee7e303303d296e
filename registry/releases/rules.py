"""The rules of an alias: what an adapter must fulfil, read from a file or from options, and recorded."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.errors import FormatError
from fusery.storage.failures import opened
from fusery.storage.jsonfile import parse_json

from .. import tables
from ..database import events
from ..errors import BadInputError, UnknownReferenceError
from ..names import parse_alias, parse_task
from ..records.alias_moves import EVERY_TASK, rule_for, rule_target
from ..records.evaluation import parse_metric
from ..records.release import AliasRules, RemovedRules, SetRules
from ..workspace.workspace import Workspace

LARGEST = 64 << 10  # bytes of a file of rules
Number = Annotated[float, Field(allow_inf_nan=False)]
Metric = Annotated[str, AfterValidator(parse_metric)]

Licence = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,63}$", strip_whitespace=True, to_lower=True)
]


class MetricRule(BaseModel):
    """Demands on one metric, as it was recorded last: its least and largest value, and on which dataset and split."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    at_least: Number | None = None
    at_most: Number | None = None
    within: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    """By how much it may be worse than that of the alias's holder, in its own unit."""
    dataset: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = None
    split: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None

    @model_validator(mode="after")
    def _demands_something(self) -> Self:
        if self.at_least is None and self.at_most is None and self.within is None:
            raise ValueError("give at_least, at_most or within")
        return self


class Rules(BaseModel):
    """Demands on an adapter; rules that are not set do not apply.

    `admission`: no error, or neither warning nor error (`clean`), when it was registered.  `fidelity`: a recorded fuse has at
    least this verdict.  `val_loss_within`: its loss exceeds that of the alias's holder by at most this.  `signed`: by a key
    trusted for the alias.  `licences`: of the base, and its own if it has one.  `approvals`: of so many people other than its
    author; `authenticated`: only those given with a token count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    admission: Literal["clean", "no_errors"] | None = None
    fidelity: Literal["PASS", "DEGRADED"] | None = None
    val_loss_within: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    signed: bool = False
    licences: Annotated[tuple[Licence, ...], Field(strict=False, min_length=1, max_length=200)] | None = None
    approvals: Annotated[int, Field(ge=1, le=100)] | None = None
    authenticated: bool = False
    metrics: Annotated[dict[Metric, MetricRule], Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _says_how_many(self) -> Self:
        if self.authenticated and self.approvals is None:
            raise ValueError("authenticated says which approvals count: say how many as well")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the rules that are set, as they are recorded."""
        return self.model_dump(mode="json", exclude_defaults=True)


def make_rules(values: Mapping[str, Any], subject: str = "the rules") -> Rules:
    """Return rules from plain values."""
    try:
        return Rules.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place, message = ".".join(str(part) for part in first["loc"])[:60] or "value", str(first["msg"])
        reason = f"{place}: {message[:1].lower()}{message[1:]}"
        if first["type"] == "extra_forbidden":
            reason = f"there is no rule {place!r}, only {', '.join(Rules.model_fields)}"
        hint = "fusery alias rules set --help"
        raise BadInputError(f"{subject} cannot be taken: {reason}", hint=hint) from error


_COUNT_TEXT = re.compile(
    r"(?P<name>\S+)\s+(?P<test>>=|<=|within)\s+(?P<number>\S+)(?:\s+on\s+(?:(?P<dataset>\S+)/)?(?P<split>[^\s/]+))?"
)
_TESTS = {">=": "at_least", "<=": "at_most", "within": "within"}


def metric_rules(rule_texts: Iterable[str]) -> dict[str, dict[str, object]]:
    """Return rules about metrics from texts: `NAME >= X`, `NAME <= X` or `NAME within E`, each perhaps with `on SPLIT`."""
    rules: dict[str, dict[str, object]] = {}
    for text in rule_texts:
        match = _COUNT_TEXT.fullmatch(text.strip())
        try:
            number = float(match["number"]) if match is not None else math.nan
        except ValueError:
            number = math.nan
        if match is None or not math.isfinite(number):
            problem = f"{text[:60]!r} is no rule about a metric"
            hint = 'write "mmlu.acc >= 0.6", "loss <= 2", or "mmlu.acc within 0.01 on test"'
            raise BadInputError(problem, hint=hint)
        rule = rules.setdefault(parse_metric(match["name"]), {})
        values = {_TESTS[match["test"]]: number, "dataset": match["dataset"], "split": match["split"]}
        for key, value in values.items():
            if value is not None and rule.setdefault(key, value) != value:
                message = f"two rules about {match['name'][:60]} name another {key}"
                raise BadInputError(message, hint="give one of them")
    return rules


_BOUNDS = {
    "at_least": "at least {}",
    "at_most": "at most {}",
    "within": "at most {} worse than the adapter that the alias holds",
}


def bound_words(rule: Mapping[str, Any]) -> list[str]:
    """Return the bounds of a rule about a metric in words, such as `at least 0.6`."""
    given = ((words, rule.get(name)) for name, words in _BOUNDS.items())
    return [
        words.format(f"{bound:.6g}" if isinstance(bound, int | float) else bound)
        for words, bound in given
        if bound is not None
    ]


def _metric_words(rule: Any) -> str:
    if not isinstance(rule, Mapping):
        return str(rule)
    place = "/".join(str(rule[part]) for part in ("dataset", "split") if rule.get(part))
    return " and ".join(bound_words(rule)) + (f" on {place}" if place else "")


def rule_words(name: str, wanted: Any) -> str:
    """Return what a recorded rule demands in words; what no version of this program has recorded is shown as it is."""
    if name == "metrics" and isinstance(wanted, Mapping):
        return "; ".join(f"{metric} {_metric_words(rule)}" for metric, rule in wanted.items())
    if isinstance(wanted, bool):
        return "yes" if wanted else "no"
    if isinstance(wanted, list | tuple):
        return ", ".join(map(str, wanted))
    return str(wanted)


def read_rules(path: Path) -> tuple[dict[str, Any], bool | None]:
    """Return the values in a file of rules (TOML or JSON, by its name), and whether it marks the alias as guarded."""
    with opened(path) as file:
        data = file.read(LARGEST + 1)
    hint = "fusery alias rules set --help"
    if len(data) > LARGEST:
        raise BadInputError(f"{path.name} is larger than {LARGEST >> 10} KiB", hint=hint)
    try:
        is_json = path.suffix.lower() == ".json"
        values = parse_json(data, path.name) if is_json else tomllib.loads(data.decode())
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:  # a number of many digits is a plain ValueError
        raise BadInputError(f"{path.name} is not TOML in UTF-8", hint=hint) from error
    if not isinstance(values, dict):
        raise FormatError(f"{path.name} is not a JSON object")
    guarded = values.pop("guarded", None)
    if guarded is not None and not isinstance(guarded, bool):
        raise BadInputError(f"{path.name} cannot be taken: guarded: write true or false")
    make_rules(values, path.name)
    return values, guarded


def set_rules(
    workspace: Workspace,
    target: str,
    rules: Mapping[str, Any] | None,
    *,
    guarded: bool | None = None,
    reason: str = "",
    dry_run: bool = False,
) -> SetRules:
    """Replace the rules of an alias."""
    task, alias = _target(target)
    values = None if rules is None else make_rules(rules).to_dict()
    with workspace.database.read() if dry_run else workspace.database.write() as session:
        row = _own(session, task, alias)
        before = _stated(row)
        if values is None:
            values = row.rules if row is not None else {}
        after: dict[str, Any] = {"guarded": guarded is not False, "rules": values}
        changed = before != after
        if changed and not dry_run:
            row = row or tables.AliasRuleRow(task=task, alias=alias)
            row.guarded, row.rules = after["guarded"], after["rules"]
            row.created_at, row.created_by = workspace.database.utcnow(session), workspace.actor
            session.add(row)
            detail = {"before": before, **after, "reason": reason}
            events.record(session, "rules.set", "alias", rule_target(row), detail)
        shown = row or tables.AliasRuleRow(task=task, alias=alias)
        held, kept, rule = tables.AliasRow, tables.TaskRow, tables.AliasRuleRow
        under = select(kept.name).join(held, held.task_id == kept.id).where(held.name == alias)
        others = kept.name.not_in(select(rule.task).where(rule.alias == alias))
        names = session.scalars(under.where(kept.name == task if task else others).order_by(kept.name))
        return SetRules.extending(
            _record(shown),
            **after,
            changed=changed,
            applies_to=tuple(f"{name}#{alias}" for name in names),
        )


def show_rules(workspace: Workspace, target: str) -> AliasRules:
    """Return the rules that apply to an alias: its own, or those for every task."""
    task, alias = _target(target)
    with workspace.database.read() as session:
        row = rule_for(session, task, alias)
        if row is None:
            raise _none(target)
        return _record(row)


def list_rules(workspace: Workspace) -> list[AliasRules]:
    """Return all rules, those for every task first."""
    rule = tables.AliasRuleRow
    with workspace.database.read() as session:
        rows = session.scalars(select(rule).order_by(rule.task, rule.alias))
        return [_record(row) for row in rows]


def remove_rules(
    workspace: Workspace, target: str, *, reason: str = "", dry_run: bool = False
) -> RemovedRules:
    """Remove the rules of an alias, and return them; those for every task then apply to it."""
    task, alias = _target(target)
    with workspace.database.read() if dry_run else workspace.database.write() as session:
        row = _own(session, task, alias)
        if row is None:
            raise _none(target)
        record = _record(row)
        if not dry_run:
            detail = {"before": _stated(row), "guarded": False, "rules": {}, "reason": reason}
            session.delete(row)
            events.record(session, "rules.removed", "alias", rule_target(row), detail)
        return RemovedRules.extending(record, removed=not dry_run)


def _target(text: str) -> tuple[str, str]:
    task, hash_mark, alias = text.strip().rpartition("#")
    if not hash_mark or task in ("", EVERY_TASK):
        return "", parse_alias(alias)
    return parse_task(task), parse_alias(alias)


def _own(session: Session, task: str, alias: str) -> tables.AliasRuleRow | None:
    rule = tables.AliasRuleRow
    return session.scalar(select(rule).where(rule.task == task, rule.alias == alias))


def _stated(row: tables.AliasRuleRow | None) -> Mapping[str, object] | None:
    return None if row is None else {"guarded": row.guarded, "rules": row.rules}


def _record(row: tables.AliasRuleRow) -> AliasRules:
    return AliasRules.from_row(row, alias=rule_target(row), at=row.created_at, by=row.created_by)


def _none(target: str) -> UnknownReferenceError:
    return UnknownReferenceError(f"there are no rules for {target!r}", hint="fusery alias rules list")
