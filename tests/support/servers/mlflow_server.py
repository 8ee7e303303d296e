"""A real MLflow server for tests, run with the interpreter of `PEFT_PYTHON`, which has MLflow whole."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from programs import free_port, running_program


@contextmanager
def running_server(python: Path, folder: Path, database: Path) -> Iterator[str]:
    """Run a server that keeps its database and artifacts in `folder`, and gives artifacts out itself; yield its URL."""
    port = free_port()
    shutil.copy(database, folder / "mlflow.db")
    # What `mlflow server` starts in the end: it would import all of MLflow once more, to say just this.
    command = [str(python), "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    settings = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its jobs would be seven more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command.append("mlflow.server.fastapi_app:app")
    log = folder / "server.log"
    with running_program(
        command, log, lambda: _answers(port), environment=settings, folder=folder, how=signal.SIGTERM
    ):
        yield f"http://127.0.0.1:{port}"


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
