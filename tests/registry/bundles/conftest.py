"""A fused model to make bundles of, and texts that must not become code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from bundle_cases import Imaged, model_folder

from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.source import BundledAdapter, Files
from fusery.storage.digest import digest_file
from fusery.storage.manifest import FileEntry, Manifest

NAME = "course_rec_v2_20261124"

EVIL = {
    "newline": "a\nUSER root", "crlf": "a\r\nRUN touch /pwned", "carriage return": "a\rb",
    "document end": "a\n---\nbase_model: other\n", "document start": "---", "line separator": "a\u2028RUN b",
    "paragraph separator": "a\u2029b", "next line": "a\u0085RUN b", "double quote": 'a" b="c', "single quote": "a' b='c",
    "backslash": "a\\", "backslash n": "a\\nb", "variable": "$HOME ${PATH} $$", "command": "$(touch /pwned) `touch /pwned`",
    "directive": "# syntax=evil/frontend", "comment": "a # b", "colon": "a: b: [c, {d: e}]",
    "anchor": "&a *a !!python/object/apply:os.system", "tag": "!!binary aGk=", "percent": "%YAML 1.1",
    "jinja": "{{ 7 * 7 }}{% for x in y %}", "jinja class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "table": "a | b | c", "html": "<script>alert(1)</script>&amp;", "link": "[a](javascript:alert(1)) ![b](x)",
    "emphasis": "*a* _b_ **c** `d` ~~e~~", "heading": "# a", "emoji": "\U0001f600 \U0010ffff", "bidi": "a\u202eb\u2066c",
    "controls": "\x00\x07\x1b[31m\x7f", "byte order mark": "\ufeffa", "lone surrogate": "a\ud800b", "boolean": "yes",
    "null": "null", "number": "012e3", "empty": "", "spaces": "  a  ", "no-break space": "a\u00a0b", "long": "x" * 5000,
    "umlaut": "Grüße, 世界",
}  # fmt: skip
FEW = (
    "crlf", "document end", "backslash n", "variable", "jinja", "heading", "controls", "lone surrogate", "empty", "long",
)  # fmt: skip


@pytest.fixture(scope="session")
def fused_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny fused model that mlx-lm loads."""
    folder = tmp_path_factory.mktemp("fused")
    return tiny_models.make_base(folder / "model", layers=2, hidden=64, intermediate=128)


@pytest.fixture(scope="session")
def evil_texts() -> list[str]:
    """Texts that must not become code where they are quoted."""
    return list(EVIL.values())


@pytest.fixture(scope="session")
def evil_in_bundles() -> list[str]:
    """The few that differ in what they break, for tests that write a whole bundle with each."""
    return [EVIL[name] for name in FEW]


@pytest.fixture(scope="session")
def plain_source(fused_folder: Path) -> BundleSource:
    """A source to be left as it is."""
    return BundleSource(NAME, example_provenance(), Files.within(fused_folder, manifest_of(fused_folder)))


@pytest.fixture(scope="session")
def unfused(plain_source: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    """A base with two adapters, to be left as it is."""
    scratch, base = tmp_path_factory.mktemp("unfused"), model_folder(plain_source)
    adapters = []
    for number, names in ((1, ("course_rec#prod", "course_rec")), (2, ())):
        folder = tiny_models.make_adapter(scratch / f"adapter{number}", base, seed=number)
        facts = {**example_provenance()["adapter"], "version": number}
        files = Files.within(folder, manifest_of(folder))
        adapters.append(BundledAdapter(f"course_rec_v{number}_20261124", names, files, facts))
    routes = {"course_rec#prod": adapters[0].name, "mix": {each.name: 0.5 for each in adapters}}
    provenance = {"base": plain_source.provenance["base"], "tool": "fusery 0.1.0"}
    return BundleSource("tiny-adapters", provenance, plain_source.fused, tuple(adapters), routes)


@pytest.fixture(scope="session", params=["docker", "adapters"])
def imaged(request: pytest.FixtureRequest, plain_source: BundleSource, unfused: BundleSource) -> Imaged:
    """Each target whose bundles build an image, and a source for it."""
    return Imaged(request.param, plain_source if request.param == "docker" else unfused)


@pytest.fixture
def provenance() -> dict[str, Any]:
    """A provenance to be changed; it is that of `source`."""
    return example_provenance()


@pytest.fixture
def source(plain_source: BundleSource, provenance: dict[str, Any]) -> BundleSource:
    return replace(plain_source, provenance=provenance)


def example_provenance() -> dict[str, Any]:
    return {
        "key": "a" * 64,
        "digest": "d" * 64,
        "base": {"name": "org/Tiny-1M", "digest": "b" * 64},
        "adapter": {
            "name": NAME, "digest": "c" * 64, "task": "course_rec", "version": 2, "date": "20261124", "rank": 8, "alpha": 16,
            "scale": 2.0, "val_loss": 0.22, "dataset": "courses-2026",
        },
        "with": [{"adapter": "courses_v1_20261101", "weight": 0.5, "digest": "e" * 64}],
        "recipe": {"precision": "mixed", "engine": "canonical", "bits": {"": 6}},
        "format": "mixed, 6 bits where adapted",
        "weights_bytes": 1234567,
        "times_base": 1.1699,
        "rebuild": f"fusery fuse {NAME} --recipe {'d' * 64}",
        "fidelity": {
            "verdict": "PASS",
            "retained": 0.987654321,
            "cosine": 0.5,
            "relative_error": 0.1,
            "worst": [
                {"module": f"model.layers.{number}.mlp.up_proj", "norm": 1.0, "retained": 0.9 + number / 100}
                | {"cosine": 0.25, "relative_error": 2.5}
                for number in range(5)
            ],
        },
        "created_at": "2026-11-24T10:00:00+00:00",
        "tool": "fusery 0.1.0",
    }  # fmt: skip


def manifest_of(folder: Path) -> Manifest:
    entries = []
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest, size = digest_file(path)
        entries.append(FileEntry(path.relative_to(folder).as_posix(), size, digest))
    return Manifest.of(entries)
