"""Doctor: show every setting and its source, and check each part of the registry."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from itertools import groupby
from typing import ClassVar, Literal

from fusery.storage.errors import FuseryError
from fusery.storage.failures import existing_folder
from fusery.storage.plugins import Group, Plugin, plugins, taken_twice
from fusery.storage.progress import SILENT, Reporter
from fusery.storage.verified_files import others_may_write

from ..adapters import some
from ..admission.rules import SeverityPolicy
from ..parsing import plural, shown_size
from ..record import Record, described
from ..records.trust import OwnIdentity
from ..workspace.workspace import Workspace

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
    "onnx": "writing ONNX files",
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

_OF_SERVER = (
    *(f"setting.{name}" for name in ("home", "database_url", "store_url", "store_options")), "database", "store",
)  # fmt: skip
"""Checks that a server's registry leaves to the server."""

_REQUIREMENT = re.compile(r"\s*([\w.-]+)\s*(?:\[([^\]]*)\])?")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")
_PLATFORM = re.compile(r"""sys_platform\s*==\s*["']([^"']+)["']""")


class Check(Record, kw_only=False):
    """The result of one check."""

    name: str = described("the setting or part, such as `setting.store_url` or `database`")
    status: Status = described("`ok`, `note`, or `problem` for something to fix")
    detail: str = described("the finding, without credentials")
    hint: str = described("what to do; empty if nothing", default="")


class Health(Record, kw_only=False):
    """The results of all checks."""

    checks: tuple[Check, ...] = described("results")
    KEYS: ClassVar[tuple[str, ...]] = ("ok", "checks")

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return all(check.status != "problem" for check in self.checks)


def examine(workspace: Workspace) -> list[Check]:
    """Check every setting and part, without changes."""
    parts: dict[str, Callable[[], str]] = {
        "database": partial(_database, workspace),
        "store": partial(_store, workspace),
        "cache": partial(_cache, workspace),
    }
    engine = Check("engine", "ok", "canonical, compiled")
    if importlib.util.find_spec("fusery.registry.engine._kernel") is None:
        # Without these options pip takes the wheel that it has kept from the time without a compiler.
        again = "pip install --force-reinstall --no-deps --no-cache-dir --no-binary fusery fusery"
        hint = f"install a C compiler, then fusery once more: {again}"
        engine = Check("engine", "note", "canonical, in NumPy: the same result in five times the time", hint)
    checked = (_guarded(name, look) for name, look in parts.items())
    return [*_settings(workspace), *checked, engine, *_extras()]


def examine_remote(workspace: Workspace, url: str, own: Callable[[], OwnIdentity]) -> list[Check]:
    """Check the server, and every setting and part of this machine."""

    def server() -> str:
        identity = own()
        until = "" if identity.expires_at is None else f", until {identity.expires_at:%Y-%m-%d}"
        version = f"fusery {identity.version}; " if identity.version else ""
        return f"{url}: {version}{identity.name}, {identity.role}{until}"

    local = (check for check in examine(workspace) if check.name not in _OF_SERVER)
    return [_guarded("server", server), *local]


def plugin_checks(
    loaders: Mapping[Group, Callable[[Plugin], object]], reporter: Reporter = SILENT
) -> Iterator[Check]:
    """Import every plugin, and yield a check of each name: its distribution and version, or what is wrong with it."""
    try:
        all_plugins = plugins()
    except FuseryError as error:
        yield Check("plugins", "problem", error.message, error.hint or "")
        return
    for (group, name), same in groupby(all_plugins, key=lambda plugin: (plugin.group, plugin.name)):
        load = partial(_load, loaders[group], list(same), reporter)
        yield _guarded(f"plugin.{group.removeprefix('fusery.')}.{name}", load)


def _load(loader: Callable[[Plugin], object], same: list[Plugin], reporter: Reporter) -> str:
    if len(same) > 1:
        raise taken_twice(same)
    [plugin] = same
    reporter.say(f"importing the {plugin.kind} {plugin.name} of {plugin}")
    loader(plugin)
    return f"{plugin}: {plugin.value}, imported"


def _settings(workspace: Workspace) -> Iterator[Check]:
    from fusery.storage.locate import display_url

    from ..database import Database

    def severities() -> str:
        set_here = SeverityPolicy.configured(settings.severities).severities
        changed = ", ".join(f"{code} = {value}" for code, value in sorted(set_here.items()))
        return f"severities: {changed or 'as documented'}"

    settings, options = workspace.settings, len(workspace.settings.store_options)
    shown: dict[str, Callable[[], object]] = {
        "home": lambda: settings.home,
        "database_url": lambda: Database.open(settings.database).display_url,
        "store_url": lambda: display_url(settings.store),
        "store_options": lambda: f"{options} given" if options else "none",
        "admission": severities,
        "cache_dir": lambda: settings.cache,
        "user": lambda: settings.actor,
        "cache_limit": lambda: shown_size(settings.cache_limit),
        "publish": lambda: settings.publish,
        "card": lambda: settings.card or "the package's own",
    }
    for name, look in shown.items():
        yield _guarded(f"setting.{name}", lambda name=name, look=look: f"{look()} ({settings.origin(name)})")  # type: ignore[misc]


def _guarded(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except FuseryError as error:
        return Check(name, "problem", error.message, error.hint or "")


def _database(workspace: Workspace) -> str:
    from sqlalchemy import func, select

    from .. import tables

    bases, adapters, fused = tables.BaseModelRow, tables.AdapterRow, tables.FusedRow
    rows = (("base model", bases), ("adapter", adapters), ("fused model", fused))
    with workspace.database.read() as session:
        numbers = [(session.scalar(select(func.count()).select_from(row)) or 0, name) for name, row in rows]
    return ", ".join(plural(*number) for number in numbers)


def _store(workspace: Workspace) -> str:
    promise = "no exclusive create: names are digests, and each write is read back"
    if workspace.store.create_exclusive:
        promise = "exclusive create"
    return f"{workspace.store.url} belongs to this database, {promise}"


def _cache(workspace: Workspace) -> str:
    cache = workspace.cache
    entries = list(cache.entries())
    folder = existing_folder(workspace.settings.cache)
    free = shutil.disk_usage(folder).free
    writable = "" if os.access(folder, os.W_OK) else ", not writable by this user"
    shared = cache.root.exists() and others_may_write(cache.root.stat())
    theirs = ", writable by other users, who could swap what you load from it" if shared else ""
    return f"{plural(len(entries), 'fused model')}, {shown_size(free)} free{writable}{theirs}"


def _extras() -> Iterator[Check]:
    """Yield a check of each extra of this installation: the versions of its packages, or which are missing."""
    if (installed := _installed("fusery")) is None:
        return
    for name in installed.metadata.get_all("Provides-Extra") or []:
        use, packages = f": {USES[name]}" if name in USES else "", packages_of(installed, name)
        present = {package: own for package in packages if (own := _installed(package)) is not None}
        missing = [package for package in packages if package not in present]
        versions = [f"{package} {own.version}" for package, own in present.items()]
        if not packages:
            yield Check(f"extra.{name}", "note", f"not for this platform{use}")
        elif missing:
            lacking = f", lacks {some(missing)}" if present else ""
            detail, hint = f"not installed{lacking}{use}", f"pip install 'fusery[{name}]'"
            yield Check(f"extra.{name}", "note", detail, hint)
        else:
            yield Check(f"extra.{name}", "ok", f"{some(versions)}{use}")


def packages_of(installed: Distribution, extra: str) -> list[str]:
    """Return the packages that an extra of a distribution asks for on this platform, without its own other extras."""
    required = dict[str, None]()
    for text in installed.requires or []:
        parts = _REQUIREMENT.match(text)
        wanted, platform = _EXTRA.search(text), _PLATFORM.search(text)
        if parts and wanted and wanted[1] == extra and (platform is None or platform[1] == sys.platform):
            if parts[1] == installed.name:
                others = (parts[2] or "").split(",")
                names = [package for other in others for package in packages_of(installed, other.strip())]
            else:
                names = [parts[1]]
            required |= dict.fromkeys(names)
    return list(required)


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
