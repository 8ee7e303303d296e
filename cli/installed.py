"""How fusery came onto this machine, and so how it, or an extra of it, is installed from there again."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

_INSTALL = re.compile(
    r"\bpip install (?P<options>(?:--\S+ |fusery (?=\S))*)(?:'fusery(?P<extras>\[[\w,-]+\])'|fusery(?![\w-]))"
)
"""An instruction that takes fusery from an index."""


def as_installed(text: str) -> str:
    """Return a text with instructions to install fusery that take it from where it came from, into where it runs."""
    if "pip install" not in text:
        return text
    said = _origin()
    return _INSTALL.sub(
        lambda found: (
            f"{pip()} install {found['options']}{_source(said, found['extras'] or '', built='--no-binary' in found['options'])}"
        ),
        text,
    )


def _origin() -> dict[str, Any]:
    """Return what the installer wrote down: empty for an index, or if nobody installed it."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        said: dict[str, Any] = json.loads(distribution("fusery").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return {}
    return said


def _source(said: dict[str, Any], extras: str, *, built: bool) -> str:
    url = str(said.get("url", ""))
    if built and url.endswith(".whl"):
        url = _source_archive(url)
    if "dir_info" in said and url.startswith("file:"):
        folder = _path(url)
        if folder.is_dir():
            place = "." if folder == Path.cwd() else str(folder)
            return ("--editable " if said["dir_info"].get("editable") else "") + shlex.quote(place + extras)
    elif "vcs_info" in said:
        return shlex.quote(f"fusery{extras} @ {said['vcs_info']['vcs']}+{url}")
    elif url:
        return shlex.quote(f"fusery{extras} @ {url}")
    return shlex.quote(f"fusery{extras}")


def _source_archive(wheel: str) -> str:
    """Return the URL of the source archive, which is released beside a wheel; empty if no file is there."""
    folder, _, name = wheel.rpartition("/")
    archive = f"{folder}/{'-'.join(name.split('-')[:2])}.tar.gz"
    return archive if not archive.startswith("file:") or _path(archive).is_file() else ""


def _path(url: str) -> Path:
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    return Path(url2pathname(urlsplit(url).path))


def pip() -> str:
    """Return the pip of the environment that this runs in: the one of the shell, where that is its own."""
    import shutil

    found = shutil.which("pip")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return "pip"
    return f"{shlex.quote(near(sys.executable))} -m pip"


def near(path: str) -> str:
    """Return a path as short as it can be typed here."""
    there = Path(path)
    return str(there.relative_to(Path.cwd())) if there.is_relative_to(Path.cwd()) else path
