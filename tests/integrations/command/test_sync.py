"""`fusery deploy sync`: what it prints, and how it ends."""

from __future__ import annotations

import socket
from pathlib import Path

from cli.conftest import Fusery, require_refusals

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
        (("--check",), 0, "in sync"),
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
        (f"deploy sync {to}", "no adapters are selected"),
        (f"deploy sync course_rec@1 --none {to}", "--none"),
        (f"deploy sync course_rec#prod {to}", "prod"),
        ("deploy sync course_rec@1 --to http://127.0.0.1:1", "which kind of server"),
        ("deploy sync course_rec@1 --to tgi=http://127.0.0.1:1", "unknown kind of server"),
        ("deploy sync course_rec@1 --to vllm=http://127.0.0.1:1", "server_unavailable"),
        ("deploy sync course_rec@1 --to s3://u:p@bucket/x", "a user"),
        (("deploy", "sync", "--where", "rank >", "--to", tmp_path / "x"), "bad_expression"),
        (("deploy", "sync", "--where", "rank > 99", "--to", tmp_path / "x"), "no adapter matches"),
        ("deploy sync course_rec@1 --to fusery=127.0.0.1:8080", "has no address"),
        (f"deploy sync course_rec@1 {to} --check --watch 5", "--watch"),
        (f"deploy sync course_rec@1 {to} --to y", "One place at a time"),
        ("deploy sync course_rec@1", "usage"),
    ]
    require_refusals(stocked, *cases)
    assert not (tmp_path / "x").exists()
    assert stocked("deploy", "list", "--all", "-q").out == ""
