"""The forms of an adapter: `mlx`, as mlx-lm's trainer writes it, and `peft`, as Hugging Face's PEFT does.

One of them was registered, and its digest is the adapter's.  The other is a rendering: computed from the first, the same
bytes every time, recorded by its digest and never stored.
"""
