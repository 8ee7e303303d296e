"""The forms of an adapter: `mlx`, as mlx-lm's trainer writes it, and `peft`, as Hugging Face's PEFT does.

One of them was registered, and its digest is the adapter's.  The other is a rendering: computed from the first, the same
bytes every time, recorded by its digest and never stored.

`peft_config`, `peft_folder` read PEFT's form, `mlx_form` and `peft_form` write one form from the other, `render` picks;
`peft_experts` and `switch_layers` do so for experts, which the two forms keep in different places.
"""
