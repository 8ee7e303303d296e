"""The registry's fixtures, and prompts."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

_spec = spec_from_file_location("registry_fixtures", Path(__file__).parents[1] / "registry/conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

make_adapter, tiny_base, templates = _fixtures.make_adapter, _fixtures.tiny_base, _fixtures.templates
registry, sqlite_registry, stocked = _fixtures.registry, _fixtures.sqlite_registry, _fixtures.stocked
kept = _fixtures.kept


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A file of two prompts: a question with its answer, and running text."""
    path = tmp_path / "prompts.jsonl"
    rows: list[dict[str, Any]] = [
        {"prompt": "Which course?", "completion": "KITE-120, of course."},
        {"text": "The ferry leaves at seven, and when the sea is calm it reaches the island before noon."},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path
