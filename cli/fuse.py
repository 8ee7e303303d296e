"""`fusery fuse`: from an adapter to a model, and how much of it a model holds; and the options of fuses, and of many adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from fusery.registry.adapters.trained_through import is_merge_aware
from fusery.registry.charts.text import size
from fusery.registry.engine.recipe import AUTO, CHOICES, PREFERRED, WRITTEN_AS, written_as
from fusery.registry.engine.verdict import MEANINGS, UNSURE, WHOLE_FROM, closeness, share_in_words
from fusery.storage.errors import typed

from .command import command
from .options import MOST
from .session import Session
from .text import cell, foreign_fact, number, share, times

if TYPE_CHECKING:
    from fusery.registry.bundles.bulk import Done
    from fusery.registry.fusion.choice import Formats
    from fusery.registry.fusion.request import FuseRequest
    from fusery.registry.records.fused import Fused, FusedDetails


_Made = TypeVar("_Made", bound=Mapping[str, Any])


class WrittenAs(click.Choice[str]):
    """The values of `--as`, which stand for precisions."""

    def __init__(self, precisions: Iterable[str] = CHOICES) -> None:
        super().__init__([WRITTEN_AS[precision] for precision in precisions])

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the precision."""
        chosen = super().convert(value, param, ctx)
        return next(precision for precision, written in WRITTEN_AS.items() if written == chosen)


KEYS: Mapping[str, tuple[click.ParamType[Any], str]] = {
    "scale": (click.FLOAT, "scale instead of the adapter's own"),
    "quantize": (click.INT, "quantise each layer whose row length fits the group size to so many bits"),
    "group_size": (click.INT, "with `quantize`: number of weights that share a scale; default: the mode's"),
    "mode": (click.Choice(["affine", "mxfp4", "nvfp4", "mxfp8"]), "with `quantize`: format; default: affine"),
    "prefer": (
        click.Choice(PREFERRED),
        "goal of `--as auto`: size, or speed: 16 bits if mlx is faster with them on this machine; default: size",
    ),
    "seed": (click.IntRange(0, MOST), "with `--as dither`: seed of the rounding; default: 0"),
    "rounding": (
        click.Choice(["once", "mlx-lm"]),
        "rounding of DoRA: once at the end, or after each step as `mlx_lm.fuse` does; default: once with auto, else mlx-lm",
    ),
}
"""The keys of `-o`: type and meaning of each."""


def key_values(
    keys: Mapping[str, tuple[Any, ...]],
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], Mapping[str, object]]:
    """Return the callback of `-o KEY=VALUE`, which returns the values by key."""

    def read(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> Mapping[str, object]:
        values: dict[str, Any] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            key = key.replace("-", "_")
            if key not in keys or not equals:
                problem = "is not KEY=VALUE" if key in keys else "has an unknown key"
                raise click.BadParameter(f"{text[:80]!r} {problem}.\nHint: the keys are {', '.join(keys)}")
            converted = keys[key][0](value, param, ctx)
            if key in values and not isinstance(converted, tuple):
                raise click.BadParameter(f"duplicate key {key!r}")
            values[key] = (*values.get(key, ()), *converted) if isinstance(converted, tuple) else converted
        return values

    return read


KEYS_OPTION = click.Option(
    ["-o", "details"],
    multiple=True,
    metavar="KEY=VALUE",
    callback=key_values(KEYS),
    help=f"Rare options: {', '.join(KEYS)}; repeatable.",
)

_SOURCES = {"cache": "from the cache", "store": "from the store", "computed": "fused"}

FUSE: Mapping[str, Any] = {
    "precision": click.Option(
        ["--as", "precision"],
        type=WrittenAs(),
        default=AUTO,
        show_default=True,
        help="keep: the base's format, rounded as by mlx_lm.fuse; dither: the same size, rounded to preserve small "
        "updates; mixed: more bits for adapted modules; 16bit: dequantised; auto: the smallest that passes.",
    ),
    "base": "BASE: Use this form of the adapter's base model, such as its 4-bit form.",
    "budget": "FACTOR: Maximum size of the weights, as a multiple of the base model's: 1.2x.",
    "extras": "--with REF[:WEIGHT]...",
    "details": KEYS_OPTION,
    "min_fidelity": (
        "X: Refuse a model that retains less of the update; 0.9 requires 90 to 110 %.",
        click.FloatRange(0, 1),
    ),
    "accept_loss": "",
    "accept_foreign": "",
}
"""The options of a fuse; `fuse_request` takes them."""

_WORST = 10  # modules that `show --fidelity` lists without -v

RARE_FUSE = "min_fidelity accept_foreign"  # those that only --help-all shows


def fuse_request(options: dict[str, Any], **more: Any) -> FuseRequest:
    """Take the options of a fuse out of a command's, and return what they ask for."""
    from fusery.registry.fusion.request import FuseRequest, parse_budget, parse_extra

    wanted = {name: options.pop(name) for name in FUSE} | more
    wanted |= wanted.pop("details")
    wanted["extras"] = tuple(map(parse_extra, wanted["extras"]))
    if wanted["budget"] is not None:
        wanted["budget"] = parse_budget(wanted["budget"])
    return FuseRequest(**wanted)


BULK: Mapping[str, Any] = {
    "every": "--all: All adapters, filtered by --where and --task.",
    "where": "EXPR: With --all: only adapters that match, as in list --where.",
    "task": "TASK: With --all: only adapters of this task.",
    "jobs": "N",
}
"""The options that choose many adapters; `chosen_adapters` takes them."""


def chosen_adapters(reference: str | None, options: dict[str, Any]) -> dict[str, Any] | None:
    """Take the options of `BULK` out of a command's; return them, or None for a command about one adapter."""
    chosen = {name: options.pop(name) for name in BULK}
    if not chosen.pop("every"):
        if any(value is not None for value in chosen.values()):
            raise click.UsageError("--where, --task and --jobs go with --all.")
        if reference is None:
            raise click.UsageError("Missing argument 'REF'; --all takes all adapters.")
        return None
    if reference is not None:
        raise click.UsageError("--all takes no REF.\nHint: choose with --where EXPR or --task T")
    return chosen


def report(session: Session, done: Done[_Made], *, verb: str, adapter: Callable[[_Made], str]) -> int:
    """Print what became of many; return the exit code."""
    good = done.made

    def human() -> None:
        for document in good:
            session.print(f"{cell(adapter(document))}  {cell(document['path'])}")
            session.warn(document)
        for failed in done.failures:
            session.print(f"{cell(failed.adapter)}  failed: {cell(failed.error.message)}")
            if failed.error.hint:
                session.hint(cell(failed.error.hint), "  ")
        session.print(f"{len(good)} {verb}, {len(done.failures) or 'none'} failed.")

    if session.quiet:
        for failed in done.failures:
            click.echo(f"{cell(failed.adapter)}: {cell(failed.error.message)}", err=True)
    session.emit(done.documents, names=[document["path"] for document in good], human=human)
    return 0 if done.ok else 1


@command(
    "fuse",
    rare="publish recipe probe jobs task " + RARE_FUSE,
    verbose="Show the figures behind the fidelity: cosine, noise and others.",
    document="records.fused:Fused | [bundles.bulk:FusedOrNot]",
    **BULK,
    **FUSE,
    publish=": full: upload the files to the store for other machines; recipe: only the record; default: the "
    "setting.",
    recipe="FILE|KEY: Use a recorded recipe: the key of a fused model, its --json document, or a bundle's fusery.json.",
    probe=(
        "SECONDS: Time limit for running a model on held-out prompts if its weights do not decide; 0: never; default: 60 (0 with --all).",
        click.FloatRange(min=0),
    ),
)
def fuse(
    session: Session,
    reference: str | None = None,
    *,
    publish: Literal["full", "recipe"] | None = None,
    recipe: str | None = None,
    probe: float | None = None,
    **options: Any,
) -> int:
    """Fuse an adapter into its base model.

    Fusing the same adapter again takes the model from the cache. --all fuses many adapters and lists the failures; run
    the same command again to resume. Exit code 1: the fused weights would lose too much of the update.

    Examples:
      fusery fuse course_rec@latest
      fusery fuse course_rec@2 --with course_rec@1:0.5 --as mixed
    """
    chosen = chosen_adapters(reference, options)
    request = fuse_request(options, recipe=recipe, probe=probe)
    if reference is None:
        from fusery.registry.errors import BadInputError

        if recipe is not None:
            raise BadInputError("a recipe goes with one adapter", hint="fusery fuse REF --recipe KEY")
        with session.counting("fusing") as progress:
            done = session.registry.fused.fuse_all(
                request, publish=publish, **(chosen or {}), reporter=session.reporter(progress)
            )
        return report(session, done, verb="fused", adapter=lambda fused: fused.adapter)
    with session.two_bars() as reporter:
        fused = session.registry.fused.fuse(reference, request, publish=publish, reporter=reporter)
    session.emit(fused, names=[str(fused.path)], human=lambda: _print(session, fused))
    return 0


def _print(session: Session, fused: Fused) -> None:
    rows = [("path", str(fused.path)), *([("published", "in the store")] if fused.published else [])]
    if session.verbose:
        rows += [("seconds", f"{fused.seconds:.2f}"), ("digest", fused.digest)]
    _print_fused(session, fused, _SOURCES[fused.source], rows)
    again = f"fusery fuse {fused.adapter}{fused.options} --as 16bit"
    say_speed(session, fused.quantization, None if is_merge_aware(fused.recipe) else again)
    session.say(f"Next: mlx_lm.generate --model {typed(fused.path)} --prompt TEXT")


def _print_fused(
    session: Session, fused: Fused | FusedDetails, title: str, more: Iterable[tuple[str, str]]
) -> None:
    """Print what a fused model holds of its adapters, and with -v the figures behind that."""
    from fusery.registry.records.fused import Fidelity

    from .columns import record_facts

    fidelity = fused.fidelity
    noise = f"{share(fidelity.noise)} of the weights"
    figures = record_facts(Fidelity, "cosine, relative_error, noise", fidelity, noise=noise)
    form = "" if fused.adapter_base is None else f", a form of {cell(fused.adapter_base)}"
    kept = f"{fidelity.verdict}: {MEANINGS[fidelity.verdict]}; {share_in_words(fidelity.retained)}"
    answers = fidelity.answers
    if answers is not None and answers.prompts:
        gain, alike = f"{answers.gained - answers.lost:.2f} of {answers.gained:.2f}", share(answers.agreement)
        figures = [
            (
                "answers",
                f"{answers.prompts} prompts: {alike} of tokens as base + adapter, gain {gain} nats, KL {answers.general_kl:.2f} on general text",
            ),
            *figures,
        ]
    session.facts(
        [
            (title, cell(fused.combined)),
            ("base", f"{cell(fused.base)}{form}"),
            ("fidelity", kept),
            *(figures if session.verbose else []),
            *foreign_fact(fused),
            ("precision", written_as(fused.format)),
            ("weights", f"{size(fused.weights_bytes)}, {times(fused.times_base)} the base's"),
            ("key", fused.key),
            *more,
        ]
    )
    session.warn(fused)


def say_speed(session: Session, quantization: Mapping[str, Any] | None, command: str | None) -> None:
    """Print how much slower quantised weights are than 16 bits, if mlx computes slower with them on this machine."""
    from fusery.registry.fusion.speed import NOTICEABLE, times_faster

    times = times_faster(session.registry.workspace.settings.cache, quantization)
    if times >= NOTICEABLE:
        instead = "" if command is None else f" For 16 bits: {command}"
        session.say(
            f"Note: on this machine, mlx is {times:.1f} times slower with quantised weights than in 16 bits.{instead}"
        )


def show_fidelity(session: Session, reference: str, *, plot: Path | None, force: bool) -> None:
    """Show how much of an adapter its newest fused model holds."""
    fused = session.registry.fused.fidelity(reference, plot=plot, force=force)
    session.emit(fused, names=[str(fused.plot or fused.key)], human=lambda: _print_fidelity(session, fused))


def _print_fidelity(session: Session, fused: FusedDetails) -> None:
    from fusery.registry.records.fused import ModuleFidelity

    from .columns import record_table

    _print_fused(session, fused, "adapter", [("picture", str(fused.plot))] if fused.plot else [])
    session.print()
    # The furthest from 100 % first.
    rows = sorted(fused.fidelity.modules or (), key=lambda module: closeness(module.retained))
    shown = rows if session.verbose else rows[:_WORST]
    columns = "module retained cosine relative_error norm" if session.verbose else "module retained"
    session.print_table(record_table(ModuleFidelity, shown, columns))
    if len(shown) < len(rows):
        session.say(f"The worst {len(shown)} of {len(rows)} modules; -v shows all, with more figures.")


def compare_formats(
    session: Session, reference: str, *, extras: tuple[str, ...], details: Mapping[str, Any], **wanted: Any
) -> None:
    """Show how much of an adapter each format would hold."""
    from fusery.registry.fusion.request import FuseRequest, parse_extra

    request = FuseRequest(extras=tuple(map(parse_extra, extras)), **details, **wanted)
    formats = session.registry.fused.formats(reference, request, reporter=session.reporter())
    names = [row.format for row in formats.formats]
    session.emit(formats, names=names, human=lambda: _print_formats(session, formats))


def _print_formats(session: Session, formats: Formats) -> None:
    shown = 5 if session.verbose else 3
    right = ("weights", "of the base", "retained", "cosine", "noise")[:shown]
    table = session.table("format", "verdict", "", *right, right=right, free=("verdict",))
    chosen = next((at for at, row in enumerate(formats.formats) if row.chosen), 0)
    for at, row in enumerate(formats.formats):
        cells = [row.reason or "", "", *["-"] * shown]
        if (fidelity := row.fidelity) is not None and row.bytes is not None and row.times_base is not None:
            noisy = at < chosen and fidelity.verdict == UNSURE and closeness(fidelity.retained) >= WHOLE_FROM
            marks = (("<- auto", row.chosen), ("too noisy", noisy), ("on record", not row.sampled))
            mark = " ".join(text for text, applies in marks if applies)
            numbers = (share(fidelity.retained), number(fidelity.cosine), share(fidelity.noise))
            cells = [fidelity.verdict, mark, size(row.bytes), times(row.times_base), *numbers][: 2 + shown]
        table.add_row(written_as(row.format), *cells)
    session.print_table(table)
    if formats.chosen is None:
        session.say("`auto` refuses every format: the answers would differ from base + adapter.")
    else:
        chosen_format = written_as(formats.chosen)
        session.say(f"By the weights, `auto` writes {chosen_format}: the smallest that is PASS.")
    if any(row.sampled for row in formats.formats):
        session.say("Numbers that are not recorded are estimates from an eighth of the rows.")
