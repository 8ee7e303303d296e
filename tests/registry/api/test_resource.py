"""What people say for the log, through whatever method of the Python API: text that every database keeps, and no token."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.api.resource import Resource
from fusery.registry.errors import BadInputError

ADAPTER = "mail@1"
CALLS: dict[tuple[str, str], Callable[[Any, dict[str, str]], Any]] = {
    ("adapters", "amend"): lambda it, said: it(ADAPTER, tags={"team": "x"}, **said),
    ("adapters", "yank"): lambda it, said: it(ADAPTER, **said),
    ("adapters", "unyank"): lambda it, said: it(ADAPTER, **said),
    ("adapters", "yank_all"): lambda it, said: it([ADAPTER], **said),
    ("adapters", "unyank_all"): lambda it, said: it([ADAPTER], **said),
    ("exchange", "promote"): lambda it, said: it(ADAPTER, "prod", "http://127.0.0.1:1", **said),
    ("aliases", "set"): lambda it, said: it("beta", ADAPTER, **said),
    ("aliases", "remove"): lambda it, said: it("mail#prod", **said),
    ("aliases", "roll_back"): lambda it, said: it("mail#prod", **said),
    ("aliases", "promote"): lambda it, said: it(ADAPTER, "beta", **said),
    ("aliases", "approve"): lambda it, said: it(ADAPTER, "prod", **said),
    ("aliases", "withdraw_approval"): lambda it, said: it(ADAPTER, "prod", **said),
    ("aliases", "set_rules"): lambda it, said: it("mail#beta", {"approvals": 1}, **said),
    ("aliases", "remove_rules"): lambda it, said: it("mail#prod", **said),
    ("deployments", "record"): lambda it, said: it(ADAPTER, "edge-1", **said),
    ("deployments", "end"): lambda it, said: it(["edge-1"], **said),
    ("deployments", "refuse"): lambda it, said: it(ADAPTER, "edge-1", **said),
    ("evaluations", "withdraw"): lambda it, said: it(ADAPTER, "accuracy", **said),
    ("tokens", "revoke"): lambda it, said: it("ci", **said),
    ("trust", "revoke_key"): lambda it, said: it("team", **said),
    ("webhooks", "remove"): lambda it, said: it("hook", **said),
    ("webhooks", "skip"): lambda it, said: it("hook", **said),
}
ELSEWHERE = {"register", "combine", "shrink"}
"""What is said of a new adapter is checked with all else that is handed in with it (`admission.submission`)."""


def methods() -> Iterator[tuple[str, str, str]]:
    """Yield resource, method and parameter of all that take a reason or a note."""
    registry = Registry.open()
    for resource, part in vars(registry).items():
        if isinstance(part, Resource):
            for name, method in inspect.getmembers(part, inspect.ismethod):
                for said in {"reason", "note"} & set(inspect.signature(method).parameters):
                    yield resource, name, said


def test_every_method_is_tried() -> None:
    found = {(resource, name) for resource, name, _ in methods() if name not in ELSEWHERE}
    assert found == set(CALLS)


@pytest.fixture
def known(registry: Registry, tmp_path: Path) -> Registry:
    base = tiny_models.make_base(tmp_path / "tiny")
    registry.bases.add(base, name="tiny", reference=True)
    folder = tiny_models.make_adapter(tmp_path / "a", base, seed=1, num_layers=1)
    registry.adapters.register(folder, base="tiny", task="mail")
    return registry


@pytest.mark.parametrize("text", ["why\0not", "half \ud800"])
def test_what_no_database_keeps_is_refused_before_anything_is_done(known: Registry, text: str) -> None:
    before = known.upkeep.log()
    for resource, name, said in methods():
        if (call := CALLS.get((resource, name))) is None:
            continue
        words = {"reason": "because", said: text} if said == "note" and name == "amend" else {said: text}
        with pytest.raises(BadInputError, match=r"characters|plain text"):
            call(getattr(getattr(known, resource), name), words)
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
