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
def test_events_are_delivered_until_somebody_interrupts(how: signal.Signals, stocked: Fusery) -> None:
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
