"""What a run took place in: machine, versions, git commit.  No host or user name, no environment, no remote's address."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PATIENCE = 10.0
_CPU_NAME = "model name"


def machine() -> dict[str, Any]:
    """Return the platform, the processor, how many cores this process may use, and the memory in bytes."""
    return {
        "platform": f"{platform.system()}-{platform.release()}-{platform.machine()}",
        "processor": _processor(),
        "cpus": _cpus(),
        "memory": _memory(),
    }


def versions(packages: Iterable[str] = ("mlx", "mlx-lm")) -> dict[str, str]:
    """Return the versions of Python, of fusery, and of the packages that the result depends on, where they are installed."""
    found = {"python": platform.python_version()}
    for package in (*packages, "fusery"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> tuple[str, bool] | None:
    """Return the commit that a folder is at and whether tracked files differ from it, or may; None outside of a repository.

    No program that the repository's own configuration names is run, and nothing is fetched: it may be somebody else's, unpacked.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    filters = _filters(folder)
    if filters is None:
        return commit.strip(), True
    # What a filter would make of a file is not known then: one that it changes, and whose times differ, counts as changed.
    # The user's own are left out as well: the repository tells git-lfs, for one, what to run.
    without = (
        f"filter.{name}.{field}" for name in filters for field in ("clean=", "process=", "required=false")
    )
    # Within a submodule its own configuration would count.
    status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
    changes = _git(folder, *(word for setting in without for word in ("-c", setting)), *status)
    return commit.strip(), changes is None or bool(changes.strip())


def _filters(folder: Path) -> set[str] | None:
    """Return the filters that git knows in a repository; None if they cannot be told."""
    # The second is in every repository, so that no answer is one, too.
    wanted = r"^(filter\.|core\.repositoryformatversion$)"
    told = _git(folder, "config", "--null", "--name-only", "--get-regexp", wanted)
    if told is None:
        return None
    keys = [key for key in told.split("\0") if key.startswith("filter.")]
    names = {key.removeprefix("filter.").rpartition(".")[0] for key in keys}
    return None if any("=" in name for name in names) else names


def _git(folder: Path, *arguments: str) -> str | None:
    # No lock is taken, no program that the repository's configuration names is run, and no server asked.
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    alone = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **alone},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None


def _processor() -> str:
    """Return the processor's name as its maker writes it."""
    mlx = sys.modules.get("mlx.core")
    if mlx is not None and hasattr(mlx, "device_info"):
        name = mlx.device_info().get("device_name")
        if isinstance(name, str) and name:
            return name
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(_CPU_NAME)]
    return names[0] if names else platform.machine()


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
