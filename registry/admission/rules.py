"""The rules of admission, each a function from a candidate to what it finds.

The order is the order of understanding: files, configuration, base, modules, shapes, numbers, contradictions, neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import (
    base_rules,
    file_rules,
    folder_rules,
    key_rules,
    kind_rules,
    layer_rules,
    method_rules,
    neighbour_rules,
    number_rules,
    peft_rules,
    record_rules,
    scale_rules,
    template_rules,
    tensor_rules,
    tokenizer_rules,
)
from .code import Code, Rule
from .training_rules import training_run

RULES: tuple[Rule, ...] = (
    kind_rules.kind_is_known,
    file_rules.readable_files,
    peft_rules.carried_over_from_peft,
    folder_rules.nothing_runs,
    folder_rules.nothing_unexpected,
    folder_rules.no_remote_code,
    file_rules.has_adapter_tensors,
    file_rules.float_tensors,
    file_rules.tensors_hold_numbers,
    method_rules.supported_method,
    method_rules.trained_through_a_format,
    base_rules.declared_base,
    base_rules.base_as_in_training,
    base_rules.modules_of_base,
    key_rules.trained_on_what_the_base_says,
    tokenizer_rules.tokens_fit,
    tokenizer_rules.same_tokenizer,
    template_rules.chats_can_be_rendered,
    method_rules.complete_pairs,
    tensor_rules.shapes_fit,
    tensor_rules.full_weights,
    layer_rules.full_layers,
    tensor_rules.rank_consistent,
    tensor_rules.rank_fits_matrix,
    scale_rules.scale_given,
    scale_rules.scale_plausible,
    scale_rules.scale_agrees_with_alpha,
    layer_rules.keys_are_paths,
    layer_rules.promised_layers,
    peft_rules.whole_peft_adapter,
    number_rules.numbers_finite,
    number_rules.numbers_do_something,
    number_rules.as_even_as_said,
    number_rules.numbers_not_clipped,
    number_rules.updates_plausible,
    number_rules.magnitudes_positive,
    record_rules.metadata_agrees,
    record_rules.names_agree,
    record_rules.dates_plausible,
    record_rules.loss_plausible,
    record_rules.training_recorded,
    training_run,
    neighbour_rules.not_there_yet,
)

UNREADABLE: tuple[Code, ...] = (
    folder_rules.LINK_OUTSIDE,
    folder_rules.SPECIAL_FILE,
    folder_rules.UNSAFE_PATH,
)
"""What is found of a folder that cannot be read at all, before any rule can look at it."""

CODES: Mapping[str, Code] = {
    code.name: code for code in (*UNREADABLE, *(code for rule in RULES for code in rule.codes))
}
"""Every code by its name."""
