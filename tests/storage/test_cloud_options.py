"""Options and credentials of S3 and Azure: the names and places that people know, and errors without a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate
from s3_server import S3Backend

from fusery.storage.errors import StorageError, StoreDeniedError
from fusery.storage.locate import StoreUrlError, open_store
from fusery.testing.stores import HELLO

pytest.importorskip("obstore")
SECRET = "s3cr3t-c4n4ry"


@pytest.fixture(autouse=True)
def _nothing_else_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def client_of(url: str, **options: Any) -> Any:
    """Return the obstore client that a store would use."""
    store = open_store(url, options=options)
    return store._fs._construct_store("bucket")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({"client_kwargs": {"endpoint_url": "http://h:1", "region_name": "r"}}, {"endpoint": "http://h:1", "region": "r"}),
        ({"endpoint_url": "https://h", "requester_pays": True}, {"endpoint": "https://h", "request_payer": "true"}),
        (
            {"endpoint_url": "https://h:2", "virtual_hosted_style_request": True},
            {"endpoint": "https://bucket.h:2", "virtual_hosted_style_request": "true"},
        ),
        ({"anon": True}, {"skip_signature": "true"}),
        ({"region": "eu-west-3"}, {"region": "eu-west-3"}),
    ],
)  # fmt: skip
def test_s3_options(options: dict[str, Any], config: dict[str, str]) -> None:
    given = {} if "anon" in options else {"key": "k", "secret": SECRET}
    found = client_of("s3://bucket/x", **given, **options)
    assert {name: str(found.config[name]).lower() for name in config} == config
    assert SECRET not in repr(found.config)


@pytest.mark.parametrize("verify", [True, False, "bundle", "variable", None])
def test_s3_certificates(verify: bool | str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, _ = certificate(tmp_path)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    if verify == "variable":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    options = {"verify": {"bundle": str(bundle), "variable": None}.get(str(verify), verify)}
    found = client_of("s3://bucket/x", key="k", secret=SECRET, client_kwargs=options).client_options
    assert ("root_certificate" in found) == (verify in ("bundle", "variable"))
    assert ("allow_invalid_certificates" in found) == (verify is False)


@pytest.mark.parametrize(
    "endpoint", ["h:1", "ftp://h", "http://", "http://h:0", "http://h:99999", "http://[", 7]
)
def test_an_endpoint_is_a_url(endpoint: object) -> None:
    for options in ({"endpoint_url": endpoint}, {"client_kwargs": {"endpoint_url": endpoint}}):
        with pytest.raises(StoreUrlError):
            open_store("s3://bucket/x", options={"key": "k", "secret": SECRET, **options})


def test_a_profile_of_a_shared_file_is_used(
    make_s3: Callable[[], S3Backend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_s3()
    server = backend.server.options()
    keys = f"aws_access_key_id = {server['key']}\naws_secret_access_key = {server['secret']}\n"
    credentials, config = tmp_path / "credentials", tmp_path / "config"
    credentials.write_text(f"[team]\n{keys}")
    config.write_text(f"[profile team]\nregion = us-east-1\nendpoint_url = {backend.server.endpoint}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with pytest.raises(StoreDeniedError):
        open_store(backend.url, options={"endpoint_url": backend.server.endpoint}).put_bytes(HELLO)
    assert open_store(backend.url, options={"profile": "team"}).put_bytes(HELLO).size == len(HELLO)
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert open_store(backend.url).put_bytes(HELLO).size == len(HELLO)


def test_keys_of_the_environment_are_used(
    make_s3: Callable[[], S3Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_s3()
    server = backend.server.options()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server["secret"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", backend.server.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert open_store(backend.url).put_bytes(HELLO).size == len(HELLO)
    # Those among the options win, and take no session of the environment with them.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "other")
    assert open_store(backend.url, options=server).put_bytes(HELLO).size == len(HELLO)


@pytest.mark.parametrize(
    ("options", "config"),
    [
        (
            {"connection_string": "AccountName=a;AccountKey=QUJD;BlobEndpoint=http://h:1/a"},
            {"account_name": "a", "endpoint": "http://h:1/a", "credential_type": "access_key"},
        ),
        (
            {"connection_string": "AccountName=a;SharedAccessSignature=sv=1&sig=x%3D;EndpointSuffix=core.example"},
            {"sas_key": "sv=1&sig=x%3D", "endpoint": "https://a.blob.core.example", "credential_type": "sas_token"},
        ),
        (
            {"account_name": "a", "sas_token": "sv=1&sig=x", "account_host": "h:2"},
            {"endpoint": "https://h:2", "credential_type": "sas_token"},
        ),
        ({"account_name": "a", "anon": True}, {"skip_signature": "true"}),
        (
            {"account_name": "a", "tenant_id": "t", "client_id": "c", "client_secret": "s"},
            {"credential_type": "client_secret", "tenant_id": "t"},
        ),
    ],
)  # fmt: skip
def test_azure_options(
    options: dict[str, Any], config: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "b3RoZXI=")
    found = client_of("az://bucket/x", **options).config
    assert {
        name: str(found[name]) if name != "skip_signature" else str(found[name]).lower() for name in config
    } == config


def test_an_azure_connection_string_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=a;AccountKey=QUJD")
    assert client_of("az://bucket/x").config["account_name"] == "a"
    assert client_of("az://bucket/x", account_name="b", account_key="QUJD").config["account_name"] == "b"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket/x", {"key": "k", "secret": SECRET, "no_such_option": SECRET}),
        ("s3://bucket/x", {"key": "k", "secret": SECRET, "config_kwargs": {SECRET: 1}}),
        ("s3://bucket/x", {"key": "k", "secret": SECRET, "client_kwargs": {"verify": "/nowhere.pem"}}),
        ("s3://bucket/x", {"profile": "no-such-profile"}),
        ("az://bucket/x", {"account_name": "a", "account_key": f"{SECRET}!"}),
        ("az://bucket/x", {"connection_string": f"AccountKey={SECRET}"}),
    ],
)
def test_options_that_cannot_be_used_are_refused_at_once(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(StorageError) as caught:
        open_store(url, options=options)
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.hint


def test_no_credentials_are_a_refusal_that_says_where_to_look() -> None:
    store = open_store("s3://bucket/x", options={"endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(StoreDeniedError) as caught:
        store.put_bytes(HELLO)
    assert "credentials in the environment" in str(caught.value.hint)
