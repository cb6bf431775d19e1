"""Which names stand where only a table can stand, and how often: the wall's last look at its SQL.

The reader follows FROM lists, joins, parentheses and the targets of writes. A statement it does not
know, and all that stands behind a place where databases could read differently, counts in full.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from .tokens import (
    EXPONENT,
    LEADING_NUMBER,
    LONG,
    PLAIN_WORD,
    QUOTED,
    SEPARATOR,
    TOKENS,
    WORD,
    spellings,
)


def tables_in(sql: str, *, hash_comments: bool = True) -> Counter[str]:
    """How often each name, case-folded, stands in table position. Of a dotted name, the last part.

    Without `hash_comments`, `#` is an operator, as in PostgreSQL's `#>>`.
    """
    read = _known if len(sql) <= LONG else _tables_in
    return read(sql, hash_comments).copy()


_STATEMENTS = {"select", "with", "insert", "update", "delete", "replace", "merge", "values"}
_STATEMENTS |= {"table", "explain", "(", ";"}
_SET_OPERATORS = {"union", "intersect", "except", "all", "distinct"}
SELECT_MODIFIERS = {"straight_join", "all", "distinct", "distinctrow", "high_priority"}
SELECT_MODIFIERS |= {"sql_small_result", "sql_big_result", "sql_buffer_result"}
SELECT_MODIFIERS |= {"sql_cache", "sql_no_cache", "sql_calc_found_rows"}
# Can stand between such a word and the table; each could also be a table's name.
_TRANSPARENT = {"only", "lateral", "ignore", "low_priority", "high_priority", "delayed", "quick"}
_TRANSPARENT |= {"or", "replace", "abort", "fail", "rollback", "local", "global"}
_TRANSPARENT |= {"temp", "temporary", "unlogged"}
_NO_STATEMENT_AFTER = {"on", "do", "then", "for", "key", "or", "before", "after", "of"}
_ITEM_BEGINS = {"from", "join", "(", ","}
_LISTS = {"from", "join", "table", "update"}
_VERBS = {"update", "delete", "merge", "insert", "replace"}
_AFTER_AS = {"select", "table", "from"}
# U&"\006f", with any escape character.
_ESCAPED = re.compile(r"""[^0-9a-f+'"\s](?:\+([0-9a-f]{6})|([0-9a-f]{4}))""", re.IGNORECASE)


_NOTHING: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Level:
    """What is between two parentheses. `began` is the word that opened its latest list."""

    sign: str = ""
    call: str = ""
    verb: str = ""
    listing: bool = False
    began: str = ""
    joined: bool = False


@dataclass(slots=True)
class _Reader:
    """`last`: three tokens. `awaits`: the word whose table comes. `item`: a table, as yet undotted."""

    counts: Counter[str] = field(default_factory=Counter)
    level: _Level = field(default_factory=_Level)
    outer: list[_Level] = field(default_factory=list)
    last: tuple[str, str, str] = ("", "", "")
    awaits: str = ""
    item: frozenset[str] = _NOTHING
    named: frozenset[str] = _NOTHING
    lost: bool = False

    def read(self, sql: str, hash_comments: bool, start: int = 0, end: int | None = None) -> int:
        """Where the track was lost, or the end."""
        inner = end is not None
        stop = len(sql) if end is None else end
        for match in TOKENS[hash_comments].finditer(sql, start, stop):
            kind, text = match.lastgroup, match[0]
            if kind == "word":
                self._word(text)
            elif kind == "sign" or (inner and text == "["):
                self._sign(text)
            elif kind in ("string", "name"):
                self._quoted(text)
            elif kind == "parameter":
                self._sign(":")
            elif kind == "bracket" and not inner:
                self._bracket(sql, hash_comments, match.start(), match.end())
            elif kind != "comment" or (inner and text[0] == "-"):
                self.lost = True

            if self.lost:
                return match.start()

        return stop

    def _word(self, text: str) -> None:
        word, before = text.casefold(), self.last[0]
        numbered = word[0] in "$0123456789"
        if numbered:
            word = LEADING_NUMBER.sub("", word, 1) or "1"

        if before == "." and not numbered:
            if self.last[1] != "1":
                self._named(text)
                self._shift("~")
                return

            word = EXPONENT.sub("", word) or "1"

        if not (text.isascii() or PLAIN_WORD.fullmatch(text)) or self._begins_unknown(word):
            self.lost = True
        elif word in _KEYWORDS and (before != "as" or word in _AFTER_AS):
            if self._separates(word):
                word = "~"
            elif not _KEYWORDS[word](self, word):
                self._named(text, word)
        elif self.awaits or before == ".":
            self._named(text, word)

        self._shift(word)

    def _shift(self, token: str) -> None:
        self.last = (token, self.last[0], self.last[1])
        if token != ".":
            self.item, self.named = self.named, _NOTHING

    def _begins_unknown(self, token: str) -> bool:
        return not self.last[0] and token not in _STATEMENTS

    def _separates(self, word: str) -> bool:
        if SEPARATOR.get(self.level.call) == word and not self.level.verb:
            return True

        before, second, third = self.last
        return (
            word == "from"
            and before == "distinct"
            and (second == "is" or (second == "not" and third == "is"))
        )

    def _named(self, *names: str) -> None:
        """A name; if a table is awaited, it is one, and so is what follows it after a dot."""
        if self.last[0] == "." and self.item:
            self.counts.subtract(self.item)
        elif not self.awaits:
            return

        self.named = _NOTHING.union(*map(spellings, names))
        self.counts.update(self.named)
        if self.awaits and names[-1] not in _TRANSPARENT:
            self._begun()

    def _begun(self) -> None:
        awaits, level = self.awaits, self.level
        if awaits in _VERBS and level.verb in ("", "with"):
            level.verb = awaits

        if awaits in ("update", "delete"):
            level.listing, level.began = True, awaits

        self.awaits = ""

    def _quoted(self, text: str) -> None:
        self.lost = self._begins_unknown(text)
        if text[0] in "uU":
            text = text[2:]
            self._named(text[1:-1], _ESCAPED.sub(_unescaped, text[1:-1]))
        else:
            self._named(text[1:-1].replace(text[0] * 2, text[0]))

        self._shift('"')

    def _bracket(self, sql: str, hash_comments: bool, start: int, end: int) -> None:
        """A name in SQLite, a subscript or ARRAY[...] in PostgreSQL."""
        if self.awaits or (self.last[0] == "." and self.item):
            self._named(sql[start + 1 : end - 1])
            self._shift('"')
            return

        if self.last[0] == "__" and self.item:
            # A schema that SQLAlchemy puts in later: __[SCHEMA_x].orders
            self.named = self.item
            self._shift('"')
            return

        self._sign("[")
        self.read(sql, hash_comments, start + 1, end - 1)
        if not self.lost:
            self._sign("]")

    def _sign(self, sign: str) -> None:
        if self._begins_unknown(sign):
            self.lost = True
        elif sign in "([":
            self._open(sign)
        elif sign in ")]":
            self._close(sign)
        elif sign == ",":
            self._comma()
        elif sign == ";":
            self.lost = bool(self.outer)
            self.level, self.awaits = _Level(), ""
        elif sign == "{":
            self.lost = bool(self.awaits)
        elif sign != "." and self.awaits not in ("from", "join"):
            self.awaits = ""

        self._shift("" if sign == ";" else sign)

    def _open(self, sign: str) -> None:
        level = self.level
        call, second, _ = self.last
        if call == "values" and (second == "(" or second in _SET_OPERATORS):
            # Rows, not the table that it seemed to be.
            self.counts.subtract(self.item)
            level.listing, self.awaits = False, ""

        joined_using = self.awaits == "using" and (
            level.joined or level.verb not in ("delete", "merge")
        )
        lists = sign == "(" and (
            self.awaits in _LISTS or (self.awaits == "using" and not joined_using)
        )
        if self.awaits == "update":
            level.listing, level.began = True, "update"

        self.outer.append(level)
        self.level = _Level(sign, call, listing=lists, began="from" if lists else "")
        self.awaits = "from" if lists else ""

    def _close(self, sign: str) -> None:
        if not self.outer or self.level.sign + sign not in ("()", "[]"):
            self.lost = True
        else:
            self.level, self.awaits = self.outer.pop(), ""

    def _comma(self) -> None:
        level = self.level
        if self.awaits not in ("", "from", "join"):
            self.awaits = ""
        elif self.last[0] in ("returning", "with") and level.began:
            level.listing = True
        elif level.verb == "with" and self.last[0] != ")":
            self.lost = True

        if level.listing:
            self.awaits = "from"

    # What follows a keyword; False if the word is only a name here.

    def _select(self, word: str) -> bool:
        level = self.level
        level.verb, level.listing, level.began, level.joined = "select", False, "", False
        self.awaits = ""
        return True

    def _from(self, word: str) -> bool:
        level = self.level
        if self.awaits == "delete" and level.verb in ("", "with"):
            level.verb = "delete"

        level.listing, level.began, level.joined = True, "from", False
        self.awaits = "from"
        return True

    def _join(self, word: str) -> bool:
        before, level = self.last[0], self.level
        if word == "apply" and before not in ("cross", "outer"):
            return False

        if before == "for" or (word == "straight_join" and before in {"select", *SELECT_MODIFIERS}):
            return True

        level.began = (level.listing and level.began) or "from"
        level.listing = level.joined = True
        self.awaits = "join"
        return True

    def _single(self, word: str) -> bool:
        """INTO, IN, TABLE: one table."""
        if word == "into":
            word = "merge" if self.last[0] == "merge" else "insert"

        self.awaits = word
        return True

    def _using(self, word: str) -> bool:
        level = self.level
        self._name_before()
        self.awaits = word
        if level.verb in ("delete", "merge") and not level.joined:
            level.listing, level.began = True, "from"

        return True

    def _verb(self, word: str) -> bool:
        before, second, _ = self.last
        if word == "update" and (before == "for" or (before, second) == ("key", "duplicate")):
            self.level.listing = False
            return True

        if self.awaits or before in _NO_STATEMENT_AFTER or self.level.verb not in ("", "with"):
            return False

        self.awaits = word
        return True

    def _set(self, word: str) -> bool:
        if self.awaits or not (self.level.began == "update" or self.last[0] == "update"):
            return False

        self.level.listing = False
        return True

    def _end(self, word: str) -> bool:
        before = self.last[0]
        if before == "for" or (word == "group" and before == "within"):
            return True

        self.level.listing, self.awaits = False, ""
        return True

    def _lock(self, word: str) -> bool:
        """FOR NO KEY UPDATE, FOR SHARE."""
        if self.last[0] == "for":
            self.level.listing = False

        return False

    def _returning(self, word: str) -> bool:
        if self.awaits:
            return False

        self.level.listing = False
        return True

    def _name_before(self, word: str = "") -> bool:
        """RETURNING was an alias if a join or an index hint goes on behind it."""
        if self.last[0] == "returning" and self.level.began:
            self.level.listing = True

        return False

    def _with(self, word: str) -> bool:
        if not self.awaits or self.last[0] != "(":
            return False

        self.level.verb, self.level.listing, self.awaits = "with", False, ""
        return True

    def _as(self, word: str) -> bool:
        _, second, third = self.last
        if second == "window" and third not in _ITEM_BEGINS:
            self.level.listing = False

        self.awaits = ""
        return True


_KEYWORDS: dict[str, Callable[[_Reader, str], bool]] = {
    "select": _Reader._select,
    "from": _Reader._from,
    **dict.fromkeys(("join", "straight_join", "apply"), _Reader._join),
    **dict.fromkeys(("into", "in", "table"), _Reader._single),
    "using": _Reader._using,
    **dict.fromkeys(("insert", "replace", "update", "delete"), _Reader._verb),
    "set": _Reader._set,
    **dict.fromkeys(("where", "group", "order", "having", "limit"), _Reader._end),
    **dict.fromkeys(("no", "key", "share"), _Reader._lock),
    "returning": _Reader._returning,
    **dict.fromkeys(("use", "force", "ignore", "on"), _Reader._name_before),
    "with": _Reader._with,
    "as": _Reader._as,
}


def _tables_in(sql: str, hash_comments: bool) -> Counter[str]:
    reader = _Reader()
    end = reader.read(sql, hash_comments)
    if reader.outer and not reader.lost:
        end = 0

    return +(reader.counts + _every_word(sql[end:]))


_known = functools.lru_cache(maxsize=2048)(_tables_in)


def _every_word(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for words in (WORD.findall(text), PLAIN_WORD.findall(text), QUOTED.findall(text)):
        read: Counter[str] = Counter()
        for word in words:
            stripped = LEADING_NUMBER.sub("", word.strip("$"), 1)
            read.update(spellings(word) | spellings(stripped))

        found |= read

    return found


def _unescaped(match: re.Match[str]) -> str:
    code = int(match[1] or match[2], 16)
    return chr(code) if code <= 0x10FFFF else ""
