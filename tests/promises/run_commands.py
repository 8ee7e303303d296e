"""The process in which commands are run one after the other: their imports take longer than they do.

    python run_commands.py PLAN.json RESULTS.json

A plan is an array of objects with `root`, `umask`, `environment` and `commands`, of who asks and the words by name.  Of each command
the results have its exit code, what it said, what the audit hook noted, and the mode of every file and folder that it made.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Return the mode and the time of change of everything below a folder, by its path from there."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            stat = path.lstat()
            found[str(path.relative_to(root))] = (stat.st_mode, 0 if path.is_dir() else stat.st_mtime_ns)
    return found


def carry_out(plan: dict[str, Any], log: Path) -> dict[str, Any]:
    from fusery.cli.main import run

    root, results = Path(plan["root"]), {}
    os.environ.update(plan["environment"])
    os.umask(plan["umask"])
    os.chdir(root / "work")
    for name, (user, words) in plan["commands"].items():
        os.environ["FUSERY_USER"] = user
        began = time.process_time()
        before, start = tree(root), log.stat().st_size
        out, err = (
            os.open(root.parent / f"{root.name}.{what}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for what in ("out", "err")
        )
        os.dup2(out, 1)
        os.dup2(err, 2)
        code = run(words)
        sys.stdout.flush()
        sys.stderr.flush()
        os.close(out)
        os.close(err)
        after = tree(root)
        with log.open(encoding="utf-8") as file:
            file.seek(start)
            noted = [json.loads(line) for line in file]
        results[name] = {
            "code": code,
            "seconds": time.process_time() - began,
            "err": (root.parent / f"{root.name}.err").read_text(),
            "noted": noted,
            "made": {path: mode for path, (mode, _) in after.items() if path not in before},
            "changed": sorted(path for path in before.keys() & after.keys() if before[path] != after[path]),
            "gone": sorted(before.keys() - after.keys()),
        }
    return results


def main() -> None:
    plans = json.loads(Path(sys.argv[1]).read_text())
    log = Path(os.environ["WATCHED_LOG"])
    done = [carry_out(plan, log) for plan in plans]
    Path(sys.argv[2]).write_text(json.dumps(done))


if __name__ == "__main__":
    main()
