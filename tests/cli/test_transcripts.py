"""What commands print, word for word: each file in `transcripts/` is a story that is told again in a registry of its own.

    $ [NAME=VALUE] WORDS…    a command: below it stand its stdout, its stderr behind `! `, and its exit code where it is not 0
    > FILE TEXT              writes a file
    + N                      lets N days go by

Where the output of commands was changed on purpose, remake the transcripts and read the difference:

    FUSERY_REMAKE=1 .venv/bin/python -P -m pytest tests/cli/test_transcripts.py
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tiny_models
from alias_year import Clock
from fastapi import Request
from page_server import pages_of
from run_folders import plain_log

from fusery.cli.main import run
from fusery.registry import Registry, parsing
from fusery.web.auth import LocalAuth, Principal, bearer

from .conftest import Fusery

FOLDER = Path(__file__).parent / "transcripts"
BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
VARIABLE = (
    (r"\b[0-9a-f]{32}([0-9a-f]{32})?\b", "<digest>"),
    (r"\b[0-9a-f]{12,16}\b", "<digest…>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", "<now>"),
    (r"(seconds\W+|last used |html: )\d[\w.:+-]+", r"\1<n>"),
    (r"(\d files, )[\d.]+ KiB|(\b)[\d,]+ bytes", r"\1\2<n>"),
    (r"(small_v1_)\d{8}", r"\1<today>"),
    (r"^! Usage: [^\n]*\n! Try [^\n]*\n", ""),
    (r"^(! Traceback).*?\n(?=! \w)", r"\1…\n"),
    (r"\b(fsy_|fusery_|whsec_)[\w+/=-]{20,}", "<secret>"),
)
"""What differs from run to run or says little, and what stands for it."""
AGE = parsing.age

ELSEWHERE: dict[str, str] = {
    "admin init": "the server made the registry, and says so",
    "admin db upgrade": "whoever runs the server upgrades its database",
    "admin backup kept": "a backup is made where the server runs",
    "--registry new admin restore kept": "there is no backup, since that is made where the server runs",
    "--registry new admin restore kept --own": "there is no backup, since that is made where the server runs",
    "audit": "a server reads no files at a path that a client names, such as a bundle's",
    "audit --chain --anchor log.anchor --key ann.pub": "files of this machine are no part of the server's audit",
    "ui --save page.html": "the server does not tell how far it is",
    "admin gc --grace 0s --dry-run": "the server does not tell how far it is",
    "get same@1 copied": "the copy here lacks the yanked record with the same bytes",
    "get same@1": "the copy here lacks the yanked record with the same bytes",
    "materialize same@1 packed": "the copy here lacks the yanked record with the same bytes",
    "show course_rec@2": "another form of an adapter that an export made here stays here",
}
"""Commands that cannot print the same on a server's registry, each with a reason."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registry of a base and two versions of a task, of which one has a training curve; to be copied."""
    folder = tmp_path_factory.mktemp("shelf")
    base = tiny_models.make_base(folder / "base", layers=2, hidden=64, intermediate=128)
    for name, seed, rank in (("first", 1, 8), ("second", 2, 4), ("third", 3, 4)):
        made = tiny_models.make_adapter(folder / name, base, seed=seed, rank=rank, keys=["mlp.up_proj"])
        config = made / "adapter_config.json"
        config.write_text(
            config.read_text().replace(str(base), "tiny").replace('"iters": 100', '"iters": 600')
        )
    losses = {1: 3.0, 200: 1.5, 400: 0.75, 600: 0.42}
    (folder / "third" / "train.log").write_text(
        plain_log(losses, {step: 3 - step / 250 for step in range(10, 601, 10)})
    )
    clock, courses = Clock(BEGIN), ["--dataset", "courses", "-q"]
    with pytest.MonkeyPatch.context() as patch:
        clock.put_in(patch)
        patch.setenv("FUSERY_REGISTRY", str(folder / "home"))
        patch.setenv("FUSERY_USER", "anna")
        patch.chdir(folder)
        assert run(["base", "add", "base", "--name", "tiny", "-q"]) == 0
        facts = ["--base", "tiny", "--task", "course_rec", "--date"]
        assert run(["register", "first", *facts, "20260115", "--val-loss", "0.61", "-q"]) == 0
        clock.now += timedelta(days=1)
        assert run(["register", "second", *facts, "20260201", "--val-loss", "0.42", *courses]) == 0
    return folder


class Story:
    """Runs the lines of a transcript."""

    def __init__(
        self, fusery: Fusery, folder: Path, patch: pytest.MonkeyPatch, places: tuple[str, ...] = ()
    ) -> None:
        self._fusery, self._folder, self._patch, self._places = fusery, folder, patch, places
        self._clock = Clock(BEGIN + timedelta(days=1))
        self._clock.put_in(patch)
        patch.setattr(parsing, "age", lambda moment: AGE(moment, now=self._clock.now))

    def lines(self, told: str) -> Iterator[str]:
        """Yield the lines of a transcript as its commands make them now."""
        for line in told.splitlines():
            mark, _, text = line.partition(" ")
            if mark in ("+", ">", "$"):
                yield line
            if mark == "+":
                self._clock.now += timedelta(days=int(text))
            elif mark == ">":
                path, _, content = text.partition(" ")
                Path(path).parent.mkdir(exist_ok=True)
                Path(path).write_text(content)
            elif mark == "$":
                yield from self._printed(shlex.split(text))

    def _printed(self, words: list[str]) -> Iterator[str]:
        with self._patch.context() as patch:
            patch.setenv("FUSERY_USER", "anna")
            while re.match("[A-Z_]+=", words[0]):
                patch.setenv(*words.pop(0).split("=", 1))
            patch.setenv("FUSERY_TOKEN", f"token-of-{os.environ['FUSERY_USER']}")
            ran = self._fusery(*words)
        out = ran.out
        if "--json" in words:
            document = json.loads(out)
            items = document.items() if isinstance(document, dict) else enumerate(document)
            out = "\n".join(f"{key}: {json.dumps(value)}" for key, value in items)
        text = "\n".join([*out.splitlines(), *(f"! {line}" for line in ran.err.splitlines())])
        for place in self._places:
            text = re.sub(place, f"{self._folder}/home", text)
        text = text.replace(str(self._folder), "~")
        for pattern, name in VARIABLE:
            text = re.sub(pattern, name, text, flags=re.MULTILINE | re.DOTALL)
        yield from (line.rstrip() for line in text.splitlines() if line.strip(" !─") or not line)
        if ran.code:
            yield f"[{ran.code}]"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.txt")))
def test_transcript(
    name: str, fusery: Fusery, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shelf, tmp_path, dirs_exist_ok=True)
    path = FOLDER / f"{name}.txt"
    told = path.read_text(encoding="utf-8")
    retold = "".join(f"{line}\n" for line in Story(fusery, tmp_path, monkeypatch).lines(told))
    if "FUSERY_REMAKE" in os.environ:
        path.write_text(retold, encoding="utf-8")
    else:
        assert retold == told


class NamedDoor(LocalAuth):
    """Everybody who asks has a token, with their name in it."""

    def principal(self, request: Request) -> Principal:
        """Return who asks."""
        name = (bearer(request) or "").removeprefix("token-of-")
        return Principal(name, "admin", is_program=True)


def blocks(told: str) -> list[tuple[str, str]]:
    """Return the commands of a transcript, each with what it prints."""
    found: list[tuple[str, str]] = []
    for line in told.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].strip(), ""))
        elif not line.startswith(("+ ", "> ")):
            command, printed = found[-1]
            found[-1] = command, printed + line
    return found


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.txt")))
def test_transcript_on_a_server(
    name: str, fusery: Fusery, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shelf, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cached"))
    told = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    with Registry.open(tmp_path / "home") as registry, pages_of(registry, NamedDoor("anna")) as url:
        monkeypatch.setenv("FUSERY_REGISTRY", url)
        replica = rf"{re.escape(str(tmp_path))}/cached/servers/[\w.-]+"
        story = Story(fusery, tmp_path, monkeypatch, (replica, re.escape(url)))
        retold = "".join(f"{line}\n" for line in story.lines(told))
    different = [
        (command, here, there)
        for (command, here), (_, there) in zip(blocks(told), blocks(retold), strict=True)
        if here != there and command not in ELSEWHERE
    ]
    assert different == []
