"""Uploading to a hub: which bytes and which card arrive, by huggingface_hub's own client; and the target `hub`."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, running_hub
from huggingface_hub import HfApi, ModelCard

from fusery.registry import Registry
from fusery.registry.bundles import Choices
from fusery.registry.bundles.delivery import hub as place_module
from fusery.registry.bundles.delivery import place_at
from fusery.registry.bundles.materialize import Materialized
from fusery.registry.errors import AlreadyExistsError, BadInputError
from fusery.registry.record import plain
from fusery.storage.errors import StoreDeniedError, StoreUnavailableError
from fusery.storage.secrets import redact

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
