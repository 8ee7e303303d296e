"""Reasons and notes for the log, of every method of the Python API: storable text without tokens."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.api.resource import Resource, use_case_of
from fusery.registry.errors import BadInputError

ADAPTER = "mail@1"
CALLS: dict[str, tuple[Any, ...]] = {
    "adapters.amend": (ADAPTER,),
    "adapters.yank": (ADAPTER,),
    "adapters.unyank": (ADAPTER,),
    "adapters.yank_all": ([ADAPTER],),
    "adapters.unyank_all": ([ADAPTER],),
    "aliases.set": ("beta", ADAPTER),
    "aliases.remove": ("mail#prod",),
    "aliases.roll_back": ("mail#prod",),
    "aliases.promote": (ADAPTER, "beta"),
    "aliases.approve": (ADAPTER, "prod"),
    "aliases.withdraw_approval": (ADAPTER, "prod"),
    "aliases.set_rules": ("mail#beta", {"approvals": 1}),
    "aliases.remove_rules": ("mail#prod",),
    "deployments.record": (ADAPTER, "edge-1"),
    "deployments.end": (["edge-1"],),
    "deployments.refuse": (ADAPTER, "edge-1"),
    "evaluations.withdraw": (ADAPTER, "accuracy"),
    "tokens.revoke": ("ci",),
    "trust.revoke_key": ("team",),
    "webhooks.remove": ("hook",),
    "webhooks.skip": ("hook",),
}
"""Arguments of each method that takes a reason or a note."""
ELSEWHERE = {"register", "_register", "_check", "combine", "shrink", "require_registrable"}
"""What is said of a new adapter is checked with all else that is handed in with it (`admission.submission`)."""


def methods(registry: Registry) -> Iterator[tuple[str, Any, str]]:
    """Yield the name, the method and the parameter of all that take a reason or a note."""
    for resource, part in vars(registry).items():
        if isinstance(part, Resource):
            for name, method in inspect.getmembers(part, inspect.ismethod):
                operation = getattr(method, "operation", None)
                taken = operation.parameters if operation else inspect.signature(method).parameters
                for said in {"reason", "note"} & taken.keys():
                    if name not in ELSEWHERE:
                        yield f"{resource}.{name}", method, said


@pytest.fixture
def known(registry: Registry, tmp_path: Path) -> Registry:
    base = tiny_models.make_base(tmp_path / "tiny")
    registry.bases.add(base, name="tiny", reference=True)
    folder = tiny_models.make_adapter(tmp_path / "a", base, seed=1, num_layers=1)
    registry.adapters.register(folder, base="tiny", task="mail")
    return registry


def test_text_that_no_database_keeps_is_refused_first(known: Registry) -> None:
    before = known.upkeep.log()
    tried = set()
    for name, method, said in methods(known):
        for text in ("why\0not", "half \ud800"):
            more = {"reason": "because", "tags": {"team": "x"}} if name == "adapters.amend" else {}
            with pytest.raises(BadInputError):
                method(*CALLS[name], **{**more, said: text})
        tried.add(name)
    assert tried == set(CALLS)
    assert known.upkeep.log() == before


def test_a_token_that_somebody_pastes_is_not_on_record(known: Registry) -> None:
    secret = known.tokens.create("ci", role="reader").secret
    known.aliases.set("beta", ADAPTER, reason=f"with {secret}, as always")
    known.adapters.yank(ADAPTER, reason=f"{secret} leaked")
    known.deployments.record(ADAPTER, "edge-1", note=f"Authorization: Bearer {secret}")
    said = [str(each.detail) for each in known.upkeep.log()]
    shown = str(known.adapters.show(ADAPTER).to_dict()) + str(known.aliases.history("mail#beta"))
    assert secret[8:] not in "".join(said) + shown
    assert "fusery_***, as always" in shown and "fusery_*** leaked" in shown


def test_each_use_case_takes_the_arguments_of_its_method(known: Registry) -> None:
    methods = [
        method
        for part in vars(known).values()
        if isinstance(part, Resource)
        for method in vars(type(part)).values()
        if hasattr(method, "use_case")
    ]
    assert len(methods) > 50
    for method in methods:
        taken, given = inspect.signature(use_case_of(method)), dict(inspect.signature(method).parameters)
        if hasattr(method, "operation"):  # with the keys of keywords
            given = {"self": given["self"], **method.operation.parameters}
        names = [name for name, each in given.items() if each.kind is not each.KEYWORD_ONLY]
        keywords = given.keys() - set(names)
        if "say" in taken.parameters:
            keywords -= {"reporter"}
        given_too = taken.parameters.keys() & {"register"}
        bound = taken.bind(*names, **dict.fromkeys(keywords | given_too))
        assert keywords <= bound.kwargs.keys() <= taken.parameters.keys(), method.use_case
