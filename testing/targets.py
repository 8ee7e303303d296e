"""The contract of a target of `materialize`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fusery.registry.bundles.source import BundleSource, Choices
from fusery.registry.bundles.target import Content, LayoutError, Target, Written, find_target, write_bundle
from fusery.registry.documents import CHECKSUM, RECORD, checksum_of
from fusery.storage.digest import digest_file
from fusery.storage.errors import BlobCorruptError

from . import samples

MakeSource = Callable[[Content], BundleSource]
Bundle = tuple[BundleSource, Path, Written]  # of what it was made, its folder, and what was written


class TargetContract:
    """All that a target promises for each content; a subclass gives its `name`, and other models by the fixture `source`."""

    name: str
    """As `--target` takes it: the plugin has to be installed."""

    choices = Choices()
    """The options that bundles are written with."""

    @pytest.fixture
    def target(self) -> Target:
        return find_target(self.name)

    @pytest.fixture
    def source(self, target: Target, tmp_path: Path) -> MakeSource:
        """A function that makes the source of a bundle with that content."""

        def make(content: Content) -> BundleSource:
            if content == "fused":
                return samples.fused_source(tmp_path / "source")
            return samples.adapter_source(tmp_path / "source", target.form, base=target.base)

        return make

    def write(self, source: BundleSource, target: Target, folder: Path) -> Written:
        folder.mkdir(parents=True)
        return write_bundle(source, target, folder, self.choices)

    @pytest.fixture
    def bundles(self, target: Target, source: MakeSource, tmp_path: Path) -> list[Bundle]:
        sources = [(source(content), tmp_path / content) for content in target.contents]
        return [(made, folder, self.write(made, target, folder)) for made, folder in sources]

    def test_its_manifest_is_what_lies_in_the_folder(self, bundles: list[Bundle]) -> None:
        for _, folder, written in bundles:
            digests = {path: digest_file(folder / path) for path in files_of(folder)}
            assert digests == {entry.path: (entry.sha256, entry.size) for entry in written.manifest}

    def test_the_same_source_gives_the_same_bytes(self, target: Target, bundles: list[Bundle]) -> None:
        for made, folder, written in bundles:
            assert (
                self.write(made, target, folder.with_name(f"{folder.name}-again")).manifest
                == written.manifest
            )

    def test_its_consumer_finds_what_is_in_it(self, target: Target, bundles: list[Bundle]) -> None:
        for made, _, written in bundles:
            assert written.layout.adapters == len(made.adapters)
            assert written.layout.tensors or made.adapters or target.single

    def test_a_record_says_what_it_is_and_lists_every_file(
        self, target: Target, bundles: list[Bundle]
    ) -> None:
        for _, folder, _ in () if target.single else bundles:
            record = json.loads((folder / RECORD).read_bytes())
            assert (record["target"], record[CHECKSUM]) == (target.name, checksum_of(record))
            assert {listed_file["path"] for listed_file in record["contents"]} == files_of(folder) - {RECORD}
            assert record["provenance"].get("plugin") == (str(target.plugin) if target.plugin else None)

    def test_nothing_of_this_machine_is_in_it(self, bundles: list[Bundle], tmp_path: Path) -> None:
        for _, folder, _ in bundles:
            for name in files_of(folder):
                assert str(tmp_path).encode() not in (folder / name).read_bytes(), name

    def test_a_damaged_file_of_the_model_is_refused(
        self, target: Target, source: MakeSource, tmp_path: Path
    ) -> None:
        if "fused" not in target.contents:
            return
        made = source("fused")
        weights = made.fused.paths["model.safetensors"]
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        with pytest.raises(BlobCorruptError):
            self.write(made, target, tmp_path / "bundle")

    def test_a_bundle_that_lost_its_files_is_refused(self, target: Target, bundles: list[Bundle]) -> None:
        for _, folder, _ in bundles:
            shutil.rmtree(folder)
            folder.mkdir()
            with pytest.raises(LayoutError):
                target.check(folder)


def files_of(folder: Path) -> set[str]:
    """Return the paths of all files in a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
