"""Once made triggers that refused changes of the log; 0020 drops them where there are any.

Revision: 0007
Revises: 0006
Created: 2026-11-25
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
