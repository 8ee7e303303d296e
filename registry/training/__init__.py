"""What a training run left: its folder, its log and curve, its checkpoints, and what of them goes on record."""
