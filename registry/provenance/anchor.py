"""Anchors: a signed position of the log, stored where those who can change the log cannot reach it.

Only an anchor shows a log that was cut or rewritten as a whole.  It is a DSSE envelope over canonical JSON; without a key it
has no signature.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from fusery.storage.digest import canonical_json, parse_digest
from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import parse_json, read_object

from .. import dsse
from ..documents import write_picture
from ..errors import CheckFailedError
from ..record import Record, described
from ..workspace.workspace import Workspace

TYPE = "application/vnd.fusery.anchor.v1+json"
_LARGEST = 1 << 20


class Anchor(Record, kw_only=False):
    """A position of a log; times are texts as they were signed, `key_id` is that of the key that signed it, if one did."""

    registry: str = described("id of the registry")
    seq: int = described("number of the newest entry")
    hash: str = described("hash of that entry, which covers the whole log before it")
    at: str = described("time of that entry")
    made_at: str = described("when the anchor was made, by the database's clock")
    key_id: str | None = described("id of the key that signed it", default=None)


class WrittenAnchor(Anchor, kw_only=False):
    """An anchor that was written to a file."""

    path: Path = described("the written file", kw_only=True)


def newest_anchor(workspace: Workspace) -> Anchor:
    """Return where the log stands."""
    from .. import tables
    from ..database import events

    with workspace.database.read() as session:
        newest, registry = events.last(session), session.get(tables.RegistryRow, 1)
        if newest is None or registry is None or newest.hash != events.event_hash(newest):
            message = "the newest entry of the log is not as it was written"
            raise CheckFailedError(message, hint="fusery audit --chain")
        moments = newest.at, workspace.database.utcnow(session)
        at, made_at = (moment.isoformat(timespec="microseconds") for moment in moments)
        return Anchor(registry.store_id, newest.seq, newest.hash, at, made_at)


def signed_anchor(
    newest: Callable[[], Anchor], key: Path | None, passphrase: Callable[[], bytes]
) -> tuple[Anchor, bytes]:
    """Return where the log stands, asked for once the key was read, and the document that says so."""
    private = dsse.read_private_key(key, passphrase) if key is not None else None
    anchor = newest()
    anchor_fields = {key: value for key, value in anchor.to_dict().items() if key != "key_id"}
    if private is not None:
        anchor = replace(anchor, key_id=dsse.key_id(private.public_key()))
    payload = canonical_json({"format": 1, **anchor_fields})
    document = dsse.signed_document(TYPE, payload, private, str(anchor.key_id))
    return anchor, json.dumps(document, indent=2).encode() + b"\n"


def write_anchor(anchor: Anchor, document: bytes, path: Path, *, force: bool = False) -> WrittenAnchor:
    """Write an anchor's document to a file."""
    write_picture(path, document, force=force)
    return WrittenAnchor(**anchor, path=path)


def read_anchor(path: Path, keys: Sequence[Path] = ()) -> Anchor:
    """Return an anchor; if public keys are given, one of them has to have signed it."""
    public = [dsse.read_public_key(key) for key in keys]
    try:
        document = read_object(path, limit=_LARGEST)
        unsigned = document["signatures"] == []
        blank = [{"sig": ""}] if unsigned else document["signatures"]
        envelope = dsse.parse_dsse({**document, "signatures": blank})
        anchor = _anchor(envelope, None if unsigned else str(document["signatures"][0].get("keyid"))[:200])
    except (FormatError, TypeError, KeyError, ValueError, AttributeError) as error:
        problem = f"{path.name} is not an anchor that can be read"
        raise dsse.BadSignatureError(problem, hint="fusery sign --log -o FILE writes one") from error
    if keys and unsigned:
        raise dsse.BadSignatureError(f"the anchor {path.name} is not signed")
    if keys and not any(envelope.signed_by(key) for key in public):
        names = ", ".join(key.name for key in keys)
        raise dsse.BadSignatureError(f"the anchor {path.name} was not signed with {names}, or was changed")
    return anchor


def _anchor(envelope: dsse.Envelope, key: str | None) -> Anchor:
    anchor_fields: Mapping[str, Any] = parse_json(envelope.payload, "the anchor")
    if envelope.payload_type != TYPE or anchor_fields["format"] != 1:
        raise ValueError("another format")
    seq, at, made_at = anchor_fields["seq"], anchor_fields["at"], anchor_fields["made_at"]
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 < seq < 1 << 62:
        raise ValueError("no number of an entry")
    for moment in (at, made_at):
        datetime.fromisoformat(moment)
    registry, digest = str(anchor_fields["registry"])[:100], parse_digest(anchor_fields["hash"])
    return Anchor(registry, seq, digest, at, made_at, key)
