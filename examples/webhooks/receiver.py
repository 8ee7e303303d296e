"""A receiver of fusery's webhooks with nothing but the standard library; any library for Standard Webhooks does the same.

WEBHOOK_KEY=$(fusery admin webhook key NAME) python receiver.py 8090
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

LONGEST = 1 << 20
OLDEST = 300  # seconds: what is older may be an old request that somebody sends again
REMEMBERED = 10_000


def is_genuine(key: bytes, headers: Any, body: bytes) -> bool:
    """Tell whether a request was signed with the key, and just now."""
    delivery, timestamp = headers.get("Webhook-Id", ""), headers.get("Webhook-Timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and abs(time.time() - int(timestamp)) <= OLDEST):
        return False
    made = hmac.digest(key, f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256)
    expected = b"v1," + base64.b64encode(made)
    given = headers.get("Webhook-Signature", "").encode().split()  # several while a secret changes
    return any(hmac.compare_digest(expected, each) for each in given)


def shown(text: str) -> str:
    """Return a text for a terminal: people write reasons, and some write what moves its cursor."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class Handler(BaseHTTPRequestHandler):
    """Takes each delivery once: one that comes again, because the answer to it was lost, is answered and not done again."""

    timeout = 10
    done: ClassVar[OrderedDict[str, None]] = OrderedDict()

    def do_POST(self) -> None:
        """Verify a request, and do what it asks for."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > LONGEST:
            return self.reply(413)
        body = self.rfile.read(int(length))
        if not is_genuine(self.server.key, self.headers, body):  # type: ignore[attr-defined]
            return self.reply(401)
        delivery = self.headers["Webhook-Id"]
        if delivery not in self.done:
            self.work(json.loads(body))
            self.done[delivery] = None  # a program that stops now and then keeps these in its database
            if len(self.done) > REMEMBERED:
                self.done.popitem(last=False)
        return self.reply(204)

    def work(self, event: dict[str, Any]) -> None:
        """Do what the event is for; an exception makes fusery send it again later."""
        print(event["type"], event["data"]["subject"], shown(event["data"]["summary"]), flush=True)

    def reply(self, status: int) -> None:
        """Answer with a status alone."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def main() -> None:
    """Listen on this machine; something that speaks TLS stands in front."""
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.key = base64.b64decode(os.environ["WEBHOOK_KEY"].removeprefix("whsec_"))  # type: ignore[attr-defined]
    server.serve_forever()


if __name__ == "__main__":
    main()
