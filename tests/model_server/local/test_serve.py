"""`fusery serve` without its process: the folder it serves from, and who follows the registry."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from waiting import wait_until

from fusery.model_server.local import serve as module
from fusery.model_server.local.serve import Follower, ServeRequest, serve
from fusery.registry import Registry, Reporter
from fusery.registry.errors import BadInputError, MissingExtraError
from fusery.registry.runtime.document import read_document

pytestmark = pytest.mark.timing

V1, V2 = "course_rec_v1_20260115", "course_rec_v2_20260201"


def follower(registry: Registry, folder: Path, heard: list[str], *references: str, **more: Any) -> Follower:
    folder.mkdir()
    made = Follower(registry.workspace, ServeRequest(references=references, **more), folder, heard.append)
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
    following.start()
    try:
        stocked.aliases.set("prod", "course_rec@2")
        wait_until(lambda: read_document(folder / "serving.json").routes["course_rec#prod"] == V2)
        files = {path.name for path in (folder / "adapters" / V2).iterdir()}
        assert files >= {"adapters.safetensors", "adapter_config.json"}
        assert f"now serving {V2}" in heard
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
    @contextmanager
    def served(**more: Any) -> Iterator[Path]:
        request = ServeRequest(**{"references": ["course_rec@1"], "fused": True} | more)
        with (
            ExitStack() as reading,
            module._folder(stocked.workspace, request, reading, lambda _: None) as (folder, nobody),
        ):
            assert nobody is None
            yield folder

    with served(port=0) as folder:
        document = json.loads((folder / "serving.json").read_text())
        assert document["base"]["name"] == V1
        assert document["routes"] == {"course_rec@1": V1, "course_rec": V1}
        assert (Path(document["base"]["folder"]) / "model.safetensors").exists()
    for more in ({"references": ["course_rec@1", "course_rec@2"]}, {"models": ["x=course_rec@1"]}):
        with pytest.raises(BadInputError), served(**more):
            pass
