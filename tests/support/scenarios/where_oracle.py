"""What an expression means, said once more in Python: random trees, random adapters, and whether one fits the other."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from hypothesis import strategies as st
from sqlalchemy.orm import Session

from fusery.registry import tables
from fusery.registry.catalog.where import WORDS
from fusery.registry.catalog.where_fields import FIELDS, Value, field_named

WHEN = datetime(2026, 1, 15, 12, tzinfo=UTC)
DAYS = [date(2026, 1, 14), date(2026, 1, 15), date(2026, 1, 16)]
MOMENTS = [WHEN, datetime(2026, 1, 14, 23, 59, 59, 999999, tzinfo=UTC), datetime(2026, 1, 15, tzinfo=UTC)]
TEXTS = ["alpha", "Alpha", "ALPHA_1", "a%b", "a_b", "a\\b", "ärger", "Ärger", "it's", "", "be*ta"]
PATTERNS = ["alpha", "A", "*", "?lpha", "a%", "a_b", "\\", "Är*", "*1", "'", "a?b", "[a]*", ""]
NUMBERS = [0.0, 0.5, 1.0, 1.5, 8.0, -1.0, 1e-7, 1e300]
WHOLES = [1, 2, 4, 8, 16]
BIG = [1, 1_000_000, 5_000_000, 2**40]
TAGS = ["team", "lang-x", "a.b"]
METRICS = ["acc", "mmlu:law.acc", "maj@8"]


@dataclass(frozen=True)
class Test:
    """A field compared with a value."""

    __test__ = False  # pytest takes what is called so for a class of tests
    field: str
    op: str
    value: Value


@dataclass(frozen=True)
class In:
    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class IsNull:
    field: str


@dataclass(frozen=True)
class Not:
    operand: Node


@dataclass(frozen=True)
class And:
    operands: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    operands: tuple[Node, ...]


Node = Test | In | IsNull | Not | And | Or


@dataclass
class Facts:
    values: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def of(self, name: str) -> list[Any]:
        if name.startswith("metric."):
            return self.metrics.get(name.removeprefix("metric."), [])[-1:]
        value = self.tags.get(name.removeprefix("tag.")) if name.startswith("tag.") else self.values[name]
        if isinstance(value, frozenset):
            return sorted(value)
        return [] if value is None else [value]


def maybe(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.sampled_from(values)


_NUMBER, _WHOLE, _BIG = maybe(NUMBERS), maybe(WHOLES), st.sampled_from(BIG)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "task": st.sampled_from(["course_rec", "summary"]),
    "date": st.sampled_from(DAYS),
    "base": st.sampled_from([frozenset({"tiny", "Tiny-Alias"}), frozenset({"other"})]),
    "digest": st.sampled_from(["ab" * 32, "cd" * 32]),
    "method": st.sampled_from(["lora", "dora", "full"]),
    "layers": st.sampled_from(WHOLES),
    **dict.fromkeys(("trained_on", "dataset", "note"), maybe(TEXTS)),
    **dict.fromkeys(("alpha", "scale", "val_loss"), _NUMBER),
    **dict.fromkeys(("rank", "iterations"), _WHOLE),
    **dict.fromkeys(("trainable_parameters", "total_parameters", "bytes"), _BIG),
    "examples": maybe(BIG),
    "alias": st.frozensets(st.sampled_from(["prod", "canary", "old_one"]), max_size=2),
    "finding": st.frozensets(st.sampled_from(["no-effect", "alpha-given"]), max_size=2),
    "yanked": st.booleans(),
    "created_at": st.sampled_from(MOMENTS),
    "created_by": st.sampled_from(TEXTS),
}
_TAGS = st.dictionaries(st.sampled_from(TAGS), st.sampled_from(TEXTS), max_size=2)
_MEASURED = st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=3)
_METRICS = st.dictionaries(st.sampled_from(METRICS), _MEASURED, max_size=2)


def facts() -> st.SearchStrategy[Facts]:
    return st.builds(Facts, st.fixed_dictionaries(_VALUES), _TAGS, _METRICS)


def fill(session: Session, found: list[Facts]) -> None:
    _keep_last_alias(found)
    tasks = {name: tables.TaskRow(name=name) for name in ("course_rec", "summary")}
    session.add_all(tasks.values())
    bases: dict[frozenset[str], tables.BaseModelRow] = {}
    datasets: dict[str, tables.DatasetRow] = {}
    before: tables.AdapterRow | None = None
    for number, one in enumerate(found):
        values = one.values
        task = tasks[values["task"]]
        one.values["version"] = number + 1
        one.values["name"] = f"{values['task']}_v{number + 1}"
        parent = before if number % 2 else None
        one.values["parent"] = parent.name if parent else None
        base = bases.get(values["base"]) or _base(session, values["base"])
        bases[values["base"]] = base
        text = values.setdefault("own dataset", values["dataset"])  # several databases are filled with these
        if text is not None and text not in datasets:
            datasets[text] = tables.DatasetRow(name=text, revision="", digest="")
        plain = (
            "version", "date", "name", "digest", "method", "rank", "alpha", "scale", "layers", "created_at",
            "trainable_parameters", "total_parameters", "val_loss", "iterations", "examples", "note", "created_by",
        )  # fmt: skip
        adapter = tables.AdapterRow(
            task=task,
            base=base,
            manifest=tables.ManifestRow(digest=f"{number:064x}", size=values["bytes"], files=[]),
            target_modules=[],
            training={},
            dataset=datasets.get(text),
            parent=parent,
            tags=[tables.AdapterTagRow(key=key, value=value) for key, value in one.tags.items()],
            findings=[
                tables.AdapterFindingRow(code=code, severity="info", subject="", message="", hint="")
                for code in sorted(values["finding"])
            ],
            evaluations=[
                tables.EvaluationRow(metric=name, value=value, seed=seed, at=WHEN, by="")
                for name, measured in one.metrics.items()
                for seed, value in enumerate(measured)
            ],
            trained_on_name=values["trained_on"],
            **{name: values[name] for name in plain},
        )
        session.add(adapter)
        session.flush()
        datasets_of = frozenset() if text is None else frozenset({text})
        if before is not None and number % 3:
            session.add(tables.AdapterSourceRow(adapter_id=adapter.id, position=0, source_id=before.id))
            datasets_of |= found[number - 1].values["dataset"]
        one.values["dataset"] = datasets_of
        before = adapter
        for alias in values["alias"]:
            session.add(tables.AliasRow(task_id=task.id, name=alias, adapter_id=adapter.id))
        # A lifted yank is none; the last one counts.
        session.add(
            tables.YankRow(adapter_id=adapter.id, reason="", at=WHEN, by="", lifted_at=WHEN, lifted_by="")
        )
        if values["yanked"]:
            session.add(tables.YankRow(adapter_id=adapter.id, reason="", at=WHEN, by=""))
        session.flush()


def _keep_last_alias(found: list[Facts]) -> None:
    """An alias of a task points to one adapter: the last that claimed it."""
    taken: set[tuple[str, str]] = set()
    for one in reversed(found):
        mine = {alias for alias in one.values["alias"] if (one.values["task"], alias) not in taken}
        one.values["alias"] = frozenset(mine)
        taken |= {(one.values["task"], alias) for alias in mine}


def _base(session: Session, names: frozenset[str]) -> tables.BaseModelRow:
    ordered = sorted(names)
    base = tables.BaseModelRow(
        digest=ordered[0].encode().hex().ljust(64, "0"),
        manifest=tables.ManifestRow(digest=ordered[0].encode().hex().ljust(64, "1"), size=1, files=[]),
        architecture="A", model_type="a", parameters=1, dtype="BF16", bytes=1, config={}, weights={},
        written_by_mlx=False, created_at=WHEN, created_by="",
        names=[tables.BaseNameRow(name=name, folded=name.casefold(), created_at=WHEN) for name in ordered],
    )  # fmt: skip
    session.add(base)
    return base


def holds(node: Node, one: Facts) -> bool:
    match node:
        case And(operands):
            return all(holds(operand, one) for operand in operands)
        case Or(operands):
            return any(holds(operand, one) for operand in operands)
        case Not(operand):
            return not holds(operand, one)
        case IsNull(name):
            return not one.of(name)
        case In(name, values):
            return any(_fits(found, "=", value) for found in one.of(name) for value in values)
        case Test(name, op, value):
            return any(_fits(found, op, value) for found in one.of(name))


_COMPARED = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def _fits(found: Any, op: str, value: Any) -> bool:
    if op == "~":
        return _like(str(found), str(value))
    if isinstance(found, datetime) and not isinstance(value, datetime):
        found = found.date()
    return bool(_COMPARED[op](found, value))


def _like(text: str, pattern: str) -> bool:
    text, pattern = _small(text), _small(pattern)
    if "*" not in pattern and "?" not in pattern:
        return pattern in text
    parts = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    return re.fullmatch(parts, text, re.DOTALL) is not None


def _small(text: str) -> str:
    return "".join(char.lower() if char.isascii() else char for char in text)


def tests() -> st.SearchStrategy[Node]:
    names = [*FIELDS, *(f"tag.{key}" for key in (*TAGS, "nothing"))]
    names += [f"metric.{name}" for name in (*METRICS, "nothing")]
    return st.sampled_from(names).flatmap(_test_of)


def _test_of(name: str) -> st.SearchStrategy[Node]:
    known = field_named(name)
    assert known is not None
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "text": st.sampled_from([*TEXTS, "prod", "tiny", "other", "no-effect", "summary_v2", "ab" * 32]),
        "choice": st.sampled_from(known.choices or ("lora",)),
        "whole": st.sampled_from([*WHOLES, *BIG, 7.5, -3, 2**63 - 1]),
        "real": st.sampled_from([*NUMBERS, 3.25]),
        "size": st.sampled_from(BIG),
        "day": st.sampled_from([*DAYS, date.min, date.max]),
        "moment": st.sampled_from([*MOMENTS, *DAYS, date.max]),
        "flag": st.booleans(),
    }
    values = kinds[known.kind]
    options: list[st.SearchStrategy[Node]] = [
        st.builds(In, st.just(name), st.lists(values, min_size=1, max_size=3).map(tuple)),
        st.just(IsNull(name)),
    ]
    for op in sorted(known.operators):
        operand = st.sampled_from(PATTERNS) if op == "~" else values
        options.append(st.builds(Test, st.just(name), st.just(op), operand))
    return st.one_of(options)


def trees() -> st.SearchStrategy[Node]:
    def grown(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        several = st.lists(children, min_size=2, max_size=4).map(tuple)
        return st.builds(Not, children) | st.builds(And, several) | st.builds(Or, several)

    return st.recursive(tests(), grown, max_leaves=12)


_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.-][A-Za-z0-9_]+)*")


def written(node: Node) -> str:
    match node:
        case Test(field, op, value):
            return f"{field} {op} {literal(value)}"
        case In(field, values):
            return f"{field} in ({', '.join(map(literal, values))})"
        case IsNull(field):
            return f"{field} is null"
        case Not(operand):
            return f"not {_within(operand, (And, Or))}"
        case And(operands):
            return " and ".join(_within(operand, (And, Or)) for operand in operands)
        case Or(operands):
            return " or ".join(_within(operand, (Or,)) for operand in operands)


def _within(node: Node, loose: tuple[type, ...]) -> str:
    return f"({written(node)})" if isinstance(node, loose) else written(node)


def literal(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float):
        return repr(value)
    if _BARE.fullmatch(value) and value.lower() not in WORDS:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
