"""Which registry a server asks, and how: from the environment of that server, for its plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs

from ..errors import BadInputError
from ..settings.settings import Settings
from ..workspace import Workspace
from .resolving import Resolver
from .sources import AdapterSource, OwnRegistry, RegistryOverHttp

SERVER = "FUSERY_SERVER"
"""URL of `fusery server`, which is asked with `FUSERY_TOKEN`; without it, the registry of the other settings."""

_MAX_LORA_RANK = 16
"""vLLM's default for `--max-lora-rank` (vllm/config/lora.py)."""


def resolver_of_environment(
    environment: Mapping[str, str], via: str, place: str, *, root: Path | None = None
) -> Resolver:
    """Return what finds adapters for a server.

    `FUSERY_SERVER` and `FUSERY_TOKEN`, or the settings of a registry (`FUSERY_REGISTRY`, `FUSERY_DATABASE_URL`, ...), say where from.
    `FUSERY_SERVED_FILES` is the folder for the adapters' files, one for all servers of a machine; `FUSERY_SERVED_BASE` the base in
    the registry that the server has; `FUSERY_VLLM_ALIASES=pin` (`FUSERY_DYNAMO_ALIASES`) takes an alias for what it first means;
    `FUSERY_SERVED_AT` is what deployments call the server, and `-` records none.

    Args:
        environment: the variables.
        via: what resolves: `vllm`, `dynamo`.
        place: what deployments call the server where nothing is said.
        root: the folder for files where nothing is said; None for one in the user's cache.

    Raises:
        BadInputError: a variable is not acceptable, or there is no token for the server.
    """
    variable = f"FUSERY_{via.upper()}_ALIASES"
    aliases = environment.get(variable, "")
    if aliases not in ("", "pin"):
        raise BadInputError(f"{variable} is {aliases[:40]!r}", hint=f"{variable}=pin, or unset it")
    said = environment.get("FUSERY_SERVED_FILES")
    folder = (
        Path(said).expanduser() if said else root or Path(platformdirs.user_cache_dir("fusery")) / "served"
    )
    at = environment.get("FUSERY_SERVED_AT") or place
    return Resolver(
        _source(environment),
        folder.absolute(),
        place="" if at == "-" else at,
        via=via,
        aliases=aliases == "pin",
        base=environment.get("FUSERY_SERVED_BASE") or None,
    )


def _source(environment: Mapping[str, str]) -> AdapterSource:
    if url := environment.get(SERVER):
        return RegistryOverHttp(url)
    return OwnRegistry(Workspace(Settings.load()))


def max_lora_rank(arguments: Sequence[str]) -> int | None:
    """Return the largest rank that vLLM loads, from its command line; None if it is not known."""
    words = [part for argument in arguments for part in argument.split("=", 1)]
    names = [word.replace("_", "-") for word in words]
    given = [value for name, value in zip(names, words[1:], strict=False) if name == "--max-lora-rank"]
    if "--max-lora-rank" in names:
        return int(given[-1]) if given and given[-1].isdecimal() else None
    # A configuration file may set it.
    return _MAX_LORA_RANK if "--enable-lora" in names and "--config" not in names else None
