"""Starting and ending the server of a bundle."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import chat_templates
import psutil
import pytest
import shift_cipher_adapters
from programs import free_port, interrupts, template_processes
from waiting import wait_until

from fusery.model_server import run
from fusery.registry.runtime.document import ServerOptions
from fusery.registry.runtime.errors import ServingError
from fusery.registry.runtime.http_server import bind
from fusery.storage.errors import StorageError

pytestmark = pytest.mark.timing

MAIN = """
import sys
from pathlib import Path
from fusery.model_server.run import main
sys.exit(main(Path(sys.argv.pop(1))))
"""


def start(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, str(folder), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_no_bundle(tmp_path: Path) -> None:
    ran = start(tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count("\n") == 1


def test_options_come_from_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, folder in (("", None), ("adapters", Path("adapters"))):
        monkeypatch.setenv("ADAPTERS_FROM", text)
        assert run._parser().parse_args([]).adapters_from == folder


def test_health_without_a_server() -> None:
    assert run.health(free_port()) == 1


@pytest.mark.parametrize(("host", "port"), [("203.0.113.1", 0), ("no such host", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_cannot_be_had(host: str, port: int) -> None:
    with pytest.raises(ServingError):
        bind(host, port)


def test_ipv6() -> None:
    try:
        with bind("::1", 0) as listener:
            assert listener.family == socket.AF_INET6
    except ServingError:
        pytest.skip("this machine has no IPv6")


def test_what_fails_once_all_is_loaded_ends_it_before_anything_is_answered(
    echo_base: Path, tmp_path: Path
) -> None:
    folder = shift_cipher_adapters.make_bundle(tmp_path / "served", (1,), base=echo_base)
    before, said = signal.getsignal(signal.SIGTERM), list[str]()
    error = StorageError("the base changed")

    def refuse() -> None:
        raise error

    with pytest.raises(StorageError) as caught:
        how = {"loaded": refuse, "ready": lambda url: pytest.fail(f"{url} answers"), "say": said.append}
        run.serve(folder / "serving.json", ServerOptions(), **how)  # type: ignore[arg-type]
    assert caught.value is error
    assert len(said) == 4
    assert signal.getsignal(signal.SIGTERM) is before
    assert not [thread for thread in threading.enumerate() if thread.name == "engine"]


@contextmanager
def started(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a server that listens; it is to end well after the block."""
    port = free_port()
    command = [sys.executable, "-c", MAIN, str(folder), "--port", str(port), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            seen = ""
            while "listening on" not in seen:
                line = process.stderr.readline()
                assert line, seen
                seen += line
            yield process, port
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_signal_ends_it_whatever_it_is_at(echo_base: Path, tmp_path: Path) -> None:
    """SIGINT is ignored if a shell started the server in the background."""
    base = shutil.copytree(echo_base, tmp_path / "base")
    (base / "chat_template.jinja").write_text(chat_templates.ENDLESS)
    folder = shift_cipher_adapters.make_bundle(tmp_path / "served", (1,), base=base)
    with (
        ExitStack() as clients,
        interrupts(signal.SIG_IGN),
        started(folder, "--drain", "1") as (process, port),
    ):
        process.send_signal(signal.SIGINT)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as reply:
            assert reply.status == 200

        def send(path: str, body: str, length: int = 0) -> socket.socket:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            client.sendall(f"{head}Content-Length: {length or len(body)}\r\n\r\n{body}".encode())
            return client

        whole = {"model": "caesar_v1", "prompt": "a", "max_tokens": 1900, "n": 8, "stream": True}
        first, *_ = [send("/v1/completions", json.dumps(whole)) for _ in range(3)]
        chat = {"model": "caesar_v1", "messages": [{"role": "user", "content": "a"}]}
        rendered = send("/v1/chat/completions", json.dumps(chat))
        send("/v1/completions", "{", 1000).sendall(b"x")
        send("/v1/completions HTTP/1.1\r\nX: ", "")
        first.recv(1)
        server = psutil.Process(process.pid)
        wait_until(lambda: template_processes(server))
        left = server.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert rendered.recv(4096).startswith(b"HTTP/1.1 503")
        assert not psutil.wait_procs(left, timeout=60)[1]
