"""Record training runs: `RecordRun` within any trainer, and mlx-lm's own trainer run with it."""
