"""The forms of an adapter, mlx-lm's and PEFT's: one is registered, and the other computed from it, recorded and not stored."""
