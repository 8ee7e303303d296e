"""The client of a server's registry: requests, tokens and file transfers."""
