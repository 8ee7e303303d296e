"""Manifests for Kubernetes: they hold to the rules of those who read them, and lead to the adapters that are meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_rules as rules
import pytest
import tiny_models
import yaml
from bundle_cases import make_bundle
from consumers import adapters_source

from fusery.registry.bundles import TARGETS, BundleSource
from fusery.registry.bundles.cluster.manifest_text import read_manifests
from fusery.registry.bundles.layout import LayoutError

COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
HUB = {"name": "tiny", "digest": "b" * 64, "hub_id": "org/Tiny-1M", "revision": COMMIT}
ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"

PLACES = {
    "s3": "s3://bucket/models/course_rec",
    "gs": "gs://bucket",
    "oci": "oci://registry.example.com/team/adapters:v1",
    "pvc": "pvc://adapters/models",
}
FOLDERS = {
    "s3": {"kserve", "aibrix"},
    "gs": {"aibrix"},
    "oci": {"production-stack", "aibrix", "llm-d"},
    "pvc": {"production-stack", "aibrix", "llm-d"},
}


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
    """Two adapters of a base from a hub; an alias leads to the one, and a split to both."""
    routes = {"course_rec#prod": ONE, "mix": {ONE: 0.9, TWO: 0.1}}
    return replace(made, provenance={**made.provenance, "base": HUB}, routes=routes)


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
    for name, documents in manifests(files).items():
        if not name.endswith("values.yaml"):
            yield from documents


def test_manifests_keep_the_rules(
    source: BundleSource, bundles: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    for kind, files in bundles.items():
        assert {name.partition("/")[0] for name in manifests(files)} == FOLDERS[kind]
        for name, documents in manifests(files).items():
            assert read_manifests(files[name].read_bytes()) == documents
        deployments = [each for each in objects(files) if each["kind"] == "Deployment"]
        assert deployments
        for each in deployments:
            require_few_rights(each["spec"]["template"]["spec"])
        more = {"base_image": "team/vllm:v1", "base_name": "org/Mine"}
        for written in (files, write(source, tmp_path / kind, kind, **more)):
            for each in objects(written):
                rules.hold(each)
                assert each["kind"] != "Secret"
            if "production-stack/values.yaml" in written:
                (values,) = manifests(written)["production-stack/values.yaml"]
                jsonschema.validate(values, rules.VALUES)
                engine = values["servingEngineSpec"]
                assert engine["securityContext"]["runAsNonRoot"] is True
                assert engine["containerSecurityContext"]["allowPrivilegeEscalation"] is False


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


def test_the_rules_would_find_what_is_wrong(bundles: dict[str, dict[str, Path]]) -> None:
    (service,) = manifests(bundles["s3"])["kserve/service.yaml"]
    for spoil in (
        lambda each: each["spec"].update(modle={}),
        lambda each: each["spec"]["model"]["lora"]["adapters"][0].update(uri="oci://x"),
        lambda each: each["metadata"].update(name="course_rec"),
        lambda each: each["metadata"]["labels"].update(digest="a" * 64),
    ):
        spoiled = json.loads(json.dumps(service))
        spoil(spoiled)
        with pytest.raises(jsonschema.ValidationError):
            rules.hold(spoiled)


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
    (rewrite,) = found["kserve/rewrite.yaml"]
    assert rewrite["spec"]["poolRef"]["name"] == f"{service['metadata']['name']}-inference-pool"
    given = manifests(write(source, tmp_path / "given", "s3", base_image="team/vllm:v1"))
    (service,) = given["kserve/service.yaml"]
    assert service["spec"]["template"]["containers"][0]["image"] == "team/vllm:v1"


def test_aibrix_loads_each_adapter_on_the_pods_that_have_it(bundles: dict[str, dict[str, Path]]) -> None:
    """A container that fetches takes no path, and vLLM no URL; a URL without a slash at its end would be one file."""
    for kind, url in (
        ("s3", "s3://bucket/models/course_rec/adapters/{}/"),
        ("gs", "gcs://bucket/adapters/{}/"),
        ("oci", "/adapters/{}"),
        ("pvc", "/adapters/{}"),
    ):
        found = manifests(bundles[kind])
        deployment, service = found["aibrix/base.yaml"]
        template, fetches = deployment["spec"]["template"], kind in ("s3", "gs")
        containers, labels = template["spec"]["containers"], template["metadata"]["labels"]
        assert ("aibrix-runtime" in [container["name"] for container in containers]) == fetches
        for name, each in zip((ONE, TWO), found["aibrix/adapters.yaml"], strict=True):
            assert each["spec"]["artifactURL"] == url.format(name)
            assert ("credentialsSecretRef" in each["spec"]) == fetches
            assert each["metadata"]["name"] == name.replace("_", "-") != service["metadata"]["name"]
            assert each["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        served = containers[0]["args"][containers[0]["args"].index("--served-model-name") + 1]
        assert served == service["metadata"]["name"] == labels["model.aibrix.ai/name"] == "tiny-1m"


def test_names_of_objects_are_apart_and_have_room_behind_them(made: BundleSource, tmp_path: Path) -> None:
    # AIBrix makes a service for each adapter, called like its object.
    adapter = replace(made.adapters[0], name="tiny")
    named = replace(
        made, name="tiny", adapters=(adapter,), provenance={"base": {**HUB, "hub_id": "org/Tiny"}}
    )
    _, service = manifests(write(named, tmp_path / "alike", "s3"))["aibrix/base.yaml"]
    assert service["metadata"]["name"].startswith("tiny-")
    # KServe and the production stack's chart make longer names of what is for all adapters.
    base = {**HUB, "hub_id": "org/" + ("Long-Name-" * 9).rstrip("-")}
    source = replace(made, name="n" * 200, provenance={"base": base})
    (service,) = manifests(write(source, tmp_path / "s3", "s3"))["kserve/service.yaml"]
    assert len(service["metadata"]["name"] + "-inference-pool") <= 63
    (values,) = manifests(write(source, tmp_path / "oci", "oci"))["production-stack/values.yaml"]
    assert len(values["servingEngineSpec"]["modelSpec"][0]["name"]) <= 40


@pytest.mark.parametrize("kind", ["oci", "pvc"])
def test_production_stack_finds_adapters_by_path(source: BundleSource, kind: str, tmp_path: Path) -> None:
    found = manifests(write(source, tmp_path / "bundle", kind, base_image="team/vllm@sha256:" + "a" * 64))
    (values,) = found["production-stack/values.yaml"]
    (model,) = values["servingEngineSpec"]["modelSpec"]
    # The chart puts a colon between both.
    assert (model["repository"], model["tag"]) == ("team/vllm@sha256", "a" * 64)
    assert (model["modelURL"], model["modelRevision"]) == ("org/Tiny-1M", COMMIT)
    assert "/adapters" in [mount["mountPath"] for mount in model["extraVolumeMounts"]]
    for name, each in zip((ONE, TWO), found["production-stack/adapters.yaml"], strict=True):
        assert each["spec"]["baseModel"] == model["name"]
        place = {"type": "local", "adapterName": name, "adapterPath": f"/adapters/{name}"}
        assert each["spec"]["adapterSource"] == place


def test_image_names_adapters_at_the_start(bundles: dict[str, dict[str, Path]]) -> None:
    files = bundles["oci"]
    (server,) = manifests(files)["llm-d/server.yaml"]
    name = server["metadata"]["name"]
    assert server["spec"]["selector"]["matchLabels"] == {"app": name}
    assert f"matchLabels.app={name}`" in files["README.md"].read_text()
    assert manifests(files)["llm-d/rewrite.yaml"][0]["spec"]["poolRef"]["name"] == name
    pod = server["spec"]["template"]["spec"]
    options = pod["containers"][0]["args"]
    assert options[:3] == ["org/Tiny-1M", "--revision", COMMIT]
    assert options[options.index("--max-lora-rank") + 1] == "8"
    named = options[options.index("--lora-modules") + 1 :]
    assert named == [f"{name}=/adapters/{name}" for name in (ONE, TWO)]
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in {each["name"] for each in pod["containers"][0]["env"]}
    assert pod["volumes"][-1]["image"]["reference"] == "registry.example.com/team/adapters:v1"
    # Another image is another pod.
    assert server["spec"]["template"]["metadata"]["annotations"].keys() == {"fusery.adapters"}
    assert files["Dockerfile"].read_text().endswith("FROM scratch\nCOPY adapters /\n")


def test_in_a_claim_vllm_looks_for_what_it_is_asked_for(bundles: dict[str, dict[str, Path]]) -> None:
    files = bundles["pvc"]
    found = manifests(files)
    (server,) = found["llm-d/server.yaml"]
    container = server["spec"]["template"]["spec"]["containers"][0]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables["VLLM_PLUGINS"] == "lora_filesystem_resolver"
    assert variables["VLLM_LORA_RESOLVER_CACHE_DIR"] == "/adapters"
    assert container["volumeMounts"][-1]["subPath"] == "models/adapters"
    # It compares the base's name in the adapter with what it was started with.
    for name in (ONE, TWO):
        config = json.loads(files[f"adapters/{name}/adapter_config.json"].read_text())
        assert config["base_model_name_or_path"] == container["args"][0] == "org/Tiny-1M"
    assert "/v1/load_lora_adapter" in files["README.md"].read_text()
    assert "Dockerfile" not in files
    # Objects say which adapter and which base they are of.
    for path in ("aibrix/adapters.yaml", "production-stack/adapters.yaml"):
        for name, each in zip((ONE, TWO), found[path], strict=True):
            assert each["metadata"]["annotations"] == {
                "fusery.adapter.name": name,
                "fusery.adapter.digest": "c" * 64,
                "fusery.adapter.version": "1",
                "fusery.base.name": "tiny",
                "fusery.base.digest": "b" * 64,
            }
    annotation = server["metadata"]["annotations"]["fusery.adapters"]
    assert json.loads(annotation) == {ONE: "c" * 64, TWO: "c" * 64}


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
        for each in objects(files):
            rules.hold(each)
            if each["kind"] == "InferenceModelRewrite":
                (rule,) = each["spec"]["rules"]
                assert rule["matches"][0]["model"]["value"] == name
                assert rule["targets"] == [{"modelRewrite": TWO}]
        fences = [line for line in files["README.md"].read_text().splitlines() if line.startswith("```")]
        assert set(fences[1::2]) == {"```"}


SPOILS = {
    "an adapter less": ("aibrix/adapters.yaml", f"/adapters/{ONE}", f"/adapters/{TWO}"),
    "no pods": ("production-stack/adapters.yaml", 'baseModel: "tiny-1m"', 'baseModel: "tiny-2m"'),
    "another's path": (
        "production-stack/adapters.yaml",
        f'adapterPath: "/adapters/{ONE}"',
        'adapterPath: "/x"',
    ),
    "another's folder": ("llm-d/server.yaml", f"{ONE}=/adapters/{ONE}", f"{ONE}=/adapters/{TWO}"),
    "a rule to nowhere": ("llm-d/rewrite.yaml", f'modelRewrite: "{ONE}"', 'modelRewrite: "other"'),
    "a rule for everything": ("llm-d/rewrite.yaml", 'value: "mix"', 'value: ""'),
    "not a manifest": ("llm-d/server.yaml", 'kind: "Deployment"', "kind: !!python/object Deployment"),
    "twice the same key": ("llm-d/server.yaml", '  name: "tiny', '  name: "x"\n  name: "tiny'),
    "no spec": ("llm-d/rewrite.yaml", "spec:\n", "status:\n"),
}


def test_the_bundle_is_read_again(source: BundleSource, tmp_path: Path) -> None:
    files = write(source, tmp_path / "bundle", "oci")
    assert TARGETS["k8s"].check(tmp_path / "bundle").adapters == 2
    for name, old, new in SPOILS.values():
        text = files[name].read_text()
        assert old in text
        files[name].write_text(text.replace(old, new, 1))
        with pytest.raises(LayoutError):
            TARGETS["k8s"].check(tmp_path / "bundle")
        files[name].write_text(text)
    files = write(source, tmp_path / "without", "gs")
    for path in [path for name, path in files.items() if name.startswith("aibrix/")]:
        path.unlink()
    with pytest.raises(LayoutError):
        TARGETS["k8s"].check(tmp_path / "without")
