"""`fusery show --fidelity`, what `show` says of fused models, and that the command it names makes the same again."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery

from fusery.cli.main import run

from .conftest import require_refusals


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """A 4-bit base and two adapters with small updates."""
    folder = tmp_path_factory.mktemp("small")
    base = tiny_models.make_base(folder / "tiny4", bits=4, layers=3)
    adapters = (
        tiny_models.make_adapter(folder / f"adapter{seed}", base, update=0.02, seed=seed, num_layers=2)
        for seed in (1, 2)
    )
    return (base, *adapters)


@pytest.fixture(scope="module")
def small_home(folders: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a registry with these two adapters; to be copied."""
    home = tmp_path_factory.mktemp("small_home") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSERY_REGISTRY", str(home))
        patch.setenv("FUSERY_USER", "tester")
        assert run(["base", "add", str(folders[0]), "--name", "tiny4", "-q"]) == 0
        for task, folder in zip(("one", "two"), folders[1:], strict=True):
            words = ("--base", "tiny4", "--task", task, "--date", "20260115", "-q")
            assert run(["register", str(folder), *words]) == 0
    return home


@pytest.fixture
def small(fusery: Fusery, small_home: Path, tmp_path: Path) -> Fusery:
    """The command line on a registry with two adapters of a 4-bit base: `one@1` and `two@1`."""
    shutil.copytree(small_home, tmp_path / "home")
    return fusery


def test_formats_are_compared(small: Fusery, tmp_path: Path) -> None:
    before = sorted((tmp_path / "home" / "cache").rglob("*"))
    ran = small("show", "--fidelity", "one@1", "--formats")
    assert ran.code == 0
    lines = [line for line in ran.out.splitlines()[2:] if line.strip()]
    assert [re.split(r"  +", line)[0] for line in lines] == [
        "keep",
        "dither",
        "mixed, 5 bits where adapted",
        "mixed, 6 bits where adapted",
        "mixed, 8 bits where adapted",
        "16bit",
    ]
    assert ["<- auto" in line for line in lines] == [False, False, False, True, False, False]
    assert "`auto` writes mixed, 6 bits where adapted" in ran.err
    words = ("show", "--fidelity", "one@1", "--formats", "-o", "scale=30", "--with", "two@1:0.5", "--json")
    document = small(*words).json
    assert (document["scale"], document["with"]) == (30.0, [{"adapter": "two_v1_20260115", "weight": 0.5}])
    assert [row["format"] for row in document["formats"] if row["chosen"]] == [document["chosen"]]
    found = {path for path in (tmp_path / "home" / "cache").rglob("*") if path.is_file()}
    assert not [path for path in found - set(before) if path.suffix == ".safetensors"]


def test_refusals(stocked: Fusery) -> None:
    cases = (
        ("-o scale=3", "-o goes with --formats"),
        ("--with two@1", "--with goes with --formats"),
        ("--min-fidelity 0.9", "--min-fidelity goes with --formats"),
        ("--force", "--force goes with --plot"),
        ("--formats --plot a.png", "--plot"),
        ("--formats -o scale=nan", "finite"),
        ("--formats --with two@1:x", "number"),
        ("--plot a.gif", ".svg"),
    )
    require_refusals(stocked, *((f"show --fidelity course_rec@1 {words}", named) for words, named in cases))


OPTIONS = (
    "--as keep --accept-loss",
    "--as dither -o seed=3",
    "--as mixed --min-fidelity 0.99",
    "--as mixed --budget 1.2x --accept-loss",
    "-o quantize=8 -o group_size=32",
    "-o scale=30 --with two@1:0.25",
)


def test_the_command_that_is_named_makes_the_same_again(
    small: Fusery, folders: tuple[Path, ...], tmp_path: Path
) -> None:
    models = []
    for options in OPTIONS:  # here, where it is on record
        made = small("fuse", "one@1", *options.split(), "--json").json
        models.append(made)
        [rebuild] = [
            line["rebuild"]
            for line in small("show", "one@1", "--json").json["fused"]
            if line["key"] == made["key"]
        ]
        shutil.rmtree(made["path"])
        again = small(*shlex.split(rebuild)[1:], "--json").json
        assert (again["key"], again["digest"], again["source"]) == (made["key"], made["digest"], "computed")
    assert len({made["key"] for made in models}) == len(OPTIONS)
    # Elsewhere, where nothing is known of it.
    record = tmp_path / "made.json"
    shutil.rmtree(tmp_path / "home")
    small("base", "add", folders[0], "--name", "tiny4")
    for task, folder in zip(("one", "two"), folders[1:], strict=True):
        small("register", folder, "--base", "tiny4", "--task", task, "--date", "20260115")
    for options, made in zip(OPTIONS, models, strict=True):
        record.write_text(json.dumps(made))
        accepted = [word for word in options.split() if word == "--accept-loss"]
        again = small("fuse", "one@1", "--recipe", record, *accepted, "--json").json
        assert (again["key"], again["digest"]) == (made["key"], made["digest"]), options


def test_figures_with_v(small: Fusery, folders: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    ran = small("fuse", "one@1")
    assert "trying the next format" in ran.err and "% noise" not in ran.err + ran.out
    assert ran.err.count("fusery base calibrate") == 1
    others = small("fuse", "two@1", "-v"), small("materialize", "one@1", "out")
    assert "% noise" in others[0].err and "of the weights" in others[0].out
    assert not any("fusery base calibrate" in other.err for other in others), "once for a base"
    assert [event["action"] for event in small("log", "--action", "fuse.refused", "--json").json] == []
    assert "fuse.tried" not in small("log").out and "fuse.tried" in small("log", "-v").out
    monkeypatch.setattr("fusery.cli.fuse._WORST", 1)
    worst, whole = (small("show", "--fidelity", "one@1", *more) for more in ((), ("-v",)))
    assert len(re.findall("^model", worst.out, re.MULTILINE)) == 1
    assert len(re.findall("^model", whole.out, re.MULTILINE)) > 1
    assert "-v" in worst.err and "-v" not in whole.err
    registered = small("register", *folders[1:], "--base", "tiny4", "--task", "more").out
    assert all(f" from {folder}" in registered for folder in folders[1:])
