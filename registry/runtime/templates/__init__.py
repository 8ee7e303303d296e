"""Foreign templates, rendered in processes with limits; bundles carry this package, so it imports nothing else of fusery."""
