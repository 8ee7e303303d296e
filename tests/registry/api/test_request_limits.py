"""Limits on the requests of a server's clients, and requests that are within them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from page_server import Answer, ask, pages_of, post_json

from fusery.registry import BadInputError, Registry
from fusery.registry.errors import UnknownReferenceError
from fusery.registry.provenance.candidates import Sought, SoughtTensor, SoughtUnit, candidates, in_parts
from fusery.registry.provenance.owners import PlausibleOwners
from fusery.registry.provenance.tensors import View
from fusery.registry.registration.sources import uploaded
from fusery.storage.errors import FuseryError
from fusery.web.auth import LocalAuth

pytestmark = pytest.mark.timing


@dataclass(frozen=True, slots=True)
class Served:
    """A server of a registry.

    Attributes:
        registry: as its client sees it.
        address: of the server.
        key: of the client.
    """

    registry: Registry
    address: str
    key: str

    def get(self, path: str) -> Answer:
        return ask(
            self.address, f"/api/v1/{path}", accept="application/json", authorization=f"Bearer {self.key}"
        )

    def post(self, path: str, **values: Any) -> Answer:
        return post_json(self.address, f"/api/v1/{path}", values, authorization=f"Bearer {self.key}")


@pytest.fixture
def served(stocked: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cached"))
    door = LocalAuth("anna")
    with pages_of(stocked, door) as address, Registry.open(address, token=door.key) as registry:
        yield Served(registry, address, door.key)


def unit(tensors: int = 1, rank: int = 8) -> SoughtUnit:
    return SoughtUnit(
        is_adapter=True,
        files=("b" * 64,),
        tensors=tuple(
            SoughtTensor(
                name=f"model.layers.{number}.self_attn.q_proj.lora_a", shape=(4096, rank), digest="a" * 64
            )
            for number in range(tensors)
        ),
    )


def test_invalid_numbers_and_texts_are_reported(served: Served) -> None:
    for number in (-1, 2**31, 2**63, 10**300):
        for path in (
            "adapters/list?limit",
            "upkeep/log?after",
            "provenance/lineage?reference=tiny&ancestors",
        ):
            answer = served.get(f"{path}={number}")
            assert (answer.status, answer.json["error"]["code"]) == (400, "bad_input")
    statuses = {number: served.get(f"adapters/list?limit={number}").status for number in (1_000, 1_001)}
    assert statuses == {1_000: 200, 1_001: 400}
    assert served.get("adapters/list?offset=2147483647").status == 200
    ready = {"folder": "f_v1_20260101", "model": "m", "iterations": 5, "base": "tiny", "task": "t"}
    for wrong in ({"folder": "\0"}, {"model": "\0"}, {"model": "a" * 9_999}, {"iterations": 0}):
        answer = served.post("adapters/require-registrable", **{**ready, **wrong})
        assert (answer.status, answer.json["error"]["code"]) == (400, "bad_input"), answer.text


def test_number_of_metrics_is_limited(served: Served) -> None:
    names = [f"m{number}.x" for number in range(51)]
    with pytest.raises(BadInputError):
        served.registry.adapters.list(metrics=names)
    assert len(served.registry.adapters.list(metrics=names[:50])) == 2


def test_number_of_units_is_limited(stocked: Registry, served: Served) -> None:
    with pytest.raises(BadInputError):
        candidates(stocked.workspace, Sought(files=(), units=(unit(),) * 101))
    whole = Sought(files=("b" * 64,), units=(unit(896),) * 12 + (unit(20_000),) + (unit(),) * 150)
    parts = list(in_parts(whole))
    assert sum(len(part.units) for part in parts) == len(whole.units)
    assert len(parts) < 12
    for part in parts:
        served.registry.provenance._candidates(part)


def test_digests_that_no_database_takes_are_refused(stocked: Registry) -> None:
    for digest in ("\ud800", "\0"):
        named = SoughtTensor(name="x", shape=(1,), digest=digest)
        units = (SoughtUnit(is_adapter=True, files=(), tensors=(named,)),)
        for asked in (Sought(files=(digest,), units=()), Sought(files=(), units=units)):
            with pytest.raises(BadInputError):
                candidates(stocked.workspace, asked)


def test_the_newest_adapters_of_a_rank_are_candidates(stocked: Registry) -> None:
    views = [View("a", "", (64, 4), Path(), 0, 0)]
    with stocked.workspace.database.read() as session:
        newest = PlausibleOwners(session, 1)
        assert [owner.name for owner in newest.find(views, adapter=True)] == ["course_rec_v2_20260201"]


def test_long_signatures_and_lists_are_sent(served: Served) -> None:
    with pytest.raises(FuseryError) as error:
        served.registry.trust.record_signature(
            "adapter", "0" * 64, key_id="x", scheme="x", envelope="x" * 100_000  # type: ignore[arg-type]
        )  # fmt: skip
    assert "bytes" not in error.value.message
    assert served.registry.deployments.yanked([f"course_rec_v{n}_20260101" for n in range(1, 1_200)]) == {}
    assert served.post("trust/record-signature", envelope="x" * (1 << 20)).status == 413
    assert ask(served.address, "/sign-in", method="POST", body="x" * 70_000).status == 413


def test_local_copy_of_an_alias_is_what_the_server_has(stocked: Registry, served: Served) -> None:
    here = served.registry.bases.here
    stocked.aliases.set("course_rec#prod", "course_rec@1")
    for reference in ("COURSE_REC#PROD", " course_rec#prod "):
        with here(reference) as (copy, [name]):
            assert (
                name == Registry(copy).provenance.resolve("course_rec#prod").name == "course_rec_v1_20260115"
            )
    stocked.aliases.set("course_rec#prod", "course_rec@2")
    stocked.adapters.yank("course_rec@2", reason="wrong data")
    with here("course_rec#prod") as (copy, _), pytest.raises(UnknownReferenceError):
        Registry(copy).provenance.resolve("course_rec#prod")
    stocked.adapters.unyank("course_rec@2")
    with here("course_rec#prod") as (copy, _):
        assert Registry(copy).provenance.resolve("course_rec#prod").name == "course_rec_v2_20260201"
    stocked.aliases.remove("course_rec#prod")
    with pytest.raises(UnknownReferenceError), here("Course_rec#prod"):
        pass
    with pytest.raises(UnknownReferenceError):
        Registry(copy).provenance.resolve("course_rec#prod")


def test_equal_files_are_fetched_once(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stocked.adapters.folder("course_rec@1")
    weights = next(folder.glob("*.safetensors"))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    files = {f"{number:07d}_adapters.safetensors": digest for number in range(5)}
    with uploaded(stocked.workspace, "a", files) as (written, _):
        assert {path.stat().st_ino for path in written.iterdir()} == {
            (written / "0000000_adapters.safetensors").stat().st_ino
        }
        assert len(list(written.iterdir())) == 5
    size = weights.stat().st_size
    monkeypatch.setattr("fusery.registry.registration.sources._MOST_BYTES", size)
    with uploaded(stocked.workspace, "a", files):
        pass
