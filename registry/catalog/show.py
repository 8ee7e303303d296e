"""One adapter in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from .. import tables
from ..fusion.views import line_of
from ..records.adapter_details import AdapterDetails, BundleLine, Rendering
from ..records.fused_rows import fused_by_adapter
from ..records.references import load_adapters, resolve_adapter
from ..records.signatures import recorded_signature
from ..records.withdrawal import own
from ..records.withdrawals import of_adapters, of_bundles, of_fused
from ..releases.deployments import deployments_of
from .views import full_records

if TYPE_CHECKING:
    from ..workspace import Workspace


def show_adapter(
    workspace: Workspace,
    reference: str,
    *,
    at: str | None = None,
) -> AdapterDetails:
    """Return one adapter in full: as `list` has it, with sizes, training run, files, fused artifacts and bundles.

    Sizes: `reduction_factor` is how many times fewer parameters were trained than the base has.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        at: as it was recorded at that moment; see `fusery.registry.catalog.past.show_then`.

    Raises:
        UnknownReferenceError: there is, or was then, no such adapter.
        BadInputError: that is no moment.
    """
    if at is not None:
        from .past import show_then

        return show_then(workspace, reference, at)
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference, load_adapters(in_full=True))
        fused = fused_by_adapter(session, [adapter])[adapter.id]
        told = of_fused(session, [artifact.id for artifact in fused])
        bundles = list(
            session.scalars(
                select(tables.Bundle)
                .join(tables.BundleAdapter, tables.BundleAdapter.bundle_id == tables.Bundle.id)
                .where(tables.BundleAdapter.adapter_id == adapter.id)
                .order_by(tables.Bundle.id)
            )
        )
        packed = of_bundles(session, [bundle.id for bundle in bundles])
        reasons = of_adapters(session, [adapter.id, *([adapter.parent_id] if adapter.parent_id else [])])
        running = deployments_of(
            session,
            adapters=[adapter.id],
            fused=[artifact.id for artifact in fused],
            bundles=[bundle.id for bundle in bundles],
        )
        facts = {
            "yanked_reason": own(reasons.get(adapter.id, ())),
            "parent_yanked": own(reasons.get(adapter.parent_id or 0, ())),
            "renderings": tuple(Rendering(format=row.form, digest=row.digest) for row in adapter.renderings),
            "fused": tuple(
                line_of(artifact, adapter, withdrawals=told.get(artifact.id, ())) for artifact in fused
            ),
            "bundles": tuple(
                BundleLine(
                    target=bundle.target,
                    path=bundle.path,
                    digest=bundle.digest,
                    withdrawals=packed.get(bundle.id, ()),
                )
                for bundle in bundles
            ),
            "deployments": tuple(running),
            "signatures": tuple(recorded_signature(row) for row in adapter.signatures),
        }
        return full_records(session, [adapter], reasons, {adapter.id: facts})[0]
