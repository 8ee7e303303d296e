"""Importing what Weights & Biases keeps, with W&B's own client; the server is a stand-in (`wandb_server`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import peft_folders
import pytest
from wandb_server import ENTITY, KEY, PROJECT, Artifact, Tracker, WandbRun, running_tracker

from fusery.integrations import wandb_runs as reading
from fusery.registry import Registry
from fusery.registry.errors import BadInputError, MissingExtraError, RegistryError, UnknownReferenceError
from fusery.testing.sources import SourceContract

pytestmark = pytest.mark.timing

SOURCE = f"{ENTITY}/{PROJECT}"
CURVE = [
    {"_step": 1, "train/global_step": 10, "train/loss": 3.0, "train/learning_rate": 1e-4},
    {"_step": 2, "train/global_step": 10, "eval/loss": 3.1},
    {"_step": 3, "train/global_step": 20, "train/loss": 2.5, "train/learning_rate": 5e-5},
    {"_step": 4, "train/global_step": 20, "eval/loss": 2.2},
]
SUMMARY = {
    "_step": 4,
    "_runtime": 90.5,
    "train/global_step": 20,
    "train/loss": 2.5,
    "train/learning_rate": 5e-5,
    "eval/loss": 2.2,
    "mmlu/acc": 0.41,
    "mmlu/name": "abstract algebra",
    "done": True,
}


@pytest.fixture
def database_url() -> str:
    """What a tracker keeps has nothing to do with the database: once is enough."""
    return ""


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Tracker]:
    with running_tracker() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        for name, place in (("CACHE", "cache"), ("CONFIG", "config"), ("DATA", "data")):
            monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb" / place))
        monkeypatch.chdir(tmp_path)
        yield found


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def peft(folder: Path, base: Path, seed: int = 0) -> dict[str, bytes]:
    return files_of(peft_folders.make_peft(folder, base, seed=seed))


def test_a_run_becomes_an_adapter_with_all_that_wandb_knows(
    with_base: Registry, tiny_base: Path, tracker: Tracker, tmp_path: Path
) -> None:
    commit = "c0ffee" * 6 + "c0ff"
    data = Artifact("courses", {"train.jsonl": b"{}"}, kind="dataset", version=3)
    tracker.runs = [
        WandbRun(
            "abc12345",
            config={"lr": 1e-4, "hub_token": "hf_s3cret", "nested": {"api_key": "s3cret", "r": 8}},
            summary=SUMMARY,
            history=CURVE,
            commit=commit,
            files={"output.log": b"step 1", "diff.patch": b"+"},
            logged=[Artifact("adapter", peft(tmp_path / "peft", tiny_base))],
            used=[data],
        )
    ]
    [done] = with_base.exchange.import_runs(SOURCE, "wandb", base="tiny", metrics=["mmlu/*", "done"])
    assert (done.error, done.created, done.path, done.run) == (None, True, "adapter:v0", "abc12345")
    assert (done.adapter, done.metrics) == ("lessons_v1_20260921", ("mmlu.acc",))
    found = with_base.adapters.show("lessons@1")
    assert (found.val_loss, found.dataset, found.dataset_revision) == (2.2, "courses:v3", data.digest)
    assert found.tags == {"wandb.run_id": "abc12345", "wandb.project": PROJECT}
    run = found.training_run
    assert run is not None and run.git is not None
    assert (run.state, run.seconds, run.source) == ("finished", 90.5, "record")
    assert run.arguments == {"lr": 1e-4, "hub_token": "***", "nested": {"api_key": "***", "r": 8}}
    assert (run.git.commit, run.git.dirty) == (commit, True)
    assert [(each.iteration, each.train_loss, each.val_loss) for each in found.curve or ()] == [
        (10, 3.0, 3.1),
        (20, 2.5, 2.2),
    ]
    assert [(each.metric, each.value, each.harness) for each in found.evaluations] == [
        ("mmlu.acc", 0.41, "wandb")
    ]
    assert tracker.keys == {KEY}
    # Nothing is left in the folder that it was called in, nor a second copy of the weights in the client's cache.
    assert not (tmp_path / "artifacts").exists() and not list((tmp_path / "wandb").rglob("obj/md5/*/*"))


def test_files_of_the_run_itself(
    with_base: Registry, tiny_base: Path, tracker: Tracker, tmp_path: Path
) -> None:
    """As `wandb.save("adapter/*")` uploads them."""
    files = {f"adapter/{name}": data for name, data in peft(tmp_path / "peft", tiny_base).items()}
    tracker.runs = [WandbRun("abc", files={**files, "config.yaml": b"wandb_version: 1"})]
    [done] = with_base.exchange.import_runs(SOURCE, "wandb", base="tiny")
    assert (done.path, done.error, done.created) == ("adapter", None, True)
    here = with_base.adapters.register(tmp_path / "peft", base="tiny", task="direct")
    assert with_base.adapters.show(done.adapter or "").digest == with_base.adapters.show(here.name).digest


def test_checkpoints_that_transformers_logs_are_one_run_and_its_best_is_taken(
    with_base: Registry, tiny_base: Path, tracker: Tracker, tmp_path: Path
) -> None:
    """`WANDB_LOG_MODEL=checkpoint`: each is a version of one artifact (transformers' `integration_utils.py`)."""
    history = [
        {"_step": n, "train/global_step": 10 * n, "eval/loss": (3.1, 2.2, 2.4)[n - 1]} for n in (1, 2, 3)
    ]
    tracker.runs = [
        WandbRun(
            "abc",
            summary={"train/global_step": 30, "eval/loss": 2.4},
            history=history,
            logged=[
                Artifact(
                    "checkpoint-abc",
                    peft(tmp_path / str(n), tiny_base, n),
                    version=n,
                    aliases=[f"epoch_{n}.0", f"checkpoint_global_step_{10 * (n + 1)}"],
                )
                for n in range(3)
            ],
        )
    ]
    [done] = with_base.exchange.import_runs(SOURCE, "wandb", base="tiny")
    assert (done.path, done.error) == ("checkpoint-abc", None)
    found = with_base.adapters.show("lessons@1")
    assert found.training_run is not None
    assert (found.training_run.checkpoint, found.training_run.chosen, found.val_loss) == (20, "best", 2.2)


def test_one_that_is_refused_keeps_no_other_out(
    with_base: Registry, tiny_base: Path, tracker: Tracker, tmp_path: Path
) -> None:
    good = Artifact("adapter", peft(tmp_path / "good", tiny_base))
    broken = replace(good, name="broken", files={**good.files, "adapter_model.safetensors": b"\0" * 64})
    outside = replace(good, name="evil", files={"../../evil/adapter_config.json": b"{}"})
    tracker.runs = [
        WandbRun("one", "broken", began="2026-09-19T10:00:00Z", logged=[broken]),
        WandbRun("two", "outside", began="2026-09-20T10:00:00Z", logged=[outside]),
        WandbRun("three", "good", logged=[good]),
        WandbRun("four", "nothing", began="2026-09-22T10:00:00Z", files={"output.log": b"x"}),
        WandbRun("five", "unreadable", began="2026-09-18T10:00:00Z", summary=[1]),  # type: ignore[arg-type]
    ]
    unreadable, bad, evil, done = with_base.exchange.import_runs(SOURCE, "wandb", base="tiny")
    assert (unreadable.run, unreadable.adapter, bool(unreadable.error)) == ("five", None, True)
    assert (bad.run_name, bad.adapter, done.adapter) == ("broken", None, "lessons_v1_20260921")
    assert "adapter_model.safetensors" in (bad.error or "")
    assert (evil.run_name, evil.adapter) == ("outside", None)
    assert not list(tmp_path.rglob("evil"))


def test_what_an_artifact_only_refers_to_is_never_fetched(
    with_base: Registry, tiny_base: Path, tracker: Tracker, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"{}")
    files = peft(tmp_path / "peft", tiny_base)
    weights = {name: data for name, data in files.items() if name.endswith(".safetensors")}
    tracker.runs = [
        WandbRun(
            "abc",
            logged=[
                Artifact("adapter", weights, references={"adapter_config.json": secret.as_uri()}),
                Artifact("removed", files, state="DELETED"),
            ],
        )
    ]
    with pytest.raises(BadInputError):
        with_base.exchange.import_runs(SOURCE, "wandb", base="tiny", dry_run=True)


def environment() -> dict[str, str]:
    """Return the environment without what the client sets when its service starts, once in a process."""
    return {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}


def test_what_is_not_there(with_base: Registry, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong, the key is in no message, and the process is as it was afterwards."""
    before = environment()
    cases: list[tuple[str, dict[str, list[str]], type[RegistryError]]] = [
        ("lessons", {}, BadInputError),
        ("https://wandb.ai/team/lessons", {}, BadInputError),
        (SOURCE, {}, BadInputError),  # no run
        (SOURCE, {"experiments": ["x"]}, BadInputError),  # they are MLflow's
        ("team/elsewhere", {}, UnknownReferenceError),
        (SOURCE, {"runs": ["nope"]}, UnknownReferenceError),
        (SOURCE, {"runs": ["../x"]}, UnknownReferenceError),
    ]
    for source, asked, kind in cases:
        with pytest.raises(kind):
            with_base.exchange.import_runs(source, "wandb", **asked)  # type: ignore[arg-type]
    assert environment() == before
    tracker.error = f"the key {KEY} has no rights"
    for url in (tracker.url, "http://127.0.0.1:9"):
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setattr(reading, "_SECONDS", 2)
        with pytest.raises(BadInputError) as refused:
            with_base.exchange.import_runs(SOURCE, "wandb")
        assert KEY not in f"{refused.value.message}{refused.value.hint}"
    assert KEY not in repr(refused.value.__context__)  # where the server has not said it itself


def test_without_the_extra(with_base: Registry, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError):
        with_base.exchange.import_runs(SOURCE, "wandb")


def test_nobody_is_asked_for_a_key_on_the_terminal(
    with_base: Registry, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(BadInputError):
        with_base.exchange.import_runs(SOURCE, "wandb")
    assert tracker.asked == []
    (tmp_path / "netrc").write_text(
        f"machine {tracker.url.rpartition('/')[2]} login user password {KEY}\n", encoding="utf-8"
    )
    (tmp_path / "netrc").chmod(0o600)
    with pytest.raises(BadInputError):
        with_base.exchange.import_runs(SOURCE, "wandb")
    assert tracker.keys == {KEY}


def test_a_reference_under_another_spelling_is_never_fetched(
    with_base: Registry, tiny_base: Path, tracker: Tracker, tmp_path: Path
) -> None:
    """The client takes `./NAME` for NAME, which refers to a file of whoever imports."""
    files = peft(tmp_path / "peft", tiny_base)
    private = tmp_path / "private.safetensors"
    private.write_bytes(files["adapter_model.safetensors"])
    config = {"adapter_config.json": files["adapter_config.json"]}
    listed = {"./adapter_model.safetensors": {"digest": "x", "size": private.stat().st_size}}
    weights = {"adapter_model.safetensors": private.as_uri()}
    tracker.runs = [WandbRun("abc", logged=[Artifact("adapter", config, references=weights, listed=listed)])]
    [done] = with_base.exchange.import_runs(SOURCE, "wandb", base="tiny")
    assert (done.adapter, "outside its folder" in (done.error or "")) == (None, True)
    assert with_base.adapters.list() == []


@pytest.mark.parametrize(
    "listed", [{"size": 1}, {"digest": "1B2M2Y8AsgTpgAmY7PhCfg=="}], ids=["size", "digest"]
)
def test_what_is_not_the_file_that_was_listed_is_refused(
    with_base: Registry, tiny_base: Path, tracker: Tracker, tmp_path: Path, listed: dict[str, object]
) -> None:
    files = peft(tmp_path / "peft", tiny_base)
    other = Artifact("adapter", files, listed={"adapter_config.json": listed})
    fetch = tracker.data
    # Whatever it is asked for under that digest, the server gives the configuration.
    tracker.data = lambda path: fetch(path) or files["adapter_config.json"]  # type: ignore[method-assign]
    tracker.runs = [WandbRun("abc", logged=[other])]
    [done] = with_base.exchange.import_runs(SOURCE, "wandb", base="tiny")
    assert done.adapter is None
    assert "is not the file that it lists" in (done.error or "")


def test_odd_parameters_keep_nothing_out(
    with_base: Registry, tiny_base: Path, tracker: Tracker, tmp_path: Path
) -> None:
    deep: dict[str, object] = {}
    inner = deep
    for _ in range(300):
        inner["a"] = inner = {}
    odd = {
        "deep": deep,
        "nul": "a\0b",
        "huge": 10**400,
        "long": "x" * 100_000,
        "argv": ["--hub_token", "S9", "--r", "8"],
    }
    run = WandbRun("abc", config={**odd, "lr": 1e-4}, began="2026-09-20T23:00:00-05:00")
    run.logged = [Artifact("adapter", peft(tmp_path / "peft", tiny_base))]
    tracker.runs = [run]
    [done] = with_base.exchange.import_runs(SOURCE, "wandb", base="tiny")
    assert (done.error, done.adapter) == (None, "lessons_v1_20260921"), "by the day in UTC"
    kept = with_base.adapters.show(done.adapter or "").training_run
    assert kept is not None and kept.arguments is not None
    assert (kept.arguments["lr"], kept.arguments["argv"]) == (1e-4, ["--hub_token", "***", "--r", "8"])
    assert [kept.arguments[name] for name in ("nul", "huge", "long")] == [None] * 3


def test_lists_without_an_end(with_base: Registry, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MOST", 5)
    gone = [Artifact(f"gone{n}", {"x": b"x"}, state="DELETED") for n in range(9)]
    tracker.runs = [
        WandbRun("one", files={f"{n}.txt": b"x" for n in range(9)}),
        WandbRun("two", logged=gone),
        WandbRun("three", used=gone),
    ]
    for run, what in (("one", "files"), ("two", "artifacts"), ("three", "used artifacts")):
        [done] = with_base.exchange.import_runs(SOURCE, "wandb", runs=[run])
        assert done.error == f"run {run} has over 5 {what}"


class TestWandb(SourceContract):
    read = staticmethod(reading.wandb_runs)
    nowhere = "nobody/nothing"

    @pytest.fixture(autouse=True)
    def place(self, tracker: Tracker, tiny_base: Path, tmp_path: Path) -> str:
        tracker.runs = [
            WandbRun(number, logged=[Artifact(f"adapter{seed}", peft(tmp_path / number, tiny_base, seed))])
            for seed, number in enumerate(("abc12345", "def67890"))
        ]
        return SOURCE
