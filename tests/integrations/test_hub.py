"""The target `hub`, and repositories on a hub as places."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from bundle_cases import make_bundle, model_folder
from consumers import adapters_source
from hub_server import Hub, running_hub
from huggingface_hub import HfApi, ModelCard
from safetensors.numpy import load_file, save_file

from fusery.integrations import hub as place_module
from fusery.integrations import hub as target
from fusery.registry import Registry
from fusery.registry.bundles import BundleSource, Choices
from fusery.registry.bundles.delivery import place_at
from fusery.registry.bundles.materialize import Materialized
from fusery.registry.bundles.target import LayoutError
from fusery.registry.errors import AlreadyExistsError, BadInputError
from fusery.registry.record import plain
from fusery.storage.errors import StoreDeniedError, StoreUnavailableError
from fusery.storage.secrets import redact


@pytest.fixture
def unfused(plain_source: BundleSource, tmp_path: Path) -> BundleSource:
    """One adapter in PEFT's format; the base is named, and not included."""
    base = model_folder(plain_source)
    folder = tiny_models.make_adapter(tmp_path / "course_rec_v1_20261124", base, seed=1)
    return adapters_source(base, tmp_path / "rendered", folder)


def written(source: BundleSource, folder: Path, **choices: Any) -> Path:
    folder.mkdir()
    make_bundle(source, "hub", folder, **choices)
    return folder


def test_an_adapter_keeps_its_numbers_and_names_its_base(unfused: BundleSource, tmp_path: Path) -> None:
    folder = written(unfused, tmp_path / "a", base_name="org/Base")
    layout = target.check(folder)
    assert (layout.adapters, layout.modules) == (1, 2 * 7)
    config = json.loads((folder / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == "org/Base"
    before = load_file(unfused.adapters[0].files.paths["adapter_model.safetensors"])
    after = load_file(folder / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("org/Base", "adapter")


def test_two_adapters_are_two_repositories(unfused: BundleSource, tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        written(replace(unfused, adapters=unfused.adapters * 2), tmp_path / "a")


def test_texts_stay_texts(unfused: BundleSource, evil_in_bundles: list[str], tmp_path: Path) -> None:
    for number, evil in enumerate(evil_in_bundles):
        facts = dict.fromkeys(("digest", "task", "dataset", "note", "licence", "parent", "method"), evil)
        unfused.adapters[0].facts.update(facts)  # type: ignore[attr-defined]
        unfused.provenance["base"]["name"] = evil
        folder = written(unfused, tmp_path / str(number))
        data = ModelCard((folder / "README.md").read_bytes().decode()).data.to_dict()
        assert data.get("base_model", "") == evil
        assert data["tags"] == ["fusery", "lora", *([evil] if evil else [])]
        config = json.loads((folder / "adapter_config.json").read_bytes())
        assert config["base_model_name_or_path"] == evil


def test_the_self_test_finds_an_adapter_that_does_nothing(unfused: BundleSource, tmp_path: Path) -> None:
    folder = written(unfused, tmp_path / "a")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({f"x.{name}": value for name, value in tensors.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(LayoutError):
        target.check(folder)


# huggingface_hub's own way of sending a large file without Xet.
pytestmark = [pytest.mark.timing, pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]

TOKEN = "hf_canary5f0e6c1d"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client is pointed at, with this user's token."""
    with running_hub(TOKEN) as running:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        point_at(running.endpoint, monkeypatch)
        yield running


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    # What HF_ENDPOINT and HF_HUB_DISABLE_XET set, which are read when the package is imported.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: HfApi(endpoint=endpoint))


def on_disk(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def uploaded(hub: Hub, repository: str) -> dict[str, bytes]:
    return {
        path: content for path, content in hub.repositories[repository].items() if path != ".gitattributes"
    }


def put(stocked: Registry, reference: str, place: object, **options: object) -> Materialized:
    choices = Choices(base_name="org/tiny")
    return stocked.bundles.materialize(reference, str(place), target="hub", choices=choices, **options)  # type: ignore[arg-type]


def test_what_arrives_is_the_bundle_in_one_commit(hub: Hub, stocked: Registry, tmp_path: Path) -> None:
    done = put(stocked, "course_rec@1", "hf://team/x")
    local = put(stocked, "course_rec@1", tmp_path / "local")
    assert uploaded(hub, "team/x") == on_disk(Path(local.path))
    assert done.manifest == local.manifest
    assert hub.commits == {"team/x": ["fusery: x"]}
    assert hub.private == {"team/x"}
    data = ModelCard(uploaded(hub, "team/x")["README.md"].decode()).data
    assert (data.base_model, data.to_dict()["base_model_relation"]) == ("org/tiny", "finetune")
    assert put(stocked, "course_rec@1", "hf://team/x").existed
    assert len(hub.commits["team/x"]) == 1
    hub.repositories["team/x"]["README.md"] += b"edited"
    with pytest.raises(AlreadyExistsError):
        put(stocked, "course_rec@1", "hf://team/x")
    # Another model takes its place by force only.
    hub.repositories["team/x"]["old.txt"] = b"left over"
    with pytest.raises(AlreadyExistsError):
        put(stocked, "course_rec@2", "hf://team/x")
    put(stocked, "course_rec@2", "hf://team/x", force=True)
    files = uploaded(hub, "team/x")
    assert json.loads(files["fusery.json"])["name"] == "course_rec_v2_20260201"
    assert "old.txt" not in files
    assert ".gitattributes" in hub.repositories["team/x"]
    assert len(hub.commits["team/x"]) == 2
    assert stocked.upkeep.audit().ok


def test_a_repository_of_something_else_is_left_alone(hub: Hub, registry: Registry) -> None:
    hub.repositories["team/other"] = {"model.bin": b"x"}
    place = place_at(registry.workspace, "hf://team/other", target="hub")
    with pytest.raises(AlreadyExistsError):
        place.require_free(False)
    place.require_free(True)


def test_a_token_is_never_shown(
    hub: Hub, stocked: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "hf_wrong9d2e7a44"
    monkeypatch.setenv("HF_TOKEN", wrong)
    with pytest.raises(StoreDeniedError) as caught:
        put(stocked, "course_rec@1", "hf://team/x")
    assert "hf auth login" in str(caught.value.hint)
    assert "team/x" not in hub.repositories
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = put(stocked, "course_rec@1", "hf://team/x")
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    shown += json.dumps(plain(stocked.upkeep.log())) + json.dumps(done.to_dict())
    shown += b"".join(uploaded(hub, "team/x").values()).decode(errors="replace")
    for token in (wrong, TOKEN):
        assert token not in shown
        assert token not in redact(f"the hub says {token}")


def test_wrong_places(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:1", monkeypatch)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(StoreUnavailableError):
        place_at(registry.workspace, "hf://team/x", target="hub").require_free(False)
    for url in ("x", "a/b/c", "a/../b", "a b/c", "u:pw@a/b", "a/b?x=y", ""):
        with pytest.raises(BadInputError) as caught:
            place_at(registry.workspace, f"hf://{url}", target="hub")
        assert "pw" not in str(caught.value)
    with pytest.raises(BadInputError):
        place_at(registry.workspace, "hf://a/b", target="model")


def test_git_s_digest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello\n")
    assert place_module.git_digest(tmp_path / "x") == "ce013625030ba8dba906f756967f9e9ca394464a"
