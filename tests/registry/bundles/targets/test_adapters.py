"""The target `adapters`: what is in the bundle, and that its own server serves it from there."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_cases import make_bundle
from bundle_server import running_bundle
from openai import OpenAI

from fusery.registry import Registry
from fusery.registry.bundles import BundleSource, Choices
from fusery.registry.bundles.target import LayoutError, Written, find_target
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest


def write(source: BundleSource, folder: Path) -> Written:
    folder.mkdir()
    return make_bundle(source, "adapters", folder)


def test_all_modules_are_counted(unfused: BundleSource, tmp_path: Path) -> None:
    written = write(unfused, tmp_path / "a")
    assert written.layout.adapters == 2
    assert written.layout.modules == 2 * 2 * 7, "two adapters, two layers, seven modules in each"
    assert written.layout.tensors > 20
    paths = {entry.path for entry in written.manifest}
    assert paths > {
        "server.py",
        "serving/model_server/run.py",
        "requirements.txt",
        "serving.json",
        "README.md",
    }
    assert paths > {"Dockerfile", "compose.yaml", ".dockerignore", "requirements-nvidia.txt"}
    record = json.loads((tmp_path / "a" / "fusery.json").read_bytes())
    assert record["model"] == "base"
    assert [each["name"] for each in record["adapters"]] == [adapter.name for adapter in unfused.adapters]


def test_adapters_that_match_nothing_are_found(unfused: BundleSource, tmp_path: Path) -> None:
    write(unfused, tmp_path / "a")
    weights = tmp_path / "a" / "adapters" / unfused.adapters[0].name / "adapters.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data.replace(b"model.layers", b"nodel.layers"))
    with pytest.raises(LayoutError, match="course_rec_v1"):
        find_target("adapters").check(tmp_path / "a")


def test_no_text_becomes_code(unfused: BundleSource, evil_in_bundles: list[str], tmp_path: Path) -> None:
    """Names were checked on registration; all other texts stay text in JSON and in a table."""
    write(unfused, tmp_path / "plain")
    for number, evil in enumerate(evil_in_bundles):
        facts = dict.fromkeys(("task", "dataset", "val_loss", "version", "rank", "licence", "note"), evil)
        adapters = tuple(replace(each, facts={**each.facts, **facts}) for each in unfused.adapters)
        name = evil[:200].encode("utf-8", "replace").decode()  # a database cannot store a lone surrogate
        routes = {f"route {name}": unfused.adapters[0].name}
        base = {"name": name or "base", "digest": unfused.provenance["base"]["digest"]}
        folder = tmp_path / str(number)
        write(replace(unfused, adapters=adapters, routes=routes, provenance={"base": base}), folder)
        document = json.loads((folder / "serving.json").read_bytes())
        assert document["routes"] == routes
        assert document["base"]["name"] == base["name"]
        lines = [(each / "README.md").read_text().count("\n") for each in (tmp_path / "plain", folder)]
        assert lines[1] == lines[0] - 1, "one route instead of two, and no line more"
        image = ("compose.yaml", ".dockerignore", "requirements-nvidia.txt")
        plain, spoiled = ((each / "Dockerfile").read_text() for each in (tmp_path / "plain", folder))
        assert re.sub("LABEL .*\n", "", spoiled) == re.sub("LABEL .*\n", "", plain)
        for path in ("server.py", "requirements.txt", "serving/model_server/run.py", *image):
            assert (folder / path).read_bytes() == (tmp_path / "plain" / path).read_bytes()


@pytest.fixture
def shipped(stocked: Registry, tmp_path: Path) -> Path:
    stocked.aliases.set("prod", "course_rec@1")
    stocked.aliases.set("canary", "course_rec@1")
    choices = Choices(models=("mix=course_rec@1:0.5,course_rec@2:0.5",))
    bundle = stocked.bundles.materialize(
        ["course_rec#prod", "course_rec#canary", "course_rec@2"],
        tmp_path / "bundle",
        target="adapters",
        choices=choices,
    )
    assert bundle.adapters == ("course_rec_v1_20260115", "course_rec_v2_20260201")
    assert bundle.fused is None
    assert stocked.upkeep.audit().ok
    return tmp_path / "bundle"


@pytest.mark.timing
@pytest.mark.slow
def test_its_server_serves_it_far_from_home(shipped: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.move(shipped, tmp_path / "elsewhere"))
    with (
        running_bundle(elsewhere, tmp_path / "log") as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        names = {model.id for model in client.models.list()}
        assert names >= {"course_rec#prod", "course_rec#canary", "course_rec", "mix", "tiny"}
        messages: list[object] = [{"role": "user", "content": "hi"}]
        for name in ("course_rec#prod", "course_rec_v2_20260201", "tiny", "mix"):
            reply = client.chat.completions.create(model=name, messages=messages, max_tokens=3)  # type: ignore[arg-type]
            assert reply.usage is not None and reply.usage.completion_tokens <= 3
        server.process.terminate()
        assert server.process.wait(60) == 0, server.log.read_text()


def test_what_makes_no_sense_is_refused(stocked: Registry, tmp_path: Path) -> None:
    place = tmp_path / "out"
    for references, options in (
        ("course_rec@1", {"target": "adapters", "request": FuseRequest(precision="keep")}),
        (["course_rec@1", "course_rec@2"], {"target": "model"}),
        ("course_rec@1", {"target": "adapters", "content": "fused"}),
        ("course_rec@1", {"choices": Choices(models=("a=course_rec@1",))}),
    ):
        with pytest.raises(BadInputError):
            stocked.bundles.materialize(references, place, **options)  # type: ignore[arg-type]
    assert not place.exists()
