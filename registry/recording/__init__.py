"""Recording a training run: `RecordRun` within any trainer, and mlx-lm's own trainer run with it.

A client of the Python API.
"""
