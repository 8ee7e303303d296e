"""Every bundle that transformers or PEFT can read, read by them: the logits are those of mlx-lm with what went in."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from bundle_cases import WRITTEN_HERE, make_bundle
from consumers import adapters_source, files_of, mlx_logits, peft_logits, transformers_logits

from fusery.registry.bundles import BundleSource, own_targets

pytestmark = pytest.mark.slow
pytest.importorskip("gguf")

ADAPTER = "course_rec_v1_20260115"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    return tiny_models.make_base(folder, dtype="float32", layers=2, hidden=64, intermediate=128, seed=3)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_adapter(
        tmp_path_factory.mktemp("adapters") / ADAPTER, base, num_layers=1, update=0.5
    )


@pytest.mark.timing
@pytest.mark.parametrize(
    "target", [name for name, target in WRITTEN_HERE.items() if "fused" in target.contents]
)
def test_others_read_a_fused_model(
    plain_source: BundleSource, base: Path, target: str, tmp_path: Path
) -> None:
    (tmp_path / "bundle").mkdir()
    source = replace(plain_source, model=files_of(base))
    make_bundle(source, target, tmp_path / "bundle", compression="gz")
    ours = mlx_logits(base)
    theirs = transformers_logits(_model(tmp_path / "bundle", target, tmp_path), tmp_path)
    assert np.abs(theirs - ours).max() < 1e-5 * np.abs(ours).max()


def _model(bundle: Path, target: str, scratch: Path) -> Path:
    """Return what a user of the bundle would give to `from_pretrained`."""
    if own_targets()[target].single:
        (packed,) = bundle.iterdir()
        subprocess.run(["tar", "-xzf", packed, "-C", scratch], check=True)
        return scratch / packed.name.removesuffix(".tar.gz")
    if target == "oci":
        blobs = bundle / "blobs"
        index = json.loads((bundle / "index.json").read_bytes())
        manifest = json.loads((blobs / index["manifests"][0]["digest"].replace(":", "/")).read_bytes())
        for layer in manifest["layers"]:
            path = scratch / "model" / layer["annotations"]["org.cncf.model.filepath"]
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(blobs / layer["digest"].replace(":", "/"), path)
        return scratch / "model"
    files = sorted(bundle.glob("*.gguf"))
    if files:
        return files[0]
    return bundle / "model" if (bundle / "model").is_dir() else bundle


def _adapter(base: Path, adapter: Path, target: str, scratch: Path) -> Path:
    """Return what a user of a bundle with an adapter would give to PEFT."""
    bundle = scratch / "bundle" / target
    bundle.mkdir(parents=True)
    choices = {"base_name": "org/Tiny-1M", "location": "pvc://adapters"} if target == "k8s" else {}
    make_bundle(adapters_source(base, scratch / f"rendered-{target}", adapter), target, bundle, **choices)
    return bundle if target == "hub" else bundle / "adapters" / ADAPTER


def test_peft_reads_an_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    ours = mlx_logits(base, adapter)
    assert np.abs(ours - mlx_logits(base)).max() > 0.1
    for target in ("vllm", "k8s", "hub"):
        theirs = peft_logits(base, _adapter(base, adapter, target, tmp_path), tmp_path)
        assert np.abs(theirs - ours).max() < 1e-5 * np.abs(ours).max()
