"""The target `k8s`: adapters in PEFT's form, and manifests that serve them with vLLM in Kubernetes, for several projects.

Each project takes adapters from some kinds of places and not from others.  There are manifests for those that take them from
where they will be; why there are none for the others is in the README.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...documents import provenance_part
from ...errors import BadInputError
from ..choices import Choices
from ..cluster.deployed import Deployed, DeployedAdapter, Project, plain_annotations
from ..cluster.location import HINT, Location
from ..cluster.manifest_text import manifest_bytes, read_manifests
from ..cluster.object_names import common_name
from ..cluster.projects import PROJECTS
from ..image_names import checked_image
from ..layout import Layout, LayoutError
from ..record import bundle_record, sealed_bytes
from ..rendering import render, resource
from ..servers import (
    NamedBase,
    base_architecture,
    facts_of,
    named_base,
    peft_layout,
    require_shared_names,
    served_adapters,
    write_peft,
    written_adapters,
)
from ..source import BundleSource
from ..writing import BundleFolder
from .vllm import max_rank, require_adaptable

IMAGE = "vllm/vllm-openai:v0.32.0"
"""The default image of vLLM."""

VALUES = "values.yaml"
"""A file that is not for the cluster itself."""

_SERVER = "vLLM"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_NAME_LIMIT = 48
"""KServe puts fifteen characters behind it."""
_BASE_LIMIT = 40
"""The production stack's chart makes a host's name of it, of its own name and of that it is installed by."""


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `adapters/`, a folder of manifests for each project, README.md and fusery.json; a Dockerfile for an image."""
    architecture = base_architecture(source)
    require_shared_names(architecture, _SERVER)
    served = served_adapters(source, architecture)
    for each in served:
        require_adaptable(source, each, architecture)
    rank = max_rank(source, max(each.plain.rank for each in served))
    try:
        base = named_base(source, architecture, choices.base_name, _SERVER)
    except BadInputError as error:
        error.hint = _with_location(str(error.hint), choices)
        raise
    deployed = _deployed(source, base, rank, choices)
    for each in served:
        write_peft(bundle, each, base.name)
    for project in PROJECTS:
        if deployed.location.kind in project.takes:
            _write_manifests(project, deployed, bundle)
    if deployed.location.kind == "oci":
        bundle.write("Dockerfile", resource("k8s_dockerfile.txt"))
    record = written_adapters(bundle_record(source, "k8s", None), bundle)
    bundle.write("README.md", render("k8s_readme.md.j2", **_readme(record, deployed)))
    bundle.write("fusery.json", sealed_bytes(record, bundle.manifest()))


def _write_manifests(project: Project, deployed: Deployed, bundle: BundleFolder) -> None:
    for name, documents in project.write(deployed).items():
        use = "values for its chart: helm install -f" if name == VALUES else "kubectl apply -f"
        if documents:
            content = manifest_bytes(documents, f"{project.title}: {use}")
            bundle.write(f"{project.folder}/{name}", content)


def _deployed(source: BundleSource, base: NamedBase, rank: int, choices: Choices) -> Deployed:
    if not (base.found and _HUB_ID.fullmatch(base.name) and base.word):
        raise BadInputError(
            f"{base.name[:60]!r} is not the id of a model on the hub, by which a cluster finds the base",
            hint=_with_location("--base-name OWNER/NAME: the same model there", choices),
        )
    if choices.location is None:
        raise BadInputError("manifests have to say where the cluster finds the adapters", hint=HINT)
    known = provenance_part(source.provenance, "base")
    said = plain_annotations(
        {"fusery.base.name": known.get("name"), "fusery.base.digest": known.get("digest")}
    )
    adapters = tuple(DeployedAdapter.of(adapter, said) for adapter in source.adapters)
    taken = {each.object for each in adapters}
    routes = {
        name: {target: 1.0} if isinstance(target, str) else target for name, target in source.routes.items()
    }
    return Deployed(
        name=common_name(source.name, (), _NAME_LIMIT),
        base=base,
        served_base=common_name(base.name.rpartition("/")[2], taken, _BASE_LIMIT),
        location=Location.parse(choices.location),
        adapters=adapters,
        routes=routes,
        rank=rank,
        image=checked_image(choices.base_image or IMAGE, IMAGE),
        image_given=choices.base_image is not None,
        annotations=said,
    )


def _with_location(hint: str, choices: Choices) -> str:
    """Return a hint, with the option for the location if that is missing: the next error would ask for it."""
    return hint if choices.location is not None else f"{hint}; and {HINT}"


def _readme(record: Mapping[str, Any], deployed: Deployed) -> dict[str, Any]:
    kind = deployed.location.kind
    return {
        "deployed": deployed,
        "base": deployed.base.name,
        "location": deployed.location,
        "folders": [project.folder for project in PROJECTS if kind in project.takes],
        "projects": [project for project in PROJECTS if kind in project.takes],
        "others": [(each.title, each.refuses[kind]) for each in PROJECTS if kind not in each.takes],
        "first": deployed.adapters[0],
        "adapters": facts_of(record),
    }


def check(folder: Path) -> Layout:
    """Read the adapters as vLLM does, and the manifests, which have to serve each of them and nothing else."""
    layout = peft_layout(folder / "adapters")
    adapters = sorted(path.name for path in (folder / "adapters").iterdir())
    found = [project for project in PROJECTS if (folder / project.folder).is_dir()]
    if not layout.modules or not found:
        raise LayoutError("vLLM would find no adapter in the bundle, or no project a manifest")
    for project in found:
        try:
            served = _served(project, folder / project.folder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LayoutError(
                f"the bundle's manifests for {project.title} are not as they should be"
            ) from error
        if sorted(served) != adapters:
            raise LayoutError(f"the bundle's manifests for {project.title} do not serve the adapters in it")
    return layout


def _served(project: Project, folder: Path) -> list[str]:
    files = {path.name: read_manifests(path.read_bytes()) for path in sorted(folder.glob("*.yaml"))}
    names = [
        (each["kind"], each["metadata"]["name"])
        for file, documents in files.items()
        for each in documents
        if file != VALUES
    ]
    if len(names) != len(set(names)):
        raise LayoutError(
            f"two of the bundle's manifests for {project.title} are the same object to a cluster"
        )
    return project.adapters(files)
