"""Promotion: what an adapter has to fulfil before an alias may hold it, who has approved, and the move itself.

Nothing is imported here: `aliases` asks `guards`, and `promote` asks `aliases`.
"""
