"""On PostgreSQL aliases move by a function that knows their rules, and only an admin's log tells of rules and keys.

Revision: 0012
Revises: 0008
Created: 2026-11-26
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None

MOVE = "move_alias(integer, text, integer, text, text, boolean, timestamptz)"

# It runs with the rights of its owner, so that others need none on `alias` and `alias_move`.  Signatures and licences
# cannot be judged in here: the client does, and the audit does it again.  Losses are compared by their shortest digits,
# as in Python.
BODY = r"""
DECLARE
  held record; heads record; rule record; candidate record; holding record;
  newest timestamptz; wanted jsonb; given integer; number integer;
BEGIN
  SELECT * INTO heads FROM task WHERE id = of_task;
  SELECT * INTO held FROM alias WHERE task_id = of_task AND name = called FOR UPDATE;
  SELECT * INTO candidate FROM adapter WHERE id = holder AND task_id = of_task;
  IF heads.id IS NULL OR (holder IS NOT NULL AND candidate.id IS NULL) OR (held.id IS NULL AND holder IS NULL) THEN
    RAISE EXCEPTION 'there is no such adapter of the alias''s task' USING ERRCODE = 'restrict_violation';
  END IF;
  IF EXISTS (SELECT FROM yank WHERE adapter_id = holder AND lifted_at IS NULL) THEN
    RAISE EXCEPTION '% is yanked', candidate.name USING ERRCODE = 'restrict_violation';
  END IF;
  SELECT * INTO rule FROM alias_rule WHERE task IN (heads.name, '') AND alias = called ORDER BY task DESC LIMIT 1;
  IF rule.guarded AND emergency THEN
    IF coalesce(btrim(why), '') = '' THEN
      RAISE EXCEPTION 'an emergency has a reason' USING ERRCODE = 'restrict_violation';
    END IF;
    IF holder IS NOT NULL AND NOT EXISTS
        (SELECT FROM alias_move WHERE alias_id = held.id AND to_adapter_id = holder) THEN
      RAISE EXCEPTION 'an emergency only goes back to an adapter that held the alias before'
        USING ERRCODE = 'restrict_violation';
    END IF;
  ELSIF rule.guarded THEN
    IF holder IS NULL THEN
      RAISE EXCEPTION 'a promotion takes no alias away' USING ERRCODE = 'restrict_violation';
    END IF;
    wanted := rule.rules;
    IF EXISTS (SELECT FROM adapter_finding WHERE adapter_id = holder AND (
        (wanted->>'admission' IS NOT NULL AND severity = 'error')
        OR (wanted->>'admission' = 'clean' AND severity = 'warning'))) THEN
      RAISE EXCEPTION 'admission found something' USING ERRCODE = 'restrict_violation';
    END IF;
    IF wanted->>'fidelity' IS NOT NULL AND NOT EXISTS (
        SELECT FROM fused JOIN adapter AS own ON own.id = fused.adapter_id
        WHERE own.digest = candidate.digest AND fused.base_id = candidate.base_id
          AND fused.recipe->>'scale' IS NULL
          AND NOT EXISTS (SELECT FROM fused_extra WHERE fused_id = fused.id)
          AND (fused.verdict = 'PASS' OR fused.verdict = wanted->>'fidelity')) THEN
      RAISE EXCEPTION 'no fuse of it on record has fidelity %', wanted->>'fidelity'
        USING ERRCODE = 'restrict_violation';
    END IF;
    IF wanted->>'val_loss_within' IS NOT NULL AND held.adapter_id IS NOT NULL THEN
      SELECT * INTO holding FROM adapter WHERE id = held.adapter_id;
      IF coalesce(candidate.val_loss::text::numeric - holding.val_loss::text::numeric
          > (wanted->>'val_loss_within')::numeric, true) THEN
        RAISE EXCEPTION 'its validation loss is not within % of that of %', wanted->>'val_loss_within', holding.name
          USING ERRCODE = 'restrict_violation';
      END IF;
    END IF;
    IF wanted->>'approvals' IS NOT NULL THEN
      SELECT count(DISTINCT person.name) INTO given FROM approval,
        LATERAL (SELECT lower(btrim(regexp_replace(btrim(approval.by), '^(.+?) \([^()]*\)$', '\1')))) AS person(name)
        WHERE approval.adapter_id = holder AND approval.alias = called AND withdrawn_at IS NULL
          AND person.name <> lower(btrim(regexp_replace(btrim(candidate.created_by), '^(.+?) \([^()]*\)$', '\1')));
      IF given < (wanted->>'approvals')::integer THEN
        RAISE EXCEPTION '% of % approved', given, wanted->>'approvals' USING ERRCODE = 'restrict_violation';
      END IF;
    END IF;
  END IF;
  IF held.id IS NULL THEN
    INSERT INTO alias (task_id, name) VALUES (of_task, called) RETURNING * INTO held;
  END IF;
  SELECT max(at) INTO newest FROM alias_move WHERE alias_id = held.id;
  INSERT INTO alias_move (alias_id, from_adapter_id, to_adapter_id, reason, at, by)
    VALUES (held.id, held.adapter_id, holder, why, greatest(moment, newest), who)
    RETURNING id INTO number;
  UPDATE alias SET adapter_id = holder WHERE id = held.id;
  RETURN number;
END
"""

# What replays of the log believe of rules and keys has to come from somebody who may set them.
FORGERY = """
CREATE FUNCTION refuse_forged_event() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
  IF NOT has_table_privilege('alias_rule', 'INSERT') THEN
    RAISE EXCEPTION 'only an admin logs changes of rules and keys' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$
"""


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    schema = connection.scalar(sa.text("SELECT quote_ident(current_schema())"))
    body = BODY.replace("%", "%%")  # the driver takes a lone percent sign for a parameter
    connection.exec_driver_sql(
        "CREATE FUNCTION move_alias(of_task integer, called text, holder integer, why text, who text, "
        "emergency boolean, moment timestamptz) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = {schema}, pg_temp AS $body$ {body} $body$"
    )
    op.execute(f"REVOKE ALL ON FUNCTION {MOVE} FROM PUBLIC")
    op.execute(FORGERY)
    op.execute(
        "CREATE TRIGGER event_no_forgery BEFORE INSERT ON event FOR EACH ROW "
        "WHEN (NEW.action IN ('rules.set', 'rules.removed', 'key.trusted', 'key.revoked')) "
        "EXECUTE FUNCTION refuse_forged_event()"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("DROP TRIGGER event_no_forgery ON event")
    op.execute("DROP FUNCTION refuse_forged_event()")
    op.execute(f"DROP FUNCTION {MOVE}")
