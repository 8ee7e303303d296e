"""A stand-in for the server of Weights & Biases: what its client asks of projects, runs, their files and artifacts.

W&B's own server is a container that needs a licence.  What is answered here has the fields that the client of wandb 0.31.0
asks for in `wandb/apis/public/runs.py`, `files.py` and `wandb/sdk/artifacts/_generated/`, which checks them itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from stub_server import StubHandler, serving_stub

ENTITY, PROJECT = "team", "lessons"
KEY = "a1b2c3d4e5" * 4


@dataclass
class Artifact:
    name: str
    files: Mapping[str, bytes]
    kind: str = "model"
    version: int = 0
    aliases: Sequence[str] = ("latest",)
    references: Mapping[str, str] = field(default_factory=dict)
    state: str = "COMMITTED"
    listed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the manifest says otherwise of a file, or of one that is not there."""

    @property
    def id(self) -> str:
        return base64.b64encode(f"Artifact:{self.digest}".encode()).decode()

    @property
    def digest(self) -> str:
        said = json.dumps([self.name, self.version, self.manifest_entries()], sort_keys=True)
        return hashlib.md5(said.encode(), usedforsecurity=False).hexdigest()

    def node(self) -> dict[str, Any]:
        project = dict.fromkeys(("id", "internalId"), "UHJvamVjdDox")
        project |= {"name": PROJECT, "entity": {"name": ENTITY}}  # type: ignore[dict-item]
        sequence = {"__typename": "ArtifactSequence", "name": self.name, "project": project}
        return {
            **dict.fromkeys(("description", "metadata", "historyStep")),
            **dict.fromkeys(("createdAt", "updatedAt"), "2026-09-21T10:00:00Z"),
            "__typename": "Artifact",
            "id": self.id,
            "artifactSequence": sequence,
            "versionIndex": self.version,
            "artifactType": {"name": self.kind},
            "ttlDurationSeconds": -2,
            "ttlIsInherited": False,
            "tags": [],
            "state": self.state,
            "size": sum(map(len, self.files.values())),
            "digest": self.digest,
            "commitHash": "e" * 20,
            "fileCount": len(self.files),
            "aliases": [
                {"__typename": "ArtifactAlias", "id": "QQ==", "alias": alias, "artifactCollection": sequence}
                for alias in self.aliases
            ],
        }

    def manifest_entries(self) -> dict[str, dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = {}
        for name, data in self.files.items():
            entries[name] = {"digest": _md5(data), "size": len(data)}
        for name, reference in self.references.items():
            entries[name] = {"digest": "x", "size": 3, "ref": reference}
        return entries | {name: {**entries.get(name, {}), **other} for name, other in self.listed.items()}

    def manifest(self) -> dict[str, Any]:
        entries = {
            name: entry if "ref" in entry else {**entry, "birthArtifactID": self.id}
            for name, entry in self.manifest_entries().items()
        }
        return {
            "version": 1,
            "storagePolicy": "wandb-storage-policy-v1",
            "storagePolicyConfig": {"storageLayout": "V2"},
            "contents": entries,
        }


@dataclass
class WandbRun:
    id: str
    name: str = "happy-owl-1"
    state: str = "finished"
    began: str = "2026-09-21T10:00:00Z"
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    commit: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    logged: Sequence[Artifact] = ()
    used: Sequence[Artifact] = ()

    def node(self) -> dict[str, Any]:
        config = {name: {"value": value, "desc": None} for name, value in self.config.items()}
        return {
            **dict.fromkeys(("sweepName", "group", "jobType", "historyKeys")),
            **dict.fromkeys(("createdAt", "heartbeatAt"), self.began),
            **dict.fromkeys(("description", "notes"), ""),
            "id": base64.b64encode(f"Run:{self.id}".encode()).decode(),
            "projectId": "1",
            "tags": [],
            "name": self.id,
            "displayName": self.name,
            "state": self.state,
            "config": json.dumps({**config, "_wandb": {"value": {"cli_version": "0.31.0"}}}),
            "commit": self.commit,
            "readOnly": False,
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(self.summary),
            "historyLineCount": len(self.history),
            "user": {"name": "Bea", "username": "bea"},
        }


@dataclass
class Tracker:
    runs: list[WandbRun] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    url: str = ""
    error: str = ""

    def answer(self, operation: str, query: str, given: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(operation)
        if "viewer" in query:
            viewer = {"id": "VXNlcjox", "entity": ENTITY, "username": "bea", "email": "b@example.org"}
            return {"viewer": {**viewer, "flags": "{}", "teams": {"edges": []}}}
        if "serverInfo" in query:
            return {"serverInfo": {"features": []}}
        if "currentManifest" in query:
            found = next(each for run in self.runs for each in run.logged if each.id == given["id"])
            url = f"{self.url}/manifests/{found.id}"
            return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}
        if (given.get("entity"), given.get("project")) != (ENTITY, PROJECT):
            return {"project": None}
        if operation in ("Runs", "LightweightRuns"):
            return {"project": self._runs(int(given["perPage"]), given["cursor"], query)}
        name = given.get("name") or given.get("runName") or given.get("run")
        run = next((each for each in self.runs if each.id == name), None)
        return {
            "project": {"internalId": "1", "run": None if run is None else self._of(operation, run, given)}
        }

    def _runs(self, count: int, cursor: str | None, query: str) -> dict[str, Any]:
        first = int(cursor or 0)
        shown = sorted(self.runs, key=lambda run: run.began)[first : first + count]
        nodes = [{key: value for key, value in run.node().items() if key in query} for run in shown]
        edges = [{"node": node, "cursor": str(first + place)} for place, node in enumerate(nodes, start=1)]
        more = first + count < len(self.runs)
        return {
            "internalId": "1",
            "runCount": len(self.runs),
            "readOnly": False,
            "runs": {"edges": edges, "pageInfo": {"endCursor": str(first + count), "hasNextPage": more}},
        }

    def _of(self, operation: str, run: WandbRun, given: Mapping[str, Any]) -> dict[str, Any]:
        if operation == "RunFiles":
            files = [self._file(run, *each) for each in run.files.items()]
            return {"fileCount": len(files), "files": _connection(files)}
        if operation == "RunSampledHistory":
            keys = [json.loads(each)["keys"] for each in given["specs"]]
            return {"sampledHistory": [_sampled(run.history, each) for each in keys]}
        if operation in ("RunOutputArtifacts", "RunInputArtifacts"):
            listed = run.logged if operation == "RunOutputArtifacts" else run.used
            return {"artifacts": {"totalCount": len(listed), **_connection([each.node() for each in listed])}}
        return run.node()

    def _file(self, run: WandbRun, name: str, data: bytes) -> dict[str, Any]:
        url = f"{self.url}/files/{run.id}/{name}"
        found = {"id": "RmlsZTox", "name": name, "url": url, "directUrl": url, "sizeBytes": str(len(data))}
        return {**found, "mimetype": "", "updatedAt": run.began, "md5": _md5(data)}

    def data(self, path: str) -> bytes | None:
        kind, _, rest = unquote(path).lstrip("/").partition("/")
        artifacts = [each for run in self.runs for each in run.logged]
        if kind == "manifests":
            return next((json.dumps(a.manifest()).encode() for a in artifacts if a.id == rest), None)
        if kind == "files":
            number, _, name = rest.partition("/")
            return next((run.files.get(name) for run in self.runs if run.id == number), None)
        if kind == "artifactsV2":
            digest = base64.b64encode(bytes.fromhex(rest.split("/")[5])).decode()
            return next((d for a in artifacts for d in a.files.values() if _md5(d) == digest), None)
        return None


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _sampled(history: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in keys} for row in history if all(key in row for key in keys)]


def _connection(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False},
        "edges": [{"node": node, "cursor": "x"} for node in nodes],
    }


@contextmanager
def running_tracker(*runs: WandbRun) -> Iterator[Tracker]:
    tracker = Tracker(list(runs))

    class Handler(StubHandler):
        def do_POST(self) -> None:
            body = self.body()
            if self.path != "/graphql":
                self.reply(200, b"")
                return
            given = json.loads(body)
            basic = self.headers.get("authorization", "").removeprefix("Basic ")
            tracker.keys.add(base64.b64decode(basic).decode().partition(":")[2])
            operation = given.get("operationName") or given["query"].split("(")[0].split()[-1]
            found: dict[str, Any] = {"data": None, "errors": [{"message": tracker.error}]}
            if not tracker.error:
                found = {"data": tracker.answer(operation, given["query"], given.get("variables") or {})}
            self.reply_json(200, found)

        def do_GET(self) -> None:
            data = tracker.data(urlsplit(self.path).path)
            self.reply(404 if data is None else 200, data or b"", Content_Type="application/octet-stream")

    with serving_stub(Handler) as tracker.url:
        yield tracker
