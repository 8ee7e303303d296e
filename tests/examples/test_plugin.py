"""The example of a plugin, installed as a wheel, passes the contract suites that it shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_packages import EXAMPLE, install_example


@pytest.mark.timing
def test_its_own_tests_pass_with_its_wheel(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(install_example(tmp_path))}
    words = "-q -p no:cacheprovider -p no:schemathesis -p no:xdist -W error tests"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *words.split()],
        cwd=tmp_path / "source",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


def test_it_has_a_plugin_of_every_kind() -> None:
    import tomllib

    from fusery.storage.plugins import GROUPS

    with (EXAMPLE / "pyproject.toml").open("rb") as file:
        groups = tomllib.load(file)["project"]["entry-points"]
    assert set(groups) == set(GROUPS)
