"""`fusery admin webhook` and `fusery log --follow` as a user meets them."""

from __future__ import annotations

import signal

import pytest
from fixture_types import Fusery
from programs import free_port, interrupts
from waiting import wait_until
from webhook_receiver import Receiver, up

from .conftest import require_refusals, started

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deliverer's secret, and that it may reach this machine."""
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("FUSERY_WEBHOOK_PRIVATE", "1")


@pytest.mark.timing
@pytest.mark.slow
def test_from_adding_to_delivery(stocked: Fusery) -> None:
    receiver = Receiver(free_port())
    words = ("--on", "alias.*", "--task", "course_*", "--name", "ci", "--allow-private")
    made = stocked("admin", "webhook", "add", receiver.url, *words)
    assert made.code == 0
    assert made.out.startswith(f"ci gets alias.* of course_*, at {receiver.url}.\n")
    key = made.out.split()[-1]
    assert stocked("admin", "webhook", "key", "ci").out.strip() == key
    assert stocked("admin", "webhook", "key", "ci", "--json").json == {"name": "ci", "key": key}
    assert "Nothing is due." in stocked("admin", "webhook", "deliver").err
    stocked("alias", "set", "course_rec@1", "prod")
    stocked("alias", "set", "course_rec@2", "prod", "--reason", "better")
    failed = stocked("admin", "webhook", "deliver")
    assert failed.code == 1
    assert failed.out.startswith("ci: 0 events delivered; nothing listens at its port; next attempt ")
    shown = stocked("admin", "webhook", "show", "ci")
    assert {"state         failing", "waiting       2"} <= set(shown.out.splitlines())
    assert stocked("admin", "webhook", "list", "-q").out == "ci\n"
    assert "nothing listens" in stocked("admin", "webhook", "list").out
    with up(receiver):
        tried = stocked("admin", "webhook", "retry", "ci", "--json").json
        assert (tried["state"], tried["waiting"], tried["error"]) == ("active", 0, None)
        assert [each.document["data"]["detail"]["reason"] for each in receiver.requests] == ["", "better"]
        stocked("alias", "rollback", "course_rec#prod")
        done = stocked("admin", "webhook", "deliver", "ci", "--json")
        assert (done.code, done.json[0]["delivered"]) == (0, [receiver.taken[-1]])
    removed = stocked("admin", "webhook", "remove", "ci", "--reason", "not needed")
    assert removed.out == "ci gets nothing any more.\n"
    assert "There is no webhook." in stocked("admin", "webhook", "list").err
    assert stocked("audit").code == 0


def test_refusals(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    require_refusals(
        stocked,
        ("admin webhook add http://127.0.0.1/ --on alias.moved", "127.0.0.1 is in a private network"),
        ("admin webhook add https://ann:s3cr3t@a.example --on alias.moved", "a password"),
        ("admin webhook add https://a.example --on alias.mved", "'alias.mved'"),
        ("admin webhook add https://a.example", "'--on'"),
        ("admin webhook deliver ci --follow", "--follow"),
    )
    assert (
        "s3cr3t"
        not in stocked("admin", "webhook", "add", "https://ann:s3cr3t@a.example", "--on", "alias.moved").err
    )
    monkeypatch.delenv("FUSERY_WEBHOOK_SECRET")
    made = stocked("admin", "webhook", "add", "https://a.example", "--on", "alias.moved", "--name", "ci")
    assert (made.code, "fusery admin webhook key ci" in made.err) == (0, True)
    require_refusals(stocked, ("admin webhook deliver", "no_webhook_secret"))


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_events_are_delivered_as_they_come_until_somebody_interrupts(
    how: signal.Signals, stocked: Fusery
) -> None:
    receiver = Receiver(free_port())
    stocked("admin", "webhook", "add", receiver.url, "--on", "alias.moved", "--name", "ci", "--allow-private")
    with up(receiver), interrupts():
        process = started("admin", "webhook", "deliver", "--follow")
        stocked("alias", "set", "course_rec@1", "prod")
        wait_until(lambda: len(receiver.taken) == 1)
        stocked("alias", "set", "course_rec@2", "prod")
        wait_until(lambda: len(receiver.taken) == 2)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "Stopped.\n")
