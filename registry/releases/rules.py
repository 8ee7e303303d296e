"""The rules of an alias as data: what an adapter must fulfil, read from a file or from options."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import parse_json
from fusery.storage.opening import opened

from ..errors import BadInputError

LARGEST = 64 << 10
"""Bytes of a file of rules."""

Licence = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,63}$", strip_whitespace=True, to_lower=True)
]


class Rules(BaseModel):
    """Demands on an adapter; rules that are not set do not apply.

    Attributes:
        admission: `clean`, neither a warning nor an error when it was registered; or `no_errors`.
        fidelity: a recorded fuse of it has at least this verdict.
        val_loss_within: its validation loss exceeds that of the alias's holder by at most this much.
        signed: a key trusted for the alias has signed it.
        licences: the base's licence, and its own if it has one, are among these.
        approvals: at least this many people other than its author have approved.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    admission: Literal["clean", "no_errors"] | None = None
    fidelity: Literal["PASS", "DEGRADED"] | None = None
    val_loss_within: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    signed: bool = False
    licences: Annotated[tuple[Licence, ...], Field(strict=False, min_length=1, max_length=200)] | None = None
    approvals: Annotated[int, Field(ge=1, le=100)] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the rules that are set, as they are recorded."""
        return self.model_dump(mode="json", exclude_defaults=True)


def make_rules(values: Mapping[str, Any], subject: str = "the rules") -> Rules:
    """Return rules from plain values.

    Args:
        values: by name.
        subject: what errors call them.

    Raises:
        BadInputError: there is no such rule, or a value is not acceptable.
    """
    try:
        return Rules.model_validate(dict(values))
    except ValidationError as error:
        raise BadInputError(
            f"{subject} cannot be taken: {_first(error)}", hint="fusery rules set --help"
        ) from error


def read_rules(path: Path) -> tuple[dict[str, Any], bool | None]:
    """Return the values in a file of rules (TOML or JSON, by its name), and whether it marks the alias as guarded.

    Raises:
        BadInputError: it is too large, or holds something else.
        MissingFileError: there is no such file, or it is not a regular one.
        FormatError: it is not strict JSON.
    """
    with opened(path) as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise BadInputError(f"{path.name} is larger than {LARGEST >> 10} KiB", hint="fusery rules set --help")
    values = parse_json(data, path.name) if path.suffix.lower() == ".json" else _toml(data, path.name)
    if not isinstance(values, dict):
        raise FormatError(f"{path.name} is not a JSON object")
    guarded = values.pop("guarded", None)
    if guarded is not None and not isinstance(guarded, bool):
        raise BadInputError(f"{path.name} cannot be taken: guarded: write true or false")
    make_rules(values, path.name)
    return values, guarded


def _toml(data: bytes, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadInputError(f"{name} is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:  # a number of many digits is a plain ValueError
        raise BadInputError(f"{name} is not TOML", hint='write lines such as: admission = "clean"') from error


def _first(error: ValidationError) -> str:
    found = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in found["loc"])[:60] or "value"
    if found["type"] == "extra_forbidden":
        return f"there is no rule {place!r}, only {', '.join(Rules.model_fields)}"
    said = str(found["msg"])
    return f"{place}: {said[:1].lower()}{said[1:]}"
