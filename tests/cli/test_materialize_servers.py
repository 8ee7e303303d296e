"""`materialize` for other people's servers, through the command line: options arrive, errors are one sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery

from .conftest import require_refusals

pytest.importorskip("gguf")


@pytest.mark.slow
def test_options_arrive_and_modules_are_counted(stocked: Fusery, tmp_path: Path) -> None:
    words = ("course_rec@1", "course_rec@2", "served", "--target", "vllm", "-o", "base_name=org/Served")
    done = stocked("materialize", *words, "--json")
    assert (done.code, done.json["layout"]) == (0, {"tensors": 0, "modules": 28, "adapters": 2})
    config = tmp_path / "served" / "adapters" / "course_rec_v1_20260115" / "adapter_config.json"
    assert json.loads(config.read_text())["base_model_name_or_path"] == "org/Served"
    done = stocked("materialize", "course_rec@1", "one", "--target", "gguf", "-o", "gguf_type=q8_0")
    assert (done.code, "see " in done.err) == (0, True)
    larger = stocked("materialize", "course_rec@1", "two", "--target", "gguf", "--json")
    sizes = [next((tmp_path / name).glob("*.gguf")).stat().st_size for name in ("one", "two")]
    assert (sizes[0] < sizes[1], larger.json["layout"]["tensors"]) == (True, 39)


def test_a_cluster_is_told_where_the_adapters_are(stocked: Fusery, tmp_path: Path) -> None:
    words = ("materialize", "course_rec@1", "out", "--target", "k8s")
    require_refusals(
        stocked,
        (words, "-o base_name=OWNER/NAME"),
        ((*words, "-o", "base_name=org/Tiny"), "-o location=s3://BUCKET/PATH"),
    )
    assert not (tmp_path / "out").exists()
    options = "-o base_name=org/Tiny -o location=oci://team/adapters:v1 -o base_image=team/vllm:v2"
    done = stocked(*words, *options.split())
    assert done.code == 0, done.err
    assert f"Next: see {tmp_path / 'out'}/README.md" in done.err
    text = (tmp_path / "out" / "deployment" / "server.yaml").read_text()
    assert 'image: "team/vllm:v2"' in text
    assert 'reference: "team/adapters:v1"' in text


@pytest.mark.slow
def test_refusals_write_nothing(fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_models.make_base(tmp_path / "base", bits=4, layers=2, hidden=64, intermediate=128)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.5)
    assert fusery("base", "add", base, "--name", "four").code == 0
    assert fusery("register", adapter, "--base", "four", "--task", "t").code == 0
    cases = (
        ("vllm", "-o base_name=NAME"),
        ("k8s --fused", "leave out --fused"),
        ("vllm --fused --as keep --accept-loss", "--as 16bit"),
    )
    require_refusals(fusery, *((f"materialize t@1 out --target {words}", named) for words, named in cases))
    monkeypatch.setitem(sys.modules, "gguf", None)
    require_refusals(fusery, ("materialize t@1 out --target llamacpp", "[gguf]"))
    assert not (tmp_path / "out").exists()
