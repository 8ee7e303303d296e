"""Fusing a LoRA adapter into a base model: streaming, bit-identical to `mlx_lm.fuse`, without MLX."""
