"""`fusery deploy sync`: what it prints, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import lora_server
import pytest
from programs import interrupts
from waiting import wait_until

from .conftest import MAIN, Fusery, require_refusals

V1, V2 = "course_rec_v1_20260115", "course_rec_v2_20260201"


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_folder(stocked: Fusery, tmp_path: Path) -> None:
    root = tmp_path / "nim"
    assert stocked("alias", "set", "course_rec@1", "prod").code == 0
    words = ("deploy", "sync", "course_rec#prod", "--to", root)
    place = f"{socket.gethostname()}:{root}"
    for options, code, shown in (
        (("--dry-run",), 0, f"to load {V1} course_rec#prod"),
        (("--check",), 1, f"to load {V1} course_rec#prod"),
        ((), 0, f"loaded {V1} course_rec#prod"),
        (("--check",), 0, "all is as it should be"),
    ):
        ran = stocked(*words, *options)
        assert (ran.code, lines(ran.out), root.exists()) == (
            code,
            [place, shown],
            not shown.startswith("to "),
        )
    assert (stocked(*words, "--check", "-q").out, stocked(*words, "-q").out) == ("", f"{V1}\n")
    stocked("alias", "set", "course_rec@2", "prod")
    assert stocked(*words, "-q").out == f"{V2}\n"
    stocked("yank", "course_rec@2", "--reason", "bad data")
    told = f"withheld {V2} yanked: bad data"
    assert lines(stocked(*words, "--check").out)[1:] == [told, f"to unload {V2} yanked: bad data"]
    ran = stocked(*words)
    assert (ran.code, lines(ran.out)[1:]) == (1, [told, f"unloaded {V2} yanked: bad data"])
    assert (stocked(*words, "--check").code, stocked(*words).code) == (1, 1)
    rows = stocked("deploy", "list", "--all", "--json").json
    ended = [(row["name"], row["via"], row["ended_at"] is not None) for row in rows]
    assert ended == [(V1, "sync", True), (V2, "sync", True)]


def test_refusals(stocked: Fusery, tmp_path: Path) -> None:
    to = f"--to {tmp_path / 'x'}"
    cases: list[tuple[str | tuple[str | Path, ...], str]] = [
        (f"deploy sync {to}", "which adapters"),
        (f"deploy sync course_rec@1 --none {to}", "--none"),
        (f"deploy sync course_rec#prod {to}", "prod"),
        ("deploy sync course_rec@1 --to http://127.0.0.1:1", "which kind of server"),
        ("deploy sync course_rec@1 --to tgi=http://127.0.0.1:1", "no server that takes adapters"),
        ("deploy sync course_rec@1 --to vllm=http://127.0.0.1:1", "server_unavailable"),
        ("deploy sync course_rec@1 --to s3://u:p@bucket/x", "a user"),
        (("deploy", "sync", "--where", "rank >", "--to", tmp_path / "x"), "bad_expression"),
        (("deploy", "sync", "--where", "rank > 99", "--to", tmp_path / "x"), "no adapter fits"),
        ("deploy sync course_rec@1 --to fusery=127.0.0.1:8080", "has no address"),
        (f"deploy sync course_rec@1 {to} --check --watch 5", "--watch"),
        (f"deploy sync course_rec@1 {to} --to y", "One place at a time"),
        ("deploy sync course_rec@1", "usage"),
    ]
    require_refusals(stocked, *cases)
    assert not (tmp_path / "x").exists()
    assert stocked("deploy", "list", "--all", "-q").out == ""


@pytest.mark.slow
@pytest.mark.timing
def test_a_server_s_refusal_ends_with_1(stocked: Fusery, tmp_path: Path) -> None:
    with lora_server.serving("vllm", "tiny") as (server, url):
        server.max_rank = 4
        ran = stocked("deploy", "sync", "course_rec@1", "course_rec@2", "--to", f"vllm={url}")
        assert ran.code == 1
        assert lines(ran.out)[1:] == [
            f"not loaded {V1} {url} refused the request: LoRA rank 8 is greater than max_lora_rank 4.",
            f"loaded {V2} course_rec@2",
        ]
        assert stocked("deploy", "sync", "course_rec@2", "--to", f"vllm={url}", "--check").code == 0


def documents(path: Path) -> list[list[tuple[str, str]]]:
    """Return the acts of each document that was printed."""
    text, decoder, found = path.read_text(), json.JSONDecoder(), []
    while text := text.lstrip():
        try:
            document, end = decoder.raw_decode(text)
        except ValueError:  # it is still being printed
            break
        found.append([(step["act"], step["adapter"]) for step in document["steps"]])
        text = text[end:]
    return found


@pytest.mark.slow
@pytest.mark.timing
def test_watching_follows_an_alias_and_a_server_that_starts_anew(stocked: Fusery, tmp_path: Path) -> None:
    stocked("alias", "set", "course_rec@1", "prod")
    told, expected = tmp_path / "told", [[("load", V1)], [("load", V2), ("unload", V1)], [("load", V2)]]

    def wait(number: int) -> None:
        wait_until(lambda: documents(told) == expected[:number], lambda: f"{documents(told)}")

    with told.open("w") as out:
        with lora_server.serving("sglang", "tiny") as (_, url):
            words = ("deploy", "sync", "course_rec#prod", "--to", f"sglang={url}", "--watch", "0.2", "--json")
            with interrupts():
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", MAIN, *words], stdout=out, stderr=subprocess.PIPE, text=True
                )
            try:
                wait(1)
                stocked("alias", "set", "course_rec@2", "prod")
                wait(2)
            except BaseException:
                process.kill()
                raise
        try:
            with lora_server.serving("sglang", "tiny", port=int(url.rpartition(":")[2])) as (second, _):
                wait(3)
                assert set(second.loaded) == {V2}
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
    assert (process.returncode, "Traceback" in err) == (0, False)


@pytest.mark.slow
@pytest.mark.timing
def test_the_server_of_our_own(stocked: Fusery, tmp_path: Path) -> None:
    """`fusery serve --adapters-from`, in its own process, answers by an adapter that was synced to it."""
    import openai

    from .test_serve import document, start

    shelf = tmp_path / "shelf"
    shelf.mkdir()
    process = start("course_rec@1", "--adapters-from", str(shelf))
    try:
        url = document(process)["url"]
        words = ("deploy", "sync", "course_rec@1", "course_rec@2", "--to", f"fusery={url}")
        refused = stocked(*words)  # the server may not read the default folder
        assert refused.code == 1 and "--adapters-from FOLDER" in refused.out
        ran = stocked(*words, "--folder", shelf)
        assert ran.code == 0, ran.err
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            assert client.completions.create(model=V2, prompt="a", max_tokens=2).model == V2
            assert (
                stocked("deploy", "sync", "course_rec@1", "--to", f"fusery={url}", "--folder", shelf).code
                == 0
            )
            with pytest.raises(openai.NotFoundError):
                client.completions.create(model=V2, prompt="a", max_tokens=2)
    finally:
        process.kill()
        process.communicate()
