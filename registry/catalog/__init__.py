"""Reading what is on record.

Lists and pages of adapters, one in full, the log, and what differs between several.
"""
