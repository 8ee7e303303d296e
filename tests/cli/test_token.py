"""`fusery token` as a user meets it: the secret is printed once, by `create` alone."""

from __future__ import annotations

import re

import printed_documents
from fixture_types import Fusery

from .conftest import require_refusals

SECRET = re.compile(r"fusery_[A-Za-z0-9_-]{43}")


def test_a_secret_is_printed_once(fusery: Fusery) -> None:
    fusery("init")
    made = fusery("token", "create", "Anna", "--role", "approver")
    assert SECRET.fullmatch(made.out.strip())
    assert "It is shown this once." in made.err
    assert "This is the secret of anna, approver, valid until 20" in made.err
    assert not SECRET.search(made.err)
    quiet = fusery("token", "create", "bob", "--role", "reader", "--expires", "never", "-q")
    assert (bool(SECRET.fullmatch(quiet.out.strip())), quiet.err) == (True, "")
    document = fusery("token", "create", "ci", "--role", "publisher", "--expires", "12h", "--json")
    printed_documents.require("token create", document.json)
    assert SECRET.fullmatch(document.json["secret"])
    secrets = [made.out.strip(), quiet.out.strip(), document.json["secret"]]
    others = [
        fusery("token", "list", "--all", "--wide"),
        fusery("token", "list", "--all", "--json"),
        fusery("token", "revoke", "ci", "--json"),
        fusery("events", "--json"),
        fusery("doctor", "--json"),
        fusery("audit", "--json"),
    ]
    told = "".join(ran.out + ran.err for ran in others)
    assert [one for one in secrets if one in told] == []


def test_tokens_are_listed_and_revoked(fusery: Fusery) -> None:
    fusery("init")
    assert "There is no token. Hint: fusery token create" in fusery("token", "list").err
    for name in ("anna", "bob"):
        fusery("token", "create", name, "--role", "reader", "--expires", "never", "-q")
    revoked = fusery("token", "revoke", "Anna", "--reason", "left")
    assert revoked.out == "The token anna is revoked: no server takes it any more.\n"
    assert fusery("token", "list", "-q").out.split() == ["bob"]
    assert fusery("token", "list", "--all", "-q").out.split() == ["anna", "bob"]
    for words in (["token", "list", "--all"], ["token", "revoke", "anna"]):
        printed_documents.require(" ".join(words[:2]), fusery(*words, "--json").json)
    lines = fusery("token", "list", "--all", "--wide").out.splitlines()
    assert re.search(r"anna +reader +revoked +never .* tester$", lines[2])
    assert re.search(r"bob +reader +active +never .* - +-$", lines[3])
    assert re.search(r"token\.revoked +anna +left", fusery("events", "--wide").out)
    require_refusals(
        fusery,
        ("token create bob --role admin", "already"),
        (("token", "create", "a b", "--role", "admin"), "'a b'"),
        ("token create bob2 --role admin --expires soon", "'soon'"),
        ("token create bob2 --role root", "'root'"),
        ("token create bob2", "--role"),
        ("token revoke bob2", "bob2"),
    )
