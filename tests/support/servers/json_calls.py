"""Requests with JSON to servers of tests, refusals being answers like others."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    text: str

    @property
    def document(self) -> Any:
        """Its JSON."""
        return json.loads(self.text)


def ask(url: str, content: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
    """Get a page, or post bytes to it."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, content, dict(headers or {}))
    try:
        with opener.open(request, timeout=60) as answer:
            return Reply(answer.status, answer.read().decode())
    except urllib.error.HTTPError as refused:
        with refused:
            return Reply(refused.code, refused.read().decode())


def post(url: str, body: Any, key: str | None = None) -> Reply:
    """Post JSON, with a key where there is one."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    return ask(url, json.dumps(body).encode(), headers)
