"""Which entries of the log a webhook gets: patterns of actions, and of the tasks that an entry is about."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from ..database.actions import ACTIONS
from ..errors import BadInputError
from ..names import AdapterName

_ACTION = re.compile(r"[a-z._*?]{1,50}")
_TASK = re.compile(r"[a-z0-9._*?-]{1,128}")
_MOST = 50

_NAMING = ("adapter", "adapters", "name", "with")
"""Keys of details that name adapters, alone, in a list, or each with its weight."""


def parse_actions(patterns: Sequence[str]) -> list[str]:
    """Return patterns of actions in their one form.

    Raises:
        BadInputError: there are none or too many, or nothing that the log says is like one of them.
    """
    folded = sorted({pattern.strip().casefold() for pattern in patterns})
    if not folded or len(folded) > _MOST:
        raise BadInputError(
            "a webhook is for 1 to 50 actions or patterns of them", hint="--on alias.moved, or --on 'alias.*'"
        )
    for pattern in folded:
        if not _ACTION.fullmatch(pattern) or not actions_of([pattern]):
            close = get_close_matches(pattern, ACTIONS, n=1)
            raise BadInputError(
                f"nothing that the log says is {pattern[:60]!r}",
                hint=f"did you mean {close[0]}?" if close else "--on alias.moved, or --on 'alias.*'",
            )
    return folded


def parse_tasks(patterns: Sequence[str]) -> list[str]:
    """Return patterns of tasks in their one form; none for everything.

    Raises:
        BadInputError: one is none, or there are too many.
    """
    folded = sorted({pattern.strip().casefold() for pattern in patterns})
    wrong = next((pattern for pattern in folded if not _TASK.fullmatch(pattern)), None)
    if wrong is not None or len(folded) > _MOST:
        raise BadInputError(
            f"{(wrong or '')[:60]!r} is no pattern of tasks, or there are more than {_MOST}",
            hint="--task course_rec, or --task 'course_*'",
        )
    return folded


def actions_of(patterns: Sequence[str]) -> list[str]:
    """Return the actions that patterns mean."""
    return [action for action in ACTIONS if any(fnmatchcase(action, pattern) for pattern in patterns)]


def is_one_of(tasks: Iterable[str], patterns: Sequence[str]) -> bool:
    """Tell whether one of an entry's tasks is like one of some patterns."""
    return any(fnmatchcase(task, pattern) for task in tasks for pattern in patterns)


def tasks_of(kind: str, subject: str, detail: str) -> frozenset[str]:
    """Return the tasks that an entry is about: those of its alias, and of the adapters that it names.

    Rules of an alias of every task (`*#prod`) are about none.
    """
    if kind == "alias":
        task = subject.rpartition("#")[0]
        return frozenset() if task in ("", "*") else frozenset({task})
    try:
        said = json.loads(detail)
    except (ValueError, RecursionError):  # edited by other means, which the audit names
        said = {}
    found = (_task(name) for name in (subject, *_named(said)))
    return frozenset(task for task in found if task is not None)


def patterns_of(stored: Any) -> list[str]:
    """Return patterns as the database has them, without what is none: it may have been edited by other means."""
    return [each for each in stored if isinstance(each, str)] if isinstance(stored, list) else []


def _named(said: Any) -> Iterator[str]:
    if isinstance(said, Mapping):
        for key in _NAMING:
            yield from _texts(said.get(key))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | Mapping):
        yield from (each for each in value if isinstance(each, str))


def _task(name: str) -> str | None:
    try:
        return AdapterName.parse(name).task
    except BadInputError:
        return None
