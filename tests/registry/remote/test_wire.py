"""Values that a server or a client may send, and the limits on them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from lying_server import TOKEN

from fusery.registry.errors import ServerRefusedError
from fusery.registry.record import Record
from fusery.registry.remote import server as remote_server
from fusery.registry.remote.address import ServerAddress
from fusery.registry.remote.server import Server
from fusery.registry.wire import decode
from fusery.storage.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Named(Record):
    digest: Digest
    former: Digest | None = None


@pytest.fixture
def server() -> Server:
    return Server(ServerAddress.parse("http://127.0.0.1:1"), TOKEN)


def test_numbers_beyond_a_float_are_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        decode(float, 10**400)
    with pytest.raises(ValueError, match="expected one of"):
        decode(float | None, 10**400)


@pytest.mark.parametrize("digest", ["\x1b]0;x\x07", "a" * 63, "A" * 64, 5])
def test_digests_are_hex(digest: object) -> None:
    assert decode(Named, {"digest": "a" * 64}).digest == "a" * 64
    with pytest.raises(ValueError, match=r"digest|expected str"):
        decode(Named, {"digest": digest})
    with pytest.raises(ValueError, match="expected one of"):
        decode(Named, {"digest": "a" * 64, "former": digest})


def test_responses_with_too_many_values_are_not_parsed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_server, "MOST_VALUES", 100)
    assert server.decoded(list[object], b"[" + b"{}," * 40 + b"{}]") == [{}] * 41
    for body in (b"[" + b"{}," * 200 + b"{}]", b"[" * 200, b"[1e999]", b"\xff"):
        with pytest.raises(ServerRefusedError):
            server.decoded(list[object], body)


@pytest.mark.parametrize("body", [b"5", b"null", b"[]", b'"x"', b"{", b"\xff"])
def test_refusals_of_writes_are_objects(server: Server, body: bytes) -> None:
    assert not remote_server._is_record(409, body)
    assert isinstance(server.refusal(409, body), ServerRefusedError)
    assert remote_server._is_record(409, b'{"verdict": "failed"}')
