"""Doctor: every setting and where it came from, and one look at each part of the registry."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from fusery.storage.errors import FuseryError
from fusery.storage.private import others_may_write

from ..admission.policy import Policy
from ..parsing import plural, shown_size
from ..record import Record
from ..settings.settings import Settings
from .extras import extras

if TYPE_CHECKING:
    from ..workspace import Workspace

Status = Literal["ok", "note", "problem"]
USES = {
    "mlx": "running, training and serving models",
    "mlx-cuda13": "the same on NVIDIA cards, instead of mlx",
    "postgres": "a PostgreSQL database",
    "s3": "a store on S3",
    "gcs": "a store on Google Cloud Storage",
    "azure": "a store on Azure Blob Storage",
    "sftp": "a store on an SFTP server",
    "dask": "bulk work on several machines",
    "hub": "fetching bases from a hub, and uploading to it",
    "keyring": "tokens of servers in the system's keyring",
    "mlflow": "adapters of MLflow's runs, and runs that log theirs here",
    "wandb": "adapters of W&B's runs",
    "eval": "measuring by lm-evaluation-harness",
    "gguf": "reading and writing GGUF files",
    "onnx": "writing ONNX",
    "oci": "pushing images to a registry",
    "plot": "pictures as PNG",
    "serve": "serving adapters over HTTP",
    "web": "the registry in a browser",
    "json": "answers of a server by a JSON schema",
    "sign": "signing, and verifying signatures",
    "bom": "bills of materials as CycloneDX",
    "testing": "the contract suites for plugins",
    "demo": "what the demo needs beside its model",
    "dev": "the tests, and what checks the code",
}
"""What each extra is for; which there are is in the metadata of the installation."""

_INSTEAD = {"mlx": "mlx-cuda13", "mlx-cuda13": "mlx"}
"""Extras that exclude each other."""

_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Check(Record):
    """One thing looked at.

    Attributes:
        name: what was looked at, such as `setting.store_url` or `database`.
        status: `ok`, `note` for something to know, `problem` for something to mend.
        detail: what was found; never a credential.
        hint: what to do, or empty.
    """

    name: str
    status: Status
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Health(Record):
    """What was found of all that was looked at.

    Attributes:
        checks: each thing.
    """

    checks: tuple[Check, ...]
    KEYS: ClassVar[tuple[str, ...]] = ("ok", "checks")

    @property
    def ok(self) -> bool:
        """Nothing has a problem."""
        return all(check.status != "problem" for check in self.checks)


def examine(workspace: Workspace) -> list[Check]:
    """Look at every setting and part.  Nothing is made or changed."""
    checks = [*_settings(workspace)]
    for name, look in (("database", _database), ("store", _store), ("cache", _cache)):
        checks.append(_guarded(name, lambda look=look: look(workspace)))  # type: ignore[misc]
    checks.append(_engine())
    checks.extend(_extras())
    return checks


def _settings(workspace: Workspace) -> Iterator[Check]:
    from ..database import Database

    settings = workspace.settings
    shown = {"home": str(settings.home), "cache_dir": str(settings.cache), "user": settings.actor}
    shown["cache_limit"] = shown_size(settings.cache_limit)
    shown["publish"] = settings.publish
    shown["card"] = str(settings.card or "the package's own")
    yield Check("setting.home", "ok", f"{shown.pop('home')} ({settings.origin('home')})")
    yield _guarded(
        "setting.database_url",
        lambda: f"{Database.open(settings.database).display_url} ({settings.origin('database_url')})",
    )
    yield _guarded("setting.store_url", lambda: f"{_store_url(workspace)} ({settings.origin('store_url')})")
    options = f"{len(settings.store_options)} given" if settings.store_options else "none"
    yield Check("setting.store_options", "ok", f"{options} ({settings.origin('store_options')})")
    yield _guarded("setting.admission", lambda: f"{_severities(settings)} ({settings.origin('admission')})")
    for field, value in shown.items():
        yield Check(f"setting.{field}", "ok", f"{value} ({settings.origin(field)})")


def _severities(settings: Settings) -> str:
    set_here = Policy.configured(settings.severities).severities
    changed = ", ".join(f"{code} = {value}" for code, value in sorted(set_here.items()))
    return f"severities: {changed or 'as documented'}"


def _store_url(workspace: Workspace) -> str:
    from fusery.storage.locate import display_url

    return display_url(workspace.settings.store)


def _guarded(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except FuseryError as error:
        return Check(name, "problem", error.message, error.hint or "")


def _database(workspace: Workspace) -> str:
    from sqlalchemy import func, select

    from .. import tables

    with workspace.database.read() as session:
        counts = [
            (name, session.scalar(select(func.count()).select_from(table)))
            for name, table in (
                ("base model", tables.BaseModel),
                ("adapter", tables.Adapter),
                ("fused model", tables.Fused),
            )
        ]
    return ", ".join(plural(count or 0, name) for name, count in counts)


def _store(workspace: Workspace) -> str:
    store, able = workspace.store, workspace.store.capabilities
    said = able.promise if able.local else f"{able.promise}, {able.interruption}"
    return f"{store.url} belongs to this database, {said}"


def _cache(workspace: Workspace) -> str:
    cache = workspace.cache
    entries = list(cache.entries())
    folder = workspace.settings.cache
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    writable = "" if os.access(folder, os.W_OK) else ", not writable by this user"
    shared = cache.root.exists() and others_may_write(cache.root)
    theirs = ", writable by other users, who could swap what you load from it" if shared else ""
    return f"{plural(len(entries), 'fused model')}, {shown_size(free)} free{writable}{theirs}"


def _engine() -> Check:
    if importlib.util.find_spec("fusery.registry.engine._kernel") is None:
        # Without these options pip takes the wheel that it has kept from the time without a compiler.
        again = "pip install --force-reinstall --no-deps --no-cache-dir --no-binary fusery fusery"
        hint = f"install a C compiler, then fusery once more: {again}"
        return Check("engine", "note", "canonical, in NumPy: the same result in five times the time", hint)
    return Check("engine", "ok", "canonical, compiled")


def _extras() -> Iterator[Check]:
    known = {extra.name: extra for extra in extras()}
    for extra in known.values():
        name = f"extra.{extra.name}"
        use = f": {USES[extra.name]}" if extra.name in USES else ""
        if not extra.fits:
            yield Check(name, "note", f"not for this platform{use}")
        elif not extra.missing:
            yield Check(name, "ok", f"{_some(extra.present)}{use}")
        elif (other := known.get(_INSTEAD.get(extra.name, ""))) is not None and not other.missing:
            yield Check(name, "note", f"not installed, {other.name} is in its place{use}")
        else:
            lacking = f", lacks {_some(extra.missing)}" if extra.present else ""
            yield Check(name, "note", f"not installed{lacking}{use}", f"pip install 'fusery[{extra.name}]'")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
