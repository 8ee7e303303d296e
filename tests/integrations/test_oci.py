"""The target `oci`, and tags in a registry as places."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx_lm
import pytest
from bundle_cases import make_bundle
from image_registry import PASSWORD, USER, StubRegistry, running_registry
from jsonschema import Draft4Validator, Draft202012Validator
from oras.client import OrasClient
from referencing import Registry as Schemas
from referencing.jsonschema import DRAFT4

from fusery.integrations import oci as target
from fusery.integrations.oci_registry import RegistryClient
from fusery.registry import Registry, Reporter
from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.delivery import place_at
from fusery.registry.errors import AlreadyExistsError, BadInputError
from fusery.registry.record import plain
from fusery.storage.digest import digest_file
from fusery.storage.errors import StoreDeniedError, StoreUnavailableError
from fusery.storage.secrets import redact

SCHEMAS = Path(__file__).parents[1] / "data" / "oci"
"""opencontainers/image-spec at 13cff54, schema/, and modelpack/model-spec at d78bf32, schema/config-schema.json."""


def schema(name: str) -> dict[str, Any]:
    return dict(json.loads((SCHEMAS / f"{name}.json").read_text()))


def oci_errors(name: str, value: object) -> list[str]:
    # The ids in these files are of no use to a resolver: they name places below the one that they are at.
    def retrieve(uri: str) -> Any:
        return DRAFT4.create_resource(schema(uri.removesuffix(".json").rpartition("/")[2]))

    found = schema(name)
    validator = Draft4Validator(found, registry=Schemas(retrieve=retrieve))  # type: ignore[call-arg]
    return [error.message for error in validator.iter_errors(value)]


def written(source: BundleSource, folder: Path) -> Path:
    folder.mkdir()
    make_bundle(source, "oci", folder)
    return folder


def documents(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return index, manifest and configuration."""
    index = json.loads((folder / "index.json").read_bytes())
    manifest = json.loads(blob(folder, index["manifests"][0]["digest"]).read_bytes())
    return index, manifest, json.loads(blob(folder, manifest["config"]["digest"]).read_bytes())


def blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def test_the_layout_is_what_oci_and_modelpack_say(source: BundleSource, tmp_path: Path) -> None:
    folder = written(source, tmp_path / "bundle")
    index, manifest, config = documents(folder)
    layout = json.loads((folder / "oci-layout").read_bytes())
    assert oci_errors("image-layout-schema", layout) == []
    assert oci_errors("image-index-schema", index) == []
    assert oci_errors("image-manifest-schema", manifest) == []
    modelpack = Draft202012Validator(schema("modelpack-config-schema"))
    assert [error.message for error in modelpack.iter_errors(config)] == []
    # The specification of model-spec: what the manifest must and its layers should be.
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert {each["mediaType"] for each in manifest["layers"]} == {
        "application/vnd.cncf.model.weight.v1.raw",
        "application/vnd.cncf.model.weight.config.v1.raw",
        "application/vnd.cncf.model.doc.v1.raw",
    }
    assert config["config"]["format"] == "safetensors"
    assert config["modelfs"]["diffIds"] == [each["digest"] for each in manifest["layers"]]
    for path in (folder / "blobs" / "sha256").iterdir():
        assert digest_file(path)[0] == path.name
    # The schemas are not toothless.
    assert oci_errors("image-manifest-schema", {**manifest, "mediaType": 7})
    assert oci_errors("image-manifest-schema", {**manifest, "layers": [{"digest": "x"}]})
    assert list(modelpack.iter_errors({**config, "more": 1}))


def test_a_size_in_modelpack_s_words() -> None:
    sizes = {999: "1k", 134_515_008: "134.5m", 1_000_000: "1m", 7_241_732_096: "7.2b", 50_300: "50.3k"}
    assert {count: target.parameter_size(count) for count in sizes} == sizes


def test_hostile_texts_stay_texts(source: BundleSource, evil_in_bundles: list[str], tmp_path: Path) -> None:
    plain_bundle = written(source, tmp_path / "plain")
    plain = documents(plain_bundle)
    for number, evil in enumerate(evil_in_bundles):
        provenance = deepcopy(source.provenance) | {"key": evil, "quantization": evil}
        for key in ("name", "task", "dataset", "version", "digest", "note", "licence"):
            provenance["adapter"][key] = evil
        provenance["base"] |= {"name": evil, "digest": evil, "licence": evil, "hub_id": evil}
        provenance["fidelity"]["verdict"] = evil
        folder = written(replace(source, provenance=provenance), tmp_path / str(number))
        index, manifest, config = documents(folder)
        assert manifest["annotations"]["fusery.base.name"] == evil
        assert manifest["annotations"]["fusery.dataset"] == evil
        assert oci_errors("image-manifest-schema", manifest) == []
        assert list(Draft202012Validator(schema("modelpack-config-schema")).iter_errors(config)) == []
        assert index["manifests"][0]["annotations"] == plain[0]["manifests"][0]["annotations"]
        layers = [
            [each["annotations"] for each in found["layers"] if each["mediaType"] != target.DOC]
            for found in (manifest, plain[1])
        ]
        assert layers[0] == layers[1]
        assert (folder / "README.md").read_bytes() == (plain_bundle / "README.md").read_bytes()


def test_common_licence_is_said(source: BundleSource, provenance: dict[str, Any], tmp_path: Path) -> None:
    provenance["base"]["licence"] = provenance["adapter"]["licence"] = "apache-2.0"
    provenance["with"] = []
    _, manifest, config = documents(written(source, tmp_path / "bundle"))
    assert config["descriptor"]["licenses"] == ["Apache-2.0"]
    assert manifest["annotations"]["org.opencontainers.image.licenses"] == "Apache-2.0"


pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def registry_host() -> Iterator[str]:
    with running_registry() as host:
        yield host


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials but those a test gives."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("FUSERY_OCI_USERNAME", "FUSERY_OCI_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_pushed_is_what_oras_pulls(registry_host: str, stocked: Registry, tmp_path: Path) -> None:
    url = f"oci://{registry_host}/team/course_rec:v1"
    told: list[tuple[int, int]] = []
    reporter = Reporter(progress=lambda done, total: told.append((done, total)))
    pushed = stocked.bundles.materialize("course_rec@1", url, target="oci", reporter=reporter)
    assert (pushed.existed, pushed.path) == (False, url)
    assert pushed.manifest.size in {total for _, total in told}
    client = OrasClient(hostname=registry_host, insecure=True)
    manifest = client.get_manifest(f"{registry_host}/team/course_rec:v1")
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["annotations"]["fusery.adapter.name"] == "course_rec_v1_20260115"
    client.pull(f"{registry_host}/team/course_rec:v1", outdir=str(tmp_path / "pulled"))
    local = Path(stocked.bundles.materialize("course_rec@1", tmp_path / "local", target="model").path)
    assert _digests(tmp_path / "pulled") == _digests(local)
    assert mlx_lm.load(str(tmp_path / "pulled"))[0] is not None
    again = stocked.bundles.materialize("course_rec@1", url, target="oci")
    assert (again.existed, again.manifest) == (True, pushed.manifest)
    with pytest.raises(AlreadyExistsError):
        stocked.bundles.materialize("course_rec@2", url, target="oci")
    stocked.bundles.materialize("course_rec@2", url, target="oci", force=True)
    annotations = client.get_manifest(f"{registry_host}/team/course_rec:v1")["annotations"]
    assert annotations["fusery.adapter.name"] == "course_rec_v2_20260201"
    assert stocked.upkeep.audit().ok


def _digests(folder: Path) -> dict[Path, tuple[str, int]]:
    return {path.relative_to(folder): digest_file(path) for path in folder.rglob("*") if path.is_file()}


def test_an_image_is_not_replaced(registry_host: str, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "layer").write_text("x")
    client = OrasClient(hostname=registry_host, insecure=True)
    client.push(
        target=f"{registry_host}/image:latest", files=[str(tmp_path / "layer")], disable_path_validation=True
    )
    place = place_at(registry.workspace, f"oci://{registry_host}/image:latest", target="oci")
    with pytest.raises(AlreadyExistsError):
        place.require_free(False)
    place.require_free(True)


def test_a_guarded_registry(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    with running_registry(guarded=True) as host:
        url = f"oci://{host}/team/course_rec"
        with pytest.raises(StoreDeniedError) as caught:
            stocked.bundles.materialize("course_rec@1", f"{url}:v1", target="oci")
        assert "docker login" in str(caught.value.hint)
        with monkeypatch.context() as patch:
            patch.setenv("FUSERY_OCI_USERNAME", USER)
            patch.setenv("FUSERY_OCI_PASSWORD", "wrong-" + PASSWORD)
            with pytest.raises(StoreDeniedError) as denied:
                stocked.bundles.materialize("course_rec@1", f"{url}:v1", target="oci")
            assert PASSWORD not in "".join(traceback.format_exception(denied.value))
            patch.setenv("FUSERY_OCI_PASSWORD", PASSWORD)
            stocked.bundles.materialize("course_rec@1", f"{url}:v1", target="oci")
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": basic}}}))
        pushed = stocked.bundles.materialize("course_rec@1", f"{url}:v2", target="oci")
    assert not pushed.existed
    shown = caplog.text + json.dumps(plain(stocked.upkeep.log())) + json.dumps(pushed.to_dict())
    for secret in (PASSWORD, basic):
        assert secret not in shown
        assert secret not in redact(f"the server says {secret}")


def test_a_blob_that_is_other_than_it_says_is_not_taken(registry_host: str, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"other")
    client = RegistryClient(registry_host, "some/where")
    with pytest.raises(StoreUnavailableError, match="400"):
        client.upload(tmp_path / "blob", {"digest": f"sha256:{'a' * 64}", "size": 5})


def test_wrong_places(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    place = place_at(registry.workspace, "oci://127.0.0.1:1/x:y", target="oci")
    with pytest.raises(StoreUnavailableError):
        place.require_free(False)
    (tmp_path / "docker").mkdir()
    for content in ("{", "[]", '{"auths": {"127.0.0.1:1": 7}}'):
        (tmp_path / "docker" / "config.json").write_text(content)
        with pytest.raises(StoreDeniedError):
            place.require_free(False)
    for url in ("host/x", "host/X:y", "user:pw@host/x:y", "host/x:y?a=b", "host/../x:y", "host/x:y\n"):
        with pytest.raises(BadInputError) as caught:
            place_at(registry.workspace, f"oci://{url}", target="oci")
        assert "pw" not in str(caught.value)
    with pytest.raises(BadInputError):
        place_at(registry.workspace, "oci://host/x@sha256:" + "a" * 64, target="oci")
    for other in (None, "model", "hub"):
        with pytest.raises(BadInputError):
            place_at(registry.workspace, "oci://host/x:y", target=other)


def test_what_a_registry_fails_at_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    (tmp_path / "blob").write_bytes(b"bytes")
    blob, stub = {"digest": f"sha256:{hashlib.sha256(b'bytes').hexdigest()}", "size": 5}, StubRegistry()
    with stub.running() as host:
        client = RegistryClient(host, "x")
        for failures in ({"PUT": 3}, {"POST": 3}, {"PUT": 1, "POST": 2}):
            stub.failures, stub.asked = Counter(failures), []
            client.upload(tmp_path / "blob", blob)
            # An upload is begun anew each time, and never gone on with.
            puts = stub.asked.count("PUT")
            assert puts == failures.get("PUT", 0) + 1
            assert stub.asked.count("POST") == puts + failures.get("POST", 0)
        assert client.has(blob["digest"])
        stub.failures, stub.asked = Counter(PUT=99, HEAD=99), []
        with pytest.raises(StoreUnavailableError, match="503"):
            client.upload(tmp_path / "blob", blob)
        with pytest.raises(StoreUnavailableError, match="503"):
            client.has(blob["digest"])
        assert (stub.asked.count("PUT"), stub.asked.count("HEAD")) == (4, 4)


def test_only_failures_of_the_registry_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with StubRegistry().running() as host:
        client = RegistryClient(host, "x")
        for problem, error, times in (
            (ValueError("no authentication"), StoreDeniedError, 1),
            (ValueError("half an answer"), StoreUnavailableError, 4),
            (OSError("authentication"), StoreUnavailableError, 4),
            (RuntimeError("an error of our own"), RuntimeError, 1),
        ):

            def request(url: str, method: str, *, problem: Exception = problem) -> None:
                asked.append(method)
                raise problem

            monkeypatch.setattr(client, "_request", request)
            asked.clear()
            with pytest.raises(error):
                client.has("sha256:0")
            assert len(asked) == times, problem
        for status, challenge in ((401, "Basic x"), (401, "Bearer x"), (200, "Basic x")):
            reply = SimpleNamespace(status_code=status, headers={"Www-Authenticate": challenge})
            monkeypatch.setattr(client._client.session, "get", lambda _, reply=reply: reply)
            assert client._wants_basic() == ((status, challenge) == (401, "Basic x"))
