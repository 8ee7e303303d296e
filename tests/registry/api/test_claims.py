"""What a publisher claims at a server's registry, and what a lying server claims to its client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from page_server import Answer, pages_of, post_json
from signing_keys import Pair
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import RoleError, ServerRefusedError
from fusery.registry.fusion.request import FuseRequest
from fusery.registry.fusion.views import foreign_key
from fusery.registry.provenance.sign import Signed, SigningSubject, require_meant, sign
from fusery.registry.records import bundles
from fusery.registry.records.trust import RecordedEnvelope
from fusery.registry.records.views import trusted_signers
from fusery.registry.wire import LongText
from fusery.web.auth import Proxies, TokenAuth

pytestmark = pytest.mark.timing

NAME, DIGEST = "course_rec_v1_20260115", "a" * 64


@dataclass(frozen=True)
class Team:
    own: Registry
    address: str
    secrets: dict[str, str]

    def open(self, role: str) -> Registry:
        return Registry.open(self.address, token=self.secrets[role])

    def post(self, operation: str, document: object, role: str = "publisher") -> Answer:
        headers = {"authorization": f"Bearer {self.secrets[role]}"}
        return post_json(self.address, f"/api/v1/{operation}", document, **headers)


@pytest.fixture
def team(stocked: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Team]:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cached"))
    roles = ("publisher", "other", "approver")
    secrets = {
        name: stocked.tokens.create(f"the-{name}", "publisher" if name == "other" else name).secret
        for name in roles
    }
    with pages_of(stocked, TokenAuth(stocked, Proxies())) as address:
        yield Team(stocked, address, secrets)


class Unrecorded:
    """A log of signatures that records nothing."""

    def __init__(self, own: Registry) -> None:
        self.find, self.look_up = own.trust.find, own.trust.look_up

    def record_signature(self, *_: str, envelope: LongText, **__: str) -> RecordedEnvelope:
        return RecordedEnvelope(envelope=envelope, existed=False)


def made(own: Registry, key: Pair) -> Signed:
    return sign(Unrecorded(own), "course_rec@1", key.signing())


def document(signed: Signed, **changes: str) -> dict[str, str]:
    return {
        "kind": "adapter",
        "digest": signed.digest,
        "key_id": signed.key_id,
        "scheme": signed.scheme,
        "envelope": signed.signature.decode(),
        "public": signed.public,
        **changes,
    }


def test_nobody_signs_in_another_keys_name(team: Team, key: Pair, stranger: Pair) -> None:
    trusted = team.own.trust.add_key("ceo", key.public, ["*#prod"])
    forged = made(team.own, stranger)
    for scheme in ("sigstore", "whatever\x1b[31m"):
        refused = team.post(
            "trust/record-signature", document(forged, key_id=trusted.key_id, scheme=scheme, public="")
        )
        assert refused.status == 400, refused.text
    assert team.post("trust/record-signature", document(forged)).status == 403
    assert team.own.trust.signatures("course_rec@1").signatures == ()


def test_rows_of_other_schemes_never_show_a_keys_name(team: Team, key: Pair) -> None:
    trusted = team.own.trust.add_key("ceo", key.public, ["*#prod"])
    with team.own.workspace.database.write() as session:
        values = {
            **document(made(team.own, key), scheme="sigstore"),
            "at": datetime.now(UTC),
            "by": "mallory",
        }
        kind, digest = values.pop("kind"), values.pop("digest")
        del values["public"]
        session.add(tables.SignatureRow(subject_kind=kind, subject_digest=digest, **values))
    [recorded] = team.own.trust.signatures("course_rec@1").signatures
    assert (recorded.key_id, recorded.signer) == (trusted.key_id, None)
    assert team.own.adapters.show("course_rec@1").signatures[0].signer is None
    assert team.own.trust.list_keys()[0].signatures == 0


def test_a_good_signature_is_not_replaced(team: Team, key: Pair, tmp_path: Path) -> None:
    team.own.trust.add_key("ceo", key.public, ["*#prod"])
    with team.open("approver") as approver:
        signed = approver.trust.sign("course_rec@1", key.signing())

    def counted() -> list[str]:
        with team.own.workspace.database.read() as session:
            return trusted_signers(session, signed.digest, "course_rec#prod")

    for kind in ("bundle", "fused", "x\ud800"):
        assert team.post("trust/record-signature", document(signed, kind=kind)).status == 400
    assert counted() == ["ceo"]
    # The same files recorded as a bundle change nothing.
    files = [file.to_dict() for file in team.own.adapters.show("course_rec@1").files]
    assert team.post("bundles/record", bundle(files=files)).status == 200
    for kind in ("bundle", "adapter"):
        answer = team.post("trust/record-signature", document(signed, kind=kind))
        assert answer.json["existed"], answer.text
    assert counted() == ["ceo"]
    [recorded] = team.own.trust.signatures("course_rec@1").signatures
    assert (recorded.kind, recorded.by) == ("adapter", "the-approver")


def bundle(**changes: Any) -> dict[str, Any]:
    given = {
        "action": "bundle.written",
        "target": "model",
        "path": "/srv/prod",
        "files": [{"path": "model.safetensors", "size": 1, "sha256": DIGEST}],
        "adapters": ["course_rec@1"],
        "fused": None,
        "detail": {},
    }
    return {"bundle": {**given, **changes}}


def nested(depth: int) -> dict[str, Any]:
    return {"choices": nested(depth - 1)} if depth else {}


def file(**changes: Any) -> list[dict[str, Any]]:
    return [{"path": "x", "size": 1, "sha256": DIGEST, **changes}]


INVALID: list[dict[str, Any]] = [
    {"action": "adapter.yanked"},
    {"files": []},
    {"files": file(size=-1)},
    {"files": file(size=2**70)},
    {"files": file(size=2**62) + file(path="y", size=2**62)},
    {"files": file(sha256="nohex\x1b[31m")},
    {"files": file(sha256="A" * 700)},
    {"files": file(path="../x")},
    {"files": file(path="\ud800")},
    {"files": file() * 2},
    {"target": ""},
    {"target": "\x1b]0;x\x07"},
    {"target": "x" * 33},
    {"path": ""},
    {"path": "/srv/\x1b[31m"},
    {"path": "/srv/\x00"},
    {"path": "/srv/\ud800"},
    {"path": "x" * 10_001},
    {"adapters": []},
    {"adapters": ["course_rec@1", "course_rec@1"]},
    {"adapters": ["course_rec@1", NAME]},
    {"adapters": ["\ud800"]},
    {"fused": "\ud800"},
    {"detail": {"actor": "ceo"}},
    {"detail": {"path": "/srv/other"}},
    {"detail": {"choices": {"a": 1}}},
    {"detail": {"choices": float("nan")}},
    {"detail": {"plugin": "\ud800"}},
    {"detail": {"adapters": [["x"]]}},
    {"detail": {"adapters": None}},
    {"detail": nested(500)},
    {"detail": {"plugin": "x" * 10_001}},
]


def test_invalid_bundles_are_refused(team: Team) -> None:
    for changes in INVALID:
        refused = team.post("bundles/record", bundle(**changes))
        assert refused.status == 400, (str(changes)[:200], refused.text)
    with team.own.workspace.database.read() as session:
        assert list(session.scalars(select(tables.BundleRow))) == []


def test_bundles_of_others_are_replaced_by_approvers(team: Team) -> None:
    assert team.post("bundles/record", bundle()).json is True
    assert team.post("bundles/record", bundle(), "other").json is False
    changed = bundle(files=file(), detail={"adapters": [NAME], "fused": None})
    refused = team.post("bundles/record", changed, "other")
    assert (refused.status, refused.json["error"]["code"]) == (403, RoleError.code)
    assert team.post("bundles/record", changed, "approver").json is True
    with team.own.workspace.database.read() as session:
        paths = [row.path for row in session.scalars(select(tables.BundleRow).order_by(tables.BundleRow.id))]
    assert paths == ["/srv/prod (replaced)", "/srv/prod"]


def test_an_audit_never_reads_the_path_that_a_client_named(team: Team, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "secret.txt").write_bytes(b"of the server")
    for path in (private, private / "secret.txt"):
        assert team.post("bundles/record", bundle(path=str(path))).json is True
    report = team.own.upkeep.audit()
    assert report.ok, report.problems


def test_a_repair_never_reads_the_path_that_a_client_named(team: Team, tmp_path: Path) -> None:
    entry = team.own.adapters.show("course_rec@1").files[0]
    place = team.own.workspace.store.local_path(entry.sha256)
    assert place is not None
    folder = tmp_path / "clients"
    folder.mkdir()
    (folder / entry.path).write_bytes(place.read_bytes())
    assert team.post("bundles/record", bundle(path=str(folder), files=[entry.to_dict()])).json is True
    place.unlink()
    report = team.own.upkeep.audit(repair=True)
    assert not report.ok and report.repaired == []


def test_a_publisher_records_so_many_bundles(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "BUNDLES", 2)
    answers = [team.post("bundles/record", bundle(path=f"/srv/{number}")).status for number in range(3)]
    assert answers == [200, 200, 400]


def test_a_publisher_materializes_at_a_server(team: Team, tmp_path: Path) -> None:
    with team.open("publisher") as remote:
        request = FuseRequest("dequantize")
        written = remote.bundles.materialize(
            "course_rec@1", tmp_path / "out", target="model", request=request
        )
        again = remote.fused.fuse("course_rec@1", precision="dequantize")
        assert remote.adapters.folder("course_rec@1").is_dir()
    [recorded] = team.own.adapters.show("course_rec@1").bundles
    assert (recorded.path, recorded.digest) == (str(tmp_path / "out"), written.manifest.digest)
    with team.own.workspace.database.read() as session:
        row = session.scalars(select(tables.BundleRow)).one()
        assert row.fused is not None
        assert row.fused.key == foreign_key(team.own.workspace.identity, again.key)


MEANT = SigningSubject("adapter", NAME, DIGEST, NAME, {"x": DIGEST})
FUSED = SigningSubject(
    "fused", "a fused model", DIGEST, "b" * 64, {"x": DIGEST}, prefix=f"fused {'b' * 64} exact: "
)
BUNDLE = SigningSubject("bundle", f"bundle {DIGEST[:12]}", DIGEST, DIGEST, {"x": DIGEST})


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        *(
            (text, MEANT)
            for text in ("course_rec@1", "COURSE_REC@v1 ", "course_rec@latest", "course_rec#prod")
        ),
        *((text, MEANT) for text in (NAME, DIGEST, "A" * 8)),
        *((text, FUSED) for text in (DIGEST, "a" * 8, "b" * 64)),
        (DIGEST, BUNDLE),
    ],
)
def test_what_a_server_may_answer(text: str, subject: SigningSubject) -> None:
    require_meant(text, subject)


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        *((text, MEANT) for text in ("course_rec@2", "course@1", "rec@latest", "other#prod", "c" * 64)),
        ("course_rec_v2_20260115", MEANT),
        ("course_rec@1", replace(MEANT, name="payments_v9_20260101", event="payments_v9_20260101")),
        ("course_rec@1", replace(MEANT, event="payments_v9_20260101")),
        ("course_rec@1", replace(MEANT, prefix=f"fused {'b' * 64} exact: ")),
        ("course_rec@1", replace(MEANT, path=Path("/home/ann/.profile"))),
        ("course_rec@1", replace(MEANT, kind=None)),
        ("course_rec@1", FUSED),
        ("c" * 64, FUSED),
        ("b" * 64, replace(FUSED, prefix=f"fused {'c' * 64} exact: ")),
        *((text, BUNDLE) for text in ("c" * 64, "course_rec@1", "course_rec#prod", NAME)),
        ("/srv/prod", BUNDLE),
    ],
)
def test_what_a_server_may_not_answer(text: str, subject: SigningSubject) -> None:
    with pytest.raises(ServerRefusedError):
        require_meant(text, subject)


def test_nothing_is_signed_for_a_lying_server(team: Team, key: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    lie = team.own.trust.find("course_rec@2")
    with team.open("publisher") as remote:
        monkeypatch.setattr(type(remote.trust), "find", lambda *_: lie)
        with pytest.raises(ServerRefusedError):
            remote.trust.sign("course_rec@1", key.signing())
    assert team.own.trust.signatures("course_rec@2").signatures == ()
