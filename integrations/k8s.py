"""The target `k8s`: adapters in PEFT's form, and manifests that serve them with vLLM in Kubernetes.

KServe fetches adapters from a bucket; a plain deployment mounts them.  Sources: vllm 0.32.0, vllm/engine/arg_utils.py;
kserve at aaac4e2, pkg/apis/serving/v1alpha2/llm_inference_service_types.go and pkg/controller/v1alpha2/llmisvc/workload_lora.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fusery.registry.bundles.image import checked_image, is_image
from fusery.registry.bundles.rendering import resource
from fusery.registry.bundles.source import BundleSource, Choices
from fusery.registry.bundles.target import Layout
from fusery.registry.bundles.writing import BundleFolder, bundle_record
from fusery.registry.documents import provenance_part
from fusery.registry.errors import BadInputError
from fusery.registry.names import is_hub_id
from fusery.storage.digest import digest_bytes

from . import common
from .common import VLLM, NamedBase, harmless
from .vllm import adaptable

IMAGE = "vllm/vllm-openai:v0.32.0"  # the default image of vLLM
HINT = "-o location=s3://BUCKET/PATH, oci://REPOSITORY:TAG or pvc://CLAIM/PATH"
_PATH = r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._=-]{1,200}){0,32}"
_BUCKET = re.compile(rf"[a-z0-9][a-z0-9._-]{{1,220}}[a-z0-9]{_PATH}")
_CLAIM = re.compile(rf"[a-z0-9](?:[a-z0-9.-]{{0,250}}[a-z0-9])?{_PATH}")
_LONGEST = 48  # characters of an object's name: Kubernetes takes 63, and KServe adds fifteen


@dataclass(frozen=True, slots=True)
class Location:
    """A bucket's path or a claim's with the bundle in it, or an image with the bundle's adapters."""

    kind: str
    place: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL of one of the kinds."""
        kind, _, place = text.partition("://")
        place = place.rstrip("/")
        patterns = {"s3": _BUCKET, "pvc": _CLAIM}
        if not (is_image(place) if kind == "oci" else kind in patterns and patterns[kind].fullmatch(place)):
            raise BadInputError("invalid location of the adapters for a manifest", hint=HINT)
        return cls(kind, place)

    @property
    def text(self) -> str:
        """The URL."""
        return f"{self.kind}://{self.place}"


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `adapters/`, the manifests, README.md and fusery.json; a Dockerfile for an image."""
    if choices.models:
        raise BadInputError("vLLM serves adapters by their full names only", hint="leave out -o models")
    architecture, served, rank = adaptable(source)
    try:
        base = common.named_base(source, architecture, choices.base_name, VLLM)
        values = _values(source, base, rank, choices)
    except BadInputError as error:
        if choices.location is None and error.hint != HINT:
            error.hint = f"{error.hint}; and {HINT}"  # the next error would ask for it
        raise
    for name, adapter in served.items():
        common.write_peft(bundle, adapter, base.name, f"adapters/{name}/")
    # KServe's service, or a deployment of one pod with its service; each text in them is quoted.
    kind = values["location"].kind
    template = "k8s_kserve.yaml.j2" if kind == "s3" else "k8s_deployment.yaml.j2"
    place = "kserve/service.yaml" if kind == "s3" else "deployment/server.yaml"
    bundle.write(place, common.render(template, kind="", **values))
    if kind == "oci":
        bundle.write("Dockerfile", resource("k8s_dockerfile.txt", "integrations"))
    record = common.written_adapters(bundle_record(source, "k8s", None), bundle)
    about = {"deployed": values, "location": values["location"], "adapters": common.facts_of(record)}
    common.finish(bundle, record, "k8s_readme.md.j2", **about)


def _values(source: BundleSource, base: NamedBase, rank: int, choices: Choices) -> Mapping[str, Any]:
    """Return the values of the manifests' templates: a base with adapters in a cluster."""
    if not (is_hub_id(base.name) and base.word):
        message = f"a cluster cannot find the base {base.name[:60]!r}, which is not a hub id"
        raise BadInputError(message, hint="-o base_name=OWNER/NAME: the same model on the hub")
    if choices.location is None:
        raise BadInputError("manifests have to say where the cluster finds the adapters", hint=HINT)
    recorded = provenance_part(source.provenance, "base")
    annotations = {f"fusery.base.{key}": _plain(recorded.get(key)) for key in ("name", "digest")}
    adapters = {adapter.name: _plain(adapter.facts.get("digest")) for adapter in source.adapters}
    return {
        "name": object_name(source.name),
        "base": base,
        "location": Location.parse(choices.location),
        "adapters": adapters,
        "digests": json.dumps(adapters, sort_keys=True, separators=(",", ":")),
        "at_once": min(len(adapters), 4),  # each adapter that a batch may have takes memory
        "rank": rank,
        "image": checked_image(choices.base_image or IMAGE, IMAGE),
        "image_given": choices.base_image is not None,
        "annotations": {key: text for key, text in annotations.items() if text},
    }


def object_name(text: str, limit: int = _LONGEST) -> str:
    """Return a name of an object and of a service: small letters, digits and hyphens (RFC 1035)."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    name = name if name[:1].isalpha() else f"x-{name}".rstrip("-")
    if len(name) <= limit:
        return name
    mark = digest_bytes(text.encode("utf-8", "backslashreplace"))[:8]
    return f"{name[: limit - 9].rstrip('-')}-{mark}"


def _plain(value: object) -> str:
    """Return a name or a digest; nothing for other texts, which are in `fusery.json`."""
    return value if isinstance(value, str) and harmless(value) else ""


def check(folder: Path) -> Layout:
    """Read the adapters as vLLM does."""
    return common.peft_layout(folder / "adapters")
