"""The settings of a registry, and the origin of each; plain code, since a library costs each command more time (decision 36)."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from fusery.storage.errors import StoreDeniedError
from fusery.storage.jsonfile import is_keepable

from ..actors import actor_of, user_name
from ..errors import BadInputError
from .homes import CONFIG_NAME, EMBEDDED, default_home, expanded, home_folder
from .reach import require_allowed

_LARGEST = 1 << 20
_SQLITE = re.compile(r"(?P<scheme>sqlite(?:\+pysqlite)?:///)(?P<path>[^/:?][^?]*)(?P<query>\?.*)?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where a registry lives, and under which name this user acts in it.

    Every field can be set as `FUSERY_<FIELD>` (`home`: `FUSERY_REGISTRY`) in the environment, or in `config.toml` in the home folder.

    A relative path in `config.toml` starts at the home folder, one in the environment at the current folder; an empty
    variable counts as not set.

    Attributes:
        home: the folder of the embedded database, store and cache, and of `config.toml`; `fusery doctor` shows it.
        database_url: `postgresql://user@host/name` or `sqlite:////path`; empty for an SQLite file in the home.
        store_url: a folder or a URL such as `s3://bucket/prefix`; empty for a folder in the home.
        store_options: for the file system behind the store, a table (in the environment as JSON).
        cache_dir: the folder of whole fused models; by default one in the home.
        cache_limit: the largest size of the cache: bytes, or a size such as `20GB` or `500MiB`; `0` keeps nothing.
        publish: the part of a fused model that is uploaded to the store: `recipe`, from which it can be rebuilt, or `full`, its weights.
        card: a template for the cards of bundles, in place of fusery's own.
        user: the author of new records (`created_by`); by default account and machine, or who started CI.
        admission: `severity.CODE` for findings, `error`, `warning`, `info` or `off`, a table (in the environment as JSON).
    """

    home: Path
    database_url: str = ""
    store_url: str = ""
    store_options: dict[str, Any] = field(default_factory=dict)
    cache_dir: Path | None = None
    cache_limit: int = 100 << 30
    publish: Literal["full", "recipe"] = "recipe"
    card: Path | None = None
    user: str = ""
    admission: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, home: Path | None = None, *, environment: bool = True) -> Settings:
        """Read the settings of the registry in `home` (default: `default_home()`).

        The environment is the user's, and so is the `config.toml` of the default home, or of that which `FUSERY_REGISTRY`
        names, if no other user can write it.  Of any other folder, settings that lead out of it are refused; see `reach`.
        """
        folder = home_folder(home)
        try:
            texts = {name: os.environ.get(variable_of(name)) for name in _READERS} if environment else {}
            from_environment = {
                name: _value(name, text, is_json=name in ("store_options", "admission"))
                for name, text in texts.items()
                if text
            }
            from_file = _in_file(folder / CONFIG_NAME, from_environment)
        except PermissionError as error:
            hint = "set FUSERY_REGISTRY to a folder of your own"
            raise StoreDeniedError(f"{folder} may not be read by this user", hint=hint) from error
        except (ValueError, RecursionError) as error:
            hint = f"correct FUSERY_* in the environment or {folder / CONFIG_NAME}"
            raise BadInputError(f"invalid settings of {folder}: {_problem(error)}", hint=hint) from error
        for loaded, start in ((from_file, folder), (from_environment, Path())):
            for name in [name for name in _PLACES if loaded.get(name)]:
                loaded[name] = _PLACES[name](loaded[name], start)
        if from_file:
            own = os.path.realpath(folder) == os.path.realpath(default_home())
            require_allowed(folder, from_file, own=own)
        return cls(**{**from_file, **from_environment, "home": folder})

    @property
    def database(self) -> str:
        """The SQLAlchemy URL: the setting, or the embedded SQLite file."""
        return self.database_url or f"sqlite:///{self.home / EMBEDDED}"

    @property
    def store(self) -> str:
        """The fsspec URL of the store: the setting, or a folder in the home."""
        return self.store_url or str(self.home / "store")

    def options_at(self, url: str) -> dict[str, Any]:
        """Return the options of the store for another place: all, if it is on the store's own server, and else none."""
        from fusery.storage.locate import same_server

        return dict(self.store_options) if same_server(url, self.store) else {}

    @property
    def cache(self) -> Path:
        """The local folder that holds whole fused models."""
        return expanded(self.cache_dir or self.home / "cache").absolute()

    @property
    def private(self) -> Path:
        """The local folder for notes that only this user may write, since they are trusted later."""
        return self.home / f"private-{os.geteuid()}"

    @property
    def severities(self) -> dict[str, Any]:
        """What the severities of findings were set to, by code: `[admission.severity]`."""
        return dict(self.admission.get("severity", {}))

    @property
    def actor(self) -> str:
        """The author of new records (`created_by`): the setting, or account and machine, or who started CI."""
        return self.user or actor_of(os.environ, user_name())

    def origin(self, name: str) -> str:
        """Return where a field's value came from: `environment`, `config.toml` or `default`."""
        if os.environ.get(variable_of(name)):
            return "environment"
        default = getattr(Settings(home=self.home), name)
        return "default" if getattr(self, name) == default else CONFIG_NAME


def variable_of(name: str) -> str:
    """Return the environment variable of a field."""
    return "FUSERY_REGISTRY" if name == "home" else f"FUSERY_{name.upper()}"


def _in_file(path: Path, from_environment: dict[str, Any]) -> dict[str, Any]:
    """Return what the file sets, of what the environment does not; severities of both count, the environment's first."""
    raw_settings = {name.lower(): value for name, value in _toml(path).items()}
    if unknown := sorted(raw_settings.keys() - {field.name for field in fields(Settings)}):
        raise ValueError(f"{unknown[0][:60]}: there is no such setting")
    file_settings = {
        name: _value(name, value)
        for name, value in raw_settings.items()
        if name != "home" and (name not in from_environment or name == "admission")
    }
    if "admission" in file_settings and "admission" in from_environment:
        both = (file_settings.pop("admission"), from_environment["admission"])
        severities = {code: severity for part in both for code, severity in part.get("severity", {}).items()}
        from_environment["admission"] = {"severity": severities}
    return file_settings


def _toml(path: Path) -> dict[str, Any]:
    try:
        kind = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError:
        raise
    except OSError as error:  # a circle of links
        raise ValueError(f"{CONFIG_NAME} cannot be read") from error
    if not stat.S_ISREG(kind.st_mode) or kind.st_size > _LARGEST:
        raise ValueError(f"{CONFIG_NAME} is no file of settings")
    import tomllib

    return tomllib.loads(path.read_bytes().decode())


def _value(name: str, value: Any, *, is_json: bool = False) -> Any:
    # The value itself may be a credential (a URL, store options) and is never repeated.
    try:
        return _READERS[name](json.loads(value) if is_json else value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}: it cannot be read as JSON") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("it should be a text")
    if "\0" in value:
        raise ValueError("it has a NUL in it")
    return value


def _user_name(value: Any) -> str:
    if not is_keepable(_text(value)) or len(value) > 200:
        raise ValueError("it should be UTF-8 text of at most 200 characters")
    return str(value)


def _choice(value: Any) -> str:
    if value not in ("full", "recipe"):
        raise ValueError("it should be 'full' or 'recipe'")
    return str(value)


def _path(value: Any) -> Path | None:
    return Path(_text(value)) if value else None


def _count(value: Any) -> int:
    from ..parsing import parse_size

    try:
        return parse_size(str(value))
    except BadInputError as error:
        raise ValueError("it should be a number of bytes, or a size such as 20GB") from error


def _table(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError("it should be a table of names and values")
    return value


def _admission(value: Any) -> dict[str, dict[str, str]]:
    if unknown := sorted(_table(value).keys() - {"severity"}):
        raise ValueError(f"there is no setting {unknown[0][:60]!r}, only severity")
    severities = _table(_table(value).get("severity"))
    for code, severity in severities.items():
        if not isinstance(severity, str):
            raise TypeError(f"severity.{code[:60]} should be a text")
    return {"severity": severities} if severities else {}


_READERS: dict[str, Callable[[Any], Any]] = {
    "database_url": _text,
    "store_url": _text,
    "store_options": _table,
    "cache_dir": _path,
    "cache_limit": _count,
    "publish": _choice,
    "card": _path,
    "user": _user_name,
    "admission": _admission,
}


def _anchored(path: Path, start: Path) -> Path:
    return (start / expanded(path)).absolute()


def _anchored_url(url: str, start: Path) -> str:
    """Return the URL of a database or store, or the path of a store, with its relative path from a folder."""
    match = _SQLITE.fullmatch(url)
    if match is not None and not match["path"].startswith("file:"):
        return f"{match['scheme']}{_anchored(Path(match['path']), start)}{match['query'] or ''}"
    return url if "://" in url or "::" in url or not url.strip() else str(_anchored(Path(url), start))


_PLACES: dict[str, Callable[[Any, Path], Any]] = {
    "cache_dir": _anchored,
    "card": _anchored,
    "store_url": _anchored_url,
    "database_url": _anchored_url,
}


def _problem(error: Exception) -> str:
    """Return the problem with settings, without the text of a file, which may hold a credential."""
    if type(error) is ValueError:
        return str(error)
    place = re.search(r"\(at .*\)", str(error))
    return f"{CONFIG_NAME} is not TOML in UTF-8 {place[0] if place else ''}".rstrip()
