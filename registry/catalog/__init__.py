"""Reading what is on record.

Lists and pages of adapters, one adapter in full, the log, and comparisons.
"""
