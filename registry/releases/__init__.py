"""Which version counts.

Aliases and their moves, rules, approvals, promotions, yanks, deployments, and what a change reaches.
"""
