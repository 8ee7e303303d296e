"""The target `hub`: a model's repository for huggingface.co, with its card; and `hf://OWNER/NAME`, to upload it in one commit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.registry.adapters import CONFIG, PEFT_WEIGHTS
from fusery.registry.bundles.card import EVAL_RESULTS, card_values, eval_results
from fusery.registry.bundles.delivery import Place, Progress
from fusery.registry.bundles.rendering import ADAPTER_CARD, render_card
from fusery.registry.bundles.source import BundleSource, Choices
from fusery.registry.bundles.target import Layout, LayoutError, model_layout
from fusery.registry.bundles.targets.model import own_files, transformers_class
from fusery.registry.bundles.writing import BundleFolder, bundle_record, sealed_bytes
from fusery.registry.charts.curves import CURVE, curve_svg
from fusery.registry.documents import RECORD, document_bytes, provenance_part
from fusery.registry.errors import BadInputError, MissingExtraError
from fusery.registry.names import is_hub_id
from fusery.registry.registration.sources import transport_errors
from fusery.storage.errors import StoreDeniedError, StoreUnavailableError
from fusery.storage.jsonfile import read_object
from fusery.storage.manifest import Manifest
from fusery.storage.safetensors import read_header
from fusery.storage.secrets import remember, without_secrets

from .common import base_architecture

if TYPE_CHECKING:
    from fusery.registry.workspace.workspace import Workspace


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write what the repository will hold, all of it at its top."""
    if not source.adapters:
        for name, content in own_files(source, choices, target="hub").items():
            bundle.write(name, content)
        bundle.copy(source.fused, link=choices.link)
        return
    if len(source.adapters) > 1:
        hint = "materialize each to a repository of its own"
        raise BadInputError(f"a repository has one adapter, and {len(source.adapters)} were given", hint=hint)
    adapter = source.adapters[0]
    record: dict[str, Any] = bundle_record(source, "hub", None)
    base = provenance_part(record["provenance"], "base")
    called = choices.base_name or base.get("hub_id") or base.get("name") or ""
    # PEFT loads this base model; the trainer's name for it means nothing elsewhere.
    config = {**read_object(adapter.files.paths[CONFIG]), "base_model_name_or_path": str(called)}
    if config.get("layers_to_transform") is None:
        config.pop("layers_pattern", None)  # PEFT refuses a pattern without layers; older versions saved it
    bundle.write(CONFIG, document_bytes(config))
    weights = (entry.path for entry in adapter.files.manifest if entry.path != CONFIG)
    bundle.copy(adapter.files.only(weights), link=choices.link)
    bundle.copy(adapter.tokenizer, link=choices.link)
    written = [entry.to_dict() for entry in bundle.manifest()]
    facts = record["adapters"][0]["facts"]
    provenance = {**record["provenance"], "adapter": facts}
    card = {"name": adapter.name, "digest": None, "provenance": provenance, "files": written}
    transformers = transformers_class(base_architecture(source))
    values = card_values(card, base_name=str(called), transformers=transformers)
    bundle.write("README.md", render_card(values, choices.card, builtin=ADAPTER_CARD))
    if results := eval_results(facts, name=adapter.name):
        bundle.write(EVAL_RESULTS, results)
    if picture := curve_svg(facts.get("curve")):
        bundle.write(CURVE, picture)
    record["adapters"] = [{**record["adapters"][0], "path": ".", "files": written}]
    bundle.write("fusery.json", sealed_bytes(record, bundle.manifest()))


def check(folder: Path) -> Layout:
    """Read the model or the adapter as its users do."""
    if not (folder / CONFIG).is_file():
        return model_layout(folder)
    from fusery.registry.adapters.peft_folder import sort_tensors

    # Whole tensors are PEFT's to put where they were.
    lora_tensors, _, wrong = sort_tensors(read_header(folder / PEFT_WEIGHTS))
    if not lora_tensors or wrong or read_object(folder / CONFIG).get("peft_type") != "LORA":
        raise LayoutError("PEFT would not find in the bundle's adapter what is in it")
    return Layout(modules=len(lora_tensors), adapters=1)


_THEIRS = frozenset({".gitattributes"})  # files that the hub creates


class HubPlace(Place):
    """A repository's main branch."""

    def __init__(self, workspace: Workspace, url: str) -> None:
        """Name the place; no request is made yet."""
        self._id = url.removeprefix("hf://")
        if not is_hub_id(self._id):
            raise BadInputError("the URL names no model's repository", hint="give hf://OWNER/NAME")
        try:
            from huggingface_hub import HfApi, get_token
        except ImportError as error:
            raise MissingExtraError("a hub", "hub") from error
        self._cache, self._api = workspace.cache, HfApi()
        self.text, self.name = url, self._id.rpartition("/")[2]
        remember({"token": get_token() or ""})

    def require_free(self, force: bool) -> None:
        """Refuse a repository with files that are no bundle."""
        files = self._files()
        if files and not force and RECORD not in files:
            raise self.taken()

    @contextmanager
    def building(self) -> Iterator[Path]:
        """Yield an empty folder in the cache."""
        with super().building() as self._built:  # `holds` reads it
            yield self._built

    def occupied(self) -> bool:
        """Tell whether there are files."""
        return bool(self._files())

    def holds(self, manifest: Manifest) -> bool:
        """Compare digests: the hub has SHA-256 of large files, and git's digest of small ones."""
        files = self._files()
        if files.keys() != {entry.path for entry in manifest}:
            return False
        return all(
            files[entry.path].lfs.sha256 == entry.sha256
            if files[entry.path].lfs is not None
            else files[entry.path].blob_id == git_digest(self._built / entry.path)
            for entry in manifest
        )

    def publish(self, folder: Path, manifest: Manifest, *, replace: bool, progress: Progress = None) -> None:
        """Create the repository if necessary, and replace its files in one commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        paths = {entry.path for entry in manifest}
        old = sorted(self._files().keys() - paths)
        operations: list[Any] = [CommitOperationDelete(path_in_repo=path) for path in old]
        operations += [CommitOperationAdd(path, folder / path) for path in sorted(paths)]
        with self._errors():
            self._api.create_repo(self._id, private=True, exist_ok=True)
            self._api.create_commit(self._id, operations, commit_message=f"fusery: {self.name}")

    def _files(self) -> Mapping[str, Any]:
        """Return the repository's files by path, none if there is no such repository."""
        from huggingface_hub.errors import RepositoryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        with self._errors():
            try:
                tree = list(self._api.list_repo_tree(self._id, recursive=True))
            except RepositoryNotFoundError:
                return {}  # or this user may not read it: then creating it fails
        return {file.path: file for file in tree if isinstance(file, RepoFile) and file.path not in _THEIRS}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert errors of a hub and of the network, without the URLs and headers in them."""
        from huggingface_hub.errors import HfHubHTTPError

        others = transport_errors()
        try:
            yield
        except HfHubHTTPError as error:
            status, cause = getattr(error.response, "status_code", None), without_secrets(error)
            if status in (401, 403, 404):
                hint = "hf auth login, or set HF_TOKEN to a token that may write"
                raise StoreDeniedError(f"you may not write to {self._id} on the hub", hint=hint) from cause
            raise StoreUnavailableError(f"the hub answered {status} for {self._id}") from cause
        except others as error:
            message = f"cannot upload to {self._id}: {type(error).__name__}"
            raise StoreUnavailableError(message, hint="try again later") from without_secrets(error)


def git_digest(path: Path) -> str:
    """Return git's digest of a file: SHA-1 of its type, size and content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
