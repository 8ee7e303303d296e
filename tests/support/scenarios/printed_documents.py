"""Holds what commands print with `--json` against their schemas, whatever test runs them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import click

from fusery.cli.documents import document_of, documents
from fusery.cli.session import Session
from fusery.registry.api.schema import schema_of
from fusery.registry.record import plain

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

# jsonschema would compile the grammar of IRIs, which nothing here needs: three seconds of every run of pytest.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

HELD: set[str] = set()
"""The commands whose documents were held against their schemas in this process."""


@contextmanager
def checked() -> Iterator[None]:
    """Fail a command whose document does not match its schema, also where a test asks for no JSON."""
    emit = Session.emit

    def checking(self: Session, document: Any, **ways: Any) -> None:
        require(click.get_current_context().command_path.partition(" ")[2], plain(document))
        emit(self, document, **ways)

    with patch.object(Session, "emit", checking):
        yield


def require(command: str, document: Any) -> None:
    """Fail if what a command printed, here or in a process of its own, does not match its schema.

    A key that the schema does not name fails, too.
    """
    HELD.add(command)
    errors = _validator(command).iter_errors(document)
    found = [f"{error.json_path}: {error.message}" for error in errors]
    assert not found, f"fusery {command} --json does not match its schema: {found}"


def never_held() -> list[str]:
    """Return the commands that have a schema of ours, and that no test here has run."""
    return sorted({name for name in documents() if document_of(name) is not object} - HELD)


@cache
def _validator(command: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator, FormatChecker

    formats = FormatChecker(formats=())
    formats.checks("date", raises=(TypeError, ValueError))(date.fromisoformat)
    formats.checks("date-time", raises=(TypeError, ValueError))(datetime.fromisoformat)
    schema = schema_of(document_of(command))
    for each in (schema, *schema.get("$defs", {}).values()):
        if "properties" in each:
            each["additionalProperties"] = False
    return Draft202012Validator(schema, format_checker=formats)
