"""Severities can be configured, and `strict` makes errors of warnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.adapters import Finding, verdict
from fusery.registry.admission.rules import CODES, SeverityPolicy
from fusery.registry.errors import BadInputError
from fusery.registry.workspace.settings import Settings

FINDINGS = st.lists(
    st.builds(
        Finding,
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["error", "warning", "info"]),
        st.just("subject"),
        st.text(max_size=3),
    ),
    max_size=8,
)
SEVERITIES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.sampled_from(["error", "warning", "info", "off"])
)


@given(FINDINGS, SEVERITIES)
def test_what_is_set_is_what_counts(findings: list[Finding], severities: dict[str, Any]) -> None:
    counted = SeverityPolicy(severities).apply(findings)
    assert len(counted) == sum(severities.get(finding.code) != "off" for finding in findings)
    assert all(finding.severity == severities.get(finding.code, finding.severity) for finding in counted)
    order = ["error", "warning", "info"]
    assert [f.severity for f in counted] == sorted((f.severity for f in counted), key=order.index)


@given(FINDINGS, SEVERITIES)
def test_strict_fails_where_there_was_a_warning(findings: list[Finding], severities: dict[str, Any]) -> None:
    plain, strict = (
        SeverityPolicy(severities).apply(findings),
        SeverityPolicy(severities, strict=True).apply(findings),
    )
    assert verdict(strict) == ("pass" if verdict(plain) == "pass" else "fail")
    assert len(strict) == len(plain)


def configured(home: Path, text: str) -> Settings:
    home.mkdir()
    (home / "config.toml").write_text(text, encoding="utf-8")
    return Settings.load(home)


@pytest.mark.parametrize(
    "text",
    [
        '[admission.severity]\npickle_file = "loud"\n',
        '[admission.severities]\npickle_file = "off"\n',
        "[admission.severity]\npickle_file = 3\n",
        'admission = "strict"\n',
        '[admission.severity]\npeft_whole_tensors = "warning"\n',
    ],
)
def test_invalid_severities_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        SeverityPolicy.configured(configured(tmp_path / "home", text).severities)


def test_an_unknown_code_names_the_nearest_and_some_codes_are_fixed() -> None:
    with pytest.raises(BadInputError, match="did you mean 'pickle_file'"):
        SeverityPolicy.configured({"pickel_file": "off"})
    assert SeverityPolicy.configured({"peft_whole_tensors": "error"})
    fixed = {code.name: code.severity for code in CODES.values() if code.fixed}
    for name, severity in fixed.items():
        with pytest.raises(BadInputError, match=f"is always {severity}"):
            SeverityPolicy.configured({name: "off"})
    # By this one the registry knows later what the adapter holds.
    assert fixed.pop("peft_whole_tensors") == "info"
    assert set(fixed.values()) == {"error"}
