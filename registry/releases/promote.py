"""Promotion: an alias moves to an adapter that fulfils its rules; otherwise the refusal is logged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from .. import tables
from ..adapters.trained_through import aware_of
from ..database import events
from ..engine.verdict import LOST, PASS, UNSURE, VERDICTS, closeness
from ..errors import BadInputError, MissingExtraError
from ..fusion.views import counts
from ..records.alias_moves import (
    ALIAS_CONFIRMED,
    alias_row,
    judged_against,
    move,
    overtaken,
    rule_for,
    stated,
)
from ..records.bases import adapter_licence, base_licence
from ..records.evaluation import comparable, mismatch, setting_of
from ..records.fused_rows import answers_in, fused_from, verdict_of
from ..records.references import load_adapters, resolve_adapter
from ..records.release import Outcome, Promotion, State
from ..records.tokens import require_role
from ..records.views import stands, trusted_signers
from ..records.withdrawals import of_adapter, refuse_yanked
from ..workspace.workspace import Workspace
from .approvals import alias_of, approvers
from .rules import MetricRule, Rules, bound_words, make_rules

StateText = tuple[State, str] | tuple[State, str, str | None] | tuple[State, str, str | None, str | None]
"""State, reason, the command that helps, and the code of what was found."""


@dataclass(frozen=True, slots=True)
class Case:
    """A candidate for an alias, and the alias's holder."""

    session: Session
    adapter: tables.AdapterRow
    alias: str
    holder: tables.AdapterRow | None
    base_licence: str | None

    @property
    def reference(self) -> str:
        """The alias with its task."""
        return f"{self.adapter.task.name}#{self.alias}"


def judge(case: Case, recorded: Mapping[str, Any] | None) -> list[Outcome]:
    """Evaluate every recorded rule of an alias for an adapter."""
    yanks = of_adapter(case.session, case.adapter)
    others = [withdrawal.summary for withdrawal in yanks if withdrawal.relation != "itself"]
    judgement: StateText = ("passed", "; ".join(["it is not yanked", *others]))
    try:
        refuse_yanked(case.session, case.adapter)
    except BadInputError as error:
        judgement = ("failed", error.message)
    outcomes = [Outcome("not_yanked", True, *judgement)]
    if recorded is None:
        return outcomes
    try:
        rules = make_rules(recorded)
    except BadInputError as error:
        # Written by a newer version, which may well ask for more than this one knows of.
        judgement = ("unknown", f"this version cannot read the rules: {error.message}")
        return [*outcomes, Outcome("rules", recorded, *judgement)]
    wanted = rules.to_dict()
    for name, look in _LOOKS.items():
        if name in wanted:
            outcomes.append(Outcome(name, wanted[name], *look(case, rules)))
    return outcomes


def _admission(case: Case, rules: Rules) -> StateText:
    bad = ("error", "warning") if rules.admission == "clean" else ("error",)
    codes = sorted({finding.code for finding in case.adapter.findings if finding.severity in bad})
    if not codes:
        return "passed", f"admission found no {' and no '.join(bad)}"
    return "failed", f"admission found {', '.join(codes)}", f"fusery show {case.adapter.name}"


def _fidelity(case: Case, rules: Rules) -> StateText:
    # What was fused from the adapter alone at its own scale, also by other registries; what was measured against another
    # yardstick than this adapter's says nothing of it.
    aware = aware_of(case.adapter.method, case.adapter.training)
    made = [
        fused
        for fused in fused_from(case.session, case.adapter)
        if fused.adapter.digest == case.adapter.digest
        and not fused.extras
        and fused.recipe.get("scale") is None
        and fused.recipe.get("quantization_aware") == aware
        and counts(case.session, fused)
    ]
    if not made:
        why = "nothing was fused from it here yet, so its fidelity was not measured"
        return "unknown", why, f"fusery fuse {case.adapter.name}"
    verdicts = {fused: verdict_of(fused, answers_in(fused.answered, case.adapter)) for fused in made}
    best = max(made, key=lambda fused: (VERDICTS.index(verdicts[fused]), closeness(fused.retained)))
    why = f"the best fuse of it on record, {best.key[:12]}, has {verdicts[best]}"
    formats = f"fusery show {case.adapter.name} --fidelity --formats"
    if verdicts[best] == PASS or (rules.fidelity != PASS and verdicts[best] != LOST):
        return "passed", why
    return "unknown" if verdicts[best] == UNSURE else "failed", why, formats


def _evaluations(adapter: tables.AdapterRow, metric: str) -> list[tables.EvaluationRow]:
    return [row for row in reversed(adapter.evaluations) if row.metric == metric and stands(row)]


def _val_loss(case: Case, rules: Rules) -> StateText:
    if case.holder is None:
        return "passed", f"{case.reference} holds no adapter to compare with"
    ours, theirs = case.adapter.val_loss, case.holder.val_loss
    for adapter, loss in ((case.adapter, ours), (case.holder, theirs)):
        if loss is None:
            return "unknown", f"no validation loss is recorded for {adapter.name}"
    # By the digits that people wrote: in binary, 0.8 is more than 0.7 and 0.1.
    worse = Decimal(repr(ours)) - Decimal(repr(theirs))
    allowed = Decimal(repr(rules.val_loss_within))
    why = f"{ours:g} against {theirs:g} of {case.holder.name}, at most {allowed:f} more wanted"
    return ("passed" if worse <= allowed else "failed"), why


def _metrics(case: Case, rules: Rules) -> StateText:
    judgements = [_metric(case, name, rule) for name, rule in sorted((rules.metrics or {}).items())]
    worst = min(judgements, key=lambda judgement: _WORST_FIRST.index(judgement[0]))
    reasons = "; ".join(judgement[1] for judgement in judgements if judgement[0] == worst[0])
    return (worst[0], reasons, *worst[2:])


def _metric(case: Case, name: str, rule: MetricRule) -> StateText:
    ours, why, code = _measured(case.adapter, name, rule)
    if ours is None:
        return "unknown", why, f"fusery eval record {case.adapter.name} RESULTS.json", code
    bounds = bound_words({"at_least": rule.at_least, "at_most": rule.at_most})
    message = f"{name} is {ours.value:g}"
    if bounds:
        message = f"{message}, {' and '.join(bounds)} wanted"
    low = rule.at_least is not None and ours.value < rule.at_least
    if low or (rule.at_most is not None and ours.value > rule.at_most):
        return "failed", message
    if rule.within is None or case.holder is None:
        return "passed", message
    return _against_holder(case, ours, rule)


def _against_holder(case: Case, ours: tables.EvaluationRow, rule: MetricRule) -> StateText:
    assert case.holder is not None and rule.within is not None
    name, holder = ours.metric, case.holder.name
    if ours.higher_is_better is None:
        hint = '"higher_is_better": true or false in the results'
        return "unknown", f"it is not declared whether more of {name} is better", hint
    rows = _evaluations(case.holder, name)
    theirs = next((row for row in rows if comparable(row) == comparable(ours)), None)
    if theirs is None:
        why = f"no {name} is recorded for {holder}"
        if rows:
            why = (
                f"{name} of {case.adapter.name} was measured on {setting_of(ours) or 'undeclared data'}, and of {holder} "
                f"on {setting_of(rows[0]) or 'undeclared data'}: they cannot be compared"
            )
        code = mismatch(ours, rows[0]) if rows else None
        return "unknown", why, f"fusery eval record {holder} RESULTS.json", code
    # By the digits that people wrote: in binary, 0.8 is more than 0.7 and 0.1.
    gain = Decimal(repr(ours.value)) - Decimal(repr(theirs.value))
    worse = -gain if ours.higher_is_better else gain
    values = f"{ours.value:g} against {theirs.value:g} of {holder}"
    why = f"{name} is {values}, at most {rule.within:g} worse wanted"
    return ("passed" if worse <= Decimal(repr(rule.within)) else "failed"), why


def _measured(
    adapter: tables.AdapterRow, name: str, rule: MetricRule
) -> tuple[tables.EvaluationRow | None, str, str | None]:
    """Return the newest value that a rule is about; or None, the reason and its code."""
    rows = _evaluations(adapter, name)
    for row in rows:
        if rule.dataset in (None, row.dataset) and rule.split in (None, row.split):
            return row, "", None
    if not rows:
        return None, f"no {name} is recorded for {adapter.name}", None
    wanted = "/".join(part for part in (rule.dataset, rule.split) if part)
    measured_settings = ", ".join(dict.fromkeys(setting_of(row) or "undeclared data" for row in rows[:5]))
    same = any(rule.dataset in (None, row.dataset) for row in rows)
    code = "metric_other_split" if same else "metric_other_dataset"
    return None, f"{name} of {adapter.name} was measured on {measured_settings}, and not on {wanted}", code


def _signed(case: Case, rules: Rules) -> StateText:
    try:
        names = trusted_signers(case.session, case.adapter.digest, case.reference)
    except MissingExtraError as error:
        return "unknown", error.message, error.hint or None
    if names:
        return "passed", f"signed with {', '.join(names)}"
    hint = f"fusery sign {case.adapter.name} --key KEY.pem, and fusery admin trust list"
    return "failed", f"no key that counts for {case.reference} has signed it", hint


def _licences(case: Case, rules: Rules) -> StateText:
    allowed, base = set(rules.licences or ()), case.adapter.base.name
    own = adapter_licence({tag.key: tag.value for tag in case.adapter.tags})
    if own is not None and own.casefold() not in allowed:
        return "failed", f"the adapter is under {own}"
    if case.base_licence is None:
        return "unknown", f"nothing says which licence its base {base} is under", f"fusery base show {base}"
    if case.base_licence.casefold() not in allowed:
        return "failed", f"its base {base} is under {case.base_licence}"
    adapter_clause = f"and the adapter under {own}" if own else "and the adapter says nothing else"
    return "passed", f"its base is under {case.base_licence}, {adapter_clause}"


def _approvals(case: Case, rules: Rules) -> StateText:
    names = approvers(case.session, case.adapter, case.alias, authenticated=rules.authenticated)
    wanted = rules.approvals or 0
    how = ", authenticated" if rules.authenticated else ""
    why = f"{len(names)} of {wanted} approved{how}{': ' if names else ''}{', '.join(names)}"
    if len(names) >= wanted:
        return "passed", why
    if not rules.authenticated:
        return "failed", why, f"fusery alias approve {case.adapter.name} {case.alias}"
    if others := [name for name in approvers(case.session, case.adapter, case.alias) if name not in names]:
        why += f"; without a token: {', '.join(others)}"
    hint = "approve through the server, with a token: fusery admin token create NAME --role approver"
    return "failed", why, hint


_LOOKS: dict[str, Callable[[Case, Rules], StateText]] = {
    "admission": _admission,
    "fidelity": _fidelity,
    "val_loss_within": _val_loss,
    "metrics": _metrics,
    "signed": _signed,
    "licences": _licences,
    "approvals": _approvals,
}


ALIAS_REFUSED = "alias.refused"
_WORST_FIRST: tuple[State, ...] = ("failed", "unknown", "passed")


def promote(
    workspace: Workspace, reference: str, alias: str, *, reason: str = "", dry_run: bool = False
) -> Promotion:
    """Move an alias to an adapter that fulfils every rule of the alias; else record the refusal."""
    adapter_id, name, licence = _look(workspace, reference, alias)
    with workspace.database.read() if dry_run else workspace.database.write() as session:
        adapter = session.scalars(load_adapters().where(tables.AdapterRow.id == adapter_id)).one()
        row = alias_row(session, adapter, name)
        holder = against = row.adapter
        again = holder is adapter and bool(overtaken(session, row))
        if again:
            against = judged_against(session, row)
        case = Case(session, adapter, name, against, licence)
        rule = rule_for(session, adapter.task.name, name)
        if rule is not None and rule.guarded:
            require_role(workspace, "approver", f"promotion to {case.reference}")
        outcomes = judge(case, None if rule is None else rule.rules)
        states = {outcome.state for outcome in outcomes}
        verdict = next(state for state in _WORST_FIRST if state in states)
        rules_detail = {"rules": [outcome.to_dict() for outcome in outcomes]}
        moved = False
        if verdict != "passed" and not dry_run:
            reasons = [f"{unmet.rule}: {unmet.why}" for unmet in outcomes if unmet.state != "passed"]
            refused = {"verdict": verdict, "reasons": reasons, **rules_detail}
            _record(workspace, case, ALIAS_REFUSED, reason, refused)
        elif again and not dry_run:
            _record(workspace, case, ALIAS_CONFIRMED, reason or "promoted", rules_detail)
        elif not dry_run:
            moved = move(workspace, session, row, adapter, reason or "promoted", rules_detail).moved
        return Promotion(
            alias=case.reference,
            adapter=adapter.name,
            holder=holder.name if holder else None,
            verdict=verdict,
            guarded=rule is not None and rule.guarded,
            moved=moved,
            confirmed=again and verdict == "passed" and not dry_run,
            dry_run=dry_run,
            reason=reason,
            withdrawals=of_adapter(session, adapter),
            rules=tuple(outcomes),
        )


def _look(workspace: Workspace, reference: str, alias: str) -> tuple[int, str, str | None]:
    """Return the adapter, the alias's name and, for its rules, the licence of the base, which is in files."""
    query = select(tables.AdapterRow)
    query = query.options(joinedload(tables.AdapterRow.task), joinedload(tables.AdapterRow.base))
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference, query)
        name, base = alias_of(adapter, alias), adapter.base
        rule = rule_for(session, adapter.task.name, name)
        needed = rule is not None and "licences" in rule.rules
        assert not needed or base.manifest.files is not None  # loaded, while the session is there
    return adapter.id, name, base_licence(workspace, base) if needed else None


def _record(
    workspace: Workspace, case: Case, action: str, reason: str, extra_detail: Mapping[str, Any]
) -> None:
    detail = {"from": stated(case.holder), "to": stated(case.adapter), "reason": reason, **extra_detail}
    events.record(case.session, action, "alias", case.reference, detail)
