"""From an expression to its tree: precedence climbing, `not` before `and` before `or`."""

from __future__ import annotations

from collections.abc import Callable

from ...records.evaluations import METRIC
from .fields import FIELDS, TAG, Field, field_named
from .problem import WhereError, nearest
from .tokens import Token, tokenize
from .tree import WORDS, And, In, IsNull, Node, Not, Or, Test, Value
from .values import read_value

DEPTH = 50
"""Parentheses and `not` within each other."""

TESTS = 200
"""Tests in an expression, the values of an `in` counted one by one."""

_NEGATED = {"!=": "=", "!~": "~"}
_OPERATORS = frozenset({"=", "==", "!=", "<", "<=", ">", ">=", "~", "!~"})


def parse(expression: str) -> Node:
    """Return the tree of an expression.

    Raises:
        WhereError: it is not one; says where, and what was expected.
    """
    return _Parser(expression).whole()


class _Parser:
    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = tokenize(expression)
        self._place = 0
        self._tests = 0

    def whole(self) -> Node:
        node = self._disjunction(0)
        if self._token.kind != "end":
            raise self._problem("expected 'and', 'or' or the end")
        return node

    @property
    def _token(self) -> Token:
        return self._tokens[self._place]

    def _take(self) -> Token:
        token = self._token
        self._place += token.kind != "end"
        return token

    def _word(self, *words: str) -> bool:
        """Take a word or a sign if it is there."""
        token = self._token
        found = token.kind in ("word", "sign") and token.text.lower() in words
        if found:
            self._take()
        return found

    def _problem(self, message: str, token: Token | None = None, hint: str | None = None) -> WhereError:
        at = token or self._token
        return WhereError(message, self._expression, at.start, hint=hint)

    def _disjunction(self, depth: int) -> Node:
        nodes = self._chain("or", lambda: self._conjunction(depth))
        return nodes[0] if len(nodes) == 1 else Or(tuple(nodes))

    def _conjunction(self, depth: int) -> Node:
        nodes = self._chain("and", lambda: self._negation(depth))
        return nodes[0] if len(nodes) == 1 else And(tuple(nodes))

    def _chain(self, word: str, operand: Callable[[], Node]) -> list[Node]:
        nodes = [operand()]
        while self._word(word):
            nodes.append(operand())
        return nodes

    def _negation(self, depth: int) -> Node:
        if depth > DEPTH:
            raise self._problem(f"more than {DEPTH} parentheses and 'not' are within each other")
        if self._word("not"):
            return Not(self._negation(depth + 1))
        if self._token.text == "(" and self._token.kind == "sign":
            opened = self._take()
            node = self._disjunction(depth + 1)
            if not self._word(")"):
                raise self._problem("this parenthesis is not closed", opened)
            return node
        return self._test()

    def _test(self) -> Node:
        token = self._take()
        if token.kind not in ("word", "text") or (token.kind == "word" and token.text.lower() in WORDS):
            raise self._problem("expected the name of a field", token, hint=_field_hint())
        field = self._field(token)
        self._count(token)
        negated = self._word("not")
        if self._word("in"):
            node: Node = In(token.text, self._values(field))
            return Not(node) if negated else node
        if negated:
            raise self._problem("expected 'in' after 'not'")
        if self._word("is"):
            return self._is_null(token.text)
        operator = self._token
        if operator.kind != "sign" or operator.text not in _OPERATORS:
            if field.kind == "flag":
                return Test(token.text, "=", True)
            raise self._problem(
                f"expected a comparison of {token.text}", hint=f"for example: {field.example(token.text)}"
            )
        self._take()
        op = _NEGATED.get(operator.text, "=" if operator.text == "==" else operator.text)
        if op not in field.operators:
            raise self._problem(
                f"{token.text} cannot be compared with {op!r}", operator, hint=_operators(field, token.text)
            )
        node = Test(token.text, op, self._value(field, part=op == "~"))
        return Not(node) if operator.text in _NEGATED else node

    def _field(self, token: Token) -> Field:
        field = field_named(token.text) if token.kind == "word" else None
        if field is None:
            hint = nearest(token.text, [*FIELDS, f"{TAG}KEY", f"{METRIC}NAME"]) or _field_hint()
            raise self._problem(f"there is no field {token.text[:60]!r}", token, hint=hint)
        return field

    def _is_null(self, name: str) -> Node:
        negated = self._word("not")
        if not self._word("null"):
            raise self._problem("expected 'null' or 'not null' after 'is'")
        return Not(IsNull(name)) if negated else IsNull(name)

    def _values(self, field: Field) -> tuple[Value, ...]:
        if not self._word("("):
            raise self._problem("expected '(' after 'in'")
        values = [self._value(field)]
        while self._word(","):
            self._count(self._token)
            values.append(self._value(field))
        if not self._word(")"):
            raise self._problem("expected ',' or ')'")
        return tuple(values)

    def _value(self, field: Field, *, part: bool = False) -> Value:
        token = self._take()
        return read_value(field, token, self._expression, part=part)

    def _count(self, token: Token) -> None:
        self._tests += 1
        if self._tests > TESTS:
            raise self._problem(f"the expression has more than {TESTS} tests", token)


def _field_hint() -> str:
    return f"fields: {', '.join(FIELDS)}, {TAG}KEY, {METRIC}NAME"


def _operators(field: Field, name: str) -> str:
    return f"{name} takes {' '.join(sorted(field.operators))}, 'in' and 'is null'"
