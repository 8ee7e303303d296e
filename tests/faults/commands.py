"""The commands that are made to fail, and the registries in which each of them has something to do."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path

import tiny_models
from store_shelf import Shelf

KEEP = "--as keep --accept-loss"
REGISTER = "register third --base tiny --task course_rec --parent course_rec@1"


@dataclass(frozen=True, slots=True)
class Act:
    """A command, the registry that it is for, and what it may change.

    `serves` names the registry of a server that the command asks, `backup` the folder of a backup that it writes or reads.
    """

    words: str
    registry: str = "home"
    serves: str = ""
    backup: str = ""
    changes: tuple[str, ...] = ("home",)

    @property
    def is_plain(self) -> bool:
        """Whether every file of the folder is to be the same each time."""
        return not self.serves and not self.backup


ACTS: dict[str, Act] = {
    "base add": Act("base add other --name other"),
    "register": Act(REGISTER),
    "fuse": Act(f"fuse course_rec@2 {KEEP} --publish full"),
    "materialize": Act(f"materialize course_rec@1 bundle {KEEP} --target docker --force"),
    "gc": Act("admin gc --yes --grace 0"),
    "push": Act("push course_rec --fused --to there", changes=("home", "there")),
    "deploy record": Act("deploy record course_rec@2 eu/ranker --replace"),
    "deploy end": Act("deploy end lab"),
    "sign": Act("sign course_rec@1 --key anna.pem"),
    "trust add": Act("admin trust add anna anna.pub --for *#prod"),
    "rules set": Act("alias rules set prod --val-loss-within 0.5"),
    "identify": Act("identify bundle"),
    "amend": Act("edit course_rec@2 --val-loss 0.5 --dataset data --tag a=b --reason typo"),
    "approve": Act("alias approve course_rec@2 prod"),
    "promote": Act("promote course_rec@2 canary"),
}
SITE_ACTS: dict[str, Act] = {
    "push to a server": Act("push course_rec --fused --to {url}", serves="there", changes=("there",)),
    "pull from a server": Act("pull course_rec --fused --from {url}", "there", serves="home", changes=("there",)),
    "register on a server": Act(REGISTER, "", serves="home"),
    "pull": Act("pull course_rec --fused --from home", "there", changes=("there",)),
    "backup": Act("admin backup copy", backup="copy"),
    "backup anew": Act("admin backup new", backup="new"),
    "backup --verify": Act("admin backup copy --verify", backup="copy"),
    "restore --own": Act("admin restore copy --own", "restored", changes=("restored",)),
    "restore --own into a new registry": Act("admin restore copy --own", "made", changes=("made",)),
    "pull from a backup": Act("pull * --from copy", "restored", changes=("restored",)),
}  # fmt: skip
"""Acts between registries, servers and backups, on SQLite and a folder."""

MODULES = (
    "fusery.web.app", "fusery.web.cli", "fusery.cli.exchange", "fusery.registry.exchange", "uvicorn", "httpx",
)  # fmt: skip
STEPS = (
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
LITTER = 12
"""Blobs that nothing refers to."""


def prepare(folder: Path, there: dict[str, str]) -> None:
    """Make the registry of the environment, in `folder`, with files of a user around it, and the other one `there`."""
    from fusery.cli.main import run

    base = tiny_models.make_base(folder / "tiny", layers=1)
    tiny_models.make_base(folder / "other", layers=1, seed=9)
    for number, name in enumerate(("first", "second", "third", "fourth")):
        tiny_models.make_adapter(folder / name, base, seed=number, rank=4, num_layers=1)
    os.environ["FUSERY_USER"] = "author"  # who may not approve
    for words in STEPS:
        assert run(words.split()) == 0, words
    leave_litter()
    if "FUSERY_DATABASE_URL" in there:
        os.environ.update(there)
        assert run(["admin", "init"]) == 0
    else:
        _prepare_site(folder)


def _prepare_site(folder: Path) -> None:
    """Back up `home`, do something more in it, and make `there` and `made`, with a token for each server."""
    from fusery.cli.main import run
    from fusery.registry import Registry

    for module in MODULES:
        importlib.import_module(module)
    for words in ("admin backup copy", "register fourth --base tiny --task other"):
        assert run(words.split()) == 0, words
    for name in ("home", "there", "made"):
        with Registry.open(folder / name) as registry:
            registry.init()
            if name != "made":
                secret = registry.tokens.create("tester", "publisher").secret
                (folder / f"{name}.token").write_text(str(secret))


def leave_litter() -> None:
    from fusery.registry.workspace.settings import Settings
    from fusery.registry.workspace.workspace import Workspace
    from fusery.storage.publishing import make_folders

    workspace = Workspace(Settings.load())
    shelf = Shelf(workspace)
    for number in range(LITTER):
        shelf.give_up(f"{number}".encode() * 100)
    if workspace.store.is_local:
        parts = workspace.settings.home / "store" / "tmp"
        make_folders(parts)
        (parts / "0123456789abcdef0123456789abcdef.part").write_bytes(b"half of something")
    workspace.close()
