from __future__ import annotations

import json
from pathlib import Path

import pytest
from fusery_example.folder import folder_runs

from fusery.testing import samples
from fusery.testing.sources import SourceContract


class TestFolder(SourceContract):
    read = staticmethod(folder_runs)
    nowhere = "nowhere"

    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        for day, name in ((2, "second"), (1, "first")):
            run = tmp_path / "runs" / name
            samples.make_adapter(run / "adapter", seed=day)
            about = {"name": name, "project": "lessons", "started_at": f"2026-01-{day:02}T10:00:00+00:00"}
            (run / "run.json").write_text(json.dumps(about))
        return str(tmp_path / "runs")
