"""`fusery serve`: adapters behind OpenAI's API, straight from the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import LocalPath, Session, command

if TYPE_CHECKING:
    from fusery.registry.serving.serve import Serving


@command("serve")
@click.argument("references", metavar="[REF]...", nargs=-1)
@click.option(
    "--model",
    "models",
    metavar="NAME=SPLIT",
    multiple=True,
    help="A name of your own and what it leads to, with weights: course_rec=v1:0.9,v2:0.1.  May be given again.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0 for any."
)
@click.option(
    "--api-keys",
    type=LocalPath(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="TOML file of tenants with digests of their keys, followed as it changes; default: everybody may ask.",
)
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="Name that requests may be for, besides addresses, localhost and --host; * for all.  May be given again.",
)
@click.option(
    "--adapters-from",
    type=LocalPath(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Let requests load adapters that lie below FOLDER, as fusery sync does; with keys, those of loads = true.",
)
@click.option("--fused", is_flag=True, help="Serve the fused model of one REF instead of base and adapter.")
@click.option(
    "--accept-foreign",
    is_flag=True,
    help="With --fused: fetch what another registry says is the model, unproved, instead of making it.",
)
def serve_command(
    session: Session,
    references: tuple[str, ...],
    models: tuple[str, ...],
    host: str,
    port: int,
    api_keys: Path | None,
    hosts: tuple[str, ...],
    adapters_from: Path | None,
    fused: bool,
    accept_foreign: bool,
) -> int:
    """Serve adapters of one base with OpenAI's API.

    Aliases are followed as they move.  Each adapter can be asked for as REF, by its full name and by its task.  Ctrl-C
    ends the server when what is being answered is answered.
    """
    from fusery.registry.serving.serve import ServeRequest

    request = ServeRequest(
        references, models, host, port, api_keys, fused, accept_foreign, hosts, adapters_from
    )

    def ready(serving: Serving) -> None:
        def human() -> None:
            session.print(f"Serving on {serving.url}")
            for name in serving.models:
                target = serving.routes.get(name, name)
                parts = {target: 1.0} if isinstance(target, str) else target
                leads = ", ".join(part if len(parts) == 1 else f"{part}: {parts[part]:g}" for part in parts)
                session.print(f"  {name}" + ("" if leads == name else f"  ->  {leads}"))

        session.emit(serving, names=[serving.url], human=human)

    return session.registry.serve(request, ready=ready, reporter=session.reporter())
