"""Many rows about one adapter, written into the database directly."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from fusery.registry import Registry, tables


def add_rows(registry: Registry, kind: str, count: int, **values: Any) -> None:
    """Write a number of rows about the first adapter into the database, as if by hand."""
    model: Any = getattr(tables, kind)
    with registry.workspace.database.write() as session:
        adapter = session.get(tables.Adapter, 1)
        assert adapter is not None
        at = adapter.created_at
        moments: dict[str, Callable[[int], Any]] = {
            "Yank": lambda n: {"at": at + timedelta(microseconds=n), "lifted_at": at + timedelta(hours=1)},
            "Amendment": lambda n: {
                "at": at,
                "since": at,
                "before": f'"{n}"' if n else "null",
                "after": f'"{n + 1}"' if n + 1 < count else "null",
            },
            "Evaluation": lambda n: {"at": at, "metric": f"m{n}"},
            "Deployment": lambda n: {"at": at, "ended_at": at, "ended_by": "tester"},
        }
        session.add_all(model(adapter_id=1, by="tester", **moments[kind](n), **values) for n in range(count))
