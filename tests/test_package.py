"""The package itself: what `from fusery import ...` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fusery
from fusery import registry


def test_the_public_names_can_be_had_from_the_package() -> None:
    assert {"Registry", "FuseRequest", "RecordRun", "__version__"} <= set(fusery.__all__)
    for name in registry.__all__:
        assert getattr(fusery, name) is getattr(registry, name)


def test_the_version_is_that_of_the_installation() -> None:
    from importlib.metadata import version

    assert fusery.__version__ == version("fusery")


def test_what_is_no_name_of_it_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        fusery.nothing  # noqa: B018 -- asked for
    with pytest.raises(ImportError):
        __import__("importlib").import_module("fusery.nothing")


def test_importing_it_loads_nothing_else() -> None:
    line = "import sys, fusery; print([m for m in sys.modules if m.partition('.')[0] in ('fusery', 'click', 'pydantic')])"
    done = subprocess.run([sys.executable, "-P", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['fusery']"
