"""What a bundle holds, byte for byte, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundle_cases import Imaged, make_bundle, model_folder, with_model

from fusery.registry.bundles import BundleFolder, BundleSource
from fusery.registry.bundles.writing import bundle_record
from fusery.registry.documents import BUNDLE_FORMAT, record_bytes, without_places
from fusery.registry.errors import BadInputError
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import BlobCorruptError, MissingFileError
from fusery.storage.manifest import Manifest

LEFT = {
    "/home/ann/data/train.jsonl": "train.jsonl",
    "/srv/models/Qwen/": "Qwen",
    "~/data/train.jsonl": "train.jsonl",
    "~ann/train.jsonl": "train.jsonl",
    "file:///home/ann/train.jsonl": "train.jsonl",
    r"C:\Users\ann\train.jsonl": "train.jsonl",
    r"\\server\share\train.jsonl": "train.jsonl",
    "https://ann:secret@host/train.jsonl": "https://host/train.jsonl",
    "https://token@host/a?X-Amz-Signature=secret#secret": "https://host/a",
    "https://a@b:secret@host/x": "https://host/x",
    "s3://key:secret@bucket/train": "s3://bucket/train",
}
KEPT = (
    "hf://datasets/org/name@main/x",
    "org/Tiny-1M",
    "courses-2026",
    "~5 % of the data",
    "data/train.jsonl",
    "",
)


def test_places_and_credentials_are_left_out() -> None:
    for text, left in (LEFT | {text: text for text in KEPT}).items():
        assert without_places({"a": [text, 1, None]}) == {"a": [left, 1, None]}


def test_record_keeps_texts(source: BundleSource, provenance: dict[str, Any], evil_texts: list[str]) -> None:
    for evil in evil_texts:
        provenance["adapter"]["dataset"] = evil
        document = json.loads(record_bytes(bundle_record(source, "model", ".")))
        assert document["format"] == BUNDLE_FORMAT
        assert document["provenance"] == provenance
        assert document["files"] == [entry.to_dict() for entry in source.fused.manifest]
    for value in (float("nan"), float("inf"), {1, 2}, b"x"):
        provenance["adapter"]["val_loss"] = value
        with pytest.raises(BadInputError):
            record_bytes(bundle_record(source, "model", "."))


def write(source: BundleSource, target: str, folder: Path, **choices: bool) -> dict[str, Path]:
    folder.mkdir()
    make_bundle(source, target, folder, **choices)
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_modes_do_not_depend_on_the_umask(source: BundleSource, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write(source, "docker", tmp_path / "bundle")
    finally:
        os.umask(before)
    for path in [tmp_path / "bundle", *(tmp_path / "bundle").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_links_are_made_on_request_only(source: BundleSource, tmp_path: Path) -> None:
    copied = write(source, "model", tmp_path / "copied")["model.safetensors"]
    linked = write(source, "model", tmp_path / "linked", link=True)["model.safetensors"]
    original = model_folder(source) / "model.safetensors"
    assert not copied.samefile(original)
    assert linked.samefile(original)
    assert linked.stat().st_mode == original.stat().st_mode


def test_files_of_another_program_are_moved(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    bundle, file = BundleFolder(tmp_path / "bundle"), tmp_path / "made"
    file.write_bytes(b"x")
    file.chmod(0o600)
    bundle.take(file, "a/b")
    (entry,) = bundle.manifest()
    assert (file.exists(), entry.path, entry.size, entry.sha256) == (False, "a/b", 1, digest_bytes(b"x"))
    assert stat.S_IMODE((tmp_path / "bundle" / "a" / "b").stat().st_mode) == 0o644


def test_a_damaged_or_missing_file_is_found(source: BundleSource, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder(source), tmp_path / "fused")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(MissingFileError):
        write(with_model(source, folder=folder), "docker", tmp_path / "missing")
    shutil.copyfile(model_folder(source) / "tokenizer.json", folder / "tokenizer.json")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    for link in (False, True):
        with pytest.raises(BlobCorruptError, match="model.safetensors"):
            write(with_model(source, folder=folder), "docker", tmp_path / f"damaged-{link}", link=link)


def test_wrong_places_names_and_models(source: BundleSource, evil_texts: list[str], tmp_path: Path) -> None:
    place = tmp_path / "place"
    with pytest.raises(BadInputError):
        make_bundle(source, "model", place)
    place.mkdir()
    names = set(evil_texts) - {"yes", "null", "012e3"}  # valid names
    for name in [*names, "..", "a..b", "A", "-a", "a/b", "a" * 201]:
        with pytest.raises(BadInputError):
            make_bundle(replace(source, name=name), "docker", place)
    files = source.fused.manifest.files
    for path in ("README.md", "readme.md", "fusery.json"):
        own = Manifest.of([*files, replace(files[0], path=path)])
        with pytest.raises(BadInputError):
            make_bundle(with_model(source, manifest=own), "model", place)
    rest = Manifest.of(entry for entry in files if not entry.path.endswith(".safetensors"))
    with pytest.raises(BadInputError):
        make_bundle(with_model(source, manifest=rest), "model", place)
    assert not list(place.iterdir())
    (place / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(BadInputError):
        make_bundle(source, "model", place)


def test_a_source_without_provenance_will_do(source: BundleSource, tmp_path: Path) -> None:
    written = write(replace(source, provenance={"adapter": None}), "docker", tmp_path / "bundle")
    card = written["model/README.md"].read_text()
    assert "base_model" not in front_matter(card)
    assert "Not recorded." in card


def test_no_text_becomes_code(source: BundleSource, evil_in_bundles: list[str], tmp_path: Path) -> None:
    plain = write(source, "docker", tmp_path / "plain")
    usual = plain["Dockerfile"].read_text()
    labelled = re.compile(r'^LABEL [a-z.]+="([a-z0-9][a-z0-9._-]*)"\n', re.MULTILINE)
    for number, evil in enumerate(evil_in_bundles):
        keys = ("key", "tool", "created_at", "format", "weights_bytes", "times_base")
        provenance: dict[str, Any] = {**source.provenance, **dict.fromkeys(keys, evil)}
        names = ("name", "task", "dataset", "version", "date", "digest", "licence", "note")
        provenance["adapter"] = {**source.provenance["adapter"], **dict.fromkeys(names, evil)}
        provenance["recipe"] = {"note": evil, "bits": {"": 6}}
        provenance["rebuild"] = f"fusery fuse {evil}"
        provenance["with"] = [{"adapter": evil, "weight": evil, "digest": evil}]
        provenance["fidelity"] = dict.fromkeys(("verdict", "retained", "cosine", "relative_error"), evil)
        provenance["fidelity"]["worst"] = [{"module": evil, "retained": evil, "cosine": evil}]
        provenance["base"] = {"name": evil, "digest": evil, "licence": evil}
        written = write(replace(source, provenance=provenance), "docker", tmp_path / str(number))
        assert json.loads(written["fusery.json"].read_bytes())["provenance"] == provenance
        matter = front_matter(written["model/README.md"].read_text())
        assert matter.get("base_model", "") == evil
        assert matter["tags"] == ["mlx", "fusery", "lora", *([evil] if evil else [])]
        dockerfile = written["Dockerfile"].read_text()
        assert labelled.sub("", dockerfile) == labelled.sub("", usual)
        assert set(labelled.findall(dockerfile)) - {evil} == {source.name, source.fused.manifest.digest}
        for path in set(written) - {"fusery.json", "model/fusery.json", "model/README.md", "Dockerfile"}:
            assert written[path].read_bytes() == plain[path].read_bytes()


@pytest.mark.timing
def test_hadolint_finds_nothing(imaged: Imaged, tmp_path: Path) -> None:
    dockerfile = imaged.write(tmp_path / "bundle") / "Dockerfile"
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", dockerfile], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    bad = tmp_path / "Bad"
    bad.write_text(dockerfile.read_text().replace('["python", "/app/server.py"]', "python /app/server.py"))
    assert subprocess.run([hadolint, bad], check=False, capture_output=True).returncode == 1


def test_the_image_is_built_as_promised(imaged: Imaged, tmp_path: Path) -> None:
    written = write(imaged.source, imaged.target, tmp_path / "bundle")
    lines = written["Dockerfile"].read_text().replace("\\\n", "").splitlines()
    steps = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    assert steps[:2] == [
        ["ARG", "BASE_IMAGE=docker.io/library/python:3.12-slim-bookworm"],
        ["FROM", "${BASE_IMAGE}"],
    ]
    words = [word for word, _ in steps]
    assert words.index("USER") > max(index for index, word in enumerate(words) if word in ("RUN", "COPY"))
    assert dict(steps)["USER"] == "10001:10001"
    assert json.loads(dict(steps)["ENTRYPOINT"]) == ["python", "/app/server.py"]
    assert dict(steps)["HEALTHCHECK"].endswith('CMD ["python", "/app/server.py", "--health"]')


def front_matter(card: str) -> dict[str, Any]:
    """Split a card as naive readers do, at the first line that is `---` again."""
    _, matter, _ = card.split("---\n", 2)
    return dict(yaml.safe_load(matter))
