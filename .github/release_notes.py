"""Print what CHANGELOG.md says of a release, and fail unless its tag, pyproject.toml and the changelog agree.

For example: python .github/release_notes.py v0.1.0
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def notes(tag: str) -> str:
    """Return the section of the changelog that a tag publishes."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if tag != f"v{version}":
        raise SystemExit(f"The tag is {tag}, and the version in pyproject.toml {version}.")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.split(r"^## (.*)\n", changes, flags=re.MULTILINE)[1:]
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        if re.fullmatch(rf"\[?{re.escape(version)}\]? - \d{{4}}-\d\d-\d\d", title):
            return text.strip() + "\n"
    raise SystemExit(f"CHANGELOG.md has no section of {version} with its day.")


if __name__ == "__main__":
    sys.stdout.write(notes(*sys.argv[1:]))
