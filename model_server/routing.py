"""Select the adapter of a request by its model name, its tenant, and its user."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..registry.runtime.document import ServingDocument, Tenant
from ..registry.runtime.errors import Refusal
from ..registry.runtime.switching import Resident


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """The adapter or base that answers."""

    name: str
    resident: Resident | None = field(repr=False)
    digest: str | None


class RoutingTable:
    """The names and the adapters of one document; it is replaced as a whole, never changed."""

    def __init__(
        self, document: ServingDocument, residents: Mapping[str, Resident], extra_names: Collection[str] = ()
    ) -> None:
        self.document = document
        self._targets = {document.base.name: RouteTarget(document.base.name, None, document.base.digest)}
        for adapter in document.adapters:
            self._targets[adapter.name] = RouteTarget(adapter.name, residents[adapter.name], adapter.digest)
        own = [name for name in self._targets if name not in extra_names]
        self.default = own[0] if len(own) == 1 else None  # the model of requests without a name
        self._routes = {name: {name: 1.0} for name in self._targets}
        for name, target in document.routes.items():
            self._routes[name] = {target: 1.0} if isinstance(target, str) else dict(target)

    @property
    def residents(self) -> list[Resident]:
        """The adapters in memory."""
        return [target.resident for target in self._targets.values() if target.resident is not None]

    def has(self, resident: Resident | None) -> bool:
        """Return whether an adapter is served; the base, None, always is."""
        return resident is None or any(target.resident is resident for target in self._targets.values())

    def names(self, tenant: Tenant | None) -> list[str]:
        """Return the model names that a tenant may use."""
        allowed = None if tenant is None or tenant.models is None else set(tenant.models)
        return [name for name in self._routes if allowed is None or name in allowed]

    def versions(self, name: str) -> list[str]:
        """Return the versions that a name may select."""
        return [part for part, weight in self._routes[name].items() if weight > 0]

    def digest(self, name: str) -> str | None:
        """Return the digest of a served adapter or base model; None if it is unknown, and for routes."""
        target = self._targets.get(name)
        return target.digest if target else None

    def choose(self, name: str, tenant: Tenant | None, user: str | None) -> RouteTarget:
        """Return the target of a request; a split gives the same for each request of a user, or else of a tenant."""
        if name not in self._routes or name not in self.names(tenant):
            why = f"the model {name[:100]!r} does not exist or you have no access to it"
            raise Refusal(404, why, param="model", code="model_not_found")
        parts = self._routes[name]
        if len(parts) == 1:
            return self._targets[next(iter(parts))]
        subject = [tenant.name if tenant else "", user or ""]
        return self._targets[pick(parts, [name, *subject] if any(subject) else [secrets.token_hex(16)])]


def pick(parts: Mapping[str, float], subject: list[str]) -> str:
    """Return a part with the probability of its weight, the same for the same subject.

    Weighted rendezvous hashing: the part with the smallest -ln(u) / weight wins, where u is the hash of part and subject.
    When a weight changes, no subject moves between two other parts.
    Source: Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005, section 4.
    """

    def score(part: str) -> float:
        text = "\0".join([part, *subject]).encode("utf-8", "surrogatepass")
        number = int.from_bytes(hashlib.sha256(text).digest()[:8]) >> 11  # 53 bits: a double, exactly
        return -math.log((number + 0.5) / (1 << 53)) / parts[part]

    return min((part for part, weight in parts.items() if weight > 0), key=score)
