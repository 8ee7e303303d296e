"""Contract suites for what plugins add, the same that fusery's own parts pass; they are pytest's, and need it.

    stores      a backend of the store, and a folder of files at a URL
    targets     a target of `materialize`              rules       a rule of admission
    sources     a tracker of runs                      samples     a tiny model and adapters for it

A suite is a class of tests: a subclass gives it what is tested (docs/guides/plugins.md).
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
