"""Manifests for Kubernetes, for each of the projects that serve adapters with vLLM there."""
