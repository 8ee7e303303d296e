"""A pod that runs vLLM: not as root, with nothing to write to but volumes of its own.

Options and variables: vllm 0.32.0, vllm/engine/arg_utils.py and vllm/envs.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .deployed import Deployed
from .manifest_text import Manifest

PORT = 8000
USER = 2000
"""Number of the user; any will do that is not root's."""

RESOURCES: Manifest = {
    "requests": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"},
    "limits": {"nvidia.com/gpu": "1"},
}
"""One processor of NVIDIA's, and what a model of a few billion parameters takes besides: to be fitted to the base."""

POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
HOME = {"HOME": "/cache", "USER": "vllm", "HF_HOME": "/cache/huggingface"}
"""For a user without an entry of its own in the image."""

SCRATCH: list[Manifest] = [
    {"name": "cache", "emptyDir": {}},
    {"name": "tmp", "emptyDir": {}},
    {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
]
MOUNTS: list[Manifest] = [
    {"name": "cache", "mountPath": "/cache"},
    {"name": "tmp", "mountPath": "/tmp"},
    {"name": "shm", "mountPath": "/dev/shm"},
]


def size_options(deployed: Deployed) -> list[str]:
    """Return vLLM's options for adapters of this size and number, without that for how many a batch may have."""
    return ["--max-lora-rank", str(deployed.rank), "--max-cpu-loras", str(len(deployed.adapters))]


def vllm_container(
    deployed: Deployed,
    served_base: str,
    *,
    options: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    mounts: Sequence[Manifest] = (),
) -> Manifest:
    """Return a container with vLLM.

    Args:
        deployed: what it serves.
        served_base: what requests call the base.
        options: further ones, at the end.
        variables: further ones of the environment.
        mounts: further folders.
    """
    revision = ["--revision", deployed.base.revision] if deployed.base.revision else []
    environment = {**HOME, **(variables or {})}
    # Only a model that the hub does not show to everybody needs the token.
    token = {"secretKeyRef": {"name": "hf-token", "key": "token", "optional": True}}
    return {
        "name": "vllm",
        "image": deployed.image,
        "command": ["vllm", "serve"],
        "args": [
            deployed.base.name,
            *revision,
            "--port",
            str(PORT),
            "--served-model-name",
            served_base,
            "--enable-lora",
            "--max-loras",
            str(deployed.at_once),
            *size_options(deployed),
            *options,
        ],
        "env": [
            *({"name": name, "value": value} for name, value in environment.items()),
            {"name": "HF_TOKEN", "valueFrom": token},
        ],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": RESOURCES,
        "securityContext": SECURITY,
        "startupProbe": {"httpGet": _health(), "periodSeconds": 10, "failureThreshold": 180},
        "readinessProbe": {"httpGet": _health(), "periodSeconds": 5},
        "livenessProbe": {"httpGet": _health(), "periodSeconds": 10, "failureThreshold": 6},
        "volumeMounts": [*MOUNTS, *mounts],
    }


def _health() -> Manifest:
    return {"path": "/health", "port": "http"}


def deployment(
    metadata: Manifest,
    selector: Mapping[str, str],
    annotations: Mapping[str, str],
    containers: Sequence[Manifest],
    volumes: Sequence[Manifest],
) -> Manifest:
    """Return a deployment of one pod.

    Args:
        metadata: its own.
        selector: labels of the pods.
        annotations: of the pods.
        containers: of a pod.
        volumes: besides those of every such pod.
    """
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": dict(selector)},
            "template": {
                "metadata": {
                    "labels": {**metadata["labels"], **selector},
                    "annotations": dict(annotations),
                },
                "spec": {
                    "automountServiceAccountToken": False,
                    "securityContext": POD_SECURITY,
                    "containers": list(containers),
                    "volumes": [*SCRATCH, *volumes],
                },
            },
        },
    }
