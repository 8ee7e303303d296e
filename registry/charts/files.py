"""Picture files: which kinds there are, and what each holds of a picture."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ..errors import AlreadyExistsError, BadInputError, MissingExtraError

KINDS = ("png", "svg")
"""Kinds of pictures, by the ending of the file."""

_ZOOM = 1.5625
"""150 dots an inch, where a picture's own pixels are 96."""


def picture_kind(plot: Path) -> str:
    """Return the kind of picture that a file is to hold.

    Raises:
        BadInputError: its ending is not known.
        AlreadyExistsError: it is a folder.
    """
    kind = plot.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise BadInputError(
            f"a picture is called .png or .svg, not {plot.name[:60]!r}", hint="--plot picture.png"
        )
    if plot.is_dir():
        raise AlreadyExistsError(f"{plot} is a folder", hint="give the name of a file")
    return kind


def rendered(document: str, kind: str) -> bytes:
    """Return a picture as a file; the same picture gives the same bytes.

    Args:
        document: the picture, as `svg.document` returns it.
        kind: `png` or `svg`.

    Raises:
        MissingExtraError: a PNG is wanted, and what draws it is not installed.
    """
    if kind == "svg":
        return document.encode()
    try:
        from resvg_py import svg_to_bytes

        # Letters of a package: a machine may have none, and those that it has differ from another's.
        letters = files("ttf_opensans") / "ttf"
    except ImportError as error:
        raise MissingExtraError("a picture as PNG", "plot") from error
    return svg_to_bytes(
        document,
        zoom=_ZOOM,
        skip_system_fonts=True,
        font_files=[str(letters / f"OpenSans-{weight}.ttf") for weight in ("Regular", "SemiBold")],
        sans_serif_family="Open Sans",
    )
