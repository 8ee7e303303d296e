"""`fusery serve`: serve adapters of a registry on this machine, and follow the aliases."""
