"""Processes that have a registry's imports when they begin: forks of a server, which come without the two seconds that those take."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
"""For processes that use a registry; what is to be said of starting one takes one that is spawned."""

CONTEXT.set_forkserver_preload(
    [
        "fusery.registry.registration.register",
        "fusery.registry.fusion.fuse",
        "fusery.registry.bundles.materialize",
        "fusery.registry.bundles.targets.model",
        "fusery.registry.collect",
        "fusery.registry.audit",
        "fusery.registry.database.schema",
        "alembic.autogenerate",
        "numpy.random",
        "psycopg",
        "sqlalchemy.dialects.postgresql.psycopg",
        # What stores import: a pytest process has one server for all.
        "s3fs",
        "adlfs",
        "gcsfs.core",
        "sshfs.spec",
    ]
)
