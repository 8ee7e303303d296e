"""Registering an adapter, and amending what is recorded about one."""
