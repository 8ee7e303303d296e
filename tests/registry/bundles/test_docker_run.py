"""The command line of the server in a bundle that builds an image."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_cases import Imaged

from fusery.model_server.run import main

pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def bundle(imaged: Imaged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imaged.write(tmp_path_factory.mktemp("bundle"))


def run(bundle: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "server.py", *arguments],
        check=False,
        cwd=bundle,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_finds_its_own_files(bundle: Path) -> None:
    """Also where Python looks in no script's folder."""
    for safe in ("", "1"):
        done = run(bundle, "--help", PYTHONSAFEPATH=safe)
        assert (done.returncode, done.stderr) == (0, "")


def test_no_option_changes_the_model(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        "--model x", "--mod=x", "--adapter-path x", "--adapter x", "--draft-model x", "--trust-remote-code", "--trust", "--pipeline"
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(bundle, words.split())
        assert ended.value.code == 2
        assert "unrecognized arguments" in capsys.readouterr().err


def test_what_cannot_work_is_told(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_bytes((bundle / "server.py").read_bytes())
    (tmp_path / "serving").symlink_to(bundle / "serving")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for folder, arguments, variables, said in (
            (tmp_path, [], {}, "serving.json"),
            (bundle, ["--port", port], {}, port),
            (bundle, [], {"PORT": "eighty"}, "eighty"),
        ):
            done = run(folder, *arguments, **variables)
            assert done.returncode == 2
            assert said in done.stderr
            assert "Traceback" not in done.stderr
