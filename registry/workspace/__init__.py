"""A registry's home: settings, database, store and cache, and the pools that work on many items."""
