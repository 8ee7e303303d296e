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

from fusery.integrations.vllm import unfound_base
from fusery.registry.bundles import BundleSource

pytestmark = pytest.mark.timing

COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
HUB = {"name": "four", "digest": "b" * 64, "hub_id": "org/Tiny-1M", "revision": COMMIT}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    scratch = tmp_path_factory.mktemp("vllm")
    base = tiny_models.make_base(scratch / "tiny", layers=2, hidden=64, intermediate=128)
    adapter = tiny_models.make_adapter(scratch / "course_rec_v1_20260115", base)
    return adapters_source(base, scratch / "rendered", adapter)


def written(source: BundleSource, folder: Path, base: dict[str, Any], **choices: Any) -> Path:
    folder.mkdir()
    make_bundle(replace(source, provenance={**source.provenance, "base": base}), "vllm", folder, **choices)
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


def test_hub_base_is_served_at_its_commit(source: BundleSource, tmp_path: Path) -> None:
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


def test_whoever_has_it_elsewhere_says_so(source: BundleSource, tmp_path: Path) -> None:
    """A revision of the hub does not apply to a local folder."""
    bundle = written(source, tmp_path / "bundle", HUB)
    base = tiny_models.make_base(tmp_path / "my bases" / "tiny", layers=1, hidden=64, intermediate=128)
    for given, cwd in ((str(base), None), ("my bases/tiny", tmp_path), ("org/Mirror", None)):
        code, words, _ = start(bundle, cwd=cwd, BASE_MODEL=given)
        assert (code, words[1]) == (0, given)
        assert "--revision" not in words
    (tmp_path / "link").symlink_to(base)
    for number, name in enumerate(("org/Mine", str(tmp_path / "link"))):
        _, words, _ = start(written(source, tmp_path / str(number), HUB, base_name=name))
        assert words[:2] == ["serve", name]
        assert "--revision" not in words
    code, _, said = start(written(source, tmp_path / "gone", HUB, base_name="/gone"))
    assert code == 2
    assert "/gone" in said


def test_a_base_that_no_server_finds_by_its_name_is_asked_for(source: BundleSource, tmp_path: Path) -> None:
    """The registry's name of a base may name another model on the hub, which vLLM would then load."""
    for number, base in enumerate(({"name": "SmolLM2-135M-Instruct"}, {"name": "two words"}, {})):
        bundle = written(source, tmp_path / str(number), base)
        code, words, said = start(bundle)
        assert (code, words) == (2, [])
        assert "set BASE_MODEL" in said
        assert "\nBASE_MODEL=FOLDER sh serve.sh " in (bundle / "README.md").read_text()
        assert start(bundle, BASE_MODEL="org/There")[1][:2] == ["serve", "org/There"]
        told = replace(source, provenance={**source.provenance, "base": base})
        assert unfound_base(told, None) == base.get("name", "base")
        assert unfound_base(told, "org/There") is None
    assert unfound_base(replace(source, provenance={"base": HUB}), None) is None
    # The script refuses an invalid base before it starts vLLM, which would ask a hub.
    for given in ("there", "/no/such/folder", "./folder", "a/b/c", "/tmp", "/etc/passwd"):
        code, words, error = start(bundle, cwd=tmp_path, BASE_MODEL=given)
        assert (code, words) == (2, [])
        assert error.startswith("serve.sh: ")
        assert given in error
        assert len(error.splitlines()) == 1
