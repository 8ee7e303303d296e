"""Pulls that are killed in the middle, to be started by `ready_processes`."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Mapping
from typing import Any

from fusery.registry import Registry


def pull_and_die(
    home: str, source: str, module: str, name: str, turn: int, environment: Mapping[str, str]
) -> None:
    """Pull the task `many`, and end at once where a function of `fusery.registry.exchange` is called that often."""
    os.environ.clear()  # it is that of whoever started the server of forks first
    os.environ.update(environment)
    place = importlib.import_module(f"fusery.registry.exchange.{module}")
    honest, calls = getattr(place, name), []

    def dies(*args: Any, **words: Any) -> Any:
        calls.append(1)
        if len(calls) == turn:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*args, **words)

    setattr(place, name, dies)
    with Registry.open(home) as registry:
        registry.exchange.pull("many", source)
