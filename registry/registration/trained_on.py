"""The base that an adapter was trained on, where it is registered for another: usually the dense model and its 4-bit version.

The user declares it; both bases must have one architecture and the same shapes (decision 30).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from fusery.storage.shell import typed

from .. import tables
from ..adapters.files import CONFIG, METADATA
from ..adapters.folder import AdapterFolder
from ..admission.candidate import tail
from ..admission.submission import TrainedOn
from ..errors import AmbiguousReferenceError, BadInputError
from ..models.architecture import Architecture
from ..records.bases import recorded_architecture
from ..records.references import resolve_base

_SHOWN = 8
"""Bases that a hint names."""


def known_as(base: tables.BaseModel) -> frozenset[str]:
    """Return every name, hub id and folder that a base is known by."""
    names = {name.name for name in base.names}
    names |= {revision.source.partition(":")[2] for revision in base.revisions}
    declared = base.config.get("_name_or_path")
    return frozenset(names | ({declared} if isinstance(declared, str) else set())) - {""}


def trained_on(session: Session, base: tables.BaseModel, said: str | TrainedOn | None) -> TrainedOn | None:
    """Return the other base that an adapter was trained on; None if none was declared, or it is the one it is registered for.

    Args:
        session: of any transaction.
        base: that it is registered for.
        said: a name or digest in this registry, or what was declared where the adapter comes from.

    Raises:
        UnknownReferenceError: there is no such base.
        BadInputError: the two are not of one architecture, or have other shapes.
    """
    if said is None:
        return None
    other = resolve_base(session, said) if isinstance(said, str) else with_digest(session, said.digest)
    if other is not None and other.id != base.id:
        _require_alike(base, other)
    if isinstance(said, TrainedOn):
        return said if said.digest != base.digest else None
    assert other is not None
    return TrainedOn(other.name, other.digest, known_as(other)) if other.id != base.id else None


def with_digest(session: Session, digest: str | None) -> tables.BaseModel | None:
    """Return the base with these files, None where there is none."""
    if digest is None:
        return None
    return session.scalar(select(tables.BaseModel).where(tables.BaseModel.digest == digest))


def named_by_files(session: Session, folder: AdapterFolder) -> tables.BaseModel:
    """Return the base that an adapter's own files name, if this registry knows exactly one such.

    Raises:
        BadInputError: they name none that is here.
        AmbiguousReferenceError: several are called so.
    """
    for remark in folder.remarks:
        if remark.code == "peft_method":  # no base helps
            raise BadInputError(remark.message, hint=remark.hint)
    file, name = CONFIG, folder.config.model
    if not name:
        file, name = METADATA, folder.metadata.base_model
    if not name and folder.problems:
        problem = folder.problems[0]
        raise BadInputError(
            f"it is not known which base {folder.path.name or folder.path} is on: {problem.message}",
            hint=f"fusery check {typed(folder.path)} --base NAME  lists all that is wrong with it",
        )
    bases = session.scalars(select(tables.BaseModel).options(defer(tables.BaseModel.weights)))
    known = [(base, known_as(base)) for base in bases]
    if not name:
        raise BadInputError(
            "neither --base nor the adapter's files say which base model it is on", hint=_among(known)
        )
    same = [base for base, names in known if name.casefold() in {each.casefold() for each in names}]
    end = tail(name)
    found = same or [base for base, names in known if end and end in {tail(each) for each in names}]
    if len(found) == 1:
        return found[0]
    if found:
        called = [base.name for base in found]
        raise AmbiguousReferenceError(
            f"{file} names the base {name[:200]!r}, and {len(found)} bases here are called so: {', '.join(called)}",
            hint=f"give --base {called[0]} or another of them",
        )
    raise BadInputError(
        f"{file} names the base {name[:200]!r}, which is not in this registry", hint=_among(known)
    )


def _among(known: Sequence[tuple[tables.BaseModel, frozenset[str]]]) -> str:
    if not known:
        return "fusery base add SOURCE"
    names = ", ".join(base.name for base, _ in known[:_SHOWN])
    return f"give --base NAME; there are: {names}{', ...' if len(known) > _SHOWN else ''}"


def _require_alike(base: tables.BaseModel, other: tables.BaseModel) -> None:
    name, trained = base.name, other.name
    if (found := _difference(recorded_architecture(base), recorded_architecture(other))) is not None:
        what, here, there = found
        raise BadInputError(
            f"what was trained on {trained} cannot stand on {name}: {what} {there} in {trained} and {here} in {name}",
            hint="--trained-on is the same model at another precision; fusery base show NAME",
        )


def _difference(base: Architecture, other: Architecture) -> tuple[str, object, object] | None:
    """Return in what two bases differ, and what it is in each; None where one can stand for the other."""
    if base.model_type != other.model_type:
        return "the architecture is", base.model_type, other.model_type
    layers, others = base.layers(), other.layers()
    if len(layers) != len(others):
        return "the number of layers is", len(layers), len(others)
    for index in sorted(layers.keys() | others.keys()):
        here, there = layers.get(index, {}).keys(), others.get(index, {}).keys()
        if strange := sorted(here ^ there):
            states = ("not there", "there")
            return (
                f"{strange[0]} of layer {index} is",
                states[strange[0] in here],
                states[strange[0] in there],
            )
    # What only one has outside of its layers (a vision tower, say) is no matter of an adapter that fits.
    for module in sorted(base.weights.keys() & other.weights.keys()):
        here_shape, there_shape = base.weights[module].shape, other.weights[module].shape
        if here_shape != there_shape:
            return f"the shape of {module} is", _sides(here_shape), _sides(there_shape)
    return None


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
