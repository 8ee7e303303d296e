"""A real MLflow server for tests, run with the interpreter of `PEFT_PYTHON`, which has MLflow whole."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ports import free_port
from waiting import wait_until


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
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "mlflow.server.fastapi_app:app"],
            stdout=log,
            stderr=log,
            env={**os.environ, **settings},
            cwd=folder,
            start_new_session=True,
        )
        try:
            wait_until(
                lambda: server.poll() is not None or _answers(port),
                lambda: (folder / "server.log").read_text(encoding="utf-8"),
            )
            assert server.poll() is None, (folder / "server.log").read_text(encoding="utf-8")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
