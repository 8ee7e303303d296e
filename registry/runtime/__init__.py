"""Code that servers and evaluations of adapters share.

Bundles with a server carry this package and `model_server`, so they import nothing else of fusery.
"""
