"""Starting and ending: mlx-lm's own `main` with one model that no request can change."""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from .gate import DEFAULT_MODEL, Gate, Served, Server, Templates

LOG = logging.getLogger(__name__)

DRAIN_SECONDS = 8.0
"""Time to finish what is being answered, within the ten seconds that container engines wait before they kill."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

FIXED = ("--model", "--adapter-path", "--draft-model", "--trust-remote-code", "--pipeline")
"""Options of mlx_lm.server that a bundle has decided."""

INTERNALS = {
    "main": (),
    "run": ("host", "port", "model_provider", "server_class", "handler_class"),
    "LRUPromptCache": ("max_size", "max_bytes"),
    "ModelProvider": ("cli_args",),
    "ModelProvider.load": ("self", "model_path", "adapter_path", "draft_model_path"),
    "CompletionRequest": ("request_type", "prompt", "messages", "tools", "role_mapping"),
    "ResponseGenerator": ("model_provider", "prompt_cache"),
    "ResponseGenerator.generate": ("self", "request", "generation_args", "progress_callback"),
    "ResponseGenerator._tokenize": ("self", "tokenizer", "request", "args"),
    "APIHandler": ("response_generator", "args", "system_fingerprint", "kwargs"),
    "APIHandler.do_POST": ("self",),
    "APIHandler._set_completion_headers": ("self", "status_code"),
}
"""What this package builds on in `mlx_lm.server`, with the names of the parameters."""


class OneModel:
    """Goes before mlx-lm's `ModelProvider`: whatever is asked for, it gives the model of the command line.

    Attributes:
        ready: the tokenizer, once it renders chats within limits.
    """

    templates: Templates
    context: int
    ready: Any = None

    def load(self, model_path: str, adapter_path: Any = None, draft_model_path: Any = None) -> Any:
        """Return the model and its tokenizer."""
        model, tokenizer = super().load(DEFAULT_MODEL, None, DEFAULT_MODEL)  # type: ignore[misc]
        if tokenizer is not self.ready:
            self.templates.bind(tokenizer, context=self.context)
            self.ready = tokenizer
        return model, tokenizer


class Bounded:
    """Goes before mlx-lm's `ResponseGenerator`: a prompt of no tokens ends its thread, an endless one the memory.

    Prompts are made in the threads of their requests: the thread that generates waits for no chat template.
    """

    context: int

    def generate(self, request: Any, generation_args: Any, progress_callback: Any = None) -> Any:
        """Make the prompt, and let the thread that generates go on with it."""
        tokenizer = self.model_provider.ready  # type: ignore[attr-defined]
        if tokenizer is not None:  # else the model is being loaded
            request.made = self._made(tokenizer, request, generation_args)
        return super().generate(request, generation_args, progress_callback)  # type: ignore[misc]

    def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> Any:
        made = getattr(request, "made", None)
        return self._made(tokenizer, request, args) if made is None else made

    def _made(self, tokenizer: Any, request: Any, args: Any) -> Any:
        found = super()._tokenize(tokenizer, request, args)  # type: ignore[misc]
        length = len(found[0])
        if not 0 < length < self.context:
            raise ValueError(f"the prompt has {length} tokens; it can have 1 to {self.context - 1}")
        args.max_tokens = min(args.max_tokens, self.context - length)
        return found


def main(bundle: Path, templates: Templates, arguments: Sequence[str] | None = None) -> int:
    """Serve a bundle's model until SIGTERM or Ctrl-C, or ask a running server for its health.

    Args:
        bundle: the folder with `fusery.json` and `model/`.
        templates: render the model's chat template.
        arguments: of the command line; None for the process's own.

    Returns:
        for `--health` only, 0 for good and 1 for bad.  A server ends the process itself: with 0 after a signal, 1 when
        the model could not be loaded or generation died, 2 for what cannot work.
    """
    options, rest = parser().parse_known_args(arguments)
    if options.health:
        return health(options.port)
    refuse_fixed(rest)
    # Set before mlx-lm is imported: huggingface_hub reads them at import.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        served = Served.read(bundle)
    except (OSError, ValueError) as error:
        fail(f"{bundle} is not a bundle with a model: {error}")
    server_module = import_server()
    handler = type("Handler", (Gate, server_module.APIHandler), {})
    try:
        origins = [origin for origin in options.allowed_origins.split(",") if origin]
        httpd = Server(
            options.host, options.port, handler, served, templates, hosts=options.allow_host, origins=origins
        )
    except (OSError, OverflowError) as error:
        fail(f"cannot listen on {options.host} port {options.port}: {error}")
    # mlx-lm has no other way to its own defaults than its main, and its run ignores the handler class it is given.
    outcome: list[int] = []
    own_parts = {"templates": templates, "context": served.context}
    server_module.ModelProvider = type("Provider", (OneModel, server_module.ModelProvider), own_parts)
    server_module.run = partial(serve, server_module, httpd, outcome)
    own = ["--model", str(served.folder), "--allowed-origins", options.allowed_origins]
    sys.argv = ["mlx_lm.server", *rest, *own]
    server_module.main()
    # An orderly end of the interpreter with mlx's threads in it is an abort (exit code 134), as it is in mlx_lm.server.
    logging.shutdown()
    sys.stderr.flush()
    os._exit(outcome[0])


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser; options it does not know are mlx_lm.server's, `--temp` for example."""
    variables = os.environ
    built = argparse.ArgumentParser(
        prog="server.py",
        description="Serve this bundle's model with OpenAI's API.",
        epilog="Other options of mlx_lm.server (--max-tokens, --temp, --prompt-cache-bytes ...) are passed on.",
        allow_abbrev=False,
    )
    built.add_argument("--host", default=variables.get("HOST", "127.0.0.1"), help="address ($HOST)")
    built.add_argument("--port", type=int, default=variables.get("PORT", "8080"), help="port ($PORT)")
    built.add_argument(
        "--allowed-origins",
        default=variables.get("ALLOWED_ORIGINS", ""),
        help="web pages that may call, comma-separated, * for all ($ALLOWED_ORIGINS; default: none)",
    )
    built.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        default=[name for name in variables.get("ALLOW_HOST", "").split(",") if name],
        help="name that requests may be for, besides addresses and localhost; * for all; may be given again"
        " ($ALLOW_HOST, comma-separated)",
    )
    built.add_argument(
        "--health", action="store_true", help="ask the server on this port for its health, and exit"
    )
    return built


def refuse_fixed(arguments: Sequence[str]) -> None:
    """End with a sentence if an option, also abbreviated, would change which model is served."""
    for argument in arguments:
        option = argument.partition("=")[0]
        if option.startswith("--") and any(fixed.startswith(option) for fixed in FIXED):
            fail(f"{option} cannot be given: this bundle serves the one model in it")


def health(port: int) -> int:
    """Return 0 if the server on this machine's port is ready, else 1."""
    # A container may have a proxy set for everything else.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=4) as reply:
            return 0 if json.load(reply)["status"] == "ok" else 1
    except (OSError, ValueError, KeyError, TypeError):
        return 1


def import_server() -> Any:
    """Return the module mlx_lm.server, or end with what is wrong with it."""
    try:
        import mlx_lm.server as module
    except ImportError as error:
        fail(f"{error}; install what this bundle needs: pip install --require-hashes -r requirements.txt")
    if missing := differences(module):
        fail(
            f"mlx-lm {getattr(module, '__version__', '?')} is not what this bundle was written for"
            f" ({', '.join(missing)}); install its requirements.txt"
        )
    return module


def differences(module: Any) -> list[str]:
    """Return what of `INTERNALS` a module lacks or has with other parameters."""
    wrong = []
    for path, expected in INTERNALS.items():
        found: Any = module
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is None or tuple(inspect.signature(found).parameters) != expected:
            wrong.append(path)
    return wrong


def serve(module: Any, httpd: Server, outcome: list[int], host: str, port: int, provider: Any) -> None:
    """Answer requests until a signal comes or generation dies; stands in for mlx_lm.server's `run`.

    Args:
        module: mlx_lm.server.
        httpd: already listening, so that a port in use is known before the model is loaded.
        outcome: gets the exit code.
        host: not used, as mlx-lm takes its own default.
        port: not used.
        provider: a `OneModel`.
    """
    bounds = {"context": httpd.served.context}
    generator = type("Generator", (Bounded, module.ResponseGenerator), bounds)
    # SIGINT is ignored by what a shell has started in the background.
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    httpd.generator = generator(provider, module.LRUPromptCache(provider.cli_args.prompt_cache_size))
    try:
        LOG.info("%s: listening on %s port %d", httpd.served.name, *httpd.server_address[:2])
        httpd.serve_forever()
    except KeyboardInterrupt:
        outcome.append(0)
    except RuntimeError as error:
        LOG.critical("%s", error)
        outcome.append(1)
    finally:
        httpd.server_close()
        httpd.templates.close()
        httpd.drain(DRAIN_SECONDS)


def interrupt(number: int, frame: Any) -> NoReturn:
    """End in order at the first signal, at once at the second; process 1 of a container ignores what it has not set."""
    for other in SIGNALS:
        if signal.getsignal(other) is not signal.SIG_IGN:
            signal.signal(other, signal.SIG_DFL)
    raise KeyboardInterrupt


def fail(message: str) -> NoReturn:
    """End the process with a sentence and exit code 2."""
    sys.stderr.write(f"server.py: {message}\n")
    raise SystemExit(2)
