"""The names of an adapter's files and their limits, as mlx-lm's trainer and the people who use it write them."""

from __future__ import annotations

import re

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"
METADATA = "adapter_metadata.json"
PEFT_WEIGHTS = "adapter_model.safetensors"

RUN_RECORD = "fusery_run.json"  # the record of a run, beside its weights
STATE = "trainer_state.json"  # transformers' record of a run, beside a checkpoint's weights
# Key of `adapter_config.json` that says how an adapter was computed from others; mlx-lm passes over keys it does not know.
RECIPE = "fusery_recipe"
# Bytes of a JSON file that is read; the largest honest ones name every expert of a large mixture.
JSON_LIMIT = 4 << 20
JSON_VALUES = 200_000  # The most values in such a file, since its values are part of the adapter's record
# The files that may be the log of a run.
LOG_NAME = re.compile(r"(?:[^/]+\.(?:log|txt|out)|typescript|nohup\.out)")
# The folders of checkpoints that transformers' trainer writes.
CHECKPOINT = re.compile(r"checkpoint-(?P<step>0|[1-9][0-9]{0,9})")
