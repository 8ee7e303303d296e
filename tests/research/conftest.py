"""The registry's fixtures."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("registry_fixtures", Path(__file__).parents[1] / "registry/conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

make_adapter, tiny_base, templates = _fixtures.make_adapter, _fixtures.tiny_base, _fixtures.templates
registry, sqlite_registry, stocked = _fixtures.registry, _fixtures.sqlite_registry, _fixtures.stocked
kept = _fixtures.kept
