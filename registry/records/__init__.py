"""What is on record.

References and how they are resolved, rows as plain values, manifests and deposits, and what every view
asks.
"""
