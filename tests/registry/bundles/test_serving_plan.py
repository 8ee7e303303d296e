"""What a server serves, as the registry has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.bundles.serving_plan import ServingPlan, Split, document_bytes, plan_serving
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.runtime.document import ServingDocument

V1, V2 = "course_rec_v1_20260115", "course_rec_v2_20260201"


def plan(registry: Registry, *references: str, models: tuple[str, ...] = ()) -> ServingPlan:
    with registry.workspace.database.read() as session:
        return plan_serving(session, references, [Split.parse(text) for text in models])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("t=v1:0.9,v2:0.1", (("t@1", 0.9), ("t@2", 0.1))),
        ("t=#prod:3, #canary:1", (("t#prod", 3.0), ("t#canary", 1.0))),
        ("mine=t@latest", (("t@latest", 1.0),)),
        ("t=@latest", (("t@latest", 1.0),)),
        (f"mine={V1}:1,{V2}:0", ((V1, 1.0), (V2, 0.0))),
    ],
)
def test_splits(text: str, parts: Any) -> None:
    assert Split.parse(text).parts == parts


def test_what_is_no_split() -> None:
    wrong = ("t=v1:x", "t=v1:-1", "t=v1:nan", "t=v1:inf", "t=v1:0", "t=v1,v1", "t=v1:1,", "t=:1")
    for text in ("", "t", "t=", "=v1", *wrong):
        with pytest.raises(BadInputError):
            Split.parse(text)


def test_public_names(stocked: Registry) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    split = "ab=course_rec@1:0.9,course_rec@2:0.1"
    found = plan(stocked, "course_rec#prod", "course_rec@latest", V1, models=(split,))
    assert [adapter.name for adapter in found.adapters] == [V1, V2]
    routes = {"course_rec#prod": V1, "course_rec": V1, "course_rec@latest": V2}
    assert found.routes == {**routes, "ab": {V1: 0.9, V2: 0.1}}
    found = plan(stocked, models=("course_rec=v1:3,v2:1",))
    assert [adapter.name for adapter in found.adapters] == [V1, V2]
    assert found.routes == {"course_rec": {V1: 3.0, V2: 1.0}}
    assert plan(stocked, models=("x=course_rec@2:1,course_rec@latest:1",)).routes == {"x": V2}


def test_refusals(stocked: Registry, tmp_path: Path) -> None:
    def refused(*references: str, models: tuple[str, ...] = ()) -> None:
        with pytest.raises(BadInputError):
            plan(stocked, *references, models=models).document()

    refused()
    with pytest.raises(UnknownReferenceError):
        plan(stocked, "course_rec#nobody")
    refused("course_rec@2", models=("tiny=course_rec@2",))
    stocked.adapters.yank("course_rec@1", reason="bad data")
    refused("course_rec@1")
    other = tiny_models.make_base(tmp_path / "other", seed=5)
    stocked.bases.add(other, name="other")
    stocked.adapters.register(tiny_models.make_adapter(tmp_path / "a", other), base="other", task="second")
    plan(stocked, "second@latest").document()
    refused("course_rec@2", "second@latest")


def test_the_document(stocked: Registry) -> None:
    document = plan(stocked, "course_rec@1").document()
    data = document_bytes(document)
    assert data == document_bytes(document)
    assert ServingDocument.model_validate(json.loads(data)) == document
    (adapter,) = document.adapters
    assert (adapter.name, adapter.folder) == (V1, f"adapters/{V1}")
    assert adapter.digest == stocked.adapters.show(V1)["digest"]
    assert (document.base.name, document.base.folder) == ("tiny", "base")
