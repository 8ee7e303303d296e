"""Probing: what two of base, base + adapter and fused model answer to the same prompts, and how far that is apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.progress import SILENT, Reporter

from .. import tables
from ..adapters.files import WEIGHTS
from ..adapters.render import render_mlx
from ..adapters.tokenizer_files import own_tokenizer, with_tokenizer
from ..adapters.trained_through import format_in_words
from ..behaviour.prompts import LIMIT, Prompt, Sample, built_in, read_prompts, tokenise
from ..errors import BadInputError
from ..fusion.fuse_inputs import gather
from ..fusion.request import FuseRequest
from ..names import an
from ..records.base_files import base_folder, lay_out
from ..records.bases import blob_generations, recorded_architecture
from ..records.fused_label import combined, label_record
from ..records.references import resolve_any, resolve_base
from ..records.renderings import require_factors_alone
from .harness_results import Measured
from .held_out import held_out
from .own import probed, record_own
from .probe_prompts import Prompts
from .probe_report import ProbeReport, Row, Side, report

if TYPE_CHECKING:
    from ..behaviour.measure import Source
    from ..workspace import Workspace

__all__ = ["ProbeReport", "Row", "Side", "probe"]

BASE = "base"
"""What `against` is to compare an adapter or a fused model with its own base."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One of the two models, as the database knows it.

    Attributes:
        side: what the report says of it.
        base: digest of its base.
        task_of: the row of the adapter whose task it does; None for a base.
        adapter: the files of the adapter to put on the base; empty for a base and a fused model.
        others: those of further adapters, each with its weight, which are added to it.
        fused: the folder of a fused model.
        owner: the row of the adapter that it is, put on its base or fused alone at its own scale; None for others.
        aware: the subject is a merge-aware adapter, which must be fused.
    """

    side: Side
    base: Digest
    task_of: int | None = None
    adapter: tuple[FileEntry, ...] = ()
    others: tuple[tuple[tuple[FileEntry, ...], float], ...] = ()
    fused: Path | None = None
    owner: int | None = None
    aware: bool = False


def probe(
    workspace: Workspace,
    reference: str,
    *,
    against: str | None = None,
    request: FuseRequest | None = None,
    prompts: Path | None = None,
    limit: int = LIMIT,
    record: bool = True,
    reporter: Reporter = SILENT,
) -> ProbeReport:
    """Measure how far two models' answers are apart.

    Args:
        workspace: the registry's parts.
        reference: an adapter, which stands for its base with the adapter put on; a fused model; or a base.
        against: what to compare with: another reference, or `base` for the base of `reference`.  None compares an
            adapter with its fused model, which is fused if it is not in the cache; whatever it lost, since it is
            only measured.  One that was trained through a quantiser is its fused model, and compared with the base.
        request: how that model is fused; what it adds is added to the adapter on its base, too; not with `against`.
        prompts: a file of prompts; None for what the adapter's run kept out of training, where it recorded that and it is still
            here, or else for the built-in ones.
        limit: at most so many prompts of the file.
        record: record the measurements of adapters as evaluations, if the registry can be written; those on the built-in
            prompts are never recorded.
        reporter: hears what is going on, and the bytes done and the total while fusing; then, from its `begin("tokens")` on,
            the tokens run and the total.

    Raises:
        UnknownReferenceError: a reference names nothing.
        BadInputError: the two cannot be compared, or the prompts are not usable.
        ModelUnusableError: a model cannot be loaded or run.
        MissingExtraError: mlx-lm is not installed.
    """
    found, values = measure_probe(
        workspace,
        reference,
        against=against,
        request=request,
        prompts=prompts,
        limit=limit,
        reporter=reporter,
    )
    if record and values and found.about.origin == "built-in":
        reporter.say("not recorded: the built-in prompts are not of the adapter's task; give --prompts FILE")
    elif record and values:
        record_own(workspace, values, reporter)
    return found


def measure_probe(
    workspace: Workspace,
    reference: str,
    *,
    against: str | None = None,
    request: FuseRequest | None = None,
    prompts: Path | None = None,
    limit: int = LIMIT,
    fallback: bool = True,
    reporter: Reporter = SILENT,
) -> tuple[ProbeReport, list[tuple[int, list[Measured]]]]:
    """Return the report of `probe`, and the evaluations to record, by the id of the adapter's row; record nothing.

    Without `fallback`, missing prompts are an error, and the built-in prompts are not used.
    """
    if limit < 1:
        raise BadInputError("at least one prompt is needed", hint="--limit 32")
    asked = read_prompts(prompts, limit) if prompts is not None else None  # before anything is fused
    a = subject_of(workspace, reference)
    if against is None and request is not None and request.extras:
        a = _sum_of(workspace, a, request)
    if a.aware and against is None:
        b = subject_of(workspace, a.base)  # what was trained is its fused model, which nothing can be lost of
    else:
        b = _other(workspace, a, reference, against, request, reporter)
    a = as_trained(workspace, a, reference, request, reporter)
    b = as_trained(workspace, b, against or BASE, None, reporter)
    about = Prompts("file", prompts.name) if prompts is not None else Prompts("built-in")
    if asked is None:
        asked, about = _own_prompts(workspace, a, b, limit, reporter.say, fallback=fallback)
    about = replace(about, val_loss=_val_loss(workspace, a, b))
    started = time.monotonic()
    with _sources(workspace, a, b) as (first, second):
        samples = _samples(first, second, asked, a, b, strict=about.origin == "file")
        from ..behaviour.measure import measure

        reporter.begin("tokens")
        with_base = bool(a.adapter) and b.side.kind != "base"
        measured = measure(first, second, samples, with_base=with_base, reporter=reporter)
    seconds = time.monotonic() - started
    found = report(a.side, b.side, samples, measured, seconds, about=about, one_base=a.base == b.base)
    return found, probed(found, asked, (a.owner, b.owner))


def as_trained(
    workspace: Workspace, one: Subject, reference: str, request: FuseRequest | None, reporter: Reporter
) -> Subject:
    """Return a model as it was trained: of an adapter that was trained through a quantiser, its fused one."""
    if not one.aware:
        return one
    reporter.say(
        f"{one.side.name} was trained through a quantiser: its fused model is asked, which is what was trained, and base + adapter is not"
    )
    return _own_fused(workspace, one, reference, request, reporter)


def _own_prompts(
    workspace: Workspace, a: Subject, b: Subject, limit: int, say: Callable[[str], None], *, fallback: bool
) -> tuple[list[Prompt], Prompts]:
    """Return the default prompts: the run's held-out data, or else the built-in prompts.

    Raises:
        BadInputError: there are no held-out data, and `fallback` is false.
    """
    adapter = _task_of(a, b)
    with workspace.database.read() as session:
        found = held_out(session, adapter) if adapter is not None else None
    if found is not None and found.path is not None:
        say(f"asking what {found.name} of its run has")
        return read_prompts(found.path, limit), Prompts("held-out", found.name)
    if not fallback:
        missing = (
            f"{found.name} of its run, in {found.folder}" if found else "test.jsonl or valid.jsonl of its run"
        )
        raise BadInputError(
            f"held-out data of {a.side.name} not found: {missing}",
            hint=f"give --prompts FILE; fusery probe {a.side.name} --against base  compares on built-in prompts",
        )
    if found is not None:
        say(
            f"{found.name} of its run is not in {found.folder} any more, or has changed: "
            "asking the built-in prompts, which are not of its task"
        )
    return built_in()[:limit], Prompts("built-in")


def _task_of(a: Subject, b: Subject) -> int | None:
    return a.task_of if a.task_of is not None else b.task_of


def _val_loss(workspace: Workspace, a: Subject, b: Subject) -> float | None:
    """Return the validation loss on record of the adapter that the comparison is about."""
    adapter = _task_of(a, b)
    with workspace.database.read() as session:
        return session.get_one(tables.Adapter, adapter).val_loss if adapter is not None else None


def subject_of(workspace: Workspace, reference: str) -> Subject:
    """Return what a reference means as a model.

    Raises:
        UnknownReferenceError: it names nothing.
        BadInputError: it is a fused model that is not in this machine's cache.
    """
    with workspace.database.read() as session:
        found = resolve_any(session, reference)
        if found.fused is not None:
            return _fused_subject(workspace, found.fused)
        if found.adapter is not None:
            adapter = found.adapter
            require_factors_alone(adapter, "and mlx-lm puts factors alone on a base")
            side = Side("adapter", adapter.name, adapter.digest)
            files = _entries(adapter.manifest)
            aware = format_in_words(adapter.method, adapter.training) is not None
            return Subject(
                side, Digest(adapter.base.digest), adapter.id, files, owner=adapter.id, aware=aware
            )
        assert found.base is not None
        return _base_subject(found.base)


def _sum_of(workspace: Workspace, a: Subject, request: FuseRequest) -> Subject:
    """Return an adapter with those added that a request adds; the sum is nobody's to be recorded of."""
    if a.side.kind != "adapter":
        raise BadInputError(
            f"{a.side.name} is {an(a.side.kind)} model, to which nothing is added", hint="leave --with out"
        )
    others = gather(workspace, a.side.name, request.extras).extras
    name = combined(a.side.name, None, [(part.name, part.weight) for part in others])
    added = tuple((part.files, part.weight) for part in others)
    return replace(a, side=replace(a.side, name=name), others=added, owner=None)


def _base_subject(base: tables.BaseModel) -> Subject:
    return Subject(Side("base", base.name, base.digest), Digest(base.digest))


def _fused_subject(workspace: Workspace, fused: tables.Fused) -> Subject:
    path = workspace.cache.lookup(Digest(fused.key), Manifest.of(_entries(fused.manifest)))
    if path is None:
        raise BadInputError(
            f"the fused model {fused.digest[:12]} is not in this machine's cache any more",
            hint=f"fusery fuse {fused.adapter.name} --precision {fused.precision}",
        )
    names = label_record(fused)
    side = Side("fused", names.combined, fused.digest, fused.precision, names.format)
    alone = not fused.extras and fused.recipe.get("scale") is None
    owner = fused.adapter_id if alone else None
    return Subject(side, Digest(fused.base.digest), fused.adapter_id, fused=path, owner=owner)


def _entries(manifest: tables.Manifest) -> tuple[FileEntry, ...]:
    return tuple(file.entry for file in manifest.files)


def _other(
    workspace: Workspace,
    a: Subject,
    reference: str,
    against: str | None,
    request: FuseRequest | None,
    reporter: Reporter,
) -> Subject:
    """Return what `a` is compared with."""
    if against is None:
        if a.side.kind != "adapter":
            raise BadInputError(
                f"{reference} is {an(a.side.kind)} model: say what to compare it with",
                hint=f"fusery probe {reference} --against REF",
            )
        return _own_fused(workspace, a, reference, request, reporter)
    if request is not None:
        raise BadInputError(
            "how to fuse is for an adapter against its own fused model",
            hint="leave --precision and --with out",
        )
    if against != BASE:
        return subject_of(workspace, against)
    if a.side.kind == "base":
        raise BadInputError(f"{reference} is a base itself", hint="fusery probe ADAPTER --against base")
    return subject_of(workspace, a.base)


def _own_fused(
    workspace: Workspace,
    a: Subject,
    reference: str,
    request: FuseRequest | None,
    reporter: Reporter,
) -> Subject:
    from ..fusion.fuse import fuse

    # Refusing a loss would leave nothing to measure it on.
    wanted = replace(request or FuseRequest(), accept_loss=True)
    if wanted.scale is not None:
        raise BadInputError("a model is probed with its adapter as it is", hint="leave --scale out")
    made = fuse(workspace, reference, wanted, reporter=reporter)
    side = Side("fused", a.side.name, made.digest, made.precision, made.format)
    return Subject(side, a.base, a.task_of, fused=made.path, owner=a.owner)


@contextmanager
def _sources(workspace: Workspace, a: Subject, b: Subject) -> Iterator[tuple[Source, Source]]:
    """Yield the folders of both models, for as long as they are needed."""
    with source_of(workspace, a) as first, source_of(workspace, b) as second:
        yield first, second


@contextmanager
def source_of(workspace: Workspace, subject: Subject) -> Iterator[Source]:
    """Yield the folders of a model, for as long as they are needed."""
    from ..behaviour.measure import Source

    if subject.fused is not None:
        with workspace.cache.using(subject.fused.name):  # so that it is not evicted while it is read
            yield Source(subject.fused)
        return
    with base_folder(workspace, subject.base) as folder:
        if not subject.adapter:
            yield Source(folder)
            return
        with workspace.database.read() as session:
            base = recorded_architecture(resolve_base(session, subject.base))

        def placed(files: Sequence[FileEntry], name: str) -> dict[str, Path]:
            own = _fetched(workspace, files, folder.parent / name)
            return render_mlx(own, base, folder.parent / f"rendered-{name}")

        others = (
            (placed(files, f"adapter-{number}")[WEIGHTS].parent, weight)
            for number, (files, weight) in enumerate(subject.others, 1)
        )
        adapter = placed(subject.adapter, "adapter")
        yield Source(_with_tokenizer(folder, adapter), adapter[WEIGHTS].parent, tuple(others))


def _with_tokenizer(model: Path, adapter: Mapping[str, Path]) -> Path:
    """Return a folder with links to a base's files and an adapter's tokenizer files; the base's folder without any."""
    if not own_tokenizer(adapter):
        return model
    files = {path.relative_to(model).as_posix(): path for path in model.rglob("*") if not path.is_dir()}
    lay_out(with_tokenizer(files, adapter), made := model.with_name("with-tokenizer"))
    return made


def _fetched(workspace: Workspace, files: Sequence[FileEntry], folder: Path) -> dict[str, Path]:
    """Fetch an adapter's files, verified, under their own names."""
    folder.mkdir()
    generations = blob_generations(workspace, [entry.sha256 for entry in files])
    for entry in files:
        (folder / entry.path).parent.mkdir(exist_ok=True)
        workspace.store.fetch(entry.sha256, folder / entry.path, generation=generations[entry.sha256])
    return {entry.path: folder / entry.path for entry in files}


def _samples(
    first: Source, second: Source, asked: Sequence[Prompt], a: Subject, b: Subject, *, strict: bool
) -> list[Sample]:
    """Make the prompts into tokens, which have to mean the same to both models."""
    from ..behaviour.models import load_tokenizer

    tokenizer: Any = load_tokenizer(first.model)
    if a.base != b.base:
        other: Any = load_tokenizer(second.model)
        if tokenizer.get_vocab() != other.get_vocab():
            raise BadInputError(
                f"{a.side.name} and {b.side.name} stand on bases with different vocabularies, "
                "so their predictions cannot be compared",
                hint="compare models of one family",
            )
    return tokenise(asked, tokenizer, strict=strict)
