"""What a registry holds and how it is, as far as a fault must not change it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import SchemaError

State = dict[str, Any]
"""The states of registries and of the backup by name, and under `files` the digests of files."""

BUNDLE, CACHED = "bundle/", "home/cache/fused/"
NOT_COMPARED = ("fusery.db", "fusery.db-wal", "fusery.db-shm", "config.toml")
CHANGING = ("used", "verified", "store")
"""Folders whose own files hold times, or a registry's id; that they are there is compared."""


def look(collect: bool) -> None:
    """Print the state of the registry of the environment as JSON; collect before that, without grace, if asked to."""
    with Registry.open() as registry:
        try:
            _ = registry.workspace.identity
        except SchemaError:
            print("{}")  # noqa: T201  read by the process that asked
            return
        done = registry.upkeep.gc(grace=0.0) if collect else None
        if collect:
            registry.workspace.cache.sweep(older_than=0.0)
        report = registry.upkeep.audit()
        store = registry.workspace.store
        stored = sorted((blob.digest, blob.size) for blob in store.blobs())
        found = {
            "problems": [f"{problem.code}: {problem.message}" for problem in report.problems],
            "records": records(registry),
            "live": [done.live, done.live_bytes] if done else None,
            "stored": [len(stored), sum(size for _, size in stored)],
            "left": sorted(left.name for left in [*store.leftovers(), *store.quarantined()]),
        }
        print(json.dumps(found))  # noqa: T201


def records(registry: Registry) -> list[str]:
    lines: list[str] = []
    with registry.workspace.database.read() as session:
        for name in session.scalars(select(tables.BaseNameRow)):
            lines.append(f"base {name.name} {name.base.digest}")
        for adapter in session.scalars(select(tables.AdapterRow)):
            parent = adapter.parent.name.rpartition("_")[0] if adapter.parent else ""
            lines.append(f"adapter {adapter.task.name} {adapter.version} {adapter.digest} {parent}")
        for fused in session.scalars(select(tables.FusedRow)):
            lines.append(f"fused {fused.key} {fused.digest}")
            if all(file.blob for file in fused.manifest.files):
                lines.append(f"published {fused.key}")
        for bundle in session.scalars(select(tables.BundleRow)):
            lines.append(f"bundle {bundle.target} {bundle.digest}")
        for alias in session.scalars(select(tables.AliasRow)):
            lines.append(f"alias {alias.name} of adapter {alias.adapter_id}")
        for signature in session.scalars(select(tables.SignatureRow)):
            lines.append(f"signature over {signature.subject_digest} by {signature.key_id}")
        for key in session.scalars(select(tables.TrustedKeyRow)):
            lines.append(f"key {key.name} {key.key_id} for {key.aliases} {key.revoked_at}")
        for rule in session.scalars(select(tables.AliasRuleRow)):
            lines.append(f"rules of {rule.task}#{rule.alias}: {rule.guarded} {rule.rules}")
        for approval in session.scalars(select(tables.ApprovalRow)):
            lines.append(
                f"approval {approval.alias} of adapter {approval.adapter_id} {approval.withdrawn_at}"
            )
    return sorted(lines)


def files(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file() and path.name not in NOT_COMPARED:
            changing = path.parent.name in CHANGING
            found[name] = "" if changing else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@dataclass(frozen=True, slots=True)
class Expected:
    """The states before a command, after it and after a collection, and the time that it takes."""

    before: State
    after: State
    settled: State
    seconds: float


_OF_CPYTHON = re.compile(
    r"Exception ignored in: <function BaseEventLoop.__del__ .*\n(?:.*\n)*?AttributeError: .* '_signal_handlers'\n"
    r"|Exception ignored in: <function _get_module_lock.*\n(?:.*\n)*?KeyboardInterrupt: *\n"
    r"|Error processing line \d+ of .*\.pth:\n(?:.*\n)*?Remainder of file ignored\n"
    r"|Failed checking if argv\[0\] is an import path entry\n(?:.*\n)*?KeyboardInterrupt\n"
)
"""What asyncio prints of a loop whose sockets could not be made: its `close` counts on what `__init__` never came to.
And what is printed of an interrupt that Python loses, while the command goes on: where an import gives back its lock,
where a file of paths is read, and where Python looks whether it was given an archive to run."""

ENDS = {0: "done", 2: "refused", 130: "interrupted", -2: "interrupted", -9: "killed"}
"""How a command may end, by its exit code; SIGINT itself ends Python where it is not ready for it yet."""


def complaints_of(code: int, err: str) -> Iterator[str]:
    if "Traceback" in _OF_CPYTHON.sub("", err) or code not in ENDS:
        yield f"it ended with {code} and said …{err[-1500:]}"
    elif code == 2 and not any(line.startswith("Error: ") for line in err.splitlines()):
        yield f"it was refused without a sentence: {err[-1500:]!r}"


def complaints_after(expected: Expected, found: State) -> Iterator[str]:
    """Yield what a command that failed has lost, and what was neither there before nor comes of it."""
    yield from (f"{name}: gone" for name in sorted(expected.before.keys() - found.keys()))
    for name, state in found.items():
        if name == "files":
            continue
        yield from (f"{name}: {problem}" for problem in state["problems"])
        before, after = (
            set(look.get(name, {}).get("records", ())) for look in (expected.before, expected.after)
        )
        records = set(state["records"])
        yield from (f"{name}: lost: {record}" for record in sorted(before - records))
        yield from (f"{name}: neither before nor after: {each}" for each in sorted(records - before - after))
    if "files" in expected.before and "files" in found:
        yield from _damaged(expected, found["files"])


def _damaged(expected: Expected, files: dict[str, str]) -> Iterator[str]:
    settled = expected.settled["files"]
    bundle = _under(files, BUNDLE)
    if bundle not in (_under(expected.before["files"], BUNDLE), _under(settled, BUNDLE)):
        yield f"the bundle is neither the old one nor the new one: {sorted(bundle)}"
    for key in {name.removeprefix(CACHED).partition("/")[0] for name in files if name.startswith(CACHED)}:
        entry = f"{CACHED}{key}/"
        if _under(files, entry) != _under(settled, entry):
            yield f"the entry {key[:12]} of the cache is not whole"


def complaints_at_end(expected: Expected, found: State) -> Iterator[str]:
    for name in sorted({*expected.settled, *found}):
        wanted, state = expected.settled.get(name, {}), found.get(name, {})
        for field in sorted({*wanted, *state}):
            if wanted.get(field) != state.get(field):
                yield f"{name}: {field}: {state.get(field)}, and should be {wanted.get(field)}"


def _under(files: dict[str, str], folder: str) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if name.startswith(folder)}
