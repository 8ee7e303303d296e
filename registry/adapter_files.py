"""The names of an adapter's files, as mlx-lm's trainer and the people who use it write them."""

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"
METADATA = "adapter_metadata.json"
