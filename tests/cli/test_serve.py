"""`fusery serve` as a process: signals, an alias that moves, and what it says when it cannot serve."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import printed_documents
import pytest
from waiting import wait_until

from .conftest import Fusery, require_refusals, started

V1, V2 = "course_rec_v1_20260115", "course_rec_v2_20260201"


def start(*words: str | Path, form: tuple[str, ...] = ("--json",)) -> subprocess.Popen[str]:
    return started("serve", *words, "--port", "0", *form)


def document(process: subprocess.Popen[str]) -> Any:
    """Return what the command printed, which is as its schema says."""
    assert process.stdout is not None
    lines = ""
    for line in process.stdout:
        lines += line
        if line == "}\n":
            found = json.loads(lines)
            printed_documents.require("serve", found)
            return found
    pytest.fail(f"{lines}{process.stderr.read() if process.stderr else ''}")


@pytest.mark.slow
@pytest.mark.timing
def test_serving_and_following(stocked: Fusery) -> None:
    assert stocked("alias", "set", "course_rec@1", "prod").code == 0
    process = start("course_rec#prod", "--model", "ab=course_rec@1:0.5,course_rec@2:0.5")
    try:
        found = document(process)
        assert found["adapters"] == [V1, V2]
        assert found["models"] == ["tiny", V1, V2, "course_rec#prod", "course_rec", "ab"]
        client = openai.OpenAI(base_url=found["url"], api_key="none", max_retries=0)

        def version() -> str:
            return client.completions.create(model="course_rec#prod", prompt="a", max_tokens=1).model

        assert version() == V1
        assert stocked("alias", "set", "course_rec@2", "prod").code == 0
        wait_until(lambda: version() == V2)
        # Without the two end tokens, the reply has 100 tokens; otherwise it could end at the first.
        options: dict[str, Any] = {"max_tokens": 100, "logit_bias": {"256": -100, "258": -100}}
        stream = client.completions.create(model=V1, prompt="a", stream=True, **options)
        next(iter(stream))
        process.send_signal(signal.SIGTERM)
        reasons = [chunk.choices[0].finish_reason for chunk in stream]
        assert reasons[-1] == "length"
        assert process.wait(60) == 0
        with pytest.raises(openai.APIConnectionError):
            version()
        left = Path(os.environ["FUSERY_REGISTRY"]) / "cache" / "tmp"
        assert list(left.iterdir()) == []
        client.close()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.timing
def test_refusals(stocked: Fusery) -> None:
    before = signal.getsignal(signal.SIGINT)  # a shell's background process ignores it
    require_refusals(
        stocked,
        ("serve", "fusery serve TASK#ALIAS"),
        ("serve course_rec#nobody", "unknown_reference"),
        ("serve course_rec@1 --model x=course_rec@1:no", "bad_input"),
    )
    stocked("alias", "set", "course_rec@2", "beta")
    require_refusals(stocked, ("serve", "fusery serve course_rec#beta"), ("serve beta", "course_rec#beta"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        require_refusals(stocked, (f"serve course_rec@1 --port {taken.getsockname()[1]}", "--port 0"))
    assert signal.getsignal(signal.SIGINT) is before
    assert stocked("yank", "course_rec@1", "--reason", "bad data").code == 0
    require_refusals(stocked, ("serve course_rec@1", "was yanked"))


def keys_of(*tenants: str, **models: str) -> str:
    """Return a file of keys, `sk-NAME` each."""
    return "\n".join(
        f'[{name}]\nkey_sha256 = ["{hashlib.sha256(f"sk-{name}".encode()).hexdigest()}"]\n'
        + (f'models = ["{models[name]}"]\n' if name in models else "")
        for name in tenants
    )


def wait_for_statuses(url: str, **expected: int) -> None:
    """Wait until replies to each `sk-NAME` have these statuses."""
    found: dict[str, int] = {}

    def status(name: str) -> int:
        request = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer sk-{name}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def asked() -> bool:
        found.update({name: status(name) for name in expected})
        return found == expected

    wait_until(asked, lambda: f"{found} instead of {expected}")


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[list[str]]:
    """End a process after the block; what it said on stderr is in the list as it comes."""
    said: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda stream: said.extend(stream), args=(process.stderr,))
    reader.start()
    try:
        yield said
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        reader.join()
        assert process.stdout is not None
        process.stdout.close()
        process.stderr.close()


def wait_until_said(said: list[str], text: str) -> None:
    wait_until(lambda: any(text in line for line in said), lambda: f"{text!r} was not said: {said}")


def put(file: Path, text: str) -> None:
    """Write a file as a whole: a server that looks meanwhile sees it before or after."""
    part = file.with_suffix(".part")
    part.write_text(text)
    part.replace(file)


@pytest.mark.slow
@pytest.mark.timing
def test_a_key_is_taken_back_whatever_else_is_wrong(stocked: Fusery, tmp_path: Path) -> None:
    """A key is revoked despite a tenant of a missing version, a plan that fails and an invalid file."""
    keys = tmp_path / "keys.toml"
    tenants = [f"t{number}" for number in range(5)]
    put(keys, keys_of(*tenants, t4=V1))
    assert stocked("alias", "set", "course_rec@1", "prod").code == 0
    process = start("course_rec#prod", "--api-keys", keys, form=())
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    with ended(process) as said:
        wait_for_statuses(url, t0=200, t4=200, nobody=401)
        assert stocked("alias", "set", "course_rec@2", "prod").code == 0
        wait_until_said(said, f"now serving {V2}")
        put(keys, keys_of(*tenants[1:], t4=V1))
        wait_for_statuses(url, t0=401, t1=200)

        assert stocked("yank", "course_rec@2", "--reason", "bad data").code == 0
        wait_until_said(said, f"still serving {V2}: ")
        put(keys, keys_of(*tenants[2:], t4=V1))
        wait_for_statuses(url, t1=401, t2=200)

        put(keys, "[t3")  # other invalid files: model_server/test_keys.py
        wait_for_statuses(url, t2=503, t3=503, nobody=503)
        put(keys, keys_of("t3"))
        wait_for_statuses(url, t2=401, t3=200)
    assert len([line for line in said if "all requests are refused" in line]) == 1
