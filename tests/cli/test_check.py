"""`fusery check`: strict, for CI, configured, and without leaving a trace."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from fixture_types import Fusery
from sarif_structure import require_sarif

from fusery.registry.adapters import Finding
from fusery.registry.admission.ci_reports import code_quality, place_of
from fusery.registry.admission.code import CheckedFolder
from fusery.registry.admission.rules import CODES

from .conftest import require_refusals

PICKLE = b"\x80\x02}q\0."


@pytest.fixture
def others(tiny_base: Path, tmp_path: Path) -> Path:
    """A working folder with three adapters: one gives a warning, one is refused."""
    tiny_models.make_adapter(tmp_path / "good", tiny_base, seed=7)
    (shutil.copytree(tmp_path / "good", tmp_path / "bad") / "adapters.safetensors").write_bytes(b"x")
    (shutil.copytree(tmp_path / "good", tmp_path / "warned") / "model.pkl").write_bytes(PICKLE)
    return tmp_path


def uri_of(result: Any) -> str:
    """Return the file that a result of SARIF is about."""
    return str(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])


def test_strict_makes_errors_of_warnings(stocked: Fusery, others: Path) -> None:
    words = ("check", "warned", "--base", "tiny", "--json")
    plain, strict = stocked(*words), stocked(*words, "--strict")
    assert (plain.code, plain.json["verdict"]) == (0, "warn")
    assert (strict.code, strict.json["verdict"]) == (1, "fail")
    assert [f["severity"] for f in strict.json["findings"]] == ["error"]
    register = ("register", "warned", "--base", "tiny", "--task", "t")
    refused = stocked(*register, "--strict")
    assert (refused.code, "pickle_file" in refused.err) == (2, True)
    assert len(stocked("list", "--json").json) == 2
    assert stocked(*register).code == 0


@pytest.mark.parametrize("declared", ["in its metadata", "by its folder"])
def test_an_adapter_passes_strictly(stocked: Fusery, tiny_base: Path, tmp_path: Path, declared: str) -> None:
    """The task is declared by the files: a check of a repository finds mostly registered adapters."""
    metadata = declared == "in its metadata"
    folder = tmp_path / ("first" if metadata else "adapters_mail_v1_20261120")
    tiny_models.make_adapter(folder, tiny_base, seed=31)
    if metadata:
        (folder / "adapter_metadata.json").write_text('{"adapter_name": "mail"}')
    assert stocked("register", folder, "--base", "tiny").code == 0
    done = stocked("check", folder, "--base", "tiny", "--strict")
    assert (done.code, done.out) == (0, "Verdict: pass\n")
    assert "lready registered" in stocked("register", folder, "--base", "tiny", "--strict").out
    assert stocked("check", folder, "--base", "tiny", "--task", "other", "--strict").code == 1


def test_a_severity_from_config_toml_counts(stocked: Fusery, others: Path) -> None:
    config = others / "home" / "config.toml"
    before = config.read_text(encoding="utf-8") if config.exists() else ""
    config.write_text(f'{before}\n[admission.severity]\npickle_file = "off"\n')
    done = stocked("check", "warned", "--base", "tiny", "--strict", "--json")
    assert (done.code, done.json["verdict"]) == (0, "pass")
    checks = {check["name"]: check["detail"] for check in stocked("doctor", "--json").json["checks"]}
    assert checks["setting.admission"] == "severities: pickle_file = off (config.toml)"
    config.write_text(f'{before}\n[admission.severity]\npickel_file = "off"\n')
    require_refusals(stocked, ("check warned --base tiny", "did you mean 'pickle_file'?"))


def test_sarif(stocked: Fusery, others: Path, tiny_base: Path) -> None:
    done = stocked("check", "warned", "--base", "tiny", "--format", "sarif")
    assert done.code == 0
    require_sarif(done.json)
    run = done.json["runs"][0]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == CODES.keys()
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("pickle_file", "warning")
    assert uri_of(result).endswith("warned/model.pkl")
    tiny_models.make_adapter(others / "great", tiny_base, update=25.0)
    done = stocked("check", "great", "--base", "tiny", "--format", "sarif")
    require_sarif(done.json)
    (result,) = done.json["runs"][0]["results"]
    assert uri_of(result).endswith("adapters.safetensors")
    module = result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]
    assert module.startswith("model.layers.")


def test_a_report_in_a_file_leaves_the_words_for_people(stocked: Fusery, others: Path) -> None:
    words = ("check", "good", "bad", "--base", "tiny", "-o", "found.sarif")
    done = stocked(*words, "--format", "sarif")
    assert (done.code, "Verdict: fail" in done.out) == (1, True)
    log = json.loads((others / "found.sarif").read_bytes())
    require_sarif(log)
    (result,) = log["runs"][0]["results"]
    assert (uri_of(result), result["level"]) == ("bad/adapters.safetensors", "error")
    (others / "found.sarif").write_text("of somebody else")
    assert stocked(*words, "--format", "sarif").code == 2
    assert (others / "found.sarif").read_text() == "of somebody else"
    assert stocked(*words, "--format", "sarif", "--force").code == 1


def checked(stocked: Fusery, *files: str) -> tuple[int, list[tuple[str, str]]]:
    """Check the adapters of changed files; return the exit code, and folders with their verdicts."""
    done = stocked("check", "--changed", *files, "--base", "tiny", "--json")
    return done.code, [(each["folder"], each["verdict"]) for each in done.json]


def test_changed_files_lead_to_their_adapters(stocked: Fusery, others: Path) -> None:
    (others / "good" / "notes").mkdir()
    files = ("README.md", "good/notes/read.me", "good/adapters.safetensors", "good/gone.txt", "far/away.py")
    assert checked(stocked, *files) == (0, [("good", "pass")])
    # An adapter in another changes both: the outer one's weights may be a link to the inner one's.
    shutil.copytree(others / "good", others / "outer")
    shutil.copytree(others / "good", others / "outer" / "inner")
    folders = [folder for folder, _ in checked(stocked, "outer/inner/adapters.safetensors")[1]]
    assert folders == ["outer/inner", "outer"]
    (others / "linked").symlink_to("bad")
    assert checked(stocked, "linked") == (1, [("linked", "fail")])
    (others / "good" / "adapters.safetensors").unlink()
    assert checked(stocked, "good/adapters.safetensors") == (1, [("good", "fail")])
    for file in ("adapter_config.json", "adapters.safetensors"):
        (others / "good" / file).unlink(missing_ok=True)
        (others / "good" / file).symlink_to("gone")
    done = stocked("check", "--changed", "good/adapters.safetensors", "--base", "tiny", "--json")
    assert (done.code, [f["code"] for f in done.json[0]["findings"]]) == (1, ["link_outside"])


def test_a_commit_without_adapters_needs_no_registry(fusery: Fusery, others: Path) -> None:
    done = fusery("check", "--changed", "README.md", "--format", "sarif")
    assert (done.code, done.json["runs"][0]["results"]) == (0, [])
    assert fusery("check", "--changed", "--json").json == []
    assert "No adapter is among them." in fusery("check", "--changed", "README.md").err


def test_gitlab_gets_a_code_quality_report(stocked: Fusery, others: Path) -> None:
    (others / "bad" / "model.pkl").write_bytes(PICKLE)
    done = stocked("check", "warned", "bad", "--base", "tiny", "--format", "gitlab")
    assert done.code == 1
    for issue in done.json:
        assert issue.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
        assert (others / issue["location"]["path"]).is_file()
        assert issue["location"]["lines"] == {"begin": 1}
        assert issue["check_name"] in CODES
    found = {(each["location"]["path"], each["severity"]) for each in done.json}
    assert {("warned/model.pkl", "minor"), ("bad/adapters.safetensors", "critical")} <= found
    assert len({each["fingerprint"] for each in done.json}) == len(done.json)


@pytest.mark.slow
def test_hostile_names_do_nothing_in_reports(stocked: Fusery, others: Path) -> None:
    """A folder with a colon is no scheme, a tensor's name no link and no file, and bytes may be no UTF-8."""
    names = ["javascript:x", os.fsdecode(b"a\xff")]
    shutil.copytree(others / "good", others / names[1])
    (others / "good").rename(others / names[0])
    tensors = others / names[0] / "adapters.safetensors"
    found: dict[str, tuple[str, np.ndarray]] = {
        name: (kind, np.frombuffer(data, np.float32).reshape(shape))
        for name, (kind, shape, data) in tiny_models.read_tensors(tensors).items()
    }
    evil = "[look here](https://evil.example/x){0}" + "a" * 300
    found[f"model.{evil}.lora_a"] = next(iter(found.values()))
    tiny_models.write_tensors(tensors, found, None)
    log = stocked("check", *names, "--base", "tiny", "--format", "sarif").json
    require_sarif(log)
    results = log["runs"][0]["results"]
    assert "javascript%3Ax/adapters.safetensors" in {uri_of(each) for each in results}
    text = next(each["message"]["text"] for each in results if "look here" in each["message"]["text"])
    assert "\\[look here](https" in text and "{{0}}" in text
    quality = stocked("check", *names, "--base", "tiny", "--format", "gitlab")
    assert "\\ud" not in quality.out
    assert len({each["fingerprint"] for each in quality.json}) == len(quality.json) > 0
    (others / "adapter").mkdir()
    (others / "adapter" / "adapters.safetensors").touch()
    for subject in ("../list", "/etc/os.release"):  # tensors called like files elsewhere
        place = place_of(subject, others / "adapter")
        assert place == (others / "adapter" / "adapters.safetensors", subject)


def test_findings_of_one_thing_have_fingerprints_of_their_own() -> None:
    near = Finding("near_duplicate", "warning", "adapters.safetensors", "as another", "")
    issues = code_quality([CheckedFolder.of([near, near], folder=Path("a"))])
    assert len({each["fingerprint"] for each in issues}) == 2
    assert issues[0] == code_quality([CheckedFolder.of([near], folder=Path("a"))])[0]


def test_options_and_files(stocked: Fusery, others: Path) -> None:
    """Hooks name files after their options, and a file may be called like one."""
    (others / "cut").write_bytes(b"good/x\0bad/adapt")
    (others / "lines").write_bytes(b"bad/adapters.safetensors\n")
    (others / "--help").touch()
    require_refusals(
        stocked,
        *((f"check --changed --files0-from {name} --base tiny", name) for name in ("cut", "lines", "gone")),
        ("check good --files0-from cut", "--changed"),
        ("check --base tiny", "usage"),
        ("check good -o x --base tiny", "--format"),
        ("check good --force --base tiny", "--force"),
    )
    assert stocked("check", "good", "--format", "gitlab", "-q", "--base", "tiny").code == 2
    assert stocked("check", "good", "--format", "sarif", "--json", "--base", "tiny").code == 2
    assert not (others / "x").exists()
    words = ("check", "--changed", "--base", "tiny")
    done = stocked(*words, "bad/adapters.safetensors", "--help")
    assert (done.code, "put -- before the files" in done.err) == (2, True)
    done = stocked(*words, "--", "bad/adapters.safetensors", "--help")
    assert (done.code, "Verdict: fail" in done.out) == (1, True)
    assert stocked("check", "--help").code == 0
    # A `--` that is a file's name guards nothing.
    (others / "--").touch()
    done = stocked(*words, "--help", "--", "bad/adapters.safetensors")
    assert (done.code, "--files0-from" in done.err) == (2, True)


def test_files_are_named_by_a_file_or_pipe(
    stocked: Fusery, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list has any length, and names with anything in them."""
    evil = "--help\n"
    (others / "bad").rename(others / evil)
    names = [*(f"gone/{number}" for number in range(2_000)), f"{evil}/adapters.safetensors"]
    data = "".join(f"{name}\0" for name in names).encode()
    (others / "list").write_bytes(data)
    assert checked(stocked, "--files0-from", "list") == (1, [(evil, "fail")])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    words = ("--files0-from", "-", "good/adapters.safetensors")
    assert checked(stocked, *words) == (1, [("good", "pass"), (evil, "fail")])
    (others / "list").write_bytes(b"")
    assert stocked("check", "--changed", "--files0-from", "list").code == 0
