"""Chat templates are rendered once when a base or an adapter comes in, and what is wrong with them is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import chat_templates
import pytest
from template_processes import template_processes

from fusery.registry import Registry
from fusery.registry.admission import AdmissionError
from fusery.registry.admission.template_rules import template_findings
from fusery.registry.errors import ModelUnusableError
from fusery.registry.server.templates import process

FILE, TOOLS, SETTINGS = (
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "tokenizer_config.json",
)


def found(files: Mapping[str, str | bytes]) -> list[tuple[str, str, str]]:
    def read(name: str) -> bytes | None:
        content = files.get(name)
        return content.encode() if isinstance(content, str) else content

    return [(finding.code, finding.subject, finding.message) for finding in template_findings(read)]


@pytest.mark.parametrize("family", [name for name in chat_templates.FAMILIES if name != "everything"])
def test_nothing_is_found_in_good_ones(family: str) -> None:
    source = chat_templates.FAMILIES[family]
    assert found({FILE: source, TOOLS: source}) == []
    assert found({SETTINGS: json.dumps({"chat_template": source, "bos_token": {"content": "<s>"}})}) == []


def test_without_templates_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.sys, "executable", "/nowhere/python")
    for files in (
        {},
        {SETTINGS: "{}"},
        {SETTINGS: "no JSON"},
        {SETTINGS: "[]"},
        {SETTINGS: '{"chat_template": 7}'},
    ):
        assert found(files) == []
    with pytest.raises(ModelUnusableError, match="cannot be rendered"):
        found({FILE: "{{ 'never seen before' }}"})


@pytest.mark.parametrize(
    ("files", "code", "subject", "said"),
    [
        ({FILE: "a{% for %}"}, "chat_template_fails", FILE, "fails: line 1: "),
        ({FILE: "{{ raise_exception('never') }}"}, "chat_template_fails", FILE, "fails: never"),
        ({FILE: "{{ 1 / 0 }}"}, "chat_template_fails", FILE, "division by zero"),
        ({FILE: chat_templates.ENDLESS}, "chat_template_exceeds", FILE, "needed more than"),
        ({FILE: "{{ 'a' * 10 ** 10 }}"}, "chat_template_exceeds", FILE, "MiB of memory"),
        ({FILE: ""}, "chat_template_deaf", FILE, "leaves out what the user says"),
        (
            {FILE: "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"},
            "chat_template_deaf",
            FILE,
            "leaves out",
        ),
        ({FILE: chat_templates.CHATML, TOOLS: "{% if %}"}, "chat_template_fails", TOOLS, "fails"),
        ({TOOLS: "{{ tools[0].no.such }}"}, "chat_template_fails", TOOLS, "has no attribute"),
        ({SETTINGS: json.dumps({"chat_template": "{% if %}"})}, "chat_template_fails", SETTINGS, "fails"),
        (
            {SETTINGS: json.dumps({"chat_template": [{"name": "default", "template": "{% if %}"}, 7, {}]})},
            "chat_template_fails",
            SETTINGS,
            "fails",
        ),
        ({FILE: b"\xff{% if %}"}, "chat_template_fails", FILE, "fails"),
        # The file wins over the settings, as it does in transformers.
        (
            {FILE: "{% if %}", SETTINGS: json.dumps({"chat_template": chat_templates.CHATML})},
            "chat_template_fails",
            FILE,
            "fails",
        ),
    ],
)
def test_what_is_wrong_is_named(files: dict[str, Any], code: str, subject: str, said: str) -> None:
    ((found_code, found_subject, message),) = found(files)
    assert (found_code, found_subject) == (code, subject)
    assert message.startswith(f"{subject}: the model's chat template ")
    assert said in message


def test_what_a_template_says_can_be_printed_and_kept() -> None:
    source, said = chat_templates.HOSTILE["a refusal with control characters"]
    ((_, _, message),) = found({FILE: source})
    assert said in message
    assert message.isprintable()


@pytest.fixture
def bad_base(tiny_base: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(source: str) -> Path:
        folder = shutil.copytree(tiny_base, tmp_path / "bad")
        (folder / FILE).write_text(source)
        return folder

    return make


def test_adding_a_base_names_it_and_goes_on(registry: Registry, bad_base: Callable[[str], Path]) -> None:
    added = registry.bases.add(bad_base(chat_templates.ENDLESS), name="bad")
    assert [finding.code for finding in added.findings] == ["chat_template_exceeds"]
    assert registry.bases.show("bad")["digest"] == added["digest"]
    assert not template_processes()


def test_a_base_is_kept_out_where_that_is_set(registry: Registry, bad_base: Callable[[str], Path]) -> None:
    severity = {"admission": {"severity": {"chat_template_exceeds": "error"}}}
    registry.workspace.settings = replace(registry.workspace.settings, **severity)
    with pytest.raises(AdmissionError, match="chat_template_exceeds") as caught:
        registry.bases.add(bad_base(chat_templates.ENDLESS), name="bad")
    assert [finding.code for finding in caught.value.findings] == ["chat_template_exceeds"]
    assert registry.bases.list() == []


def test_registering_names_the_base_s_template_and_the_adapter_s_own(
    registry: Registry, bad_base: Callable[[str], Path], make_adapter: Callable[..., Path]
) -> None:
    base = bad_base(chat_templates.ENDLESS)
    registry.bases.add(base, name="bad")
    folder = make_adapter("own", base=base)
    first = registry.adapters.register(folder, base="bad", task="a")
    findings = {f["code"]: f["message"] for f in first["findings"]}
    assert findings["chat_template_exceeds"].startswith(f"{FILE} of bad: ")
    (folder / FILE).write_text("{% if %}")
    findings = {
        f["code"]: f["message"]
        for f in (each.to_dict() for each in registry.adapters.check(folder, base="bad", task="b"))
    }
    assert findings["chat_template_fails"].startswith(f"{FILE}: ")
    assert "chat_template_exceeds" not in findings
