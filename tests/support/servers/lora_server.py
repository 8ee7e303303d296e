"""What vLLM 0.33.0 and SGLang 0.5.23 answer to those who load adapters, without a model behind it.

Paths, bodies, states and sentences are those of vllm/entrypoints/serve/lora/ and openai/models/serving.py, and of SGLang's
srt/entrypoints/http_server.py and srt/managers/tokenizer_manager.py.  An adapter's files are read as their loaders read them:
the configuration, then every tensor.  `make soak` asks the same of vLLM itself.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import safetensors
from stub_server import StubHandler, serving_stub

Kind = Literal["vllm", "sglang"]


class LoraServer:
    def __init__(self, kind: Kind, base: str, root: str) -> None:
        self.kind, self.base, self.root = kind, base, root
        self.key, self.max_rank, self.lost = "", 64, 0
        self.loaded: dict[str, str] = {}
        self.asked: list[str] = []
        self.lock = threading.Lock()

    def cards(self) -> dict[str, Any]:
        root = self.root if self.kind == "vllm" else self.base
        named = [(self.base, root, None), *((name, path, self.base) for name, path in self.loaded.items())]
        shown = [
            {"id": name, "object": "model", "owned_by": self.kind, "root": root, "parent": parent}
            for name, root, parent in named
        ]
        return {"object": "list", "data": shown}

    def load(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        name, path = body["lora_name"], body["lora_path"]
        with self.lock:
            if name in self.loaded:
                return self._failed(400, f"The lora adapter '{name}' has already been loaded.")
            if self.kind == "vllm" and name == self.base:
                return self._failed(400, f"The lora adapter '{name}' conflicts with a served base model.")
            try:
                require_loadable(Path(path), self.max_rank)
            except FileNotFoundError:
                return self._failed(404, f"Loading lora {name} failed: No adapter found for {path}")
            except ValueError as error:
                return self._failed(500, str(error))
            self.loaded[name] = path
        return self._done(f"Success: LoRA adapter '{name}' added successfully.")

    def unload(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        name = body["lora_name"]
        with self.lock:
            if name not in self.loaded:
                return self._failed(404, f"The lora adapter '{name}' cannot be found.")
            del self.loaded[name]
        return self._done(f"Success: LoRA adapter '{name}' removed successfully.")

    def reread(self) -> None:
        """Read all adapters again, as a server does that had no room to keep them in memory."""
        for path in self.loaded.values():
            require_loadable(Path(path), self.max_rank)

    def _done(self, said: str) -> tuple[int, Any]:
        if self.kind == "sglang":
            return 200, {"success": True, "error_message": None, "loaded_adapters": dict(self.loaded)}
        return 200, said

    def _failed(self, status: int, said: str) -> tuple[int, Any]:
        if self.kind == "sglang":
            return 400, {"success": False, "error_message": said, "loaded_adapters": None}
        kind = {400: "InvalidUserInput", 404: "NotFoundError"}.get(status, "InternalServerError")
        return status, {"error": {"message": said, "type": kind, "param": None, "code": status}}


def require_loadable(folder: Path, max_rank: int) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    if config["r"] > max_rank:
        raise ValueError(f"LoRA rank {config['r']} is greater than max_lora_rank {max_rank}.")
    if config.get("use_dora") or config.get("bias") != "none" or config.get("modules_to_save"):
        raise ValueError("vLLM does not yet support that")
    with safetensors.safe_open(str(folder / "adapter_model.safetensors"), "np") as tensors:
        for name in tensors.keys():  # noqa: SIM118  it is no mapping
            tensors.get_tensor(name)


@contextmanager
def serving(kind: Kind, base: str, *, root: str = "", port: int = 0) -> Iterator[tuple[LoraServer, str]]:
    found = LoraServer(kind, base, root or base)
    prefix = "/v1" if kind == "vllm" else ""
    acts = {f"{prefix}/load_lora_adapter": "load", f"{prefix}/unload_lora_adapter": "unload"}

    connections: set[socket.socket] = set()

    class Handler(StubHandler):
        def setup(self) -> None:
            super().setup()
            connections.add(self.connection)

        def do_GET(self) -> None:
            if self._is_let_in():
                self.reply_json(200, found.cards() if self.path == "/v1/models" else {"detail": "Not Found"})

        def do_POST(self) -> None:
            body = json.loads(self.body())
            if not self._is_let_in():
                return
            if self.path not in acts:
                self.reply_json(404, {"detail": "Not Found"})
                return
            found.asked.append(f"{self.path.rpartition('/')[2].partition('_')[0]} {body['lora_name']}")
            status, answer = getattr(found, acts[self.path])(body)
            if found.lost:
                found.lost -= 1
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            elif isinstance(answer, str):
                self.reply(status, answer.encode())
            else:
                self.reply_json(status, answer)

        def _is_let_in(self) -> bool:
            let_in = not found.key or self.headers.get("Authorization") == f"Bearer {found.key}"
            if not let_in:
                self.reply_json(401, {"error": "Unauthorized"})
            return let_in

    with serving_stub(Handler, port) as url:
        try:
            yield found, url
        finally:
            for connection in connections:  # who kept one is hung up on, as by a process that ends
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
