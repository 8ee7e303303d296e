"""The rules of admission, each a function from a candidate to what it finds.

The order is the order of understanding: files, configuration, base, modules, shapes, numbers, contradictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .base_rules import declared_base, modules_of_base, promised_layers
from .candidate import Candidate
from .file_rules import float_tensors, has_adapter_tensors, readable_files, supported_method
from .finding import Finding
from .record_rules import alpha_is_scale_times_rank, metadata_agrees
from .tensor_rules import complete_pairs, full_weights, numbers_sound, rank_consistent, shapes_fit

Rule = Callable[[Candidate], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    readable_files,
    has_adapter_tensors,
    float_tensors,
    supported_method,
    declared_base,
    modules_of_base,
    complete_pairs,
    shapes_fit,
    full_weights,
    rank_consistent,
    promised_layers,
    numbers_sound,
    metadata_agrees,
    alpha_is_scale_times_rank,
)
