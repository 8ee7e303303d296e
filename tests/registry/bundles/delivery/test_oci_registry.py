"""Pushing to an OCI registry, and what oras makes of it when it pulls."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import mlx_lm
import pytest
from image_registry import PASSWORD, USER, StubRegistry, running_registry
from oras.client import OrasClient

from fusery.registry import Registry, Reporter
from fusery.registry.bundles.delivery import place_at
from fusery.registry.bundles.delivery.oci_client import RegistryClient
from fusery.registry.errors import AlreadyExistsError, BadInputError
from fusery.registry.record import plain
from fusery.storage.digest import digest_file
from fusery.storage.errors import StoreDeniedError, StoreUnavailableError
from fusery.storage.secrets import redact

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
    for target in (None, "model", "hub"):
        with pytest.raises(BadInputError):
            place_at(registry.workspace, "oci://host/x:y", target=target)


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
