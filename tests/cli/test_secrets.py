"""No secret leaves the program: a canary is put wherever a user can put one, and looked for in everything written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from fixture_types import Fusery

from fusery.storage import secrets
from fusery.storage.errors import FuseryError

CANARY = "c4n4ryS3cr3tVa1u"
ENCODED = "c4n4ry%2FS3cr3t%40Va1u"
URL = f"https://ann:{CANARY}@models.example/team/tiny"
DATABASE = f"postgresql://ann:{CANARY}@127.0.0.1:9/fusery?connect_timeout=1"
SIGNED = f"https://models.example/tiny?rev=2&X-Amz-Signature={CANARY}"
TOKEN = f"https://{CANARY}@models.example/team/tiny"


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the secrets that earlier cases taught the masking."""
    monkeypatch.setattr(secrets, "_registered", set())
    monkeypatch.delenv("_FUSERY_RAISES", raising=False)


def told_nothing(text: str) -> bool:
    return not any(part in text for part in (CANARY, ENCODED, CANARY[:10], "S3cr3t@Va1u"))


WORDS: tuple[tuple[str, ...], ...] = (
    ("base", "add", URL),
    ("base", "add", SIGNED),
    ("base", "add", f"https://ann:{ENCODED}@models.example/tiny"),
    ("base", "add", f"https://ann:x/{CANARY}@models.example/tiny"),
    ("base", "add", "first", "--name", URL),
    ("base", "show", URL),
    ("register", URL, "--base", "tiny"),
    ("register", "first", "--base", "tiny", "--task", URL),
    ("register", "first", "--base", "tiny", "--log", URL),
    ("register", "first", "--base", "tiny", "--alpha", URL),
    ("check", URL, "--base", "tiny"),
    ("list", "--where", f"note = {URL}"),
    ("list", "--sort", URL),
    ("fuse", "course_rec@1", "--with", f"{URL}:0.5"),
    ("eval", "probe", "course_rec@1", "--prompts", URL),
    *(("materialize", "course_rec@1", f"{scheme}://ann:{CANARY}@bucket/bundle") for scheme in ("s3", "ftp", "hf")),
    ("materialize", "course_rec@1", f"oci://ann:{CANARY}@127.0.0.1:9/bundle"),
    ("get", "course_rec@1", URL),
    ("push", "course_rec@1", "--to", URL),
    ("pull", "course_rec@1", "--from", f"s3://ann:{CANARY}@bucket/x"),
    ("pull", "course_rec@1", "--from", f"s3://bucket/x?sig={CANARY}"),
    ("admin", "backup", f"s3://ann:{CANARY}@bucket/x"),
    ("admin", "restore", f"gs://ann:{CANARY}@bucket/x"),
    ("promote", "course_rec@1", URL),
    ("alias", "rules", "set", URL, "--approvals", "1"),
    *((command, URL) for command in ("show", "fuse", "identify", "log", "diff", "lineage", "serve", "audit")),
    ("eval", "bench", URL),
    ("base", "calibrate", URL),
    ("identify", "--verify", URL),
    ("ui", URL, "--save", "page.html"),
    (URL,),
    ("list", f"--{URL}"),
    ("--registry", URL, "list"),
    ("admin", "db", "check", URL),
)  # fmt: skip
"""A secret among the arguments, in commands that fail."""

S3 = {"FUSERY_STORE_URL": "s3://bucket/prefix"}
OPTIONS = json.dumps(
    {"key": CANARY, "secret": CANARY, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
)
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "options that are no JSON": {"FUSERY_STORE_OPTIONS": OPTIONS[:-1]},
    "options that are a text": {"FUSERY_STORE_OPTIONS": f'"{CANARY}"'},
    "options that s3 refuses": S3 | {"FUSERY_STORE_OPTIONS": json.dumps({"config_kwargs": {CANARY: CANARY}})},
    "an endpoint with a password": S3
    | {"FUSERY_STORE_OPTIONS": json.dumps({"client_kwargs": {"endpoint_url": f"http://ann:{CANARY}@[bad"}})},
    "a store with a password": {"FUSERY_STORE_URL": f"s3://ann:{CANARY}@bucket/x"},
    "a store of an unknown kind": {"FUSERY_STORE_URL": f"ftp://ann:{CANARY}@host/x"},
    "a store with a token": {"FUSERY_STORE_URL": f"s3://bucket/x?token={CANARY}"},
    "a database that is not there": {"FUSERY_DATABASE_URL": DATABASE},
    "a database with a bad port": {"FUSERY_DATABASE_URL": DATABASE.replace(":9/", ":nine/")},
    "a database of another kind": {"FUSERY_DATABASE_URL": DATABASE.replace("postgresql", "mysql")},
    "a database with an unknown option": {"FUSERY_DATABASE_URL": f"{DATABASE}&secret_thing={CANARY}"},
    "a database with a password option": {
        "FUSERY_DATABASE_URL": f"postgresql://ann@127.0.0.1:9/x?password={CANARY}&connect_timeout=1"
    },
    "a database that is no URL": {"FUSERY_DATABASE_URL": f"ann:{CANARY}@host"},
    "severities": {"FUSERY_ADMISSION": f'{{"severity": {{"a": "{URL}"}}}}'},
    "a template": {"FUSERY_CARD": URL},
    "a cache": {"FUSERY_CACHE_DIR": f"/dev/null/https://ann:{CANARY}@host"},
    "the other store": {"FUSERY_OTHER_STORE_OPTIONS": OPTIONS[:-1]},
}
"""A secret in the environment, of a command that fails or does not."""

FILES = (
    f'[store_options]\nsecret = "{CANARY}"\n',
    f'store_options = "{CANARY}"\n',
    f'store_options = ["{CANARY}"]\n',
    f'database_url = "{DATABASE}"\n',
    f'store_url = "s3://ann:{CANARY}@bucket/x"\n',
    f'[store_optionz]\nsecret = "{CANARY}"\n',
    f'store_options = {{secret = "{CANARY}"\n',
    f'store_options = {{secret = "{CANARY}"}}\nstore_options = {{secret = "{CANARY}"}}\n',
)
"""A secret in `config.toml`."""

COMMANDS = (["admin", "init"], ["list"], ["doctor"], ["base", "add", "nothing"], ["audit"], ["pull", "course_rec@1"],
            ["materialize", "course_rec@1", "oci://127.0.0.1:9/team/tiny:1"])  # fmt: skip
HOW = ([], ["--debug"], ["--json"], ["--debug", "--json"])


def spelled(words: Sequence[str], how: list[str]) -> list[str]:
    """Return words with `--debug` before them and `--json` behind them."""
    return [*(["--debug"] if "--debug" in how else []), *words, *(["--json"] if "--json" in how else [])]


def kept(folder: Path) -> list[str]:
    """Return which files below a folder have the canary in them, or in their names."""
    return [
        str(path)
        for path in sorted(folder.rglob("*"))
        if CANARY in path.name or path.is_file() and CANARY.encode() in path.read_bytes()
    ]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry for 0.2 seconds only: no server listens at these addresses."""
    from fusery.storage import remote, remote_calls

    monkeypatch.setattr(remote_calls.RemoteCalls.__init__, "__defaults__", (0.2,))
    monkeypatch.setitem(remote.FsspecStore.__init__.__kwdefaults__, "deadline", 0.2)


@pytest.mark.slow
def test_no_argument_is_repeated_with_its_secret(
    stocked: Fusery, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in WORDS:
        monkeypatch.setattr(secrets, "_registered", set())
        for how in HOW[::3]:
            ran = stocked(*spelled(words, how))
            assert ran.code == 2, ran.out + ran.err
            assert told_nothing(ran.out + ran.err + caplog.text), ran.out + ran.err
            misspelled = ran.err.startswith("Usage: ") or '"code": "usage"' in ran.out
            assert ("Traceback" in ran.err) == ("--debug" in how and not misspelled)
    for url in (
        "s3://u:2024/s3cretpw@h/x",
        "https://u:hunter@s3cretpw@h/x",
        "postgresql://u:hunter@s3cretpw@h/x",
    ):
        for words in (("show",), ("base", "add")):  # passwords whose special characters are not escaped
            ran = stocked(*words, url)
            assert (ran.code, "s3cretpw" in ran.out + ran.err) == (2, False)
    assert stocked("show", 'https://x/?token=a"b', "--json").json["error"]["message"]
    assert kept(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(ENVIRONMENTS))
def test_no_variable_of_the_environment_is_repeated(
    case: str,
    stocked: Fusery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in ENVIRONMENTS[case].items():
        monkeypatch.setenv(name, value)
    failed = 0
    for words in COMMANDS:
        for how in HOW[1:3] if words in COMMANDS[:3] else HOW[1:2]:
            ran = stocked(*spelled(words, how))
            failed += ran.code == 2
            assert told_nothing(ran.out + ran.err + caplog.text), ran.out + ran.err
            assert "--debug" in how or "Traceback" not in ran.err
    assert failed
    assert kept(tmp_path) == []


@pytest.mark.slow
def test_nothing_in_the_settings_is_repeated(
    stocked: Fusery, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "home" / "config.toml"
    for text in FILES:
        monkeypatch.setattr(secrets, "_registered", set())
        config.write_text(text)
        for words in COMMANDS[1:4]:
            for how in HOW[1:3]:
                ran = stocked(*spelled(words, how))
                assert told_nothing(ran.out + ran.err + caplog.text), ran.out + ran.err
    assert kept(tmp_path) == [str(config)]


@pytest.mark.slow
def test_notes_are_recorded_without_credentials(stocked: Fusery, tmp_path: Path) -> None:
    said = f"see {URL} and {SIGNED}"
    key = tmp_path / "ann.pem"
    done = [
        stocked("register", "second", "--base", "tiny", "--task", "other", "--note", said, "--dataset", URL, "--tag", f"from={URL}"),
        stocked("edit", "course_rec@1", "--note", said, "--dataset", SIGNED, "--tag", f"where={URL}", "--reason", said),
        stocked("alias", "set", "course_rec@1", "prod", "--reason", said),
        stocked("alias", "remove", "course_rec#prod", "--reason", said),
        stocked("yank", "course_rec@2", "--reason", said),
        stocked("yank", "course_rec@2", "--undo"),
        stocked("alias", "rules", "set", "canary", "--approvals", "1", "--reason", said),
        stocked("deploy", "record", "course_rec@1", f"https://ann:{CANARY}@api.example/v1", "--note", said),
        stocked("admin", "trust", "keygen", key),
        stocked("admin", "trust", "add", "ann", tmp_path / "ann.pub"),
        stocked("show", "course_rec@1", "--json"),
        stocked("log", "--json"),
        stocked("audit"),
    ]  # fmt: skip
    assert told_nothing("".join(ran.out + ran.err for ran in done))
    assert "models.example/team/tiny" in done[-3].out
    assert "models.example/team/tiny" in done[-2].out
    assert done[-1].code == 0, done[-1].out
    assert kept(tmp_path) == []


def test_redaction() -> None:
    error = FuseryError(f"there is nothing at {URL}", hint=f"look at {SIGNED}")
    assert told_nothing(f"{error} {error!r} {error.message} {error.hint}")
    assert "ann:***@models.example/team/tiny" in error.message
    for text in (
        "postgresql://ann@host:5432/fusery",
        "http://127.0.0.1:8000/v1/models/course_rec@2",
        "sftp://ann@host/folder and course_rec@2",
        "https://host/a?page=2",
        "s3://bucket/prefix",
    ):
        assert secrets.redact(text) == text, "nothing in it is secret"
