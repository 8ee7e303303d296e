"""Sites: copies of one prepared registry, on SQLite and a folder or on PostgreSQL and S3, one for each fault."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import s3_server
from postgres_server import PostgresDatabases, postgres_server
from s3_server import BUCKET, S3Server

DISK, SERVERS = "SQLite + disk", "PostgreSQL + S3"


@dataclass(frozen=True, slots=True)
class Site:
    """A registry, a user's files around it, and another registry to push to."""

    folder: Path
    here: Mapping[str, str]
    there: Mapping[str, str]

    def environment(self, *, there: bool = False) -> dict[str, str]:
        """Return a user's whole environment with one of the two registries."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FUSERY_")}
        own = {"FUSERY_USER": "tester", "COLUMNS": "200", "_FUSERY_RAISES": ""}
        return {**kept, **own, **(self.there if there else self.here)}


class Stack(Protocol):
    """A pair of database and store."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    def make(self) -> Site:
        """Return a site without anything in it."""
        ...

    def copy(self, site: Site, *, pushes: bool) -> Site:
        """Return a copy of a site that nobody uses at the moment; `pushes` if its other registry is wanted."""
        ...

    def drop(self, site: Site) -> None:
        """Remove a site."""
        ...


class DiskStack:
    """SQLite and a folder: a site is a folder."""

    name = DISK

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()

    def make(self) -> Site:
        """Make an empty folder."""
        folder = self._new()
        folder.mkdir()
        return _on_disk(folder)

    def copy(self, site: Site, *, pushes: bool) -> Site:
        """Copy the folder."""
        folder = self._new()
        shutil.copytree(site.folder, folder, symlinks=True)
        return _on_disk(folder)

    def drop(self, site: Site) -> None:
        """Remove the folder."""
        shutil.rmtree(site.folder)

    def _new(self) -> Path:
        return self._folder / f"site{next(self._numbers)}"


def _on_disk(folder: Path) -> Site:
    return Site(folder, {"FUSERY_HOME": f"{folder}/home"}, {"FUSERY_HOME": f"{folder}/there"})


class ServerStack:
    """PostgreSQL and S3, for real: a site is a folder for the homes, two databases and two prefixes of a bucket."""

    name = SERVERS

    def __init__(self, folder: Path, databases: PostgresDatabases, server: S3Server) -> None:
        self._folder = folder
        self._databases = databases
        self._server = server
        self._numbers = count()

    def make(self) -> Site:
        """Make an empty folder and two empty databases."""
        site = self._site(self._databases.create(), self._databases.create())
        site.folder.mkdir()
        return site

    def copy(self, site: Site, *, pushes: bool) -> Site:
        """Copy the folder, the databases and the objects."""
        database = self._databases.create(_database(site.here))
        other = self._databases.create(_database(site.there)) if pushes else ""
        made = self._site(database, other)
        shutil.copytree(site.folder, made.folder, symlinks=True)
        self._copy_objects(site.here, made.here)
        if pushes:
            self._copy_objects(site.there, made.there)
        return made

    def drop(self, site: Site) -> None:
        """Remove all of that."""
        shutil.rmtree(site.folder)
        with closing(self._server.client()) as client:
            for registry in (site.here, site.there):
                if url := registry["FUSERY_DATABASE_URL"]:
                    self._databases.drop(url)
                for key in _keys(client, registry):
                    client.delete_object(Bucket=BUCKET, Key=key)

    def _site(self, database: str, other: str) -> Site:
        number = next(self._numbers)
        folder = self._folder / f"site{number}"
        places = ("DATABASE_URL", "STORE_URL", "STORE_OPTIONS")
        options = json.dumps(self._server.options())
        here = dict(zip(places, (database, f"s3://{BUCKET}/here{number}", options), strict=True))
        there = dict(zip(places, (other, f"s3://{BUCKET}/there{number}", options), strict=True))
        return Site(
            folder,
            {"FUSERY_HOME": f"{folder}/home"}
            | {f"FUSERY_{name}": value for name, value in here.items()}
            | {f"FUSERY_OTHER_{name}": value for name, value in there.items()},
            {"FUSERY_HOME": f"{folder}/there"} | {f"FUSERY_{name}": value for name, value in there.items()},
        )

    def _copy_objects(self, source: Mapping[str, str], target: Mapping[str, str]) -> None:
        before, after = _prefix(source), _prefix(target)
        with closing(self._server.client()) as client:
            for key in _keys(client, source):
                body = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                client.put_object(Bucket=BUCKET, Key=after + key.removeprefix(before), Body=body)


def _database(registry: Mapping[str, str]) -> str:
    return registry["FUSERY_DATABASE_URL"].rpartition("/")[2].partition("?")[0]


def _prefix(registry: Mapping[str, str]) -> str:
    return registry["FUSERY_STORE_URL"].removeprefix(f"s3://{BUCKET}/") + "/"


def _keys(client: Any, registry: Mapping[str, str]) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=_prefix(registry))
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


@contextmanager
def stack_of(name: str, folder: Path) -> Iterator[Stack]:
    """Start what a stack needs, in a folder of its own, and end it afterwards."""
    if name == DISK:
        yield DiskStack(folder)
        return
    binary = s3_server.find_server()
    if binary is None:
        raise LookupError("there is no SeaweedFS here")
    (folder / "server").mkdir()
    with ExitStack() as running:
        databases = PostgresDatabases(running.enter_context(postgres_server()))
        server = running.enter_context(s3_server.running_server(binary, folder / "server"))
        yield ServerStack(folder, databases, server)
        databases.close()
