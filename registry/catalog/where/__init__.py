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

Two hundred lines of our own rather than a parser generator: the language is this small, and what takes the lines is
what no generator brings, messages that point at the place and name the nearest field.
"""

from .fields import FIELDS
from .parse import parse
from .problem import WhereError
from .select import condition
from .tree import And, In, IsNull, Node, Not, Or, Test

__all__ = ["FIELDS", "And", "In", "IsNull", "Node", "Not", "Or", "Test", "WhereError", "condition", "parse"]
