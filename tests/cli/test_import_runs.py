"""`fusery import --from`: what it prints of the runs of MLflow, and how it ends."""

from __future__ import annotations

from pathlib import Path

import peft_folders
import pytest
from fixture_types import Fusery
from mlflow import MlflowClient

from .conftest import require_refusals

# MLflow's own tables ask SQLAlchemy for what that will leave out one day.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")]


@pytest.fixture
def runs(tracking: str, tiny_base: Path, tmp_path: Path) -> str:
    client = MlflowClient(tracking_uri=tracking)
    number = client.create_experiment("lessons", artifact_location=(tmp_path / "artifacts").as_uri())
    for seed, name in enumerate(("first", "second")):
        run = client.create_run(number, run_name=name, start_time=1_790_000_000_000 + seed).info.run_id
        folder = peft_folders.make_peft(tmp_path / "runs" / name, tiny_base, seed=seed)
        if name == "second":
            (folder / "adapter_model.safetensors").write_bytes(b"\0" * 64)
        client.log_metric(run, "mmlu", 0.5, step=1)
        client.log_artifacts(run, str(folder), "adapter")
        client.set_terminated(run, end_time=1_790_000_060_000)
    return tracking


def test_what_is_taken_and_what_is_refused(stocked: Fusery, runs: str) -> None:
    looked = stocked("import", "--from", "mlflow", runs, "--dry-run")
    assert (looked.code, looked.out.count("there")) == (0, 2)
    ran = stocked("import", "--from", "mlflow", runs, "--base", "tiny", "--metric", "mm*")
    assert ran.code == 1
    assert "lessons_v1_20260921" in ran.out
    assert "second: adapter was refused: not_safetensors: " in ran.out
    again = stocked("import", "--from", "mlflow", runs, "--base", "tiny", "--json")
    assert again.code == 1
    first, second = again.json
    assert (first["adapter"], first["created"], first["error"]) == ("lessons_v1_20260921", False, None)
    assert (second["adapter"], second["created"]) == (None, False)
    assert stocked("eval", "list", "lessons@1", "-q").out == "mmlu\n"
    assert stocked("import", "--from", "mlflow", runs, "--base", "tiny", "-q").out == "lessons_v1_20260921\n"
    assert stocked("audit").code == 0


def test_options_of_the_other_kind(stocked: Fusery) -> None:
    require_refusals(
        stocked,
        ("import . --metric mmlu", "--from"),
        ("import --from mlflow sqlite:///none.db", "MLFLOW_TRACKING_URI"),
    )
