"""Fusing on demand: look in the cache, else take the lease, look again, fetch or compute, measure, publish, record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.digest import Digest
from fusery.storage.errors import StoreUnavailableError
from fusery.storage.failures import DigestMismatchError
from fusery.storage.progress import SILENT, Reporter

from .. import tables
from ..adapters.tokenizer_files import tokenizer_entries
from ..engine.recipe import Recipe
from ..errors import FusionUnsupportedError, UnknownReferenceError
from ..parts import has_part
from ..records.fused import Fused
from ..records.references import digest_prefix, resolve_adapter, resolve_any, resolve_base
from ..records.withdrawals import usable_record
from .choice import worth_computing
from .fuse_inputs import gather
from .job import FuseCandidate
from .known import SecondOpinion
from .records import checked_publish
from .request import FuseRequest, candidates, require_meaning, require_own, times_faster_here
from .views import find_fused

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

__all__ = ["FuseRequest", "fuse", "fuse_to_read", "remake"]

ASKED_FOR = 60.0  # seconds in which a model is asked
_ATTEMPTS = 5  # How often a fused model is looked up that vanishes before it can be held


def fuse(
    workspace: Workspace,
    reference: str,
    request: FuseRequest,
    *,
    publish: str | None = None,
    reporter: Reporter = SILENT,
) -> Fused:
    """Return an adapter's fused model: from the cache, from the store if published, or computed; `publish` defaults to the setting."""
    request.check()
    reference, request = _of_fused(workspace, reference, request)
    wanted = checked_publish(publish or workspace.settings.publish)
    if request.recipe is not None:
        from .recipes import find_recipe  # its forms take a moment to build

        recipe, base = find_recipe(workspace, request.recipe)
        request = replace(request, base=request.base or base)
        return _by_recipe(workspace, reference, recipe, request, wanted, reporter)
    fuse_inputs = gather(workspace, reference, request.extras, base=request.base)
    if len({tokenizer_entries(part.files) for part in fuse_inputs.parts}) > 1:
        reporter.say(f"the tokenizer files differ: the fused model has those of {fuse_inputs.adapter.name}")
    with fuse_inputs.opened(reporter.progress) as inputs, ExitStack() as files:
        recipes = candidates(request, fuse_inputs)
        if request.prefer == "speed" and recipes[0].precision == "dequantize" and fuse_inputs.aware is None:
            times = times_faster_here(fuse_inputs)
            reporter.say(f"16 bits: {times:g} times as fast as the base's format on this machine")
        opinion = None
        # Answers are held against base + adapter unrounded, which is not what was trained through a quantiser (decision 37).
        if request.probe != 0 and fuse_inputs.aware is None and has_part("research"):
            seconds, again = request.probe or ASKED_FOR, request.probe is not None
            opinion = SecondOpinion(fuse_inputs, request.scale, seconds, again, files)
        if request.probe and (opinion is None or not opinion.data):
            needs = "the recorded data of each adapter's run on this machine, and mlx-lm"
            reporter.say(f"no model is asked: that needs {needs}")
        template = FuseCandidate(inputs, recipes[0], request, wanted, reporter, opinion=opinion)
        for job in worth_computing(template, recipes):
            if (model := job.run()) is not None:
                return model
    raise AssertionError("the last candidate either returns or raises")


def _of_fused(workspace: Workspace, reference: str, request: FuseRequest) -> tuple[str, FuseRequest]:
    """Return the adapter and the recipe of a fused model, if a reference is the key or digest of one."""
    if request.recipe is not None or request.says_how or not digest_prefix(reference):
        return reference, request
    with workspace.database.read() as session:
        row = resolve_any(session, reference)
        if not isinstance(row, tables.FusedRow):
            return reference, request
        adapter = usable_record(session, row.adapter).name
        return adapter, replace(request, recipe=row.key, base=row.base.name, accept_loss=True)


@contextmanager
def fuse_to_read(
    workspace: Workspace, reference: str, request: FuseRequest, *, reporter: Reporter = SILENT
) -> Iterator[Fused]:
    """Fuse, and keep the model in the cache until the block ends, which must hash the files that it copies or serves."""
    for _ in range(_ATTEMPTS):
        with workspace.cache.holding():
            model = fuse(workspace, reference, request, reporter=reporter)
            if model.path.is_dir():
                try:
                    yield model
                except DigestMismatchError as error:
                    workspace.cache.doubt(Digest(model.key))
                    error.hint = "run the command again: it replaces damaged cache entries"
                    raise
                return
    raise StoreUnavailableError(f"no room for {model.path}", hint="set a larger FUSERY_CACHE_LIMIT")


def remake(workspace: Workspace, key: Digest, *, reporter: Reporter = SILENT) -> Fused:
    """Return a recorded fused model: from the cache, from the store if it is published, or made by its recipe."""
    with workspace.database.read() as session:
        row = find_fused(session, key)
        if row is None:
            raise UnknownReferenceError(f"fused model not found: {key[:12]}", hint="fusery admin cache list")
        recipe, adapter = Recipe.from_dict(row.recipe), usable_record(session, row.adapter).name
        request = FuseRequest(base=row.base.name, accept_loss=True)
    return _by_recipe(workspace, adapter, recipe, request, "recipe", reporter)


def _by_recipe(
    workspace: Workspace, adapter: str, recipe: Recipe, request: FuseRequest, publish: str, reporter: Reporter
) -> Fused:
    """Return what a recipe makes of an adapter: from the cache, from the store if it is published, or computed."""
    added = _added(workspace, adapter, request.base, recipe)
    fuse_inputs = gather(workspace, adapter, added, base=request.base)
    if request.recipe is not None:
        require_own(recipe, fuse_inputs)
    with fuse_inputs.opened(reporter.progress) as inputs:
        job = FuseCandidate(inputs, recipe, request, publish, reporter)
        job = replace(job, on_record=job.look_up())
        if (model := job.run(compute=False)) is not None:
            return model
        engine = fuse_inputs.engine(quantize=recipe.quantization is not None)
        if engine != recipe.engine:
            message = f"{job.key[:12]} is made by {recipe.engine}, and here is {engine}"
            raise FusionUnsupportedError(message, hint=f"fusery fuse {adapter}")
        require_meaning(recipe.precision, fuse_inputs)
        model = job.run()
    assert model is not None  # there is no other candidate
    return model


def _added(workspace: Workspace, reference: str, onto: str | None, recipe: Recipe) -> list[tuple[str, float]]:
    """Return the further adapters of a recipe by name: of several records with the bytes, one that is not withdrawn."""
    added = []
    with workspace.database.read() as session:
        base = resolve_adapter(session, reference).base
        bases = {base.id, base.id if onto is None else resolve_base(session, onto).id}
        adapter = tables.AdapterRow
        for digest, weight in recipe.extras:
            query = select(adapter).where(adapter.digest == digest, adapter.base_id.in_(bases))
            row = session.scalars(query.order_by(adapter.id)).first()
            if row is None:
                message = f"the recipe adds the adapter {digest[:12]}, which is not here on {base.name}"
                raise UnknownReferenceError(message, hint=f"fusery list --base {base.name}")
            added.append((usable_record(session, row).name, weight))
    return added
