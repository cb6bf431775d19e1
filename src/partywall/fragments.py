"""What a fragment of SQL could do to the statement that it stands in.

As everywhere with text, the reading that does more counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy.sql.elements import ColumnClause, TextClause

from .positions import SELECT_MODIFIERS
from .tokens import PLAIN_WORD, TOKENS, spellings


def texts_of(element: Any) -> list[str]:
    """What an element of a statement writes as it is: a text, a literal column, a template."""
    if isinstance(element, TextClause):
        return [element.text]

    if isinstance(element, ColumnClause):
        return [element.name] if element.is_literal else []

    # SQLAlchemy 2.1; what stands in its braces are elements of their own.
    parts = element.parts if element.__visit_name__ == "tstring" else ()
    return [part.text for part in parts if part.__visit_name__ == "tstring_text"]


def adds_rows(sql: str) -> bool:
    """Whether a text outside of parentheses could add the rows of another SELECT."""
    if not _SET_OPERATOR.search(sql):
        return False

    return any(
        kind in ("body", "doubt") or (depth <= 0 and _SET_OPERATOR.fullmatch(text))
        for depth, kind, text, _ in _nested(sql, hash_comments=False)
    )


def selects_again(sql: str, *, hash_comments: bool) -> bool:
    """Whether another SELECT follows one outside of parentheses, and takes its WHERE."""
    if sql.casefold().count("select") < 2:
        return False

    selects = 0
    for depth, kind, text, place in _nested(sql, hash_comments):
        if kind in _UNCERTAIN:
            return _SET_OPERATOR.search(sql, place) is not None

        selects += depth <= 0 and _SELECT.fullmatch(text) is not None
        if selects > 1:
            return True

    return False


def goes_on(sql: str, *, rows: bool = False, hash_comments: bool) -> bool:
    """Whether what stands behind a criterion, or behind rows, could belong to it still."""
    first = next(_nested(sql, hash_comments), None)
    return first is not None and first[2].casefold() not in (_BEHIND_ROWS if rows else _CLAUSES)


def lists_more(sql: str, *, hash_comments: bool) -> bool:
    """Whether a text, where a list may stand, could be more than one item of it."""
    open_ = 0
    for depth, kind, text, _ in _nested(sql, hash_comments):
        if kind in _UNCERTAIN or depth < 0 or (depth == 0 and text == ","):
            return True

        open_ = depth + (text == "(")

    return open_ != 0


def upserts(sql: str, *, hash_comments: bool) -> int:
    """How often an INSERT says what is done with rows that are there already, or might."""
    if not _CLASH.search(sql):
        return 0

    found, before = 0, ""
    for depth, kind, text, place in _nested(sql, hash_comments):
        if kind == "doubt":
            return found + len(_CLASH.findall(sql, place))

        if kind in _UNCERTAIN:
            found += len(_CLASH.findall(text))
        elif depth <= 0 and _CLASH.fullmatch(text):
            # 1ON CONFLICT
            found += before.endswith("on")

        before = text.casefold()

    return found


def ctes_in(sql: str, *, hash_comments: bool) -> set[str]:
    """The case-folded names that a statement gives to CTEs; every word of it, if that cannot be told."""
    tokens = list(_nested(sql, hash_comments))
    texts = [text.casefold() for _, _, text, _ in tokens]
    names: set[str] = set()
    for place, (_, kind, text, _) in enumerate(tokens):
        if kind in _UNCERTAIN or (kind == "name" and text[0] in "uU"):
            return set(PLAIN_WORD.findall(sql.casefold()))

        if texts[place] == "as" and _BODY.match(" ".join(texts[place + 1 : place + 4])):
            before = place - 1
            if texts[before] == ")":
                # x (a, b) AS (
                depth = tokens[before][0]
                while before > 0 and (texts[before] != "(" or tokens[before][0] != depth):
                    before -= 1

                before -= 1

            names |= spellings(texts[before].strip('"`[]'))

    return names


def only_modifies(prefix: str) -> bool:
    """Whether what stands before the columns of a SELECT leaves them as they are."""
    words = _COMMENT.sub(" ", prefix).casefold().split()
    return SELECT_MODIFIERS.issuperset(words)


_SET_OPERATOR = re.compile(r"\b(?:union|except|intersect|minus)\b", re.IGNORECASE)
_SELECT = re.compile(r"\bselect\b", re.IGNORECASE)
_CLAUSES = {"where", "group", "having", "window", "order", "limit", "offset", "fetch", "for"}
_CLAUSES |= {"lock", "into", "union", "intersect", "except", "with", "returning"}
# What may follow an ON clause, a subquery, and the SELECT of an INSERT.
_CLAUSES |= {")", ",", "set", "on", "as", "join", "left", "right", "full", "inner", "cross"}
_CLAUSES |= {"natural", "straight_join"}
_BEHIND_ROWS = {")", "returning"}
_UNCERTAIN = {"body", "doubt", "line"}
_BODY = re.compile(r"(?:not )?(?:materialized )?\(")
_CLASH = re.compile(r"\b(?:conflict|duplicate)\b", re.IGNORECASE)
_COMMENT = re.compile(r"/\*(?!M?!)(?:[^*]|\*(?!/))*\*/")


def _nested(sql: str, hash_comments: bool) -> Iterator[tuple[int, str, str, int]]:
    """Each token but comments, its place, and how many parentheses it stands in."""
    depth = 0
    for match in TOKENS[hash_comments].finditer(sql):
        kind, text = str(match.lastgroup), match[0]
        if kind != "comment":
            depth -= text == ")"
            yield depth, kind, text, match.start()
            depth += text == "("
