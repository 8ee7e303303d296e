"""`push` and `pull` at the command line: what they print, and that no secret is in anything they leave behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery

from .conftest import require_refusals

CANARY = "canary-9d2f41-secret"


def test_push_and_pull(stocked: Fusery, tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert (stocked("push", "course_rec", "--to", there, "--dry-run").code, there.exists()) == (0, False)
    assert stocked("push", "course_rec", "--to", there).code == 0
    assert stocked("push", "course_rec", "--to", there, "-q").out == ""
    home = ("--registry", tmp_path / "third")
    pull = ("pull", "course_rec", "--from", tmp_path / "home")
    names = stocked(*home, *pull, "-q")
    assert names.out.split() == ["tiny", *sorted(row["name"] for row in stocked("list", "--json").json)]
    document = stocked(*home, *pull, "--json").json
    assert document.keys() == {"reference", "from", "to", "dry_run", "copied", "bytes", "items"}
    assert (document["copied"], document["bytes"], document["dry_run"]) == (0, 0, False)
    assert {item["state"] for item in document["items"]} == {"present"}
    assert stocked(*home, "list", "--json").json == stocked("list", "--json").json
    require_refusals(
        stocked,
        ("push course_rec", "--to"),
        (("push", "nothing", "--to", tmp_path / "x"), "unknown_reference"),
        (("pull", "course_rec", "--from", tmp_path / "x"), "the folder of a backup"),
    )


REFUSED: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
    (("push", "--to", f"postgresql://ann:{CANARY}@127.0.0.1:1/db"), {}),
    (("pull", "--from", f"s3://key:{CANARY}@bucket/x"), {}),
    (("pull", "--from", f"s3://bucket/x?secret={CANARY}"), {}),
    (("pull", "--from", "s3://bucket/x"), {"FUSERY_OTHER_STORE_OPTIONS": f"{{{CANARY}"}),
    (
        ("pull", "--from", "s3://bucket/x"),
        {"FUSERY_OTHER_STORE_OPTIONS": f'{{"no_such_option": "{CANARY}", "endpoint_url": "http://127.0.0.1:1"}}'},
    ),
)  # fmt: skip


@pytest.mark.slow
def test_no_refusal_repeats_a_secret(
    stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for (command, *words), environment in REFUSED:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            for form in ((), ("--json",), ("--dry-run",)):
                done = stocked(command, "course_rec", *words, *form)
                assert done.code == 2, done.out + done.err
                assert CANARY not in done.out + done.err + caplog.text
    assert [path for path in files(tmp_path) if CANARY.encode() in path.read_bytes()] == []


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
