"""How a bundle starts vLLM: with the base that it was made for, from where that is, or not at all."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from bundle_cases import make_bundle
from consumers import adapters_source

from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.servers import unfound_base

COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
HUB = {"name": "four", "digest": "b" * 64, "hub_id": "org/Tiny-1M", "revision": COMMIT}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    scratch = tmp_path_factory.mktemp("vllm")
    base = tiny_models.make_base(scratch / "tiny", layers=2, hidden=64, intermediate=128)
    adapter = tiny_models.make_adapter(scratch / "course_rec_v1_20260115", base)
    return adapters_source(base, scratch / "rendered", adapter)


def written(
    source: BundleSource, folder: Path, base: dict[str, Any], target: str = "vllm", **choices: Any
) -> Path:
    folder.mkdir()
    make_bundle(replace(source, provenance={**source.provenance, "base": base}), target, folder, **choices)
    return folder


def start(bundle: Path, *words: str, cwd: Path | None = None, **variables: str) -> tuple[int, list[str], str]:
    """Run `serve.sh` with a `vllm` that prints what it is given; return its code, that, and what is said on stderr."""
    programs = bundle.parent / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "vllm").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (programs / "vllm").chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", **variables}
    done = subprocess.run(
        ["sh", bundle / "serve.sh", *words],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_a_base_from_a_hub_is_served_at_the_commit_it_was_taken_from(
    source: BundleSource, tmp_path: Path
) -> None:
    bundle = written(source, tmp_path / "bundle", HUB)
    code, words, _ = start(bundle, "--port", "8001")
    assert code == 0
    assert words[:4] == ["serve", "org/Tiny-1M", "--served-model-name", "org/Tiny-1M"]
    assert words[words.index("--revision") + 1] == COMMIT
    assert words[words.index("--port") + 1] == "8001"
    config = json.loads((bundle / "adapters/course_rec_v1_20260115/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/Tiny-1M"
    readme = (bundle / "README.md").read_text()
    assert f"vllm serve org/Tiny-1M --revision {COMMIT}`" in readme
    assert "`--max-lora-rank` has to be at least 8.\n" in readme
    assert f"--model org/Tiny-1M --revision {COMMIT} --enable-lora" in readme
    lorax = written(source, tmp_path / "lorax", HUB, "lorax") / "README.md"
    assert f"--model-id org/Tiny-1M --revision {COMMIT}\n" in lorax.read_text()


def test_readme_explains_a_maximum_above_the_rank(tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "tiny", layers=2, hidden=64, intermediate=128)
    adapter = tiny_models.make_adapter(tmp_path / "course_rec_v1_20260115", base, rank=4)
    bundle = written(adapters_source(base, tmp_path / "rendered", adapter), tmp_path / "bundle", HUB)
    readme = (bundle / "README.md").read_text()
    assert "has to be at least 8: the largest rank here is 4, and vLLM accepts only 1, 8, 16, " in readme


def test_whoever_has_it_elsewhere_says_so(source: BundleSource, tmp_path: Path) -> None:
    """The hub's revision means nothing there."""
    bundle = written(source, tmp_path / "bundle", HUB)
    base = tiny_models.make_base(tmp_path / "my bases" / "tiny", layers=1, hidden=64, intermediate=128)
    code, words, _ = start(bundle, BASE_MODEL=str(base))
    assert (code, words[1]) == (0, str(base))
    assert "--revision" not in words
    code, words, _ = start(bundle, cwd=tmp_path, BASE_MODEL="my bases/tiny")
    assert (code, words[1]) == (0, "my bases/tiny")
    code, words, _ = start(bundle, BASE_MODEL="org/Mirror")
    assert (code, words[1]) == (0, "org/Mirror")


@pytest.mark.parametrize("base", [{"name": "SmolLM2-135M-Instruct"}, {"name": "two words"}, {}])
def test_a_base_that_no_server_finds_by_its_name_is_asked_for(
    source: BundleSource, base: dict[str, Any], tmp_path: Path
) -> None:
    """A name of the registry is not one of the hub: vLLM would ask the hub for it, or load another's."""
    bundle = written(source, tmp_path / "bundle", base)
    code, words, said = start(bundle)
    assert (code, words) == (2, [])
    assert "is not in this bundle: set BASE_MODEL to its folder, or to its id on a hub" in said
    assert "\nBASE_MODEL=FOLDER sh serve.sh " in (bundle / "README.md").read_text()
    assert start(bundle, BASE_MODEL="org/There")[1][:2] == ["serve", "org/There"]
    told = replace(source, provenance={**source.provenance, "base": base})
    assert unfound_base(told, None) == base.get("name", "base")
    assert unfound_base(told, "org/There") is None
    assert unfound_base(replace(source, provenance={"base": HUB}), None) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("there", "there is neither a folder here nor the id of a model on a hub (owner/name)"),
        ("/no/such/folder", "there is no model's folder /no/such/folder"),
        ("./folder", "there is no model's folder ./folder"),
        ("a/b/c", "there is no model's folder a/b/c"),
        ("/tmp", "/tmp is not a model's folder in Hugging Face's layout: it has no config.json"),
        ("/etc/passwd", "/etc/passwd is not a model's folder"),
    ],
)
def test_what_cannot_be_a_base_is_said_before_vllm_asks_a_hub(
    source: BundleSource, given: str, said: str, tmp_path: Path
) -> None:
    bundle = written(source, tmp_path / "bundle", {"name": "tiny"})
    code, words, error = start(bundle, cwd=tmp_path, BASE_MODEL=given)
    assert (code, words) == (2, [])
    assert error.startswith(f"serve.sh: {said}")
    assert len(error.splitlines()) == 1


def test_what_the_user_says_goes_before_what_is_known(source: BundleSource, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "tiny", layers=1, hidden=64, intermediate=128)
    _, words, _ = start(written(source, tmp_path / "first", HUB, base_name="org/Mine"))
    assert words[:2] == ["serve", "org/Mine"]
    assert "--revision" not in words
    _, words, _ = start(written(source, tmp_path / "second", HUB, base_name=str(base)))
    assert words[:2] == ["serve", str(base)]
    code, _, said = start(written(source, tmp_path / "third", HUB, base_name="/gone"))
    assert code == 2
    assert "there is no model's folder /gone" in said
