"""Code that servers and evaluations of adapters share; bundles carry it, so it imports nothing else of fusery."""
