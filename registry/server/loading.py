"""Adapters that come and go by request, where the server was started to allow it.

The two paths, their bodies and their answers are vLLM's (vllm/entrypoints/serve/lora/), so that what deploys adapters to
vLLM deploys them here.  An adapter's folder is in mlx-lm's form and lies below one folder that the server was started
with: a request must not make the server read what else is on the machine (`shelf`).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from .bodies import DEFAULT_MODEL, read_object
from .calls import ClientGoneError
from .completing import announced, received
from .document import Adapter, Digest, Name, reason
from .errors import AdapterError, DocumentError, Refusal
from .keys import Keys
from .reload import Reloader
from .shelf import ShelfError, copied

LOG = logging.getLogger(__name__)

MOST_BYTES = 16 << 10
"""Of a request's body."""

B = TypeVar("B", bound="_Body")


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    lora_name: Name

    @field_validator("lora_name")
    @classmethod
    def _plain(cls, name: str) -> str:
        # It is shown in logs and lists, and asked for by people.
        if not name.isprintable() or not name.isascii() or name != name.strip() or name == DEFAULT_MODEL:
            raise ValueError("it is no name for an adapter")
        return name


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
        if "origin" in request.headers:
            raise Refusal(403, "web pages load no adapters, wherever they are from", code="forbidden")
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
        try:
            # Copied first, so that nothing changes, and nothing else is read, between the look and the loading.
            async with copied(root, body.lora_path) as folder:
                entry = Adapter(name=body.lora_name, folder=str(folder), digest=body.digest)
                await reloader.stand_beside(entry)
        except ShelfError as error:
            raise Refusal(error.status, str(error), param="lora_path") from error
        except (AdapterError, DocumentError) as error:
            raise Refusal(400, str(error), param="lora_name") from error
        LOG.info("%s was loaded by a request", body.lora_name)
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
        LOG.info("%s was unloaded by a request", body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


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
