"""The other registry: a home folder, or a database and a store by their URLs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError
from ..settings import Settings

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class Place:
    """Where another registry is: either `home`, or `database` and `store`.

    Attributes:
        home: its home folder; the settings there count, and nothing of `FUSERY_*` in the environment.
        database: an SQLAlchemy URL, which may hold a password.
        store: the URL of its store.
        store_options: for the store's file system, as JSON; they may hold secrets.
    """

    home: Path | None = None
    database: str | None = None
    store: str | None = None
    store_options: str | None = None

    def open(self, ours: Workspace) -> Workspace:
        """Return the other registry's parts; nothing is connected or made yet.

        Args:
            ours: this registry, whose user acts there too.

        Raises:
            BadInputError: it is neither a home folder nor a database with a store.
        """
        from ..workspace import Workspace

        return Workspace(self._settings(ours.settings))

    def _settings(self, ours: Settings) -> Settings:
        if self.home is not None:
            if self.database or self.store or self.store_options:
                raise BadInputError(
                    "the other registry is a home folder, or a database and a store, and not both",
                    hint="leave out --database and --store, or the folder",
                )
            if "://" in str(self.home) or ":/" in str(self.home):
                # Not repeated: there may be a password in it.
                raise BadInputError(
                    "the other registry is given as a URL where a home folder is expected",
                    hint="--database URL --store URL",
                )
            settings = Settings.load(self.home, environment=False)
            return settings.model_copy(update={"user": ours.actor})
        if not self.database or not self.store:
            raise BadInputError(
                "another registry has a database and a store",
                hint="give a home folder, or --database and --store",
            )
        options = self._options()
        return ours.elsewhere(self.database, self.store, options).model_copy(update={"user": ours.actor})

    def _options(self) -> dict[str, Any]:
        try:
            options = json.loads(self.store_options or "{}")
        except ValueError:
            options = None
        if not isinstance(options, dict):
            raise BadInputError(
                "the options of the other store are not a JSON object",
                hint='FUSERY_OTHER_STORE_OPTIONS=\'{"profile": "team"}\'',
            )
        return options
