"""The example plugin at the command line, and names that plugins cannot take."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery
from plugin_packages import install_example
from sarif_structure import require_sarif

from fusery.testing import samples

pytestmark = pytest.mark.timing

OURS = "fusery-example 0.1.0"
CODE = "house-rank_above_limit"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the example is installed in."""
    return install_example(tmp_path_factory.mktemp("example"))


@pytest.fixture
def example(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example is installed."""
    monkeypatch.syspath_prepend(installed)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "fusery_example"]:
        del sys.modules[name]


@pytest.fixture
def of_great_rank(tiny_base: Path, tmp_path: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapters", tiny_base, rank=65, keys=["mlp.up_proj"], seed=5)


@pytest.mark.slow
def test_a_target_of_a_plugin(
    stocked: Fusery, example: None, tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = stocked("materialize", "course_rec@2", "bundle", "--target", "checksum")
    assert (unknown.code, "'hub', 'checksums'" in " ".join(unknown.err.split())) == (2, True)
    done = stocked("materialize", "course_rec@2", "bundle", "--target", "checksums", "--json")
    assert (done.code, done.json["target"]) == (0, "checksums")
    record = json.loads((tmp_path / "bundle" / "fusery.json").read_bytes())
    assert (record["target"], record["provenance"]["plugin"]) == ("checksums", OURS)
    [written] = [each for each in stocked("log", "--json").json if each["action"] == "bundle.written"]
    assert written["detail"]["plugin"] == OURS
    assert stocked("identify", "--verify", "bundle", "-q").out.split() == []
    assert stocked("materialize", "course_rec@2", "bundle", "--target", "checksums").code == 0, "it is there"
    (tmp_path / "bundle" / "SHA256SUMS").write_text("")
    assert stocked("identify", "--verify", "bundle", "-q").out.split() == ["SHA256SUMS"]
    done = stocked("materialize", "--all", "out/{name}", "--target", "checksums", "--jobs", "1")
    assert (done.code, len(list((tmp_path / "out").glob("*/SHA256SUMS")))) == (0, 2), done.err
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(installed)])
    done = stocked("materialize", "course_rec@2", "other", "--target", "checksums", "--json")
    assert (done.code, done.json["error"]["code"]) == (2, "usage")
    assert "'checksums'" in done.json["error"]["message"]


@pytest.mark.slow
def test_a_rule_of_a_plugin(stocked: Fusery, example: None, of_great_rank: Path, tmp_path: Path) -> None:
    assert all("plugins" not in each["detail"] for each in stocked("log", "--json").json)
    words = (of_great_rank, "--base", "tiny", "--task", "other")
    checked = stocked("check", *words, "--json")
    found = {each["code"]: each for each in checked.json["findings"]}
    assert (checked.code, found[CODE]["severity"]) == (0, "warning")
    assert found[CODE]["message"] == "the rank is 65, and our servers take 64"
    strict = stocked("register", *words, "--strict")
    assert (strict.code, CODE in strict.err) == (2, True)
    config = tmp_path / "home" / "config.toml"
    before = config.read_text(encoding="utf-8") if config.is_file() else ""
    for setting, verdict in (("off", "pass"), ("info", "pass"), ("error", "fail")):
        config.write_text(f'{before}\n[admission.severity]\n{CODE} = "{setting}"\n', encoding="utf-8")
        assert stocked("check", *words, "--json").json["verdict"] == verdict
    config.write_text(f'{before}\n[admission.severity]\nhouse-rank_above = "off"\n', encoding="utf-8")
    assert CODE in stocked("check", *words).err
    config.write_text(before, encoding="utf-8")
    name = stocked("register", *words, "--json").json["name"]
    assert CODE in stocked("show", name, "--json").out
    [entry] = [each for each in stocked("log", "--json").json if each["detail"].get("plugins")]
    assert (entry["action"], entry["subject"]) == ("adapter.registered", name)
    assert entry["detail"]["plugins"] == [OURS]
    assert stocked("audit", name).code == 0
    done = stocked("check", of_great_rank, "--base", "tiny", "--format", "sarif")
    require_sarif(done.json)
    [run] = done.json["runs"]
    assert CODE in {result["ruleId"] for result in run["results"]}


@pytest.mark.slow
def test_runs_of_a_plugin_are_imported(stocked: Fusery, example: None, tmp_path: Path) -> None:
    samples.make_adapter(tmp_path / "runs" / "first" / "adapter")
    about = {"name": "first", "project": "lessons", "started_at": "2026-01-15T10:00:00+00:00"}
    (tmp_path / "runs" / "first" / "run.json").write_text(json.dumps(about))
    samples.make_base(tmp_path / "sample")
    assert stocked("base", "add", "sample").code == 0
    done = stocked("register", "folder+runs", "--base", "sample", "--json")
    assert (done.code, [each["error"] for each in done.json]) == (0, [None])
    tags = stocked("show", done.json[0]["adapter"], "--json").json["tags"]
    assert tags["folder.run_id"] == "first"
    assert stocked("register", "folders+runs", "--base", "sample").code == 2


def test_a_store_of_a_plugin(fusery: Fusery, example: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_STORE_URL", "shelf://team/store")
    assert fusery("admin", "init").code == 0
    checks = {each["name"]: each for each in fusery("doctor", "--json").json["checks"]}
    assert checks["store"]["detail"].startswith("shelf://team/store belongs to this database")
    plugin_checks = {name: each for name, each in checks.items() if name.startswith("plugin.")}
    assert {name: each["status"] for name, each in plugin_checks.items()} == dict.fromkeys(
        ("plugin.backends.shelf", "plugin.rules.house", "plugin.sources.folder",
         "plugin.targets.checksums"), "ok"
    )  # fmt: skip
    assert all(each["detail"].startswith(f"{OURS}: fusery_example.") for each in plugin_checks.values())
    monkeypatch.setenv("FUSERY_STORE_URL", "shell://team/store")
    assert "'shell'" in fusery("admin", "gc").err


@pytest.mark.slow
def test_commands_that_need_no_plugin_do_not_look_for_any(stocked: Fusery, tmp_path: Path) -> None:
    line = (
        "from fusery.cli.main import run\nfrom fusery.storage import plugins\n"
        "words = [['list'], ['show', 'course_rec@2'], ['alias', 'list'], ['admin', 'webhook', 'list']]\n"
        "assert [run([*each, '-q']) for each in words] == [0] * len(words)\n"
        "assert run(['materialize', 'course_rec@2', 'out', '-q']) == 0\n"
        "print(plugins._installed.cache_info().misses)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0"
