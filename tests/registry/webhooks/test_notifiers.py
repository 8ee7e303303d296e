"""What sends to URLs of a plugin's scheme has its time, whatever it does in it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plugin_packages import write_package

from fusery.registry.webhooks import notifiers
from fusery.registry.webhooks.addresses import parse_url
from fusery.registry.webhooks.sending import Answer

pytestmark = pytest.mark.timing

Tried = Callable[[str, float], Answer]


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tried]:
    """Make one attempt with a notifier of some Python, in a module that nobody else waits for the import of.

    Where it says `hang()`, it waits until the test is over, and its thread has ended when the next one begins.
    """
    name = f"odd{uuid.uuid4().hex}"
    over = tmp_path / "over"
    hang = f"import pathlib, time\ndef hang():\n    while not pathlib.Path({str(over)!r}).exists(): time.sleep(0.02)\n"

    def attempt(source: str, margin: float) -> Answer:
        write_package(tmp_path / "packages", name, {"fusery.notifiers": {"odd": f"{name}:X"}}, hang + source)
        monkeypatch.syspath_prepend(tmp_path / "packages")
        monkeypatch.setattr(notifiers, "_MARGIN", margin)
        return notifiers.notify(parse_url("odd://somewhere"), {}, b"{}", private=False, seconds=0.3)

    yield attempt
    over.touch()
    for thread in threading.enumerate():
        if thread.name == "notifier odd":
            thread.join(60)


@pytest.mark.parametrize("source", ["def X(*_, **__): hang()", "hang()"], ids=["at work", "imported"])
def test_one_that_hangs_is_given_up(tried: Tried, source: str) -> None:
    assert tried(source, 0.2) == Answer("no answer within 0.3 s")


def test_one_that_answers_a_moment_too_late_is_heard(tried: Tried) -> None:
    source = "import time\nfrom fusery.registry.webhooks.sending import Answer\n"
    late = "def X(*_, seconds, **__):\n    time.sleep(seconds + 0.1)\n    return Answer('it was busy')"
    assert tried(source + late, 60) == Answer("it was busy")


def test_what_looks_like_ctrl_c_ends_nothing(tried: Tried) -> None:
    assert "KeyboardInterrupt" in tried("def X(*_, **__): raise KeyboardInterrupt", 60).error
