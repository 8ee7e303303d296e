"""What is deployed in a cluster: a base, adapters on it, and where they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..servers import NamedBase, harmless
from ..source import BundledAdapter
from .location import Kind, Location
from .manifest_text import Manifest
from .object_names import object_name


@dataclass(frozen=True, slots=True)
class DeployedAdapter:
    """An adapter in a cluster.

    Attributes:
        name: its full name, which never comes to mean another.
        object: the name of its objects.
        annotations: what its objects say of it: names and digests.
    """

    name: str
    object: str
    annotations: Mapping[str, str]

    @classmethod
    def of(cls, adapter: BundledAdapter, base: Mapping[str, str]) -> DeployedAdapter:
        """Return an adapter of a bundle, on a base of which something is said."""
        said = {
            "fusery.adapter.name": adapter.name,
            "fusery.adapter.digest": adapter.facts.get("digest"),
            "fusery.adapter.version": adapter.facts.get("version"),
        }
        return cls(adapter.name, object_name(adapter.name), {**plain_annotations(said), **base})


def plain_annotations(said: Mapping[str, object]) -> dict[str, str]:
    """Return those values that can be nothing but a name, a number or a digest; notes and the like are in `fusery.json`."""
    texts = {key: str(value) for key, value in said.items() if isinstance(value, str | int)}
    return {key: text for key, text in texts.items() if harmless(text)}


@dataclass(frozen=True, slots=True)
class Deployed:
    """A base with adapters.

    Attributes:
        name: of the objects that are for all of the adapters.
        base: as vLLM is started with it: the id of a model on the hub.
        served_base: name for the base that a label and a service can have.
        location: where the adapters are.
        adapters: in the bundle's order.
        routes: further names, and the adapters that each leads to, with weights.
        rank: what `--max-lora-rank` has to be.
        image: of vLLM.
        image_given: the user has chosen it.
        annotations: what objects for all of the adapters say of the base.
    """

    name: str
    base: NamedBase
    served_base: str
    location: Location
    adapters: tuple[DeployedAdapter, ...]
    routes: Mapping[str, Mapping[str, float]]
    rank: int
    image: str
    image_given: bool
    annotations: Mapping[str, str]

    @property
    def at_once(self) -> int:
        """How many adapters a batch may have: each takes memory."""
        return min(len(self.adapters), 4)

    def metadata(self, name: str, labels: Mapping[str, str] | None = None) -> Manifest:
        """Return the metadata of an object that is for all of the adapters."""
        return {
            "name": name,
            "labels": {**self.labels(), **(labels or {})},
            "annotations": {**self.annotations, **self.digests()},
        }

    def metadata_of(self, adapter: DeployedAdapter, labels: Mapping[str, str] | None = None) -> Manifest:
        """Return the metadata of an adapter's object."""
        return {
            "name": adapter.object,
            "labels": {**self.labels(), **(labels or {})},
            "annotations": dict(adapter.annotations),
        }

    def labels(self) -> dict[str, str]:
        """Return the labels that all objects of the bundle have."""
        return {"app.kubernetes.io/managed-by": "fusery", "app.kubernetes.io/part-of": self.name}

    def digests(self) -> dict[str, str]:
        """Return the adapters and their digests as an annotation."""
        known = {each.name: each.annotations.get("fusery.adapter.digest", "") for each in self.adapters}
        return {"fusery.adapters": json.dumps(known, sort_keys=True, separators=(",", ":"))}

    def pod_annotations(self) -> dict[str, str]:
        """Return the annotations of pods: those with other adapters in their image replace them."""
        return self.digests() if self.location.kind == "oci" else {}


@dataclass(frozen=True, slots=True)
class Project:
    """A project that serves adapters in a cluster, and how manifests for it are written and read.

    Attributes:
        folder: of its manifests.
        title: its name.
        takes: the kinds of places that it can take adapters from.
        refuses: why it cannot take them from others, a clause for each.
        write: returns the files of manifests by their names.
        adapters: returns the names of all adapters that files of manifests serve; wrong ones are a `LayoutError`.
    """

    folder: str
    title: str
    takes: frozenset[Kind]
    refuses: Mapping[Kind, str]
    write: Callable[[Deployed], dict[str, list[Manifest]]]
    adapters: Callable[[Mapping[str, list[Manifest]]], list[str]]
