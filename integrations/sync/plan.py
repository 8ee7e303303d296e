"""A sync's destination, the desired adapters, and the steps from the present state."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from fusery.registry import tables
from fusery.registry.errors import BadInputError
from fusery.registry.record import Record, described
from fusery.registry.records.bases import all_names
from fusery.registry.records.references import resolve_adapter
from fusery.registry.records.views import entries
from fusery.registry.records.withdrawals import standing_yank
from fusery.storage.digest import digest_file
from fusery.storage.errors import StorageError
from fusery.storage.manifest import Manifest

if TYPE_CHECKING:
    from fusery.registry.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class WantedBase:
    """The base model of desired adapters."""

    name: str
    digest: str
    called: frozenset[str]
    files: Manifest

    @classmethod
    def of(cls, row: tables.BaseModelRow) -> WantedBase:
        """Return the base of a row."""
        called = all_names(row) | ({row.location} if row.location else set())
        return cls(row.name, row.digest, called, Manifest.of(entries(row.manifest)))

    def lies_in(self, folder: str) -> bool:
        """Return whether a folder of this machine has its files: all sizes, and the configuration's digest, are compared."""
        root = Path(folder)
        if not root.is_absolute():
            return False
        try:
            return all(
                (root / entry.path).stat().st_size == entry.size
                and (entry.path != "config.json" or digest_file(root / entry.path)[0] == entry.sha256)
                for entry in self.files
            )
        except (OSError, ValueError, StorageError):
            return False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A desired adapter."""

    digest: str
    base: WantedBase


@dataclass(frozen=True, slots=True)
class Desired:
    """The desired adapters, the reasons of yanked ones, and the references that resolve to each."""

    adapters: Mapping[str, Wanted]
    withdrawn: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def base(self) -> WantedBase | None:
        """The base model of all of them; None without adapters."""
        first, base = next(((name, adapter.base) for name, adapter in self.adapters.items()), ("", None))
        for name, adapter in self.adapters.items():
            if base is not None and adapter.base.digest != base.digest:
                message = f"{name} was trained on {adapter.base.name}, {first} on {base.name}: a server has one base"
                raise BadInputError(message, hint="one sync for each server: --where \"base = 'NAME'\"")
        return base


def desired(workspace: Workspace, references: Sequence[str], chosen: Sequence[str]) -> Desired:
    """Return the desired adapters now."""
    if not references and not chosen:
        hint = "--none unloads all synced adapters"
        raise BadInputError("no adapter matches, so all synced adapters would be unloaded", hint=hint)
    asked: dict[str, list[str]] = {}
    adapters: dict[str, Wanted] = {}
    withdrawn: dict[str, str] = {}
    with workspace.database.read() as session:
        for reference in dict.fromkeys([*references, *chosen]):
            row = resolve_adapter(session, reference)
            asked.setdefault(row.name, [])
            if reference in references:
                asked[row.name].append(reference)
            if (yank := standing_yank(session, row)) is not None:
                withdrawn[row.name] = yank.reason
                continue
            adapters[row.name] = Wanted(row.digest, WantedBase.of(row.base))
    return Desired(adapters, withdrawn, {name: tuple(texts) for name, texts in asked.items()})


Act = Literal["load", "replace", "unload", "record", "end", "leave", "keep", "blocked", "withheld"]
"""The step for one adapter.

`load`: desired, absent.  `replace`: synced, and changed since.  `unload`: synced, no longer desired.  `record`, `end`: only the
record differs.  `leave`: present, neither desired nor synced.  `keep`: desired, present.  `blocked`: another adapter has
its name.  `withheld`: desired, yanked.
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """An adapter that is present: its registered digest if known, whether a sync may have loaded it, or surely did."""

    digest: str | None
    brought: bool
    ours: bool = False


class SyncStep(Record):
    """The step for one adapter, done or planned."""

    act: Act = described(
        "`load`, `replace`, `unload`, `end`, `leave`, `keep`, `blocked` or `withheld`; see `fusery.integrations.sync.plan`"
    )
    adapter: str = described("its name")
    digest: str | None = described("digest of the adapter; None where it is not known here")
    references: tuple[str, ...] = described("requested references that resolve to this adapter", default=())
    reason: str | None = described("why it is or was not done, if that is not plain", default=None)
    done: bool = described("it was done; False where it failed, or was only looked at", default=False)

    @property
    def is_drift(self) -> bool:
        """The destination differs from the desired state, or from the record."""
        return self.act not in ("keep", "leave")


class Synced(Record):
    """The state of a destination after a sync."""

    place: str = described("as deployments call it")
    base: str | None = described("base model of the adapters; None if no adapter is wanted")
    steps: tuple[SyncStep, ...] = described("one for each adapter that is wanted, was brought, or is there")
    KEYS: ClassVar[tuple[str, ...]] = ("place", "base", "steps", "drift", "ok")

    @property
    def drift(self) -> bool:
        """A step was necessary."""
        return any(step.is_drift for step in self.steps)

    @property
    def ok(self) -> bool:
        """The destination has the desired state now."""
        return not self.undone

    @property
    def undone(self) -> tuple[SyncStep, ...]:
        """The steps that failed or cannot be done."""
        return tuple(step for step in self.steps if step.is_drift and not step.done)


def plan(
    wanted: Mapping[str, str],
    standing: Mapping[str, Standing],
    brought: Mapping[str, str],
    yanked: Collection[str] = (),
) -> tuple[SyncStep, ...]:
    """Return the steps: adapters to load before those to unload."""
    acts: dict[str, tuple[Act, str | None]] = {
        name: (_coming(name, digest, standing, brought), digest) for name, digest in wanted.items()
    }
    for name in dict.fromkeys([*brought, *standing]):
        if name not in wanted:
            state = standing.get(name)
            digest = brought.get(name) or (state.digest if state else None)
            acts[name] = _going(name, state, brought, yanked), digest
    return tuple(SyncStep(act=act, adapter=name, digest=digest) for name, (act, digest) in acts.items())


def _coming(name: str, digest: str, standing: Mapping[str, Standing], brought: Mapping[str, str]) -> Act:
    state = standing.get(name)
    if state is None:
        return "load"
    if state.digest == digest:
        return "record" if state.ours and name not in brought else "keep"
    if state.ours or (name in brought and _is_what_was_brought(state, brought[name])):
        return "replace"
    return "blocked"


def _going(name: str, state: Standing | None, brought: Mapping[str, str], yanked: Collection[str]) -> Act:
    if state is None:
        return "end"
    if state.ours:
        return "unload"
    if name in brought:
        # An adapter that may not be the synced one is not touched.
        return "unload" if _is_what_was_brought(state, brought[name]) else "blocked"
    return "blocked" if name in yanked else "leave"


def _is_what_was_brought(state: Standing, digest: str) -> bool:
    return state.brought and state.digest in (None, digest)


SERVERS = ("vllm", "sglang", "fusery")  # kinds of servers that load adapters while they run
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
HINT = "--to vllm=http://HOST:PORT, sglang=http://HOST:PORT, fusery=http://HOST:PORT, a folder, or s3://BUCKET/FOLDER"


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """The destination, the selection of adapters, and how to reach the destination, as `deploy sync` takes them."""

    to: str
    references: Sequence[str] = ()
    where: str | None = None
    task: str | None = None
    nothing: bool = False
    folder: Path | None = None
    seen_as: str | None = None
    base_name: str | None = None
    insecure: bool = False
    place: str | None = None

    @property
    def kind(self) -> str | None:
        """The kind of server; None for a folder."""
        kind, equals, url = self.to.partition("=")
        if equals and _WORD.fullmatch(kind):
            if kind not in SERVERS:
                raise BadInputError(f"unknown kind of server: {kind[:40]!r}", hint=HINT)
            if not url.startswith(("http://", "https://")):
                raise BadInputError(f"{self.to[:100]!r} has no address", hint=f"--to {kind}=http://HOST:PORT")
            return kind
        is_path = self.to.startswith(("/", "./", "../", "~"))
        if not is_path and not _URL.match(self.to) and (":" in self.to or "//" in self.to):
            # Probably a mistyped URL.
            raise BadInputError(f"{self.to[:100]!r} is no place", hint=HINT)
        return None


def on_this_machine(text: str) -> str:
    """Return a path or address of this machine with the machine's name."""
    return f"{socket.gethostname()}:{text}"
