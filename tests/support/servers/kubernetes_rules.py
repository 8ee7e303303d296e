"""What Kubernetes and the projects that serve adapters in it take: every field that there is, where a manifest of ours has some.

Written down from the sources that are named, as small as they are there; a field that is not listed is an error, as it is with
`kubectl apply` (strict validation of fields).  With `FUSERY_CRDS`, a folder with the resource definitions as the projects
publish them, manifests are held against those as well.

- kserve/kserve, config/crd/full/llmisvc/serving.kserve.io_llminferenceservices.yaml and
  pkg/apis/serving/v1alpha2/llm_inference_service_types.go, at aaac4e294dae of 2026-08-21
- vllm-project/production-stack, operator/config/crd/bases/production-stack.vllm.ai_loraadapters.yaml and
  helm/values.schema.json, at a6c01db05f65 of 2026-08-05
- vllm-project/aibrix, config/crd/model/model.aibrix.ai_modeladapters.yaml, at e3e10f9e4aeb of 2026-08-22
- llm-d/llm-d-router, config/crd/bases/llm-d.ai_inferencemodelrewrites.yaml, at ebab687927f5 of 2026-08-22; the same but for the
  group as kubernetes-sigs/gateway-api-inference-extension,
  config/crd/bases/inference.networking.x-k8s.io_inferencemodelrewrites.yaml, at df9f8909fe06 (v1.5.0) of 2026-04-18
- Kubernetes 1.33: apps/v1 Deployment, v1 Service and the pod in the former
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

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
    ("production-stack.vllm.ai/v1alpha1", "LoraAdapter"): obj(
        "adapterSource baseModel",
        # The controller looks for pods by a label of this value.
        baseModel=LABEL_VALUE,
        adapterSource=obj(
            "adapterName type",
            type=words("local", "s3", "http", "huggingface"),
            adapterName=TEXT,
            adapterPath=TEXT,
            repository=TEXT,
            credentialsSecretRef=obj("key name", key=TEXT, name=NAME),
        ),
        loraAdapterDeploymentConfig=obj(
            "algorithm", algorithm=words("default", "ordered", "equalized"), replicas=COUNT
        ),
        vllmApiKey=obj("secretKey secretName", secretKey=TEXT, secretName=NAME),
    ),
    ("model.aibrix.ai/v1alpha1", "ModelAdapter"): obj(
        "artifactURL podSelector",
        # pkg/utils/modeladapter.go, and what of these are folders: python/aibrix/aibrix/runtime/downloaders.py
        artifactURL={"pattern": r"^(((s3|gcs|tos)://.+/)|((huggingface|hf)://.+)|(/.+))$"},
        baseModel=LABEL_VALUE,
        podSelector=obj("matchLabels", matchLabels=LABELS),
        credentialsSecretRef=obj("name", name=NAME),
        schedulerName=TEXT,
        replicas={"enum": [1]},
        additionalConfig=ANNOTATIONS,
    ),
    ("llm-d.ai/v1alpha2", "InferenceModelRewrite"): obj(
        "poolRef rules",
        poolRef=obj("name", group={"pattern": SUBDOMAIN}, kind=TEXT, name=NAME),
        rules=each(
            obj(
                matches=each(obj("model", model=obj("value", type=words("Exact"), value=TEXT))),
                targets=each(
                    obj("modelRewrite", modelRewrite=TEXT, weight={**COUNT, "maximum": 1_000_000}), 1
                ),
            )
        ),
    ),
}
VALUES = obj(
    servingEngineSpec=obj(
        securityContext=POD_SECURITY,
        containerSecurityContext=SECURITY,
        modelSpec=each(
            obj(
                "name repository tag modelURL",
                name=LABEL_VALUE,
                repository=TEXT,
                tag=TEXT,
                modelURL=TEXT,
                modelRevision=TEXT,
                replicaCount=COUNT,
                resources=RESOURCES,
                enableLoRA=TRUTH,
                vllmConfig=obj(maxLoras=COUNT, extraArgs=each(TEXT)),
                podAnnotations=ANNOTATIONS,
                env=each(VARIABLE),
                extraVolumes=each(VOLUME),
                extraVolumeMounts=each(MOUNT),
            )
        ),
    ),
    loraController=obj(enableLoraController=TRUTH),
)
"""Values of the production stack's chart: those of helm/values.yaml that are used."""


def hold(document: Manifest) -> None:
    """Hold a manifest against what is written down here, and against what is published if there is that."""
    version, kind = document["apiVersion"], document["kind"]
    _rule(version, kind).validate(document)
    if version in ("v1", "model.aibrix.ai/v1alpha1"):  # AIBrix makes a service of that name
        assert is_label_name(document["metadata"]["name"])
    if kind == "Deployment":
        _hold_pods(document["spec"])
    if (version, kind) in crds():
        _published(version, kind).validate(document)


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


@cache
def _published(version: str, kind: str, *path: str) -> jsonschema.Draft202012Validator:
    schema = crds()[version, kind]
    for name in path:
        schema = schema["properties"][name]
    return jsonschema.Draft202012Validator(schema)


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
    if crds():
        # It has the whole of a pod in it.
        _published("serving.kserve.io/v1alpha2", "LLMInferenceService", "spec", "template").validate(pod)


@cache
def crds() -> dict[tuple[str, str], Schema]:
    """Return the published definitions, if `FUSERY_CRDS` names a folder with them: for each version and kind a JSON schema."""
    found = {}
    folder = os.environ.get("FUSERY_CRDS")
    for path in sorted(Path(folder).glob("*.yaml")) if folder else []:
        for document in yaml.safe_load_all(path.read_text()):
            names = document["spec"]
            for version in names["versions"]:
                key = f"{names['group']}/{version['name']}", names["names"]["kind"]
                found[key] = _strict(version["schema"]["openAPIV3Schema"])
    return found


def _strict(schema: Any) -> Any:
    """Return a structural schema of Kubernetes' as a JSON schema to which other fields are errors."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items()}
    if found.get("x-kubernetes-int-or-string") is True:
        found = {"type": ["integer", "string"]}
    closed = isinstance(found.get("properties"), dict) and found.get("type") == "object"
    if (
        closed
        and "additionalProperties" not in found
        and not found.get("x-kubernetes-preserve-unknown-fields")
    ):
        found["additionalProperties"] = False
    return found


def is_label_name(text: str) -> bool:
    """Tell whether a text can be a service's name (RFC 1035), and with that any object's."""
    return re.fullmatch(SERVICE_NAME["pattern"], text) is not None
