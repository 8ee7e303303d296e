"""What a browser measures of a page."""

from __future__ import annotations

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
