"""`serving.json`: the base, the adapters, the names by which they are asked for, and who may ask.

```json
{
  "format": 1,
  "base": {"name": "SmolLM2-135M-Instruct", "folder": "base", "digest": "9f2c..."},
  "adapters": [
    {"name": "course_rec_v1_20260115", "folder": "adapters/course_rec_v1_20260115", "digest": "51ab..."},
    {"name": "course_rec_v2_20260302", "folder": "adapters/course_rec_v2_20260302", "digest": "77e0..."}
  ],
  "routes": {
    "course_rec#prod": "course_rec_v1_20260115",
    "course_rec": {"course_rec_v1_20260115": 0.9, "course_rec_v2_20260302": 0.1}
  },
  "tenants": [
    {"name": "acme", "key_sha256": ["..."], "models": ["course_rec"], "concurrent": 16, "metrics": false}
  ],
  "limits": {"context": 8192, "max_tokens": 4096, "waiting": 256, "batch": 32, "body_bytes": 327680,
             "prompt_cache_bytes": 1073741824}
}
```

Folders are relative to the document's own.  An adapter's folder is in mlx-lm's form (`adapters.safetensors`,
`adapter_config.json`).  Each adapter and the base can be asked for under their own names, and under the names in
`routes`: a name leads to one adapter, to the base, or to several with weights.  Without `tenants` everybody may ask;
with them, a request needs one of their keys, of which the document has SHA-256 digests only (`printf %s KEY | sha256sum`), and
sees the models that its tenant is allowed: null for all.  Tenants are followed on their own (`keys`): what becomes of the rest of the
document, or of this part of it, lets nobody in who is not to be.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import DocumentError

MAX_BYTES = 16 << 20  # bytes of a document: some ten thousand tenants

Name = Annotated[str, Field(min_length=1, max_length=300)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]


DRAIN_SECONDS = 25
"""Time to finish what is being answered; Kubernetes kills after 30 s, `docker stop` after 10 s unless told (-t)."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a document is served."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 for any
    drain: int = DRAIN_SECONDS  # seconds to finish what is being answered
    api_keys: Path | None = None  # TOML file of tenants; None for those of the document
    # names that requests may be for, besides addresses, localhost and `host`; `*` for all
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()  # web pages that may ask and read answers; `*` for all
    adapters_from: Path | None = None  # below which requests may have adapters loaded; None for nowhere


class _DocumentPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ServedBase(_DocumentPart):
    """The base model."""

    name: Name  # to ask for the base without an adapter
    folder: str  # as mlx-lm loads it
    digest: Digest | None = None  # of the base, for `system_fingerprint`
    # folder of the tokenizer that the adapters were trained with; None for the base's
    tokenizer: str | None = None


class ServedAdapter(_DocumentPart):
    """One adapter: its full name, its folder in mlx-lm's form, the digest it is registered under."""

    name: Name
    folder: str
    digest: Digest | None = None


class Tenant(_DocumentPart):
    """Somebody with keys."""

    name: Name  # for metrics; no secret
    key_sha256: Annotated[list[Digest], Field(min_length=1)]  # digests of the keys
    # the public names that may be asked for, whether they are served at the moment or not; None for all
    models: list[Name] | None = None
    # how many answers at once, waiting ones included; None for no limit of its own
    concurrent: Count | None = None
    metrics: bool = False  # may read `/metrics`, which names all models
    loads: bool = False  # may have adapters loaded and unloaded, where the server was started to allow that


class ServingLimits(_DocumentPart):
    """What a request may use."""

    # tokens of prompt and answer together; None for what the base's configuration says
    context: Count | None = None
    max_tokens: Count = 4096
    waiting: Count = 256  # answers at once, in progress or waiting; more are told to come back
    # answers that are written in one pass over the base; with several tenants up to twice as many
    batch: Annotated[int, Field(ge=1, le=1024)] = 32
    body_bytes: Count | None = None  # bytes of a request; None for what the context can hold
    # bytes of prompts that were read and are kept for later ones that begin alike; 0 for none
    prompt_cache_bytes: Annotated[int, Field(ge=0)] = 1 << 30


class ServingDocument(_DocumentPart):
    """`serving.json`, checked: names are unique and routes lead somewhere.

    A tenant may be allowed what is not there: what one may use must not keep the others from what is new.
    """

    format: Literal[1]
    base: ServedBase
    adapters: list[ServedAdapter] = []
    routes: dict[Name, Name | dict[Name, float]] = {}
    tenants: list[Tenant] = []
    limits: ServingLimits = ServingLimits()

    @field_validator("routes")
    @classmethod
    def _weights(cls, routes: dict[str, str | dict[str, float]]) -> dict[str, str | dict[str, float]]:
        for name, target in routes.items():
            weights = target.values() if isinstance(target, dict) else [1.0]
            if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights) > 0:
                raise ValueError(f"the weights of {name!r} must be 0 or more, and not all 0")
        return routes

    @model_validator(mode="after")
    def _consistent(self) -> ServingDocument:
        own = [self.base.name, *(adapter.name for adapter in self.adapters)]
        _require_unique(own, "name")
        check_tenants(self.tenants)
        for name, target in self.routes.items():
            if name in own and target != name:
                raise ValueError(f"the route {name!r} has the name of something else")
            for part in [target] if isinstance(target, str) else target:
                if part not in own:
                    raise ValueError(f"the route {name!r} leads to {part!r}, which is not there")
        return self


def check_tenants(tenants: list[Tenant]) -> list[Tenant]:
    """Return tenants whose names and keys are unique."""
    _require_unique([tenant.name for tenant in tenants], "tenant")
    _require_unique([key for tenant in tenants for key in tenant.key_sha256], "key")
    return tenants


def read_file(path: Path) -> bytes:
    """Return the content of a file that may be anything by now; nothing is waited for."""
    try:
        descriptor = os.open(
            path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )  # a pipe's other end may never come
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DocumentError(f"{path} is no regular file, which could be read again")
            data = bytearray()
            while len(data) <= MAX_BYTES and (piece := os.read(descriptor, MAX_BYTES + 1 - len(data))):
                data += piece
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if len(data) > MAX_BYTES:
        raise DocumentError(f"{path} is longer than {MAX_BYTES >> 20} MiB")
    return bytes(data)


def read_document(path: Path) -> ServingDocument:
    """Read and check a document."""
    data = read_file(path)
    try:
        return ServingDocument.model_validate(json.loads(data))
    except ValidationError as error:
        raise DocumentError(f"{path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{path} is not JSON: {error}") from error


def reason(error: ValidationError) -> str:
    """Return the first thing that is wrong with a document, and where."""
    first_error: Any = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first_error["loc"])
    message = str(first_error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _require_unique(values: list[str], what: str) -> None:
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise ValueError(f"the {what} {twice[:100]!r} is there twice")
