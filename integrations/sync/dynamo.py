"""NVIDIA Dynamo's `DYN_LORA_DOWNLOADER_PLUGIN`, protocol 2 (ai-dynamo/dynamo, components/src/dynamo/common/lora/runtime.py)."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .resolving import Resolver

SCHEME = "fusery"


class Downloader:
    """Resolve `fusery://NAME`, with the variables of `resolver_of_environment`."""

    protocol_version = 2
    schemes = frozenset({SCHEME})

    def __init__(self) -> None:
        self._resolver: Resolver | None = None
        self._lock = threading.Lock()

    async def resolve(self, *, source_uri: str, context: Any) -> Any:
        """Return Dynamo's `ResolvedLoRA` for a URI; None if the registry has no such adapter."""
        return await asyncio.to_thread(self._resolve, source_uri, context)

    def _resolve(self, uri: str, context: Any) -> Any:
        from dynamo.common.lora.runtime import (  # type: ignore[import-not-found]  # Dynamo's worker has it
            ResolvedLoRA,
            RuntimeLoRANotFoundError,
            RuntimeLoRAResolverUnavailableError,
        )

        from fusery.storage.errors import FuseryError

        from .resolving import NotServedError, max_lora_rank

        scheme, _, rest = uri.partition(":")
        name = rest.removeprefix("//").strip("/")
        if scheme.lower() != SCHEME or not name:
            return None
        limits = {"max_rank": max_lora_rank(sys.argv), "max_bytes": context.max_download_bytes}
        try:
            adapter = self._open(context).resolve(name, context.base_model_name, **limits)
        except NotServedError as error:
            raise RuntimeLoRANotFoundError(str(error)) from error
        except (FuseryError, OSError) as error:
            raise RuntimeLoRAResolverUnavailableError("the registry of adapters is unreachable") from error
        if adapter is None:
            return None
        return ResolvedLoRA(
            local_path=adapter.folder,
            source_revision=f"sha256:{adapter.digest}",
            size_bytes=adapter.nbytes,
            metadata={"adapter": adapter.name, "modules": str(adapter.modules)},
        )

    def _open(self, context: Any) -> Resolver:
        with self._lock:
            if self._resolver is None:
                import atexit

                from .resolving import resolver_of_environment

                environment = {**os.environ, "FUSERY_SERVED_FILES": str(context.cache_root / "fusery")}
                place = f"dynamo@{socket.gethostname()}:{os.getpid()}"
                self._resolver = resolver_of_environment(environment, "dynamo", place)
                atexit.register(self._resolver.close)
            return self._resolver
