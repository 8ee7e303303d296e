"""The examples in the README and the guides are run, in order, and their output is what they show.

A block marked `console` holds commands after `$ ` and what they print; `...` stands for anything, as in doctest.
"""

from __future__ import annotations

import doctest
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from run_folders import make_run, plain_log

from fusery.cli.main import run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
BASE = "SmolLM2-135M-Instruct"
VERSIONS = (("course_rec_v1_20261120", 1, 4), ("course_rec_v2_20261124", 2, 8))
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(page: Path) -> Iterator[tuple[list[str], str]]:
    for block in re.findall(
        r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield shlex.split(command), shown


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: a base and two adapters, tiny ones, and the questions of the demo; to be copied."""
    place = tmp_path_factory.mktemp("template")
    base = tiny_models.make_base(place / BASE)
    tiny_models.make_base(place / f"{BASE}-4bit", bits=4)
    for name, version, rank in VERSIONS:
        adapter = tiny_models.make_adapter(place / f"adapters_{name}", base, rank=rank, seed=version)
        metadata = {
            "base_model": BASE,
            "adapter_name": "course_rec",
            "version": version,
            "final_val_loss": 1 / version,
        }
        (adapter / "adapter_metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
        name_the_base(adapter)
    losses = {1: 5.0, 200: 2.0, 400: 1.2, 600: 1.5}
    run_folder = place / "run"
    make_run(run_folder, base, saved=(200, 400, 600), iters=600, log=plain_log(losses, {600: 1.1}))
    name_the_base(run_folder)
    shutil.copy(ROOT / "tests/registry/comparison/results/lm_eval_0.4.13.json", place / "results.json")
    measured = re.findall(
        r"^```json\n(.*?)^```",
        (ROOT / "docs/guides/compare.md").read_text("utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    (place / "courses.json").write_text(measured[0], encoding="utf-8")
    shutil.copy(ROOT / "examples" / "course_rec" / "data" / "valid.jsonl", place / "questions.jsonl")
    return place


@pytest.fixture
def folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "home"))
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "of whoever delivers, at least 32 letters".replace(" ", "-"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path


def name_the_base(adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "model": BASE}), encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = list(examples(page))
    if not found:
        assert page.stem in ("python", "plugins")  # no commands; the code is run below and in tests/examples
        return
    if found[0][0][:3] != ["fusery", "base", "add"]:
        assert run(["base", "add", BASE]) == 0
    capsys.readouterr()
    for words, shown in found:
        assert words[0] == "fusery"
        code = run(words[1:])
        printed = capsys.readouterr()
        assert code == 0, f"{shlex.join(words)}: {printed.err}"
        if shown.strip():
            assert doctest.OutputChecker().check_output(shown, printed.out, OPTIONS), (
                f"{shlex.join(words)}:\n{printed.out}"
            )


def test_guides_are_few_and_short() -> None:
    words = {page.stem: len(page.read_text(encoding="utf-8").split()) for page in PAGES}
    assert words.pop("README") <= 900
    assert len(words) <= 12
    assert sum(words.values()) <= 20_000


def test_every_link_of_a_page_leads_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_guide_to_python_runs(folder: Path) -> None:
    # Other pages show a line of a trainer's script or of a client, which run nowhere by themselves.
    page = ROOT / "docs" / "guides" / "python.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 4
    known: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), known)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_the_guide_to_mlflow_runs(folder: Path, tracking: str) -> None:
    import mlflow

    assert run(["base", "add", BASE]) == 0
    shutil.copytree(folder / "adapters_course_rec_v1_20261120", folder / "adapters")
    page = (ROOT / "docs" / "guides" / "track.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    [block] = [block for block in blocks if "mlflow" in block]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking)
    known: dict[str, object] = {}
    try:
        exec(compile(block, "track.md", "exec"), known)
    finally:
        mlflow.set_tracking_uri(before)
    assert run(["show", "lessons@1", "-q"]) == 0
