"""Recipes that are taken as they are: by the key of what was made by one, or from a file that holds one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from sqlalchemy import select

from fusery.storage.jsonfile import read_object

from .. import tables
from ..engine.recipe import OWN, Recipe
from ..errors import AmbiguousReferenceError, BadInputError, UnknownReferenceError
from ..records.references import begins_with, digest_prefix

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

_HINT = "a key of `fusery show REF --json`, what `fusery fuse REF --json` printed, or a bundle's fusery.json"

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=1, le=1024)]
_Width = Annotated[int, Field(ge=OWN, le=1024)]
_Path = Annotated[str, Field(max_length=512)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Shape(_Strict):
    bits: _Count
    group_size: _Count
    mode: Annotated[str, Field(max_length=40)]


class _Added(_Strict):
    adapter: _Digest
    weight: FiniteFloat


class _Form(_Strict):
    """The JSON form of a recipe, from an unverified file."""

    precision: Literal["keep", "dither", "mixed", "dequantize"]
    engine: Annotated[str, Field(max_length=500)]
    quantization: _Shape | None
    scale: FiniteFloat | None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None
    bits: Annotated[dict[_Path, _Width], Field(max_length=100_000)] = {}
    calibration: _Digest | None = None
    rounding: Literal["once"] | None = None
    biases: bool = False
    fitted: bool = False
    quantization_aware: _Shape | None = None
    # Its JSON key is a keyword of Python.
    parts: Annotated[list[_Added], Field(alias="with", max_length=1000)] = []


def find_recipe(workspace: Workspace, path_or_key: str) -> tuple[Recipe, str | None]:
    """Return a recipe, and the base model of the recorded fused model, if its adapter was registered on another form of that."""
    path = Path(path_or_key).expanduser()
    if path.is_file():
        return _read(path), None
    if not (prefix := digest_prefix(path_or_key)):
        raise UnknownReferenceError(f"recipe not found: {path_or_key[:80]!r}", hint=_HINT)
    with workspace.database.read() as session:
        rows = session.scalars(
            select(tables.FusedRow).where(begins_with(tables.FusedRow.key, prefix)).limit(2)
        ).all()
        base = rows[0].base.name if rows and rows[0].base_id != rows[0].adapter.base_id else None
    if len(rows) > 1:
        raise AmbiguousReferenceError(f"more than one key begins with {prefix}", hint="give more digits")
    if not rows:
        raise UnknownReferenceError(f"nothing on record has the key {prefix[:16]}", hint=_HINT)
    return Recipe.from_dict(rows[0].recipe), base


def _read(path: Path) -> Recipe:
    """Read a recipe, or what has one in it: the record of a fuse, the record of a bundle."""
    document = read_object(path)
    provenance = document.get("provenance")
    nested = provenance.get("recipe") if isinstance(provenance, Mapping) else None
    for inner in (document.get("recipe"), nested, document):
        if isinstance(inner, Mapping) and "precision" in inner and "engine" in inner:
            break
    else:
        raise BadInputError(f"{path.name[:80]} holds no recipe", hint=_HINT)
    try:
        form = _Form.model_validate(dict(inner))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        message = f"invalid recipe in {path.name[:80]}: {where}: {first['msg'][:200]}"
        raise BadInputError(message, hint=_HINT) from None
    return Recipe.from_dict(form.model_dump(by_alias=True))
