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
from pathlib import Path

import pytest
import shift_cipher_adapters
from interrupts import interrupts
from ports import free_port
from serving_server import served

from fusery.registry.server import listening, run
from fusery.registry.server.errors import ServingError
from fusery.storage.errors import StorageError

MAIN = """
import sys
from pathlib import Path
from fusery.registry.server.run import main
sys.exit(main(Path(sys.argv.pop(1))))
"""


def start(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, str(folder), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_no_bundle(tmp_path: Path) -> None:
    ran = start(tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"server.py: {tmp_path}/serving.json cannot be read: no such file or directory\n"


@pytest.mark.slow
def test_a_base_that_is_not_there(tmp_path: Path) -> None:
    document = {"format": 1, "base": {"name": "a/model-of-a-hub", "folder": "base"}}
    (tmp_path / "serving.json").write_text(json.dumps(document))
    ran = start(tmp_path, "--port", "0")
    # An end of the interpreter with mlx's threads in it would be an abort, exit code 134.
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.endswith(
        "server.py: the base cannot be loaded: there is no config.json in its folder\n"
    )


def test_health(echo_base: Path, tmp_path: Path) -> None:
    with served(shift_cipher_adapters.make_bundle(tmp_path / "served", (1,), base=echo_base)) as running:
        assert run.main(tmp_path, ["--health", "--port", running.root.rpartition(":")[2]]) == 0
    assert run.health(free_port()) == 1


@pytest.mark.parametrize(("host", "port"), [("203.0.113.1", 0), ("no such host", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_cannot_be_had(host: str, port: int) -> None:
    with pytest.raises(ServingError, match="cannot listen on"):
        listening.bind(host, port)


def test_ipv6() -> None:
    try:
        with listening.bind("::1", 0) as listener:
            assert listener.family == socket.AF_INET6
    except ServingError:
        pytest.skip("this machine has no IPv6")


def test_what_fails_once_all_is_loaded_ends_it_before_anything_is_answered(
    echo_base: Path, tmp_path: Path
) -> None:
    folder = shift_cipher_adapters.make_bundle(tmp_path / "served", (1,), base=echo_base)
    before, said = signal.getsignal(signal.SIGTERM), list[str]()

    def refuse() -> None:
        raise StorageError("the base changed")

    with pytest.raises(StorageError, match="the base changed"):
        run.serve(
            folder / "serving.json",
            host="127.0.0.1",
            port=0,
            loaded=refuse,
            ready=lambda url: pytest.fail(f"{url} answers"),
            say=said.append,
        )
    assert [text.split()[0] for text in said] == ["loading", "testing", "loading", "preparing"]
    assert said[0] == "loading echo"
    assert signal.getsignal(signal.SIGTERM) is before
    assert not [thread for thread in threading.enumerate() if thread.name == "engine"]


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_ends_it_unless_a_shell_has_it_ignored(
    echo_base: Path, tmp_path: Path, *, ignored: bool
) -> None:
    folder = shift_cipher_adapters.make_bundle(tmp_path / "served", (1,), base=echo_base)
    port = free_port()
    words = [sys.executable, "-c", MAIN, str(folder), "--port", str(port)]
    with interrupts(signal.SIG_IGN if ignored else signal.default_int_handler):
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stderr is not None
            if ignored:
                process.send_signal(signal.SIGINT)
            seen = next(line for line in process.stderr if "listening on" in line)
            process.send_signal(signal.SIGINT)
            if ignored:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as reply:
                    assert reply.status == 200
                process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, seen + said


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.slow
def test_a_signal_ends_it_whatever_it_is_at(echo_base: Path, tmp_path: Path) -> None:
    """A template without end, a stream that nobody reads, a body that does not come and half a head."""
    base = shutil.copytree(echo_base, tmp_path / "base")
    (base / "chat_template.jinja").write_text(ENDLESS)
    folder = shift_cipher_adapters.make_bundle(tmp_path / "served", (1,), base=base)
    port = free_port()
    words = [sys.executable, "-c", MAIN, str(folder), "--port", str(port), "--drain", "1"]
    clients = []

    def send(path: str, body: str, length: int = 0) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client = socket.create_connection(("127.0.0.1", port), timeout=60)
        clients.append(client)
        client.sendall(f"{head}Content-Length: {length or len(body)}\r\n\r\n{body}".encode())

    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            seen = ""
            while "listening on" not in seen:
                line = process.stderr.readline()
                assert line, seen
                seen += line
            whole = {"model": "caesar_v1", "prompt": "a", "max_tokens": 1900, "n": 8, "stream": True}
            for _ in range(3):
                send("/v1/completions", json.dumps(whole))
            chat = {"model": "caesar_v1", "messages": [{"role": "user", "content": "a"}]}
            send("/v1/chat/completions", json.dumps(chat))
            send("/v1/completions", "{", 1000)
            clients[-1].sendall(b"x")
            send("/v1/completions HTTP/1.1\r\nX: ", "")
            clients[0].recv(1)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
            for client in clients:
                client.close()
    assert process.returncode == 0, said
    assert "Traceback" not in said
