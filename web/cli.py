"""`fusery server` and `ui`: the registry for a team, and in a browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from fusery.cli.command import command
from fusery.cli.options import LocalPath
from fusery.cli.session import Session
from fusery.registry.parsing import plural

_FILE = LocalPath(exists=True, dir_okay=False, path_type=Path)


@command(
    "server",
    rare="role_header",
    document="records.trust:Listening",
    host="ADDRESS (127.0.0.1): Address to listen on.",
    port="N (8430)",
    hosts="--allow-host NAME...: Accept requests for this host name; repeatable.",
    certificate=("FILE: PEM file of a certificate, for HTTPS.", _FILE),
    key=("FILE: PEM file of its key.", _FILE),
    proxies="--proxy ADDRESS...: Trust the user names that a proxy at this address sends; repeatable.",
    user_header="HEADER (X-Forwarded-User): Header with the user name.",
    role_header="HEADER (): Header with the role; default: --proxy-role applies.",
    proxy_role="reader|publisher|approver|admin (reader): Role of users from a proxy.",
    insecure="--insecure-http: Allow tokens without TLS.",
)
def server(
    session: Session, *, certificate: Path | None = None, key: Path | None = None, **options: Any
) -> int:
    """Run the server of a team's registry: pages and HTTP API.

    Clients send a token (`fusery admin token create`), or come through a proxy that signs users in. The log records the
    name of the user. The proxy sends the secret in FUSERY_PROXY_SECRET as X-Fusery-Proxy.

    Example: fusery server --host 0.0.0.0 --certificate cert.pem --key key.pem
    """
    from fusery.registry.records.trust import Listening

    from .running import WebOptions, serve_team

    if (certificate is None) != (key is None):
        raise click.UsageError("--certificate and --key go together.")

    def ready(address: str, *_: str) -> None:
        lines = f"The registry is at {address}; Ctrl-C ends it.", f"On a client: fusery login {address}"
        session.emit(Listening(url=address), names=[address], human=lambda: session.print_lines(lines))

    tls = (certificate, key) if certificate and key else None
    secret = os.environ.get("FUSERY_PROXY_SECRET", "")
    wanted = WebOptions(tls=tls, proxy_secret=secret, **options)
    session.registry.upkeep.local("serve")
    return serve_team(session.registry, wanted, ready=ready, reporter=session.reporter())


@command(
    "ui",
    document="records.trust:Listening | .trail:WrittenDocument",
    subject="[TASK|REF]",
    needs={"force": "save", "audit": "save", "subject": "save"},
    no_browser=": Only print the address.",
    save=": Write the pages of TASK, of REF or of the registry to one HTML file.",
    force=": Replace FILE.",
    audit=": With --save: audit the registry, and include the findings.",
)
def ui(
    session: Session,
    subject: str | None = None,
    *,
    port: int = 0,
    no_browser: bool = False,
    save: Path | None = None,
    force: bool = False,
    audit: bool = False,
) -> int:
    """Open the registry in a browser, or save its pages.

    With the printed address you can also promote, approve, yank and edit. Other users of this machine can only read. A
    saved file loads nothing from elsewhere.

    Example: fusery ui course_rec --save course_rec.html
    """
    if save is not None:
        return _save(session, subject, save, force=force, audit=audit)
    from fusery.registry.records.trust import Listening

    from .running import WebOptions, serve_pages

    def ready(address: str, entrance: str, once: str) -> None:
        text = f"The registry is at {entrance}; Ctrl-C ends it."
        listening = Listening(url=address, entrance=entrance)
        session.emit(listening, names=[entrance], human=lambda: session.print(text))
        if not no_browser and not session.json and not session.quiet:
            import webbrowser

            webbrowser.open(once)  # its arguments are seen by all who use this machine

    session.registry.upkeep.local("show pages of")
    return serve_pages(session.registry, WebOptions(port=port), ready=ready)


def _save(session: Session, subject: str | None, file: Path, *, force: bool, audit: bool) -> int:
    from fusery.cli.trail import write_document
    from fusery.registry.errors import AlreadyExistsError, BadInputError

    from .sheets import saved

    if file.suffix.lower() not in (".html", ".htm"):
        raise BadInputError(f"pages are saved as .html, not {file.name[:60]!r}", hint="--save report.html")
    if file.exists() and not force:  # before an audit that may take an hour
        raise AlreadyExistsError(f"there is a file {file} already", hint="give another name, or add --force")
    report = session.registry.upkeep.audit(reporter=session.reporter()) if audit else None
    page = saved(session.registry, subject, report)
    write_document(session, file, page.decode(), form="html", force=force)
    if report is None or report.ok:
        return 0
    session.say(f"The audit found {plural(len(report.problems), 'problem')}, and the page says so.")
    session.say("Next: fusery audit")
    return 1
