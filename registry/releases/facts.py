"""The recorded facts that rules depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from .. import tables
from ..adapters.trained_through import aware_of
from ..errors import BadInputError
from ..fusion.foreign import counts
from ..records.amendments import TAG, state_of
from ..records.evaluations import stands
from ..records.references import fused_from
from ..records.withdrawals import of_adapters, refuse_yanked


@dataclass(frozen=True, slots=True)
class Facts:
    """Recorded facts about adapters.

    Attributes:
        session: of any transaction.
    """

    session: Session

    def withdrawn(self, adapter: tables.Adapter) -> str | None:
        """Return why an adapter is withdrawn, None if it is not."""
        try:
            refuse_yanked(self.session, adapter)
        except BadInputError as error:
            return error.message
        return None

    def told(self, adapter: tables.Adapter) -> list[str]:
        """Return withdrawals of the same bytes under other names."""
        found = of_adapters(self.session, [adapter.id]).get(adapter.id, ())
        return [each.told for each in found if each.relation != "itself"]

    def findings(self, adapter: tables.Adapter) -> Sequence[tables.AdapterFinding]:
        """Return the findings of admission."""
        return adapter.findings

    def fused(self, adapter: tables.Adapter) -> list[tables.Fused]:
        """Return what was fused from an adapter alone at its own scale, here or by a trusted signer."""
        return [row for row in self.claimed(adapter) if counts(self.session, row)]

    def claimed(self, adapter: tables.Adapter) -> list[tables.Fused]:
        """Return the same including unproved claims of other registries.

        What was measured against another yardstick than this adapter's says nothing of it.
        """
        aware = aware_of(adapter.method, adapter.training)
        return [
            fused
            for fused in self.session.scalars(fused_from(adapter))
            if fused.adapter.digest == adapter.digest
            and not fused.extras
            and fused.recipe.get("scale") is None
            and fused.recipe.get("quantization_aware") == aware
        ]

    def val_loss(self, adapter: tables.Adapter) -> float | None:
        """Return the validation loss as amended."""
        return adapter.val_loss

    def evaluations(self, adapter: tables.Adapter, metric: str) -> list[tables.Evaluation]:
        """Return what was measured of a metric and not withdrawn, the newest first."""
        return [row for row in reversed(adapter.evaluations) if row.metric == metric and stands(row)]

    def tags(self, adapter: tables.Adapter) -> dict[str, str]:
        """Return the tags as amended."""
        state = state_of(adapter)
        return {field.removeprefix(TAG): value for field, value in state.items() if field.startswith(TAG)}

    def signers(self, adapter: tables.Adapter, alias: str) -> list[str]:
        """Return the trusted signers of an adapter for an alias, `task#alias`.

        Raises:
            MissingExtraError: there are signatures to check, and cryptography is not installed.
        """
        from ..records.signatures import trusted_signers

        return trusted_signers(self.session, "adapter", adapter.digest, alias)

    def approvers(self, adapter: tables.Adapter, alias: str, *, authenticated: bool = False) -> list[str]:
        """Return who approves that an alias may hold an adapter, each once, without its author; or those a token knows."""
        from .approvals import approvers

        return approvers(self.session, adapter, alias, authenticated=authenticated)
