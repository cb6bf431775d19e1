"""Whether a text is one statement that defines the schema: views and programs with their bodies."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .tokens import HIDES, TOKENS


def is_ddl(sql: str, hash_comments: bool) -> bool:
    """For text that begins with CREATE, ALTER, DROP and their like."""
    tokens = list(_tokens(sql, hash_comments))
    statement = " ".join(["", *tokens, ""])
    program = _PROGRAM.match(statement)
    if tokens.count("(") != tokens.count(")") or _LOST in tokens:
        return False

    if _behind_first(tokens, bool(program)):
        return False

    return bool(program or _GRANTS.match(statement)) or not _COPIES.search(statement)


_LOST = "?"
_GRANTS = re.compile(r" (?:grant|revoke|comment) ")
# What is stored as a text of its own and reads nothing now. A materialized view is a copy.
_PROGRAM = re.compile(
    r" (?:create|alter) (?:(?!table |materialized |schema |index |database )[^( ]+ )*?"
    r"(?:view|trigger|function|procedure|package|rule|event|policy) "
)
_COPIES = re.compile(
    r" (?:select|execute|union|with data|materialized view) | as (?:\( )*(?:values|with) "
    r"| create (?:.* )?table (?:.* )?(?<!new )(?<!old )(?<!for )table "
)
_NO_BLOCK_ENDS = {"if", "loop", "while", "repeat", "for"}


def _tokens(sql: str, hash_comments: bool) -> Iterator[str]:
    """Words and signs. A string or a dollar body is ', a quoted name "."""
    for match in TOKENS[hash_comments].finditer(sql):
        kind, text = match.lastgroup, match[0]
        if kind in ("word", "sign"):
            yield text.casefold()
        elif kind in ("string", "name", "bracket", "parameter"):
            yield '"' if kind == "name" else "'"
        elif kind == "body" and text[0] == "$":
            yield "'"
        elif kind in HIDES:
            # Code to MySQL.
            hides = ";" in text or HIDES[kind].search(text, 2)
            yield from [_LOST] if hides else re.findall(r"\w+|[()]", text.casefold())
        elif kind != "comment":
            yield _LOST


def _behind_first(tokens: list[str], program: bool) -> bool:
    """Whether anything stands behind the semicolon that ends the first statement."""
    depth = 0
    for place, token in enumerate(tokens):
        following = tokens[place + 1 : place + 2]
        if token == ";" and depth == 0:
            return any(other != ";" for other in tokens[place:])

        if program and token in ("begin", "case") and tokens[place - 1] != "end":
            depth += 1
        elif program and token == "end" and following not in ([word] for word in _NO_BLOCK_ENDS):
            depth -= 1

    return depth != 0
