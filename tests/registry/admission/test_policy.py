"""Severities can be configured, and `strict` makes errors of warnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.admission import Finding, Policy, verdict
from fusery.registry.admission.rules import CODES
from fusery.registry.errors import BadInputError
from fusery.registry.settings.settings import Settings

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
    counted = Policy(severities).apply(findings)
    assert len(counted) == sum(severities.get(finding.code) != "off" for finding in findings)
    assert all(finding.severity == severities.get(finding.code, finding.severity) for finding in counted)
    order = ["error", "warning", "info"]
    assert [f.severity for f in counted] == sorted((f.severity for f in counted), key=order.index)


@given(FINDINGS, SEVERITIES)
def test_strict_fails_where_there_was_a_warning(findings: list[Finding], severities: dict[str, Any]) -> None:
    plain, strict = Policy(severities).apply(findings), Policy(severities, strict=True).apply(findings)
    assert verdict(strict) == ("pass" if verdict(plain) == "pass" else "fail")
    assert len(strict) == len(plain)


def configured(home: Path, text: str) -> Settings:
    home.mkdir()
    (home / "config.toml").write_text(text, encoding="utf-8")
    return Settings.load(home)


def test_severities_come_from_config_toml(tmp_path: Path) -> None:
    settings = configured(
        tmp_path / "home", '[admission.severity]\npickle_file = "off"\nmodule_zero = "error"\n'
    )
    assert settings.severities == {"pickle_file": "off", "module_zero": "error"}
    assert settings.origin("admission") == "config.toml"


def test_without_a_table_nothing_is_changed(tmp_path: Path) -> None:
    assert configured(tmp_path / "home", "").severities == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[admission.severity]\npickel_file = "off"\n',
            "there is no finding 'pickel_file'; did you mean 'pickle_file'?",
        ),
        (
            '[admission.severity]\npickle_file = "loud"\n',
            "pickle_file is set to 'loud', not to error, warning, info or off",
        ),
        ('[admission.severity]\nnot_safetensors = "info"\n', "not_safetensors is always an error"),
        ('[admission.severities]\npickle_file = "off"\n', "there is no setting 'severities', only severity"),
        ("[admission.severity]\npickle_file = 3\n", "admission: severity.pickle_file should be a text"),
        ('admission = "strict"\n', "admission"),
    ],
)
def test_what_cannot_be_set_is_refused_with_a_sentence(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        Policy.configured(configured(tmp_path / "home", text).severities)
    assert said in caught.value.message


def test_what_cannot_be_read_is_always_an_error() -> None:
    fixed = {code.name: code.severity for code in CODES.values() if code.fixed}
    # By this one the registry knows later what the adapter holds.
    assert fixed.pop("peft_whole_tensors") == "info"
    assert set(fixed.values()) == {"error"}


@pytest.mark.parametrize("setting", ["off", "warning"])
def test_what_the_registry_goes_by_is_always_noted(setting: str) -> None:
    with pytest.raises(BadInputError, match="peft_whole_tensors is always noted"):
        Policy.configured({"peft_whole_tensors": setting})
    assert Policy.configured({"peft_whole_tensors": "error"})
