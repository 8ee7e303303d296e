"""Contract suites for plugins, the same that fusery's own parts pass, as classes of tests (docs/guides/plugins.md).

`stores`, `targets`, `rules` and `sources` need pytest; `samples` has a tiny model and adapters for it.
"""

from __future__ import annotations

from fusery.registry.errors import MissingExtraError

try:
    import pytest
except ModuleNotFoundError as error:
    raise MissingExtraError("the contract suites for plugins", "testing") from error

_SUITES = ("rules", "sources", "store_bytes", "stores", "targets")

# Before they are imported, so that an assertion that fails shows its values.
pytest.register_assert_rewrite(*(f"{__name__}.{suite}" for suite in _SUITES))
