"""Packages: what registries send to each other and keep as backups, in documents of typed records and blobs by digest."""
