"""`fusery fuse` and `materialize`: from an adapter to a model, and to something deployable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .session import Session, command
from .text import share, size

_PRECISIONS = ("auto", "keep", "dequantize")
_TARGETS = ("model", "docker")


def _request_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.option(
            "--precision",
            type=click.Choice(_PRECISIONS),
            default="auto",
            help="keep: the base's own format; dequantize: 16 bits; auto: the smaller of the two that passes.",
        ),
        click.option(
            "--min-fidelity",
            type=click.FloatRange(0, 1),
            metavar="X",
            help="Share of the update that must be retained; below it nothing is published.",
        ),
        click.option("--accept-loss", is_flag=True, help="Publish even when the adapter was lost."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@command("fuse")
@click.argument("reference", metavar="REF")
@_request_options
def fuse_command(session: Session, reference: str, **options: Any) -> None:
    """Fuse an adapter into its base; a second time it comes from the cache.

    Exit code 1 when the fused weights would not hold what the adapter learned.
    """
    from fusery.registry.fuse import FuseRequest

    request = FuseRequest(**options)
    with session.progress("fusing") as progress:
        fused = session.registry.fuse(reference, request, say=session.say, progress=progress)
    document = fused.to_dict()

    def human() -> None:
        fidelity = document["fidelity"]
        session.facts(
            [
                ("fused" if not fused.cached else "from the cache", document["adapter"]),
                ("path", document["path"]),
                ("precision", document["precision"]),
                ("fidelity", f"{fidelity['verdict']}, {share(fidelity['retained'])} of the update retained"),
                ("size", size(document["bytes"])),
                ("seconds", f"{document['seconds']:.2f}"),
                ("key", document["key"]),
                ("digest", document["digest"]),
            ]
        )

    session.emit(document, names=[document["path"]], human=human)


@command("materialize")
@click.argument("reference", metavar="REF")
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(_TARGETS), default="model", help="What to write.")
@click.option("--force", is_flag=True, help="Replace what is at DEST.")
@click.option(
    "--link", is_flag=True, help="Hard links into the cache instead of copies; do not edit the files."
)
@_request_options
def materialize_command(
    session: Session, reference: str, destination: Path, target: str, force: bool, link: bool, **options: Any
) -> None:
    """Write a deployable bundle: a model folder or a Dockerfile bundle.

    DEST is a folder that does not exist yet.
    """
    from fusery.registry.fuse import FuseRequest

    with session.progress("fusing") as progress:
        bundle = session.registry.materialize(
            reference,
            destination,
            target=target,
            request=FuseRequest(**options),
            force=force,
            link=link,
            say=session.say,
            progress=progress,
        )
    document = bundle.to_dict()

    def human() -> None:
        total = sum(file["size"] for file in document["files"])
        session.print(f"{'Already there' if bundle.existed else 'Wrote'}: {document['path']}")
        session.print(
            f"  {target}, {len(document['files'])} files, {size(total)}, digest {document['digest'][:12]}"
        )
        session.say(f"Next: {_next_step(target, document['path'])}")

    session.emit(document, names=[document["path"]], human=human)


def _next_step(target: str, path: str) -> str:
    if target == "docker":
        return f"docker build -t NAME {path}   (or, without a container: cd {path} && python server.py)"
    return f"mlx_lm.generate --model {path} --prompt TEXT"
