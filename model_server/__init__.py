"""The model server: a base model and adapters behind OpenAI's API, as listed by `serving.json`.

Bundles carry it without `local` (`fusery serve`), with `registry/runtime`, so it imports nothing else of fusery.
"""
