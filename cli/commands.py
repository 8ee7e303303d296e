"""The table of commands: the module and the line of help of each, so that `fusery --help` imports none of them."""

from __future__ import annotations

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("home", "Make a registry: home folder, database and store."),
    "doctor": ("home", "Show every setting and where it came from, and check each part."),
    "demo": ("demo", "Run the main job on a real model and show what happens."),
    "base": ("base", "Add, list and show base models."),
    "calibrate": ("calibrate", "Have a base read some text, which makes --precision dither quieter."),
    "train": ("train", "Train with mlx_lm.lora, record the run, and register its best checkpoint."),
    "register": ("adapters", "Register an adapter folder as the next version of its task."),
    "check": ("adapters", "Show what admission finds in an adapter folder; nothing is written."),
    "list": ("adapters", "List adapters."),
    "show": ("adapters", "Show one adapter in full, with the sizes people compare."),
    "history": ("adapters", "Show the versions of a task, and how their validation loss moved."),
    "amend": (
        "amend",
        "Correct what was said about an adapter; the log keeps what it was, who changed it and why.",
    ),
    "diff": ("compare", "Show what differs between two adapters."),
    "compare": (
        "compare",
        "Show everything that differs between two or more adapters, or all versions of a TASK.",
    ),
    "fuse": ("fuse", "Fuse an adapter into its base; a second time it comes from the cache."),
    "fidelity": ("fidelity", "Show how much of an adapter a fused model holds, or what to ship it as."),
    "probe": ("probe", "Compare what two models answer to prompts."),
    "bench": (
        "bench",
        "Measure size, load time, first token, tokens a second and peak memory: base, adapter, fused.",
    ),
    "materialize": (
        "materialize",
        "Write a deployable bundle of an adapter, or of several that stand on one base.",
    ),
    "serve": ("serve", "Serve adapters of one base with OpenAI's API; aliases are followed as they move."),
    "export": (
        "export",
        "Write an adapter's folder, ready for git: weights, configuration, metadata, model card.",
    ),
    "import": ("export", "Take in a folder that export wrote: the same digest, name, version and facts."),
    "push": (
        "exchange",
        "Copy an adapter to another registry, with its base, data and parents, as far as they are missing there.",
    ),
    "pull": (
        "exchange",
        "Copy an adapter from another registry, with its base, data and parents, as far as they are missing here.",
    ),
    "alias": (
        "alias",
        "Move names such as `course_rec#prod` from one version to the next, and see who held them when.",
    ),
    "rules": (
        "rules",
        "Say what an adapter has to fulfil before an alias such as prod may hold it; `promote` asks for it.",
    ),
    "approve": (
        "promote",
        "Approve of an alias holding REF, for a rule that asks for approvals; not of one's own adapter.",
    ),
    "promote": (
        "promote",
        "Let an alias hold REF if REF fulfils every rule of the alias, and say which it does not.",
    ),
    "sign": ("sign", "Sign an adapter, a fused model or a bundle, as OpenSSF model-signing does."),
    "signature": ("sign", "List the signatures on record, and write them to files."),
    "trust": ("trust", "Make keys, and say whose signatures count for which aliases."),
    "verify": (
        "verify",
        "Check a bundle, an exported adapter or a file against its signature; no registry is needed.",
    ),
    "yank": ("alias", "Withdraw an adapter: it stays on record, and is neither fused nor shipped any more."),
    "events": ("alias", "Show the log: who did what, when and why."),
    "impact": (
        "impact",
        "List what stands on a base, a dataset or an adapter: adapters, fused models, bundles, aliases, places.",
    ),
    "deploy": ("deploy", "Record where something runs, and see what ran where at any date."),
    "attest": (
        "attest",
        "Write how something was made, for auditors: SLSA provenance, or a CycloneDX bill of materials.",
    ),
    "lineage": ("trail", "Show what a thing was made from, and what was made from it."),
    "audit": ("audit", "Rehash and cross-check database, store and cache, and repair them."),
    "anchor": (
        "sign",
        "Write down where the log stands, signed: keep it elsewhere, and audit the log against it.",
    ),
    "identify": (
        "identify",
        "Find out what a folder, an archive, a safetensors or GGUF file is, and what was changed in it.",
    ),
    "report": ("report", "Write what is on record of a task, an adapter or everything as one HTML page."),
    "gc": ("collect", "Remove from the store what nothing refers to."),
    "cache": ("collect", "List, prune and pin this machine's fused models, and explain hits and misses."),
    "backup": (
        "backup",
        "Copy the database and all blobs to another place, or bring the copy there up to date.",
    ),
    "restore": ("backup", "Make this empty registry the one that a backup is of."),
    "db": ("home", "Upgrade, show and check the database's schema; who may do what in it."),
    "completion": ("home", "Print the completion script for a shell."),
}
"""Name to module of `fusery.cli` and one line of help, in the order of use."""
