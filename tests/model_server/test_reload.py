"""Following the document: names move, adapters come and go, and what is being answered goes on."""

from __future__ import annotations

import gc
import json
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import shift_cipher_adapters
from serving_server import Served, served
from waiting import wait_until

from fusery.model_server import loading as reload
from fusery.registry.runtime.switching import Switchboard

pytestmark = pytest.mark.timing


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "SECONDS", 0.05)


@pytest.fixture
def server(echo_base: Path, tmp_path: Path) -> Iterator[Served]:
    folder = shift_cipher_adapters.make_bundle(
        tmp_path / "served", (1, 3), base=echo_base, routes={"caesar#prod": "caesar_v1"}
    )
    with served(folder) as running:
        yield running


def replace(server: Served, text: str) -> None:
    """Replace the document in one step, as everybody should: half of it would be another change."""
    part = server.document.with_suffix(".part")
    part.write_text(text)
    part.replace(server.document)


def change(server: Served, **parts: Any) -> None:
    replace(server, json.dumps(json.loads(server.document.read_text()) | parts))


def outcomes(server: Served) -> dict[str, float]:
    samples = server.service.metrics.reloads.collect()[0].samples
    return {sample.labels["outcome"]: sample.value for sample in samples if sample.name.endswith("_total")}


def wait_for(server: Served, **expected: float) -> None:
    wait_until(lambda: outcomes(server) == expected, lambda: f"{outcomes(server)} instead of {expected}")


def said(server: Served, model: str) -> tuple[str, str]:
    reply = server.client().completions.create(model=model, prompt="a", max_tokens=3)
    return reply.model, reply.choices[0].text


def held(board: Switchboard) -> Counter[int]:
    layers = (place.adapted for place in board._stacked.values())
    return Counter(number for layer in layers for stack in layer._stacks.values() for number in stack.slots)


def test_an_alias_moves_while_an_answer_is_written(server: Served) -> None:
    stream = server.client().completions.create(model="caesar#prod", prompt="z", max_tokens=300, stream=True)
    chunks = iter(stream)
    text = next(chunks).choices[0].text
    board = server.service.engine._board
    assert set(held(board)) == {1, 2}
    old = weakref.ref(server.service.table.residents[0])
    adapters = json.loads(server.document.read_text())["adapters"]
    # Version 1 is dropped at once: its answer is still being written.
    change(server, adapters=adapters[1:], routes={"caesar#prod": "caesar_v2"})
    wait_for(server, done=1)
    assert said(server, "caesar#prod") == ("caesar_v2", shift_cipher_adapters.answer("a", 3, 3))
    with pytest.raises(openai.NotFoundError):
        said(server, "caesar_v1")
    text += "".join(chunk.choices[0].text for chunk in chunks)
    assert text == shift_cipher_adapters.answer("z", 1, 300)
    said(server, "caesar_v2")  # another turn of the engine
    gc.collect()
    assert old() is None, "what is dropped stays in memory"
    said(server, "caesar_v2")  # which sweeps
    assert set(held(board)) == {2}, "its factors stay in memory"


def test_an_adapter_comes(server: Served, echo_base: Path) -> None:
    folder = server.document.parent
    shift_cipher_adapters.make_adapter(folder / "adapters" / "caesar_v3", echo_base, 5, rank=12)
    adapters = json.loads(server.document.read_text())["adapters"]
    kept = server.service.table.residents
    change(server, adapters=[*adapters, {"name": "caesar_v3", "folder": "adapters/caesar_v3"}])
    wait_for(server, done=1)
    assert said(server, "caesar_v3") == ("caesar_v3", shift_cipher_adapters.answer("a", 5, 3, rank=12))
    assert server.service.table.residents[:2] == kept, "what stays is not loaded again"


def test_what_was_read_with_an_adapter_goes_with_it(server: Served, echo_base: Path) -> None:
    """The same name with other files, or an alias that has moved: nothing that an old one read is used."""

    def cached(model: str) -> int:
        reply = server.client().completions.create(model=model, prompt="z" * 100, max_tokens=1)
        assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
        return reply.usage.prompt_tokens_details.cached_tokens or 0

    assert [cached("caesar#prod"), cached("caesar_v1"), cached("caesar_v2")] == [0, 99, 0]
    shift_cipher_adapters.make_adapter(server.document.parent / "new", echo_base, 7)
    adapters = json.loads(server.document.read_text())["adapters"]
    adapters[0] |= {"folder": "new", "digest": "e" * 64}
    change(server, adapters=adapters, routes={"caesar#prod": "caesar_v2"})
    wait_for(server, done=1)
    assert [cached("caesar_v1"), cached("caesar#prod")] == [0, 99]
    change(server, adapters=adapters[1:])
    wait_for(server, done=2)
    assert cached("caesar_v2") == 99
    prefixes = server.service.engine.prefixes
    wait_until(lambda: len(prefixes) == 1, lambda: f"{len(prefixes)} are kept")


BAD: dict[str, dict[str, Any]] = {
    "another base": {"base": {"name": "other", "folder": "base"}},
    "another prompt cache": {"limits": {"prompt_cache_bytes": 100}},
    "a route to nothing": {"routes": {"caesar#prod": "caesar_v9"}},
    "an adapter that is not there": {"adapters": [{"name": "caesar_v9", "folder": "nowhere"}], "routes": {}},
}


def test_what_cannot_be_followed_changes_nothing(server: Served) -> None:
    before, text = server.service.table, server.document.read_text()
    texts = [json.dumps(json.loads(text) | parts) for parts in BAD.values()] + [text[:50]]
    for refused, bad in enumerate(texts, 1):
        replace(server, bad)
        wait_for(server, refused=refused)
        assert server.service.table is before, bad
    server.document.unlink()
    wait_for(server, refused=len(texts) + 1)
    assert said(server, "caesar#prod") == ("caesar_v1", shift_cipher_adapters.answer("a", 1, 3))
    replace(server, text)
    wait_for(server, refused=len(texts) + 1, done=1)
    assert server.service.table is before
