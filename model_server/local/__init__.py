"""`fusery serve`: adapters behind OpenAI's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusery.cli.command import command
from fusery.cli.fuse import FUSE
from fusery.cli.session import Session

if TYPE_CHECKING:
    from .serve import Serving


@command(
    "serve",
    document="fusery.model_server.local.serve:Serving",
    references="[REF]...",
    models="--model NAME=SPLIT...: An additional model name and its split: course_rec=v1:0.9,v2:0.1; repeatable.",
    host="ADDRESS (127.0.0.1): Address to listen on.",
    port="N (8080)",
    api_keys="FILE: TOML file of tenants with digests of their keys; default: no keys.",
    hosts="--allow-host NAME...: Accept requests for this host name; * accepts all; repeatable.",
    adapters_from="FOLDER: Allow clients to load adapters from FOLDER; with keys, only tenants with loads = true.",
    fused=": Serve the fused model of one REF; it stays until a restart, also if the alias moves.",
    rare="hosts adapters_from accept_loss accept_foreign",
    **{name: FUSE[name] for name in ("precision", "base", "details", "accept_loss", "accept_foreign")},
)
def serve_command(session: Session, references: tuple[str, ...] = (), **options: Any) -> int:
    """Serve adapters of one base model through OpenAI's API.

    When an alias moves, the next request gets the new version. A request names an adapter by REF, by its full name or by
    its task. Ctrl-C or SIGTERM ends the server after the running answers.

    Examples:
      fusery serve course_rec#prod course_rec@latest
      fusery serve --model course_rec=v1:0.9,v2:0.1
    """
    from fusery.registry.fusion.request import FuseRequest

    from .serve import ServeRequest, serve

    def ready(serving: Serving) -> None:
        session.emit(serving, names=[serving.url], human=lambda: _print_serving(session, serving))

    fuse = {name: options.pop(name) for name in ("precision", "base", "accept_loss", "accept_foreign")}
    fuse |= options.pop("details")
    request = ServeRequest(references=references, request=FuseRequest(**fuse), **options)
    return serve(session.registry, request, ready=ready, reporter=session.reporter())


def _print_serving(session: Session, serving: Serving) -> None:
    session.print(f"Serving on {serving.url}")
    for name in serving.models:
        target = serving.routes.get(name, name)
        parts = {target: 1.0} if isinstance(target, str) else target
        leads = ", ".join(part if len(parts) == 1 else f"{part}: {parts[part]:g}" for part in parts)
        session.print(f"  {name}" + ("" if leads == name else f"  ->  {leads}"))
