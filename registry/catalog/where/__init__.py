"""Expressions that choose adapters: `val_loss < 1 and (rank >= 8 or tag.team = "search")`.

    expression := conjunction {"or" conjunction}
    conjunction := negation {"and" negation}
    negation   := "not" negation | "(" expression ")" | test
    test       := FIELD ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~") VALUE
                | FIELD ["not"] "in" "(" VALUE {"," VALUE} ")"
                | FIELD "is" ["not"] "null"
                | FIELD                                            of a field that is true or false

The logic has two values.  A test of a field without a value is false; `not` negates, and `!=`, `!~` and `not in` are
short for it.  So every adapter matches exactly one of X and not X.
"""

from ...errors import WhereError
from .fields import FIELDS, And, In, IsNull, Node, Not, Or, Test, condition
from .parse import parse

__all__ = ["FIELDS", "And", "In", "IsNull", "Node", "Not", "Or", "Test", "WhereError", "condition", "parse"]
