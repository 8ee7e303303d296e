"""The research behind fidelity: models that answer, calibration, learned scales, quantised training, probes and benchmarks.

The registry calls it by name (`fusery.registry.parts`), and works without this folder.
"""
