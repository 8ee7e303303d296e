"""The vLLM production stack: a `LoraAdapter` for each adapter, and values for its chart, whose pods have the adapters mounted.

Rules: vllm-project/production-stack at a6c01db, operator/api/v1alpha1/loraadapter_types.go and
operator/internal/controller/loraadapter_controller.go: of the types of sources only `local` and `huggingface` are there
(`discoverAdapter`); the pods are those whose label `model` is the base's name (`getOptimalPlacement`).  Values:
helm/templates/deployment-vllm-multi.yaml, where that label is the name in `modelSpec`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..layout import LayoutError
from .deployed import Deployed, Project
from .location import MOUNTED
from .manifest_text import Manifest
from .pods import HOME, MOUNTS, POD_SECURITY, RESOURCES, SCRATCH, SECURITY, size_options


def _write(deployed: Deployed) -> dict[str, list[Manifest]]:
    return {
        "adapters.yaml": [
            {
                "apiVersion": "production-stack.vllm.ai/v1alpha1",
                "kind": "LoraAdapter",
                "metadata": deployed.metadata_of(each),
                "spec": {
                    "baseModel": deployed.served_base,
                    "adapterSource": {
                        "type": "local",
                        "adapterName": each.name,
                        "adapterPath": f"{MOUNTED}/{each.name}",
                    },
                    "loraAdapterDeploymentConfig": {"algorithm": "default"},
                },
            }
            for each in deployed.adapters
        ],
        "values.yaml": [_values(deployed)],
    }


def _values(deployed: Deployed) -> Manifest:
    repository, tag = image_parts(deployed.image)
    variables = {**HOME, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    del variables["HF_HOME"]  # the chart sets it
    model: Manifest = {
        "name": deployed.served_base,
        "repository": repository,
        "tag": tag,
        "modelURL": deployed.base.name,
        "replicaCount": 1,
        "resources": RESOURCES,
        "enableLoRA": True,
        "vllmConfig": {"maxLoras": deployed.at_once, "extraArgs": size_options(deployed)},
        "podAnnotations": deployed.pod_annotations(),
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "extraVolumes": [*_others(SCRATCH), deployed.location.volume()],
        "extraVolumeMounts": [*_others(MOUNTS), deployed.location.mount()],
    }
    if deployed.base.revision:
        model["modelRevision"] = deployed.base.revision
    return {
        "servingEngineSpec": {
            "securityContext": POD_SECURITY,
            "containerSecurityContext": SECURITY,
            "modelSpec": [model],
        },
        "loraController": {"enableLoraController": True},
    }


def _others(volumes: list[Manifest]) -> list[Manifest]:
    """Return the volumes without that for shared memory, which the chart has a value for."""
    return [each for each in volumes if each["name"] != "shm"]


def image_parts(image: str) -> tuple[str, str]:
    """Return what is before and behind the colon that the chart puts between them; a digest has one as well."""
    before, colon, behind = image.rpartition(":")
    return (before, behind) if colon and "/" not in behind else (image, "latest")


def _adapters(files: Mapping[str, list[Manifest]]) -> list[str]:
    sources = [each["spec"]["adapterSource"] for each in files["adapters.yaml"]]
    if any(each["adapterPath"] != f"{MOUNTED}/{each['adapterName']}" for each in sources):
        raise LayoutError("the production stack would load another adapter than the name says")
    (values,) = files["values.yaml"]
    served = {each["name"] for each in values["servingEngineSpec"]["modelSpec"]}
    if {each["spec"]["baseModel"] for each in files["adapters.yaml"]} != served:
        raise LayoutError("the production stack would find no pods for the adapters")
    return [each["adapterName"] for each in sources]


PRODUCTION_STACK = Project(
    folder="production-stack",
    title="vLLM production stack",
    takes=frozenset({"oci", "pvc"}),
    refuses={
        "s3": "its controller says of `s3` that it is not implemented yet",
        "gs": "it takes adapters from no bucket",
    },
    write=_write,
    adapters=_adapters,
)
