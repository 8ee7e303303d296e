"""Aliases and splits as an `InferenceModelRewrite`: the router changes a request's model before vLLM sees it.

Rules: llm-d/llm-d-router at ebab687, apix/v1alpha2/inferencemodelrewrite_types.go (`targets`, weights from 1 to 1000000, a
rule's match is the whole name, so `#` and `@` mean nothing special) and pkg/epp/requestcontrol/director.go (how a target is
drawn).  The group was `inference.networking.x-k8s.io` in gateway-api-inference-extension v1.3 to v1.5, with the same fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import gcd, lcm
from typing import Any

from ...errors import BadInputError
from ..layout import LayoutError
from .deployed import Deployed
from .manifest_text import Manifest

KIND = "InferenceModelRewrite"
MOST = 1_000_000
"""The largest weight."""


def rewrite(deployed: Deployed, pool: str) -> list[Manifest]:
    """Return the rules for all names that are not an adapter's own; none where there are no such names.

    Args:
        deployed: what is served.
        pool: name of the pool whose requests they are for.

    Raises:
        BadInputError: weights cannot be told in whole numbers.
    """
    if not deployed.routes:
        return []
    rules = [
        {"matches": [{"model": {"type": "Exact", "value": name}}], "targets": _targets(name, parts)}
        for name, parts in deployed.routes.items()
    ]
    reference = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": pool}
    return [
        {
            "apiVersion": "llm-d.ai/v1alpha2",
            "kind": KIND,
            "metadata": deployed.metadata(deployed.name),
            "spec": {"poolRef": reference, "rules": rules},
        }
    ]


def _targets(name: str, parts: Mapping[str, float]) -> list[Manifest]:
    weights = whole_weights(name, parts)
    if len(weights) == 1:
        return [{"modelRewrite": target} for target in weights]
    return [{"modelRewrite": target, "weight": weight} for target, weight in weights.items()]


def whole_weights(name: str, parts: Mapping[str, float]) -> dict[str, int]:
    """Return weights in whole numbers from 1: in the same proportion where 1000000 allows, to a millionth of all otherwise.

    Args:
        name: that they are for.
        parts: with weights; those of 0 get no requests, and are left out.

    Raises:
        BadInputError: one is less than a millionth of all.
    """
    exact = {target: Fraction(str(weight)) for target, weight in parts.items() if weight > 0}
    scale = lcm(*(each.denominator for each in exact.values()))
    whole = {target: int(each * scale) for target, each in exact.items()}
    shared = gcd(*whole.values())
    whole = {target: weight // shared for target, weight in whole.items()}
    if max(whole.values()) > MOST:
        total = sum(exact.values())
        whole = {target: round(each / total * MOST) for target, each in exact.items()}
    if min(whole.values()) < 1:
        raise BadInputError(
            f"a weight of {name[:60]!r} is less than a millionth of all, which a rule cannot say",
            hint="leave the adapter out of --model",
        )
    return whole


def rewritten_to(documents: list[Manifest]) -> list[str]:
    """Return the names that the rules of a file lead to.

    Raises:
        LayoutError: a rule is for every request, or leads nowhere.
    """
    found: list[str] = []
    for document in documents:
        rules: list[dict[str, Any]] = document["spec"]["rules"]
        for rule in rules:
            names = [match["model"]["value"] for match in rule["matches"]]
            targets = [target["modelRewrite"] for target in rule["targets"]]
            if not all(names) or not names or not targets:
                raise LayoutError("a rule of the bundle is for no name, or leads to no adapter")
            found += targets
    return found
