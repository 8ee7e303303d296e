"""Which version is in use: aliases and their moves, rules, approvals, promotions, yanks, deployments."""
