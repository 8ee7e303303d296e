"""`serving.json`: what it must be, told in one sentence where it is not."""

from __future__ import annotations

import copy
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from fusery.registry.runtime import document as module
from fusery.registry.runtime.document import ServingDocument, read_document
from fusery.registry.runtime.errors import DocumentError

GOOD: dict[str, Any] = {
    "format": 1,
    "base": {"name": "tiny", "folder": "base"},
    "adapters": [{"name": "a_v1_20260115", "folder": "a1"}, {"name": "a_v2_20260115", "folder": "a2"}],
    "routes": {"a#prod": "a_v1_20260115", "a": {"a_v1_20260115": 0.9, "a_v2_20260115": 0.1}},
    "tenants": [{"name": "acme", "key_sha256": ["0" * 64], "models": ["a"]}],
}

BAD: dict[str, tuple[list[Any], Any, str]] = {
    "other format": (["format"], 2, "format"),
    "no base": (["base"], None, "base"),
    "a name twice": (["adapters", 1, "name"], "a_v1_20260115", "'a_v1_20260115'"),
    "an adapter called like the base": (["adapters", 1, "name"], "tiny", "'tiny'"),
    "a route to nothing": (["routes", "a#prod"], "b", "'b'"),
    "a route with an adapter's name": (["routes", "a_v1_20260115"], "a_v2_20260115", "a_v1_20260115"),
    "no weight": (["routes", "a"], {"a_v1_20260115": 0.0}, "a"),
    "a negative weight": (["routes", "a"], {"a_v1_20260115": -1.0, "a_v2_20260115": 2.0}, "a"),
    "a plain key": (["tenants", 0, "key_sha256"], ["secret"], "key_sha256"),
    "a tenant without keys": (["tenants", 0, "key_sha256"], [], "key_sha256"),
    "a tenant's key twice": (["tenants", 0, "key_sha256"], ["0" * 64] * 2, "key '000"),
    "an unknown field": (["bse"], {}, "bse"),
    "no room": (["limits"], {"batch": 0}, "limits.batch"),
}
"""The place in the document, what is written there, and what the error names."""


def test_the_example_in_the_docstring_is_one(tmp_path: Path) -> None:
    assert module.__doc__
    example = module.__doc__.split("```json")[1].split("```")[0]
    document = json.loads(example)
    for part in (document["base"], *document["adapters"]):
        part["digest"] = "0" * 64
    document["tenants"][0]["key_sha256"] = ["0" * 64]
    assert ServingDocument.model_validate(document).limits == module.ServingLimits(
        context=8192, body_bytes=327680
    )


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_told(what: str, tmp_path: Path) -> None:
    place, value, sentence = BAD[what]
    document = copy.deepcopy(GOOD)
    part: Any = document
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    path = tmp_path / "serving.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DocumentError) as caught:
        read_document(path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_document(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    for text in ("", "{", "[]", "null", "[" * 100_000, '{"format": NaN}', "\ud800"):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(DocumentError):
            read_document(path)


@pytest.mark.timing
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "serving.json")
    thread = threading.Thread(
        target=pytest.raises, args=(DocumentError, read_document, tmp_path / "serving.json"), daemon=True
    )
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_valid_documents_also_where_a_tenant_s_model_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    tenants = [{"name": "acme", "key_sha256": ["0" * 64], "models": ["a_v0_20250101"]}]
    for document in (GOOD, GOOD | {"tenants": tenants}):
        path.write_text(json.dumps(document))
        assert read_document(path) == ServingDocument.model_validate(document)
