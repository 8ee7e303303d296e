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
from programs import template_processes

from fusery.registry import Registry
from fusery.registry.admission.code import AdmissionError
from fusery.registry.admission.tokenizer_rules import template_findings
from fusery.registry.errors import ModelUnusableError
from fusery.registry.runtime.templates import process

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
    for settings in ("{}", "no JSON", "[]", '{"chat_template": 7}'):
        assert found({SETTINGS: settings}) == []
    with pytest.raises(ModelUnusableError):
        found({FILE: "{{ 'never seen before' }}"})


@pytest.mark.parametrize(
    ("files", "code", "subject"),
    [
        ({FILE: "a{% for %}"}, "chat_template_fails", FILE),
        ({FILE: chat_templates.ENDLESS}, "chat_template_exceeds", FILE),
        ({FILE: "{{ 'a' * 10 ** 10 }}"}, "chat_template_exceeds", FILE),
        (
            {FILE: "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"},
            "chat_template_fails",
            FILE,
        ),
        ({FILE: chat_templates.CHATML, TOOLS: "{% if %}"}, "chat_template_fails", TOOLS),
        (
            {SETTINGS: json.dumps({"chat_template": [{"name": "default", "template": "{% if %}"}, 7, {}]})},
            "chat_template_fails",
            SETTINGS,
        ),
        ({FILE: b"\xff{% if %}"}, "chat_template_fails", FILE),
        # The file wins over the settings, as it does in transformers.
        (
            {FILE: "{% if %}", SETTINGS: json.dumps({"chat_template": chat_templates.CHATML})},
            "chat_template_fails",
            FILE,
        ),
    ],
)
def test_a_broken_template_is_named(files: dict[str, Any], code: str, subject: str) -> None:
    ((found_code, found_subject, message),) = found(files)
    assert (found_code, found_subject) == (code, subject)
    assert message.startswith(f"{subject}: the model's chat template ")


def test_what_a_template_says_can_be_printed_and_kept() -> None:
    source, said = chat_templates.HOSTILE["a refusal with control characters"]
    ((_, _, message),) = found({FILE: source})
    assert said in message
    assert message.isprintable()


@pytest.fixture
def bad_base(tiny_base: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny_base, tmp_path / "bad")
    (folder / FILE).write_text("{{ 'a' * 10 ** 10 }}")
    return folder


def test_a_bad_template_is_a_finding_of_the_base_unless_it_is_set_to_an_error(
    registry: Registry, bad_base: Path
) -> None:
    settings = registry.workspace.settings
    severity = {"admission": {"severity": {"chat_template_exceeds": "error"}}}
    registry.workspace.settings = replace(settings, **severity)
    with pytest.raises(AdmissionError) as caught:
        registry.bases.add(bad_base, name="bad")
    assert [finding.code for finding in caught.value.findings] == ["chat_template_exceeds"]
    assert registry.bases.list() == []
    registry.workspace.settings = settings
    added = registry.bases.add(bad_base, name="bad")
    assert [finding.code for finding in added.findings] == ["chat_template_exceeds"]
    assert registry.bases.show("bad")["digest"] == added["digest"]
    assert not template_processes()


def test_registering_names_the_base_s_template_and_the_adapter_s_own(
    registry: Registry, bad_base: Path, make_adapter: Callable[..., Path]
) -> None:
    registry.bases.add(bad_base, name="bad")
    folder = make_adapter("own", base=bad_base)
    first = registry.adapters.register(folder, base="bad", task="a").findings
    messages = {finding.code: finding.message for finding in first}
    assert messages["chat_template_exceeds"].startswith(f"{FILE} of bad: ")
    (folder / FILE).write_text("{% if %}")
    second = registry.adapters.check(folder, base="bad", task="b")
    messages = {finding.code: finding.message for finding in second}
    assert messages["chat_template_fails"].startswith(f"{FILE}: ")
    assert "chat_template_exceeds" not in messages
