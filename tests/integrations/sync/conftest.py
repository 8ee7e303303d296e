"""Places that adapters are brought to, of every kind, and what each of them has."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import lora_server
import pytest
import tiny_models
from lora_server import LoraServer
from page_server import post_json
from serving_server import Served, served

from fusery.integrations.sync.plan import Synced, SyncRequest
from fusery.integrations.sync.servers import ModelServer
from fusery.integrations.sync.sync import sync
from fusery.registry import Registry
from fusery.registry.bundles.serving_plan import document_bytes
from fusery.registry.runtime.document import ServedBase, ServingDocument

V1, V2 = "course_rec_v1_20260115", "course_rec_v2_20260201"

KINDS = ("folder", "bucket", "vllm", "sglang", "fusery")


@dataclass
class Somewhere:
    kind: str
    to: str
    folder: Path
    names: Callable[[], set[str]]
    seize: Callable[[str], None]
    forget: Callable[[], None]
    server: LoraServer = None  # type: ignore[assignment]
    options: dict[str, Any] = field(default_factory=dict)

    def request(self, *references: str, **more: Any) -> SyncRequest:
        return SyncRequest(self.to, references, **self.options, **more)

    def sync(self, registry: Registry, *references: str, **more: Any) -> Synced:
        return sync(registry, self.request(*references, **more))

    def look(self, registry: Registry, *references: str, **more: Any) -> Synced:
        return sync(registry, self.request(*references, **more), dry_run=True)


def acts(found: Synced) -> dict[str, str]:
    """Return what was done, or not done, by the version of the adapter."""
    done = {}
    for step in found.steps:
        name = step.adapter.split("_")[2] if step.adapter.startswith("course_rec_v") else step.adapter
        done[name] = step.act if step.done or not step.is_drift else f"not {step.act}"
    return done


def running(registry: Registry) -> list[str]:
    return sorted(each.name for each in registry.deployments.list())


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, stocked: Registry, tiny_base: Path, tmp_path: Path
) -> Iterator[Somewhere]:
    with ExitStack() as opened:
        yield somewhere(request.param, stocked, tiny_base, tmp_path, opened)


def somewhere(kind: str, registry: Registry, base: Path, tmp_path: Path, opened: ExitStack) -> Somewhere:
    if kind == "folder":
        root = tmp_path / "nim"

        def seize(name: str) -> None:
            (root / name).mkdir(parents=True)
            (root / name / "adapter_config.json").write_text("{}")

        def forget() -> None:
            root.rename(tmp_path / uuid.uuid4().hex)  # in one step, while a sync looks at it

        return Somewhere(kind, str(root), root, lambda: names_in(root), seize, forget)
    if kind == "bucket":
        return _bucket()
    if kind == "fusery":
        return _ours(registry, base, tmp_path, opened)
    server, url = opened.enter_context(lora_server.serving(kind, "tiny"))  # type: ignore[arg-type]
    to = f"{kind}={url}"
    root = ModelServer(registry.workspace, kind, SyncRequest(to))._folders.root

    def take(name: str) -> None:
        server.loaded[name] = "/somewhere/else"

    return Somewhere(kind, to, root, lambda: set(server.loaded), take, server.loaded.clear, server)


def names_in(root: Path) -> set[str]:
    if not root.exists():
        return set()
    return {path.name for path in root.iterdir() if not path.name.startswith(".")}


def _bucket() -> Somewhere:
    name, files = uuid.uuid4().hex, fsspec.filesystem("memory").store

    def inside() -> dict[str, Any]:
        start = f"/{name}/loras/"
        return {path.removeprefix(start): file for path, file in files.items() if path.startswith(start)}

    def forget() -> None:
        for path in inside():
            del files[f"/{name}/loras/{path}"]

    def seize(adapter: str) -> None:
        fsspec.filesystem("memory").pipe_file(f"/{name}/loras/{adapter}/adapter_config.json", b"{}")
        fsspec.filesystem("memory").pipe_file(f"/{name}/loras/{adapter}/notes.txt", b"mine")

    return Somewhere(
        "bucket",
        f"memory://{name}/loras",
        Path(name),
        lambda: {path.partition("/")[0] for path in inside() if path.endswith("adapter_config.json")},
        seize,
        forget,
    )


def _ours(registry: Registry, base: Path, tmp_path: Path, opened: ExitStack) -> Somewhere:
    shelf, folder = tmp_path / "shelf", tmp_path / "served"
    shelf.mkdir()
    folder.mkdir()
    digest = registry.bases.show("tiny").digest
    document = ServingDocument(format=1, base=ServedBase(name="tiny", folder=str(base), digest=digest))
    (folder / "serving.json").write_bytes(document_bytes(document))
    server: Served = opened.enter_context(served(folder, adapters_from=shelf))

    def names() -> set[str]:
        return {target for target in server.service.table.names(None) if target != "tiny"}

    def ask(act: str, **body: str) -> None:
        reply = post_json(server.url, f"/v1/{act}_lora_adapter", body)
        assert reply.status == 200, reply.text

    def seize(name: str) -> None:
        tiny_models.make_adapter(shelf / "else", base, seed=9)
        ask("load", lora_name=name, lora_path=str(shelf / "else"))

    def forget() -> None:
        for name in names():
            ask("unload", lora_name=name)

    return Somewhere("fusery", f"fusery={server.url}", shelf, names, seize, forget, options={"folder": shelf})


def config_of(place: Somewhere, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place.folder / name / "adapter_config.json").read_text())
    return found
