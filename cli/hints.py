"""Hints, written so that their commands work where they are read: with the program, the registry and the installation that are there."""

from __future__ import annotations

import re
import shlex
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from .commands import COMMANDS

_COMMAND = re.compile(
    r"(?P<quoted>(?<=[\s=])'(?:[^']|'\"'\"')*'(?![^\s;)]))|"
    rf"(?<![\w./-])fusery (?=(?P<placed>--registry )|(?:--debug )?(?:{'|'.join(COMMANDS)})(?![\w-]))(?![^;:]*, on the other registry\b)"
)
"""A command of this program, or a quoted word, which is kept; not `fusery audit, on the other registry`."""


class Hints:
    """How the commands in hints are to be typed."""

    def __init__(self) -> None:
        self.registry: str | None = None
        self.insecure_http = False

    def spelled(self, text: str) -> str:
        """Return a text with its commands as they work here."""
        text = as_installed(text)
        if "fusery " not in text:
            return text
        return _COMMAND.sub(
            lambda match: match["quoted"] or f"{shlex.quote(program()) if match['placed'] else self.call} ",
            text,
        )

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
    executable = shutil.which("fusery")
    return "fusery" if executable is not None and started.samefile(executable) else sys.argv[0]


_INSTALL = re.compile(
    r"\bpip install (?P<options>(?:--\S+ |fusery (?=\S))*)(?:'fusery(?P<extras>\[[\w,-]+\])'|fusery(?![\w-]))"
)
"""An instruction that takes fusery from an index."""


def as_installed(text: str) -> str:
    """Return a text with instructions to install fusery that take it from where it came from, into where it runs."""
    if "pip install" not in text:
        return text
    return _INSTALL.sub(
        lambda match: (
            f"{pip()} install {match['options']}{_source(match['extras'] or '', built='--no-binary' in match['options'])}"
        ),
        text,
    )


def _source(extras: str, *, built: bool) -> str:
    """Return what pip is to install: a folder or an URL, if this installation came from one."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        origin = json.loads(distribution("fusery").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    url = str(origin.get("url", ""))
    if built and url.endswith(".whl"):  # there is nothing to build in it
        url = ""
    if "dir_info" in origin:
        editable = "--editable " if origin["dir_info"].get("editable") else ""
        return editable + shlex.quote(url.removeprefix("file://") + extras)
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}"
    return shlex.quote(f"fusery{extras} @ {url}" if url else f"fusery{extras}")


def pip() -> str:
    """Return the pip of the environment that this runs in: the one of the shell, where that is its own."""
    import shutil

    pip_path = shutil.which("pip")
    if pip_path is not None and Path(pip_path).parent == Path(sys.executable).parent:
        return "pip"
    return f"{shlex.quote(sys.executable)} -m pip"
