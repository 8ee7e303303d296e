"""Bundles for llama.cpp, served by the real llama-server: whoever names a model gets that one, and nothing of the others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import llama_server
import openai
import pytest
import shift_cipher_adapters
from bundle_cases import make_bundle
from consumers import adapters_source

from fusery.integrations.gguf.llamacpp import served_name

pytestmark = pytest.mark.timing
pytest.importorskip("gguf")

SHIFTS = {"caesar_v1_20260115": 3, "caesar_v2_20260201": 5}
BASE = "org/Tiny-1M"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("llamacpp")
    base = shift_cipher_adapters.make_base(scratch / "base")
    adapters = [
        shift_cipher_adapters.make_adapter(scratch / name, base, shift) for name, shift in SHIFTS.items()
    ]
    folder = scratch / "bundle"
    folder.mkdir()
    make_bundle(adapters_source(base, scratch / "rendered", *adapters), "llamacpp", folder)
    return folder


def says(client: openai.OpenAI, model: str) -> str:
    reply = client.completions.create(model=model, prompt="hello", max_tokens=4, temperature=0)
    return reply.choices[0].text


def expected(shift: int) -> str:
    return shift_cipher_adapters.answer("hello", shift, 4)


@pytest.fixture(scope="module")
def client(bundle: Path) -> openai.OpenAI:  # type: ignore[misc]
    with llama_server.started("sh", bundle / "serve.sh", cwd=bundle.parent) as found:
        yield found


def test_a_plain_client_gets_what_it_names(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {BASE, *SHIFTS}
    for _ in range(2):  # also from what a process has cached
        assert says(client, BASE) == "oooo"
        for name, shift in SHIFTS.items():
            assert says(client, name) == expected(shift)
            assert llama_server.chat(client, name, "hello", 4) == shift_cipher_adapters.chat_answer(shift, 4)
    for name in SHIFTS:
        assert llama_server.scales(client, name) == [(f"{name}.gguf", 1.0)]
    assert llama_server.scales(client, BASE) == []
    for name in ("caesar_v3_20260301", "", "caesar", f"{BASE}:latest"):
        with pytest.raises(openai.BadRequestError):
            says(client, name)


@pytest.mark.parametrize(("name", "answer"), [(BASE, "oooo"), ("caesar_v2_20260201", expected(5))])
def test_one_is_served_alone_if_that_is_said(bundle: Path, name: str, answer: str) -> None:
    with llama_server.started("sh", bundle / "serve.sh", name) as alone:
        assert [model.id for model in alone.models.list()] == [name]
        assert says(alone, name) == says(alone, "whatever") == answer


def run(bundle: Path, *words: str, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", bundle / "serve.sh", *words], env={"PATH": path}, capture_output=True, text=True, check=False
    )


def test_what_cannot_be_served_is_said_in_a_sentence(bundle: Path, tmp_path: Path) -> None:
    done = run(bundle)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "serve.sh: there is no llama-server on the PATH; it comes with llama.cpp\n"
    old = tmp_path / "llama-server"
    old.write_text('#!/bin/sh\n[ "$1" = --help ] && echo "--lora FNAME" || printf "%s\\n" "$@"\n')
    old.chmod(0o755)
    done = run(bundle, "--port", "8081", path=f"{tmp_path}:/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (2, "")
    assert "serves one model only" in done.stderr
    assert "sh serve.sh caesar_v1_20260115" in done.stderr
    done = run(bundle, "caesar", path=f"{tmp_path}:/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"there is no model caesar here; there are: {BASE} {' '.join(SHIFTS)}" in done.stderr
    done = run(bundle, "caesar_v2_20260201", "--port", "8081", path=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 0
    assert (
        "--lora\nadapters/caesar_v2_20260201.gguf\n--alias\ncaesar_v2_20260201\n--port\n8081\n" in done.stdout
    )


def test_the_base_has_a_name_of_its_own() -> None:
    for base, adapters, name in (
        ("Tiny-1M", ["a_v1"], "Tiny-1M"),
        ("a_v1", ["a_v1"], "base"),
        ("A_V1", ["a_v1"], "base"),
        ("two words", ["base"], "base-0"),
        ("", ["base", "base-0"], "base-1"),
    ):
        assert served_name(base, adapters) == name
