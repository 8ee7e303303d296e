"""Which requests are for this server, as a browser names it."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from fusery.registry.runtime.http_server import objection

OURS = ("127.0.0.1", "192.168.1.7:80", "[::1]:8080", "localhost", "LOCALHOST:1", "a.localhost", "box:8080")
FOREIGN = (
    "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost", ":80", "[::1",
    "0x7f.1", "a@b", "evil.example@127.0.0.1", "127.0.0.1/evil", "127.0.0.1?x", "::1", "127.0.0.1:x", "127.0.0.1:²", "",
    "127.0.0.1\n", "127.0.0.1, evil.example", "localhost:1:2", "[127.0.0.1]", "[::1%25x]", "[v1.a]",
)  # fmt: skip


def test_ours_and_foreign() -> None:
    for host in OURS:
        assert objection(Headers({"host": host}), {"box"}) is None, host
        assert objection(Headers({"host": host, "origin": f"http://{host}"}), {"box"}) is None, host
    for host in FOREIGN:
        found = objection(Headers({"host": host}), {"box"})
        assert found is not None and found.status == 403, host
        assert objection(Headers({"host": host}), {"*"}) is None


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://localhost:9000", "http://localhost", "localhost:8080"],
)
def test_pages_of_others(origin: str) -> None:
    for hosts in (set[str](), {"*"}):
        found = objection(Headers({"host": "localhost:8080", "origin": origin}), hosts)
        assert found is not None
        assert found.document["error"]["code"] == "foreign_origin"
    assert objection(Headers({"origin": "http://evil.example"}), {"*"}) is not None


def test_who_names_no_host() -> None:
    assert objection(Headers({}), ()) is None  # HTTP/1.0: no browser
