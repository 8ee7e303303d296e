"""Desired state: the adapters that are to be somewhere, a server or a folder, and what makes it so."""
