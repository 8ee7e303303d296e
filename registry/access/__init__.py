"""Who may ask a server for this registry: tokens, and what their roles allow."""
