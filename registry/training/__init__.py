"""Training runs: folder, log, curve and checkpoints, and which of their facts are recorded."""
