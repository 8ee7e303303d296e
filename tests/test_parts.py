"""The core works without each part: its folder is deleted from a copy of the tree, and everyday commands run there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import source_copy
import tiny_models

from fusery.cli.documents import documents

SESSION = """
import contextlib, io, json, sys

# The finder of an editable installation would find the deleted part in the original tree.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).casefold()]

from fusery.cli.documents import documents
from fusery.cli.main import run

ran = []
for line in json.load(sys.stdin):
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = run(line.split())
    ran.append([line, code, err.getvalue()])
print(json.dumps([list(documents()), ran]))
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

REFUSED = {
    "integrations": {
        "materialize course_rec@2 other --target vllm": "--target model|archive|docker|adapters\n",
        "register mlflow+sqlite:///runs.db": "part 'integrations'",
    },
    "research": {"eval probe course_rec@2 --against base": "part 'research'"},
}
"""Commands that need a part, and what they say without it."""


@pytest.mark.parametrize("part", LOST)
def test_the_core_works_without_a_part(part: str, tmp_path: Path) -> None:
    tree = source_copy.copy_sources(tmp_path / "tree", compiled=True)
    shutil.rmtree(tree / part)
    (tree / "fusery" / part).unlink()
    base = tiny_models.make_base(tmp_path / "base")
    for number, name in enumerate(("v1", "v2")):
        tiny_models.make_adapter(tmp_path / name, base, seed=number)
    refused = REFUSED.get(part, {})
    done = subprocess.run(
        [sys.executable, "-P", "-c", SESSION],
        input=json.dumps([*COMMANDS.splitlines(), *refused]),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tree), "FUSERY_REGISTRY": str(tmp_path / "home")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lessened, ran = json.loads(done.stdout)
    whole = list(documents())
    assert [name for name in whole if name not in lessened] == LOST[part]
    assert len(whole) > 40 and set(lessened) <= set(whole)
    for line, code, err in ran:
        assert (code, refused.get(line, "") in err) == (2 if line in refused else 0, True), (line, err)
    assert (tmp_path / "out" / "fusery.json").is_file()
