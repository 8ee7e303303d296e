"""Forged rows in a backup, and in one's own database: none is believed, and an audit computes again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostile.forgery import ADAPTER, KEEP, Forge, opened, setting, with_weights
from package_files import change_lines
from signing_keys import write_pair

from fusery.registry import Registry, tables
from fusery.registry.remote.container import BackupError
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import BlobCorruptError, FuseryError

NOBODY_S = digest_bytes(b"another base")


def _nan(tensors: dict[str, Any]) -> None:
    for value in tensors.values():
        value[:] = float("nan")


@pytest.fixture(scope="module")
def saved_once(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    shutil.copyfile(saved_once / "eve.pub", tmp_path / "eve.pub")
    return Path(shutil.copytree(saved_once / "saved", tmp_path / "saved"))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an adapter's name": ("adapter", {"name": "../evil"}, "evil"),
    "an adapter's date": ("adapter", {"created_at": "2999-01-01T00:00:00.000000+00:00"}, "future"),
    "an adapter's author": ("adapter", {"created_by": "x\x1b[2J"}, "created_by"),
    "a fused artifact's key": ("fused", {"key": NOBODY_S}, "log"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_forged_document_is_refused(case: str, saved: Path, tmp_path: Path) -> None:
    kind, values, reason = REFUSED[case]
    change_lines(saved, f"documents/{kind}.ndjson", lambda documents: documents[0].update(values))
    with opened(tmp_path / "pulled") as pulled:
        pulled.init()
        with pytest.raises(FuseryError, match=reason):
            pulled.exchange.pull("*", saved)
        assert pulled.upkeep.audit().ok
        assert pulled.adapters.list() == []


@pytest.mark.parametrize("table", ["adapter", "adapter_rendering"])
def test_a_digest_that_the_files_do_not_have(table: str, saved: Path, tmp_path: Path) -> None:
    name = f"rows/{table}.ndjson"
    change_lines(saved, name, lambda rows: rows[0].update(digest=NOBODY_S))
    with opened(tmp_path / "restored") as restored:
        with pytest.raises(BackupError, match=name) as caught:
            restored.upkeep.restore(saved, own=True)
        assert "nothing was restored" in str(caught.value.hint)


def test_claims_in_a_foreign_backup_do_not_count(saved: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "restored") as restored:
        done = restored.exchange.pull("*", saved)
        assert [each.kind for each in done.items_] == ["base", "adapter", "fused"]
        for rules in ({"fidelity": "DEGRADED"}, {"signed": True}, {"approvals": 1}):
            restored.aliases.set_rules("prod", rules)
            assert not restored.aliases.promote(ADAPTER, "prod").moved, rules
        assert [line["foreign"] is not None for line in restored.adapters.show(ADAPTER)["fused"]] == [True]
        assert restored.fused.fuse(ADAPTER, KEEP).source == "computed"
        restored.trust.add_key("eve", tmp_path / "eve.pub", ["*#*"])
        restored.aliases.set_rules("prod", {"signed": True})
        assert restored.aliases.promote(ADAPTER, "prod").moved
        assert restored.upkeep.audit().ok


def test_an_interrupted_copy_goes_on(saved: Path, tmp_path: Path) -> None:
    blob = max(
        (path for path in (saved / "blobs").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    data = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with opened(tmp_path / "restored") as restored:
        with pytest.raises(BlobCorruptError):
            restored.exchange.pull("*", saved)
        blob.write_bytes(data)
        assert restored.exchange.pull("*", saved).copied > 0
        assert restored.exchange.pull("*", saved).copied == 0
        assert restored.upkeep.audit().ok


def test_one_s_own_backup_counts_as_it_is(saved: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "restored") as restored:
        restored.upkeep.restore(saved, own=True)
        restored.aliases.set_rules("prod", {"fidelity": "DEGRADED", "signed": True, "approvals": 1})
        assert restored.aliases.promote(ADAPTER, "prod").moved
        assert restored.upkeep.audit().ok


OWN: dict[str, tuple[Forge, str]] = {
    "a base's content": (setting(tables.BaseModelRow, content=NOBODY_S), "content_differs"),
    "a base's facts": (setting(tables.BaseModelRow, dtype="f64"), "facts_differ"),
    "an adapter's facts": (setting(tables.AdapterRow, rank=64), "facts_differ"),
    "a fused model's key": (setting(tables.FusedRow, key=NOBODY_S), "key_differs"),
}


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("case", OWN)
def test_an_audit_computes_again(case: str, liar: Registry) -> None:
    edit, code = OWN[case]
    assert liar.upkeep.audit().ok
    edit(liar, Path())
    assert code in {problem.code for problem in liar.upkeep.audit().problems}


def test_audit_finds_unfit_adapter_and_form(liar: Registry, tmp_path: Path) -> None:
    liar.exchange.export(ADAPTER, tmp_path / "exported", form="peft")
    with_weights(liar, _nan, tmp_path)
    codes = {problem.code for problem in liar.upkeep.audit().problems}
    assert {"adapter_unfit", "form_differs"} <= codes
