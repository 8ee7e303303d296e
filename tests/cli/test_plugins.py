"""What plugins add, at the command line; what is wrong with one is one sentence, and only of who needs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery
from plugin_packages import install_example, write_package
from sarif_structure import require_sarif

from fusery.cli.export import _TRACKERS
from fusery.registry.exchange.import_runs import SOURCES
from fusery.storage.plugins import Group
from fusery.testing import samples

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
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for packages that are wrong, on the path of modules."""
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return tmp_path / "packages"


@pytest.fixture
def of_great_rank(tiny_base: Path, tmp_path: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapters", tiny_base, rank=65, keys=["mlp.up_proj"], seed=5)


def test_the_trackers_are_those_of_the_package() -> None:
    assert tuple(SOURCES) == _TRACKERS


# -- targets -----------------------------------------------------------------------------------------------------------


def test_a_target_of_a_plugin(stocked: Fusery, example: None, tmp_path: Path) -> None:
    done = stocked("materialize", "course_rec@2", "bundle", "--target", "checksums", "--json")
    assert (done.code, done.json["target"]) == (0, "checksums")
    record = json.loads((tmp_path / "bundle" / "fusery.json").read_bytes())
    assert (record["target"], record["provenance"]["plugin"]) == ("checksums", OURS)
    assert (tmp_path / "bundle" / "SHA256SUMS").is_file()
    [written] = [each for each in stocked("events", "--json").json if each["action"] == "bundle.written"]
    assert written["detail"]["plugin"] == OURS
    assert stocked("verify", "bundle", "-q").out.split() == []
    assert stocked("materialize", "course_rec@2", "bundle", "--target", "checksums").code == 0, "it is there"
    assert stocked("audit").code == 0
    (tmp_path / "bundle" / "SHA256SUMS").write_text("")
    assert stocked("verify", "bundle", "-q").out.split() == ["SHA256SUMS"]


def test_of_many_adapters_and_without_the_plugin(
    stocked: Fusery, example: None, tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = stocked("materialize", "--all", "out/{name}", "--target", "checksums", "--jobs", "1")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "out").glob("*/SHA256SUMS"))) == 2
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(installed)])
    done = stocked("materialize", "course_rec@2", "other", "--target", "checksums")
    assert done.code == 2
    assert "'checksums' is not one of 'model', 'archive'" in done.err
    assert stocked("audit").code == 0


def test_an_unknown_target_is_an_error_that_lists_those_of_plugins(stocked: Fusery, example: None) -> None:
    done = stocked("materialize", "course_rec@2", "bundle", "--target", "checksum")
    assert done.code == 2
    assert "'hub', 'checksums'" in " ".join(done.err.split())


# -- rules -------------------------------------------------------------------------------------------------------------


def test_a_rule_of_a_plugin_counts_like_any_other(
    stocked: Fusery, example: None, of_great_rank: Path, tmp_path: Path
) -> None:
    words = (of_great_rank, "--base", "tiny", "--task", "other")
    checked = stocked("check", *words, "--json")
    found = {each["code"]: each for each in checked.json["findings"]}
    assert (checked.code, found[CODE]["severity"]) == (0, "warning")
    assert found[CODE]["message"] == "the rank is 65, and our servers take 64"
    strict = stocked("register", *words, "--strict")
    assert strict.code == 2
    assert CODE in strict.err
    config = tmp_path / "home" / "config.toml"
    before = config.read_text(encoding="utf-8") if config.is_file() else ""
    for setting, verdict in (("off", "pass"), ("info", "pass"), ("error", "fail")):
        config.write_text(f'{before}\n[admission.severity]\n{CODE} = "{setting}"\n', encoding="utf-8")
        assert stocked("check", *words, "--json").json["verdict"] == verdict
    config.write_text(f'{before}\n[admission.severity]\nhouse-rank_above = "off"\n', encoding="utf-8")
    assert f"did you mean '{CODE}'?" in stocked("check", *words).err
    config.write_text(before, encoding="utf-8")
    assert stocked("register", *words).code == 0


def test_what_it_found_and_which_plugin_looked_is_on_record(
    stocked: Fusery, example: None, of_great_rank: Path
) -> None:
    name = stocked("register", of_great_rank, "--base", "tiny", "--task", "other", "--json").json["name"]
    assert CODE in stocked("show", name, "--json").out
    [entry] = [each for each in stocked("events", "--json").json if each["detail"].get("plugins")]
    assert (entry["action"], entry["subject"]) == ("adapter.registered", name)
    assert entry["detail"]["plugins"] == [OURS]
    assert stocked("audit", name).code == 0


def test_without_plugins_the_log_says_nothing_of_them(stocked: Fusery) -> None:
    assert all("plugins" not in each["detail"] for each in stocked("events", "--json").json)


def test_sarif_names_the_plugin_as_an_extension(stocked: Fusery, example: None, of_great_rank: Path) -> None:
    done = stocked("check", of_great_rank, "--base", "tiny", "--format", "sarif")
    require_sarif(done.json)
    [run] = done.json["runs"]
    [extension] = run["tool"]["extensions"]
    assert (extension["name"], extension["version"]) == ("fusery-example", "0.1.0")
    [result] = [each for each in run["results"] if each["ruleId"] == CODE]
    assert result["rule"] == {"id": CODE, "index": 0, "toolComponent": {"index": 0}}
    assert extension["rules"][0]["id"] == CODE
    assert "ruleIndex" not in result


# -- sources, backends, notifiers --------------------------------------------------------------------------------------


def test_runs_of_a_plugin_are_imported(stocked: Fusery, example: None, tmp_path: Path) -> None:
    folder = samples.make_adapter(tmp_path / "runs" / "first" / "adapter")
    about = {"name": "first", "project": "lessons", "started_at": "2026-01-15T10:00:00+00:00"}
    (tmp_path / "runs" / "first" / "run.json").write_text(json.dumps(about))
    samples.make_base(tmp_path / "sample")
    assert stocked("base", "add", "sample").code == 0
    done = stocked("import", "runs", "--from", "folder", "--base", "sample", "--json")
    assert (done.code, [each["error"] for each in done.json]) == (0, [None])
    tags = stocked("show", done.json[0]["adapter"], "--json").json["tags"]
    assert tags["folder.run_id"] == "first"
    assert folder.is_dir()
    assert "is not one of 'mlflow', 'wandb', 'folder'" in stocked("import", "runs", "--from", "folders").err


def test_a_store_of_a_plugin(fusery: Fusery, example: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_STORE_URL", "shelf://team/store")
    assert fusery("init").code == 0
    checks = {each["name"]: each for each in fusery("doctor", "--json").json["checks"]}
    assert checks["store"]["detail"].startswith("shelf://team/store belongs to this database")
    monkeypatch.setenv("FUSERY_STORE_URL", "shell://team/store")
    assert "no store speaks 'shell'" in fusery("gc").err


def test_a_webhook_of_a_plugin(stocked: Fusery, example: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("FUSERY_WEBHOOK_PRIVATE", "1")
    words = (
        "webhook",
        "add",
        "unix:///nowhere/ci.sock",
        "--on",
        "alias.*",
        "--allow-private",
        "--name",
        "ci",
    )
    assert stocked(*words).code == 0
    stocked("alias", "set", "course_rec@2", "prod")
    done = stocked("webhook", "deliver", "--json")
    assert (done.code, done.json[0]["error"]) == (1, "not reached: FileNotFoundError")
    refused = stocked("webhook", "add", "ftp://nowhere", "--on", "*")
    assert (refused.code, "no webhook speaks 'ftp' here" in refused.err) == (2, True)
    for secret in ("unix:user:hunter2@there/x", "unix://there/user:hunter2@x"):
        done = stocked("webhook", "add", secret, "--on", "*")
        assert (done.code, "hunter2" in done.err) == (2, False)


# -- what is wrong -----------------------------------------------------------------------------------------------------

TARGET = "from fusery.registry.bundles import Target\n"
RULE = "from fusery.registry.admission.code import Code, rule\n"
BACKEND = "from fusery.storage.locate import Protocol\nX = Protocol('odd', '', {}, maker='odd')\n"
TRACKED = """
from fusery.registry.exchange.tracked_run import UNKNOWN, TrackedRun
def fetch(path, place): 1 / 0
def X(*_, **__): yield TrackedRun("r", "r", "p", UNKNOWN, {}, {"adapter_config.json": 2, "adapters.safetensors": 8}, fetch)
"""
WRONG: dict[str, tuple[Group, str, str]] = {
    "a target that is none": ("fusery.targets", "X = 5", "is no Target"),
    "a target of another name": (
        "fusery.targets",
        f"{TARGET}X = Target('other', 'odd')",
        "calls itself 'other'",
    ),
    "a target that holds nothing": (
        "fusery.targets",
        f"{TARGET}X = Target('odd', 'odd', ('models',))",
        "does not say that it holds",
    ),
    "a target without functions": (
        "fusery.targets",
        f"{TARGET}X = Target('odd', 'odd')",
        "has no functions write and check",
    ),
    "a target whose module is not there": (
        "fusery.targets",
        f"{TARGET}X = Target('odd', 'odd.nowhere')",
        "cannot be imported: ModuleNotFoundError",
    ),
    "a target that fails": (
        "fusery.targets",
        f"{TARGET}X = Target('odd', 'odd')\ndef write(*_): 1 / 0\ndef check(_): pass",
        "failed: ZeroDivisionError: division by zero",
    ),
    "a target that counts nothing": (
        "fusery.targets",
        f"{TARGET}X = Target('odd', 'odd')\ndef write(_, b, __): b.write('a', b'a')\ndef check(_): pass",
        "returns no Layout",
    ),
    "a rule that is none": ("fusery.rules", "def X(_): return []", "is no Rule"),
    "a rule with the code of another": (
        "fusery.rules",
        f"{RULE}@rule(Code('pickle_file', 'info', 'a', 'b'))\ndef X(_): return iter(())",
        "has the code 'pickle_file', and its codes are called odd-WORD",
    ),
    "a rule that nobody may turn off": (
        "fusery.rules",
        f"{RULE}@rule(Code('odd-x', 'info', 'a', 'b', fixed=True))\ndef X(_): return iter(())",
        "has a fixed code odd-x",
    ),
    "a rule whose codes are no tuple": (
        "fusery.rules",
        "from fusery.registry.admission.code import Code, Rule\nX = Rule(lambda _: iter(()), Code('odd-x', 'info', 'a', 'b'))",
        "is no Rule with a tuple of codes",
    ),
    "a rule whose code says nothing": (
        "fusery.rules",
        f"{RULE}@rule(Code('odd-x', 'info', 'a', None))\ndef X(_): return iter(())",
        "has a code that is no Code",
    ),
    "a rule that fails": (
        "fusery.rules",
        f"{RULE}@rule(Code('odd-x', 'info', 'a', 'b'))\ndef X(candidate): yield candidate.nothing",
        "failed: AttributeError",
    ),
    "a rule that finds what it has no code for": (
        "fusery.rules",
        f"{RULE}@rule(Code('odd-x', 'info', 'a', 'b'))\ndef X(_): yield Code('odd-y', 'info', 'a', 'b').found('.', 'a')",
        "yields something else than findings of its codes",
    ),
    "a rule whose text no database keeps": (
        "fusery.rules",
        f"{RULE}C = Code('odd-x', 'info', 'a', 'b')\n@rule(C)\ndef X(_): yield C.found('.', 'a' + chr(0))",
        "yields something else than findings of its codes",
    ),
    "a source that is none": ("fusery.sources", "X = 5", "cannot be called"),
    "a source that fails": ("fusery.sources", "def X(*_, **__): 1 / 0", "failed: ZeroDivisionError"),
    "a source that fails later": (
        "fusery.sources",
        "def X(*_, **__):\n    yield 1 / 0",
        "failed: ZeroDivisionError",
    ),
    "a source of nothing between runs": (
        "fusery.sources",
        "def X(*_, **__): yield None",
        "yields something else",
    ),
    "a source whose files cannot be had": (
        "fusery.sources",
        TRACKED,
        "failed: ZeroDivisionError",
    ),
    "a source of something else": ("fusery.sources", "def X(*_, **__): yield 5", "yields something else"),
    "a backend that is none": ("fusery.backends", "X = 5", "is no Protocol"),
    "a backend whose module is not there": (
        "fusery.backends",
        BACKEND.replace("maker='odd'", "maker='odd_nowhere'"),
        "names a module that is not there: odd_nowhere",
    ),
    "a backend that makes none": (
        "fusery.backends",
        f"{BACKEND}def file_system(**_): return 5",
        "makes no file system of fsspec",
    ),
    "a backend that fails": (
        "fusery.backends",
        f"{BACKEND}def file_system(**_): 1 / 0",
        "cannot be opened: ZeroDivisionError",
    ),
    "a notifier that is none": ("fusery.notifiers", "X = 5", "cannot be called"),
}
NEEDS: dict[Group, tuple[str, ...]] = {
    "fusery.targets": ("materialize", "course_rec@2", "out", "--target", "odd"),
    "fusery.rules": ("check", "first", "--base", "tiny"),
    "fusery.sources": ("import", "somewhere", "--from", "odd"),
    "fusery.backends": ("gc",),
    "fusery.notifiers": ("webhook", "add", "odd://somewhere", "--on", "*"),
}
"""A command that needs what a plugin adds."""


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_plugin_is_one_sentence_of_who_needs_it(
    case: str, stocked: Fusery, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, source, said = WRONG[case]
    write_package(packages, "odd", {group: {"odd": "odd:X"}}, source)
    monkeypatch.delitem(sys.modules, "odd", raising=False)
    if group == "fusery.backends":
        monkeypatch.setenv("FUSERY_STORE_URL", "odd://somewhere/x")
    done = stocked(*NEEDS[group])
    assert done.code == 2
    assert f" odd of odd 1.2 {said}" in done.err
    assert "pip uninstall odd" in done.err and "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
    assert stocked(*NEEDS[group], "--json").json["error"]["code"] == "plugin_failed"
    # Whoever needs none of it does not even hear of it.
    assert stocked("list").code == 0
    monkeypatch.delitem(sys.modules, "odd", raising=False)


@pytest.mark.parametrize("group", NEEDS)
def test_doctor_says_what_is_wrong_with_which(
    group: Group, stocked: Fusery, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(packages, "odd", {group: {"odd": "odd:X", "twice": "odd:X"}}, "X = object()")
    write_package(packages, "even", {group: {"twice": "odd:X"}})
    monkeypatch.delitem(sys.modules, "odd", raising=False)
    done = stocked("doctor", "--json")
    checks = {each["name"]: each for each in done.json["checks"] if each["name"].startswith("plugin.")}
    kind = group.partition(".")[2]
    assert (done.code, checks.keys()) == (1, {f"plugin.{kind}.odd", f"plugin.{kind}.twice"})
    assert all(each["status"] == "problem" for each in checks.values())
    assert "odd of odd 1.2" in checks[f"plugin.{kind}.odd"]["detail"]
    assert "even 1.2 and odd 1.2" in checks[f"plugin.{kind}.twice"]["detail"]
    monkeypatch.delitem(sys.modules, "odd", raising=False)


def test_doctor_lists_plugins_with_their_versions(stocked: Fusery, example: None) -> None:
    done = stocked("doctor", "--json")
    found = [each for each in done.json["checks"] if each["name"].startswith("plugin.")]
    assert [(each["name"], each["status"]) for each in found] == [
        ("plugin.backends.shelf", "ok"),
        ("plugin.notifiers.unix", "ok"),
        ("plugin.rules.house", "ok"),
        ("plugin.sources.folder", "ok"),
        ("plugin.targets.checksums", "ok"),
    ]
    assert all(each["detail"].startswith(f"{OURS}: fusery_example.") for each in found)
    assert all(each["detail"].endswith(", imported") for each in found), "whether it works is another matter"


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("fusery.targets", "model"),
        ("fusery.sources", "mlflow"),
        ("fusery.backends", "s3"),
        ("fusery.backends", "file"),
        ("fusery.notifiers", "https"),
    ],
)
def test_fusery_s_own_names_stay_its_own(group: Group, name: str, stocked: Fusery, packages: Path) -> None:
    write_package(packages, "thief", {group: {name: "thief:X"}}, "raise SystemExit('imported')")
    assert stocked("materialize", "course_rec@2", "out", "--target", "model").code == 0
    [found] = [
        each for each in stocked("doctor", "--json").json["checks"] if each["name"].startswith("plugin.")
    ]
    assert found["status"] == "problem"
    assert "has the name of one of fusery's own" in found["detail"]
    assert "thief" not in sys.modules


def test_two_rules_of_one_name_are_refused(stocked: Fusery, packages: Path) -> None:
    for name in ("one", "other"):
        write_package(packages, name, {"fusery.rules": {"same": f"{name}:X"}})
    done = stocked("check", "first", "--base", "tiny")
    assert done.code == 2
    assert "the rule same is brought by one 1.2 and other 1.2" in done.err


def test_a_notifier_that_fails_is_an_attempt_that_failed(
    stocked: Fusery, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "0123456789abcdef0123456789abcdef")
    source = "def X(*_, **__): raise RuntimeError('no luck')\ndef Y(*_, **__): return 5"
    write_package(
        packages, "luckless", {"fusery.notifiers": {"odd": "luckless:X", "even": "luckless:Y"}}, source
    )
    for scheme in ("odd", "even"):
        assert stocked("webhook", "add", f"{scheme}://a", "--on", "alias.*", "--name", scheme).code == 0
    stocked("alias", "set", "course_rec@2", "prod")
    done = stocked("webhook", "deliver", "--json")
    assert (done.code, [each["error"] for each in done.json]) == (
        1,
        [
            "the notifier even of luckless 1.2 returns no Answer",
            "the notifier odd of luckless 1.2 failed: RuntimeError: no luck",
        ],
    )
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(packages)])
    retried = stocked("webhook", "retry", "odd", "--json").json
    assert retried["error"] == "no webhook speaks 'odd' here: no plugin for it is installed"
    checks = {each["name"]: each for each in stocked("doctor", "--json").json["checks"]}
    assert (checks["webhook.odd"]["status"], checks["webhook.odd"]["detail"]) == ("note", retried["error"])


def test_nothing_is_scanned_by_commands_that_need_no_plugin(stocked: Fusery, tmp_path: Path) -> None:
    line = (
        "from fusery.cli.main import run\nfrom fusery.storage import plugins\n"
        "words = [['list'], ['show', 'course_rec@2'], ['alias', 'list'], ['webhook', 'list']]\n"
        "assert [run([*each, '-q']) for each in words] == [0] * len(words)\n"
        "assert run(['materialize', 'course_rec@2', 'out', '-q']) == 0\n"
        "print(plugins._installed.cache_info().misses)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0"
