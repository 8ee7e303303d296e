"""The target `k8s`: manifests hold to the rules of those who read them, and lead to the adapters that are meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import yaml
from bundle_cases import make_bundle
from consumers import adapters_source
from hypothesis import given
from hypothesis import strategies as st

from fusery.integrations.k8s import Location, object_name
from fusery.registry import Registry
from fusery.registry.bundles import BundleSource, Choices
from fusery.registry.bundles.delivery import LocalFolder
from fusery.registry.errors import BadInputError

COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
HUB = {"name": "tiny", "digest": "b" * 64, "hub_id": "org/Tiny-1M", "revision": COMMIT}
ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"

PLACES = {
    "s3": "s3://bucket/models/course_rec",
    "oci": "oci://registry.example.com/team/adapters:v1",
    "pvc": "pvc://adapters/models",
}
FOLDERS = {"s3": "kserve", "oci": "deployment", "pvc": "deployment"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    scratch = tmp_path_factory.mktemp("k8s")
    base = tiny_models.make_base(scratch / "tiny", layers=2, hidden=64, intermediate=128)
    adapters = [
        tiny_models.make_adapter(scratch / name, base, seed=number, rank=4 * number)
        for number, name in enumerate((ONE, TWO), 1)
    ]
    return adapters_source(base, scratch / "rendered", *adapters)


@pytest.fixture(scope="module")
def source(made: BundleSource) -> BundleSource:
    """Two adapters of a base from a hub."""
    return replace(made, provenance={**made.provenance, "base": HUB})


@pytest.fixture(scope="module")
def bundles(source: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """The files of a bundle for each kind of location, to be left as they are."""
    return {kind: write(source, tmp_path_factory.mktemp(kind) / "bundle", kind) for kind in PLACES}


def write(source: BundleSource, folder: Path, kind: str, **choices: Any) -> dict[str, Path]:
    folder.mkdir()
    make_bundle(source, "k8s", folder, **{"location": PLACES[kind], **choices})
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def manifests(files: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: list(yaml.safe_load_all(path.read_text(encoding="ascii")))
        for name, path in files.items()
        if path.suffix == ".yaml"
    }


def objects(files: dict[str, Path]) -> Iterator[dict[str, Any]]:
    for documents in manifests(files).values():
        yield from documents


LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""The name of a service (RFC 1035), and so of any object."""


def require_names(document: dict[str, Any]) -> None:
    """Require names, labels and references to volumes and ports that the API server takes."""
    metadata, spec = document["metadata"], document["spec"]
    assert LABEL.fullmatch(metadata["name"])
    assert all(LABEL.fullmatch(value) for value in metadata.get("labels", {}).values())
    assert all(isinstance(value, str) for value in metadata["annotations"].values())
    if document["kind"] == "Deployment":
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
        pod = spec["template"]["spec"]
        volumes = [volume["name"] for volume in pod["volumes"]]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert len(container["volumeMounts"]) >= len(volumes) == len(set(volumes))
        ports = {port["name"] for port in container["ports"]}
        assert {
            container[probe]["httpGet"]["port"] for probe in container if probe.endswith("Probe")
        } <= ports


def test_manifests_keep_the_rules(bundles: dict[str, dict[str, Path]]) -> None:
    for kind, files in bundles.items():
        assert {name.partition("/")[0] for name in manifests(files)} == {FOLDERS[kind]}
        for document in objects(files):
            require_names(document)
            if document["kind"] == "Deployment":
                require_few_rights(document["spec"]["template"]["spec"])


def require_few_rights(pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    for container in pod["containers"]:
        security = container["securityContext"]
        assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True)
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert {each["value"] for each in container["env"] if each["name"] == "HOME"} <= writable


def test_kserve_fetches_adapters(
    source: BundleSource, bundles: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    found = manifests(bundles["s3"])
    (service,) = found["kserve/service.yaml"]
    model = service["spec"]["model"]
    assert (model["uri"], model["name"]) == (f"hf://org/Tiny-1M:{COMMIT}", "org/Tiny-1M")
    place = "s3://bucket/models/course_rec/adapters"
    assert model["lora"] == {
        "maxRank": 8,
        "maxAdapters": 2,
        "maxCpuAdapters": 4,
        "adapters": [{"name": name, "uri": f"{place}/{name}"} for name in (ONE, TWO)],
    }
    assert service["spec"]["template"]["containers"][0].keys() == {"name", "resources"}
    given = manifests(write(source, tmp_path / "given", "s3", base_image="team/vllm:v1"))
    (service,) = given["kserve/service.yaml"]
    assert service["spec"]["template"]["containers"][0]["image"] == "team/vllm:v1"


def test_a_deployment_names_adapters_at_the_start(bundles: dict[str, dict[str, Path]]) -> None:
    for kind in ("oci", "pvc"):
        files = bundles[kind]
        server, service = manifests(files)["deployment/server.yaml"]
        name = server["metadata"]["name"]
        assert server["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == {"app": name}
        assert service["metadata"]["name"] == name and f"`{name}`" in files["README.md"].read_text()
        template = server["spec"]["template"]
        container = template["spec"]["containers"][0]
        options = container["args"]
        assert options[:3] == ["org/Tiny-1M", "--revision", COMMIT]
        assert options[options.index("--max-lora-rank") + 1] == "8"
        named = options[options.index("--lora-modules") + 1 :]
        assert named == [f"{name}=/adapters/{name}" for name in (ONE, TWO)]
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in {each["name"] for each in container["env"]}
        # Another image is another pod.
        digests = json.loads(template["metadata"]["annotations"]["fusery.adapters"])
        assert digests == {ONE: "c" * 64, TWO: "c" * 64}
        for each in (server, service):
            assert each["metadata"]["annotations"].items() >= {
                ("fusery.base.name", "tiny"),
                ("fusery.base.digest", "b" * 64),
            }
        if kind == "oci":
            volume = template["spec"]["volumes"][-1]
            assert volume["image"]["reference"] == "registry.example.com/team/adapters:v1"
            assert files["Dockerfile"].read_text().endswith("FROM scratch\nCOPY adapters /\n")
        else:
            assert container["volumeMounts"][-1]["subPath"] == "models/adapters"
            assert "Dockerfile" not in files


@pytest.mark.parametrize("kind", ["s3", "pvc"])
def test_hostile_texts(source: BundleSource, evil_in_bundles: list[str], kind: str, tmp_path: Path) -> None:
    plain = write(source, tmp_path / "plain", kind)
    for number, evil in enumerate(evil_in_bundles):
        facts = dict.fromkeys(("task", "dataset", "val_loss", "version", "digest", "note"), evil)
        adapters = tuple(replace(each, facts={**each.facts, **facts}) for each in source.adapters)
        name = evil[:200].encode("utf-8", "replace").decode() or "empty"  # a database holds no lone surrogate
        base = {**HUB, "name": evil, "digest": evil}
        spoiled = replace(source, adapters=adapters, provenance={"base": base}, routes={name: TWO})
        files = write(spoiled, tmp_path / str(number), kind)
        assert files.keys() == plain.keys()
        for document, same in zip(objects(files), objects(plain), strict=True):
            require_names(document)
            assert document["spec"].keys() == same["spec"].keys()
        fences = [line for line in files["README.md"].read_text().splitlines() if line.startswith("```")]
        assert set(fences[1::2]) == {"```"}


def test_a_claim_without_a_path_has_the_adapters_at_its_top(source: BundleSource, tmp_path: Path) -> None:
    files = write(source, tmp_path / "bundle", "pvc", location="pvc://claim")
    server, _ = manifests(files)["deployment/server.yaml"]
    pod = server["spec"]["template"]["spec"]
    assert pod["containers"][0]["volumeMounts"][-1]["subPath"] == "adapters"
    assert pod["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "claim", "readOnly": True}


def test_what_has_to_be_said_is_asked_for(source: BundleSource, tmp_path: Path) -> None:
    nameless = [
        (replace(source, provenance={"base": base}), {})
        for base in ({"name": "tiny"}, {"name": "two words"}, {})
    ]
    unknown = ("/models/tiny", "tiny", "org/tiny/x", "org/ti ny", "s3://bucket/tiny")
    for number, (wrong, choices, hint) in enumerate(
        (
            (source, {"location": None}, "-o location=s3://BUCKET/PATH"),
            *((wrong, choices, "-o base_name=OWNER/NAME") for wrong, choices in nameless),
            *((source, {"base_name": name}, "-o base_name=OWNER/NAME") for name in unknown),
            (source, {"base_image": "x\ny"}, "vllm/vllm-openai"),
            (source, {"models": ("mix=v1:0.9,v2:0.1",)}, "-o models"),
        )
    ):
        with pytest.raises(BadInputError) as caught:
            write(wrong, tmp_path / str(number), "s3", **choices)
        assert hint in str(caught.value.hint)


def test_a_url_reads_back_as_itself() -> None:
    for text in (
        "s3://bucket",
        "s3://bucket/a/b-c_d.e/x=1",
        "s3://my.bucket/x",
        "oci://team/adapters:v1",
        "oci://registry.example.com:5000/team/adapters",
        "oci://team/adapters@sha256:" + "a" * 64,
        "pvc://claim/a/b",
    ):
        assert Location.parse(text).text == text
        if "oci" not in text:
            assert Location.parse(f"{text}/").text == text


WRONG = (
    "gs://hunter2/x", "s3://key:hunter2@bucket/path", "s3://bucket/path?token=hunter2", "s3://bucket/../hunter2", "s3://", "s3:/bucket",
    "https://hunter2.example.com/x", "oci://user:hunter2@registry/x:v1", "oci://registry/x:v1 --hunter2", "oci://Hunter2/X Y",
    "pvc://Claim_hunter2/x", "pvc://claim/hunter2\n", "hunter2", "",
)  # fmt: skip


def test_what_is_no_location_is_refused_and_not_repeated() -> None:
    for text in WRONG:
        with pytest.raises(BadInputError) as caught:
            Location.parse(text)
        assert "hunter2" not in str(caught.value) + str(caught.value.hint)
        assert "pvc://CLAIM/PATH" in str(caught.value.hint)


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


@given(st.text(max_size=90), st.integers(20, 63))
def test_kubernetes_takes_each_name(text: str, limit: int) -> None:
    name = object_name(text, limit)
    assert LABEL.fullmatch(name)
    assert len(name) <= limit


def test_names_of_objects_that_are_too_long_are_marked() -> None:
    assert object_name("Course Rec/1") == "course-rec-1"
    assert object_name("1a") == "x-1a" and object_name("?") == "x"
    assert object_name("a" * 20, 20) == "a" * 20
    for text, head in (("a" * 21, "a" * 11), ("a" * 10 + "-" + "b" * 10, "a" * 10)):
        assert re.fullmatch(rf"{head}-[0-9a-f]{{8}}", object_name(text, 20))
