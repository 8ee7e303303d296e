"""Manifests for Kubernetes: they hold to the rules of those who read them, and lead to the adapters that are meant."""

from __future__ import annotations

import getpass
import json
import socket
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

from fusery.registry import Registry
from fusery.registry.bundles import TARGETS, BundleSource, Choices, find_target
from fusery.registry.bundles.cluster.manifest_text import read_manifests
from fusery.registry.bundles.cluster.object_names import object_name
from fusery.registry.bundles.layout import LayoutError
from fusery.registry.errors import BadInputError

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

everywhere = pytest.mark.parametrize("kind", PLACES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    scratch = tmp_path_factory.mktemp("k8s")
    base = tiny_models.make_base(scratch / "tiny", layers=2, hidden=64, intermediate=128)
    adapters = [
        tiny_models.make_adapter(scratch / name, base, seed=number, rank=4 * number)
        for number, name in enumerate((ONE, TWO), 1)
    ]
    return adapters_source(base, scratch / "rendered", *adapters)


@pytest.fixture
def source(made: BundleSource) -> BundleSource:
    """Two adapters of a base from a hub; an alias leads to the one, and a split to both."""
    routes = {"course_rec#prod": ONE, "mix": {ONE: 0.9, TWO: 0.1}}
    return replace(made, provenance={**made.provenance, "base": HUB}, routes=routes)


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


def pods(files: dict[str, Path]) -> list[dict[str, Any]]:
    return [each["spec"]["template"]["spec"] for each in objects(files) if each["kind"] == "Deployment"]


@everywhere
@pytest.mark.parametrize("choices", [{}, {"base_image": "team/vllm:v1"}, {"base_name": "org/Mine"}], ids=str)
def test_manifests_hold_to_the_rules_of_who_reads_them(
    source: BundleSource, kind: str, choices: dict[str, str], tmp_path: Path
) -> None:
    files = write(source, tmp_path / "bundle", kind, **choices)
    found = manifests(files)
    assert {name.partition("/")[0] for name in found} == FOLDERS[kind]
    for each in objects(files):
        rules.hold(each)
    if "production-stack/values.yaml" in found:
        (values,) = found["production-stack/values.yaml"]
        jsonschema.validate(values, rules.VALUES)
    kinds = {(each["apiVersion"], each["kind"]) for each in objects(files)}
    assert kinds <= rules.RULES.keys()


def test_the_rules_would_find_what_is_wrong(source: BundleSource, tmp_path: Path) -> None:
    files = write(source, tmp_path / "bundle", "s3")
    (service,) = manifests(files)["kserve/service.yaml"]
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


def test_the_published_definitions_have_every_kind_that_is_no_kubernetes_own() -> None:
    if not rules.crds():
        pytest.skip("FUSERY_CRDS names no folder with resource definitions")
    own = {"Deployment", "Service"}
    assert {kind for version, kind in rules.RULES if kind not in own} <= rules.crd_names()
    # The group of before has the same fields.
    new = rules.crds()["llm-d.ai/v1alpha2", "InferenceModelRewrite"]
    old = rules.crds().get(("inference.networking.x-k8s.io/v1alpha2", "InferenceModelRewrite"), new)
    assert old["properties"]["spec"] == new["properties"]["spec"]


@everywhere
def test_the_same_adapters_give_the_same_bytes_which_any_library_reads(
    source: BundleSource, kind: str, tmp_path: Path
) -> None:
    first, second = (write(source, tmp_path / name, kind) for name in ("a", "elsewhere"))
    assert {p: f.read_bytes() for p, f in first.items()} == {p: f.read_bytes() for p, f in second.items()}
    for name, documents in manifests(first).items():
        assert read_manifests(first[name].read_bytes()) == documents


def test_the_adapters_are_those_that_vllm_is_given_elsewhere(source: BundleSource, tmp_path: Path) -> None:
    """What vLLM answers with them is held against the trainer's own library by tests/end_to_end/test_vllm.py."""
    files = write(source, tmp_path / "bundle", "pvc")
    (tmp_path / "vllm").mkdir()
    make_bundle(source, "vllm", tmp_path / "vllm")
    adapters = [path for path in files if path.startswith("adapters/")]
    assert len(adapters) == 4
    for path in adapters:
        assert files[path].read_bytes() == (tmp_path / "vllm" / path).read_bytes()


def test_kserve_fetches_each_adapter_from_the_bucket(source: BundleSource, tmp_path: Path) -> None:
    found = manifests(write(source, tmp_path / "bundle", "s3"))
    (service,) = found["kserve/service.yaml"]
    model = service["spec"]["model"]
    assert (model["uri"], model["name"]) == (f"hf://org/Tiny-1M:{COMMIT}", "org/Tiny-1M")
    assert model["lora"] == {
        "maxRank": 8,
        "maxAdapters": 2,
        "maxCpuAdapters": 4,
        "adapters": [
            {"name": name, "uri": f"s3://bucket/models/course_rec/adapters/{name}"} for name in (ONE, TWO)
        ],
    }
    assert service["spec"]["template"]["containers"][0].keys() == {"name", "resources"}
    (rewrite,) = found["kserve/rewrite.yaml"]
    assert rewrite["spec"]["poolRef"]["name"] == f"{service['metadata']['name']}-inference-pool"
    given = manifests(write(source, tmp_path / "given", "s3", base_image="team/vllm:v1"))
    (service,) = given["kserve/service.yaml"]
    assert service["spec"]["template"]["containers"][0]["image"] == "team/vllm:v1"


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("s3", "s3://bucket/models/course_rec/adapters/{}/"),
        ("gs", "gcs://bucket/adapters/{}/"),
        ("oci", "/adapters/{}"),
        ("pvc", "/adapters/{}"),
    ],
)
def test_aibrix_loads_each_adapter_on_the_pods_that_have_it(
    source: BundleSource, kind: str, url: str, tmp_path: Path
) -> None:
    """A container that fetches takes no path, and vLLM no URL; a URL without a slash at its end would be one file."""
    found = manifests(write(source, tmp_path / "bundle", kind))
    deployment, service = found["aibrix/base.yaml"]
    names = [container["name"] for container in deployment["spec"]["template"]["spec"]["containers"]]
    assert ("aibrix-runtime" in names) == (kind in ("s3", "gs"))
    for name, each in zip((ONE, TWO), found["aibrix/adapters.yaml"], strict=True):
        assert each["spec"]["artifactURL"] == url.format(name)
        assert ("credentialsSecretRef" in each["spec"]) == (kind in ("s3", "gs"))
        assert each["metadata"]["name"] == name.replace("_", "-")
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert each["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    served = container["args"][container["args"].index("--served-model-name") + 1]
    assert served == service["metadata"]["name"] == labels["model.aibrix.ai/name"] == "tiny-1m"
    assert service["metadata"]["name"] not in {
        each["metadata"]["name"] for each in found["aibrix/adapters.yaml"]
    }


def test_aibrix_has_a_service_for_the_base_that_is_not_an_adapters(
    made: BundleSource, tmp_path: Path
) -> None:
    """AIBrix makes a service for each adapter, called like its object."""
    adapter = replace(made.adapters[0], name="tiny")
    base = {**HUB, "hub_id": "org/Tiny"}
    source = replace(made, name="tiny", adapters=(adapter,), provenance={"base": base})
    _, service = manifests(write(source, tmp_path / "bundle", "s3"))["aibrix/base.yaml"]
    assert service["metadata"]["name"].startswith("tiny-")


def test_what_is_for_all_adapters_has_a_name_with_room_behind_it(made: BundleSource, tmp_path: Path) -> None:
    """KServe and the production stack's chart make longer names of it."""
    base = {**HUB, "hub_id": "org/" + "Long-Name-" * 9}
    source = replace(
        made, name="n" * 200, provenance={"base": {**base, "hub_id": base["hub_id"].rstrip("-")}}
    )
    (service,) = manifests(write(source, tmp_path / "s3", "s3"))["kserve/service.yaml"]
    assert len(service["metadata"]["name"] + "-inference-pool") <= 63
    (values,) = manifests(write(source, tmp_path / "oci", "oci"))["production-stack/values.yaml"]
    assert len(values["servingEngineSpec"]["modelSpec"][0]["name"]) <= 40


@pytest.mark.parametrize("kind", ["oci", "pvc"])
def test_the_production_stack_finds_adapters_as_paths_of_its_pods(
    source: BundleSource, kind: str, tmp_path: Path
) -> None:
    found = manifests(write(source, tmp_path / "bundle", kind, base_image="team/vllm@sha256:" + "a" * 64))
    (values,) = found["production-stack/values.yaml"]
    (model,) = values["servingEngineSpec"]["modelSpec"]
    # The chart puts a colon between both.
    assert (model["repository"], model["tag"]) == ("team/vllm@sha256", "a" * 64)
    assert (model["modelURL"], model["modelRevision"]) == ("org/Tiny-1M", COMMIT)
    assert "/adapters" in [mount["mountPath"] for mount in model["extraVolumeMounts"]]
    for name, each in zip((ONE, TWO), found["production-stack/adapters.yaml"], strict=True):
        assert each["spec"]["baseModel"] == model["name"]
        assert each["spec"]["adapterSource"] == {
            "type": "local",
            "adapterName": name,
            "adapterPath": f"/adapters/{name}",
        }


def test_in_an_image_adapters_are_named_at_the_start_and_none_is_loaded_later(
    source: BundleSource, tmp_path: Path
) -> None:
    files = write(source, tmp_path / "bundle", "oci")
    (server,) = manifests(files)["llm-d/server.yaml"]
    name = server["metadata"]["name"]
    assert server["spec"]["selector"]["matchLabels"] == {"app": name}
    assert f"matchLabels.app={name}`" in files["README.md"].read_text()
    assert manifests(files)["llm-d/rewrite.yaml"][0]["spec"]["poolRef"]["name"] == name
    pod = server["spec"]["template"]["spec"]
    options = pod["containers"][0]["args"]
    assert options[:3] == ["org/Tiny-1M", "--revision", COMMIT]
    assert options[options.index("--max-lora-rank") + 1] == "8"
    assert options[options.index("--lora-modules") + 1 :] == [
        f"{name}=/adapters/{name}" for name in (ONE, TWO)
    ]
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in {each["name"] for each in pod["containers"][0]["env"]}
    assert pod["volumes"][-1]["image"]["reference"] == "registry.example.com/team/adapters:v1"
    # Another image is another pod.
    assert server["spec"]["template"]["metadata"]["annotations"].keys() == {"fusery.adapters"}
    assert files["Dockerfile"].read_text().endswith("FROM scratch\nCOPY adapters /\n")
    assert "Dockerfile" not in write(source, tmp_path / "other", "pvc")


def test_in_a_claim_vllm_looks_for_what_it_is_asked_for(source: BundleSource, tmp_path: Path) -> None:
    files = write(source, tmp_path / "bundle", "pvc")
    (server,) = manifests(files)["llm-d/server.yaml"]
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


@everywhere
def test_pods_may_do_no_more_than_they_have_to(source: BundleSource, kind: str, tmp_path: Path) -> None:
    found = pods(write(source, tmp_path / "bundle", kind))
    assert found
    for pod in found:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            security = container["securityContext"]
            assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True)
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]
            writable = {
                mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")
            }
            homes = {each["value"] for each in container["env"] if each["name"] == "HOME"}
            assert homes <= writable
    values = manifests(write(source, tmp_path / "chart", "pvc"))["production-stack/values.yaml"][0]
    engine = values["servingEngineSpec"]
    assert engine["securityContext"]["runAsNonRoot"] is True
    assert engine["containerSecurityContext"]["allowPrivilegeEscalation"] is False


def test_objects_say_which_adapter_and_which_base(source: BundleSource, tmp_path: Path) -> None:
    found = manifests(write(source, tmp_path / "bundle", "pvc"))
    for path in ("aibrix/adapters.yaml", "production-stack/adapters.yaml"):
        for name, each in zip((ONE, TWO), found[path], strict=True):
            assert each["metadata"]["annotations"] == {
                "fusery.adapter.name": name,
                "fusery.adapter.digest": "c" * 64,
                "fusery.adapter.version": "1",
                "fusery.base.name": "tiny",
                "fusery.base.digest": "b" * 64,
            }
    (server,) = found["llm-d/server.yaml"]
    assert json.loads(server["metadata"]["annotations"]["fusery.adapters"]) == {ONE: "c" * 64, TWO: "c" * 64}


def test_adapters_whose_names_look_alike_are_objects_of_their_own(made: BundleSource, tmp_path: Path) -> None:
    names = [
        "a.b_v1_20260115",
        "a-b_v1_20260115",
        "a_b_v1_20260115",
        "1_v1_20260115",
        "x" * 80 + "_v1_20260115",
    ]
    adapters = tuple(replace(made.adapters[0], name=name) for name in names)
    source = replace(made, adapters=adapters, provenance={"base": HUB})
    found = manifests(write(source, tmp_path / "bundle", "s3"))
    objects = [each["metadata"]["name"] for each in found["aibrix/adapters.yaml"]]
    assert len(set(objects)) == len(names)
    assert all(rules.is_label_name(name) for name in objects)
    assert objects[2] == "a-b-v1-20260115"
    (service,) = found["kserve/service.yaml"]
    assert [each["name"] for each in service["spec"]["model"]["lora"]["adapters"]] == names


@pytest.mark.parametrize("kind", ["s3", "pvc"])
def test_hostile_texts_are_texts(
    source: BundleSource, evil_texts: dict[str, str], kind: str, tmp_path: Path
) -> None:
    plain = write(source, tmp_path / "plain", kind)
    for number, evil in enumerate(evil_texts.values()):
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


@everywhere
def test_nothing_of_the_machine_is_in_them(
    source: BundleSource, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "canary-5f0e6c1d"
    for variable in (
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "FUSERY_STORE_OPTIONS",
        "HOSTNAME",
        "LOGNAME",
        "USER",
    ):
        monkeypatch.setenv(variable, canary)
    files = write(source, tmp_path / "bundle", kind)
    monkeypatch.undo()
    here = {canary, str(tmp_path), str(Path.cwd()), str(Path.home())}
    here |= {name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4}
    for path, file in files.items():
        content = file.read_bytes()
        assert not [text for text in here if text.encode() in content], path
    assert not [each for each in objects(files) if each["kind"] == "Secret"]


@pytest.mark.parametrize(
    "location",
    [
        "s3://key:hunter2@bucket/path",
        "s3://bucket/path?token=hunter2",
        "s3://bucket/../hunter2",
        "s3://",
        "s3:/bucket",
        "https://hunter2.example.com/x",
        "oci://user:hunter2@registry/x:v1",
        "oci://registry/x:v1 --hunter2",
        "oci://Hunter2/X Y",
        "pvc://Claim_hunter2/x",
        "pvc://claim/hunter2\n",
        "hunter2",
        "",
    ],
)
def test_what_is_no_location_is_refused_and_not_repeated(
    source: BundleSource, location: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match="none that a manifest can name") as caught:
        write(source, tmp_path / "bundle", "s3", location=location)
    assert "hunter2" not in str(caught.value) + str(caught.value.hint)
    assert "pvc://CLAIM/PATH" in str(caught.value.hint)


def test_what_has_to_be_said_is_asked_for(made: BundleSource, source: BundleSource, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(BadInputError, match="where the cluster finds the adapters") as caught:
        make_bundle(source, "k8s", tmp_path / "a")
    assert "--location s3://BUCKET/PATH" in str(caught.value.hint)
    for base in ({"name": "tiny"}, {"name": "two words"}, {}):
        nameless = replace(made, provenance={"base": base})
        with pytest.raises(BadInputError, match="not the id of a model on the hub") as caught:
            write(nameless, tmp_path / f"b{len(str(base))}", "s3")
        assert "--base-name OWNER/NAME" in str(caught.value.hint)
    for name in ("/models/tiny", "tiny", "org/tiny/x", "org/ti ny", "s3://bucket/tiny"):
        with pytest.raises(BadInputError, match="not the id of a model on the hub"):
            write(source, tmp_path / name.replace("/", "."), "s3", base_name=name)
    with pytest.raises(BadInputError, match="not the name of an image") as caught:
        write(source, tmp_path / "image", "s3", base_image="x\ny")
    assert "vllm/vllm-openai" in str(caught.value.hint)


def test_what_vllm_cannot_serve_is_refused(tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "base", layers=2, hidden=64, intermediate=128)
    dora = tiny_models.make_adapter(tmp_path / "dora_v1_20260115", base, fine_tune_type="dora")
    source = adapters_source(base, tmp_path / "a", dora)
    with pytest.raises(BadInputError, match="dora_v1_20260115 is a DoRA"):
        write(source, tmp_path / "one", "s3", base_name="org/Tiny")
    quantised = tiny_models.make_base(tmp_path / "four", bits=4, layers=2, hidden=64, intermediate=128)
    adapter = tiny_models.make_adapter(tmp_path / ONE, quantised)
    source = adapters_source(quantised, tmp_path / "b", adapter)
    with pytest.raises(BadInputError, match="quantised in MLX's format") as caught:
        write(source, tmp_path / "two", "s3")
    assert "--base-name" in str(caught.value.hint)
    found = manifests(write(source, tmp_path / "three", "s3", base_name="org/Original"))
    assert found["kserve/service.yaml"][0]["spec"]["model"]["uri"] == "hf://org/Original"


SPOILS = {
    "an adapter less": ("aibrix/adapters.yaml", f"/adapters/{ONE}", f"/adapters/{TWO}"),
    "another's name": ("aibrix/adapters.yaml", 'name: "course-rec-v1-20260115"', 'name: "course-rec-v3"'),
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
    "no kind": ("llm-d/server.yaml", 'kind: "Deployment"\n', ""),
    "no spec": ("llm-d/rewrite.yaml", "spec:\n", "status:\n"),
}


@pytest.mark.parametrize("what", SPOILS)
def test_the_bundle_is_read_again(source: BundleSource, what: str, tmp_path: Path) -> None:
    name, old, new = SPOILS[what]
    files = write(source, tmp_path / "bundle", "oci")
    assert TARGETS["k8s"].check(tmp_path / "bundle").adapters == 2
    text = files[name].read_text()
    assert old in text
    files[name].write_text(text.replace(old, new, 1))
    with pytest.raises(LayoutError):
        TARGETS["k8s"].check(tmp_path / "bundle")


def test_a_bundle_without_a_manifest_is_a_defect(source: BundleSource, tmp_path: Path) -> None:
    files = write(source, tmp_path / "bundle", "gs")
    for path in [path for name, path in files.items() if name.startswith("aibrix/")]:
        path.unlink()
    with pytest.raises(LayoutError):
        find_target("k8s").check(tmp_path / "bundle")


def test_aliases_and_splits_of_a_registry_become_rules(stocked: Registry, tmp_path: Path) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    choices = Choices(
        models=("course_rec=v1:0.9,v2:0.1", "beta=course_rec@2"),
        base_name="org/Tiny-1M",
        location=PLACES["pvc"],
    )
    bundle = stocked.bundles.materialize(
        ["course_rec#prod"], tmp_path / "bundle", target="k8s", choices=choices
    )
    assert (bundle.adapters, bundle.fused) == ((ONE, TWO), None)
    (rewrite,) = yaml.safe_load_all((tmp_path / "bundle" / "llm-d" / "rewrite.yaml").read_text())
    rules.hold(rewrite)
    leads = {rule["matches"][0]["model"]["value"]: rule["targets"] for rule in rewrite["spec"]["rules"]}
    split = [{"modelRewrite": ONE, "weight": 9}, {"modelRewrite": TWO, "weight": 1}]
    assert leads == {
        "course_rec#prod": [{"modelRewrite": ONE}],
        "course_rec": split,
        "beta": [{"modelRewrite": TWO}],
    }
    served = yaml.safe_load((tmp_path / "bundle" / "llm-d" / "server.yaml").read_text())
    assert not [word for word in leads if word in json.dumps(served["spec"]["template"]["spec"]).split('"')]
    assert {object_name(name) for name in bundle.adapters} == {
        each["metadata"]["name"]
        for each in yaml.safe_load_all((tmp_path / "bundle" / "aibrix" / "adapters.yaml").read_text())
    }
    assert stocked.upkeep.audit().ok


def test_adapters_asked_for_by_their_names_need_no_rules(stocked: Registry, tmp_path: Path) -> None:
    choices = Choices(base_name="org/Tiny-1M", location=PLACES["oci"])
    stocked.bundles.materialize([ONE, TWO], tmp_path / "bundle", target="k8s", choices=choices)
    assert (tmp_path / "bundle" / "llm-d" / "server.yaml").is_file()
    (rewrite,) = yaml.safe_load_all((tmp_path / "bundle" / "llm-d" / "rewrite.yaml").read_text())
    # The task is a name of its own, which leads to the first.
    assert [rule["targets"] for rule in rewrite["spec"]["rules"]] == [[{"modelRewrite": ONE}]]


def test_one_bundle_is_where_its_adapter_is(stocked: Registry, tmp_path: Path) -> None:
    choices = Choices(base_name="org/Tiny-1M", location="s3://bucket/{name}")
    done = stocked.bundles.materialize_all(f"{tmp_path}/{{name}}", target="k8s", choices=choices)
    assert done.ok and len(done.made) == 2
    for name in (ONE, TWO):
        service = yaml.safe_load((tmp_path / name / "kserve" / "service.yaml").read_text())
        (adapter,) = service["spec"]["model"]["lora"]["adapters"]
        assert adapter == {"name": name, "uri": f"s3://bucket/{name}/adapters/{name}"}
    with pytest.raises(BadInputError, match=r"the location has no \{name\} in it"):
        stocked.bundles.materialize_all(
            f"{tmp_path}/{{name}}", target="k8s", choices=replace(choices, location="s3://bucket/x")
        )
