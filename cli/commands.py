"""The table of commands: the module and the line of help of each, so that `fusery --help` imports none of them."""

from __future__ import annotations

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Get started": {
        "init": ("home", "Make a registry: home folder, database and store."),
        "demo": ("demo", "Run the main job on a real model and show what happens."),
        "login": ("login", "Store the token for a server's registry."),
        "doctor": ("home", "Show every setting, where it is from, and check each part."),
        "completion": ("home", "Print the completion script for a shell."),
        "schema": ("schema", "Print the JSON Schema of what a command prints."),
    },
    "Track": {
        "base": ("base", "Add, list, show and calibrate base models."),
        "train": ("train", "Train with mlx_lm.lora, and register the best checkpoint."),
        "check": ("check", "Show what admission finds in folders; nothing is recorded."),
        "register": ("adapters", "Register an adapter folder as the next version of its task."),
        "list": ("adapters", "List adapters."),
        "show": ("adapters", "Show one adapter in full, with the sizes people compare."),
        "ui": ("ui", "Show the registry in a browser, on this machine."),
        "history": ("adapters", "Show the versions of a task, and how their loss moved."),
        "amend": ("amend", "Correct what was said about an adapter."),
    },
    "Compare": {
        "diff": ("compare", "Show what differs between two adapters."),
        "compare": ("compare", "Compare two or more adapters, or all versions of a task."),
        "eval": ("evaluations", "Record and list what was measured of an adapter."),
        "probe": ("probe", "Compare what two models answer to prompts."),
        "bench": ("bench", "Measure size, load time, speed and memory of each form."),
    },
    "Fuse": {
        "fuse": ("fuse", "Fuse an adapter into its base."),
        "combine": ("combine", "Combine adapters on one base into a new adapter."),
        "shrink": ("combine", "Make the nearest adapter of a smaller rank."),
        "fidelity": ("fidelity", "Show how much of an adapter a fused model holds."),
        "cache": ("collect", "List, prune, pin and explain this machine's fused models."),
    },
    "Ship": {
        "materialize": ("materialize", "Write a deployable bundle of one adapter, or of several."),
        "serve": ("serve", "Serve adapters of one base with OpenAI's API."),
        "alias": ("alias", "Move names such as course_rec#prod; see who held them when."),
        "sync": ("sync", "Give a live server, or a folder, the adapters it should have."),
        "deploy": ("deploy", "Record where something runs; see what ran where when."),
        "path": ("path", "Print a folder of this machine with REF's files, to be loaded."),
        "export": ("export", "Write an adapter's folder, ready for git."),
        "import": ("export", "Take in what export wrote, or a tracker's adapters."),
    },
    "Prove": {
        "lineage": ("trail", "Show what a thing was made from, and what was made from it."),
        "identify": ("identify", "Find out what a folder or file is, and what was changed."),
        "events": ("alias", "Show the log: who did what, when and why."),
        "audit": ("audit", "Rehash and cross-check database, store and cache; repair."),
        "attest": ("attest", "Write how something was made, for auditors."),
        "sign": ("sign", "Sign an adapter, a fused model or a bundle."),
        "verify": ("verify", "Check a bundle, a folder or a file against its signature."),
        "signature": ("sign", "List and write out signatures; anchor the log."),
        "trust": ("trust", "Make keys, and say whose signatures count for which aliases."),
    },
    "Run as a team": {
        "server": ("server", "Serve the registry to a team: pages, and /api/v1."),
        "push": ("exchange", "Copy an adapter to another registry."),
        "pull": ("exchange", "Copy an adapter from another registry."),
        "rules": ("rules", "Say what an adapter has to fulfil to hold an alias."),
        "approve": ("promote", "Approve of an alias holding REF."),
        "promote": ("promote", "Let an alias hold REF if REF fulfils its rules."),
        "yank": ("alias", "Withdraw adapters: they are not fused or shipped any more."),
        "token": ("token", "Say who may ask a server, and what they may do there."),
        "webhook": ("webhook", "Send entries of the log to other programs, as they come."),
        "impact": ("impact", "List what stands on a base, a dataset or an adapter."),
        "report": ("report", "Write what is on record as one HTML page."),
        "backup": ("backup", "Copy the database and all blobs to another place."),
        "restore": ("backup", "Restore a backup into this empty registry."),
        "gc": ("collect", "Remove from the store what nothing refers to."),
        "db": ("home", "Upgrade and check the database's schema."),
    },
}
"""Sections of the help in the order of a user's day: name of a command to its module of `fusery.cli` and line of help."""

COMMANDS = {name: row for section in SECTIONS.values() for name, row in section.items()}
"""All of these."""

FORMER = {"calibrate": ("calibrate", "base calibrate"), "anchor": ("sign", "signature anchor")}
"""What stands under a noun today and once stood here: the old spelling works, and no help shows it."""
