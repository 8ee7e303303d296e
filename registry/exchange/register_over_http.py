"""Registering on a server in one step, from a machine that has no registry: in one of its own for a moment, and from there pushed.

The moment's registry has the base's record, as the server tells it, and none of its bytes: an adapter is held against the record.  What the
server records it looks at itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from fusery.storage.progress import SILENT, Reporter
from fusery.storage.temporary import temporary_folder

from .. import tables
from ..errors import AlreadyExistsError, BadInputError, ServerRefusedError, UnknownReferenceError
from ..names import compact_date
from ..records.adapter import Registered
from ..records.deposit import record_manifest
from ..remote.server import API, Server
from .believing import require_believable
from .over_http import ServerPlace, fetch_package, push_to_server
from .package import Base
from .wire import read_document

_TRIES = 20
"""Times that the next version is asked for, while others take it."""

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
    base, task = submission.base, submission.task
    if not base or not task:
        raise BadInputError("a server is told the base and the task", hint="--base NAME --task TASK")
    if submission.parent or submission.trained_on:
        raise BadInputError(
            "an adapter with a parent or another training base is registered where these are",
            hint="pull them, register it here, and push it",
        )
    with place.open() as server:
        item = _base(server, base)
        said = replace(submission, base=item.name)
        for _ in range(_TRIES):
            try:
                return _register(
                    workspace, folder, place, said, item, server, strict=strict, reporter=reporter
                )
            except _OvertakenError as overtaken:
                taken = overtaken
        raise AlreadyExistsError(
            str(taken), hint="others register there at the moment; the same again"
        ) from taken


class _OvertakenError(Exception):
    """Another adapter got the version that was the next one."""


def _register(
    workspace: Workspace,
    folder: Path | str,
    place: ServerPlace,
    said: Submission,
    item: Base,
    server: Server,
    *,
    strict: bool,
    reporter: Reporter,
) -> Registered:
    from ..registration.register import register
    from ..registration.sources import adapter_at
    from ..workspace import Workspace

    numbered: list[int] = []

    def next_there() -> int:
        numbered.append(_next_version(server, task))
        return numbered[-1]

    task = said.task or ""
    with temporary_folder("registering") as home:
        settings = replace(
            workspace.settings, home=home, database_url="", store_url="", store_options={}, cache_dir=None
        )
        there = Workspace(settings)
        try:
            there.ensure()
            _record(there, item)
            with adapter_at(there, folder) as path:
                registered = register(there, path, said, strict=strict, next_elsewhere=next_there)
            if (known := _known(server, task, registered)) is not None:
                _require_same(known, said)
                return known
            try:
                done = push_to_server(there, registered.name, place, reporter=reporter)
            except AlreadyExistsError as error:
                if numbered:
                    raise _OvertakenError(str(error)) from error
                # Its own hint is for somebody who has the adapter in a registry.
                hint = f"give --version {_next_version(server, task)} or another --task"
                raise AlreadyExistsError(str(error), hint=hint) from error
        finally:
            there.close()
    copied = any(each.kind == "adapter" and each.state == "copied" for each in done.items_)
    # Somebody else has just sent the same bytes.
    return registered if copied else _known(server, task, registered) or registered


def _known(server: Server, task: str, registered: Registered) -> Registered | None:
    """Return the server's record of the same bytes for the same task, one that is not withdrawn before others."""
    try:
        known = [_read_record(each) for each in _versions(server, task, f'digest == "{registered.digest}"')]
    except (ValidationError, TypeError, ValueError, AttributeError) as error:
        raise _other_answer(server) from error
    return min(known, key=lambda record: (record.yanked, -record.version), default=None)


def _read_record(told: Mapping[str, Any]) -> Registered:
    inner = {name: value for name, value in told.items() if name != "val_loss_change"}
    inner["amendments"] = [
        {"from_" if name == "from" else name: value for name, value in each.items()}
        for each in inner.get("amendments") or ()
    ]
    return TypeAdapter(Registered).validate_json(json.dumps({**inner, "created": False}))


def _require_same(known: Registered, said: Submission) -> None:
    """Refuse what is said otherwise than on record there, as registering does here; what was on record once counts as well."""
    once = [(each.field, each.from_) for each in known.amendments]
    told = {
        "base": said.base,
        "version": said.version,
        "date": compact_date(said.day) if said.day else None,
        "val_loss": said.val_loss,
        "dataset": said.dataset,
        "examples": said.examples,
        "alpha": said.alpha,
        "note": said.note,
        **{f"tag.{name}": value for name, value in said.tags.items()},
    }
    for field, value in told.items():
        was = known.tags.get(field.removeprefix("tag.")) if field.startswith("tag.") else known[field]
        if value is None or value == was or (field, value) in once:
            continue
        raise AlreadyExistsError(
            f"this adapter is already registered there as {known.name}, with {field} {str(was)[:100]} and not {value}; "
            "registering changes no record",
            hint=f"fusery show {known.name}, there; what people said is corrected by fusery amend, there",
        )


def _base(server: Server, reference: str) -> Base:
    unknown = f"there is no base model {reference} at {server.url}"
    hint = f"{server.url}/bases lists those that are there; fusery push NAME --to {server.url} brings one from here"
    try:
        package = read_document(fetch_package(server, reference, fused=False))
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


def _next_version(server: Server, task: str) -> int:
    """Return the version after the newest one there; the server refuses one that was taken meanwhile."""
    try:
        newest = max((int(each["version"]) for each in _versions(server, task)), default=0)
    except (KeyError, TypeError, ValueError) as error:
        raise _other_answer(server) from error
    return newest + 1


def _versions(server: Server, task: str, where: str = "") -> list[Any]:
    """Return the newest adapters of a task there, some at least."""
    params = [("sort", "version:desc"), *([("where", where)] if where else [])]
    try:
        data = server.request("GET", f"{API}/tasks/{quote(task, safe='')}", params=params)
        told = server.decoded(Any, data)
    except UnknownReferenceError:
        return []
    found = told.get("versions") if isinstance(told, dict) else None
    if not isinstance(found, list):
        raise _other_answer(server)
    return found


def _other_answer(server: Server) -> ServerRefusedError:
    return ServerRefusedError(f"{server.url} answers what no server of this version does")
