"""Functions in a PostgreSQL database: what guards the log, and what moves aliases for those who may not write there.

They are made wherever a schema has come to be this program's (`protection.mend`), with the owner of the tables as theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REFUSAL = "the log is append-only"

_REFUSE = f" BEGIN RAISE EXCEPTION '{REFUSAL}' USING ERRCODE = 'restrict_violation'; END "

# What replays of the log believe of rules and keys has to come from somebody who may set them.
_REFUSE_FORGED = """
BEGIN
  IF NEW.action IN ('rules.set', 'rules.removed', 'key.trusted', 'key.revoked', 'fused.disowned',
        'registry.adopted', 'token.created', 'token.revoked')
      AND NOT has_table_privilege('alias_rule', 'INSERT') THEN
    RAISE EXCEPTION 'only an admin logs changes of rules, keys and tokens' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END
"""

# With the rights of its owner, so that others need none on `alias` and `alias_move`.  Signatures and licences cannot be
# judged in here: the client does, and the audit does it again.  Losses are compared by their shortest digits, as in Python.
_MOVE = r"""
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
          AND (fused.origin IS NULL OR EXISTS (
            SELECT FROM signature JOIN trusted_key ON trusted_key.key_id = signature.key_id
            WHERE signature.subject_kind = 'fused' AND signature.subject_digest = fused.digest
              AND trusted_key.fused AND trusted_key.revoked_at IS NULL))
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
          AND (authenticated OR wanted->>'authenticated' IS DISTINCT FROM 'true')
          AND person.name <> lower(btrim(regexp_replace(btrim(candidate.created_by), '^(.+?) \([^()]*\)$', '\1')));
      IF given < (wanted->>'approvals')::integer THEN
        RAISE EXCEPTION '% of % approved%', given, wanted->>'approvals',
          CASE WHEN wanted->>'authenticated' = 'true' THEN ', authenticated' ELSE '' END
          USING ERRCODE = 'restrict_violation';
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


@dataclass(frozen=True, slots=True)
class Function:
    """A function of ours.

    Attributes:
        body: in PL/pgSQL.
        parameters: names and types, as they are declared.
        types: the types alone, as PostgreSQL writes them.
        returns: what it returns.
        definer: it has its owner's rights, and only those call it who were given that right.
        pinned: it looks for names in the registry's schema first, and in what a session made for itself last.
    """

    body: str
    parameters: str = ""
    types: str = ""
    returns: str = "trigger"
    definer: bool = False
    pinned: bool = False


FUNCTIONS: Mapping[str, Function] = {
    "refuse_event_change": Function(_REFUSE),
    "refuse_forged_event": Function(_REFUSE_FORGED, pinned=True),
    "move_alias": Function(
        _MOVE,
        parameters="of_task integer, called text, holder integer, why text, who text, emergency boolean, moment timestamptz",
        types="integer, text, integer, text, text, boolean, timestamp with time zone",
        returns="integer",
        definer=True,
        pinned=True,
    ),
}
"""By name; who alters tables has to own them, too."""


def signature(name: str) -> str:
    """Return a function as statements name it: with the types of its parameters."""
    return f"{name}({FUNCTIONS[name].types})"


def statement(name: str, schema: str) -> str:
    """Return the statement that makes a function, or makes it anew.

    Args:
        name: of the function.
        schema: that holds the tables, quoted where it has to be: a function with its owner's rights looks nowhere else.
    """
    made = FUNCTIONS[name]
    rights = "SECURITY DEFINER " if made.definer else ""
    rights += f"SET search_path = {schema}, pg_temp " if made.pinned else ""
    return (
        f"CREATE OR REPLACE FUNCTION {name}({made.parameters}) RETURNS {made.returns} LANGUAGE plpgsql "
        f"{rights}AS $body${made.body}$body$"
    )
