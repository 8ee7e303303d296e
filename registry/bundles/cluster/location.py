"""Where a cluster finds the adapters of a bundle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, Self

from ...errors import BadInputError
from ..image_names import is_image

Kind = Literal["s3", "gs", "oci", "pvc"]

BUCKETS: tuple[Kind, ...] = ("s3", "gs")
"""Kinds of places that a bundle can be written to directly."""

MOUNTED = "/adapters"
"""Folder of a container that the adapters of an image or a claim are mounted at, a folder for each."""

_PATH = r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._=-]{1,200}){0,32}"
_BUCKET = re.compile(rf"[a-z0-9][a-z0-9._-]{{1,220}}[a-z0-9]{_PATH}")
_CLAIM = re.compile(rf"[a-z0-9](?:[a-z0-9.-]{{0,250}}[a-z0-9])?{_PATH}")

HINT = "--location s3://BUCKET/PATH, gs://BUCKET/PATH, oci://REPOSITORY:TAG or pvc://CLAIM/PATH"


@dataclass(frozen=True, slots=True)
class Location:
    """A bucket's path or a claim's with the bundle in it, or an image with the bundle's adapters.

    Attributes:
        kind: of the place.
        place: `BUCKET/PATH`, the name of an image, or `CLAIM/PATH`.
    """

    kind: Kind
    place: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL of one of the kinds.

        Raises:
            BadInputError: it is none, or has more in it.  It is not repeated: there may be a password in it.
        """
        scheme, separator, place = text.partition("://")
        place = place.rstrip("/")
        kinds: dict[str, tuple[Kind, bool]] = {
            "s3": ("s3", _BUCKET.fullmatch(place) is not None),
            "gs": ("gs", _BUCKET.fullmatch(place) is not None),
            "oci": ("oci", is_image(place)),
            "pvc": ("pvc", _CLAIM.fullmatch(place) is not None),
        }
        kind, valid = kinds.get(scheme, ("s3", False))
        if not (separator and valid):
            raise BadInputError("the location of the adapters is none that a manifest can name", hint=HINT)
        return cls(kind, place)

    @classmethod
    def in_bucket(cls, text: str) -> bool:
        """Tell whether a destination is one that a cluster can read as well."""
        return text.partition("://")[0] in BUCKETS

    @property
    def text(self) -> str:
        """The URL."""
        return f"{self.kind}://{self.place}"

    @property
    def mountable(self) -> bool:
        """Whether a container can have it as a folder."""
        return self.kind not in BUCKETS

    def volume(self) -> dict[str, Any]:
        """Return what is mounted, as a volume of a pod."""
        if self.kind == "oci":
            return {"name": "adapters", "image": {"reference": self.place, "pullPolicy": "IfNotPresent"}}
        claim = self.place.partition("/")[0]
        return {"name": "adapters", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}

    def mount(self) -> dict[str, Any]:
        """Return where a container has it: an image holds the folders of the adapters, a claim the bundle."""
        mount: dict[str, Any] = {"name": "adapters", "mountPath": MOUNTED, "readOnly": True}
        if self.kind == "pvc":
            path = self.place.partition("/")[2]
            mount["subPath"] = f"{path}/adapters" if path else "adapters"
        return mount
