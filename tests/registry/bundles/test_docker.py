"""A docker bundle's server, with a real (tiny, random) model, its command line and its pinned requirements."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from bundle_cases import Imaged, make_bundle, model_folder
from bundle_server import COMMAND, RunningBundle, running_bundle
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fusery.model_server.run import main
from fusery.registry.bundles import BundleSource

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
    done = run(bundle, "--help", PYTHONSAFEPATH="1")
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


HELLO = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "temperature": 0}


@pytest.fixture(scope="module")
def server(plain_source: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBundle]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "bundle").mkdir()
    manifest = make_bundle(plain_source, "docker", folder / "bundle").manifest
    with running_bundle(folder / "bundle", folder / "log") as running:
        yield running
        running.process.terminate()
        assert running.process.wait(60) == 0, running.log.read_text()
        assert "Traceback" not in running.log.read_text()
        files = [path for path in running.folder.rglob("*") if path.is_file()]
        left = {path.relative_to(running.folder).as_posix() for path in files}
        assert left == {entry.path for entry in manifest}, "serving left files in the bundle"


def ask(server: RunningBundle, path: str, body: Any = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def post(server: RunningBundle, body: Any, path: str = "/v1/chat/completions") -> tuple[int, Any]:
    status, text = ask(server, path, body)
    return status, json.loads(text)


def test_chat_and_text(server: RunningBundle, plain_source: BundleSource) -> None:
    status, text = ask(server, "/v1/models")
    assert (status, [entry["id"] for entry in json.loads(text)["data"]]) == (200, [plain_source.name])
    status, document = post(server, HELLO | {"model": plain_source.name})
    assert (status, document["object"], document["model"]) == (200, "chat.completion", plain_source.name)
    assert document["system_fingerprint"] == f"fusery-{plain_source.fused.manifest.digest[:16]}"
    status, document = post(server, {"prompt": "hello", "max_tokens": 3}, "/v1/completions")
    assert (status, document["object"], document["usage"]["prompt_tokens"]) == (200, "text_completion", 5)


def test_nothing_else_is_loaded(server: RunningBundle, plain_source: BundleSource) -> None:
    folder = str(model_folder(plain_source))
    assert post(server, HELLO | {"model": folder})[0] == 404
    assert post(server, HELLO | {"model": plain_source.name, "adapters": folder})[0] == 400
    assert post(server, HELLO | {"draft_model": folder})[0] == 400
    assert folder not in server.log.read_text()


def test_health_command(server: RunningBundle) -> None:
    # A proxy that is set for other things does not matter.
    variables = {"PORT": server.url.rpartition(":")[2], "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "server.py", "--health"]
    assert subprocess.run(command, check=False, cwd=server.folder, env=os.environ | variables).returncode == 0


def test_a_model_that_does_not_load_ends_it(plain_source: BundleSource, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    make_bundle(plain_source, "docker", tmp_path / "bundle")
    (tmp_path / "bundle" / "model" / "model.safetensors").write_bytes(b"\0" * 100)
    done = subprocess.run(
        COMMAND, cwd=tmp_path / "bundle", capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr


LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}


@pytest.fixture(scope="module", params=["", "-nvidia"], ids=["cpu", "nvidia"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lines(variant: str, plain_source: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(plain_source, "docker", folder)
    text = (folder / f"requirements{variant}.txt").read_text().replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def pinned(lines: list[str]) -> list[Requirement]:
    return [Requirement(line.partition("--hash")[0]) for line in lines]


def test_every_package_is_pinned_and_hashed(
    variant: str, lines: list[str], pinned: list[Requirement]
) -> None:
    import fusery.registry.bundles as package

    for line, requirement in zip(lines, pinned, strict=True):
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), line
        assert requirement.url is None
        assert not line.startswith("-")
        assert re.fullmatch(r"[^@/]+?(?:\s+--hash=sha256:[0-9a-f]{64})+", line), line
    # The server is the one that was tested, and the input is kept beside it.
    versions = {requirement.name: str(requirement.specifier) for requirement in pinned}
    assert len(versions) == len(pinned)
    for name in ("mlx", "mlx-lm"):
        assert versions[name] == f"=={importlib.metadata.version(name)}"
    source = Path(package.__file__).with_name("templates") / f"requirements{variant.replace('-', '_')}.in"
    wanted = [Requirement(line) for line in source.read_text().splitlines() if not line.startswith("#")]
    for requirement in wanted:
        assert requirement.specifier.contains(versions[requirement.name].removeprefix("=="))


def test_nothing_is_missing_on_linux(variant: str, pinned: list[Requirement]) -> None:
    here = {canonicalize_name(installed.name) for installed in importlib.metadata.distributions()}
    own, other = ("mlx-cuda-13", "mlx-cpu") if variant else ("mlx-cpu", "mlx-cuda-13")
    for version, machine in product(("3.11", "3.12", "3.13"), ("x86_64", "aarch64")):
        platform = {"python_version": version, "python_full_version": f"{version}.0"}
        environment = LINUX | platform | {"platform_machine": machine}
        found = {r.name for r in pinned if r.marker is None or r.marker.evaluate(environment)}
        assert {"mlx", own, "mlx-lm", "numpy", "transformers"} <= found
        assert not {"mlx-metal", other} & found
        for name in found & here:
            for needed in map(Requirement, importlib.metadata.requires(name) or ()):
                if needed.marker is None or needed.marker.evaluate(environment):
                    assert canonicalize_name(needed.name) in found, f"{name} needs {needed.name}"
