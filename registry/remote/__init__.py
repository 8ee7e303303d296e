"""A registry at a server: requests to it, and what was fetched of it to this machine."""
