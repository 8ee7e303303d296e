"""The server of a docker bundle: one model, mlx-lm's OpenAI-compatible server behind a strict gate.

This package is copied into a bundle as it is, with `fusery.registry.server.templates` as the folder `templates/` in it, and
runs there with the standard library and mlx-lm alone; fusery itself only reads its files.  A bare `mlx_lm.server` loads any folder or hub repository that a request names, fetches the
addresses of images in messages, takes chat templates from clients, and stops answering for good after some values: a
`top_k` beyond the vocabulary, an empty prompt, a nested `stop`, and with a chat template that never ends.  Here each request is rebuilt from known and checked
fields before mlx-lm sees it.
"""
