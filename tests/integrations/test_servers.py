"""The targets for other people's servers, all together: counted, the same bytes twice, no place of the machine, texts as texts."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from bundle_cases import make_bundle
from consumers import adapters_source, files_of, llama_cpp_logits, mlx_logits
from peft_folders import make_peft

from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.target import LayoutError, own_targets
from fusery.registry.errors import BadInputError
from fusery.registry.models.gguf_header import read_header

pytest.importorskip("gguf")

UNFUSED = ("vllm", "k8s", "ollama", "llamacpp")
OPTIONS = {"k8s": {"base_name": "org/Tiny-1M", "location": "pvc://adapters"}}
"""The options that each target requires."""
unfused = pytest.mark.parametrize("target", UNFUSED)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    return tiny_models.make_base(folder, dtype="float32", layers=2, hidden=64, intermediate=128)


@pytest.fixture(scope="session")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter of mlx-lm's for the last layer only, and one of PEFT's with several ranks and scales."""
    scratch = tmp_path_factory.mktemp("adapters")
    first = tiny_models.make_adapter(scratch / "course_rec_v1_20260115", base, num_layers=1, update=0.5)
    second = make_peft(
        scratch / "summary_v1_20260115",
        base,
        ranks={"model.layers.1.self_attn.q_proj": 8},
        alpha_pattern={"v_proj": 5},
        lora_alpha=12.5,
    )
    return first, second


@pytest.fixture
def unfused_source(base: Path, folders: tuple[Path, Path], tmp_path: Path) -> BundleSource:
    return adapters_source(base, tmp_path / "rendered", *folders)


@pytest.fixture
def fused_source(base: Path, plain_source: BundleSource) -> BundleSource:
    return replace(plain_source, model=files_of(base))


def write(source: BundleSource, target: str, folder: Path, **choices: Any) -> dict[str, Path]:
    folder.mkdir()
    make_bundle(source, target, folder, **{**OPTIONS.get(target, {}), **choices})
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timing
@unfused
def test_hostile_texts_are_texts_with_adapters(
    unfused_source: BundleSource, target: str, evil_in_bundles: list[str], tmp_path: Path
) -> None:
    for number, evil in enumerate(evil_in_bundles if target != "k8s" else ()):  # see cluster/test_projects.py
        facts = dict.fromkeys(("task", "dataset", "val_loss"), evil)
        adapters = tuple(replace(each, facts={**each.facts, **facts}) for each in unfused_source.adapters)
        base = {"name": evil, "digest": evil, "hub_id": evil if number % 2 else None, "revision": evil}
        provenance = {**unfused_source.provenance, "base": base}
        source = replace(unfused_source, adapters=adapters, provenance=provenance)
        _check_texts(write(source, target, tmp_path / str(number)), evil, tmp_path)


@pytest.mark.timing
@pytest.mark.parametrize("target", ["vllm", "ollama", "llamacpp", "gguf"])
def test_hostile_texts_are_texts_with_a_model(
    fused_source: BundleSource, target: str, evil_in_bundles: list[str], tmp_path: Path
) -> None:
    for number, evil in enumerate(evil_in_bundles):
        adapter = dict.fromkeys(("name", "task", "dataset", "digest", "version"), evil)
        provenance = {**fused_source.provenance, "base": {"name": evil, "digest": evil}, "adapter": adapter}
        source = replace(fused_source, provenance=provenance)
        _check_texts(write(source, target, tmp_path / str(number)), evil, tmp_path)


def _check_texts(files: dict[str, Path], evil: str, scratch: Path) -> None:
    """Programs read the whole text, no script contains it, and every file keeps its other content."""
    record = json.loads(files["fusery.json"].read_text(encoding="ascii"))
    base = record["provenance"]["base"]["name"]
    readme = files["README.md"].read_text(encoding="utf-8")
    fences = [line for line in readme.splitlines() if line.startswith("```")]
    assert len(fences) % 2 == 0
    assert set(fences[1::2]) == {"```"}
    for path, file in files.items():
        if path.startswith("Modelfile"):
            lines = file.read_text(encoding="ascii").splitlines()
            assert [line.split(" ")[0] for line in lines] == ["FROM", "ADAPTER"][: len(lines)]
        elif path == "serve.sh":
            # Whatever the base's name, the script starts the server only.
            expected = (
                [str(file.parent.resolve() / "model")] if "model/config.json" in files else ["org/given"]
            )
            expected = (
                ["serve", *expected] if "models.ini" not in files else ["--models-preset", "models.ini"]
            )
            assert _arguments(file, scratch)[:2] == expected
        elif path.endswith("adapter_config.json"):
            assert json.loads(file.read_text(encoding="ascii"))["base_model_name_or_path"] == (base or "base")
        elif path.endswith(".gguf"):
            metadata = read_header(file).metadata
            expected = evil.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
            if "fusery.adapter.dataset" in metadata:
                assert metadata["fusery.adapter.dataset"] == expected
            assert metadata["general.architecture"] == "llama"
            assert metadata["general.type"] in ("model", "adapter")


def _arguments(script: Path, scratch: Path) -> list[str]:
    """Run the script with a server that writes down what it is started with."""
    programs = scratch / "programs"
    if not programs.exists():
        programs.mkdir()
        for name in ("vllm", "llama-server"):
            (programs / name).write_text(
                '#!/bin/sh\n[ "$1" = --help ] && echo --models-preset || printf "%s\\0" "$@"\n'
            )
            (programs / name).chmod(0o755)
    done = subprocess.run(
        ["sh", script],
        env={"PATH": f"{programs}:/usr/bin:/bin", "BASE_MODEL": "org/given"},
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().split("\0")[:-1]


def test_llama_cpp_answers_with_each_adapter_as_mlx_lm_does(
    unfused_source: BundleSource, base: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    for target in ("llamacpp", "ollama"):
        files = write(unfused_source, target, tmp_path / target)
        plain = llama_cpp_logits(files["base.gguf"], [], tmp_path)
        assert np.abs(plain - mlx_logits(base)).max() < 1e-5 * np.abs(plain).max()
        adapter = files[f"adapters/{folders[0].name}.gguf"]
        found, ours = llama_cpp_logits(files["base.gguf"], [adapter], tmp_path), mlx_logits(base, folders[0])
        assert np.abs(found - ours).max() < 1e-5 * np.abs(ours).max()
        assert np.abs(found - plain).max() > 0.1


@pytest.mark.parametrize(
    "settings", [{"kind": "qwen2"}, {"kind": "qwen3"}, {"bits": 4}], ids=["qwen2", "qwen3", "quantised"]
)
def test_other_bases_go_to_llama_cpp_with_their_adapters(settings: dict[str, Any], tmp_path: Path) -> None:
    base = tiny_models.make_base(
        tmp_path / "base", **settings, dtype="float32", layers=2, hidden=64, intermediate=128
    )
    keys = ["self_attn.k_proj", "mlp.gate_proj", "lm_head", "model.embed_tokens"]
    adapter = tiny_models.make_adapter(tmp_path / "some_v1_20260115", base, keys=keys, update=0.5)
    files = write(adapters_source(base, tmp_path / "rendered", adapter), "llamacpp", tmp_path / "bundle")
    assert own_targets()["llamacpp"].check(tmp_path / "bundle").modules == 6
    found = llama_cpp_logits(files["base.gguf"], [files["adapters/some_v1_20260115.gguf"]], tmp_path)
    ours = mlx_logits(base, adapter)
    assert np.abs(found - ours).max() < 1e-5 * np.abs(ours).max()


@pytest.mark.parametrize("target", UNFUSED)
def test_adapters_without_effect_are_found(unfused_source: BundleSource, target: str, tmp_path: Path) -> None:
    """The bundle's check refuses what a server would silently ignore."""
    files = write(unfused_source, target, tmp_path / "bundle")
    name = next(
        path for path in files if path.endswith(("course_rec_v1_20260115.gguf", "adapter_model.safetensors"))
    )
    data = files[name].read_bytes()
    changed = data.replace(b"attn_q.weight.lora_a", b"attn_x.weight.lora_a").replace(
        b"q_proj.lora_A.weight", b"q_proj.lora_X.weight"
    )
    assert changed != data
    files[name].write_bytes(changed)
    with pytest.raises(LayoutError):
        own_targets()[target].check(tmp_path / "bundle")


def test_what_no_server_computes_is_refused(base: Path, plain_source: BundleSource, tmp_path: Path) -> None:
    dora = tiny_models.make_adapter(tmp_path / "some_v1_20260115", base, fine_tune_type="dora")
    source = adapters_source(base, tmp_path / "rendered", dora)
    for target in UNFUSED:
        with pytest.raises(BadInputError, match="some_v1_20260115"):
            write(source, target, tmp_path / target)
    # A base in MLX's format needs -o base_name with adapters, and --as 16bit when it is fused.
    quantised = tiny_models.make_base(tmp_path / "base", bits=4, layers=2, hidden=64, intermediate=128)
    adapter = tiny_models.make_adapter(tmp_path / "other_v1_20260115", quantised)
    source = adapters_source(quantised, tmp_path / "rendered", adapter)
    with pytest.raises(BadInputError) as caught:
        write(source, "vllm", tmp_path / "refused")
    assert "-o base_name=" in str(caught.value.hint)
    files = write(source, "vllm", tmp_path / "named", base_name="org/Original")
    config = json.loads(files["adapters/other_v1_20260115/adapter_config.json"].read_text())
    assert config["base_model_name_or_path"] == "org/Original"
    assert "org/Original" in files["README.md"].read_text()
    with pytest.raises(BadInputError) as caught:
        write(replace(plain_source, model=files_of(quantised)), "vllm", tmp_path / "fused")
    assert caught.value.hint == "--as 16bit"
