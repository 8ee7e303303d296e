"""`fusery register`, `list`, `show` and `history`: adapters as records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.engine.verdict import in_words
from fusery.registry.parsing import plural

from .amendments import explain_mark, explain_marks, marked, print_amendments, tag_fields
from .columns import adapter_table, chosen_columns, has_marks, metrics_in
from .evaluations import print_evaluations
from .findings import print_findings
from .session import LocalPath, Session, command
from .text import (
    ago,
    aside,
    cell,
    count,
    foreign_fact,
    held_by,
    number,
    size,
    state_of,
    times,
    told,
)
from .training import print_training

if TYPE_CHECKING:
    from fusery.registry.records.adapter import Adapter, Registered
    from fusery.registry.records.adapter_details import AdapterDetails

_MOST = 2**31 - 1
TRAINED_ON = click.option(
    "--trained-on",
    metavar="BASE",
    help="The base it was trained on, if that is --base at another precision (QLoRA).",
)


class FolderOrUrl(click.Path):
    """A folder as a path, and a URL as the text that it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a URL as it is, and anything else as a path."""
        return value if isinstance(value, str) and "://" in value else super().convert(value, param, ctx)


_FOLDER = click.argument("folder", type=FolderOrUrl(path_type=Path))


def facts_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a user can say about an adapter; a flag wins over what the files say."""
    options = [
        click.option(
            "--base", metavar="NAME", help="Base model it is for; default: the known one that its files name."
        ),
        TRAINED_ON,
        click.option("--task", metavar="TASK", help="What it is for; default: what its files say."),
        click.option("--version", type=int, metavar="N", help="Version; default: its files', or the next."),
        click.option("--date", metavar="YYYYMMDD", help="Day of training; default: its files', or today."),
        click.option("--alpha", type=float, help="LoRA alpha; default: scale x rank."),
        click.option("--val-loss", type=float, help="Validation loss of these weights."),
        click.option("--dataset", metavar="D", help="What it was trained on."),
        click.option("--examples", type=int, help="How many training examples."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(value.partition("=")[::2] for value in values)
    if len(pairs) != len(values):
        raise click.BadParameter("a tag is given twice")
    if any(not key or not value for key, value in pairs.items()):
        raise click.BadParameter("write KEY=VALUE")
    return pairs


TAGS = click.option("--tag", "tags", multiple=True, metavar="K=V", callback=_pairs, help="A tag; repeatable.")


STRICT = click.option("--strict", is_flag=True, help="Refuse what only gives warnings, too.")


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which weights of a training run are meant, and where its output is."""
    checkpoint = click.option(
        "--checkpoint",
        metavar="best|last|ITER",
        help="Which weights of a run; default: the best by validation loss, where that is known.",
    )
    log = click.option(
        "--log",
        type=LocalPath(path_type=Path),
        metavar="FILE",
        help="What mlx_lm.lora printed; default: a log in the folder.",
    )
    return checkpoint(log(function))


@command("register")
@_FOLDER
@facts_options
@run_options
@STRICT
@click.option("--parent", metavar="REF", help="The adapter whose training was continued.")
@TAGS
@click.option("--note", metavar="TEXT", help="A note for people.")
def register_command(session: Session, folder: str | Path, **facts: Any) -> None:
    """Register an adapter folder as the next version of its task.

    FOLDER holds adapters.safetensors and adapter_config.json as mlx_lm.lora writes them, or a whole run of it: with
    numbered checkpoints, of which the best is registered, and its log, from which the training curve is taken.  A
    folder that PEFT saved (adapter_model.safetensors) is taken as well, and so is the output folder of
    transformers' Trainer, of TRL, Axolotl, LLaMA-Factory or Unsloth, with its checkpoint-STEP folders.  FOLDER may
    also be hf://OWNER/NAME, hf://OWNER/NAME@REVISION, or the URL of a team's bucket, such as s3://BUCKET/PATH.
    """
    with session.progress("sending") as progress:
        done = session.registry.adapters.register(folder, reporter=session.reporter(progress), **facts)
    session.emit(done, names=[done.name], human=lambda: print_registered(session, done))


def print_registered(session: Session, view: Registered) -> None:
    """Print what was registered, and what was found about it."""
    session.print(f"{'Registered' if view['created'] else 'Already registered'}: {view['name']}")
    session.print(_summary(view))
    session.warn(view)
    print_findings(session, view["findings"])


def _summary(view: Adapter) -> str:
    loss = ""
    if view["val_loss"] is not None:
        loss = f", validation loss {marked(number(view['val_loss']), view, 'val_loss')}"
    other = f", trained on {cell(view['trained_on'])}" if view["trained_on"] else ""
    return (
        f"{view['method']} rank {cell(view['rank'])} on {plural(view['layers'], 'layer')} of {view['base']}{other}: "
        f"{plural(view['trainable_parameters'], 'parameter')} ({view['trainable_percent']:.3f} %){loss}"
    )


@command("list", table=True)
@click.option("--task", metavar="T", help="Only of this task.")
@click.option("--base", metavar="B", help="Only on this base model.")
@TAGS
@click.option(
    "--where", metavar="EXPR", help='Only those that fit, for example: "val_loss < 1 and rank >= 8".'
)
@click.option(
    "--sort",
    default="created_at",
    metavar="FIELD[:desc][,FIELD...]",
    help="Sort by fields; what has no value comes last.",
)
@click.option("--limit", type=click.IntRange(min=1, max=_MOST), metavar="N", help="At most so many.")
@click.option(
    "--offset",
    type=click.IntRange(min=0, max=_MOST),
    default=0,
    metavar="N",
    help="Leave out so many from the beginning.",
)
@click.option(
    "--columns",
    callback=chosen_columns,
    metavar="NAME[,NAME...]",
    help="Show exactly these columns, such as name,age,val_loss, whole.",
)
def list_command(session: Session, columns: tuple[str, ...] | None, **filters: Any) -> None:
    """List adapters.

    --where takes comparisons (= != < <= > >=, and ~ for a part of a text or a pattern with * and ?), `in (...)`,
    `is null`, `and`, `or`, `not` and parentheses; tags are called tag.KEY, what was measured metric.NAME. docs/guides/compare.md lists the fields.

    --columns takes name, aliases, state, age, created_by, val_loss, base, rank, method, layers, trainable_parameters,
    dataset; and created_at, task, version, date, digest, trained_on, alpha, scale, iterations, examples, parent, tags,
    note; and metric.NAME.
    """
    if columns is not None and (session.json or session.quiet):
        raise click.UsageError("--columns goes with neither --json, which has all of them, nor -q.")
    adapters = session.registry.adapters.list(**filters, metrics=metrics_in(columns))

    def human() -> None:
        session.print_table(adapter_table(adapters, columns))
        explain_mark(session, has_marks(adapters, columns))
        if not adapters:
            session.say("Nothing is registered that fits. Hint: fusery register DIR --base NAME --task T")

    session.emit(adapters, names=[adapter["name"] for adapter in adapters], human=human)


@command("show")
@click.argument("reference", metavar="REF")
@click.option(
    "--at", metavar="DATE", help="As it was on record then; a day means its end, in UTC, 7d seven days ago."
)
@click.option(
    "--plot",
    type=LocalPath(path_type=Path),
    metavar="FILE",
    help="Draw its training curve to a .svg or .png file; .png needs the extra `plot`.",
)
@click.option("--force", is_flag=True, help="With --plot: replace the file.")
def show_command(session: Session, reference: str, at: str | None, plot: Path | None, force: bool) -> None:
    """Show one adapter in full, with the sizes people compare.

    With --at, what was amended later is as it was before, and what was made of it is left out.
    """
    if force and plot is None:
        raise click.UsageError("--force goes with --plot.")
    view = session.registry.adapters.show(reference, at=at, plot=plot, force=force)
    names = [view["plot"] if plot else view["name"]]
    session.emit(view, names=names, human=lambda: _print_adapter(session, view))


def _print_adapter(session: Session, view: AdapterDetails) -> None:
    marks = "".join(f" #{alias}" for alias in view["aliases"])
    marks += aside(view)
    alpha, scale = number(view["alpha"]), number(view["scale"])
    session.facts(
        [
            ("name", view["name"] + marks),
            *([("picture", str(view.plot))] if view.plot else []),
            *([("on record", f"at {view['at']}")] if "at" in view else []),
            ("base", cell(view["base"])),
            *([("trained on", cell(view["trained_on"]))] if view["trained_on"] else []),
            ("method", f"{view['method']}, rank {cell(view['rank'])}, alpha {alpha}, scale {scale}"),
            ("layers", f"{view['layers']}, each: {cell(view['target_modules'])}"),
            ("trainable parameters", count(view["trainable_parameters"])),
            ("total parameters", count(view["total_parameters"])),
            ("share", f"{view['trainable_percent']:.3f} % ({view['reduction_factor']:.0f} times fewer)"),
            (
                "format",
                cell(
                    [view["format"], *(f"{each['format']} (rendered)" for each in view.get("renderings", []))]
                ),
            ),
            ("size", f"{size(view['bytes'])} (base: {size(view['base_bytes'])})"),
            ("date", marked(view["date"], view, "date")),
            ("validation loss", marked(number(view["val_loss"], 6), view, "val_loss")),
            ("iterations", cell(view["iterations"])),
            ("dataset", _dataset(view)),
            (
                "parent",
                cell(view["parent"])
                + (f" (yanked: {cell(reason)})" if (reason := view["parent_yanked"]) else ""),
            ),
            *_computed(view),
            ("tags", marked(cell(view["tags"]), view, *tag_fields(view))),
            ("note", marked(cell(view["note"]), view, "note")),
            ("digest", view["digest"]),
            ("registered", f"{view['created_at']} by {cell(view['created_by'])}"),
        ]
    )
    print_amendments(session, view)
    print_training(session, view)
    print_evaluations(session, view.evaluations)
    session.print("files")
    for file in view["files"]:
        session.print(f"  {file['sha256'][:12]}  {size(file['size']):>12}  {file['path']}")
    if view.get("fused"):
        session.print("fused")
    for fused in session.newest(view.get("fused", []), "fused models"):
        session.print(_fused_line(fused))
    for bundle in session.newest(view.get("bundles", []), "bundles"):
        session.print(f"bundle {bundle['target']} in {cell(bundle['path'])}{aside(bundle)}")
    for running in session.newest(view.get("deployments", []), "deployments"):
        what = f"{running['kind']}{aside(running)}"
        session.print(f"runs at {cell(running['place'])} as {what}, since {running['at']}")
    for signature in session.newest(view.get("signatures", []), "signatures"):
        who = cell(signature["signer"] or signature["key_id"])
        revoked = ", a key that counts no more" if signature["revoked"] else ""
        session.print(f"signed by {who}{revoked}, {signature['scheme']}, {signature['at']}")
    print_findings(session, view["findings"])


def _computed(view: AdapterDetails) -> list[tuple[str, str]]:
    """Return what an adapter was computed from, if it was not trained."""
    recipe = view.recipe
    if recipe is None:
        return []
    density = "" if recipe.density is None else f", density {number(recipe.density)}"
    seed = "" if recipe.seed is None else f", seed {recipe.seed}"
    weights = ", ".join(number(weight) for weight in recipe.weights)
    how = f"{recipe.method}, rank {recipe.rank}, weights {weights}{density}{seed}, fusery {recipe.fusery}"
    # Who took the files in alone may not have what they were made of.
    names = view.computed_from or tuple(digest[:12] for digest in recipe.sources)
    return [("computed from", cell(names)), ("recipe", cell(how))]


def _dataset(view: Adapter) -> str:
    revision = f", revision {cell(view['dataset_revision'])}" if view["dataset_revision"] else ""
    examples = f", {plural(view['examples'], 'example')}" if view["examples"] else ""
    text = f"{cell(view['dataset'])}{revision}{examples}"
    return marked(text, view, "dataset", "dataset_revision", "dataset_digest", "examples")


def _fused_line(fused: dict[str, Any]) -> str:
    fidelity = fused["fidelity"]
    mixed = bool(fused["with"]) or fused["scale"] is not None
    return (
        f"  {fused['key'][:12]}  {size(fused['weights_bytes']):>12}  {times(fused['times_base'])} the base  "
        f"{fused['format']}  fidelity {in_words(fidelity['verdict'], fidelity['retained'], None)}"
        + (f"  {cell(fused['combined'])}" if mixed else "")
        + (f"  {told(fused)}" if fused["withdrawals"] else "")
        + "".join(f"  {said}" for _, said in foreign_fact(fused))
    )


@command("history", table=True)
@click.argument("task")
def history_command(session: Session, task: str) -> None:
    """Show the versions of a task, and how their loss moved.

    What is yanked is marked, and so is what an alias holds.
    """
    versions = session.registry.adapters.history(task)

    def human() -> None:
        right = ("version", "val loss", "change", "age", "rank")
        table = session.table(
            "name", "version", "aliases", "state", "val loss", "change", "age", "by", "rank", "base", "dataset",
            right=right, free=("aliases", "state", "base", "dataset"), rare=("state",),
        )  # fmt: skip
        for view in versions:
            change = view["val_loss_change"]
            table.add_row(
                cell(view["name"]),
                str(view["version"]),
                held_by(view),
                state_of(view),
                marked(number(view["val_loss"]), view, "val_loss"),
                "-" if change is None else f"{change:+.4g}",
                ago(view["created_at"]),
                cell(view["created_by"]),
                cell(view["rank"]),
                cell(view["base"]),
                marked(cell(view["dataset"]), view, "dataset"),
            )
        session.print_table(table)
        explain_marks(session, versions, "val_loss", "dataset")

    session.emit(versions, names=[view["name"] for view in versions], human=human)
