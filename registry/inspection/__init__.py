"""What lies at a path, and what it says of itself: files, archives, tensors, claims.

Nothing of it is believed here; `identification` and `signing` hold it against what is on record.
"""
