"""Registering an adapter, and correcting what was said of one."""
