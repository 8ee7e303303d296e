"""`fusery identify`: what a folder, an archive or a file is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from .session import LocalPath, Session, command
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.identification.identified import Identified, Matched

_OWN = ("README.md", "fusery.json", "curve.svg")
"""Files that bundles have beside a model."""

_EVIDENCE = {"nearest": "rounded numbers"}

CODES = {"known": 0, "unknown": 1, "inconclusive": 3, "near": 3}


@command("identify")
@click.argument("path", type=LocalPath())
@click.option(
    "--strict", is_flag=True, help="Exit with 1 also if it was changed, or says something wrong of itself."
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Read what is on record anew, and trust no digest of a tensor that was kept.",
)
def identify_command(session: Session, path: str, strict: bool, fresh: bool) -> int:
    """Find out what a folder or file is, and what was changed.

    It may be a folder, an archive, a safetensors or a GGUF file.  It is found by what it says of itself, if that is so;
    then by digests of files, then by those of tensors, so that it may be renamed, cut into other files, stripped of its
    metadata or converted.  What is on record is read once for that, when it could be what was found.  Exit codes: 0 it
    is known, 1 it is unknown, 3 unknown, but something on record that it could be is not here to be compared with, or
    its numbers were rounded elsewhere, as quantising does, and it is said what they are nearest to.
    """
    from fusery.registry.identification import Begun

    # Hashing begins before the registry is opened: the other core has nothing to do while libraries are imported.
    # Threads that hash want Python's lock for an instant after each piece, and do not wait for it as long as usual.
    sys.setswitchinterval(0.0002)
    begun = Begun(path)
    try:
        with session.progress("identifying") as progress:
            found = session.registry.provenance.identify(
                begun, fresh=fresh, reporter=session.reporter(progress)
            )
    finally:
        begun.close()
    names = [f"{match.kind}:{match.name}" for match in found.matches]
    session.emit(found, names=names, human=lambda: _show(session, found))
    return 1 if strict and found.verdict == "known" and not found.intact else CODES[found.verdict]


def _elsewhere(match: Matched, key: str) -> bool:
    """Tell whether weights that were saved anew are the reason: these are no news beside their tensors."""
    return key != "changed" and match.evidence != "files"


def _show(session: Session, found: Identified) -> None:
    for match in found.matches:
        place = "" if match.path == "." else f"{cell(match.path)}: "
        session.print(f"{place}{cell(match.sentence)}")
        session.print(
            f"  by its {_EVIDENCE.get(match.evidence, match.evidence)}, {match.confidence:.0%};"
            f" digest {match.digest[:12]}"
        )
        for each in match.get("withdrawals", ()):
            session.print(f"  {cell(each['told'])}")
        for key in ("changed", "missing", "extra"):
            names = [name for name in match.files.get(key, ()) if name not in _OWN]
            if names and not _elsewhere(match, key):
                session.print(f"  files {key}: {', '.join(cell(name) for name in names[:10])}")
    if not found.matches:
        session.print("unknown: nothing on record has these files, tensors or numbers")
    for claim in found.claims:
        if claim.truth is None and claim.digest is None:
            continue  # a name that proves nothing
        word = {True: "true", False: "FALSE", None: "not proven"}[claim.truth]
        told = claim.name or (claim.digest or "")[:12]
        session.print(f"{cell(claim.source)} says {claim.kind} {cell(told)}: {word}, {cell(claim.reason)}")
    for problem in found.problems:
        session.print(f"not read: {cell(problem)}")
    if found.verdict != "known":
        for row in found.unread:
            session.print(f"not compared with {cell(row.name)}: {cell(row.reason)}")
