"""`materialize` for other people's servers, through the command line: options arrive, errors are one sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery

pytest.importorskip("gguf")


def test_options_arrive_and_modules_are_counted(stocked: Fusery, tmp_path: Path) -> None:
    words = (
        "course_rec@1",
        "course_rec@2",
        "served",
        "--target",
        "vllm",
        "--base-name",
        "org/Served",
        "--json",
    )
    done = stocked("materialize", *words)
    assert done.code == 0
    assert done.json["layout"] == {"tensors": 0, "modules": 28, "adapters": 2}
    config = tmp_path / "served" / "adapters" / "course_rec_v1_20260115" / "adapter_config.json"
    assert json.loads(config.read_text())["base_model_name_or_path"] == "org/Served"
    done = stocked("materialize", "course_rec@1", "one", "--target", "gguf", "--gguf-type", "q8_0")
    assert done.code == 0
    assert "see " in done.err
    larger = stocked("materialize", "course_rec@1", "two", "--target", "gguf", "--json")
    sizes = [next((tmp_path / name).glob("*.gguf")).stat().st_size for name in ("one", "two")]
    assert sizes[0] < sizes[1]
    assert larger.json["layout"]["tensors"] == 39


def test_a_base_that_servers_do_not_find_is_told_of(stocked: Fusery) -> None:
    """The registry's name of a base means nothing to a hub."""
    done = stocked("materialize", "course_rec@1", "served", "--target", "vllm")
    assert done.code == 0
    assert "the base model tiny is not in the bundle, and a server does not find it by that name" in done.err
    assert "--base-name" in done.err
    assert "Next: BASE_MODEL=FOLDER sh " in done.err
    assert (
        stocked("materialize", "course_rec@1", "served", "--target", "vllm", "--json").json["unfound_base"]
        == "tiny"
    )
    for words in (("vllm", "--base-name", "org/Tiny"), ("vllm", "--fused"), ("llamacpp",), ("adapters",)):
        done = stocked("materialize", "course_rec@1", f"{words[0]}{len(words)}", "--target", *words)
        assert done.code == 0
        assert "is not in the bundle" not in done.err
        assert "BASE_MODEL" not in done.err


def test_a_cluster_is_told_where_the_adapters_are(stocked: Fusery, tmp_path: Path) -> None:
    words = ("materialize", "course_rec@1", "out", "--target", "k8s")
    done = stocked(*words)
    assert (done.code, done.out) == (2, "")
    assert "'tiny' is not the id of a model on the hub" in done.err
    assert "--base-name OWNER/NAME" in done.err
    done = stocked(*words, "--base-name", "org/Tiny")
    assert done.code == 2
    assert "manifests have to say where the cluster finds the adapters" in done.err
    assert "--location s3://BUCKET/PATH" in done.err
    assert not (tmp_path / "out").exists()
    options = (
        "--base-name",
        "org/Tiny",
        "--location",
        "oci://team/adapters:v1",
        "--base-image",
        "team/vllm:v2",
    )
    done = stocked(*words, *options)
    assert done.code == 0, done.err
    assert f"Next: see {tmp_path / 'out'}/README.md" in done.err
    text = (tmp_path / "out" / "llm-d" / "server.yaml").read_text()
    assert 'image: "team/vllm:v2"' in text
    assert 'reference: "team/adapters:v1"' in text


def test_what_cannot_be_is_said_in_a_sentence_and_leaves_nothing(
    fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_models.make_base(tmp_path / "base", bits=4, layers=2, hidden=64, intermediate=128)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.5)
    assert fusery("base", "add", base, "--name", "four").code == 0
    assert fusery("register", adapter, "--base", "four", "--task", "t").code == 0
    for words, error, hint in (
        (("--target", "vllm"), "quantised in MLX's format, which vLLM does not read", "--base-name NAME"),
        (("--target", "lorax"), "quantised in MLX's format, which LoRAX does not read", "--base-name NAME"),
        (("--target", "lorax", "--fused"), "the target lorax takes no --fused", "leave out --fused"),
        (
            ("--target", "vllm", "--fused", "--precision", "keep", "--accept-loss"),
            "is quantised in MLX's format",
            "--precision dequantize",
        ),
    ):
        done = fusery("materialize", "t@1", "out", *words)
        assert (done.code, done.out) == (2, "")
        assert error in done.err
        assert hint in done.err
        assert "Traceback" not in done.err
    monkeypatch.setitem(sys.modules, "gguf", None)
    done = fusery("materialize", "t@1", "out", "--target", "llamacpp")
    assert done.code == 2
    assert "pip install " in done.err and "[gguf]" in done.err
    assert not (tmp_path / "out").exists()
