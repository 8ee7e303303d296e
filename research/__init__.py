"""The research behind fidelity, which the registry calls by name (`fusery.registry.parts`) and works without."""
