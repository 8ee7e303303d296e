"""Home folders of somebody else whose settings, names and files would have the user's command do their work.

Import it as `from hostile.homes import SETTINGS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from hostile.stage import Stage

Words = Sequence[str | Path]
Make = Callable[[Stage], object]

PULL = ("pull", "course_rec@1", "--from")
PUSH = ("push", "own_task@1", "--to")


@dataclass(frozen=True, slots=True)
class Case:
    """Something of another party's that a command is given."""

    make: Make
    says: str
    ways: tuple[tuple[str, ...], ...] = (PULL, PUSH)


def configured(text: str) -> Make:
    """Return a function that gives the other home settings; `$port`, `$ran`, `$home` and `$other` are the stage's."""

    def make(stage: Stage) -> None:
        (stage.folder / "ssh_config").write_text(f"Host *\n  ProxyCommand touch {stage.ran}\n")
        values = {"port": stage.listener.port, "ran": stage.ran, "home": stage.home, "other": stage.other}
        (stage.other / "config.toml").write_text(Template(text).substitute(values))

    return make


def raw(data: bytes) -> Make:
    """Return a function that gives the other home these bytes for settings."""
    return lambda stage: (stage.other / "config.toml").write_bytes(data)


ELSEWHERE = r"says that its .* elsewhere"
_SFTP = 'store_url = "sftp://127.0.0.1:$port/x"\n'
_ENDPOINT = 'endpoint_url = "http://127.0.0.1:$port"'
_AZURE = "BlobEndpoint=http://127.0.0.1:$port/a;AccountName=a;AccountKey=YQ=="

_LEADS = {
    "a proxy command": f'{_SFTP}store_options = {{ proxy_command = "touch $ran", known_hosts = [] }}',
    "an ssh configuration": f'{_SFTP}store_options = {{ config = ["$other/../ssh_config"] }}',
    "a PKCS11 library": f'{_SFTP}store_options = {{ pkcs11_provider = "$other/evil.so" }}',
    "an environment that is sent": f'{_SFTP}store_options = {{ send_env = ["AWS_SECRET_ACCESS_KEY"] }}',
    "an endpoint of S3": f'store_url = "s3://bucket/x"\nstore_options = {{ {_ENDPOINT} }}',
    "an endpoint of S3 in client_kwargs": (
        f'store_url = "s3://bucket/x"\n[store_options.client_kwargs]\n{_ENDPOINT}'
    ),
    "an endpoint of Google's": f'store_url = "gs://bucket/x"\nstore_options = {{ {_ENDPOINT} }}',
    "a connection string of Azure's": (
        f'store_url = "az://container/x"\nstore_options = {{ connection_string = "{_AZURE}" }}'
    ),
    "a database that asks for a password": 'database_url = "postgresql://ann@127.0.0.1:$port/x"',
    "a database in upper case": 'DATABASE_URL = "postgresql://ann@127.0.0.1:$port/x"',
    "options alone": 'store_options = { proxy_command = "touch $ran" }',
    "a store of the user's": 'store_url = "$home/store"',
    "a database of the user's": 'database_url = "sqlite:///$home/fusery.db"',
}
_UNREADABLE = {
    "settings that are not TOML": b"store_url = = 'x",
    "settings that are not text": b'store_url = "\xff\xfe"',
    "settings without end": b"#" * (1 << 21),
    "settings that are nested": b"x = " + b"[" * 5000 + b"]" * 5000,
}
SETTINGS: Mapping[str, Case] = {
    **{name: Case(configured(text), ELSEWHERE) for name, text in _LEADS.items()},
    **{name: Case(raw(data), "cannot be read") for name, data in _UNREADABLE.items()},
}
