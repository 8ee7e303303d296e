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
from typing import Any

import s3_server
from postgres_server import PostgresDatabases, postgres_server
from s3_server import BUCKET, S3Server

DISK, SERVERS = "SQLite + disk", "PostgreSQL + S3"


@dataclass(frozen=True, slots=True)
class Site:
    folder: Path
    here: Mapping[str, str]
    there: Mapping[str, str]

    def environment(self, registry: str = "home") -> dict[str, str]:
        """Return the environment of a user of a registry: one of this folder, or the URL of a server."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FUSERY_")}
        own = {"FUSERY_USER": "tester", "COLUMNS": "200", "_FUSERY_RAISES": ""}
        own["XDG_CACHE_HOME"] = f"{self.folder}/cached"
        own |= self.there if registry == "there" else self.here
        return {
            **kept,
            **own,
            "FUSERY_REGISTRY": registry if "://" in registry else f"{self.folder}/{registry}",
        }


class DiskStack:
    name = DISK

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()

    def make(self) -> Site:
        site = self._site()
        site.folder.mkdir()
        return site

    def copy(self, site: Site, *, pushes: bool) -> Site:
        made = self._site()
        shutil.copytree(site.folder, made.folder, symlinks=True)
        return made

    def drop(self, site: Site) -> None:
        shutil.rmtree(site.folder)

    def _site(self) -> Site:
        folder = self._folder / f"site{next(self._numbers)}"
        return Site(folder, {}, {})


class ServerStack:
    """PostgreSQL and S3, for real: a site is a folder for the homes, two databases and two prefixes of a bucket."""

    name = SERVERS

    def __init__(self, folder: Path, databases: PostgresDatabases, server: S3Server) -> None:
        self._folder = folder
        self._databases = databases
        self._server = server
        self._numbers = count()

    def make(self) -> Site:
        site = self._site(self._databases.create(), self._databases.create())
        site.folder.mkdir()
        return site

    def copy(self, site: Site, *, pushes: bool) -> Site:
        database = self._databases.create(_database(site.here))
        other = self._databases.create(_database(site.there)) if pushes else ""
        made = self._site(database, other)
        shutil.copytree(site.folder, made.folder, symlinks=True)
        self._copy_objects(site.here, made.here)
        if pushes:
            self._copy_objects(site.there, made.there)
        return made

    def drop(self, site: Site) -> None:
        shutil.rmtree(site.folder)
        with closing(self._server.client()) as client:
            for registry in (site.here, site.there):
                if url := registry["FUSERY_DATABASE_URL"]:
                    self._databases.drop(url)
                for key in _keys(client, registry):
                    client.delete_object(Bucket=BUCKET, Key=key)

    def _site(self, database: str, other: str) -> Site:
        number, options = next(self._numbers), json.dumps(self._server.options())
        folder = self._folder / f"site{number}"

        def variables(start: str, database: str, place: str) -> dict[str, str]:
            url = f"s3://{BUCKET}/{place}{number}"
            return {
                f"{start}DATABASE_URL": database,
                f"{start}STORE_URL": url,
                f"{start}STORE_OPTIONS": options,
            }

        here = variables("FUSERY_", database, "here") | variables("FUSERY_OTHER_", other, "there")
        there = variables("FUSERY_", other, "there")
        return Site(folder, here, there)

    def _copy_objects(self, source: Mapping[str, str], target: Mapping[str, str]) -> None:
        before, after = _prefix(source), _prefix(target)
        with closing(self._server.client()) as client:
            for key in _keys(client, source):
                body = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                client.put_object(Bucket=BUCKET, Key=after + key.removeprefix(before), Body=body)


Stack = DiskStack | ServerStack
"""A pair of database and store."""


def _database(registry: Mapping[str, str]) -> str:
    return registry["FUSERY_DATABASE_URL"].rpartition("/")[2].partition("?")[0]


def _prefix(registry: Mapping[str, str]) -> str:
    return registry["FUSERY_STORE_URL"].removeprefix(f"s3://{BUCKET}/") + "/"


def _keys(client: Any, registry: Mapping[str, str]) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=_prefix(registry))
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


@contextmanager
def stack_of(name: str, folder: Path) -> Iterator[Stack]:
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
