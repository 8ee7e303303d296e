"""The guide to PEFT names every field and every finding."""

from __future__ import annotations

from pathlib import Path

from fusery.registry.adapters.peft_config import FIELDS
from fusery.registry.admission import peft_rules
from fusery.registry.admission.code import Code

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")


def test_every_field_of_peft_is_in_the_guide() -> None:
    assert [name for name in FIELDS if f"`{name}`" not in PAGE] == []


def test_every_refusal_is_in_the_guide() -> None:
    codes = [
        code for code in vars(peft_rules).values() if isinstance(code, Code) and code.severity == "error"
    ]
    assert len(codes) > 10
    assert [code.name for code in codes if f"`{code.name}" not in PAGE] == []
