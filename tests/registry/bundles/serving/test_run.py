from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bundling import make_bundle

from fusery.registry.behaviour.models import load_tokenizer
from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.serving.run import Bounded, OneModel, differences
from fusery.registry.server.templates.chat import ChatTemplates

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def bundle(plain_source: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(plain_source, "docker", folder)
    return folder


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


def test_the_installed_mlx_lm_is_as_expected() -> None:
    assert differences(importlib.import_module("mlx_lm.server")) == []


def test_another_mlx_lm_is_noticed() -> None:
    real = importlib.import_module("mlx_lm.server")
    changed = SimpleNamespace(**vars(real))
    changed.run = lambda host, port: None
    del changed.LRUPromptCache
    assert differences(changed) == ["run", "LRUPromptCache"]


def test_without_mlx_lm_the_sentence_says_what_to_install(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mlx_lm").mkdir()
    (tmp_path / "mlx_lm" / "__init__.py").touch()
    done = run(PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install --require-hashes -r requirements.txt" in done.stderr
    (tmp_path / "mlx_lm" / "server.py").write_text("__version__ = '9.9'\ndef main(): ...\n")
    done = run(PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("server.py: mlx-lm 9.9 is not what this bundle was written for (run, ")


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
    assert "cannot be given: this bundle serves the one model in it" in done.stderr


def test_a_folder_that_is_no_bundle_is_told(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_bytes((bundle / "server.py").read_bytes())
    (tmp_path / "serving").symlink_to(bundle / "serving")
    done = subprocess.run(
        [sys.executable, tmp_path / "server.py"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "is not a bundle with a model" in done.stderr
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


def test_whatever_is_asked_for_the_one_model_is_loaded_and_bound(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    asked = []

    class Provider:
        def load(self, *arguments: Any) -> Any:
            asked.append(arguments)
            return "model", tokenizer

    parts = {"templates": ChatTemplates(), "context": 100}
    provider = type("Fixed", (OneModel, Provider), parts)()
    assert provider.load("/etc", "/tmp/adapter", "org/draft") == ("model", tokenizer)
    assert asked == [("default_model", None, "default_model")]
    assert provider.ready is tokenizer
    assert "apply_chat_template" in vars(tokenizer._tokenizer)


def test_prompts_and_answers_stay_within_the_context() -> None:
    class Generator:
        def _tokenize(self, tokenizer: Any, request: list[int], args: Any) -> Any:
            return request, [request], ["assistant"], "normal", None

    generator = type("Fixed", (Bounded, Generator), {"context": 10})()
    args = SimpleNamespace(max_tokens=100)
    assert generator._tokenize(None, [1, 2, 3], args)[0] == [1, 2, 3]
    assert args.max_tokens == 7
    args.max_tokens = 2
    generator._tokenize(None, [1, 2, 3], args)
    assert args.max_tokens == 2
    for request in ([], [1] * 10):
        with pytest.raises(ValueError, match=f"the prompt has {len(request)} tokens; it can have 1 to 9"):
            generator._tokenize(None, request, args)
