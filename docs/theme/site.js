// What the theme's script makes in a page lacks some things for keyboards and screen readers; it makes them at any time.
function mend() {
  for (const nav of document.querySelectorAll(".md-code__nav:not([role])")) nav.setAttribute("role", "none");
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) table.tabIndex = 0;
  for (const version of document.querySelectorAll("button.md-version__current[aria-label]")) version.removeAttribute("aria-label");
}
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
// The corner of a table heads nothing.
for (const corner of document.querySelectorAll("th:empty")) corner.replaceWith(document.createElement("td"));
mend();
