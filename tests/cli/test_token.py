"""`fusery admin token` as a user meets it: the secret is printed once, by `create` alone."""

from __future__ import annotations

import re

import printed_documents
from fixture_types import Fusery

from .conftest import require_refusals

SECRET = re.compile(r"fusery_[A-Za-z0-9_-]{43}")


def test_a_secret_is_printed_once(fusery: Fusery) -> None:
    fusery("admin", "init")
    made = fusery("admin", "token", "create", "Anna", "--role", "approver")
    assert SECRET.fullmatch(made.out.strip())
    assert "It is shown this once." in made.err
    assert "This is the secret of anna, approver, valid until 20" in made.err
    assert not SECRET.search(made.err)
    quiet = fusery("admin", "token", "create", "bob", "--role", "reader", "--expires", "never", "-q")
    assert (bool(SECRET.fullmatch(quiet.out.strip())), quiet.err) == (True, "")
    document = fusery("admin", "token", "create", "ci", "--role", "publisher", "--expires", "12h", "--json")
    printed_documents.require("admin token create", document.json)
    assert SECRET.fullmatch(document.json["secret"])
    secrets = [made.out.strip(), quiet.out.strip(), document.json["secret"]]
    others = [
        fusery("admin", "token", "list", "--all", "--wide"),
        fusery("admin", "token", "list", "--all", "--json"),
        fusery("admin", "token", "revoke", "ci", "--json"),
        fusery("log", "--json"),
        fusery("doctor", "--json"),
        fusery("audit", "--json"),
    ]
    told = "".join(ran.out + ran.err for ran in others)
    assert [one for one in secrets if one in told] == []


def test_refusals(fusery: Fusery) -> None:
    fusery("admin", "init")
    fusery("admin", "token", "create", "bob", "--role", "reader")
    require_refusals(
        fusery,
        ("admin token create bob --role admin", "already"),
        (("admin", "token", "create", "a b", "--role", "admin"), "'a b'"),
        ("admin token create bob2 --role admin --expires soon", "'soon'"),
        ("admin token create bob2 --role root", "'root'"),
        ("admin token create bob2", "--role"),
        ("admin token revoke bob2", "bob2"),
    )
