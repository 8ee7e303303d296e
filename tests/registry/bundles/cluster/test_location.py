"""Where a cluster finds adapters: URLs that are what they seem, and how a container gets at each."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.bundles import Choices
from fusery.registry.bundles.cluster.location import Location
from fusery.registry.bundles.delivery.local import LocalFolder
from fusery.registry.errors import BadInputError


def test_a_url_reads_back_as_itself() -> None:
    for text in (
        "s3://bucket",
        "s3://bucket/a/b-c_d.e/x=1",
        "gs://my.bucket/x",
        "oci://team/adapters:v1",
        "oci://registry.example.com:5000/team/adapters",
        "oci://team/adapters@sha256:" + "a" * 64,
        "pvc://claim/a/b",
    ):
        assert Location.parse(text).text == text
        if "oci" not in text:
            assert Location.parse(f"{text}/").text == text


WRONG = (
    "s3://key:hunter2@bucket/path", "s3://bucket/path?token=hunter2", "s3://bucket/../hunter2", "s3://", "s3:/bucket",
    "https://hunter2.example.com/x", "oci://user:hunter2@registry/x:v1", "oci://registry/x:v1 --hunter2", "oci://Hunter2/X Y",
    "pvc://Claim_hunter2/x", "pvc://claim/hunter2\n", "hunter2", "",
)  # fmt: skip


def test_what_is_no_location_is_refused_and_not_repeated() -> None:
    for text in WRONG:
        with pytest.raises(BadInputError) as caught:
            Location.parse(text)
        assert "hunter2" not in str(caught.value) + str(caught.value.hint)
        assert "pvc://CLAIM/PATH" in str(caught.value.hint)


def test_an_image_is_mounted_as_it_is_and_a_claim_by_its_path() -> None:
    image, claim = Location.parse("oci://team/adapters:v1"), Location.parse("pvc://claim/a/b")
    assert image.volume()["image"] == {"reference": "team/adapters:v1", "pullPolicy": "IfNotPresent"}
    assert claim.volume()["persistentVolumeClaim"] == {"claimName": "claim", "readOnly": True}
    assert (image.mount().get("subPath"), claim.mount()["subPath"]) == (None, "a/b/adapters")
    assert Location.parse("pvc://claim").mount()["subPath"] == "adapters"
    assert image.mount()["readOnly"] is claim.mount()["readOnly"] is True
    assert not Location.parse("s3://bucket").mountable


class Bucket(LocalFolder):
    """A folder that is called like a bucket."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.text = "s3://bucket/models"


def test_bucket_is_the_location(stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place_at(*_: object, **__: object) -> Bucket:
        return Bucket(tmp_path / "out")

    monkeypatch.setattr("fusery.registry.bundles.materialize.place_at", place_at)
    choices = Choices(base_name="org/Tiny-1M")
    for _ in range(2):
        stocked.bundles.materialize("course_rec@1", "s3://bucket/models", target="k8s", choices=choices)
    manifest = (tmp_path / "out" / "kserve" / "service.yaml").read_text()
    assert 'uri: "s3://bucket/models/adapters/course_rec_v1_20260115"' in manifest
    other = Choices(base_name="org/Tiny-1M", location="s3://mirror/models")
    stocked.bundles.materialize("course_rec@1", "s3://x/y", target="k8s", choices=other, force=True)
    manifest = (tmp_path / "out" / "kserve" / "service.yaml").read_text()
    assert 'uri: "s3://mirror/models/adapters/course_rec_v1_20260115"' in manifest


def test_an_option_that_is_not_given_changes_no_digest() -> None:
    """Bundles on record keep the one that they were recorded with."""
    assert Choices().digest() == "423dda547770f4039802c85c1eea786d096ee5212d10338469fe1fdaba2f81c6"
    assert Choices(location="s3://a/b").digest() != Choices().digest()
