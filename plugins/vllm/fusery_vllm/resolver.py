"""The resolver: what vLLM does not know is looked up in the registry, fetched once, and handed over as a folder."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver

if TYPE_CHECKING:
    from fusery.integrations.sync.resolving import Resolver

LOG = logging.getLogger("fusery_vllm")

_PORT = "8000"
"""vLLM's own."""


class FuseryResolver(LoRAResolver):
    """Asks the registry that the environment names; see `fusery.integrations.sync.resolving`."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._resolver: Resolver | None = None
        self._lock = threading.Lock()

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Return the adapter that a name means, None if the registry has none of that name.

        Raises:
            ValueError: the adapter must not be served; the client receives the message.
            RuntimeError: the registry cannot be asked; the log has the reason.
        """
        # Asking takes a while, and the loop is that of all answers.
        return await asyncio.to_thread(self._resolved, base_model_name, lora_name)

    def _resolved(self, base: str, name: str) -> LoRARequest | None:
        from fusery.integrations.sync.resolving import NotServedError, max_lora_rank
        from fusery.storage.errors import FuseryError

        try:
            found = self._opened().resolve(name, base, max_rank=max_lora_rank(sys.argv))
        except NotServedError as refused:
            hint = f" ({refused.hint})" if refused.hint else ""
            LOG.warning("%s%s", refused, hint)
            raise ValueError(str(refused)) from refused
        except (FuseryError, OSError) as error:
            LOG.error("%r cannot be fetched: %s", name[:100], error)
            raise RuntimeError("the registry of adapters cannot be asked at the moment") from None
        if found is None:
            return None
        return LoRARequest(
            lora_name=name, lora_int_id=1, lora_path=str(found.folder)
        )  # vLLM gives its own number

    def _opened(self) -> Resolver:
        with self._lock:
            if self._resolver is None:
                from fusery.integrations.sync.resolving import resolver_of_environment

                place = f"vllm@{socket.gethostname()}:{_port(sys.argv)}"
                self._resolver = resolver_of_environment(os.environ, "vllm", place)
                atexit.register(self._resolver.close)
            return self._resolver


def _port(arguments: list[str]) -> str:
    """Return the port that vLLM was started with."""
    for place, word in enumerate(arguments):
        if word == "--port" and place + 1 < len(arguments):
            return arguments[place + 1]
        if word.startswith("--port="):
            return word.partition("=")[2]
    return _PORT
