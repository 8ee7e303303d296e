"""A small hub for tests: the endpoints that huggingface_hub 2.4 uses to make a repository, to commit to it and to read it.

Written after the client: `HfApi.create_repo`, `list_repo_tree`, `_validate_yaml`, and `_commit_api._fetch_upload_modes`,
`_upload_lfs_files` and `_prepare_commit_payload`, without Xet, of which the client goes without when it is switched off.
It checks what a hub checks: the token, digests and sizes of large files, and that a commit names only files that were sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import yaml
from stub_server import StubHandler, serving_stub

HEAD = "c0ffee" * 6 + "c0ff"
"""The one commit that every repository is at."""

LARGE = re.compile(r".*\.safetensors|tokenizer\.json")


@dataclass
class Hub:
    endpoint: str = ""
    token: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    commits: dict[str, list[str]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    answer: dict[str, Any] | None = None


class _Handler(StubHandler):
    hub: Hub

    def _allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _missing(self) -> None:
        self.reply_json(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    def do_GET(self) -> None:
        self.hub.requests.append(f"GET {self.path}")
        if found := re.fullmatch(r"/api/models/([^/?]+/[^/?]+)(?:/revision/([^?]+))?(?:\?.*)?", self.path):
            return self._model(found[1], unquote(found[2] or "main"))
        if self._file():
            return None
        match = re.fullmatch(rf"/api/models/([^/]+/[^/]+)/tree/(?:main|{HEAD})/?(\?.*)?", self.path)
        if match is None or match[1] not in self.hub.repositories:
            return self._missing()
        tree = []
        for path, content in sorted(self.hub.repositories[match[1]].items()):
            size = {"type": "file", "path": path, "size": len(content)}
            lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            tree.append({**size, "oid": oid, **({"lfs": lfs} if LARGE.fullmatch(path) else {})})
        return self.reply_json(200, tree)

    def do_HEAD(self) -> None:
        self.hub.requests.append(f"HEAD {self.path}")
        if not self._file():
            self.reply_json(404, {})

    def _model(self, repository: str, revision: str) -> None:
        if repository not in self.hub.repositories or (
            repository in self.hub.private and not self._allowed()
        ):
            return self._missing()
        if revision not in ("main", HEAD):
            return self.reply_json(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        files = self.hub.repositories[repository].items()
        siblings = [{"rfilename": path, "size": len(content), "blobId": "0" * 40} for path, content in files]
        return self.reply_json(200, self.hub.answer or {"id": repository, "sha": HEAD, "siblings": siblings})

    def _file(self) -> bool:
        match = re.fullmatch(rf"/([^/]+/[^/]+)/resolve/(?:main|{HEAD})/([^?]+)", self.path)
        content = self.hub.repositories.get(match[1], {}).get(unquote(match[2])) if match else None
        if content is None:
            return False
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.reply(200, content, ETag=etag, X_Repo_Commit=HEAD)
        return True

    def do_PUT(self) -> None:
        self.hub.requests.append(f"PUT {self.path}")
        content, oid = self.body(), self.path.rpartition("/")[2]
        if self.headers.get("Authorization"):
            return self.reply_json(400, {"error": "a token was sent to the storage"})
        if hashlib.sha256(content).hexdigest() != oid:
            return self.reply_json(400, {"error": "other content"})
        self.hub.large[oid] = content
        return self.reply_json(200, {})

    def do_POST(self) -> None:
        self.hub.requests.append(f"POST {self.path}")
        body = self.body()
        if not self._allowed():
            return self.reply_json(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        match = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/.]+)(?:\.git/info/lfs|)/(.+)", self.path)
        if match is None or match[1] not in self.hub.repositories:
            return self._missing()
        repository, action = match[1], match[2]
        if action == "preupload/main":
            return self._modes(repository, json.loads(body))
        if action == "objects/batch":
            return self._batch(json.loads(body))
        if action == "commit/main":
            return self._commit(repository, [json.loads(line) for line in body.splitlines()])
        return self.reply_json(404, {"error": "no such endpoint"})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": "1"}
        if name in self.hub.repositories:
            return self.reply_json(409, {"error": "You already created this model repo", **url})
        self.hub.repositories[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.hub.private.add(name)
        return self.reply_json(200, url)

    def _validate(self, content: str) -> None:
        data = yaml.safe_load(content.split("---\n", 2)[1])
        errors = [] if isinstance(data.get("base_model"), str) else [{"message": "base_model"}]
        self.reply_json(400 if errors else 200, {"errors": errors, "warnings": []})

    def _modes(self, repository: str, wanted: dict[str, Any]) -> None:
        files = []
        for each in wanted["files"]:
            mode = "lfs" if LARGE.fullmatch(each["path"]) else "regular"
            files.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
        self.reply_json(200, {"files": files})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for each in wanted["objects"]:
            place = {"href": f"{self.hub.endpoint}/storage/{each['oid']}"}
            known = each["oid"] in self.hub.large
            objects.append({**each, **({} if known else {"actions": {"upload": place}})})
        self.reply_json(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.hub.repositories[repository])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.hub.large.get(value["oid"])
                if content is None or len(content) != value["size"]:
                    return self.reply_json(400, {"error": "a large file was not sent"})
                files[value["path"]] = content
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.repositories[repository] = files
        self.hub.commits.setdefault(repository, []).append(lines[0]["value"]["summary"])
        url = f"{self.hub.endpoint}/{repository}/commit/{'0' * 40}"
        return self.reply_json(200, {"success": True, "commitUrl": url, "commitOid": "0" * 40})


@contextmanager
def running_hub(token: str) -> Iterator[Hub]:
    hub = Hub(token=token)
    with serving_stub(type("Handler", (_Handler,), {"hub": hub})) as hub.endpoint:
        yield hub
