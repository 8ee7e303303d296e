from __future__ import annotations

import importlib.metadata
import re
from itertools import product
from pathlib import Path

import pytest
from bundle_cases import make_bundle
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fusery.registry.bundles import BundleSource

LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}


@pytest.fixture(scope="module", params=["", "-nvidia"], ids=["cpu", "nvidia"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lines(variant: str, plain_source: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(plain_source, "docker", folder)
    text = (folder / f"requirements{variant}.txt").read_text().replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def pinned(lines: list[str]) -> list[Requirement]:
    return [Requirement(line.partition("--hash")[0]) for line in lines]


def test_every_package_is_pinned_and_hashed(lines: list[str], pinned: list[Requirement]) -> None:
    for line, requirement in zip(lines, pinned, strict=True):
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), line
        assert requirement.url is None
        assert not line.startswith("-")
        assert re.fullmatch(r"[^@/]+?(?:\s+--hash=sha256:[0-9a-f]{64})+", line), line


def test_the_server_is_the_one_that_was_tested(pinned: list[Requirement]) -> None:
    versions = {requirement.name: str(requirement.specifier) for requirement in pinned}
    assert len(versions) == len(pinned)
    for name in ("mlx", "mlx-lm"):
        assert versions[name] == f"=={importlib.metadata.version(name)}"


def test_nothing_is_missing_on_linux(variant: str, pinned: list[Requirement]) -> None:
    here = {canonicalize_name(installed.name) for installed in importlib.metadata.distributions()}
    own, other = ("mlx-cuda-13", "mlx-cpu") if variant else ("mlx-cpu", "mlx-cuda-13")
    for version, machine in product(("3.11", "3.12", "3.13"), ("x86_64", "aarch64")):
        platform = {
            "python_version": version,
            "python_full_version": f"{version}.0",
            "platform_machine": machine,
        }
        environment = LINUX | platform
        found = {r.name for r in pinned if r.marker is None or r.marker.evaluate(environment)}
        assert {"mlx", own, "mlx-lm", "numpy", "transformers"} <= found
        assert not {"mlx-metal", other} & found
        for name in found & here:
            for needed in map(Requirement, importlib.metadata.requires(name) or ()):
                if needed.marker is None or needed.marker.evaluate(environment):
                    assert canonicalize_name(needed.name) in found, f"{name} needs {needed.name}"


def test_the_input_is_kept_beside_it(variant: str, pinned: list[Requirement]) -> None:
    import fusery.registry.bundles as package

    source = Path(package.__file__).with_name("templates") / f"requirements{variant.replace('-', '_')}.in"
    wanted = [Requirement(line) for line in source.read_text().splitlines() if not line.startswith("#")]
    for requirement in wanted:
        found = next(entry for entry in pinned if entry.name == requirement.name)
        assert requirement.specifier.contains(str(found.specifier).removeprefix("=="))
