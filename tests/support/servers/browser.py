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

CUT = """() => {
  const found = [], width = document.documentElement.clientWidth;
  for (const one of document.querySelectorAll('body *')) {
    if (!one.checkVisibility() || one.matches('.skip, thead, thead *, title, desc, style')) continue;
    const name = `${one.tagName} ${one.getAttribute('class') || ''} ${(one.textContent || '').trim().slice(0, 60)}`;
    const inside = getComputedStyle(one).overflowX !== 'visible' && one.clientWidth > 0;
    if (inside && !one.matches('input, .pans') && one.scrollWidth > one.clientWidth) found.push(`${name}: ${one.scrollWidth} in ${one.clientWidth}`);
    const box = one.getBoundingClientRect();
    const panned = one.closest('.pans') && !one.matches('.pans');
    if (box.width && !panned && (box.left < -0.5 || box.right > width + 0.5)) found.push(`${name}: ${box.left} to ${box.right}`);
    const svg = one.closest('svg');
    if (one.matches('svg text')) {
      const all = svg.getBoundingClientRect();
      if (box.left < all.left - 1 || box.right > all.right + 1) found.push(`${name}: out of its picture`);
    }
  }
  return found;
}"""
"""Everything that is wider than what it stands in, or not whole on the screen; a field to write in scrolls by itself, and so does a frame that `pans`."""

BROKEN = """() => {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.parentElement.checkVisibility() || node.parentElement.closest('svg, style, .skip')) continue;
    for (const word of node.data.matchAll(/\\w+/g)) {
      if (word[0].length > 16) continue;
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].filter(box => box.width).map(box => Math.round(box.top)));
      if (lines.size > 1) found.push(word[0]);
    }
  }
  return found;
}"""
"""Every word that stands on two lines."""


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
    own = FOLDER / "browser" / "chromium"
    if sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64") and own.is_file():
        return own
    found = next((place for name in _NAMES if (place := shutil.which(name))), None)
    return Path(found) if found else None


def is_complete() -> bool:
    return find_browser() is not None and AXE.is_file()


@contextmanager
def running() -> Iterator[Any]:
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
