"""The official `openai` client on the server of a bundle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from bundle_cases import make_bundle
from openai_contract import Endpoint, OpenAIContract
from ports import free_port

from fusery.registry.bundles import BundleSource


@pytest.fixture(scope="module")
def served(plain_source: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    (folder / "bundle").mkdir()
    make_bundle(plain_source, "docker", folder / "bundle")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "server.py", "--port", str(port)],
            cwd=folder / "bundle",
            stdout=log,
            stderr=subprocess.STDOUT,
            # Compiling for the processor takes seconds at every first use.
            env=os.environ | {"MLX_DISABLE_COMPILE": "1"},
        )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/health", process)
        name = plain_source.name
        yield Endpoint(f"http://127.0.0.1:{port}/v1", name, name, 2048, plain={"98": 100})
    finally:
        process.kill()
        process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(url):
                return
        except urllib.error.URLError:
            time.sleep(0.1)
    pytest.fail("the server does not get ready")


class TestOpenAI(OpenAIContract):
    @pytest.fixture
    def endpoint(self, served: Endpoint) -> Endpoint:
        return served
