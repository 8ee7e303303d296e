"""The command line in a fork of a process that has its imports already, for commands that are to be killed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence


def run_silently(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Be `fusery WORDS…` with this environment, as a process of its own that nobody listens to."""
    os.environ.clear()
    os.environ.update(environment)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    from fusery.cli.main import main

    main(list(words))
