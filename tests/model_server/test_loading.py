"""Adapters that come and go by request: vLLM's two paths."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import shift_cipher_adapters
from page_server import Answer, ask, post_json
from safetensors.numpy import save_file
from serving_server import Served, served
from waiting import wait_until

from fusery.model_server import loading as reload
from fusery.model_server.keys import Keys

pytestmark = pytest.mark.timing

DIGEST = "d" * 64


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "SECONDS", 0.05)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, echo_base: Path) -> Path:
    folder = tmp_path_factory.mktemp("loading") / "shelf"
    shift_cipher_adapters.make_adapter(folder / "caesar_v5", echo_base, 5)
    shift_cipher_adapters.make_adapter(folder.parent / "elsewhere", echo_base, 7)
    return folder


@pytest.fixture(scope="module")
def running(echo_base: Path, shelf: Path) -> Iterator[Served]:
    folder = shift_cipher_adapters.make_bundle(shelf.parent / "served", (1,), base=echo_base)
    with served(folder, adapters_from=shelf) as made:
        yield made


@pytest.fixture
def server(running: Served) -> Iterator[Served]:
    yield running
    for name in {*listed(running)} - {"echo", "caesar_v1"}:
        post(running, "unload", lora_name=name)
    assert set(listed(running)) == {"echo", "caesar_v1"}
    assert said(running, "caesar_v1") == shift_cipher_adapters.answer("a", 1, 3)


def post(server: Served, act: str, key: str | None = None, **body: Any) -> Answer:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return post_json(server.url, f"/v1/{act}_lora_adapter", body, **headers)


def said(server: Served, model: str) -> str:
    return server.client().completions.create(model=model, prompt="a", max_tokens=3).choices[0].text


def listed(server: Served) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for each in ask(server.url, "/v1/models").json["data"]}


@contextmanager
def other_server(folder: Path, echo_base: Path, *shifts: int, **options: Any) -> Iterator[Served]:
    """Serve another bundle; `tenants` goes into its document."""
    folder.mkdir()
    tenants = {"tenants": options.pop("tenants")} if "tenants" in options else {}
    shift_cipher_adapters.make_bundle(folder, shifts, base=echo_base, **tenants)
    with served(folder, Keys(folder / "serving.json", document=True), **options) as made:
        yield made


def test_an_adapter_comes_answers_and_goes(server: Served, shelf: Path) -> None:
    reply = post(server, "load", lora_name="caesar_v5", lora_path=str(shelf / "caesar_v5"), digest=DIGEST)
    assert reply.status == 200, reply.text
    assert said(server, "caesar_v5") == shift_cipher_adapters.answer("a", 5, 3)
    assert listed(server)["caesar_v5"]["digest"] == DIGEST
    assert said(server, "caesar_v1") == shift_cipher_adapters.answer("a", 1, 3)
    assert post(server, "unload", lora_name="caesar_v5").status == 200
    with pytest.raises(openai.NotFoundError):
        said(server, "caesar_v5")


def test_names_of_the_document_are_neither_loaded_nor_unloaded(server: Served) -> None:
    for name in ("caesar_v1", "echo"):
        assert post(server, "load", lora_name=name, lora_path="caesar_v5").status == 400
    for name in ("caesar_v1", "echo", "caesar_v9"):
        assert post(server, "unload", lora_name=name).status == 404


def test_nothing_outside_of_the_folder_is_read(server: Served, shelf: Path) -> None:
    outside = shelf.parent / "elsewhere"
    (shelf / "link").symlink_to(outside)
    (shelf / "round").symlink_to(shelf / "round")
    (shelf / "file").write_text("x")
    inside = [str(shelf / "link"), "link", "round", "file", ".", str(shelf), "nowhere", "a\0b", "x" * 5000]
    places = (*inside, str(outside), "../elsewhere", "/etc")
    replies = [post(server, "load", lora_name="new", lora_path=place) for place in places]
    assert {reply.status for reply in replies} == {404}
    assert len({reply.text for reply in replies}) == 1, "the answer says nothing of what is there"


def test_invalid_bodies_are_refused(server: Served) -> None:
    good = {"lora_name": "x", "lora_path": "caesar_v5"}
    names = (
        "",
        "x" * 301,
        5,
        None,
        "default_model",
        " ",
        "echo ",
        "a\nb",
        "a\x1b[31mb",
        "v1\u200b",
        "caf\u00e9",
    )
    wrong: list[dict[str, Any]] = [{"lora_name": name} for name in names]
    wrong += [{"lora_path": None}, {"digest": "short"}, {"load_inplace": True}]
    for fields in wrong:
        assert post(server, "load", **good | fields).status == 400, fields
    assert post(server, "load", **good | {"lora_path": "y" * 20_000}).status == 413


def test_no_web_page_loads_an_adapter(server: Served) -> None:
    text = json.dumps({"lora_name": "x", "lora_path": "caesar_v5"}).encode()
    is_json = {"Content-Type": "application/json"}
    pages = ({"Content-Type": "text/plain"}, 415), (is_json | {"Origin": "http://evil.example"}, 403)
    for headers, status in (*pages, (is_json | {"Origin": server.root}, 403)):
        assert ask(server.url, "/v1/load_lora_adapter", method="POST", body=text, **headers).status == status


def test_without_the_option_there_is_no_such_path(server: Served, echo_base: Path, tmp_path: Path) -> None:
    assert ask(server.url, "/v1/models").json["loads"] is True
    with other_server(tmp_path / "plain", echo_base, 1) as closed:
        assert ask(closed.url, "/v1/models").json["loads"] is False
        for act in ("load", "unload"):
            assert post(closed, act, lora_name="x", lora_path="caesar_v5").status == 404


def test_keys_say_who_may(echo_base: Path, tmp_path: Path, shelf: Path) -> None:
    def tenant(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "key_sha256": [hashlib.sha256(name.encode()).hexdigest()], **more}

    tenants = [tenant("asks"), tenant("ops", models=[], loads=True)]
    with other_server(tmp_path / "keyed", echo_base, 1, tenants=tenants, adapters_from=shelf) as server:
        body = {"lora_name": "caesar_v5", "lora_path": "caesar_v5"}
        for key, status in ((None, 401), ("nobody", 401), ("asks", 403), ("ops", 200)):
            assert post(server, "load", key, **body).status == status
        for key, status in (("asks", 403), ("ops", 200)):
            assert post(server, "unload", key, lora_name="caesar_v5").status == status


def test_the_document_has_the_last_word_on_a_name(echo_base: Path, tmp_path: Path, shelf: Path) -> None:
    """A document that changes leaves alone what came by a request, but takes a name of its own."""
    with other_server(tmp_path / "served", echo_base, 1, adapters_from=shelf) as server:
        for name in ("caesar_v5", "caesar_v2"):
            post(server, "load", lora_name=name, lora_path="caesar_v5")
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


def test_many_at_once(server: Served) -> None:
    names = [f"n{number}" for number in range(4)]
    with ThreadPoolExecutor(12) as pool:
        load = lambda name: post(server, "load", lora_name=name, lora_path="caesar_v5")
        replies = pool.map(load, names * 3)
        assert sorted(reply.status for reply in replies) == [200] * 4 + [400] * 8
    assert set(names) < set(listed(server))


ODD = ("fifo", "linked config", "linked weights", "endless", "large", "deep", "rank", "no factors")


@pytest.mark.parametrize("how", ODD)
def test_what_lies_there_may_be_anything(server: Served, shelf: Path, tmp_path: Path, how: str) -> None:
    folder = shelf / how
    shutil.copytree(shelf / "caesar_v5", folder)
    config, weights = folder / "adapter_config.json", folder / "adapters.safetensors"
    if how in ("fifo", "linked config", "endless"):
        config.unlink()
    if how == "fifo":
        os.mkfifo(config)
    elif how == "linked config":
        (tmp_path / "secret.json").write_text('{"password": "hunter2"}')
        config.symlink_to(tmp_path / "secret.json")
    elif how == "linked weights":
        weights.unlink()
        weights.symlink_to(shelf.parent / "elsewhere" / "adapters.safetensors")
    elif how == "endless":
        config.symlink_to("/dev/zero")
    elif how == "large":
        os.truncate(config, 400 << 20)
    elif how == "deep":
        config.write_text("[" * 200_000)
    elif how == "rank":
        document = json.loads(config.read_text())
        document["lora_parameters"]["rank"] = 1_000_000
        config.write_text(json.dumps(document))
    elif how == "no factors":
        save_file({"lm_head.m": np.ones(27, np.float32)}, weights)
    reply = post(server, "load", lora_name="odd", lora_path=how)
    assert reply.status == 400
    assert "hunter2" not in reply.text


def test_who_names_no_model_gets_the_one_that_was_there(echo_base: Path, tmp_path: Path, shelf: Path) -> None:
    with other_server(tmp_path / "base alone", echo_base, adapters_from=shelf) as server:
        body = {"prompt": "a", "max_tokens": 1}
        assert post_json(server.url, "/v1/completions", body).status == 200
        assert post(server, "load", lora_name="caesar_v5", lora_path="caesar_v5").status == 200
        assert post_json(server.url, "/v1/completions", body).json["model"] == "echo"


def test_there_is_a_bound_on_how_many(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "MOST_ADDED", 2)
    replies = [post(server, "load", lora_name=f"n{n}", lora_path="caesar_v5") for n in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 400]
