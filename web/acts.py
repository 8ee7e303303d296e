"""The forms of pages: their operations and fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fusery.registry import Registry
from fusery.registry.api.adapters import Adapters
from fusery.registry.api.aliases import Aliases
from fusery.registry.api.deployments import Deployments
from fusery.registry.errors import AliasGuardedError, BadInputError
from fusery.registry.records.adapter import Adapter, Amended
from fusery.registry.records.alias import Moved
from fusery.registry.records.deployment import Deployed, Deployment
from fusery.registry.records.release import Approval, LiftedYank, Promotion, Yank
from fusery.registry.records.token import Role
from fusery.storage.plaintext import is_keepable

from .addresses import of_adapter, of_alias

Kind = Literal["line", "text", "pairs", "flag"]
"""A line; a text of several; lines of NAME=VALUE; something to tick."""

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """Something that an act asks for.

    Attributes:
        name: in the form, and the key in JSON.
        label: for people.
        kind: what it takes.
        required: it may not be empty.
        said: what else people should know.
    """

    name: str
    label: str
    kind: Kind = "line"
    required: bool = False
    said: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """Something that can be done.

    Attributes:
        name: in the address.
        title: what a button says.
        said: what it does, in one sentence.
        method: the operation; whoever may do that may do this.
        fields: what it asks for; the first one says to what it is done.
        do: does it.
        then: the page that shows what came of it.
        bold: it is not taken back easily.
        now: what some fields say now, which a form begins with.
    """

    name: str
    title: str
    said: str
    method: Callable[..., Any]
    fields: Sequence[Field]
    do: Callable[[Registry, Values], object]
    then: Callable[[Any], str]
    bold: bool = False
    now: Mapping[str, Callable[[Adapter], str]] = field(default_factory=dict)

    @property
    def role(self) -> Role:
        """Return the required role."""
        found: Role = self.method.operation.role  # type: ignore[attr-defined]
        return found


_ADAPTER = Field("adapter", "Adapter", required=True, said="a name, TASK@VERSION or a digest")
_ALIAS = Field("alias", "Alias", required=True, said="such as prod, or TASK#prod")
_WHY = Field("reason", "Reason", "text", required=True, said="for the log")
_EMERGENCY = Field("emergency", "An emergency: also where the rules say no", "flag")


def _promote(registry: Registry, values: Values) -> Promotion:
    return registry.aliases.promote(values["adapter"], values["alias"], reason=values["reason"])


def _approve(registry: Registry, values: Values) -> Approval:
    # On a page nobody sees a name that was mistyped again: an approval for it would be good for nothing.
    alias = str(values["alias"]).rpartition("#")[2]
    names = registry.aliases.names_for(values["adapter"])
    if alias not in {name.partition("#")[2] for name in names}:
        raise BadInputError(
            f"there is no alias {alias[:100]!r} that asks for anything",
            hint=f"there are: {', '.join(names[:10])}" if names else "set rules for it first",
        )
    return registry.aliases.approve(values["adapter"], values["alias"], note=values["note"])


def _withdraw(registry: Registry, values: Values) -> Approval:
    return registry.aliases.withdraw_approval(values["adapter"], values["alias"], note=values["note"])


def _set(registry: Registry, values: Values) -> Moved:
    try:
        return registry.aliases.set(values["alias"], values["adapter"], reason=values["reason"])
    except AliasGuardedError as error:
        raise AliasGuardedError(error.message, hint='choose "Promote" instead') from error


def _roll_back(registry: Registry, values: Values) -> Moved:
    try:
        return registry.aliases.roll_back(
            values["alias"], reason=values["reason"], emergency=values["emergency"]
        )
    except AliasGuardedError as error:
        hint = f'tick "{_EMERGENCY.label}" to roll back at once; as JSON: {_EMERGENCY.name}: true'
        raise AliasGuardedError(error.message, hint=hint) from error


def _yank(registry: Registry, values: Values) -> Yank:
    return registry.adapters.yank(values["adapter"], reason=values["reason"])


def _lift(registry: Registry, values: Values) -> LiftedYank:
    return registry.adapters.unyank(values["adapter"], reason=values["reason"])


def _note(registry: Registry, values: Values) -> Amended:
    clear = [] if values["note"] else ["note"]
    return registry.adapters.amend(
        values["adapter"], note=values["note"] or None, clear=clear, reason=values["reason"]
    )


def _tag(registry: Registry, values: Values) -> Amended:
    clear = [f"tag.{name}" for name, value in values["tags"].items() if not value]
    tags = {name: value for name, value in values["tags"].items() if value}
    return registry.adapters.amend(values["adapter"], tags=tags, clear=clear, reason=values["reason"])


def _record(registry: Registry, values: Values) -> Deployed:
    return registry.deployments.record(values["adapter"], values["place"], note=values["note"])


def _end(registry: Registry, values: Values) -> Sequence[Deployment]:
    return registry.deployments.end([values["place"]], reason=values["reason"])


ACTS: Sequence[Act] = (
    Act(
        "promote",
        "Promote",
        "Lets an alias hold this adapter if all its rules hold.",
        Aliases.promote,
        (_ADAPTER, _ALIAS, _WHY),
        _promote,
        lambda done: of_alias(done.alias),
    ),
    Act(
        "approve",
        "Approve",
        "Says that you agree to an alias holding this adapter; its author's own approval does not count.",
        Aliases.approve,
        (_ADAPTER, _ALIAS, Field("note", "Note", "text")),
        _approve,
        lambda done: of_adapter(done.adapter),
    ),
    Act(
        "withdraw-approval",
        "Withdraw your approval",
        "Takes your own approval back.",
        Aliases.withdraw_approval,
        (_ADAPTER, _ALIAS, Field("note", "Note", "text")),
        _withdraw,
        lambda done: of_adapter(done.adapter),
    ),
    Act(
        "set-alias",
        "Set an alias",
        "Lets an alias without rules hold this adapter.",
        Aliases.set,
        (_ADAPTER, _ALIAS, _WHY),
        _set,
        lambda done: of_alias(done.alias),
    ),
    Act(
        "roll-back",
        "Roll back",
        "Gives the alias back to the adapter that held it before.",
        Aliases.roll_back,
        (_ALIAS, _WHY, _EMERGENCY),
        _roll_back,
        lambda done: of_alias(done.alias),
        bold=True,
    ),
    Act(
        "yank",
        "Withdraw",
        "Withdraws this adapter: it stays on record, and is neither fused nor shipped until that is lifted.",
        Adapters.yank_all,
        (_ADAPTER, _WHY),
        _yank,
        lambda done: of_adapter(done.name),
        bold=True,
    ),
    Act(
        "lift",
        "Lift the withdrawal",
        "Lets this adapter be fused and shipped again.",
        Adapters.unyank_all,
        (_ADAPTER, _WHY),
        _lift,
        lambda done: of_adapter(done.name),
    ),
    Act(
        "note",
        "Change the note",
        "Replaces what is noted of this adapter; an empty note takes it away.",
        Adapters.amend,
        (_ADAPTER, Field("note", "Note", "text"), Field("reason", "Reason", "text")),
        _note,
        lambda done: of_adapter(done.name),
        now={"note": lambda adapter: adapter.note or ""},
    ),
    Act(
        "tags",
        "Set tags",
        "Sets tags of this adapter, and takes off those that have no value.",
        Adapters.amend,
        (
            _ADAPTER,
            Field("tags", "Tags", "pairs", required=True, said="one NAME=VALUE a line; NAME= takes it off"),
            Field("reason", "Reason", "text"),
        ),
        _tag,
        lambda done: of_adapter(done.name),
        now={"tags": lambda adapter: "\n".join(f"{name}={value}" for name, value in adapter.tags.items())},
    ),
    Act(
        "record-deployment",
        "Record where it runs",
        "Says that this adapter runs at a place from now on.",
        Deployments.record,
        (
            _ADAPTER,
            Field("place", "Place", required=True, said="such as prod-eu/ranker"),
            Field("note", "Note", "text"),
        ),
        _record,
        lambda _: "/places",
    ),
    Act(
        "end-deployment",
        "End",
        "Says that nothing runs at this place any more.",
        Deployments.end,
        (Field("place", "Place", required=True), _WHY),
        _end,
        lambda _: "/places",
    ),
)

BY_NAME: Mapping[str, Act] = {act.name: act for act in ACTS}


def values_of(act: Act, given: Mapping[str, str]) -> dict[str, Any]:
    """Return what a form says, as `cleaned` takes it.

    Args:
        act: what is to be done.
        given: texts by the names of fields; fields that are not there count as empty.

    Raises:
        BadInputError: a line of tags is none.
    """
    texts = {each: given.get(each.name, "").replace("\r\n", "\n") for each in act.fields}
    return {field.name: _READ[field.kind](text) for field, text in texts.items()}


def cleaned(act: Act, given: Values) -> dict[str, Any]:
    """Return what an act is done with, without the spaces around it.

    Raises:
        BadInputError: something that is required is missing, or has characters that no database keeps.
    """
    found: dict[str, Any] = {}
    for each in act.fields:
        value = given[each.name]
        if isinstance(value, str):
            value = value.strip()
        pairs = value if isinstance(value, Mapping) else {}
        texts = [value] if isinstance(value, str) else [*pairs, *pairs.values()]
        if each.required and not value:
            raise BadInputError(f"{each.label} is missing", hint=f"give {each.name}: {each.said}")
        if not all(map(is_keepable, texts)):
            raise BadInputError(f"{each.label} has characters that cannot be kept", hint="leave them out")
        found[each.name] = value
    return found


def _pairs(text: str) -> dict[str, str]:
    found = {}
    for line in filter(None, (line.strip() for line in text.split("\n"))):
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise BadInputError(f"no tag: {line[:80]!r}", hint="one NAME=VALUE a line")
        found[name.strip()] = value.strip()
    return found


_READ: Mapping[Kind, Callable[[str], Any]] = {"line": str, "text": str, "pairs": _pairs, "flag": bool}
