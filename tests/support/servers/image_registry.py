"""A real OCI registry for tests: Debian's `docker-registry`, which is CNCF Distribution."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ports import free_port
from programs import running_program

USER, PASSWORD = "tester", "hunter-5f0e6c1d"
_BCRYPT = "$2b$04$DxRn47HF/KiFwbTWwMapDuhoNLFom83diY9Dq3xRlOjDGq0JD23Du"


def need_registry() -> str:
    """Return the command, or skip."""
    found = shutil.which("docker-registry")
    if found is None:
        pytest.skip("docker-registry is not installed (apt-get install docker-registry)")
    return found


@contextmanager
def running_registry(folder: Path, *, guarded: bool = False) -> Iterator[str]:
    """Run a registry with its data in a folder and yield its host and port; a guarded one asks for a password."""
    command, port = need_registry(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    auth = ""
    if guarded:
        (folder / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
        auth = f"auth:\n  htpasswd:\n    realm: tests\n    path: {folder}/htpasswd\n"
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {folder}/data\n"
        f"http:\n  addr: 127.0.0.1:{port}\n{auth}"
    )
    with running_program([command, "serve", folder / "config.yml"], folder / "log", lambda: _answers(port)):
        yield f"127.0.0.1:{port}"


def _answers(port: int) -> bool:
    with suppress(urllib.error.HTTPError):  # it wants a password, and answers
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
    return True
