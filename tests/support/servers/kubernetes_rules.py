"""What Kubernetes and the projects that serve adapters in it take: every field that there is, where a manifest of ours has some.

Written down from the sources that are named, as small as they are there; a field that is not listed is an error, as it is with
`kubectl apply` (strict validation of fields).

- kserve/kserve, config/crd/full/llmisvc/serving.kserve.io_llminferenceservices.yaml and
  pkg/apis/serving/v1alpha2/llm_inference_service_types.go, at aaac4e294dae of 2026-08-21
- Kubernetes 1.33: apps/v1 Deployment, v1 Service and the pod in the former
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jsonschema

Schema = dict[str, Any]
Manifest = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
TRUTH: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$"}
PORT: Schema = {
    "anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, {"pattern": "^[a-z][a-z0-9-]{0,14}$"}]
}

SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
LABEL_NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
NAME: Schema = {"type": "string", "pattern": SUBDOMAIN, "maxLength": 253}
LABEL: Schema = {"type": "string", "pattern": f"^{LABEL_NAME}$"}
SERVICE_NAME: Schema = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"}
KEY = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE: Schema = {"type": "string", "pattern": r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"}


def obj(needed: str = "", /, **fields: Schema) -> Schema:
    """Return an object that has no other fields than these."""
    return {"type": "object", "properties": fields, "required": needed.split(), "additionalProperties": False}


def each(item: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": item, "minItems": least}


def words(*known: str) -> Schema:
    return {"enum": list(known)}


def mapping(value: Schema) -> Schema:
    return {"type": "object", "patternProperties": {KEY: value}, "additionalProperties": False}


LABELS = mapping(LABEL_VALUE)
ANNOTATIONS = mapping({"type": "string"})
METADATA = obj("name", name=NAME, namespace=LABEL, labels=LABELS, annotations=ANNOTATIONS)
RESOURCES = obj(requests=mapping(QUANTITY), limits=mapping(QUANTITY))

VARIABLE = obj(
    "name",
    name=TEXT,
    value={"type": "string"},
    valueFrom=obj("secretKeyRef", secretKeyRef=obj("name key", name=NAME, key=TEXT, optional=TRUTH)),
)
PROBE = obj(
    "httpGet",
    httpGet=obj("port", path=TEXT, port=PORT, scheme=words("HTTP", "HTTPS")),
    initialDelaySeconds=COUNT,
    periodSeconds=COUNT,
    timeoutSeconds=COUNT,
    failureThreshold=COUNT,
)
MOUNT = obj(
    "name mountPath",
    name=LABEL,
    mountPath={"type": "string", "pattern": "^/[^:]*$"},
    readOnly=TRUTH,
    subPath={"type": "string", "pattern": r"^(?!/)(?!.*(^|/)\.\.(/|$)).+$"},
)
VOLUME = {
    **obj(
        "name",
        name=LABEL,
        emptyDir=obj(medium=words("", "Memory"), sizeLimit=QUANTITY),
        image=obj("reference", reference=TEXT, pullPolicy=words("Always", "IfNotPresent", "Never")),
        persistentVolumeClaim=obj("claimName", claimName=NAME, readOnly=TRUTH),
    ),
    "minProperties": 2,
    "maxProperties": 2,
}
SECURITY = obj(
    runAsNonRoot=TRUTH,
    runAsUser=COUNT,
    runAsGroup=COUNT,
    allowPrivilegeEscalation=TRUTH,
    readOnlyRootFilesystem=TRUTH,
    privileged=TRUTH,
    capabilities=obj(add=each(TEXT), drop=each(TEXT)),
)
POD_SECURITY = obj(
    runAsNonRoot=TRUTH,
    runAsUser=COUNT,
    runAsGroup=COUNT,
    fsGroup=COUNT,
    seccompProfile=obj("type", type=words("RuntimeDefault", "Unconfined", "Localhost")),
)
CONTAINER = obj(
    "name image",
    name=LABEL,
    image=TEXT,
    command=each(TEXT),
    args=each(TEXT),
    env=each(VARIABLE),
    ports=each(obj("containerPort", name=PORT, containerPort=PORT, protocol=words("TCP", "UDP"))),
    resources=RESOURCES,
    securityContext=SECURITY,
    startupProbe=PROBE,
    readinessProbe=PROBE,
    livenessProbe=PROBE,
    volumeMounts=each(MOUNT),
)
POD = obj(
    "containers",
    automountServiceAccountToken=TRUTH,
    serviceAccountName=NAME,
    securityContext=POD_SECURITY,
    containers=each(CONTAINER, 1),
    volumes=each(VOLUME),
)
PART = {**CONTAINER, "required": ["name"]}
"""A container that is laid over one of a template."""

RULES: dict[tuple[str, str], Schema] = {
    ("apps/v1", "Deployment"): obj(
        "selector template",
        replicas=COUNT,
        selector=obj("matchLabels", matchLabels=LABELS),
        template=obj("metadata spec", metadata=obj(labels=LABELS, annotations=ANNOTATIONS), spec=POD),
    ),
    ("v1", "Service"): obj(
        "ports selector",
        type=words("ClusterIP", "NodePort", "LoadBalancer"),
        selector=LABELS,
        ports=each(obj("port", name=PORT, port=PORT, targetPort=PORT, protocol=words("TCP", "UDP")), 1),
    ),
    ("serving.kserve.io/v1alpha2", "LLMInferenceService"): obj(
        "model",
        model=obj(
            "uri",
            uri=TEXT,
            name=TEXT,
            lora=obj(
                maxRank=COUNT,
                maxAdapters=COUNT,
                maxCpuAdapters=COUNT,
                # The definition takes anything here; these are the fields of the Go type, and what its validation asks for.
                adapters=each(obj("name uri", name=TEXT, uri={"pattern": "^(hf|s3|pvc)://.+"})),
            ),
        ),
        replicas=COUNT,
        router=obj(route=obj(), gateway=obj(), scheduler=obj()),
        template=obj(containers=each(PART), serviceAccountName=NAME),
    ),
}


def hold(document: Manifest) -> None:
    """Hold a manifest against what is written down here."""
    version, kind = document["apiVersion"], document["kind"]
    _rule(version, kind).validate(document)
    if version == "v1":
        assert is_label_name(document["metadata"]["name"])
    if kind == "Deployment":
        _hold_pods(document["spec"])


@cache
def _rule(version: str, kind: str) -> jsonschema.Draft202012Validator:
    whole = obj(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=METADATA,
        spec=RULES[version, kind],
    )
    return jsonschema.Draft202012Validator(whole)


def _hold_pods(spec: Manifest) -> None:
    """Hold a deployment against what the API server asks for besides fields."""
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    pod = spec["template"]["spec"]
    volumes = [volume["name"] for volume in pod["volumes"]]
    assert len(volumes) == len(set(volumes))
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(paths) == len(set(paths))
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in ports


def is_label_name(text: str) -> bool:
    """Tell whether a text can be a service's name (RFC 1035), and with that any object's."""
    return re.fullmatch(SERVICE_NAME["pattern"], text) is not None
