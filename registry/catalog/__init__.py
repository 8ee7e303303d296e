"""Read the records: lists and pages of adapters, one adapter in full, the log, and comparisons."""
