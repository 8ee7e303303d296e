"""`fusery register`, `list`, `show` and `history`: adapters as records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.charts.text import size
from fusery.registry.engine.verdict import in_words
from fusery.registry.parsing import plural
from fusery.registry.record import parts_of
from fusery.registry.records.adapter import Adapter
from fusery.registry.records.lines import lines_of

from .amendments import explain_mark, marked, print_amendments, tag_fields
from .columns import COLUMNS, HISTORY, METRIC, adapter_table, chosen_columns, has_marks, metrics_in
from .evaluations import print_evaluations
from .findings import print_findings
from .session import LocalPath, Session, command
from .text import aside, cell, foreign_fact, number, times, told
from .training import print_training

if TYPE_CHECKING:
    from fusery.registry.records.adapter import Registered
    from fusery.registry.records.adapter_details import AdapterDetails

_MOST = 2**31 - 1


class FolderOrUrl(click.Path):
    """A folder as a path, and a URL as the text that it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a URL as it is, and anything else as a path."""
        return value if isinstance(value, str) and "://" in value else super().convert(value, param, ctx)


_FOLDER = click.argument("folder", type=FolderOrUrl(path_type=Path))


_TYPES = {"whole": int, "real": float}


def option_of(name: str, *, amends: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option of a field of an adapter that users declare."""
    part = parts_of(Adapter)[name]
    declared = part.about.declared
    assert declared is not None
    default = f"; default: {declared.default}" if declared.default and not amends else ""
    return click.option(
        f"--{name.replace('_', '-')}",
        type=_TYPES.get(part.kind),
        metavar=declared.metavar,
        help=f"{declared.help}{default}.",
    )


def options_of(names: Iterable[str], *, amends: bool = False) -> Callable[..., Any]:
    """Return a decorator for the options of several fields."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(list(names)):
            function = option_of(name, amends=amends)(function)
        return function

    return decorate


_DECLARED = [
    name for name, part in parts_of(Adapter).items() if part.about.declared and not part.about.declared.later
]
facts_options = options_of(
    dict.fromkeys(("base", "trained_on", *(name for name in _DECLARED if name not in ("parent", "note"))))
)
"""What a user can say about an adapter; a flag wins over what the files say."""


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
@option_of("parent")
@TAGS
@option_of("note")
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
    `is null`, `and`, `or`, `not` and parentheses; tags are called tag.KEY, what was measured metric.NAME. docs/reference/fields.md lists the fields.
    """
    if columns is not None and (session.json or session.quiet):
        raise click.UsageError("--columns goes with neither --json, which has all of them, nor -q.")
    adapters = session.registry.adapters.list(**filters, metrics=metrics_in(columns))

    def human() -> None:
        session.print_table(adapter_table(adapters, columns, whole=columns is not None))
        explain_mark(session, has_marks(adapters, columns))
        if not adapters:
            session.say("Nothing is registered that fits. Hint: fusery register DIR --base NAME --task T")

    session.emit(adapters, names=[adapter["name"] for adapter in adapters], human=human)


list_command.help = (
    f"{cleandoc(list_command.help or '')}\n\n--columns takes {', '.join(COLUMNS)}, and {METRIC}NAME."
)


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
    from fusery.registry.records.adapter_details import LAYOUT, AdapterDetails

    marks = "".join(f" #{alias}" for alias in view.aliases) + aside(view)
    forms = [view.format, *(f"{each.format} (rendered)" for each in view.renderings or ())]
    texts = {"name": view.name + marks, "format": ", ".join(forms)}
    rows = []
    for line in lines_of(AdapterDetails, LAYOUT, view, "-"):
        fields = tag_fields(view) if line.name == "tags" else line.fields
        rows.append((line.title, marked(texts.get(line.name, line.text), view, *fields)))
        rows += _computed(view) if line.name == "parent" else []
    session.facts(rows)
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
        session.print_table(adapter_table(versions, HISTORY))
        explain_mark(session, has_marks(versions, HISTORY))

    session.emit(versions, names=[view["name"] for view in versions], human=human)
