"""Registering on a server in one step, from a machine that has no registry: in one of its own for a moment, and from there pushed.

The moment's registry has the base's record, as the server tells it, and none of its bytes: an adapter is held against the record.  What the
server records it looks at itself.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from fusery.storage.progress import SILENT, Reporter
from fusery.storage.temporary import temporary_folder

from .. import tables
from ..errors import AlreadyExistsError, BadInputError, ServerRefusedError, UnknownReferenceError
from ..names import AdapterName
from ..records.adapter import Registered
from ..records.deposit import record_manifest
from .believing import require_believable
from .http_calls import HttpCalls, parsed
from .over_http import ServerPlace, push_to_server
from .package import Base
from .registry_server import API, RegistryServer
from .wire import read_document

if TYPE_CHECKING:
    from ..admission.submission import Submission
    from ..workspace import Workspace


def register_on_server(
    workspace: Workspace,
    folder: Path | str,
    place: ServerPlace,
    submission: Submission,
    *,
    strict: bool = False,
    reporter: Reporter = SILENT,
) -> Registered:
    """Register an adapter folder on a server, and return its record.

    Args:
        workspace: whose settings count; there need be no registry.
        folder: the adapter, as `register` takes it.
        place: the server.
        submission: what is said of it; the base is the name of one on the server.
        strict: warnings keep it out, as errors do.
        reporter: hears what is going on.

    Raises:
        BadInputError: no base or no task is named, or a parent is.
        UnknownReferenceError: the server has no such base.
        AdmissionError: it was refused.
        AlreadyExistsError: the version is taken there, or these bytes are there under another one than was asked for.
        ServerRefusedError, ServerUnavailableError: the server refused it, or did not answer.
    """
    from ..registration.register import register
    from ..registration.sources import adapter_at
    from ..workspace import Workspace

    base, task = submission.base, submission.task
    if not base or not task:
        raise BadInputError("a server is told the base and the task", hint="--base NAME --task TASK")
    if submission.parent or submission.trained_on:
        raise BadInputError(
            "an adapter with a parent or another training base is registered where these are",
            hint="pull them, register it here, and push it",
        )
    with place.asked() as calls, temporary_folder("registering") as home:
        item = _base(calls, base)
        settings = replace(
            workspace.settings, home=home, database_url="", store_url="", store_options={}, cache_dir=None
        )
        there = Workspace(settings)
        try:
            there.ensure()
            _record(there, item)
            said = replace(submission, base=item.name)
            with adapter_at(there, folder) as path:
                next_there = partial(_next_version, calls, task)
                registered = register(there, path, said, strict=strict, next_elsewhere=next_there)
            try:
                done = push_to_server(there, registered.name, place, reporter=reporter)
            except AlreadyExistsError as error:
                # Its own hint is for somebody who has the adapter in a registry.
                following = _next_version(calls, task)
                raise AlreadyExistsError(
                    str(error), hint=f"give --version {following} or another --task"
                ) from error
        finally:
            there.close()
    (moved,) = (each for each in done.items_ if each.kind == "adapter")
    if moved.state == "copied":
        return registered
    # The same bytes were there before, perhaps under another version: as when a folder is registered twice.
    name = AdapterName.parse(moved.there)
    if submission.version not in (None, name.version):
        raise AlreadyExistsError(
            f"this adapter is already registered there as {name}, and not as version {submission.version}",
            hint="leave out --version, or give --task OTHER if it is one adapter for two uses",
        )
    return replace(
        registered, name=moved.there, version=name.version, date=name.date.isoformat(), created=False
    )


def _base(calls: HttpCalls, reference: str) -> Base:
    unknown = f"there is no base model {reference} at {calls.address.url}"
    hint = f"{calls.address.url}/bases lists those that are there; fusery push NAME --to {calls.address.url} brings one from here"
    try:
        package = read_document(RegistryServer(calls).package(reference, fused=False))
    except UnknownReferenceError as error:
        raise UnknownReferenceError(unknown, hint=hint) from error
    require_believable(package.items)
    found = [item for item in package.items if isinstance(item, Base)]
    if len(found) != 1 or any(item.kind not in ("base", "calibration") for item in package.items):
        raise UnknownReferenceError(unknown, hint=hint)
    return found[0]


def _record(there: Workspace, item: Base) -> None:
    """Record a base without its bytes, as one that is kept by reference."""
    with there.database.write() as session:
        manifest = record_manifest(session, item.files.manifest)
        values = {**item.values, "location": str(there.settings.home / "no bytes")}
        row = tables.BaseModel(**values, manifest_id=manifest.id)
        row.names = [tables.BaseName(**name) for name in item.names]
        row.revisions = [tables.BaseRevision(**revision) for revision in item.revisions]
        session.add(row)


def _next_version(calls: HttpCalls, task: str) -> int:
    """Return the version after the newest one there; the server refuses one that was taken meanwhile."""
    query = "sort=version:desc&limit=1"
    try:
        told = parsed(calls.json("GET", f"{API}/tasks/{quote(task, safe='')}?{query}"), calls.address.url)
    except UnknownReferenceError:
        return 1
    try:
        newest = max((int(each["version"]) for each in told["versions"]), default=0)
    except (KeyError, TypeError, ValueError) as error:
        raise ServerRefusedError(
            f"{calls.address.url} answers what no server of this version does"
        ) from error
    return newest + 1
