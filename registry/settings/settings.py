"""The settings of a registry, and for each value where it came from."""

from __future__ import annotations

import getpass
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from fusery.storage.errors import StoreDeniedError
from fusery.storage.plaintext import is_keepable

from ..actors import actor_of
from ..errors import BadInputError
from .homes import CONFIG_NAME, EMBEDDED, default_home, expanded
from .reach import require_allowed

_SQLITE = re.compile(r"(?P<scheme>sqlite(?:\+pysqlite)?:///)(?P<path>[^/:?][^?]*)(?P<query>\?.*)?", re.DOTALL)


def _keepable(value: str) -> str:
    if not is_keepable(value):
        raise ValueError("it is not UTF-8 text")
    return value


def _admission(value: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    if unknown := sorted(value.keys() - {"severity"}):
        raise ValueError(f"there is no setting {unknown[0][:60]!r}, only severity")
    return value


class Settings(BaseSettings):
    """Where a registry lives, and under which name this user acts in it.

    Every field can be set as `FUSERY_<FIELD>` in the environment or as a key of `config.toml` in the home folder.

    A relative path in `config.toml` starts at the home folder, one in the environment at the current folder; an empty
    variable counts as not set.
    """

    model_config = SettingsConfigDict(
        env_prefix="FUSERY_", env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    home: Path
    database_url: str = ""
    store_url: str = ""
    store_options: dict[str, Any] = {}
    cache_dir: Annotated[Path | None, BeforeValidator(lambda value: value or None)] = None
    cache_limit: Annotated[int, Field(ge=0)] = 100 << 30
    publish: Literal["full", "recipe"] = "recipe"
    card: Annotated[Path | None, BeforeValidator(lambda value: value or None)] = None
    user: Annotated[str, Field(max_length=200), AfterValidator(_keepable)] = ""
    admission: Annotated[dict[str, dict[str, str]], AfterValidator(_admission)] = {}

    @classmethod
    def load(cls, home: Path | None = None) -> Settings:
        """Read the settings of the registry in `home` (default: `default_home()`).

        The environment is the user's, and so is the `config.toml` of the default home, or of that which `FUSERY_HOME`
        names, if nobody else can write it.  Of any other folder, settings that lead out of it are refused; see `reach`.

        Args:
            home: the home folder.

        Raises:
            BadInputError: a value in the environment or in `config.toml` is not acceptable, or a setting leads out of the
                folder and is not the user's.
            StoreDeniedError: the home folder may not be read.
        """
        folder = expanded(home or default_home()).absolute()

        said: dict[str, Any] = {}

        class Layered(cls):  # type: ignore[misc, valid-type]
            @classmethod
            def settings_customise_sources(
                cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                said.update(TomlConfigSettingsSource(settings_cls, folder / CONFIG_NAME)())
                if _is_in_environment("store_options"):
                    # Or the two are merged, and what the environment leaves out comes from the file.
                    said.pop("store_options", None)
                file = InitSettingsSource(settings_cls, init_kwargs=said)
                return sources["init_settings"], sources["env_settings"], file

        try:
            values = Layered(home=folder).model_dump()
        except PermissionError as error:
            raise StoreDeniedError(
                f"{folder} may not be read by this user", hint="set FUSERY_HOME to a folder of your own"
            ) from error
        except (ValidationError, ValueError, RecursionError) as error:
            raise BadInputError(
                f"the settings of {folder} are not acceptable: {_first_problem(error)}",
                hint=f"correct FUSERY_* in the environment or {folder / CONFIG_NAME}",
            ) from error
        for field, anchored in _PLACES.items():
            if values[field]:
                here = _is_in_environment(field)
                values[field] = anchored(values[field], Path() if here else folder)
        from_file = {
            field: values[field] for field in said if field in values and not _is_in_environment(field)
        }
        if from_file:
            require_allowed(folder, from_file, own=_same(folder, default_home()))
        return cls.model_construct(**values)

    def elsewhere(self, database_url: str, store_url: str, store_options: dict[str, Any]) -> Settings:
        """Return the settings of a registry at another database and store, used by the same person here."""
        places = {
            "database_url": _anchored_database(database_url, Path()),
            "store_url": _anchored_store(store_url, Path()),
        }
        return self.model_copy(update={**places, "store_options": store_options})

    @property
    def database(self) -> str:
        """The SQLAlchemy URL: the one that was set, or the embedded SQLite file."""
        return self.database_url or f"sqlite:///{self.home / EMBEDDED}"

    @property
    def store(self) -> str:
        """The fsspec URL of the store: the one that was set, or a folder in the home."""
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
        """The local folder for notes that only this user may write, since they are believed later on."""
        return self.home / f"private-{os.geteuid()}"

    @property
    def severities(self) -> dict[str, Any]:
        """What the severities of findings were set to, by code: `[admission.severity]`."""
        return dict(self.admission.get("severity", {}))

    @property
    def actor(self) -> str:
        """The name that records carry as `created_by`: the one that was set, or account and machine, or who started CI."""
        return self.user or actor_of(os.environ, _user())

    def origin(self, field: str) -> str:
        """Return where a field's value came from: `environment`, `config.toml` or `default`."""
        if _is_in_environment(field):
            return "environment"
        default = type(self).model_fields[field].default
        return "default" if field == "home" or getattr(self, field) == default else CONFIG_NAME


def _same(folder: Path, other: Path) -> bool:
    return os.path.realpath(folder) == os.path.realpath(other)


def _is_in_environment(field: str) -> bool:
    # As pydantic-settings reads it: in upper or lower case, and not when it is empty.
    return any(value and name.upper() == f"FUSERY_{field.upper()}" for name, value in os.environ.items())


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this number, as in many containers
        return f"uid-{os.getuid()}"


def _anchored(path: Path, start: Path) -> Path:
    return (start / expanded(path)).absolute()


def _anchored_store(url: str, start: Path) -> str:
    return url if "://" in url or "::" in url or not url.strip() else str(_anchored(Path(url), start))


def _anchored_database(url: str, start: Path) -> str:
    match = _SQLITE.fullmatch(url)
    if match is None or match["path"].startswith("file:"):
        return url
    return f"{match['scheme']}{_anchored(Path(match['path']), start)}{match['query'] or ''}"


_PLACES: dict[str, Callable[[Any, Path], Any]] = {
    "cache_dir": _anchored,
    "card": _anchored,
    "store_url": _anchored_store,
    "database_url": _anchored_database,
}


def _first_problem(error: Exception) -> str:
    # The value itself may be a credential (a URL, store options) and is never repeated.
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        return f"{'.'.join(str(part) for part in first['loc']) or 'value'}: {said}"
    if isinstance(error, SettingsError):
        named = re.search(r'field "(\w+)"', str(error))
        return f"{named[1] if named else 'value'}: it cannot be read as JSON"
    if isinstance(error, tomllib.TOMLDecodeError):
        place = re.search(r"\(at .*\)", str(error))
        return f"{CONFIG_NAME} is not TOML {place[0] if place else ''}".rstrip()
    if isinstance(error, UnicodeDecodeError):
        return f"{CONFIG_NAME} is not UTF-8 text"
    return type(error).__name__
