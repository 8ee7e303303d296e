"""The target `k8s`: what has to be said, and what vLLM cannot serve.  Its manifests: cluster/test_projects.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from bundle_cases import make_bundle
from consumers import adapters_source

from fusery.registry.bundles import BundleSource
from fusery.registry.errors import BadInputError

HUB = {"name": "tiny", "digest": "b" * 64, "hub_id": "org/Tiny-1M"}
ONE = "course_rec_v1_20260115"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    scratch = tmp_path_factory.mktemp("k8s")
    base = tiny_models.make_base(scratch / "tiny", layers=2, hidden=64, intermediate=128)
    made = adapters_source(base, scratch / "rendered", tiny_models.make_adapter(scratch / ONE, base))
    return replace(made, provenance={**made.provenance, "base": HUB})


def write(source: BundleSource, folder: Path, **choices: Any) -> None:
    folder.mkdir()
    make_bundle(source, "k8s", folder, **{"location": "s3://bucket/models", **choices})


def test_what_has_to_be_said_is_asked_for(source: BundleSource, tmp_path: Path) -> None:
    nameless = [
        (replace(source, provenance={"base": base}), {})
        for base in ({"name": "tiny"}, {"name": "two words"}, {})
    ]
    unknown = ("/models/tiny", "tiny", "org/tiny/x", "org/ti ny", "s3://bucket/tiny")
    for number, (wrong, choices, hint) in enumerate(
        (
            (source, {"location": None}, "--location s3://BUCKET/PATH"),
            *((wrong, choices, "--base-name OWNER/NAME") for wrong, choices in nameless),
            *((source, {"base_name": name}, "--base-name OWNER/NAME") for name in unknown),
            (source, {"base_image": "x\ny"}, "vllm/vllm-openai"),
        )
    ):
        with pytest.raises(BadInputError) as caught:
            write(wrong, tmp_path / str(number), **choices)
        assert hint in str(caught.value.hint)


def test_what_vllm_cannot_serve_is_refused(tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "base", layers=2, hidden=64, intermediate=128)
    dora = tiny_models.make_adapter(tmp_path / "dora_v1_20260115", base, fine_tune_type="dora")
    source = adapters_source(base, tmp_path / "a", dora)
    with pytest.raises(BadInputError, match="dora_v1_20260115"):
        write(source, tmp_path / "one", base_name="org/Tiny")
    quantised = tiny_models.make_base(tmp_path / "four", bits=4, layers=2, hidden=64, intermediate=128)
    adapter = tiny_models.make_adapter(tmp_path / ONE, quantised)
    source = adapters_source(quantised, tmp_path / "b", adapter)
    with pytest.raises(BadInputError) as caught:
        write(source, tmp_path / "two")
    assert "--base-name" in str(caught.value.hint)
    write(source, tmp_path / "three", base_name="org/Original")
    service = (tmp_path / "three" / "kserve" / "service.yaml").read_text()
    assert 'uri: "hf://org/Original"' in service
