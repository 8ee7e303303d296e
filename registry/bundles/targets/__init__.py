"""The targets of `materialize --target`, one module each."""
