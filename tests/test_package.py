"""The package itself: what `from fusery import ...` gives, and what it costs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fusery
from fusery import registry


def test_the_public_names_can_be_had_from_the_package() -> None:
    assert {"Registry", "FuseRequest", "RecordRun", "__version__"} <= set(fusery.__all__)
    for name in registry.__all__:
        assert getattr(fusery, name) is getattr(registry, name)


def test_the_version_is_that_of_the_installation() -> None:
    from importlib.metadata import version

    assert fusery.__version__ == version("fusery")


@pytest.mark.timing
def test_importing_it_loads_nothing_else() -> None:
    line = "import sys, fusery; print([m for m in sys.modules if m.partition('.')[0] in ('fusery', 'click', 'pydantic')])"
    done = subprocess.run([sys.executable, "-P", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['fusery']"


def test_the_stub_has_the_same_names() -> None:
    stub = ast.parse((Path(registry.__file__).with_suffix(".pyi")).read_text(encoding="utf-8"))
    said = {
        (each.module, name.asname)
        for each in stub.body
        if isinstance(each, ast.ImportFrom)
        for name in each.names
    }
    assert {name for _, name in said} == set(registry.__all__)
    for module, name in said:
        assert registry._PLACES[name].lstrip(".") == module


CHOICES = """
from fusery import Choices, FuseRequest, Registry

with Registry.open() as registry:
    registry.fused.fuse("t@1", precision="kep")
    registry.fused.fuse_all(FuseRequest("dither", mode="affin", rounding="once"), publish="recipe")
    registry.evaluations.bench("t@1", precisions=["keep", "auto"])
    registry.folder("t@1", format="peft")
    registry.exchange.export("t@1", "out", form="peftt")
    Choices(compression="gzip", gguf_type="q8_0")
"""
"""Wrong values for closed choices, beside right ones."""


@pytest.mark.timing
def test_wrong_names_and_choices_are_type_errors(tmp_path: Path) -> None:
    names, choices = tmp_path / "names.py", tmp_path / "choices.py"
    names.write_text("from fusery import Adapter, Registri\nfrom fusery.registry import Nonsense\n")
    choices.write_text(CHOICES)
    command = [sys.executable, "-P", "-m", "mypy", "--config-file=", "--explicit-package-bases",
        "--ignore-missing-imports", "--follow-imports", "silent", "--cache-dir", str(tmp_path / "cache"), str(names), str(choices)]  # fmt: skip
    environment, place = dict(os.environ), Path(fusery.__file__).parents[1]
    if place.name != "site-packages":  # where mypy finds the types without help
        command.append("--no-site-packages")
        environment["MYPYPATH"] = str(place)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    errors = [line for line in done.stdout.splitlines() if "error: " in line]
    assert [line.split('"')[3] for line in errors if "names.py" in line] == ["Registri", "Nonsense"], (
        done.stdout
    )
    wrong = re.findall(r"""incompatible type.* "(?:list\[|Literal\[)?'?(\w+)'?\]?"; expected""", done.stdout)
    assert wrong == ["kep", "affin", "auto", "peftt", "gzip"], done.stdout
