"""Asking a model a question, so that one sees what an adapter or a fused model has learned.  Needs the extra `mlx`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .base_files import lay_out, proven_files
from .errors import MissingExtraError, ModelUnusableError
from .resolve import resolve_base
from .scratch import scratch_folder

if TYPE_CHECKING:
    from .workspace import Workspace


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
    from .serving.templates.chat import bound
    from .serving.templates.errors import TemplateError

    network, tokenizer = mlx_lm.load(str(model), adapter_path=str(adapter) if adapter else None)[:2]
    asked = [{"role": "user", "content": question}]
    try:
        with bound(tokenizer):
            prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)
    except TemplateError as error:
        raise ModelUnusableError(str(error)) from error
    return str(mlx_lm.generate(network, tokenizer, prompt=prompt, max_tokens=limit)).strip()


@contextmanager
def base_folder(workspace: Workspace, name: str) -> Iterator[Path]:
    """Yield a folder of links to a base model's files, as mlx-lm takes it, for as long as it is needed.

    Raises:
        UnknownReferenceError: there is no such base.
        BlobCorruptError: a file is not what is recorded.
        StorageError: one was written to meanwhile.
    """
    with scratch_folder(workspace) as folder:
        scratch, model = folder / "blobs", folder / "model"
        scratch.mkdir()
        with workspace.database.read() as session:
            base = resolve_base(session, name)
            assert base.names is not None
            assert base.manifest.files is not None
        with proven_files(workspace, base, scratch) as files:
            lay_out(files, model)
            yield model
