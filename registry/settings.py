"""Settings: environment over `config.toml` over defaults, and for each value where it came from."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from fusery.storage.errors import StoreDeniedError

from .errors import BadInputError

CONFIG_NAME = "config.toml"


def default_home() -> Path:
    """Return `FUSERY_HOME`, or the platform's user data folder."""
    chosen = os.environ.get("FUSERY_HOME")
    return (
        Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("fusery", appauthor=False))
    )


class Settings(BaseSettings):
    """Where a registry lives, and under which name this user acts in it.

    Every field can be set as `FUSERY_<FIELD>` in the environment or as a key of `config.toml` in the home folder.
    """

    model_config = SettingsConfigDict(env_prefix="FUSERY_", extra="forbid", frozen=True)

    home: Path
    database_url: str = ""
    store_url: str = ""
    store_options: dict[str, Any] = {}
    cache_dir: Path | None = None
    cache_limit: int = 100 << 30
    user: str = ""

    @classmethod
    def load(cls, home: Path | None = None) -> Settings:
        """Read the settings of the registry in `home` (default: `default_home()`).

        Raises:
            BadInputError: a value in the environment or in `config.toml` is not acceptable.
            StoreDeniedError: the home folder may not be read.
        """
        folder = (home or default_home()).expanduser().absolute()

        class Layered(cls):  # type: ignore[misc, valid-type]
            model_config = SettingsConfigDict(toml_file=folder / CONFIG_NAME)

            @classmethod
            def settings_customise_sources(
                cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                toml = TomlConfigSettingsSource(settings_cls)
                return sources["init_settings"], sources["env_settings"], toml

        try:
            return cls.model_construct(**Layered(home=folder).model_dump())
        except PermissionError as error:
            raise StoreDeniedError(
                f"{folder} may not be read by this user", hint="set FUSERY_HOME to a folder of your own"
            ) from error
        except (ValidationError, ValueError) as error:
            raise BadInputError(
                f"the settings of {folder} are not acceptable: {_first_problem(error)}",
                hint=f"correct FUSERY_* in the environment or {folder / CONFIG_NAME}",
            ) from error

    @property
    def database(self) -> str:
        """The SQLAlchemy URL: the one that was set, or the embedded SQLite file."""
        return self.database_url or f"sqlite:///{self.home / 'fusery.db'}"

    @property
    def store(self) -> str:
        """The fsspec URL of the store: the one that was set, or a folder in the home."""
        return self.store_url or str(self.home / "store")

    @property
    def cache(self) -> Path:
        """The local folder that holds whole fused models."""
        return (self.cache_dir or self.home / "cache").expanduser().absolute()

    @property
    def actor(self) -> str:
        """The name that records carry as `created_by`."""
        return self.user or getpass.getuser()

    def origin(self, field: str) -> str:
        """Return where a field's value came from: `environment`, `config.toml` or `default`."""
        if f"FUSERY_{field.upper()}" in os.environ:
            return "environment"
        default = type(self).model_fields[field].default
        return "default" if field == "home" or getattr(self, field) == default else CONFIG_NAME


def _first_problem(error: Exception) -> str:
    # The value itself may be a credential (a URL, store options) and is never repeated.
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'value'}: {first['msg']}"
    return type(error).__name__
