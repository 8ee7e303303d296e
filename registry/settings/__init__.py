"""Settings: where a registry lives and how it behaves, from the environment, `config.toml` and defaults."""
