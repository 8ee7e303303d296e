"""Home folders of somebody else whose settings, names and files would have the user's command do their work."""

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
    make: Make
    says: str
    ways: tuple[tuple[str, ...], ...] = (PULL, PUSH)


def configured(text: str) -> Make:
    def make(stage: Stage) -> None:
        values = {"port": stage.listener.port, "ran": stage.ran, "home": stage.home}
        (stage.other / "config.toml").write_text(Template(text).substitute(values))

    return make


def raw(data: bytes) -> Make:
    return lambda stage: (stage.other / "config.toml").write_bytes(data)


ELSEWHERE = r"says that its .* elsewhere"
_SFTP = 'store_url = "sftp://127.0.0.1:$port/x"\n'
_ENDPOINT = 'endpoint_url = "http://127.0.0.1:$port"'

_LEADS = {
    "a proxy command": f'{_SFTP}store_options = {{ proxy_command = "touch $ran", known_hosts = [] }}',
    "an endpoint of S3 in client_kwargs": (
        f'store_url = "s3://bucket/x"\n[store_options.client_kwargs]\n{_ENDPOINT}'
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
}
SETTINGS: Mapping[str, Case] = {
    **{name: Case(configured(text), ELSEWHERE) for name, text in _LEADS.items()},
    **{name: Case(raw(data), "cannot be read") for name, data in _UNREADABLE.items()},
}
