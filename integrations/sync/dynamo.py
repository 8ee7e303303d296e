"""NVIDIA Dynamo asks a registry for adapters: the object that `DYN_LORA_DOWNLOADER_PLUGIN` names.

`DYN_LORA_DOWNLOADER_PLUGIN=fusery.integrations.sync.dynamo:Downloader`, `DYN_LORA_ALLOWED_SCHEMES=fusery`; a request's model is
`BASE|fusery://course_rec_v2_20261124`.  Protocol 2 as in ai-dynamo/dynamo, components/src/dynamo/common/lora/runtime.py and
components/src/dynamo/vllm/runtime_lora_validation.py (November 2026): the folder lies below `DYN_LORA_PATH`, holds nothing but
the two files, none of them a link, calls the base as the request does, and stays as it is while the worker lives.
"""

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
    """Finds what `fusery://NAME` means; see `fusery.integrations.sync.resolving` for what it reads of the environment."""

    protocol_version = 2
    schemes = frozenset({SCHEME})

    def __init__(self) -> None:
        """Open nothing yet."""
        self._resolver: Resolver | None = None
        self._lock = threading.Lock()

    async def resolve(self, *, source_uri: str, context: Any) -> Any:
        """Return Dynamo's `ResolvedLoRA` for a URI, None where the registry has none of that name."""
        return await asyncio.to_thread(self._resolved, source_uri, context)

    def _resolved(self, uri: str, context: Any) -> Any:
        from dynamo.common.lora.runtime import (  # type: ignore[import-not-found]  # there where it asks
            ResolvedLoRA,
            RuntimeLoRANotFoundError,
            RuntimeLoRAResolverUnavailableError,
        )

        from fusery.storage.errors import FuseryError

        from .resolving import NotServedError, max_lora_rank

        scheme, colon, rest = uri.partition(":")
        name = rest.removeprefix("//").strip("/")
        if not colon or scheme.lower() != SCHEME or not name:
            return None
        try:
            found = self._opened(context).resolve(
                name,
                context.base_model_name,
                max_rank=max_lora_rank(sys.argv),
                max_bytes=context.max_download_bytes,
            )
        except NotServedError as refused:
            raise RuntimeLoRANotFoundError(str(refused)) from refused
        except (FuseryError, OSError) as error:
            raise RuntimeLoRAResolverUnavailableError("the registry of adapters cannot be asked") from error
        if found is None:
            return None
        return ResolvedLoRA(
            local_path=found.folder,
            source_revision=f"sha256:{found.digest}",
            size_bytes=found.nbytes,
            metadata={"adapter": found.name, "modules": str(found.modules)},
        )

    def _opened(self, context: Any) -> Resolver:
        with self._lock:
            if self._resolver is None:
                import atexit

                from .resolving import resolver_of_environment

                root = context.cache_root / "fusery"
                environment = {
                    key: value for key, value in os.environ.items() if key != "FUSERY_SERVED_FILES"
                }
                self._resolver = resolver_of_environment(
                    environment, "dynamo", f"dynamo@{socket.gethostname()}:{os.getpid()}", root=root
                )
                atexit.register(self._resolver.close)
            return self._resolver
