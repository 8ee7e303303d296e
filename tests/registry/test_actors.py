"""Who acts: on a machine, or in a pipeline; and who is the same person."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.actors import LONGEST, PIPELINES, actor_of, person
from fusery.registry.workspace.settings import Settings
from fusery.storage.jsonfile import is_keepable

GITHUB = {"CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_ACTOR": "ann", "GITHUB_RUN_ID": "1234"}
GITHUB |= {"GITHUB_REPOSITORY": "acme/models"}
VARIABLES = [name for marker, kind in PIPELINES.items() for name in (marker, *" ".join(kind[1:]).split())]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "root (laptop)"),
        ({"CI": "1"}, "root (CI)"),
        ({**GITHUB, "GITHUB_TRIGGERING_ACTOR": "bob"}, "bob (GitHub Actions, run 1234 of acme/models)"),
        (
            {"JENKINS_URL": "http://ci", "BUILD_USER": "Ann B", "BUILD_NUMBER": "5", "JOB_NAME": "nightly"},
            "Ann B (Jenkins, run 5 of nightly)",
        ),
        ({"JENKINS_URL": "http://ci"}, "root (Jenkins)"),
        ({"GITHUB_ACTIONS": "true", "GITHUB_ACTOR": "a\x00b\udc80 (root)\n"}, "a b root (GitHub Actions)"),
    ],
)
def test_who_is_named(environment: dict[str, str], expected: str) -> None:
    assert actor_of(environment, "root", "laptop") == expected
    assert actor_of({}, "ann", "") == "ann"
    assert actor_of({}, "\n", "laptop") == "unknown (laptop)"


def test_the_same_person_everywhere() -> None:
    for actor in ("ann", "Ann", " ann ", "ann (laptop)", "ANN (GitHub Actions, run 1234 of acme/models)"):
        assert person(actor) == "ann"
    assert person("ann@a.example (laptop)") != person("ann@b.example (laptop)")


@given(
    values=st.dictionaries(st.sampled_from(VARIABLES), st.text(max_size=300)),
    user=st.text(max_size=300),
    host=st.text(max_size=300),
)
def test_whatever_the_environment_holds_can_be_recorded(values: dict[str, str], user: str, host: str) -> None:
    actor = actor_of(values, user, host)
    assert 0 < len(actor) <= LONGEST
    assert is_keepable(actor)
    assert actor.isprintable()
    # Nobody becomes somebody else by a number of a run: what follows the name is taken off again.
    assert person(actor) == person(actor_of({**values, "CI_JOB_ID": "1", "GITHUB_RUN_ID": "1"}, user, host))


def test_a_name_that_was_set_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GITHUB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GITHUB_TRIGGERING_ACTOR", raising=False)
    monkeypatch.setenv("FUSERY_USER", "release-bot")
    assert Settings.load(tmp_path).actor == "release-bot"
    monkeypatch.delenv("FUSERY_USER")
    assert Settings.load(tmp_path).actor == "ann (GitHub Actions, run 1234 of acme/models)"
