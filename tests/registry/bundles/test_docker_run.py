"""The command line of the server in a bundle that builds an image."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_cases import Imaged

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def bundle(imaged: Imaged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imaged.write(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def run(bundle: Path) -> Run:
    def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "server.py", *arguments],
            check=False,
            cwd=bundle,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return start


@pytest.mark.parametrize("safe", ["", "1"])
def test_it_finds_its_own_files(run: Run, safe: str) -> None:
    """Also where Python looks in no script's folder."""
    done = run("--help", PYTHONSAFEPATH=safe)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "x"],
        ["--mod=x"],
        ["--adapter-path", "x"],
        ["--adapter", "x"],
        ["--draft-model", "x"],
        ["--trust-remote-code"],
        ["--trust"],
        ["--pipeline"],
    ],
    ids=" ".join,
)
def test_no_option_changes_the_model(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "unrecognized arguments" in done.stderr


def test_a_folder_that_is_no_bundle_is_told(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_bytes((bundle / "server.py").read_bytes())
    (tmp_path / "serving").symlink_to(bundle / "serving")
    done = subprocess.run(
        [sys.executable, tmp_path / "server.py"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "serving.json cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port))
        assert done.returncode == 2
        assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert run("--health", "--port", str(port)).returncode == 1


def test_a_wrong_port_in_the_environment_is_told(run: Run) -> None:
    done = run(PORT="eighty")
    assert done.returncode == 2
    assert "eighty" in done.stderr
