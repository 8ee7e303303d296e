"""The core works without each part: its folder is deleted from a copy of the tree, and everyday commands run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import source_copy
import tiny_models

SESSION = """
import sys

# The finder of an editable installation would find the deleted part in the original tree.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).casefold()]

from fusery.cli.main import run

for line in sys.stdin.read().splitlines():
    print(f"$ {line}", flush=True)
    code = run(line.split())
    if code:
        sys.exit(f"{line}: exit code {code}")
"""

COMMANDS = """
admin init
base add base --name tiny
register v1 --task course_rec --date 2026-01-15
register v2 --task course_rec --date 2026-02-01
list
show course_rec@2
diff course_rec@1 course_rec@2
fuse course_rec@2 --as 16bit
materialize course_rec@2 out --as 16bit
audit
""".strip()

LOST = {
    "integrations": ["deploy sync"],
    "model_server": ["serve"],
    "research": [],
    "web": ["ui", "server"],
}
"""Parts, and the commands that go with each."""

LIST = """
import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).casefold()]

from fusery.cli.documents import documents

print("\\n".join(documents()))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source_copy.copy_sources(tmp_path_factory.mktemp("parts") / "tree")


def fusery(tree: Path, folder: Path, lines: str, program: str = SESSION) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "FUSERY_REGISTRY": str(folder / "home")}
    return subprocess.run(
        [sys.executable, "-P", "-c", program],
        input=lines,
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("part", LOST)
def test_the_core_works_without_a_part(part: str, tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "tree", symlinks=True)
    shutil.rmtree(copy / part)
    (copy / "fusery" / part).unlink()
    whole, lessened = (fusery(each, tmp_path, "", LIST).stdout.splitlines() for each in (tree, copy))
    assert [name for name in whole if name not in lessened] == LOST[part]
    assert len(whole) > 40 and set(lessened) <= set(whole)
    base = tiny_models.make_base(tmp_path / "base")
    for number, name in enumerate(("v1", "v2")):
        tiny_models.make_adapter(tmp_path / name, base, seed=number)
    done = fusery(copy, tmp_path, COMMANDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "fusery.json").is_file()
    if part == "integrations":
        done = fusery(copy, tmp_path, "materialize course_rec@2 other --target vllm")
        assert "unknown target 'vllm'" in done.stderr
        assert "--target model|archive|docker|adapters\n" in done.stderr
        done = fusery(copy, tmp_path, "register mlflow+sqlite:///runs.db")
        assert "part 'integrations'" in done.stderr
    if part == "research":
        done = fusery(copy, tmp_path, "eval probe course_rec@2 --against base")
        assert "part 'research'" in done.stderr
