"""Names and references: `{task}_v{version}_{YYYYMMDD}`, `task@version`, `task@latest`, `task#alias`, a digest prefix."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from .errors import BadInputError

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")
_BASE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,198}[A-Za-z0-9])?")
_NAME = re.compile(r"(?P<task>.+)_v(?P<version>[1-9][0-9]{0,8})_(?P<date>[0-9]{8})")
_HUB_ID = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?/[A-Za-z0-9](?:[\w.-]{0,94}\w)?", re.ASCII)
_VERSION_ALIAS = re.compile(r"v?[0-9]+")
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10))})

MAX_DECLARED_VERSION = 99_999_999
"""The largest version that users or files may declare; automatic numbering may reach ten times as many."""

RefKind = Literal["name", "version", "latest", "alias", "digest"]


def is_hub_id(hub_id: object) -> bool:
    """Tell whether a value is OWNER/NAME as `huggingface_hub` takes it (`validate_repo_id`)."""
    if not isinstance(hub_id, str) or not _HUB_ID.fullmatch(hub_id):
        return False
    return not any(wrong in hub_id for wrong in ("--", "..")) and not hub_id.endswith(".git")


def dataset_name(text: str) -> str:
    """Return a dataset's name; that of a folder is its path without a leading `./` and a trailing `/`."""
    return text.removeprefix("./").rstrip("/") or text


def parse_slug(text: str, what: str) -> str:
    """Return a task, alias or tag name in lower case, NFC: also a folder on every disk and a tag in every OCI registry."""
    folded = unicodedata.normalize("NFC", text).casefold()
    if not _SLUG.fullmatch(folded) or folded.split(".")[0] in _DEVICES or ".." in folded:
        hint = "use letters, digits, '.', '_' and '-', beginning and ending with a letter or digit"
        raise BadInputError(f"{text[:60]!r} is not {an(what)} name", hint=hint)
    return folded


def an(word: str) -> str:
    """Return what a thing is called with its article, by its first letter."""
    return f"{'an' if word[:1].casefold() in set('aeiou') else 'a'} {word}"


def parse_task(text: str) -> str:
    """Return a task name; a task is not itself called like an adapter."""
    task = parse_slug(text, "task")
    if match := _NAME.fullmatch(task):
        problem = f"{text!r} is the name of an adapter, not of a task"
        raise BadInputError(problem, hint=f"--task {match['task']}")
    return task


def parse_alias(text: str) -> str:
    """Return an alias name; `latest` and version numbers are not aliases."""
    alias = parse_slug(text, "alias")
    if alias == "latest" or _VERSION_ALIAS.fullmatch(alias):
        hint = "take a word such as prod or canary"
        raise BadInputError(f"{text!r} is reserved and cannot be an alias", hint=hint)
    return alias


def parse_base_name(text: str) -> str:
    """Return the name of a base model: like a hub id, `Qwen2-0.5B` or `org/name`, case kept."""
    parts = text.split("/")
    if not _BASE.fullmatch(text) or any(part in ("", ".", "..") for part in parts):
        hint = "use letters, digits, '.', '_', '-' and '/'"
        raise BadInputError(f"{text[:60]!r} is not a name for a base model", hint=hint)
    return text


def parse_date(text: str) -> date:
    """Return a date given as `YYYYMMDD` or `YYYY-MM-DD`."""
    compact = text.strip().replace("-", "")
    try:
        if len(compact) != 8 or not compact.isascii():
            raise ValueError
        return datetime.strptime(compact, "%Y%m%d").date()
    except ValueError as error:
        hint = "write it as YYYYMMDD, for example 20260115"
        raise BadInputError(f"{text[:40]!r} is not a date", hint=hint) from error


def compact_date(day: date) -> str:
    """Return a date as `YYYYMMDD`.  Always eight digits: `%Y` of some C libraries leaves out the zeros of early years."""
    return day.isoformat().replace("-", "")


@dataclass(frozen=True, slots=True, order=True)
class AdapterName:
    """The name of an adapter.  The law: `str(AdapterName.parse(s)) == s`."""

    task: str
    version: int
    date: date

    @classmethod
    def parse(cls, text: str) -> AdapterName:
        """Read `{task}_v{version}_{YYYYMMDD}`."""
        match = _NAME.fullmatch(text)
        if not match:
            hint = "for example course_rec_v1_20260115"
            raise BadInputError(f"{text[:60]!r} is not an adapter name", hint=hint)
        return cls(parse_task(match["task"]), int(match["version"]), parse_date(match["date"]))

    def __str__(self) -> str:
        return f"{self.task}_v{self.version}_{compact_date(self.date)}"


@dataclass(frozen=True, slots=True)
class Reference:
    """What a user typed to mean one adapter: `value` is its name, version number, alias or digest prefix."""

    kind: RefKind
    text: str
    task: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference."""
        typed = text.strip()
        if "@" in typed:
            task, _, version = typed.partition("@")
            if version == "latest":
                return cls("latest", typed, parse_task(task), "")
            if re.fullmatch(r"v?[1-9][0-9]{0,8}", version):
                return cls("version", typed, parse_task(task), version.removeprefix("v"))
            hint = f"write {task}@3 or {task}@latest"
            raise BadInputError(f"{typed[:60]!r} has no version after '@'", hint=hint)
        if "#" in typed:
            task, _, alias = typed.partition("#")
            return cls("alias", typed, parse_task(task), parse_alias(alias))
        if _NAME.fullmatch(typed.casefold()):
            return cls("name", typed, "", str(AdapterName.parse(typed.casefold())))
        if re.fullmatch(r"[0-9a-fA-F]{8,64}", typed):
            return cls("digest", typed, "", typed.lower())
        hint = "write a name, TASK@VERSION, TASK@latest, TASK#ALIAS, or 8 or more digits of a digest"
        raise BadInputError(f"{typed[:60]!r} is not a reference to an adapter", hint=hint)
