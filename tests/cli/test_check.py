"""`fusery check`: strict, for CI, configured, and without leaving a trace."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from fixture_types import Fusery
from sarif_structure import require_sarif

from fusery.registry.adapters.finding import Finding
from fusery.registry.admission.checked import CheckedFolder
from fusery.registry.admission.code_quality import code_quality
from fusery.registry.admission.rules import CODES
from fusery.registry.admission.sarif import place_of


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapters", tiny_base, seed=7)


@pytest.fixture
def warned(adapter: Path) -> Path:
    """An adapter that gives one warning."""
    (adapter / "model.pkl").write_bytes(b"\x80\x02}q\0.")
    return adapter


def snapshot(home: Path) -> dict[str, str]:
    """Return the digest of every file below a folder, and its modification time."""
    return {
        path.relative_to(home).as_posix(): (
            f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
            if path.is_file()
            else ""
        )
        for path in sorted(home.rglob("*"))
    }


@pytest.mark.parametrize(
    "spoil", [lambda folder: None, lambda folder: (folder / "adapters.safetensors").write_bytes(b"x")]
)
@pytest.mark.parametrize("words", [(), ("--json",), ("--format", "sarif"), ("--strict",)])
def test_check_leaves_every_byte_of_the_home_as_it_was(
    stocked: Fusery, adapter: Path, tmp_path: Path, words: tuple[str, ...], spoil: Callable[[Path], Any]
) -> None:
    spoil(adapter)
    before, mine = snapshot(tmp_path / "home"), snapshot(adapter)
    assert stocked("check", adapter, "--base", "tiny", *words).code in (0, 1)
    assert snapshot(tmp_path / "home") == before
    assert snapshot(adapter) == mine


def test_strict_makes_errors_of_warnings(stocked: Fusery, warned: Path) -> None:
    plain = stocked("check", warned, "--base", "tiny", "--json")
    assert (plain.code, plain.json["verdict"]) == (0, "warn")
    strict = stocked("check", warned, "--base", "tiny", "--strict", "--json")
    assert (strict.code, strict.json["verdict"]) == (1, "fail")
    assert [f["severity"] for f in strict.json["findings"]] == ["error"]


@pytest.mark.parametrize("said", ["in its metadata", "by its folder"])
def test_what_is_registered_is_good_also_strictly(
    stocked: Fusery, tiny_base: Path, tmp_path: Path, said: str
) -> None:
    """Whoever checks every adapter of a repository has registered most: what each is for, its files say."""
    folder = tmp_path / ("first" if said == "in its metadata" else "adapters_mail_v1_20261120")
    tiny_models.make_adapter(folder, tiny_base, seed=31)
    if said == "in its metadata":
        (folder / "adapter_metadata.json").write_text('{"adapter_name": "mail"}')
    assert stocked("register", folder, "--base", "tiny").code == 0
    done = stocked("check", folder, "--base", "tiny", "--strict")
    assert (done.code, done.out) == (0, "Verdict: pass\n")
    assert "lready registered" in stocked("register", folder, "--base", "tiny", "--strict").out
    assert stocked("check", folder, "--base", "tiny", "--task", "other", "--strict").code == 1


def test_a_folder_of_adapters_is_named_from_here(stocked: Fusery, others: Path) -> None:
    (others / "many").mkdir()
    shutil.copytree(others / "good", others / "many" / "good")
    assert "give one of them: many/good" in stocked("check", "many", "--base", "tiny").out
    assert "give one of them: second\n" in stocked("check", ".", "--base", "tiny").out


def test_strict_keeps_a_warned_adapter_out(stocked: Fusery, warned: Path) -> None:
    words = ("register", warned, "--base", "tiny", "--task", "t")
    done = stocked(*words, "--strict")
    assert done.code == 2
    assert "pickle_file" in done.err
    assert len(stocked("list", "--json").json) == 2
    assert stocked(*words).code == 0


def test_a_severity_from_config_toml_counts(stocked: Fusery, warned: Path, tmp_path: Path) -> None:
    with (tmp_path / "home" / "config.toml").open("a", encoding="utf-8") as file:
        file.write('\n[admission.severity]\npickle_file = "off"\n')
    done = stocked("check", warned, "--base", "tiny", "--strict", "--json")
    assert (done.code, done.json["verdict"]) == (0, "pass")
    checks = {check["name"]: check["detail"] for check in stocked("doctor", "--json").json["checks"]}
    assert checks["setting.admission"] == "severities: pickle_file = off (config.toml)"


def test_an_unknown_code_in_config_toml_is_a_sentence(stocked: Fusery, warned: Path, tmp_path: Path) -> None:
    with (tmp_path / "home" / "config.toml").open("a", encoding="utf-8") as file:
        file.write('\n[admission.severity]\npickel_file = "off"\n')
    done = stocked("check", warned, "--base", "tiny")
    assert done.code == 2
    assert "there is no finding 'pickel_file'; did you mean 'pickle_file'?" in done.err


def test_sarif_is_what_the_standard_says(stocked: Fusery, warned: Path) -> None:
    done = stocked("check", warned, "--base", "tiny", "--format", "sarif")
    assert done.code == 0
    require_sarif(done.json)
    run = done.json["runs"][0]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == CODES.keys()
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("pickle_file", "warning")
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri.endswith("/adapters/model.pkl")


def test_sarif_of_a_module_names_the_file_and_the_module(
    stocked: Fusery, adapter: Path, tiny_base: Path
) -> None:
    tiny_models.make_adapter(adapter, tiny_base, rank=65)
    done = stocked("check", adapter, "--base", "tiny", "--format", "sarif")
    require_sarif(done.json)
    place = done.json["runs"][0]["results"][0]["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"].endswith("adapters.safetensors")
    assert place["logicalLocations"][0]["fullyQualifiedName"].startswith("model.layers.")


def test_a_refused_adapter_is_an_error_in_sarif_and_exit_code_1(stocked: Fusery, adapter: Path) -> None:
    (adapter / "adapters.safetensors").write_bytes(b"")
    done = stocked("check", adapter, "--base", "tiny", "--format", "sarif")
    assert done.code == 1
    require_sarif(done.json)
    assert done.json["runs"][0]["results"][0]["level"] == "error"


def test_sarif_and_json_exclude_each_other(stocked: Fusery, adapter: Path) -> None:
    assert stocked("check", adapter, "--base", "tiny", "--format", "sarif", "--json").code == 2


@pytest.fixture
def others(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two adapters, of which the second would be refused."""
    monkeypatch.chdir(tmp_path)
    tiny_models.make_adapter(tmp_path / "good", tiny_base, seed=7)
    (tiny_models.make_adapter(tmp_path / "bad", tiny_base, seed=8) / "adapters.safetensors").write_bytes(b"x")
    return tmp_path


def test_several_folders_are_checked_and_each_has_a_verdict(stocked: Fusery, others: Path) -> None:
    done = stocked("check", "good", "bad", "good", "--base", "tiny", "--json")
    assert (done.code, [(each["folder"], each["verdict"]) for each in done.json]) == (
        1,
        [("good", "pass"), ("bad", "fail")],
    )
    told = stocked("check", "good", "bad", "--base", "tiny").out.splitlines()
    assert told[:3] == ["good", "Verdict: pass", "bad"]
    assert told[-1] == "Verdict: fail"


def test_an_adapter_in_another_changes_both(stocked: Fusery, others: Path) -> None:
    """The outer one's weights may be a link to the inner one's."""
    shutil.copytree(others / "good", others / "outer")
    shutil.copytree(others / "good", others / "outer" / "inner")
    done = stocked("check", "--changed", "outer/inner/adapters.safetensors", "--base", "tiny", "--json")
    assert [each["folder"] for each in done.json] == ["outer/inner", "outer"]


def test_changed_files_lead_to_their_adapters(stocked: Fusery, others: Path) -> None:
    (others / "good" / "notes").mkdir()
    files = ("README.md", "good/notes/read.me", "good/adapters.safetensors", "good/gone.txt", "far/away.py")
    done = stocked("check", "--changed", *files, "--base", "tiny", "--json")
    assert (done.code, [(each["folder"], each["verdict"]) for each in done.json]) == (0, [("good", "pass")])
    (others / "good" / "adapters.safetensors").unlink()
    done = stocked("check", "--changed", "good/adapters.safetensors", "--base", "tiny", "--json")
    assert (done.code, [each["verdict"] for each in done.json]) == (1, ["fail"])


def test_links_that_lead_nowhere_are_an_adapter(stocked: Fusery, others: Path) -> None:
    for file in ("adapter_config.json", "adapters.safetensors"):
        (others / "good" / file).unlink()
        (others / "good" / file).symlink_to("gone")
    done = stocked("check", "--changed", "good/adapters.safetensors", "--base", "tiny", "--json")
    assert (done.code, [f["code"] for f in done.json[0]["findings"]]) == (1, ["link_outside"])


def test_a_link_to_a_folder_leads_to_the_adapter_in_it(stocked: Fusery, others: Path) -> None:
    (others / "linked").symlink_to("bad")
    done = stocked("check", "--changed", "linked", "--base", "tiny", "--json")
    assert (done.code, [each["folder"] for each in done.json]) == (1, ["linked"])


def test_a_commit_without_adapters_needs_no_registry(fusery: Fusery, others: Path) -> None:
    done = fusery("check", "--changed", "README.md", "--format", "sarif")
    assert (done.code, done.json["runs"][0]["results"]) == (0, [])
    assert fusery("check", "--changed", "--json").json == []
    assert "No adapter is among them." in fusery("check", "--changed", "README.md").err


def test_a_report_in_a_file_leaves_the_words_for_people(stocked: Fusery, others: Path) -> None:
    words = ("check", "good", "bad", "--base", "tiny", "-o", "found.sarif")
    done = stocked(*words, "--format", "sarif")
    assert done.code == 1
    assert "Verdict: fail" in done.out
    log = json.loads((others / "found.sarif").read_bytes())
    require_sarif(log)
    (result,) = log["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "bad/adapters.safetensors"
    (others / "found.sarif").write_text("of somebody else")
    assert stocked(*words, "--format", "sarif").code == 2
    assert (others / "found.sarif").read_text() == "of somebody else"
    assert stocked(*words, "--format", "sarif", "--force").code == 1


def test_gitlab_gets_a_code_quality_report(stocked: Fusery, others: Path) -> None:
    for name in ("good", "bad"):
        (others / name / "model.pkl").write_bytes(b"\x80\x02}q\0.")
    done = stocked("check", "good", "bad", "--base", "tiny", "--format", "gitlab")
    assert done.code == 1
    for issue in done.json:
        assert issue.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
        assert (others / issue["location"]["path"]).is_file()
        assert issue["location"]["lines"] == {"begin": 1}
        assert issue["check_name"] in CODES
    found = {(each["location"]["path"], each["severity"]) for each in done.json}
    assert {("good/model.pkl", "minor"), ("bad/adapters.safetensors", "critical")} <= found
    assert len({each["fingerprint"] for each in done.json}) == len(done.json)


def test_what_names_say_is_shown_and_does_nothing_in_reports(stocked: Fusery, others: Path) -> None:
    """A folder with a colon is no scheme, a tensor's name no link and no file, and bytes that are no UTF-8 keep no report away."""
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
    uris = {each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for each in results}
    assert "javascript%3Ax/adapters.safetensors" in uris
    text = next(each["message"]["text"] for each in results if "look here" in each["message"]["text"])
    assert "\\[look here](https" in text and "{{0}}" in text
    quality = stocked("check", *names, "--base", "tiny", "--format", "gitlab")
    assert "\\ud" not in quality.out
    assert len({each["fingerprint"] for each in quality.json}) == len(quality.json) > 0


@pytest.mark.parametrize("subject", ["../beside.txt", "/etc/os.release"])
def test_a_tensor_called_like_a_file_elsewhere_is_one_of_this_folder(tmp_path: Path, subject: str) -> None:
    (tmp_path / "beside.txt").touch()
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapters.safetensors").touch()
    assert place_of(subject, folder) == (folder / "adapters.safetensors", subject)


def test_findings_of_one_thing_have_fingerprints_of_their_own() -> None:
    near = Finding("near_duplicate", "warning", "adapters.safetensors", "as another", "")
    issues = code_quality([CheckedFolder.of([near, near], folder=Path("a"))])
    assert len({each["fingerprint"] for each in issues}) == 2
    assert issues[0] == code_quality([CheckedFolder.of([near], folder=Path("a"))])[0]


def test_a_file_is_no_option(stocked: Fusery, others: Path) -> None:
    """What hooks name after their options may be called like one."""
    (others / "--help").touch()
    done = stocked("check", "--changed", "--base", "tiny", "bad/adapters.safetensors", "--help")
    assert (done.code, "is an option and a file; put -- before the files" in done.err) == (2, True)
    done = stocked("check", "--changed", "--base", "tiny", "--", "bad/adapters.safetensors", "--help")
    assert (done.code, "Verdict: fail" in done.out) == (1, True)
    assert stocked("check", "--help").code == 0
    # A `--` that is a file's name guards nothing.
    (others / "--").touch()
    done = stocked("check", "--changed", "--base", "tiny", "--help", "--", "bad/adapters.safetensors")
    assert (done.code, "name the files by --files0-from" in done.err) == (2, True)


def test_files_can_be_named_by_a_file_or_a_pipe(
    stocked: Fusery, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of any length, of names with anything in them; the list is all that is read from it."""
    names = [f"gone/{number}" for number in range(20_000)]
    evil = "--help\n"
    (others / "bad").rename(others / evil)
    data = "".join(f"{name}\0" for name in [*names, f"{evil}/adapters.safetensors"]).encode()
    (others / "list").write_bytes(data)
    done = stocked("check", "--changed", "--files0-from", "list", "--base", "tiny", "--json")
    assert (done.code, [each["folder"] for each in done.json]) == (1, [evil])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    words = ("--changed", "--files0-from", "-", "good/adapters.safetensors")
    done = stocked("check", *words, "--base", "tiny", "--json")
    assert (done.code, [each["folder"] for each in done.json]) == (1, ["good", evil])


@pytest.mark.parametrize("data", [b"bad/adapters.safetensors\n", b"good/x\0bad/adapt"])
def test_a_list_that_is_cut_off_or_by_lines_is_refused(stocked: Fusery, others: Path, data: bytes) -> None:
    (others / "list").write_bytes(data)
    done = stocked("check", "--changed", "--files0-from", "list", "--base", "tiny")
    assert (done.code, "'list' does not end with NUL; list the files by git ls-files -z" in done.err) == (
        2,
        True,
    )
    assert stocked("check", "--changed", "--files0-from", "gone", "--base", "tiny").code == 2
    (others / "list").write_bytes(b"")
    assert stocked("check", "--changed", "--files0-from", "list").code == 0
    assert "go with --changed" in stocked("check", "good", "--files0-from", "list").err


@pytest.mark.parametrize(
    "words", [(), ("good", "-o", "x"), ("good", "--force"), ("good", "--format", "gitlab", "-q")]
)
def test_options_that_do_not_go_together_are_said(
    stocked: Fusery, others: Path, words: tuple[str, ...]
) -> None:
    assert stocked("check", *words, "--base", "tiny").code == 2
    assert not (others / "x").exists()


def out_of_the_folder(folder: Path) -> None:
    (folder.parent / "elsewhere.txt").write_text("x")
    (folder / "notes.txt").symlink_to(folder.parent / "elsewhere.txt")


def to_nowhere(folder: Path) -> None:
    (folder / "notes.txt").symlink_to("gone.txt")


def in_a_circle(folder: Path) -> None:
    (folder / "notes.txt").symlink_to("notes.txt")


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "notes.txt")


def a_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(folder)
        try:
            made.bind("notes")
        finally:
            os.chdir(here)


def twins(folder: Path) -> None:
    (folder / "Notes.txt").write_text("x")
    (folder / "notes.txt").write_text("x")


def an_unprintable_name(folder: Path) -> None:
    (folder / "no\ntes.txt").write_text("x")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (out_of_the_folder, "link_outside"),
        (to_nowhere, "link_outside"),
        (in_a_circle, "link_outside"),
        (a_pipe, "special_file"),
        (a_socket, "special_file"),
        (twins, "unsafe_path"),
        (an_unprintable_name, "unsafe_path"),
    ],
)
def test_a_folder_that_cannot_be_read_is_a_finding(
    spoil: Callable[[Path], None], code: str, stocked: Fusery, adapter: Path, tmp_path: Path
) -> None:
    spoil(adapter)
    before = snapshot(tmp_path / "home" / "store")
    done = stocked("check", adapter, "--base", "tiny", "--json")
    assert (done.code, [f["code"] for f in done.json["findings"]]) == (1, [code])
    refused = stocked("register", adapter, "--base", "tiny", "--task", "t", "--json")
    assert (refused.code, refused.json["error"]["findings"][0]["code"]) == (2, code)
    assert snapshot(tmp_path / "home" / "store") == before
    assert len(stocked("list", "--json").json) == 2
