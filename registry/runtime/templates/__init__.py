"""Templates of others: rendered in processes that can be killed, with limits on time, memory and output.

A chat template comes with a model, and is a program: its sandbox keeps it from files and from the network, and not from
running for ever or taking the memory.  This package needs Python and Jinja, and nothing else of fusery; bundles with a server
carry it.

    program     what runs in such a process     process     starting, asking and killing them
    chat        chat templates of mlx-lm's tokenizers
"""
