"""`fusery ui`: the registry in a browser, on this machine."""

from __future__ import annotations

import click

from .session import Session, command


@command("ui")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default="a free one", help="Port to listen on."
)
@click.option("--no-browser", is_flag=True, help="Open no browser, and only say where the pages are.")
def ui_command(session: Session, port: int, no_browser: bool) -> int:
    """Show the registry in a browser, on this machine.

    Tasks, versions, curves, aliases, fused models and the log as pages, each of which is JSON for who asks for that.  Who
    opens them by the address that is printed can also promote, approve, withdraw and amend; others on this machine can read.
    The server listens on 127.0.0.1 and ends with Ctrl-C.
    """
    from fusery.registry.records.listening import Listening
    from fusery.web.running import serve_pages

    def ready(address: str, entrance: str, once: str) -> None:
        session.emit(
            Listening(url=address, entrance=entrance),
            names=[entrance],
            human=lambda: session.print(f"The registry is at {entrance}; Ctrl-C ends it."),
        )
        if not no_browser and not session.json and not session.quiet:
            import webbrowser

            webbrowser.open(once)  # its arguments are seen by all who use this machine

    return serve_pages(session.local_registry, port=port, ready=ready)
