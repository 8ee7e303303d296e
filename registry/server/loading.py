"""Adapters that come and go by request, where the server was started to allow it.

The two paths, their bodies and their answers are vLLM's (vllm/entrypoints/serve/lora/), so that what deploys adapters to
vLLM deploys them here.  An adapter's folder is in mlx-lm's form and lies below one folder that the server was started
with: a request must not make the server read what else is on the machine.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, ValidationError

from .bodies import read_object
from .calls import ClientGoneError
from .completing import announced, received
from .document import Adapter, Digest, Name, reason
from .errors import AdapterError, DocumentError, Refusal
from .keys import Keys
from .reload import Reloader

MOST_BYTES = 16 << 10
"""Of a request's body."""

B = TypeVar("B", bound="_Body")


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    lora_name: Name


class _Load(_Body):
    """What is to be loaded.

    Attributes:
        lora_name: under which it is served.
        lora_path: its folder.
        load_inplace: in place of what has that name; refused, since a name stands for the same bytes for ever.
        digest: that it is registered under, for `system_fingerprint` and `/v1/models`; not in vLLM's.
    """

    lora_path: str
    load_inplace: bool = False
    digest: Digest | None = None


def add_loading(app: FastAPI, keys: Keys, reloader: Reloader, root: Path) -> None:
    """Add the two paths.

    Args:
        app: to which.
        keys: who may ask; with keys, a tenant needs `loads`.
        reloader: what changes what is served.
        root: below which adapters may lie.
    """

    def require_allowed(request: Request) -> None:
        tenant = keys.authenticate(request.headers.get("authorization")).tenant
        if tenant is not None and not tenant.loads:
            raise Refusal(403, "this key may not load adapters", code="forbidden")

    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> Response:
        require_allowed(request)
        body = await _body(request, _Load)
        if body.load_inplace:
            raise Refusal(
                400,
                "an adapter is not replaced in place: a name stands for the same bytes",
                param="load_inplace",
            )
        folder = await asyncio.to_thread(_within, root, body.lora_path)
        try:
            await reloader.stand_beside(Adapter(name=body.lora_name, folder=str(folder), digest=body.digest))
        except (AdapterError, DocumentError) as error:
            raise Refusal(400, str(error), param="lora_name") from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> Response:
        require_allowed(request)
        body = await _body(request, _Body)
        if not await reloader.put_away(body.lora_name):
            raise Refusal(
                404,
                f"{body.lora_name[:100]!r} was not loaded by a request",
                param="lora_name",
                code="model_not_found",
            )
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _within(root: Path, path: str) -> Path:
    """Return a folder below another, links followed.

    Raises:
        Refusal: it is none; whether there is something elsewhere is not told.
    """
    try:
        found, whole = (root / path).resolve(), root.resolve()
        if found != whole and found.is_relative_to(whole) and found.is_dir():
            return found
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
        pass
    raise Refusal(404, "there is no such folder where this server may load adapters from", param="lora_path")


async def _body(request: Request, kind: type[B]) -> B:
    """Return a request's body.

    Raises:
        Refusal: it is not as it must be.
    """
    try:
        data = await received(request.receive, announced(request.headers, MOST_BYTES))
    except ClientGoneError as error:
        raise Refusal(400, "the request did not come to its end") from error
    try:
        return kind.model_validate(read_object(data))
    except ValidationError as error:
        raise Refusal(400, reason(error)) from error
