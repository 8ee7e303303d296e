"""Where the home folder of a registry is.  Nothing is imported that takes time: shells ask at each press of a key."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BadInputError

CONFIG_NAME = "config.toml"
EMBEDDED = "fusery.db"  # the database, where none is set


def require_path(path: str | Path, hint: str = "give a file or folder of this machine") -> None:
    """Refuse a URL where a path of this machine is expected: it would name a folder such as `https:`."""
    import re

    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # a Path has one of the two slashes
        # The rest is not repeated: there may be a password in it.
        raise BadInputError(f"invalid path: {scheme[0]}/... is a URL", hint=hint)


def expanded(path: Path) -> Path:
    """Return a path with `~` replaced by the folder that it means."""
    require_path(path)
    try:
        return path.expanduser()
    except RuntimeError as error:
        problem = f"{path} names a user without a home folder"
        raise BadInputError(problem, hint="write the whole path") from error


def is_server(place: object) -> bool:
    """Tell whether a registry is given as the URL of a server."""
    return str(place).lower().startswith(("http://", "https://"))


def default_home() -> Path:
    """Return the folder that `FUSERY_REGISTRY` names, or the platform's user data folder."""
    chosen = os.environ.get("FUSERY_REGISTRY")
    if chosen and not is_server(chosen):
        return expanded(Path(chosen))
    import platformdirs

    return Path(platformdirs.user_data_dir("fusery", appauthor=False))


def home_folder(home: Path | None) -> Path:
    """Return the absolute path of a home folder, `None` for the default one."""
    hint = "this command needs a registry in a folder of this machine"
    require_path(home or os.environ.get("FUSERY_REGISTRY", ""), hint=hint)
    folder = expanded(home or default_home()).absolute()
    if folder.is_file():
        hint = "give a folder: --registry DIR, or FUSERY_REGISTRY"
        raise BadInputError(f"invalid registry: {folder} is a file", hint=hint)
    return folder


def settings_in_file(home: str | None) -> dict[str, object]:
    """Return what the `config.toml` of a home says, acceptable or not; of what is no TOML, every text between quotes."""
    import re
    import tomllib

    if home and is_server(home):
        return {}
    try:
        text = (expanded(Path(home) if home else default_home()) / CONFIG_NAME).read_text("utf-8", "replace")
    except OSError:
        return {}
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return {"store_options": re.findall(r"[\"']([^\"'\n]+)", text)}
