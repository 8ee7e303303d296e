"""Contract suites for plugins, as classes of tests for pytest, and samples for them (docs/guides/plugins.md)."""

from __future__ import annotations

from fusery.registry.errors import MissingExtraError

try:
    import pytest
except ModuleNotFoundError as error:
    raise MissingExtraError("the contract suites for plugins", "testing") from error

_SUITES = ("rules", "sources", "store_bytes", "stores", "targets")

# Before they are imported, so that an assertion that fails shows its values.
pytest.register_assert_rewrite(*(f"{__name__}.{suite}" for suite in _SUITES))
