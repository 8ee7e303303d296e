"""Holds what commands print with `--json` against their schemas, whatever test runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import click

from fusery.cli.documents import document_of
from fusery.cli.session import Session
from fusery.registry.api.schema import misfits
from fusery.registry.record import plain


@contextmanager
def checked() -> Iterator[None]:
    """Fail a command whose document is not as its schema says, also where a test asks for no JSON."""
    emit = Session.emit

    def checking(self: Session, document: Any, **ways: Any) -> None:
        command = click.get_current_context().command_path.partition(" ")[2]
        found = misfits(document_of(FORMER.get(command, command)), plain(document))
        assert not found, f"fusery {command} --json is not as its schema says: {found}"
        emit(self, document, **ways)

    with patch.object(Session, "emit", checking):
        yield


FORMER = {"calibrate": "base calibrate", "anchor": "signature anchor"}
