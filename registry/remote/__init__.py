"""The client of a server's registry (requests, tokens, file transfers), and the packages that registries exchange."""
