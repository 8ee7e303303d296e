"""One form of an adapter from the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from fusery.storage.digest import Digest
from fusery.storage.errors import FormatError
from fusery.storage.manifest import manifest_of

from .files import CONFIG, PEFT_WEIGHTS, WEIGHTS

if TYPE_CHECKING:
    from ..models.architecture import Architecture

Form = Literal["mlx", "peft"]
"""A form of an adapter."""

FORMS: tuple[Form, ...] = get_args(Form)
FORM_FILES: Mapping[Form, tuple[str, str]] = {"mlx": (WEIGHTS, CONFIG), "peft": (PEFT_WEIGHTS, CONFIG)}
"""The files of each form, besides what people write by hand."""


def form_of(names: Iterable[str]) -> Form:
    """Tell the form of an adapter from the names of its files."""
    found = set(names)
    return "peft" if PEFT_WEIGHTS in found and WEIGHTS not in found else "mlx"


def render_mlx(
    files: Mapping[str, Path], base: Architecture, folder: Path, *, expected: Digest | None = None
) -> dict[str, Path]:
    """Return the files of an adapter in mlx-lm's form, as today's mlx-lm reads it.

    They are the adapter's own, or computed into a folder: from PEFT's form, or where only the configuration is of other
    years.

    Args:
        files: the adapter's files by name.
        base: what the adapter stands on, as it is on record.
        folder: made if it is needed.
        expected: the digest of the rendering, where it is on record.

    Raises:
        FormatError: the files are not those of an adapter that was admitted, or the rendering is another than recorded.
    """
    if form_of(files) == "mlx":
        from .todays_mlx import for_todays_mlx

        return for_todays_mlx(files, folder)
    from .mlx_form import plan_mlx, write_mlx
    from .patterns import PatternError
    from .peft_on_base import put_on_base
    from .reading import read_peft

    found = read_peft(files)
    if found.config is None or found.header is None:
        raise FormatError(f"{PEFT_WEIGHTS} is not an adapter that can be read")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        placed = put_on_base(found.config, found.modules, found.experts, base)
        write_mlx(files[PEFT_WEIGHTS], plan_mlx(found.config, placed.modules, placed.switches), folder)
    except PatternError as error:
        raise FormatError(f"{CONFIG} holds {error}") from error
    rendered = {name: folder / name for name in FORM_FILES["mlx"]}
    require_digest(rendered, expected)
    return {**{name: path for name, path in files.items() if name != PEFT_WEIGHTS}, **rendered}


def render_peft(
    files: Mapping[str, Path], base: Architecture, folder: Path, *, expected: Digest | None = None
) -> dict[str, Path]:
    """Return the files of an adapter in PEFT's form: as they are, or computed from mlx-lm's into a folder.

    Raises:
        BadInputError: the adapter has no form in PEFT.
        FormatError: the rendering is another than recorded.
    """
    if form_of(files) == "peft":
        return dict(files)
    from .peft_form import write_peft

    folder.mkdir(parents=True, exist_ok=True)
    write_peft(files, base, folder)
    rendered = {name: folder / name for name in FORM_FILES["peft"]}
    require_digest(rendered, expected)
    return {**{name: path for name, path in files.items() if name != WEIGHTS}, **rendered}


def require_digest(files: Mapping[str, Path], expected: Digest | None) -> None:
    """Refuse a rendering that is not the recorded one: the same adapter must be the same bytes for ever."""
    if expected is not None and manifest_of(files).digest != expected:
        raise FormatError(
            "the adapter's other form came out differently from what is recorded",
            hint="use the version of fusery that recorded it, and report this",
        )
