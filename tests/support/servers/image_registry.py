"""A real OCI registry for tests: Debian's `docker-registry`, which is CNCF Distribution.  Import as `image_registry`."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import free_port

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
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([command, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        _wait(process, port, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(100):
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
        except urllib.error.HTTPError:
            return  # it wants a password, and answers
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the registry did not answer")
