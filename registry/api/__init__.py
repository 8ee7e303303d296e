"""The Python API: `Registry`, one method for each use case; nothing below imports it."""
