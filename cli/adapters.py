"""`fusery list`, `show` and `edit`: adapters as records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.adapters.trained_through import ALORA
from fusery.registry.api.adapters import Adapters
from fusery.registry.charts.text import size
from fusery.registry.engine.recipe import written_as
from fusery.registry.engine.verdict import in_words
from fusery.registry.parsing import plural
from fusery.registry.record import parts_of
from fusery.registry.records.adapter import Adapter
from fusery.registry.records.adapter_details import lines_of
from fusery.registry.records.evaluation import METRIC

from .columns import (
    COLUMNS,
    USUAL,
    change_of,
    chosen_columns,
    marked,
    print_adapters,
    record_facts,
    record_table,
    tag_fields,
)
from .command import command, prints
from .evaluations import print_evaluations
from .fuse import KEYS_OPTION, compare_formats, show_fidelity
from .options import FILE, TAGS
from .session import Session
from .text import cell, foreign_fact, number, times, yanks_of

if TYPE_CHECKING:
    from fusery.registry.records.adapter import Amended, Registered
    from fusery.registry.records.adapter_details import AdapterDetails, Measured
    from fusery.registry.records.fused import FusedLine


class FolderOrUrl(click.Path):
    """A folder as a path, and a URL as the text that it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a URL as it is, and anything else as a path."""
        return value if isinstance(value, str) and "://" in value else super().convert(value, param, ctx)


FOLDER_OR_URL = FolderOrUrl(path_type=Path)
_TYPES = {"whole": int, "real": float}
_DECLARED = [
    name for name, part in parts_of(Adapter).items() if part.about.declared and not part.about.declared.later
]
AMENDABLE = [name for name, part in parts_of(Adapter).items() if part.about.amendable != "no"]


def declared_options(names: Iterable[str], *, amends: bool = False) -> Mapping[str, Any]:
    """Return the options of an adapter's fields that users declare."""
    options = {}
    for name in names:
        part = parts_of(Adapter)[name]
        declared = part.about.declared
        assert declared is not None
        default = f"; default: {declared.default}" if declared.default and not amends else ""
        options[name] = click.Option(
            [f"--{name.replace('_', '-')}"],
            type=_TYPES.get(part.kind),
            metavar=declared.metavar,
            help=f"{declared.help}{default}.",
        )
    return options


CHECKPOINT = click.Option(
    ["--checkpoint"],
    metavar="best|last|ITER",
    help="Checkpoint of a run; default: the one with the lowest validation loss.",
)
FACTS: Mapping[str, Any] = {
    **declared_options(
        dict.fromkeys(("base", "trained_on", *(name for name in _DECLARED if name not in ("parent", "note"))))
    ),
    "checkpoint": CHECKPOINT,
    "log": click.Option(
        ["--log"], type=FILE, metavar="FILE", help="Output of mlx_lm.lora; default: a log in the folder."
    ),
}
"""What a user can say about an adapter; a flag wins over what the files say."""


def print_registered(session: Session, view: Registered, source: str = "") -> None:
    """Print what was registered, of several sources from which, and what was found about it."""
    state, of = "Registered" if view["created"] else "Already registered", f" from {source}" if source else ""
    session.print(f"{state}: {view['name']}{of}")
    loss = ""
    if view["val_loss"] is not None:
        loss = f", validation loss {marked(number(view['val_loss']), view, 'val_loss')}"
    other = f", trained on {cell(view['trained_on'])}" if view["trained_on"] else ""
    session.print(
        f"{view['method']} rank {cell(view['rank'])} on {plural(view['layers'], 'layer')} of {view['base']}{other}: "
        f"{plural(view['trainable_parameters'], 'parameter')} ({view['trainable_percent']:.3f} %){loss}"
    )
    session.warn(view)
    session.findings(view["findings"])
    if not source:
        verb = "serve" if any(finding["code"] == ALORA for finding in view["findings"]) else "fuse"
        session.say(f"Next: fusery {verb} {view['name']}")


@command(
    "list",
    Adapters.list,
    document="[records.adapter:Adapter] | [records.difference:SimilarAdapter]",
    without=("metrics",),
    similar_to="REF|FOLDER: List the adapters most similar to this one, of any task and base; 10 by default, at most 100.",
    offset="N",
    sort="FIELD[:desc][,FIELD...]",
    columns=click.Option(
        ["--columns"],
        callback=chosen_columns,
        metavar="NAME[,NAME...]",
        help=f"Show these columns in full: {', '.join(COLUMNS)}, {METRIC}NAME.",
    ),
)
def list_adapters(
    session: Session,
    *,
    columns: tuple[str, ...] | None = None,
    similar_to: str | None = None,
    **filters: Any,
) -> None:
    """List adapters.

    --where takes comparisons (= != < <= > >=), `~` (contains, or a pattern with * and ?), `in (...)`, `is null`, `and`,
    `or`, `not` and parentheses. Tags are named tag.KEY, evaluations metric.NAME. A wrong name is answered with all
    fields.

    Examples:
      fusery list --task course_rec --sort val_loss
      fusery list --where "rank >= 4 and created_at >= 7d"
      fusery list --similar-to downloaded/adapters
    """
    if similar_to is not None:
        _list_similar(session, similar_to, columns, **filters)
        return
    if columns is not None and (session.json or session.quiet):
        raise click.UsageError("--columns goes with neither --json, which has all of them, nor -q.")
    metrics = [key.removeprefix(METRIC) for key in columns or () if key.startswith(METRIC)]
    adapters = session.registry.adapters.list(**filters, metrics=metrics)

    def human() -> None:
        print_adapters(session, adapters, columns or USUAL, whole=columns is not None)
        if not adapters:
            session.say("Nothing is registered that fits. Hint: fusery register DIR --base NAME --task T")

    session.emit(adapters, names=[adapter["name"] for adapter in adapters], human=human)


def _list_similar(
    session: Session, to: str, columns: tuple[str, ...] | None, *, limit: int | None, **filters: Any
) -> None:
    sort = filters.pop("sort", None)
    if columns is not None or sort != "created_at" or any(filters.values()):
        raise click.UsageError("--similar-to goes with --limit alone.")
    is_folder = to and Path(to).is_dir() and not {"@", "#"}.intersection(Path(to).name)
    adapters = session.registry.adapters.similar(Path(to) if is_folder else to, limit=limit or 10)

    def human() -> None:
        from fusery.registry.records.difference import SimilarAdapter

        if adapters:
            session.print_table(record_table(SimilarAdapter, adapters, "name cosine yanked val_loss base"))
        else:
            session.say("No registered adapter is similar.")
        if not all(adapter.exact for adapter in adapters):
            session.say("Some cosines are estimates, within about 0.1.")

    session.emit(adapters, names=[adapter.name for adapter in adapters], human=human)


@prints(
    "edit",
    Adapters.amend,
    **declared_options(AMENDABLE, amends=True),
    tags=TAGS,
    clear=click.Option(
        ["--clear"],
        multiple=True,
        metavar="FIELD",
        help="Clear this field; tag.KEY removes a tag; repeatable.",
    ),
    reason=click.Option(
        ["--reason"], default="", metavar="TEXT", help="Reason, for the log; not required for notes and tags."
    ),
)
def edit(session: Session, done: Amended) -> None:
    """Edit the declared values of an adapter.

    The log keeps the previous value, the author and the reason. `fusery show REF --at DATE` shows the record as it was.

    Example: fusery edit course_rec@1 --val-loss 0.296 --reason "typo"
    """
    for change in done.amendments:
        session.print(f"{done.name}: {change_of(change)}")
    if not done.changed:
        session.print(f"{done.name}: that is on record already.")


@command(
    "show",
    Adapters.show,
    document="records.adapter_details:AdapterDetails | records.fused:FusedDetails | fusion.choice:Formats",
    needs={"force": "plot", **dict.fromkeys(("base", "extras", "details", "min_fidelity"), "formats")},
    rare="min_fidelity",
    verbose="With --fidelity: show all modules and figures.",
    plot=("FILE: Draw the loss curve, or with --fidelity the modules, to a .svg or .png file.", FILE),
    fidelity=": Show the fidelity of the newest fused model, module by module; REF may be a fused model.",
    formats=": Compare the fidelity of all formats on a sample of the rows, without writing a model.",
    base="BASE: With --formats: fuse onto this form of the adapter's base model.",
    details=KEYS_OPTION,
    extras="--with REF[:WEIGHT]...: With --formats: another adapter of the same base model; repeatable.",
    min_fidelity=("X: With --formats: minimum share of the update to retain.", click.FloatRange(0, 1)),
)
def show(
    session: Session,
    reference: str,
    *,
    at: str | None = None,
    plot: Path | None = None,
    force: bool = False,
    fidelity: bool = False,
    formats: bool = False,
    **wanted: Any,
) -> None:
    """Show an adapter's record, or the fidelity of its fused model.

    With --at, show the record as it was at that time, without later edits, fused models and bundles.

    Examples:
      fusery show course_rec@latest
      fusery show course_rec@latest --fidelity --formats
    """
    if (fidelity or formats) and at is not None:
        raise click.UsageError("--at shows the record alone.")
    if formats:
        if plot is not None:
            raise click.UsageError("--plot draws one fused model, --formats compares those that could be.")
        compare_formats(session, reference, **wanted)
        return
    if fidelity:
        show_fidelity(session, reference, plot=plot, force=force)
        return
    view = session.registry.adapters.show(reference, at=at, plot=plot, force=force)
    name = view["plot"] if view.plot else view["name"]
    session.emit(view, names=[name], human=lambda: _print_adapter(session, view))


def _print_adapter(session: Session, view: AdapterDetails) -> None:
    from fusery.registry.records.adapter_details import LAYOUT, AdapterDetails

    marks = "".join(f" #{alias}" for alias in view.aliases) + yanks_of(view, " ({})")
    forms = [view.format, *(f"{rendering.format} (rendered)" for rendering in view.renderings or ())]
    texts = {"name": view.name + marks, "format": ", ".join(forms)}
    rows = []
    for line in lines_of(AdapterDetails, LAYOUT, view, "-"):
        fields = tag_fields(view) if line.name == "tags" else line.fields
        rows.append((line.title, marked(texts.get(line.name, line.text), view, *fields)))
        rows += _computed(view) if line.name == "parent" else []
    session.facts(rows)
    if view.amendments:
        session.print("amended")
    for amendment in session.newest(view.amendments, "amendments"):
        session.print(f"  {amendment['at']} by {cell(amendment['by'])}: {change_of(amendment)}")
    print_training(session, view)
    print_evaluations(session, view.evaluations)
    session.print("files")
    session.files(view["files"])
    if view.get("fused"):
        session.print("fused")
    for fused in session.newest(view.get("fused", []), "fused models"):
        session.print(_fused_line(fused))
    for bundle in session.newest(view.get("bundles", []), "bundles"):
        session.print(f"bundle {bundle['target']} in {cell(bundle['path'])}{yanks_of(bundle, ' ({})')}")
    for running in session.newest(view.get("deployments", []), "deployments"):
        what = f"{running['kind']}{yanks_of(running, ' ({})')}"
        session.print(f"runs at {cell(running['place'])} as {what}, since {running['at']}")
    for signature in session.newest(view.get("signatures", []), "signatures"):
        who = cell(signature["signer"] or signature["key_id"])
        revoked = ", a key that counts no more" if signature["revoked"] else ""
        verb = "signed by" if signature["signer"] else "not verified: a signature that names"
        session.print(f"{verb} {who}{revoked}, {signature['scheme']}, {signature['at']}")
    session.findings(view["findings"])


def _computed(view: AdapterDetails) -> list[tuple[str, str]]:
    """Return what an adapter was computed from, if it was not trained."""
    recipe = view.recipe
    if recipe is None:
        return []
    density = "" if recipe.density is None else f", density {number(recipe.density)}"
    seed = "" if recipe.seed is None else f", seed {recipe.seed}"
    weights = ", ".join(number(weight) for weight in recipe.weights)
    how = f"{recipe.method}, rank {recipe.rank}, weights {weights}{density}{seed}, fusery {recipe.fusery}"
    # Without the sources on record there are only their digests.
    names = view.computed_from or tuple(digest[:12] for digest in recipe.sources)
    return [("computed from", cell(names)), ("recipe", cell(how))]


def _fused_line(fused: FusedLine) -> str:
    fidelity = in_words(fused["fidelity"]["verdict"], fused["fidelity"]["retained"], None)
    mixed = bool(fused["with"]) or fused["scale"] is not None
    return (
        f"  {fused['key'][:12]}  {size(fused['weights_bytes']):>12}  {times(fused['times_base'])} the base "
        f"{cell(fused['base'])}  {written_as(fused['format'])}  fidelity {fidelity}"
        + (f"  {cell(fused['combined'])}" if mixed else "")
        + (f"  {yanks_of(fused)}" if fused["withdrawals"] else "")
        + "".join(f"  {fact}" for _, fact in foreign_fact(fused))
    )


_RUN = "checkpoint chosen, best, last, state started_at seconds trained_tokens peak_memory, git, machine, versions"


def print_training(session: Session, view: AdapterDetails) -> None:
    """Print the curve, checkpoint and run of an adapter, if they are on record."""
    from fusery.registry.records.adapter_details import TrainingRun
    from fusery.registry.registration.training_curve import curve_line

    run = view.training_run
    if run is None:
        return
    machine = {
        name: size(value) if name == "memory" and isinstance(value, int) else value
        for name, value in (run.machine or {}).items()
        if value
    }
    texts = {"best": _measured(run.best), "last": _measured(run.last), "machine": cell([*machine.values()])}
    rows = [("curve", curve_line(view.curve)), *record_facts(TrainingRun, _RUN, run, **texts)]
    rows.append(("dataset digest", view.dataset_digest or ""))
    session.print("training")
    session.facts([(f"  {label}", cell(value)) for label, value in rows if value])


def _measured(at: Measured | None) -> str:
    if at is None or at.iteration is None:
        return ""
    loss = "" if at.val_loss is None else f" with validation loss {number(at.val_loss)}"
    return f"{at.iteration}{loss}"
