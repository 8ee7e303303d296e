"""Who acts: a person on a machine, or a pipeline that somebody started.

Records carry `ann (laptop)`, or `ann (GitHub Actions, run 1234 of acme/models)` from continuous integration, whose
variables say who started it.  A name that was set (`FUSERY_USER`) is taken as it is.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress

LONGEST = 200  # characters; the width of the columns


# Of each kind of continuous integration: the variable that marks it, its name, and the variables with the person, the
# run and the project.  Who started it again counts before who started it:
# https://docs.github.com/actions/reference/variables-reference, https://docs.gitlab.com/ci/variables/predefined_variables/.
# BUILD_USER comes from the plugin build-user-vars.
PIPELINES: Mapping[str, tuple[str, str, str, str]] = {
    "GITHUB_ACTIONS": ("GitHub Actions", "GITHUB_TRIGGERING_ACTOR GITHUB_ACTOR", "GITHUB_RUN_ID", "GITHUB_REPOSITORY"),
    "GITLAB_CI": ("GitLab CI", "GITLAB_USER_LOGIN", "CI_JOB_ID", "CI_PROJECT_PATH"),
    "JENKINS_URL": ("Jenkins", "BUILD_USER_ID BUILD_USER", "BUILD_NUMBER", "JOB_NAME"),
    "BUILDKITE": ("Buildkite", "BUILDKITE_BUILD_CREATOR", "BUILDKITE_BUILD_NUMBER", "BUILDKITE_PIPELINE_SLUG"),
    "CIRCLECI": ("CircleCI", "CIRCLE_USERNAME", "CIRCLE_BUILD_NUM", "CIRCLE_PROJECT_REPONAME"),
    "TF_BUILD": ("Azure Pipelines", "BUILD_REQUESTEDFOR", "BUILD_BUILDID", "SYSTEM_TEAMPROJECT"),
    "CI": ("CI", "", "", ""),
}  # fmt: skip

_CLAIM = "claim: "
_PLACE = re.compile(r"(.+?) \([^()]*\)", re.DOTALL)


def user_name() -> str:
    """Return the name of this process's user."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this number, as in many containers
        return f"uid-{os.getuid()}"


def actor_of(environment: Mapping[str, str], user: str, host: str | None = None) -> str:
    """Return under which name records are made, where none was set."""
    unset = ("", "0", "false", "no")
    markers = [marker for marker in PIPELINES if environment.get(marker, "").strip().casefold() not in unset]
    if not markers:
        with suppress(OSError):
            host = socket.gethostname() if host is None else host
        return _written(user, host or "")
    name, people, runs, places = PIPELINES[markers[0]]
    who, run, place = (_first(environment, names) for names in (people, runs, places))
    where = name + (f", run {run}" if run else "") + (f" of {place}" if run and place else "")
    return _written(who or user, where)


def person(actor: str) -> str:
    """Return the person of a recorded name, in one form: the same on another machine, in a pipeline, in other case."""
    match = _PLACE.fullmatch(actor.strip())
    return (match[1] if match else actor).strip().casefold()


def is_author(actor: str, recorded: str) -> bool:
    """Return whether somebody is the person of a recorded name, or whom the sender of a package named as that."""
    who, (_, claim, claimed) = person(actor), recorded.casefold().partition(f"({_CLAIM}")
    return who == person(recorded) or bool(claim and f"{claimed.rstrip(')')} ".startswith(f"{who} "))


def name_sender(sender: str, claimed: str) -> str:
    """Return the name to record for a pushed change: the sender, with the package's name as a claim if that differs."""
    return claimed if person(claimed) == person(sender) else _written(sender, f"{_CLAIM}{claimed}")


def _written(who: str, where: str) -> str:
    name, place = _plain(who)[: LONGEST // 2] or "unknown", _plain(where)
    return f"{name} ({place[: LONGEST - len(name) - 3]})" if place else name


def _plain(text: str) -> str:
    # Without what cannot be printed, and without the marks that set the place off.
    kept = "".join(char if char.isprintable() and char not in "()" else " " for char in text)
    return " ".join(kept.split())


def _first(environment: Mapping[str, str], names: str) -> str:
    return next((environment[name] for name in names.split() if environment.get(name, "").strip()), "")
