"""The contract of what sends to webhooks of a scheme."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from fusery.registry.webhooks.addresses import parse_url
from fusery.registry.webhooks.notifiers import Notifier
from fusery.registry.webhooks.sending import Answer

HEADERS: Mapping[str, str] = {
    "Webhook-Id": "msg_0123_1",
    "Webhook-Timestamp": "1790000000",
    "Webhook-Signature": "v1,c2lnbmF0dXJl",
}
BODY = b'{"data":{"action":"alias.moved","seq":1},"text":"\\u00fc \\ud83d\\ude00"}'


class Receiving(ABC):
    """A receiver, and what it does: listen, be away, or never answer.

    Attributes:
        url: as `fusery webhook add` takes it.
    """

    url: str

    @abstractmethod
    def received(self) -> list[tuple[Mapping[str, str], bytes]]:
        """Return what has arrived: headers, by their names in small letters, and the body."""

    @abstractmethod
    def leave(self) -> None:
        """Be away from now on."""

    @abstractmethod
    def stop_answering(self) -> None:
        """Take what comes from now on, and answer nothing."""


class NotifierContract:
    """All that a notifier promises.

    A subclass says its `notifier`, as a static method where it is a function, and gives the fixture `receiving`.
    """

    notifier: Notifier

    def attempt(self, receiving: Receiving, body: bytes = BODY, *, seconds: float = 5.0) -> Answer:
        """Send once, as a deliverer does."""
        target = parse_url(receiving.url)
        return self.notifier(target, HEADERS, body, private=True, seconds=seconds)

    def test_the_body_arrives_byte_for_byte_with_its_signature(self, receiving: Receiving) -> None:
        assert self.attempt(receiving) == Answer()
        [(headers, body)] = receiving.received()
        assert body == BODY
        assert {name: headers[name.lower()] for name in HEADERS} == HEADERS

    def test_a_long_body_arrives_whole(self, receiving: Receiving) -> None:
        body = b'{"data":{"seq":2},"text":"' + b"x" * (1 << 20) + b'"}'
        assert self.attempt(receiving, body) == Answer()
        assert [each for _, each in receiving.received()] == [body]

    def test_each_attempt_is_one_delivery(self, receiving: Receiving) -> None:
        bodies = [b'{"data":{"seq":%d}}' % number for number in range(8)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda body: self.attempt(receiving, body), bodies))
        assert answers == [Answer()] * len(bodies)
        assert sorted(body for _, body in receiving.received()) == bodies

    def test_a_receiver_that_is_away_is_told_of_in_few_words(self, receiving: Receiving) -> None:
        receiving.leave()
        answer = self.attempt(receiving)
        assert 0 < len(answer.error) <= 200 and answer.error.isprintable()
        assert receiving.url not in answer.error
        assert not answer.gone

    def test_one_that_does_not_answer_is_given_up_in_time(self, receiving: Receiving) -> None:
        receiving.stop_answering()
        began = time.monotonic()
        assert self.attempt(receiving, seconds=0.5).error
        assert time.monotonic() - began < 5
