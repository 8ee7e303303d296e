"""Adapters that come and go by request: vLLM's two paths."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import json_calls
import numpy as np
import openai
import pytest
import shift_cipher_adapters
from json_calls import Reply
from safetensors.numpy import save_file
from serving_server import Served, served
from waiting import wait_until

from fusery.registry.server import reload
from fusery.registry.server.keys import Keys

DIGEST = "d" * 64


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "SECONDS", 0.05)


@pytest.fixture
def shelf(tmp_path: Path, echo_base: Path) -> Path:
    """The folder that adapters may be loaded from, with one in it, and one beside it."""
    folder = tmp_path / "shelf"
    shift_cipher_adapters.make_adapter(folder / "caesar_v5", echo_base, 5)
    shift_cipher_adapters.make_adapter(tmp_path / "elsewhere", echo_base, 7)
    return folder


@pytest.fixture
def server(echo_base: Path, tmp_path: Path, shelf: Path) -> Iterator[Served]:
    folder = shift_cipher_adapters.make_bundle(tmp_path / "served", (1,), base=echo_base)
    with served(folder, adapters_from=shelf) as running:
        yield running


def post(server: Served, act: str, key: str | None = None, **body: Any) -> Reply:
    return json_calls.post(f"{server.url}/{act}_lora_adapter", body, key)


def said(server: Served, model: str) -> str:
    return server.client().completions.create(model=model, prompt="a", max_tokens=3).choices[0].text


def listed(server: Served) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for each in json_calls.ask(f"{server.url}/models").document["data"]}


def refused(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.document["error"]["message"]


def test_an_adapter_comes_answers_and_goes(server: Served, shelf: Path) -> None:
    reply = post(server, "load", lora_name="caesar_v5", lora_path=str(shelf / "caesar_v5"), digest=DIGEST)
    assert reply.status == 200, reply.text
    assert said(server, "caesar_v5") == shift_cipher_adapters.answer("a", 5, 3)
    assert listed(server)["caesar_v5"]["digest"] == DIGEST
    assert said(server, "caesar_v1") == shift_cipher_adapters.answer("a", 1, 3)
    assert post(server, "unload", lora_name="caesar_v5").status == 200
    with pytest.raises(openai.NotFoundError):
        said(server, "caesar_v5")
    assert "caesar_v5" not in listed(server)


def test_a_name_that_is_taken(server: Served, shelf: Path) -> None:
    for name in ("caesar_v1", "echo"):
        reply = post(server, "load", lora_name=name, lora_path=str(shelf / "caesar_v5"))
        assert refused(reply) == (400, f"'{name}' is served already")
    assert said(server, "caesar_v1") == shift_cipher_adapters.answer("a", 1, 3)


def test_only_what_came_by_a_request_goes_by_one(server: Served) -> None:
    for name in ("caesar_v1", "echo", "caesar_v9"):
        assert refused(post(server, "unload", lora_name=name)) == (
            404,
            f"'{name}' was not loaded by a request",
        )
    assert set(listed(server)) == {"echo", "caesar_v1"}


def test_nothing_outside_of_the_folder_is_read(server: Served, shelf: Path, tmp_path: Path) -> None:
    (shelf / "link").symlink_to(tmp_path / "elsewhere")
    (shelf / "round").symlink_to(shelf / "round")
    (shelf / "file").write_text("x")
    places = [
        str(tmp_path / "elsewhere"),
        "../elsewhere",
        str(shelf / "link"),
        "link",
        "round",
        "file",
        ".",
        str(shelf),
        "nowhere",
        "/etc",
        "a\0b",
        "x" * 5000,
    ]
    answers = {refused(post(server, "load", lora_name="new", lora_path=place)) for place in places}
    assert answers == {(404, "there is no such folder where this server may load adapters from")}
    assert "new" not in listed(server)


def test_what_cannot_be_put_on_the_base(server: Served, shelf: Path) -> None:
    (shelf / "empty").mkdir()
    broken = shelf / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text((shelf / "caesar_v5" / "adapter_config.json").read_text())
    (broken / "adapters.safetensors").write_bytes(b"\0" * 100)
    for name in ("empty", "broken"):
        reply = post(server, "load", lora_name=name, lora_path=name)
        assert (reply.status, name in listed(server)) == (400, False)
    assert said(server, "caesar_v1") == shift_cipher_adapters.answer("a", 1, 3)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"lora_name": "x"}, 400),
        ({"lora_path": "caesar_v5"}, 400),
        ({"lora_name": "", "lora_path": "caesar_v5"}, 400),
        ({"lora_name": "x" * 301, "lora_path": "caesar_v5"}, 400),
        ({"lora_name": 5, "lora_path": "caesar_v5"}, 400),
        ({"lora_name": "x", "lora_path": "caesar_v5", "digest": "short"}, 400),
        ({"lora_name": "x", "lora_path": "caesar_v5", "load_inplace": True}, 400),
        ({"lora_name": "x", "lora_path": "y" * 20_000}, 413),
    ],
)
def test_bodies_that_are_not_as_they_must_be(server: Served, body: dict[str, Any], status: int) -> None:
    assert post(server, "load", **body).status == status
    assert set(listed(server)) == {"echo", "caesar_v1"}


def test_no_web_page_loads_an_adapter(server: Served) -> None:
    text = json.dumps({"lora_name": "x", "lora_path": "caesar_v5"})
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json", "Origin": "http://evil.example"},
    ):
        reply = json_calls.ask(f"{server.url}/load_lora_adapter", text.encode(), headers)
        assert reply.status in (403, 415)
    assert "x" not in listed(server)


def test_without_the_option_there_is_no_such_path(echo_base: Path, tmp_path: Path, shelf: Path) -> None:
    folder = shift_cipher_adapters.make_bundle(tmp_path / "plain", (1,), base=echo_base)
    with served(folder) as server:
        for act in ("load", "unload"):
            assert post(server, act, lora_name="x", lora_path=str(shelf / "caesar_v5")).status == 404


def test_keys_say_who_may(echo_base: Path, tmp_path: Path, shelf: Path) -> None:
    def tenant(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "key_sha256": [hashlib.sha256(name.encode()).hexdigest()], **more}

    folder = shift_cipher_adapters.make_bundle(
        tmp_path / "keyed",
        (1,),
        base=echo_base,
        tenants=[tenant("asks"), tenant("ops", models=[], loads=True)],
    )
    with served(folder, Keys.of_document(folder / "serving.json"), adapters_from=shelf) as server:
        body = {"lora_name": "caesar_v5", "lora_path": "caesar_v5"}
        assert [post(server, "load", key, **body).status for key in (None, "nobody", "asks", "ops")] == [
            401,
            401,
            403,
            200,
        ]
        assert post(server, "unload", "asks", lora_name="caesar_v5").status == 403
        assert post(server, "unload", "ops", lora_name="caesar_v5").status == 200


def test_the_document_has_the_last_word_on_a_name(server: Served, shelf: Path, echo_base: Path) -> None:
    """A document that changes leaves alone what came by a request, but takes a name of its own."""
    post(server, "load", lora_name="caesar_v5", lora_path="caesar_v5")
    post(server, "load", lora_name="caesar_v2", lora_path="caesar_v5")
    folder = server.document.parent
    shift_cipher_adapters.make_adapter(folder / "adapters" / "caesar_v2", echo_base, 3)
    document = json.loads(server.document.read_text())
    document["adapters"].append({"name": "caesar_v2", "folder": "adapters/caesar_v2"})
    part = folder / "part"
    part.write_text(json.dumps(document))
    part.replace(server.document)
    expected = shift_cipher_adapters.answer("a", 3, 3)
    wait_until(lambda: said(server, "caesar_v2") == expected, lambda: said(server, "caesar_v2"))
    assert said(server, "caesar_v5") == shift_cipher_adapters.answer("a", 5, 3)
    assert post(server, "unload", lora_name="caesar_v2").status == 404


def test_many_at_once(server: Served, shelf: Path) -> None:
    """Of those who load one name at once one does, and nothing of another name is lost."""
    statuses: list[tuple[str, int]] = []

    def load(name: str) -> None:
        statuses.append((name, post(server, "load", lora_name=name, lora_path="caesar_v5").status))

    threads = [threading.Thread(target=load, args=(f"n{number % 4}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for _, status in statuses) == [200] * 4 + [400] * 8
    assert {f"n{number}" for number in range(4)} < set(listed(server))


NOT_AN_ADAPTER = (
    400,
    "the folder holds no adapter with adapter_config.json and adapters.safetensors that can be loaded",
)


@pytest.mark.parametrize(
    "how", ["fifo", "linked config", "linked weights", "endless", "large", "deep", "rank", "no factors"]
)
def test_what_lies_there_may_be_anything(server: Served, shelf: Path, tmp_path: Path, how: str) -> None:
    """It is refused at once, says nothing of what lies elsewhere, and stops nobody else's answers."""
    folder = shelf / "odd"
    shutil.copytree(shelf / "caesar_v5", folder)
    config, weights = folder / "adapter_config.json", folder / "adapters.safetensors"
    if how == "fifo":
        config.unlink()
        os.mkfifo(config)
    elif how == "linked config":
        (tmp_path / "secret.json").write_text('{"password": "hunter2"}')
        config.unlink()
        config.symlink_to(tmp_path / "secret.json")
    elif how == "linked weights":
        weights.unlink()
        weights.symlink_to(tmp_path / "elsewhere" / "adapters.safetensors")
    elif how == "endless":
        config.unlink()
        config.symlink_to("/dev/zero")
    elif how == "large":
        os.truncate(config, 400 << 20)
    elif how == "deep":
        config.write_text("[" * 200_000)
    elif how == "rank":
        document = json.loads(config.read_text())
        document["lora_parameters"]["rank"] = 1_000_000
        config.write_text(json.dumps(document))
    else:
        save_file({"lm_head.m": np.ones(27, np.float32)}, weights)
    began = time.monotonic()
    assert refused(post(server, "load", lora_name="odd", lora_path="odd")) == NOT_AN_ADAPTER
    assert time.monotonic() - began < 10
    assert said(server, "caesar_v1") == shift_cipher_adapters.answer("a", 1, 3)


@pytest.mark.parametrize(
    "name", ["default_model", " ", "echo ", "a\nb", "a\x1b[31mb", "caesar_v1\u200b", "caf\u00e9"]
)
def test_names_that_are_none(server: Served, name: str) -> None:
    assert post(server, "load", lora_name=name, lora_path="caesar_v5").status == 400
    assert set(listed(server)) == {"echo", "caesar_v1"}


def test_web_pages_load_nothing_wherever_they_are_allowed_from(
    echo_base: Path, tmp_path: Path, shelf: Path
) -> None:
    folder = shift_cipher_adapters.make_bundle(tmp_path / "open", (1,), base=echo_base)
    with served(folder, adapters_from=shelf, origins=["*"]) as server:
        headers = {"Content-Type": "application/json", "Origin": "http://page.example"}
        text = json.dumps({"lora_name": "x", "lora_path": "caesar_v5"}).encode()
        assert json_calls.ask(f"{server.url}/load_lora_adapter", text, headers).status == 403


def test_who_names_no_model_gets_the_one_that_was_there(echo_base: Path, tmp_path: Path, shelf: Path) -> None:
    (tmp_path / "base alone").mkdir()
    folder = shift_cipher_adapters.make_bundle(tmp_path / "base alone", (), base=echo_base)
    with served(folder, adapters_from=shelf) as server:
        body = {"prompt": "a", "max_tokens": 1}
        assert json_calls.post(f"{server.url}/completions", body).status == 200
        assert post(server, "load", lora_name="caesar_v5", lora_path="caesar_v5").status == 200
        assert json_calls.post(f"{server.url}/completions", body).document["model"] == "echo"


def test_there_is_a_bound_on_how_many(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "MOST_BESIDE", 2)
    statuses = [
        post(server, "load", lora_name=f"n{number}", lora_path="caesar_v5").status for number in range(3)
    ]
    assert statuses == [200, 200, 400]


def test_the_list_says_who_may_load(server: Served, echo_base: Path, tmp_path: Path) -> None:
    assert json_calls.ask(f"{server.url}/models").document["loads"] is True
    folder = shift_cipher_adapters.make_bundle(tmp_path / "closed", (1,), base=echo_base)
    with served(folder) as closed:
        assert json_calls.ask(f"{closed.url}/models").document["loads"] is False
