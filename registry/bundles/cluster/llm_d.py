"""llm-d: vLLM with the adapters as a folder, and an `InferenceModelRewrite` for what requests may call them otherwise.

An image cannot get another adapter while a pod runs: those in it are named at the start, and no request loads one.  A claim
can: there vLLM's resolver looks for a name that it does not know (vllm 0.32.0,
vllm/plugins/lora_resolvers/filesystem_resolver.py), for which it has to be allowed to load adapters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..layout import LayoutError
from .deployed import Deployed, Project
from .location import MOUNTED
from .manifest_text import Manifest
from .pods import deployment, vllm_container
from .rewrites import rewrite, rewritten_to

LABEL = "app"
"""By which the pool selects the pods."""


def _write(deployed: Deployed) -> dict[str, list[Manifest]]:
    selector = {LABEL: deployed.name}
    fixed = deployed.location.kind == "oci"
    modules = [f"{each.name}={MOUNTED}/{each.name}" for each in deployed.adapters]
    container = vllm_container(
        deployed,
        deployed.base.name,
        options=["--lora-modules", *modules] if fixed else [],
        variables=None if fixed else resolver(),
        mounts=[deployed.location.mount()],
    )
    server = deployment(
        deployed.metadata(deployed.name, selector),
        selector,
        deployed.pod_annotations(),
        [container],
        [deployed.location.volume()],
    )
    return {"server.yaml": [server], "rewrite.yaml": rewrite(deployed, deployed.name)}


def resolver() -> dict[str, str]:
    """Return the variables that let vLLM look adapters up in the mounted folder."""
    return {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": MOUNTED,
    }


def _adapters(files: Mapping[str, list[Manifest]]) -> list[str]:
    (server,) = files["server.yaml"]
    names = list(json.loads(server["metadata"]["annotations"]["fusery.adapters"]))
    (container,) = server["spec"]["template"]["spec"]["containers"]
    options = container["args"]
    if "--lora-modules" in options:
        modules = options[options.index("--lora-modules") + 1 :]
        if sorted(modules) != sorted(f"{name}={MOUNTED}/{name}" for name in names):
            raise LayoutError("vLLM would load another adapter than the name says")
    elif not {each["name"] for each in container["env"]} >= resolver().keys():
        raise LayoutError("vLLM would look for no adapter")
    if not set(rewritten_to(files.get("rewrite.yaml", []))) <= set(names):
        raise LayoutError("a rule for llm-d leads to an adapter that is not served")
    return names


LLM_D = Project(
    folder="llm-d",
    title="llm-d",
    takes=frozenset({"oci", "pvc"}),
    refuses=dict.fromkeys(("s3", "gs"), "vLLM reads adapters from a folder, and a bucket is none"),
    write=_write,
    adapters=_adapters,
)
