"""`serving.json`: the base model, the adapters, their public names, and the tenants.

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

Folders are relative to the document's.  An adapter's folder is in mlx-lm's form (`adapters.safetensors`,
`adapter_config.json`).  Requests name an adapter, the base model, or a route: another name of one of them, or a split with
weights.  With `tenants`, a request needs one of their keys, of which the document has the SHA-256 digests
(`printf %s KEY | sha256sum`), and sees the `models` of its tenant; null for all.  The module `keys` reads tenants separately:
an error in the rest of the document admits no revoked key.
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


DRAIN_SECONDS = 25  # to finish running answers; Kubernetes kills after 30 s


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of a server."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 for any
    drain: int = DRAIN_SECONDS  # seconds to finish running answers
    api_keys: Path | None = None  # TOML file of tenants; None for those of the document
    hosts: Sequence[str] = ()  # accepted host names besides addresses, localhost and `host`; `*` for all
    adapters_from: Path | None = None  # folder below which requests may load adapters


class _DocumentPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ServedBase(_DocumentPart):
    """The base model."""

    name: Name  # the model name of requests without an adapter
    folder: str  # in mlx-lm's form
    digest: Digest | None = None  # for `system_fingerprint`
    tokenizer: str | None = None  # folder of the adapters' tokenizer; None for the base model's


class ServedAdapter(_DocumentPart):
    """An adapter: its full name, its folder in mlx-lm's form, its registered digest."""

    name: Name
    folder: str
    digest: Digest | None = None


class Tenant(_DocumentPart):
    """A client with API keys."""

    name: Name  # a label of metrics
    key_sha256: Annotated[list[Digest], Field(min_length=1)]
    models: list[Name] | None = None  # allowed public names, served or not; None for all
    concurrent: Count | None = None  # answers at once, running and waiting
    metrics: bool = False  # may read `/metrics`, which names all models
    loads: bool = False  # may load and unload adapters, if the server allows it


class ServingLimits(_DocumentPart):
    """Limits of requests."""

    context: Count | None = None  # tokens of prompt and answer together; None for the base model's
    max_tokens: Count = 4096
    waiting: Count = 256  # answers at once, running and waiting; more get 429
    batch: Annotated[int, Field(ge=1, le=1024)] = 32  # running answers; twice as many of several tenants
    body_bytes: Count | None = None  # of a request; None for the size of the context
    prompt_cache_bytes: Annotated[int, Field(ge=0)] = 1 << 30  # 0 for no prompt cache


class ServingDocument(_DocumentPart):
    """`serving.json`: names are unique, and routes lead to models; tenants may name models that are not served."""

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
    """Return the content of a regular file; a pipe is refused without waiting for its other end."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DocumentError(f"{path} is no regular file, which could be read again")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {str(error.strerror).lower()}") from error
    if len(data) > MAX_BYTES:
        raise DocumentError(f"{path} is longer than {MAX_BYTES >> 20} MiB")
    return data


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
    """Return the first error of a document, and its place."""
    first_error: Any = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first_error["loc"])
    message = str(first_error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _require_unique(values: list[str], what: str) -> None:
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise ValueError(f"the {what} {twice[:100]!r} is there twice")
