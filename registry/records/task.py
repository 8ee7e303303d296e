"""Tasks, and the versions that their aliases hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..record import Record, described
from .withdrawal import Withdrawal


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldVersion(Record):
    """An alias of a task, and the version that it holds."""

    alias: str = described("its name, without that of its task")
    version: int = described("version that it holds")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern that adapter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Record):
    """A task that adapters are for."""

    task: str = described("its name")
    adapter: str = described("name of the version that `@latest` means")
    version: int = described("its number")
    val_loss: float | None = described("its validation loss")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern it")
    created_at: datetime = described("when it was registered")
    created_by: str = described("who registered it")
    aliases: tuple[HeldVersion, ...] = described("those that hold a version")
