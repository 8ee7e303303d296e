"""The server and chat templates that never end: refused, waited for by nobody else, and no hindrance at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import chat_templates
import psutil
import pytest
import shift_cipher_adapters
from page_server import ask, post_json
from programs import template_processes
from serving_server import Served, served
from waiting import wait_until

from fusery.model_server import prompts
from fusery.model_server.prompts import WIDTH
from fusery.registry.runtime.templates import process
from fusery.registry.runtime.templates.chat import ChatTemplates
from fusery.registry.runtime.templates.process import Limits

pytestmark = pytest.mark.timing

SLOW = [{"role": "user", "content": "be slow"}]
HELLO = [{"role": "user", "content": "hello"}]


def chat(server: Served, messages: Any) -> tuple[int, Any]:
    body = {"model": "caesar_v1", "messages": messages, "max_tokens": 3}
    reply = post_json(server.url, "/v1/chat/completions", body)
    return reply.status, reply.json


def health(server: Served) -> int:
    return ask(server.url, "/health").status


@pytest.fixture(scope="module")
def server(echo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("slow")
    base = shutil.copytree(echo_base, folder / "base")
    (base / "chat_template.jinja").write_text(chat_templates.SLOW_IF_ASKED)
    quick = partial(ChatTemplates, limits=Limits(seconds=1))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prompts, "ChatTemplates", quick)
        shift_cipher_adapters.make_bundle(folder / "served", (1, 3), base=base)
        with served(folder / "served") as running:
            yield running


def test_it_is_refused_and_others_do_not_wait_for_it(server: Served) -> None:
    many = WIDTH + 1  # the last one waits until another has been refused
    with ThreadPoolExecutor(many) as pool:
        slow = [pool.submit(chat, server, SLOW) for _ in range(many)]
        wait_until(template_processes)
        reply = server.client().completions.create(model="caesar_v2", prompt="a", max_tokens=2)
        assert reply.choices[0].text == shift_cipher_adapters.answer("a", 3, 2)
        assert not all(answer.done() for answer in slow)
        for status, document in (answer.result() for answer in slow):
            assert (status, document["error"]["param"]) == (400, "messages")
    status, document = chat(server, HELLO)
    assert status == 200
    assert document["choices"][0]["message"]["content"] == shift_cipher_adapters.chat_answer(1, 3)
    assert health(server) == 200


def test_without_a_process_for_templates_a_chat_is_refused_until_there_is_one(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = template_processes()
    for child in killed:
        child.kill()
    psutil.wait_procs(killed)
    monkeypatch.setattr(process.sys, "executable", "/nowhere/python")
    monkeypatch.setattr(server.service.prompts.templates._processes, "_command", process.chat_program())
    assert chat(server, HELLO)[0] == 503
    monkeypatch.undo()
    assert chat(server, HELLO)[0] == 200
