"""`fusery serve` without its process: the folder it serves from, and who follows the registry."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import tiny_models
from waiting import wait_until

from fusery.model_server import run as running
from fusery.model_server.local import serve as module
from fusery.model_server.local.serve import Follower, ServeRequest, Serving, serve
from fusery.registry import Registry, Reporter
from fusery.registry.errors import BadInputError, MissingExtraError, ModelUnusableError
from fusery.registry.fusion.request import FuseRequest
from fusery.registry.runtime.document import read_document
from fusery.registry.runtime.errors import AddressError, DocumentError, ServingError

pytestmark = pytest.mark.timing

V1, V2 = "course_rec_v1_20260115", "course_rec_v2_20260201"


def follower(registry: Registry, folder: Path, heard: list[str], *references: str, **more: Any) -> Follower:
    folder.mkdir()
    request = ServeRequest(references=references, **more)
    made = Follower(registry.workspace, request, folder, heard.append, lambda: heard.append("refreshed"))
    made.follow(made.plan())
    return made


def test_an_alias_is_followed(stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    stocked.aliases.set("prod", "course_rec@1")
    heard: list[str] = []
    folder = tmp_path / "served"
    following = follower(stocked, folder, heard, "course_rec#prod")
    assert read_document(folder / "serving.json").routes == {"course_rec#prod": V1, "course_rec": V1}
    for _ in range(2):  # a notice is printed once
        following.follow(replace(following.plan(), notices=("a caution",)))
    assert heard.count("a caution") == 1
    (folder / "made" / V2).mkdir(parents=True)  # by an attempt that failed
    assert "refreshed" not in heard
    following.start()
    try:
        stocked.aliases.set("prod", "course_rec@2")
        wait_until(lambda: read_document(folder / "serving.json").routes["course_rec#prod"] == V2)
        files = {path.name for path in (folder / "adapters" / V2).iterdir()}
        assert files >= {"adapters.safetensors", "adapter_config.json"}
        assert {f"now serving {V2}", "refreshed"} < {*heard}
        # What is served when it is yanked is served on, and that is said once.
        stocked.adapters.yank("course_rec@2", reason="bad data")
        wait_until(lambda: any("yanked" in text for text in heard))
        look = Mock(side_effect=following.plan)
        monkeypatch.setattr(following, "plan", look)
        wait_until(lambda: look.call_count > 2)
        assert len([text for text in heard if text.startswith(f"still serving {V2}: ")]) == 1
        assert read_document(folder / "serving.json").routes["course_rec#prod"] == V2
        stocked.aliases.roll_back("course_rec#prod", reason="bad data")
        wait_until(lambda: read_document(folder / "serving.json").routes["course_rec#prod"] == V1)
    finally:
        following.stop()


def test_keys_that_are_none_are_told_before_anything_is_fetched(stocked: Registry, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    for text in (None, "", '[acme]\nkey_sha256 = ["x"]'):
        if text is not None:
            keys.write_text(text)
        heard: list[str] = []
        request = ServeRequest(references=["course_rec@1"], api_keys=keys)
        with pytest.raises(BadInputError):
            serve(stocked, request, ready=print, reporter=Reporter(heard.append))
        assert heard == []


@pytest.mark.parametrize(("package", "extra"), [("uvicorn", "serve"), ("mlx_lm", "mlx")])
def test_a_missing_extra(package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    hidden = {package: None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: hidden.get(name, real(name, *rest)))
    with pytest.raises(MissingExtraError) as caught:
        module.require_extras()
    assert caught.value.hint == f"pip install 'fusery[{extra}]'"


def test_a_fused_model_is_served_alone(stocked: Registry) -> None:
    refreshed: list[bool] = []

    @contextmanager
    def served(**more: Any) -> Iterator[Path]:
        request = ServeRequest(**{"references": ["course_rec@1"], "fused": True} | more)
        with (
            ExitStack() as reading,
            module._folder(stocked.workspace, request, reading, print, lambda: refreshed.append(True)) as (
                folder,
                nobody,
            ),
        ):
            assert (nobody, refreshed.pop()) == (None, True)
            yield folder

    with served(port=0) as folder:
        document = json.loads((folder / "serving.json").read_text())
        assert document["base"]["name"] == V1
        assert document["routes"] == {"course_rec@1": V1, "course_rec": V1}
        assert (Path(document["base"]["folder"]) / "model.safetensors").exists()
    for more in ({"references": ["course_rec@1", "course_rec@2"]}, {"models": ["x=course_rec@1"]}):
        with pytest.raises(BadInputError), served(**more):
            pass


def test_a_server_follows_until_it_ends(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(module, "TOUCH_SECONDS", 0.01)
    stocked.aliases.set("prod", "course_rec@1")
    said: list[str] = []
    shown: list[Serving] = []

    def run(path: Path, options: ServeRequest, *, loaded: Any, ready: Any, say: Any) -> int:
        assert (path.parent / "base" / "config.json").is_file()
        os.utime(path.parent, (0, 0))
        wait_until(lambda: path.parent.stat().st_mtime > 0)  # or it would be swept from the cache
        loaded()
        ready("http://127.0.0.1:1")
        stocked.aliases.set("prod", "course_rec@2")
        wait_until(lambda: read_document(path).routes["course_rec#prod"] == V2)
        return 7

    monkeypatch.setattr(running, "serve", run)
    request = ServeRequest(references=["course_rec#prod"], host="0.0.0.0", models=["mine=course_rec@1"])
    assert serve(stocked, request, ready=shown.append, reporter=Reporter(said.append)) == 7
    (serving,) = shown
    assert (serving.url, serving.base, serving.adapters) == ("http://127.0.0.1:1/v1", "tiny", (V1,))
    assert serving.models == ("tiny", V1, "course_rec#prod", "course_rec", "mine")
    assert {"fetching tiny", f"fetching {V1}", f"fetching {V2}"} < {*said} and "--api-keys" in said[0]
    assert not [thread for thread in threading.enumerate() if thread.name in ("follower", "kept")]
    local = replace(request, host="localhost", models=[])
    for raised, error in (
        (DocumentError, BadInputError), (AddressError, BadInputError), (ServingError, ModelUnusableError)
    ):  # fmt: skip
        monkeypatch.setattr(running, "serve", Mock(side_effect=raised("no")))
        said.clear()
        with pytest.raises(error):
            serve(stocked, local, ready=print, reporter=Reporter(said.append))
        assert said[0] == "fetching tiny"
    stocked.bases.add(tiny_models.make_base(tmp_path / "other", seed=5), name="other")
    fuse, other = FuseRequest(precision="keep"), FuseRequest(base="other")
    for wrong in ({"adapters_from": tmp_path / "missing"}, {"request": fuse}, {"request": other}):
        with pytest.raises(BadInputError):
            serve(stocked, replace(local, **wrong), ready=print)  # type: ignore[arg-type]
