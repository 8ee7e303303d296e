"""The command line: one module per command group over `fusery.registry`."""
