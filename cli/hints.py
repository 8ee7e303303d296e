"""Hints, written so that their commands work where they are read: with the program and the home that the user typed."""

from __future__ import annotations

import re
import shlex
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from .commands import COMMANDS, FORMER
from .installed import as_installed

_COMMAND = re.compile(
    r"(?P<quoted>(?<=[\s=])'(?:[^']|'\"'\"')*'(?![^\s;)]))|"
    rf"(?<![\w./-])fusery (?=(?P<placed>--registry )|(?:--debug )?(?:{'|'.join((*COMMANDS, *FORMER))})(?![\w-]))(?![^;:]*, there\b)"
)
"""A command of this program, or a word that is quoted for a shell, in which there is none; not a command that is to be run at
another registry, `fusery audit, there`."""


class Hints:
    """How the commands in hints are to be typed.

    Attributes:
        registry: what `--registry` was given; None where it was not.
        insecure_http: `--insecure-http` was given.
    """

    def __init__(self) -> None:
        self.registry: str | None = None
        self.insecure_http = False

    def spelled(self, text: str) -> str:
        """Return a text with its commands as they work here."""
        text = as_installed(text)
        if "fusery " not in text:
            return text
        return _COMMAND.sub(self._spelled, text)

    def _spelled(self, found: re.Match[str]) -> str:
        if found["quoted"]:
            return found["quoted"]
        return f"{shlex.quote(program()) if found['placed'] else self.call} "

    def in_document(self, document: Any) -> Any:
        """Return a JSON document with its hints as they work here."""
        if isinstance(document, dict):
            return {
                key: self.spelled(value)
                if key == "hint" and isinstance(value, str)
                else self.in_document(value)
                for key, value in document.items()
            }
        if isinstance(document, list | tuple):
            return [self.in_document(value) for value in document]
        return document

    @cached_property
    def call(self) -> str:
        """What to type before the name of a command."""
        given = () if self.registry is None else ("--registry", self.registry)
        return shlex.join([program(), *given, *["--insecure-http"] * self.insecure_http])


def program() -> str:
    """Return what to type for this program: `fusery` where that is found, else the path that it was started by."""
    import shutil

    started = Path(sys.argv[0])
    if started.stem != "fusery" or not started.is_file():
        return "fusery"  # a test, or a program that uses the command line as a library
    found = shutil.which("fusery")
    return "fusery" if found is not None and started.samefile(found) else sys.argv[0]
