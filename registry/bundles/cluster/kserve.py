"""KServe: an `LLMInferenceService` with the base, and adapters that its storage initializer fetches.

Rules: kserve/kserve at aaac4e2, pkg/apis/serving/v1alpha2/llm_inference_service_types.go and
pkg/controller/v1alpha2/llmisvc/workload_lora.go: adapters come from `hf://`, `s3://` or `pvc://`, never from `oci://`.
With `pvc://` a volume is named after the adapter as it is (`attachLoRAAdapters`), and a volume's name takes no underscore.
The pool is called after the service (llm_inference_service_types_func.go).  A base's revision follows its id
(python/storage/kserve_storage/kserve_storage.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..layout import LayoutError
from .deployed import Deployed, Project
from .manifest_text import Manifest
from .pods import RESOURCES
from .rewrites import rewrite, rewritten_to

POOL = "-inference-pool"
"""What KServe puts behind the service's name; a name that is too long for that would be cut."""


def _write(deployed: Deployed) -> dict[str, list[Manifest]]:
    revision = f":{deployed.base.revision}" if deployed.base.revision else ""
    lora = {
        "maxRank": deployed.rank,
        "maxAdapters": deployed.at_once,
        # KServe registers each adapter by its name, and by a longer one.
        "maxCpuAdapters": 2 * len(deployed.adapters),
        "adapters": [
            {"name": each.name, "uri": f"{deployed.location.text}/adapters/{each.name}"}
            for each in deployed.adapters
        ],
    }
    main: Manifest = {"name": "main", "resources": RESOURCES}
    if deployed.image_given:
        main["image"] = deployed.image
    service: Manifest = {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": deployed.metadata(deployed.name),
        "spec": {
            "model": {
                "uri": f"hf://{deployed.base.name}{revision}",
                "name": deployed.base.name,
                "lora": lora,
            },
            "replicas": 1,
            "router": {"gateway": {}, "route": {}, "scheduler": {}},
            "template": {"containers": [main]},
        },
    }
    return {"service.yaml": [service], "rewrite.yaml": rewrite(deployed, deployed.name + POOL)}


def _adapters(files: Mapping[str, list[Manifest]]) -> list[str]:
    (service,) = files["service.yaml"]
    adapters = service["spec"]["model"]["lora"]["adapters"]
    if any(not each["uri"].endswith(f"/adapters/{each['name']}") for each in adapters):
        raise LayoutError("KServe would fetch another adapter than the name says")
    names = [each["name"] for each in adapters]
    if not set(rewritten_to(files.get("rewrite.yaml", []))) <= set(names):
        raise LayoutError("a rule for KServe leads to an adapter that is not served")
    return names


KSERVE = Project(
    folder="kserve",
    title="KServe",
    takes=frozenset({"s3"}),
    refuses={
        "gs": "it takes adapters from `s3://` and `hf://` only",
        "oci": "it takes no adapters from images",
        "pvc": "it names a volume after each adapter, and the names of volumes take no underscore",
    },
    write=_write,
    adapters=_adapters,
)
