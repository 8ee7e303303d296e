"""Picture files: which kinds there are, drawing with matplotlib's own defaults, and writing one whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AlreadyExistsError, BadInputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("png", "svg")
"""Kinds of pictures, by the ending of the file."""

_STYLE = {"svg.hashsalt": "fusery", "svg.fonttype": "path", "path.simplify": False, "font.size": 8.0}


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


@contextmanager
def drawing() -> Iterator[None]:
    """Let matplotlib draw with its own defaults, whatever the user's are, and without touching its state.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import style
    except ImportError as error:
        raise MissingExtraError("a picture", "plot") from error
    with style.context(["default", _STYLE]):
        yield


def rendered(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file; the same figure gives the same bytes."""
    data = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(data, format=kind, dpi=150, metadata=metadata)
    return data.getvalue()
