"""The model server: one base model and many adapters behind OpenAI's API, as listed by `serving.json`.

A bundle carries these modules (without `local`) and `registry/runtime` beside its `server.py`, so they import nothing else of
fusery.  `local` is `fusery serve`, which serves adapters of a registry and follows its aliases.
"""
