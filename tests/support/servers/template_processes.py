"""The processes in which a server or a command renders chat templates, as the system shows them."""

from __future__ import annotations

import psutil


def template_processes(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """Return those that run under a process; without one, under the test's own.

    Its other children may end at any time, and one that ended and was not waited for has no command line.
    """
    found = []
    for child in (parent or psutil.Process()).children():
        try:
            if "program.py" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:  # also of one that has ended and was not waited for
            continue
    return found


def renders(parent: psutil.Process) -> bool:
    """Tell whether a template takes long there now."""
    return any(child.cpu_times().user > 0.5 for child in template_processes(parent))
