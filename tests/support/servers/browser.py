"""A browser for tests of pages: headless Chromium with axe, which `make test` fetches, or one of the system.

with browser.running() as chromium:
    page = chromium.new_page()
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[3] / ".venv-browser"
AXE = FOLDER / "node_modules" / "axe-core" / "axe.min.js"
MISSING = "no Chromium here, or no axe-core: `make test` fetches both on Linux x86-64"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "headless_shell")
_ARGUMENTS = (
    "--headless=shell",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


def find_browser() -> Path | None:
    """Return the program, None where there is none that runs here."""
    own = FOLDER / "browser" / "chromium"
    if sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64") and own.is_file():
        return own
    found = next((place for name in _NAMES if (place := shutil.which(name))), None)
    return Path(found) if found else None


def is_complete() -> bool:
    """Return whether pages can be tested here."""
    return find_browser() is not None and AXE.is_file()


@contextmanager
def running() -> Iterator[Any]:
    """Yield a browser of Playwright's that is closed at the end."""
    from playwright.sync_api import sync_playwright

    program = find_browser()
    assert program is not None, MISSING
    surroundings = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    own = program.parent
    if own.parent == FOLDER:
        libraries = [str(own / "lib"), surroundings.get("LD_LIBRARY_PATH", "")]
        surroundings["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
        surroundings["FONTCONFIG_FILE"] = str(own / "fonts.conf")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=list(_ARGUMENTS), env=dict(surroundings)
        )
        try:
            yield browser
        finally:
            browser.close()
