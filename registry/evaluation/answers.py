"""Asking a model a question, so that one sees what an adapter or a fused model has learned.  Needs the extra `mlx`."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingExtraError, ModelUnusableError


def answer(model: Path, question: str, *, adapter: Path | None = None, limit: int = 40) -> str:
    """Return a model's answer to a question, decoded greedily.

    Args:
        model: folder of a model that `mlx_lm.load` takes.
        question: what the user of the chat says.
        adapter: folder of an adapter to put on it.
        limit: most tokens to generate.

    Raises:
        MissingExtraError: mlx-lm is not installed.
        ModelUnusableError: its chat template refuses the question, or needs too much for it.
    """
    try:
        import mlx_lm
    except ImportError as error:
        raise MissingExtraError("running a model", "mlx") from error
    from ..server.templates.chat import bound
    from ..server.templates.errors import TemplateError

    network, tokenizer = mlx_lm.load(str(model), adapter_path=str(adapter) if adapter else None)[:2]
    asked = [{"role": "user", "content": question}]
    try:
        with bound(tokenizer):
            prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)
    except TemplateError as error:
        raise ModelUnusableError(str(error)) from error
    return str(mlx_lm.generate(network, tokenizer, prompt=prompt, max_tokens=limit)).strip()
