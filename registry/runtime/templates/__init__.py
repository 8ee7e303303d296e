"""Foreign templates, rendered in separate processes with limits on time, memory and output.

A chat template is a program that comes with a model; Jinja's sandbox limits neither its time nor its memory.  Bundles with a
server carry this package, so it imports nothing else of fusery.
"""
