"""AIBrix: a `ModelAdapter` for each adapter, and the base that they are loaded on.

Rules: vllm-project/aibrix at e3e10f9, api/model/v1alpha1/modeladapter_types.go, pkg/utils/modeladapter.go (`gcs://`, not
`gs://`), pkg/controller/modeladapter/lora_client.go (an adapter is served by the name of its object; a path goes to vLLM as it
is, unless there is a container `aibrix-runtime`, which takes URLs alone), python/aibrix/aibrix/runtime/downloaders.py (a URL
without a slash at its end is one file) and samples/adapter/base.yaml (labels, and the service of the same name).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..layout import LayoutError
from .deployed import Deployed, DeployedAdapter, Project
from .location import MOUNTED
from .manifest_text import Manifest
from .object_names import object_name
from .pods import PORT, SECURITY, deployment, vllm_container

NAME, ENABLED = "model.aibrix.ai/name", "adapter.model.aibrix.ai/enabled"
RUNTIME = "aibrix/runtime:v0.7.0"
SECRET = "adapter-store"
"""Name of the secret that the bucket is read with."""

_FETCHED = "/tmp/aibrix/adapters"
_SCHEMES = {"s3": "s3", "gs": "gcs"}


def _write(deployed: Deployed) -> dict[str, list[Manifest]]:
    return {
        "base.yaml": _base(deployed),
        "adapters.yaml": [_adapter(deployed, each) for each in deployed.adapters],
    }


def _adapter(deployed: Deployed, adapter: DeployedAdapter) -> Manifest:
    spec: Manifest = {
        "baseModel": deployed.served_base,
        "podSelector": {"matchLabels": {NAME: deployed.served_base, ENABLED: "true"}},
    }
    if deployed.location.mountable:
        spec["artifactURL"] = f"{MOUNTED}/{adapter.name}"
    else:
        scheme = _SCHEMES[deployed.location.kind]
        spec["artifactURL"] = f"{scheme}://{deployed.location.place}/adapters/{adapter.name}/"
        spec["credentialsSecretRef"] = {"name": SECRET}
    return {
        "apiVersion": "model.aibrix.ai/v1alpha1",
        "kind": "ModelAdapter",
        "metadata": deployed.metadata_of(adapter, {NAME: adapter.object, "model.aibrix.ai/port": str(PORT)}),
        "spec": spec,
    }


def _base(deployed: Deployed) -> list[Manifest]:
    selector = {NAME: deployed.served_base, ENABLED: "true"}
    variables = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    mountable = deployed.location.mountable
    fetched = {"name": "fetched", "mountPath": _FETCHED}
    mount = deployed.location.mount() if mountable else fetched
    containers = [vllm_container(deployed, deployed.served_base, variables=variables, mounts=[mount])]
    if not mountable:
        containers.append(_runtime(fetched))
    volume = deployed.location.volume() if mountable else {"name": "fetched", "emptyDir": {}}
    labels = {**selector, "model.aibrix.ai/port": str(PORT)}
    metadata = deployed.metadata(deployed.served_base, labels)
    ports = [{"name": "serve", "port": PORT, "protocol": "TCP", "targetPort": PORT}]
    return [
        deployment(metadata, selector, deployed.pod_annotations(), containers, [volume]),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": deployed.metadata(deployed.served_base, {NAME: deployed.served_base}),
            "spec": {"type": "ClusterIP", "selector": {NAME: deployed.served_base}, "ports": ports},
        },
    ]


def _runtime(fetched: Manifest) -> Manifest:
    """Return the container that fetches adapters into a folder that vLLM has as well."""
    return {
        "name": "aibrix-runtime",
        "image": RUNTIME,
        "command": ["aibrix_runtime", "--port", "8080"],
        "env": [
            {"name": "INFERENCE_ENGINE", "value": "vllm"},
            {"name": "INFERENCE_ENGINE_ENDPOINT", "value": f"http://localhost:{PORT}"},
            {"name": "HOME", "value": "/tmp"},
        ],
        "ports": [{"name": "runtime", "containerPort": 8080}],
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": SECURITY,
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "runtime"}, "periodSeconds": 10},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "runtime"}, "periodSeconds": 10},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, fetched],
    }


def _adapters(files: Mapping[str, list[Manifest]]) -> list[str]:
    base, service = files["base.yaml"]
    pods = base["spec"]["template"]["metadata"]["labels"]
    names = []
    for each in files["adapters.yaml"]:
        name = each["spec"]["artifactURL"].rstrip("/").rpartition("/")[2]
        if each["metadata"]["name"] != object_name(name):
            raise LayoutError("AIBrix would serve an adapter by another's name")
        wanted = each["spec"]["podSelector"]["matchLabels"]
        if not wanted.items() <= pods.items() or service["metadata"]["name"] != each["spec"]["baseModel"]:
            raise LayoutError("AIBrix would find no pods for the adapters")
        names.append(name)
    return names


AIBRIX = Project(
    folder="aibrix",
    title="AIBrix",
    takes=frozenset({"s3", "gs", "oci", "pvc"}),
    refuses={},
    write=_write,
    adapters=_adapters,
)
