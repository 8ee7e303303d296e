"""The commands that are made to fail, and a registry in which each of them has something to do."""

from __future__ import annotations

import os
from pathlib import Path

import tiny_models
from store_shelf import Shelf

KEEP = "--as keep --accept-loss"

COMMANDS: dict[str, str] = {
    "base add": "base add other --name other",
    "register": "register third --base tiny --task course_rec --parent course_rec@1",
    "fuse": f"fuse course_rec@2 {KEEP} --publish full",
    "materialize": f"materialize course_rec@1 bundle {KEEP} --target docker --force",
    "gc": "admin gc --yes --grace 0",
    "push": "push course_rec --fused --to there",
    "deploy record": "deploy record course_rec@2 eu/ranker --replace",
    "deploy end": "deploy end lab",
    "sign": "sign course_rec@1 --key anna.pem",
    "trust add": "admin trust add anna anna.pub --for *#prod",
    "rules set": "alias rules set prod --val-loss-within 0.5",
    "identify": "identify bundle",
    "amend": "edit course_rec@2 --val-loss 0.5 --dataset data --tag a=b --reason typo",
    "approve": "alias approve course_rec@2 prod",
    "promote": "promote course_rec@2 canary",
}
LITTER = 12
"""Blobs that nothing refers to."""


def prepare(folder: Path, there: dict[str, str]) -> None:
    """Make the registry of the environment, in `folder`, with files of a user around it."""
    from fusery.cli.main import run

    base = tiny_models.make_base(folder / "tiny", layers=1)
    tiny_models.make_base(folder / "other", layers=1, seed=9)
    for number, name in enumerate(("first", "second", "third")):
        tiny_models.make_adapter(folder / name, base, seed=number, rank=4, num_layers=1)
    steps = (
        "admin init",
        "base add tiny --name tiny",
        "register first --base tiny --task course_rec --dataset courses",
        "register second --base tiny --task course_rec --parent course_rec@1",
        f"fuse course_rec@1 {KEEP} --publish full",
        f"materialize course_rec@1 bundle {KEEP}",
        "alias set course_rec@1 prod",
        "deploy record course_rec@1 eu/ranker",
        "deploy record course_rec@1 lab",
        "admin trust keygen anna",
        "alias rules set canary --admission no_errors",
    )
    os.environ["FUSERY_USER"] = "author"  # who may not approve
    for words in steps:
        assert run(words.split()) == 0, words
    leave_litter()
    if there:
        os.environ.update(there)
        assert run(["admin", "init"]) == 0


def leave_litter() -> None:
    from fusery.registry.workspace.settings import Settings
    from fusery.registry.workspace.workspace import Workspace
    from fusery.storage.publishing import make_folders

    workspace = Workspace(Settings.load())
    shelf = Shelf(workspace)
    for number in range(LITTER):
        shelf.give_up(f"{number}".encode() * 100)
    if workspace.store.capabilities.local:
        parts = workspace.settings.home / "store" / "tmp"
        make_folders(parts)
        (parts / "0123456789abcdef0123456789abcdef.part").write_bytes(b"half of something")
    workspace.close()
