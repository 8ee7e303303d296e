"""Audit: are the bytes what the records say, do the records agree with one another, and can what is wrong be mended?

Garbage is not a problem: an interrupted command may leave part files, blobs that nothing names and claims that ran
out, and none of them can be taken for a record.  They are counted as notes, for the collector to remove.
"""
