"""examples/team: what its compose file and its systemd unit start, started here without containers."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from certificates import certificate
from installation import PROGRAM
from programs import running
from s3_server import BUCKET, KEY, SECRET, S3Server, find_server, running_server

pytestmark = pytest.mark.timing

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "team"
SECRETS = "/run/secrets/"


@pytest.fixture
def s3_server(tmp_path: Path) -> Iterator[S3Server]:
    binary = find_server()
    assert binary is not None
    (tmp_path / "store").mkdir()
    with running_server(binary, tmp_path / "store") as server:
        yield server


@pytest.fixture
def environment(postgres_url: str, s3_server: S3Server, tmp_path: Path) -> dict[str, str]:
    """What the compose file gives the server, with the places of the real PostgreSQL and S3 of these tests."""
    service = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"]["server"]
    said = {
        name: value.replace(SECRETS, f"{tmp_path}/secrets/") for name, value in service["environment"].items()
    }
    options = json.loads(said["FUSERY_STORE_OPTIONS"])
    options["client_kwargs"] = {"endpoint_url": s3_server.endpoint, "region_name": "us-east-1"}
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    public, private = certificate(tmp_path)
    shutil.copy(public, secrets / "certificate")
    shutil.copy(private, secrets / "key")
    credentials = f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (secrets / "s3_credentials").write_text(credentials)
    return {
        **said,
        "FUSERY_REGISTRY": str(tmp_path / "home"),
        "FUSERY_DATABASE_URL": postgres_url,
        "FUSERY_STORE_URL": f"s3://{BUCKET}/{tmp_path.name}",
        "FUSERY_STORE_OPTIONS": json.dumps(options),
    }


def fusery(environment: Mapping[str, str], *words: str) -> Any:
    """Run the installed program with nothing but that environment and the system's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FUSERY_", "AWS_"))}
    done = subprocess.run(
        [PROGRAM, *words, "--json"],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def on_loopback(words: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """Return the words of a server with the addresses of this test."""
    found = list(words)
    found[found.index("--host") + 1], found[found.index("--port") + 1] = "127.0.0.1", "0"
    for place, ours in places.items():
        found = [word.replace(place, ours) for word in found]
    return found


def _compose() -> list[str]:
    words = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"]["server"]["command"]
    return [str(word) for word in words[1:]]


def _unit() -> list[str]:
    lines = (EXAMPLE / "fusery-server.service").read_text().splitlines()
    [started] = [line.partition("=")[2] for line in lines if line.startswith("ExecStart=")]
    program, *words = shlex.split(started)
    assert Path(program).name == "fusery"
    return words


@pytest.mark.slow
def test_it_serves_over_tls_on_postgresql_and_s3(environment: dict[str, str], tmp_path: Path) -> None:
    """Both start the same server."""
    fusery(environment, "admin", "init")
    token = fusery(environment, "admin", "token", "create", "ops", "--role", "admin")["secret"]
    secrets = f"{tmp_path}/secrets/"
    places = {
        SECRETS: secrets,
        "/etc/fusery/cert.pem": f"{secrets}certificate",
        "/etc/fusery/key.pem": f"{secrets}key",
    }
    words = on_loopback(_compose(), places)
    assert words == on_loopback(_unit(), places)
    with running(tmp_path / "home", *words, "--json", **environment) as (_, printed):
        url = urlsplit(json.loads(printed)["url"])
        context = ssl.create_default_context(cafile=f"{secrets}certificate")
        connection = http.client.HTTPSConnection(url.hostname or "", url.port, context=context, timeout=60)
        borne = {"Authorization": f"Bearer {token}"}
        connection.request("GET", "/api/v1/adapters/tasks", headers=borne)
        assert json.load(connection.getresponse()) == []
        connection.request("GET", "/api/v1/upkeep/log", headers=borne)
        last = json.load(connection.getresponse())[-1]
        assert (last["action"], last["name"] or last["subject"]) == ("token.created", "ops")
        connection.close()


def test_what_it_names_is_there() -> None:
    compose = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())
    build = compose["services"]["server"]["build"]
    assert (EXAMPLE / build["context"] / build["dockerfile"]).resolve() == EXAMPLE / "Dockerfile"
    used = {name for service in compose["services"].values() for name in service.get("secrets", ())}
    assert used == set(compose["secrets"])
    readme = (EXAMPLE / "README.md").read_text()
    for secret in compose["secrets"].values():
        assert f"`{Path(secret['file']).name}`" in readme, secret
    named = {
        place.split("/src/")[1] for place in (EXAMPLE / "Dockerfile").read_text().split() if "/src/" in place
    }
    assert named == {"requirements/team.txt"}
    assert (EXAMPLE.parents[1] / "requirements" / "team.txt").is_file()


def test_the_linter_of_dockerfiles_has_nothing_to_say() -> None:
    hadolint = PROGRAM.parent / "hadolint"
    done = subprocess.run([hadolint, EXAMPLE / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
