"""What the forges read of a repository: each file is of the form that is laid down for it, and all say one version."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner
from forge_steps import ROOT, read_yaml

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
FORMS = {
    "github-workflows": ".github/workflows/*.yml",
    "github-actions": ".github/actions/*/action.yml",
    "github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "dependabot": ".github/dependabot.yml",
    "gitlab-ci": ".gitlab/*.yml",
    "citation-file-format": "CITATION.cff",
}
"""Files by the schema that they have to fit."""


@pytest.mark.parametrize("schema", FORMS)
def test_files_fit_their_schemas(schema: str) -> None:
    files = sorted(ROOT.glob(FORMS[schema]))
    assert files
    words = ["--builtin-schema", f"vendor.{schema}", "--default-filetype", "yaml", *map(str, files)]
    done = CliRunner().invoke(check_jsonschema, words)
    assert done.exit_code == 0, done.output


def notes(tag: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", ROOT / ".github" / "release_notes.py", tag],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.timing
def test_a_tag_publishes_its_section_of_the_changelog() -> None:
    done = notes(f"v{VERSION}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("### ")
    assert "\n## " not in done.stdout
    other = notes("v99.0.0")
    assert (other.returncode, other.stdout) == (1, "")
    assert VERSION in other.stderr


def test_every_file_says_the_same_version() -> None:
    citation = read_yaml("CITATION.cff")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
    assert (citation["version"], str(citation["date-released"])) == released[0]
    assert citation["version"] == VERSION
    job = read_yaml(".gitlab/fusery-check.yml")["fusery-check"]
    assert job["variables"]["FUSERY_PACKAGE"] == f"fusery=={VERSION}"
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs" / "guides").glob("*.md")]
    named = re.compile(r"(?:fusery(?:\[[\w,]+\])?==|@COMMIT # v)(\d+\.\d+\.\d+)")
    said = [version for page in pages for version in named.findall(page.read_text(encoding="utf-8"))]
    assert len(said) > 2
    assert set(said) == {VERSION}
