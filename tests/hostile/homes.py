"""Home folders of somebody else whose settings, names and files would have the user's command do their work.

Import it as `from hostile.homes import SETTINGS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostile.stage import Stage

Words = Sequence[str | Path]
Make = Callable[[Stage], object]

PULL = ("pull", "course_rec@1", "--from")
PUSH = ("push", "own_task@1", "--to")


@dataclass(frozen=True, slots=True)
class Case:
    """Something of another party's that a command is given.

    Attributes:
        make: makes it of what is on the stage.
        says: a pattern that is in the sentence of the refusal.
        ways: the commands that meet it; the other home's folder comes after each.
    """

    make: Make
    says: str
    ways: tuple[tuple[str, ...], ...] = (PULL, PUSH)


def configured(text: Callable[[Stage], str]) -> Make:
    """Return a function that gives the other home settings."""

    def make(stage: Stage) -> None:
        (stage.other / "config.toml").write_text(text(stage), encoding="utf-8", errors="surrogateescape")

    return make


def _runs(stage: Stage) -> str:
    return f"touch {stage.ran}"


ELSEWHERE = r"says that its .* elsewhere"

SETTINGS: Mapping[str, Case] = {
    "a proxy command": Case(
        configured(
            lambda stage: (
                f'store_url = "sftp://127.0.0.1:{stage.listener.port}/x"\n'
                f"store_options = {{ proxy_command = {json.dumps(_runs(stage))}, known_hosts = [] }}\n"
            )
        ),
        ELSEWHERE,
    ),
    "an ssh configuration": Case(
        configured(
            lambda stage: (
                f'store_url = "sftp://127.0.0.1:{stage.listener.port}/x"\n'
                f'store_options = {{ config = ["{_ssh_config(stage)}"] }}\n'
            )
        ),
        ELSEWHERE,
    ),
    "a PKCS11 library": Case(
        configured(
            lambda stage: (
                f'store_url = "sftp://127.0.0.1:{stage.listener.port}/x"\n'
                f'store_options = {{ pkcs11_provider = "{stage.other}/evil.so" }}\n'
            )
        ),
        ELSEWHERE,
    ),
    "an environment that is sent": Case(
        configured(
            lambda stage: (
                f'store_url = "sftp://127.0.0.1:{stage.listener.port}/x"\n'
                'store_options = { send_env = ["AWS_SECRET_ACCESS_KEY", "PGPASSWORD"] }\n'
            )
        ),
        ELSEWHERE,
    ),
    "an endpoint of S3": Case(
        configured(
            lambda stage: (
                'store_url = "s3://bucket/x"\n'
                f'store_options = {{ endpoint_url = "http://127.0.0.1:{stage.listener.port}" }}\n'
            )
        ),
        ELSEWHERE,
    ),
    "an endpoint of S3 in client_kwargs": Case(
        configured(
            lambda stage: (
                'store_url = "s3://bucket/x"\n[store_options.client_kwargs]\n'
                f'endpoint_url = "http://127.0.0.1:{stage.listener.port}"\n'
            )
        ),
        ELSEWHERE,
    ),
    "an endpoint of Google's": Case(
        configured(
            lambda stage: (
                'store_url = "gs://bucket/x"\n'
                f'store_options = {{ endpoint_url = "http://127.0.0.1:{stage.listener.port}" }}\n'
            )
        ),
        ELSEWHERE,
    ),
    "a connection string of Azure's": Case(
        configured(
            lambda stage: (
                'store_url = "az://container/x"\n'
                "store_options = { connection_string = "
                f'"BlobEndpoint=http://127.0.0.1:{stage.listener.port}/a;AccountName=a;AccountKey=YQ==" }}\n'
            )
        ),
        ELSEWHERE,
    ),
    "a database that asks for a password": Case(
        configured(lambda stage: f'database_url = "postgresql://ann@127.0.0.1:{stage.listener.port}/x"\n'),
        ELSEWHERE,
    ),
    "a database in upper case": Case(
        configured(lambda stage: f'DATABASE_URL = "postgresql://ann@127.0.0.1:{stage.listener.port}/x"\n'),
        ELSEWHERE,
    ),
    "options alone": Case(
        configured(lambda stage: f"store_options = {{ proxy_command = {json.dumps(_runs(stage))} }}\n"),
        ELSEWHERE,
    ),
    "a store of the user's": Case(
        configured(lambda stage: f'store_url = "{stage.home / "store"}"\n'), ELSEWHERE
    ),
    "a database of the user's": Case(
        configured(lambda stage: f'database_url = "sqlite:///{stage.home / "fusery.db"}"\n'), ELSEWHERE
    ),
    "settings that are not TOML": Case(configured(lambda stage: "store_url = = 'x"), "cannot be read"),
    "settings that are not text": Case(
        lambda stage: (stage.other / "config.toml").write_bytes(b'store_url = "\xff\xfe"'), "cannot be read"
    ),
    "settings without end": Case(
        lambda stage: (stage.other / "config.toml").write_bytes(b"#" * (1 << 21)), "cannot be read"
    ),
    "settings that are nested": Case(
        configured(lambda stage: "x = " + "[" * 5000 + "]" * 5000), "cannot be read"
    ),
}


def _ssh_config(stage: Stage) -> Path:
    path = stage.folder / "ssh_config"
    path.write_text(f"Host *\n  ProxyCommand {_runs(stage)}\n")
    return path
