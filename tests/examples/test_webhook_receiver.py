"""The sample receiver: it takes what is genuine and recent, each delivery once, and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from programs import free_port
from waiting import wait_until

from fusery.registry import Registry
from fusery.registry.webhooks.sending import derive, headers, key_text
from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace

pytestmark = pytest.mark.timing

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "webhooks" / "receiver.py"
KEY = derive(b"0123456789abcdef0123456789abcdef", "ab" * 16, "https://hooks.example.org/")
BODY = json.dumps(
    {"type": "alias.moved", "data": {"subject": "course_rec#prod", "summary": "none -> course_rec@1"}}
)


@dataclass
class Sample:
    port: int
    printed: Path

    def post(self, headers: Mapping[str, str], body: bytes = BODY.encode()) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", "/", body, dict(headers))
            return connection.getresponse().status
        finally:
            connection.close()

    @property
    def lines(self) -> list[str]:
        return self.printed.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def sample(tmp_path: Path) -> Iterator[Sample]:
    with started(Sample(free_port(), tmp_path / "printed"), key_text(KEY)) as made:
        yield made


@contextmanager
def started(made: Sample, key: str) -> Iterator[Sample]:
    environment = {**os.environ, "WEBHOOK_KEY": key}
    with made.printed.open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, "-I", str(PROGRAM), str(made.port)],
            env=environment,
            stdout=printed,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: listens(made))
            yield made
        finally:
            process.kill()
            process.wait()


def listens(sample: Sample) -> bool:
    try:
        return sample.post({}) == 401
    except OSError:
        return False


def signed(*, age: int = 0, key: bytes = KEY, body: bytes = BODY.encode()) -> dict[str, str]:
    return dict(headers([key], "msg_1", int(time.time()) - age, body))


def test_what_is_genuine_is_done_once(sample: Sample) -> None:
    assert sample.post(signed()) == 204
    assert sample.post(signed()) == 204
    assert sample.lines == ["alias.moved course_rec#prod none -> course_rec@1"]
    # Either of two signatures is enough.
    assert sample.post(dict(headers([b"x" * 32, KEY], "msg_2", int(time.time()), BODY.encode()))) == 204
    assert len(sample.lines) == 2


def test_what_is_not_genuine_or_not_recent_is_refused(sample: Sample) -> None:
    for wrong in (
        signed(key=b"x" * 32),
        signed(age=3600),
        signed(age=-3600),
        {**signed(), "Webhook-Id": "msg_2"},
        {**signed(), "Webhook-Timestamp": "soon"},
        {**signed(), "Webhook-Signature": ""},
        {},
    ):
        assert sample.post(wrong) == 401, wrong
    assert sample.post(signed(), BODY.replace("prod", "test").encode()) == 401
    assert sample.post({**signed(), "Content-Length": str(1 << 21)}, b"") == 413
    assert sample.lines == []


def test_it_takes_what_fusery_sends(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("FUSERY_WEBHOOK_PRIVATE", "1")
    settings, port = Settings(home=tmp_path / "home", database_url=sqlite_url), free_port()
    registry = Registry(Workspace(settings))
    registry.init()
    added = registry.webhooks.add(f"http://127.0.0.1:{port}", "webhook.*", name="ci", allow_private=True)
    assert added.key is not None
    with started(Sample(port, tmp_path / "printed"), added.key) as sample:
        [done] = registry.webhooks.deliver()
        assert (len(done.delivered), done.error) == (1, None)
        assert [line.split(" to ")[0] for line in sample.lines] == ["webhook.added ci webhook.*"]
    registry.close()
