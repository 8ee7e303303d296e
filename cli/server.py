"""`fusery server`: the registry for a team, in browsers and for programs."""

from __future__ import annotations

from pathlib import Path

import click

from .session import LocalPath, Session, command

_FILE = LocalPath(exists=True, dir_okay=False, path_type=Path)
_ROLES = ("reader", "publisher", "approver", "admin")


@command("server")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8430, show_default=True, help="Port; 0 is a free one."
)
@click.option(
    "--allow-host", "hosts", multiple=True, metavar="NAME", help="Answer requests for this name; repeatable."
)
@click.option("--certificate", type=_FILE, metavar="FILE", help="PEM file of a certificate, for HTTPS.")
@click.option("--key", type=_FILE, metavar="FILE", help="PEM file of its key.")
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Believe who a proxy here says that asks; repeatable.",
)
@click.option(
    "--user-header", default="X-Forwarded-User", show_default=True, help="Where proxies say who it is."
)
@click.option("--role-header", default="", help="Where proxies say which role; without it, --proxy-role.")
@click.option(
    "--proxy-role",
    type=click.Choice(_ROLES),
    default="reader",
    show_default=True,
    help="Role of whom a proxy names.",
)
@click.option(
    "--largest-blob", type=click.IntRange(1), metavar="BYTES", help="Of a file that is pushed here.  [64 GiB]"
)
@click.option("--insecure-http", is_flag=True, help="Let tokens go over the network as they are.")
def server_command(
    session: Session,
    host: str,
    port: int,
    hosts: tuple[str, ...],
    certificate: Path | None,
    key: Path | None,
    proxies: tuple[str, ...],
    user_header: str,
    role_header: str,
    proxy_role: str,
    largest_blob: int | None,
    insecure_http: bool,
) -> int:
    """Serve the registry to a team: pages, and /api/v1.

    Whoever asks has a token (fusery token create), or comes through a proxy that signs people in.  What is done is recorded
    under that name.  FUSERY_PROXY_SECRET is what such a proxy sends in X-Fusery-Proxy besides.
    """
    import os
    from typing import cast

    from fusery.registry.records.listening import Listening
    from fusery.registry.records.token import Role
    from fusery.web.running import Tls
    from fusery.web.team import TeamRequest, serve_team

    if (certificate is None) != (key is None):
        raise click.UsageError("--certificate and --key go together.")

    def ready(address: str, *_: str) -> None:
        session.emit(
            Listening(url=address),
            names=[address],
            human=lambda: session.print(f"The registry is at {address}; Ctrl-C ends it."),
        )

    request = TeamRequest(
        host=host,
        port=port,
        hosts=hosts,
        tls=Tls(certificate=certificate, key=key) if certificate and key else None,
        proxies=proxies,
        user_header=user_header,
        role_header=role_header,
        proxy_role=cast("Role", proxy_role),
        proxy_secret=os.environ.get("FUSERY_PROXY_SECRET", ""),
        insecure=insecure_http,
        largest_blob=largest_blob,
    )
    return serve_team(session.local_registry, request, ready=ready, reporter=session.reporter())
