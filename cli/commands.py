"""The table of commands: the module and the line of help of each, so that `fusery --help` imports none of them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

_ALL: dict[str, dict[str, tuple[str, str]]] = {
    "Everyday": {
        "register": ("register", "Register adapters from folders, runs, hubs or trackers."),
        "list": ("adapters", "List adapters."),
        "show": ("adapters", "Show an adapter's record, or the fidelity of its fused model."),
        "diff": ("compare", "Compare adapters or a task's versions, and say which is better."),
        "eval": ("evaluations", "Measure adapters; record and list evaluations."),
        "fuse": ("fuse", "Fuse an adapter into its base model."),
        "materialize": ("materialize", "Write a deployable bundle of one or more adapters."),
        "serve": ("model_server.local", "Serve adapters of one base model through OpenAI's API."),
        "promote": ("alias", "Move an alias to an adapter that meets the alias's rules."),
        "log": ("trail", "Show the log of the registry, a task, an adapter or an alias."),
        "get": ("exchange", "Get the files of an adapter, a base model or a fused model."),
        "ui": ("web.cli", "Open the registry in a browser, or save its pages."),
    },
    "Start": {
        "demo": ("demo", "Run the main workflow on a real model, step by step."),
        "doctor": ("home", "Show every setting and its source, and check each part."),
        "login": ("trust", "Store the token for a server's registry."),
        "train": ("train", "Train with mlx_lm.lora, and register the best checkpoint."),
    },
    "Objects": {
        "base": ("base", "Add, list, show and calibrate base models."),
        "alias": ("alias", "Move aliases such as course_rec#prod, and set their rules."),
        "combine": ("compare", "Combine adapters into one, or reduce one to a smaller rank."),
        "deploy": ("trail integrations.cli", "Sync live servers; record and list deployments."),
        "lineage": ("trail", "Show the inputs and the outputs of a record."),
        "edit": ("adapters", "Edit the declared values of an adapter."),
    },
    "Proof": {
        "check": ("check", "Check adapter folders without registering them."),
        "identify": ("sign", "Show what a file is, whether it is intact, and who signed it."),
        "audit": ("audit", "Audit database, store and cache; repair damaged data."),
        "sign": ("sign", "Sign an adapter, a fused model, a bundle or the log."),
    },
    "Team": {
        "push": ("exchange", "Copy an adapter to another registry."),
        "pull": ("exchange", "Copy an adapter from another registry."),
        "yank": ("alias", "Withdraw adapters: new fuses, bundles and servers refuse them."),
        "server": ("web.cli", "Run the server of a team's registry: pages and HTTP API."),
        "admin": ("", "Set up and maintain a registry: tokens, backups, the cache."),
    },
}
"""Sections of `fusery --help-all`: name of a command to its modules and line of help.

A module is one of `fusery.cli`, or with a dot one of a part of fusery, which may be missing.
"""


def _installed(rows: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return rows without the modules of missing parts, and without commands that have no other."""
    kept = {}
    for name, (modules, text) in rows.items():
        parts = [
            part for part in modules.split() if "." not in part or find_spec(f"fusery.{part.split('.')[0]}")
        ]
        if parts or not modules:
            kept[name] = " ".join(parts), text
    return kept


def import_commands(modules: str) -> None:
    """Import the modules of a command."""
    for module in modules.split():
        import_module(f"fusery.{module}" if "." in module else f"fusery.cli.{module}")


SECTIONS = {title: _installed(rows) for title, rows in _ALL.items()}

ADMIN: dict[str, tuple[str, str]] = {
    "init": ("home", "Create a registry: home folder, database and store."),
    "token": ("trust", "Create, list and revoke tokens for a server's users."),
    "trust": ("trust", "Create signing keys; trust and revoke public keys."),
    "webhook": ("trust", "Send log entries to other programs."),
    "cache": ("collect", "List, prune, pin and explain cached fused models."),
    "gc": ("collect", "Remove unreferenced blobs from the store."),
    "backup": ("home", "Back up the database and all blobs."),
    "restore": ("home", "Restore a backup into this empty registry."),
    "db": ("home", "Upgrade and check the database's schema."),
    "schema": ("documents", "Print the JSON Schema of a command's --json output."),
}
"""The commands of `fusery admin`, likewise."""

EVERYDAY = SECTIONS["Everyday"]
COMMANDS = {name: row for section in SECTIONS.values() for name, row in section.items()}
"""The top-level commands."""

TABLE = COMMANDS | {f"admin {name}": row for name, row in ADMIN.items()}  # all rows, by full name

GROUPS = {
    "alias rules": "Set, show, list and remove the rules of an alias.",
} | {name: text for name, (_, text) in TABLE.items()}
"""The line of help of each group."""
