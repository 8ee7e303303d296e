"""Advice about how the adapter was trained; with that about its run, at most three findings, all only recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from ..adapters import CONFIG, RECIPE, Finding, some
from .candidate import Candidate
from .code import LEARNING_RATE_LOW, RANK_LOW, info, rule

_MOST = 3
_ATTENTION = re.compile(r"(\w+_)?att(entio)?n\.\w.*")
_MLP = re.compile(r"(mlp|feed_forward|ffn|block_sparse_moe|moe)\.(.+\.)?(?P<name>\w+)")
_ROUTERS = {"gate", "router", "shared_expert_gate"}

ATTENTION_ONLY = info(
    "attention_only",
    "only the matrices of the attention are adapted",
    "it learns less than an adapter of the MLPs with as many parameters (Schulman: LoRA Without Regret, 2025)",
    "adapt the matrices of the MLPs too",
)
ALPHA_UNUSED = info(
    "alpha_unused",
    "lora_parameters has an alpha beside the scale",
    "mlx-lm multiplies the update by scale, and does not read alpha",
    "change scale instead, and train again",
)


@rule(ATTENTION_ONLY, ALPHA_UNUSED)
def advice(candidate: Candidate) -> Iterator[Finding]:
    """More than the attention is adapted, and every given alpha has an effect."""
    folder = candidate.folder
    if folder.header is None or folder.config.method == "full" or RECIPE in folder.raw_config:
        return
    about_run = sum(finding.code in (LEARNING_RATE_LOW.name, RANK_LOW.name) for finding in candidate.training)
    yield from islice((*_attention_only(candidate), *_alpha_unused(candidate)), _MOST - about_run)


def _attention_only(candidate: Candidate) -> Iterator[Finding]:
    stem, modules = f"{candidate.base.architecture.layer_stem()}.", candidate.folder.modules
    keys = [path.removeprefix(stem).partition(".")[2] if path.startswith(stem) else "" for path in modules]
    others = (
        match
        for layer in candidate.base.architecture.layers().values()
        for match in map(_MLP.fullmatch, layer)
    )
    names = sorted({match["name"] for match in others if match} - _ROUTERS)
    if keys and names and all(map(_ATTENTION.fullmatch, keys)):
        adapted = some(sorted({key.rpartition(".")[2] for key in keys}))
        message = f"only the matrices of the attention are adapted: {adapted}"
        yield ATTENTION_ONLY.finding(CONFIG, message, f"adapt the matrices of the MLPs too: {some(names)}")


def _alpha_unused(candidate: Candidate) -> Iterator[Finding]:
    folder = candidate.folder
    alpha, scale = folder.config.parameters.alpha, folder.scale
    # mlx-lm of early 2024, which wrote `lora_layers`, multiplied the scale by alpha / rank.
    if folder.form != "mlx" or "lora_layers" in folder.raw_config:
        return
    if alpha is not None and scale is not None:
        message = f"lora_parameters has alpha {alpha:g}, which mlx-lm ignores, and scale {scale:g}"
        yield ALPHA_UNUSED.finding(CONFIG, message)
